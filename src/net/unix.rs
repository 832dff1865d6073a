//! Sockets in the file system: one to listen on, and connecting to one. A connection is a [`Tcp`].
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, bind, connect as begin,
    listen, shutdown, socket_with,
};

use crate::net::listener::{BACKLOG, LOOK_AGAIN, LOOKS};
use crate::net::sleep;
use crate::net::tcp::Tcp;

/// How often a listener is asked again whose queue is full. The kernel does not tell when there is room.
const FULL_PAUSE: Duration = Duration::from_millis(10);

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
#[allow(clippy::disallowed_methods, reason = "no core runs yet")]
pub fn bind_all(path: &Path, count: usize) -> io::Result<(Vec<StdTcpListener>, Place)> {
    let (addr, listener) = (SocketAddrUnix::new(path)?, socket()?);
    let mut looks = 1..LOOKS;
    while !begin_at(path, &addr, &listener)? {
        if looks.next().is_none() {
            let problem = "another process listens there; stop it or choose another path";
            return Err(io::Error::new(io::ErrorKind::AddrInUse, problem));
        }
        thread::sleep(LOOK_AGAIN);
    }
    let place = Place {
        path: path.to_owned(),
        file: file(path)?,
        listener,
    };
    let another = |_| place.listener.try_clone().map(StdTcpListener::from);
    let listeners = (0..count).map(another).collect::<io::Result<_>>()?;
    Ok((listeners, place))
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    Ok(socket?)
}

/// Makes `listener` listen. `false`: another does, or is about to.
fn begin_at(path: &Path, addr: &SocketAddrUnix, listener: &OwnedFd) -> io::Result<bool> {
    // One at a time in a folder: a socket looks stale until it listens, and one that was stale may be
    // another by the time it is removed. A folder that cannot be opened or locked is not.
    let folder = path.parent().and_then(|folder| File::open(folder).ok());
    let locked = folder.as_ref().map(File::try_lock);
    if matches!(locked, Some(Err(TryLockError::WouldBlock))) {
        return Ok(false);
    }
    match bind(listener, addr) {
        Err(Errno::ADDRINUSE) => {
            if !fs::symlink_metadata(path)?.file_type().is_socket() {
                return Err(io::Error::other("something that is no socket is there"));
            }
            match begin(socket()?, addr) {
                Err(Errno::CONNREFUSED) => fs::remove_file(path)?,
                Ok(()) | Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            bind(listener, addr)?;
        }
        bound => bound?,
    }
    listen(listener, BACKLOG)?;
    Ok(true)
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
