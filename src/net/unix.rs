//! Sockets in the file system: one to listen on, and connecting to one. A connection is a [`Tcp`].
use std::fs;
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, bind, connect as begin,
    listen, shutdown, socket_with,
};

use crate::net::listener::BACKLOG;
use crate::net::sleep;
use crate::net::tcp::Tcp;

/// How often a listener is asked again whose queue is full. The kernel does not tell when there is room.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// How often, and after how long, a listener is looked at before it counts as alive: the kernel closes
/// what a ring watches up to some tens of milliseconds after the end of its process.
const LOOKS: usize = 20;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Connects to the socket at `path`. A full queue is waited for, as it is for TCP.
///
/// Dropping the future gives up and closes the socket.
///
/// # Errors
/// They name the path.
pub async fn connect(path: &Path) -> io::Result<Tcp> {
    let (addr, socket) = (SocketAddrUnix::new(path)?, socket()?);
    loop {
        match begin(&socket, &addr) {
            Ok(()) => return Tcp::new(socket),
            Err(Errno::AGAIN) => sleep(FULL_PAUSE).await,
            Err(error) => {
                let error = io::Error::from(error);
                let told = format!("unix:{}: {error}", path.display());
                return Err(io::Error::new(error.kind(), told));
            }
        }
    }
}

/// Listens at `path`, where a socket that nobody listens on any more is replaced. There are `count`
/// descriptors of the one listener, whose queue all cores take from; their type only carries them.
///
/// # Errors
/// Somebody listens there, or there is something that is no socket.
pub fn bind_all(path: &Path, count: usize) -> io::Result<(Vec<StdTcpListener>, Place)> {
    let (addr, socket) = (SocketAddrUnix::new(path)?, socket()?);
    match bind(&socket, &addr) {
        Err(Errno::ADDRINUSE) => {
            remove_stale(path, &addr)?;
            bind(&socket, &addr)?;
        }
        bound => bound?,
    }
    let place = Place {
        path: path.to_owned(),
        file: file(path)?,
        listener: socket,
    };
    listen(&place.listener, BACKLOG)?;
    let another = |_| place.listener.try_clone().map(StdTcpListener::from);
    let listeners = (0..count).map(another).collect::<io::Result<_>>()?;
    Ok((listeners, place))
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    Ok(socket?)
}

#[allow(clippy::disallowed_methods, reason = "no core runs yet")]
fn remove_stale(path: &Path, addr: &SocketAddrUnix) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::other("something that is no socket is there"));
    }
    for _ in 0..LOOKS {
        match begin(socket()?, addr) {
            Err(Errno::CONNREFUSED) => return fs::remove_file(path),
            Ok(()) | Err(Errno::AGAIN) => std::thread::sleep(LOOK_AGAIN),
            Err(error) => return Err(error.into()),
        }
    }
    let problem = "another process listens there; stop it or choose another path";
    Err(io::Error::new(io::ErrorKind::AddrInUse, problem))
}

/// What tells a file from all others.
fn file(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// A path that is listened at. Dropping it ends that: the file is removed, unless it is another's by
/// now, and nobody gets into the queue any more. Who is in there can still be accepted.
pub struct Place {
    path: PathBuf,
    file: (u64, u64),
    listener: OwnedFd,
}

impl Drop for Place {
    fn drop(&mut self) {
        if file(&self.path).is_ok_and(|there| there == self.file) {
            // Where it cannot be removed, the next start finds it stale.
            let _ = fs::remove_file(&self.path);
        }
        let _ = shutdown(self.listener.as_fd(), Shutdown::Both);
    }
}
