//! Listeners of one address, one for each core: opened (SO_REUSEPORT) or inherited, and shut without
//! losing anybody who has begun to come.
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, bind, listen, sockopt};

use crate::net::inherited;
use crate::net::socket::Socket;
use crate::net::tcp::{Tcp, set_options, socket, waited};

/// Connections that may wait to be accepted, of each core; the kernel caps it at somaxconn.
pub const BACKLOG: i32 = 4096;

/// How often, and after how long, a place is looked at before it counts as taken: the kernel closes what a
/// ring watches up to some tens of milliseconds after the end of its process.
pub(super) const LOOKS: usize = 20;
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The listeners of one address, for the cores to take.
pub struct Listeners {
    /// One for each.
    pub all: Vec<StdTcpListener>,
    /// Whose they are.
    pub whose: Whose,
}

/// Whose listeners are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Ours alone.
    Ours,
    /// Ours, beside somebody else's on the same port.
    Beside,
    /// An activator's, who has handed them down and may hand them to others: they are not ours to shut.
    Inherited,
}

/// What an activator has handed down for `count` cores, or else `count` listeners on `addr`.
///
/// # Errors
/// As of [`bind_all`], or what was handed down is unusable.
pub fn open_all(addr: SocketAddr, count: usize, share: bool) -> io::Result<Listeners> {
    match inherited::listeners(count)? {
        Some(all) => Ok(Listeners {
            all,
            whose: Whose::Inherited,
        }),
        None => bind_all(addr, count, share),
    }
}

/// Binds `count` listeners to `addr`; port 0 is chosen once for all. `share`: also beside somebody who
/// would share it, which is else refused.
///
/// # Errors
/// The port is in use.
pub fn bind_all(addr: SocketAddr, count: usize, share: bool) -> io::Result<Listeners> {
    let looks = if share { 1 } else { LOOKS };
    let (first, whose) = match open_alone(addr, looks) {
        Err(error) if share && error.kind() == io::ErrorKind::AddrInUse => {
            (open(addr, true)?, Whose::Beside)
        }
        opened => (opened?, Whose::Ours),
    };
    let addr = first.local_addr()?;
    let mut all = vec![first];
    for _ in 1..count {
        all.push(open(addr, true)?);
    }
    Ok(Listeners { all, whose })
}

/// A listener where nobody listens, which is looked at so often.
#[allow(clippy::disallowed_methods, reason = "no core runs yet")]
fn open_alone(addr: SocketAddr, looks: usize) -> io::Result<StdTcpListener> {
    for _ in 1..looks {
        match open(addr, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => thread::sleep(LOOK_AGAIN),
            opened => return opened,
        }
    }
    open(addr, false)
}

/// A listener with SO_REUSEPORT. Where it is not to `join` others it begins to listen without, for only
/// so does the kernel refuse a port that somebody listens on, however many come at the same time.
fn open(addr: SocketAddr, join: bool) -> io::Result<StdTcpListener> {
    let socket = socket(addr)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, join)?;
    set_options(&socket, None)?;
    bind(&socket, &addr).map_err(refused)?;
    listen(&socket, BACKLOG)?;
    sockopt::set_socket_reuseport(&socket, true)?;
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
    /// Takes over one of [`Listeners`].
    pub fn new(listener: StdTcpListener) -> io::Result<Self> {
        Socket::new(listener.into()).map(Self)
    }

    /// Waits until there is a connection to accept.
    pub async fn readable(&self) -> io::Result<()> {
        waited(|| self.0.readable()).await
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
