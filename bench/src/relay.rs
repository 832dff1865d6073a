//! The floor: raw bytes both ways without HTTP, as cheap as a relay on this runtime can be.
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use monoio::io::{AsyncReadRent, AsyncWriteRentExt, Splitable};
use monoio::net::{ListenerOpts, TcpListener, TcpStream};

use crate::ring;

const BUFFER_BYTES: usize = 16 << 10;
const BACKLOG: i32 = 4096;
/// After a failed accept, which mostly means that there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Relays connections to `listen` to `upstream`, one to one, until the process ends.
pub fn run(listen: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
    ring::runtime()?.block_on(async {
        let options = ListenerOpts::new().reuse_port(false).backlog(BACKLOG);
        serve(TcpListener::bind_with_config(listen, &options)?, upstream).await
    })
}

async fn serve(listener: TcpListener, upstream: SocketAddr) -> io::Result<()> {
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(monoio::spawn(relay(client, upstream))),
            Err(_) => monoio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Ends of either side are passed on; a failure is passed on as an end.
async fn relay(client: TcpStream, upstream: SocketAddr) {
    let Ok(upstream) = TcpStream::connect_addr(upstream).await else {
        return;
    };
    // Without it the connection works, only slower.
    let _ = (client.set_nodelay(true), upstream.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_upstream, to_upstream) = upstream.into_split();
    monoio::spawn(copy(from_client, to_upstream));
    copy(from_upstream, to_client).await;
}

/// Dropping the half written to sends FIN.
async fn copy(mut from: impl AsyncReadRent, mut to: impl AsyncWriteRentExt) {
    let mut buf = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (read, bytes) = from.read(buf).await;
        if !matches!(read, Ok(1..)) {
            return;
        }
        let (written, bytes) = to.write_all(bytes).await;
        if written.is_err() {
            return;
        }
        buf = bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{self, Shutdown};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn bytes_and_ends_pass_both_ways() {
        let echo = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = echo.local_addr().unwrap();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            ring::runtime().unwrap().block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                sender.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, upstream).await
            })
        });
        let mut client = net::TcpStream::connect(receiver.recv().unwrap()).unwrap();
        let (mut peer, _) = echo.accept().unwrap();
        let echo = thread::spawn(move || std::io::copy(&mut peer.try_clone().unwrap(), &mut peer));

        let sent: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        let mut sender = client.try_clone().unwrap();
        let mut received = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                sender.write_all(&sent).unwrap();
                sender.shutdown(Shutdown::Write).unwrap();
            });
            client.read_to_end(&mut received).unwrap();
        });
        assert!(received == sent);
        assert_eq!(echo.join().unwrap().unwrap(), 3_000_000);
    }
}
