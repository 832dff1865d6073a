//! Listeners of one address, one for each core (SO_REUSEPORT).
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use monoio::net::TcpListener;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept_with, bind, listen, socket_with, sockopt,
};

use crate::net::tcp::{Tcp, set_options};

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
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, share)?;
    set_options(&socket, None)?;
    bind(&socket, &addr)?;
    if share {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket.into())
}

/// A listener on its core.
pub struct Listener(TcpListener);

impl Listener {
    /// Takes over a listener of [`bind_all`].
    pub fn new(listener: StdTcpListener) -> io::Result<Self> {
        TcpListener::from_std(listener).map(Self)
    }

    /// Waits until there is a connection to accept.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable(false).await
    }

    /// Refuses connections from now on. Dropping the listener would do so only when the ring is next
    /// entered, which may be never.
    pub fn close(self) {
        let _ = rustix::net::shutdown(self.as_fd(), rustix::net::Shutdown::Both);
    }

    /// Accepts a connection that is there. `None`: none is.
    ///
    /// Not an operation of the ring: one that is dropped after it has accepted would leak its
    /// connection.
    pub fn try_accept(&self) -> io::Result<Option<Tcp>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match accept_with(self.as_fd(), flags) {
            Ok(socket) => Tcp::accepted(socket).map(Some),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Listener {
    #[allow(unsafe_code, reason = "monoio's listener implements AsRawFd only")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the listener, which `self` owns.
        unsafe { BorrowedFd::borrow_raw(self.0.as_raw_fd()) }
    }
}
