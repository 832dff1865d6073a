//! Listeners that whoever started the process has opened for it: the protocol of sd_listen_fds(3).
use std::env;
use std::fmt::Display;
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::RawFd;
use std::process;

use rustix::net::{SocketType, sockopt};

use crate::net::socket::duplicate;
use crate::net::tcp::set_options;

/// Where they begin.
const FIRST: RawFd = 3;

/// One for each of `count` cores, who share them where there are fewer. `None`: there are none, or they
/// are meant for another process.
///
/// # Errors
/// There are more than cores, or one is no TCP listener.
pub fn listeners(count: usize) -> io::Result<Option<Vec<StdTcpListener>>> {
    let handed = handed()?;
    if handed == 0 {
        return Ok(None);
    }
    if usize::from(handed) > count {
        return Err(fault(format!(
            " is {handed}, but there are {count} workers, and each takes one: hand over fewer listeners, \
             or raise WORKERS"
        )));
    }
    let numbers = (FIRST..FIRST + RawFd::from(handed)).cycle().take(count);
    numbers.map(listener).collect::<io::Result<_>>().map(Some)
}

/// How many are meant for this process.
///
/// # Errors
/// Nobody can know.
pub fn handed() -> io::Result<u16> {
    let pid = process::id().to_string();
    if env::var("LISTEN_PID").as_deref() != Ok(&*pid) {
        return Ok(0);
    }
    match env::var("LISTEN_FDS").as_deref() {
        Err(_) | Ok("") => Ok(0),
        Ok(number) => number
            .parse()
            .map_err(|_| fault(format!("={number:?} is no number"))),
    }
}

fn listener(number: RawFd) -> io::Result<StdTcpListener> {
    let not_one = |error: &dyn Display| {
        fault(format!(
            ": descriptor {number} is no TCP listener ({error})"
        ))
    };
    let socket = duplicate(number).map_err(|error| not_one(&error))?;
    let listens = sockopt::socket_acceptconn(&socket).map_err(|error| not_one(&error))?;
    let kind = sockopt::socket_type(&socket).map_err(|error| not_one(&error))?;
    if !listens || kind != SocketType::STREAM {
        return Err(not_one(&"it does not listen, or not for streams"));
    }
    set_options(&socket, None).map_err(|error| not_one(&error))?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket.into())
}

fn fault(what: impl Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("LISTEN_FDS{what}"))
}
