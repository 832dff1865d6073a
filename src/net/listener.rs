//! Listeners of one address, one for each core (SO_REUSEPORT).
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};

use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, bind, listen, shutdown, sockopt};

use crate::net::socket::Socket;
use crate::net::tcp::{Tcp, set_options, socket, waited};

/// Connections that may wait to be accepted, of each core; the kernel caps it at somaxconn.
pub const BACKLOG: i32 = 4096;

/// Binds `count` listeners to `addr`; port 0 is chosen once for all.
///
/// # Errors
/// The port is in use, also by somebody who would share it.
pub fn bind_all(addr: SocketAddr, count: usize) -> io::Result<Vec<StdTcpListener>> {
    // Without SO_REUSEPORT an address that somebody listens on is refused.
    drop(bind_one(addr, false)?);
    let first = bind_one(addr, true)?;
    let addr = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(bind_one(addr, true)?);
    }
    Ok(listeners)
}

fn bind_one(addr: SocketAddr, share: bool) -> io::Result<StdTcpListener> {
    let socket = socket(addr)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, share)?;
    set_options(&socket, None)?;
    bind(&socket, &addr).map_err(refused)?;
    if share {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket.into())
}

/// Why an address cannot be had, for who has chosen it.
fn refused(error: Errno) -> io::Error {
    let why = match error {
        Errno::ADDRNOTAVAIL => "no interface of this machine has this address",
        Errno::ACCESS => {
            "ports below net.ipv4.ip_unprivileged_port_start, mostly 1024, take CAP_NET_BIND_SERVICE: \
             choose another"
        }
        error => return error.into(),
    };
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{error}: {why}"))
}

/// A listener on its core.
pub struct Listener(Socket);

impl Listener {
    /// Takes over a listener of [`bind_all`].
    pub fn new(listener: StdTcpListener) -> io::Result<Self> {
        Socket::new(listener.into()).map(Self)
    }

    /// Waits until there is a connection to accept.
    pub async fn readable(&self) -> io::Result<()> {
        waited(|| self.0.readable()).await
    }

    /// Refuses connections from now on. Dropping the listener would do so only when the ring is next
    /// entered, which may be never.
    pub fn close(self) {
        let _ = shutdown(&self.0, Shutdown::Both);
    }

    /// Accepts a connection that is there. `None`: none is.
    ///
    /// Not an operation of the ring: one that is dropped after it has accepted would leak its
    /// connection.
    pub fn try_accept(&self) -> io::Result<Option<Tcp>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match accept_with(&self.0, flags) {
            Ok(socket) => Tcp::new(socket).map(Some),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
