//! The origin: serves bodies and events of any shape, and misbehaves as the request-target asks.
//!
//! Its good side is an implementation of its own: heads are decoded by monoio-http, TLS is
//! monoio-rustls. What a target means stands in [`target`].
mod answer;
mod connection;
mod fault;
mod ledger;
mod request;
mod target;
#[cfg(test)]
mod tests;
mod tls;

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use monoio::net::{ListenerOpts, TcpListener, TcpStream};
use monoio::time::{TimeDriver, sleep};
use monoio::{FusionRuntime, IoUringDriver, LegacyDriver, RuntimeBuilder};
use monoio_rustls::TlsAcceptor;
use nix::fcntl::{FcntlArg::F_SETFD, FdFlag, fcntl};
use rustix::thread::{CpuSet, sched_setaffinity};

pub use fault::{plan_answer, plan_first};
pub use ledger::{Arrival, EMPTY, Ledger, hash};
pub use tls::server_config;

use crate::ring;
use connection::Connection;

/// Connections that may wait to be accepted; the kernel caps it at somaxconn.
const BACKLOG: i32 = 4096;
/// Want of descriptors does not pass by trying again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// An origin that runs.
pub struct Origin {
    pub addr: SocketAddr,
    pub ledger: Arc<Ledger>,
}

/// Starts a thread with a runtime, pinned to `core`; `listen` may have port 0. Runs until the
/// process ends.
pub fn start(
    listen: SocketAddr,
    core: Option<usize>,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> io::Result<Origin> {
    let ledger = Arc::new(Ledger::default());
    let (started, starts) = mpsc::channel();
    let shared = ledger.clone();
    let thread = thread::Builder::new().name("origin".to_owned());
    thread.spawn(move || {
        let listens = |addr| drop(started.send(Ok(addr)));
        let Err(error) = pin(core).and_then(|()| run(listen, tls, shared, listens));
        drop(started.send(Err(error)));
    })?;
    let addr = starts.recv().map_err(io::Error::other)??;
    Ok(Origin { addr, ledger })
}

/// Runs an origin on this thread until the process ends. Says where it listens, and with TLS in
/// which file its CA is.
pub fn serve(listen: SocketAddr, core: Option<usize>, tls: bool) -> io::Result<Infallible> {
    let ca_file = std::env::temp_dir().join(format!("bench-ca-{}.pem", std::process::id()));
    let config = tls.then(|| server_config(&ca_file)).transpose()?;
    pin(core)?;
    run(listen, config, Arc::default(), |addr| match tls {
        true => println!("https://{addr}\nCA: {}", ca_file.display()),
        false => println!("http://{addr}"),
    })
}

fn pin(core: Option<usize>) -> io::Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// What the connections of an origin share.
struct Shared {
    ledger: Arc<Ledger>,
    streams: Cell<u32>,
    speaks_tls: bool,
}

impl Shared {
    /// When in its interval a stream's events are sent, as a share of it. By the golden ratio, any
    /// number of streams opened in a row is spread evenly: events do not come in bunches.
    fn next_phase(&self) -> f64 {
        let stream = self.streams.get();
        self.streams.set(stream.wrapping_add(1));
        (f64::from(stream) * 0.618_033_988_749_895).fract()
    }
}

fn run(
    listen: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    ledger: Arc<Ledger>,
    listens: impl FnOnce(SocketAddr),
) -> io::Result<Infallible> {
    let streams = Cell::new(0);
    let shared = Rc::new(Shared {
        ledger,
        streams,
        speaks_tls: tls.is_some(),
    });
    let tls = tls.map(TlsAcceptor::from);
    runtime()?.block_on(async {
        let options = ListenerOpts::new().reuse_port(false).backlog(BACKLOG);
        let listener = TcpListener::bind_with_config(listen, &options)?;
        listens(listener.local_addr()?);
        loop {
            match listener.accept().await {
                Ok((tcp, _)) => {
                    // Both fail only where the connection is gone already.
                    let _ = tcp.set_nodelay(true);
                    // monoio leaves it to be inherited by what the harness starts meanwhile.
                    let _ = fcntl(tcp.as_raw_fd(), F_SETFD(FdFlag::FD_CLOEXEC));
                    monoio::spawn(connection(tcp, tls.clone(), shared.clone()));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    })
}

async fn connection(tcp: TcpStream, tls: Option<TlsAcceptor>, shared: Rc<Shared>) {
    let socket = tcp.as_raw_fd();
    let Some(acceptor) = tls else {
        return Connection::new(tcp, socket, shared).serve().await;
    };
    // A handshake that fails has told the client why.
    if let Ok(stream) = acceptor.accept(tcp).await {
        Connection::new(stream, socket, shared).serve().await;
    }
}

/// On io_uring with the flags that cost least, on epoll where the kernel does not allow that.
fn runtime() -> io::Result<FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>> {
    if monoio::utils::detect_uring()
        && let Ok(runtime) = ring::runtime()
    {
        return Ok(runtime.into());
    }
    let builder = RuntimeBuilder::<LegacyDriver>::new();
    Ok(builder.enable_timer().build()?.into())
}
