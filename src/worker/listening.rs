//! Where clients and operators come in: opened at the start, shut at the end.
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::time::Duration;

use crate::config::{Config, Listen};
use crate::net::listener::{Listeners, Whose, bind_all, open_all};
use crate::net::shutter::Shutter;
use crate::net::unix::{self, Place};

/// All that listens.
pub(super) struct Listening {
    /// For clients, one for each core.
    pub(super) listeners: Listeners,
    /// Where that is.
    pub(super) listen: Listen,
    /// For operators, if there is to be one.
    pub(super) admin: Option<StdTcpListener>,
    /// What shuts them.
    pub(super) shutters: Shutters,
}

/// What shuts the listeners, for the thread that hears signals.
pub(super) struct Shutters {
    clients: Shutter,
    /// Where clients come by a path.
    place: Option<Place>,
    admin: Option<Shutter>,
}

impl Listening {
    /// Opens it all. `Err`: a port is in use, as a rule; it says what to do about it.
    pub(super) fn begin(config: &Config) -> io::Result<Self> {
        let share = config.reuse_port;
        let bind = |addr| {
            bind_all(addr, 1, share).map_err(|error| deaf(&error, addr, "ADMIN_PORT", share))
        };
        let admin = config.admin.map(bind).transpose()?;
        // Last: who listens beside others and then fails has clients to lose.
        let (listeners, listen, place) = open(config)?;
        let shutters = Shutters {
            clients: Shutter::new(&listeners)?,
            place,
            admin: admin.as_ref().map(Shutter::new).transpose()?,
        };
        Ok(Self {
            listeners,
            listen,
            admin: admin.and_then(|listeners| listeners.all.into_iter().next()),
            shutters,
        })
    }
}

impl Shutters {
    /// Returns when no client can come any more. Operators still can, unless there is a successor to look
    /// at.
    pub(super) fn keep_out(&mut self, limit: Duration) {
        drop(self.place.take());
        let replaced = (self.admin).take_if(|admin| admin.steer_away() && admin.has_company());
        self.clients.keep_out(limit);
        // Not later: the successor could not tell us from a successor of its own.
        if let Some(admin) = replaced {
            admin.close();
        }
    }

    /// Refuses clients from now on, the queues having been emptied.
    pub(super) fn close(&self) {
        self.clients.close();
    }

    /// Refuses operators too, before the process ends: a ring outlives it for a moment, and so would the
    /// listener, deaf.
    pub(super) fn end(&self) {
        if let Some(admin) = &self.admin {
            admin.close();
        }
    }
}

/// What listens for clients, where that is, and what ends it where it is one for all cores.
fn open(config: &Config) -> io::Result<(Listeners, Listen, Option<Place>)> {
    let share = config.reuse_port;
    match &config.listen {
        Listen::Tcp(addr) => {
            let listeners = open_all(*addr, config.workers, share)
                .map_err(|error| deaf(&error, *addr, "LISTEN_PORT", share))?;
            let listen = Listen::Tcp(listeners.all[0].local_addr()?);
            Ok((listeners, listen, None))
        }
        Listen::Unix(path) => {
            let (all, place) = unix::bind_all(path, config.workers)
                .map_err(|error| named(&error, &format!("cannot listen on {}", config.listen)))?;
            let whose = Whose::Ours;
            Ok((Listeners { all, whose }, config.listen.clone(), Some(place)))
        }
    }
}

/// Why it cannot listen, and what to do about it.
fn deaf(error: &io::Error, addr: SocketAddr, setting: &str, share: bool) -> io::Error {
    let why = named(error, &format!("cannot listen on {addr}"));
    if error.kind() != io::ErrorKind::AddrInUse {
        return why;
    }
    let port = addr.port();
    let who = match share {
        false => "another program listens there, perhaps another codex-reset-proxy",
        true => "who listens there does not share the port (REUSE_PORT), or is another user's",
    };
    let or = match share {
        false => {
            ", or REUSE_PORT=on to take the place of a codex-reset-proxy without losing a request"
        }
        true => "",
    };
    io::Error::new(
        why.kind(),
        format!(
            "{why}: {who} (ss -ltnp 'sport = :{port}' shows it). Stop it, or set {setting} to another \
             port{or}."
        ),
    )
}

/// An error with what it kept us from.
pub(super) fn named(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
