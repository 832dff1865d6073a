//! Connections to the upstream: taken from the pool or made, and given back after a clean exchange.
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use local_sync::semaphore::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::net::deadline::Deadline;
use crate::net::mailbox::Resolved;
use crate::net::resolver::Addresses;
use crate::net::stream::Stream;
use crate::net::tcp::Tcp;
use crate::net::tls::{Tls, TlsSettings};
use crate::telemetry::counters::count;
use crate::telemetry::trace::Trace;
use crate::telemetry::words::Phase;
use crate::upstream::failure::Failure;
use crate::upstream::pool::Pool;

/// The least time that unacknowledged bytes keep a connection: as long as keep-alive probes take.
const USER_TIMEOUT_MIN: Duration = Duration::from_secs(60);

/// What a core knows of the upstream.
pub struct Upstream {
    config: Rc<Config>,
    addresses: Addresses,
    tls: Option<TlsSettings>,
    pool: Pool,
    /// The right to use a connection, where `UPSTREAM_MAX_CONNECTIONS` limits their number.
    permits: Option<Rc<Semaphore>>,
    permits_max: usize,
    /// Which of the addresses to begin with.
    first: Cell<usize>,
}

/// A connection in use by one exchange. Dropping it closes it.
pub struct Connection {
    /// What it reads and writes.
    pub stream: Rc<Stream>,
    /// Its other end.
    pub addr: SocketAddr,
    /// Whether it has served an exchange before.
    pub reused: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Ends the connection now. Dropping it does the same, save where a request that is still being
    /// sent holds the stream as well.
    pub fn close(self) {
        self.stream.close();
    }

    /// The same, and what has not left this machine never will.
    pub fn abort(self) {
        self.stream.tcp().abort();
    }
}

impl Upstream {
    /// `connections_max` is this core's share of `UPSTREAM_MAX_CONNECTIONS`, 0 = no limit.
    pub fn new(
        config: Rc<Config>,
        addresses: Addresses,
        tls: Option<TlsSettings>,
        connections_max: usize,
    ) -> Self {
        let limited = connections_max > 0;
        Self {
            pool: Pool::new(config.upstream.idle_timeout),
            config,
            addresses,
            tls,
            permits: limited.then(|| Rc::new(Semaphore::new(connections_max))),
            permits_max: connections_max,
            first: Cell::new(0),
        }
    }

    /// Takes the outcome of a look-up.
    pub fn resolved(&self, resolved: Resolved) {
        self.addresses.update(resolved);
    }

    /// Closes idle connections that are of no more use. To be called now and then.
    pub fn tidy(&self) {
        self.pool.tidy();
    }

    /// How many idle connections there are.
    pub fn idle(&self) -> usize {
        self.pool.len()
    }

    /// A connection for one attempt; `fresh`: a brand-new one.
    pub async fn connection(&self, fresh: bool, trace: &Trace) -> Result<Connection, Failure> {
        let permit = self.permit(trace).await?;
        if !fresh && let Some(idle) = self.pool.take() {
            count(|core| &core.pool_hits);
            return Ok(Connection {
                stream: idle.stream,
                addr: idle.addr,
                reused: true,
                _permit: permit,
            });
        }
        if !fresh {
            count(|core| &core.pool_misses);
        }
        self.make_room();
        let limit = self.config.attempts.connect_timeout;
        let deadline = Deadline::after(limit);
        // Boxed: connecting is rare, and its state is large beside that of an exchange.
        let connected = deadline
            .limit(Box::pin(self.connect(deadline, trace)))
            .await;
        let connected = connected.unwrap_or_else(|_| {
            count_cut(trace);
            Err(Failure::ConnectTimeout(limit))
        });
        if connected.is_err() {
            self.addresses.refresh();
        }
        let (stream, addr) = connected?;
        Ok(Connection {
            stream: Rc::new(stream),
            addr,
            reused: false,
            _permit: permit,
        })
    }

    /// Keeps a connection for the next exchange. To be called after a complete one only.
    pub fn give_back(&self, conn: Connection) {
        self.pool.put(conn.stream, conn.addr);
    }

    /// Begins elsewhere next time, where there is an elsewhere.
    pub fn avoid(&self, addr: SocketAddr, idle_too: bool) {
        if let Some(Resolved::Addresses(all)) = self.addresses.known()
            && let Some(at) = all.iter().position(|known| *known == addr)
        {
            self.first.set((at + 1) % all.len());
        }
        if idle_too {
            self.pool.evict_all(addr);
        }
    }

    async fn permit(&self, trace: &Trace) -> Result<Option<OwnedSemaphorePermit>, Failure> {
        let Some(permits) = &self.permits else {
            return Ok(None);
        };
        let limit = self.config.attempts.pool_timeout;
        match Deadline::after(limit)
            .limit(permits.clone().acquire_owned())
            .await
        {
            Ok(Ok(permit)) => {
                trace.enter(Phase::Pool); // the wait for it is over
                Ok(Some(permit))
            }
            _ => Err(Failure::PoolTimeout(limit)), // it is never closed
        }
    }

    /// Idle connections count as well: one has to go where a new one would be one too many.
    fn make_room(&self) {
        if let Some(permits) = &self.permits {
            let in_use = self.permits_max - permits.available_permits();
            while self.pool.len() > 0 && in_use + self.pool.len() > self.permits_max {
                self.pool.evict();
            }
        }
    }

    /// Tries the addresses in turn; each gets its share of the time that is left.
    async fn connect(
        &self,
        deadline: Deadline,
        trace: &Trace,
    ) -> Result<(Stream, SocketAddr), Failure> {
        trace.enter(Phase::Resolve);
        let addresses = match self.addresses.get().await {
            Resolved::Addresses(addresses) => addresses,
            Resolved::NoSuchName(reason) => return Err(Failure::NoSuchName(reason.to_string())),
            Resolved::Failed(reason) => return Err(Failure::Resolve(reason.to_string())),
        };
        let first = self.first.get();
        let mut failure = Failure::ConnectTimeout(self.config.attempts.connect_timeout);
        for turn in 0..addresses.len() {
            let addr = addresses[(first + turn) % addresses.len()];
            let turns_left = u32::try_from(addresses.len() - turn).unwrap_or(u32::MAX);
            let share = deadline.left().map(|left| left / turns_left);
            match Deadline::after_if(share)
                .limit(self.connect_to(addr, trace))
                .await
            {
                Ok(Ok(stream)) => return Ok((stream, addr)),
                Ok(Err(error)) => failure = error,
                Err(_) => count_cut(trace),
            }
            self.avoid(addr, false);
            if !failure.may_pass() {
                break;
            }
        }
        Err(failure)
    }

    async fn connect_to(&self, addr: SocketAddr, trace: &Trace) -> Result<Stream, Failure> {
        let stall = self.config.attempts.write_timeout;
        let user_timeout = stall.max(USER_TIMEOUT_MIN);
        trace.enter(Phase::Connect);
        let tcp = Tcp::connect(addr, user_timeout).await;
        count(|core| match &tcp {
            Ok(_) => &core.connects,
            Err(_) => &core.connects_failed,
        });
        let tcp = tcp.map_err(Failure::Connect)?;
        let Some(settings) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        trace.enter(Phase::Tls);
        let tls = Tls::handshake(tcp, settings, stall).await;
        count(|core| match &tls {
            Ok(tls) if tls.is_resumed() => &core.handshakes_resumed,
            Ok(_) => &core.handshakes_full,
            Err(_) => &core.handshakes_failed,
        });
        Ok(Stream::Tls(Box::new(tls.map_err(Failure::Handshake)?)))
    }
}

/// Counts what its time-out has ended.
fn count_cut(trace: &Trace) {
    match trace.phase() {
        Phase::Connect => count(|core| &core.connects_failed),
        Phase::Tls => count(|core| &core.handshakes_failed),
        _ => (), // it has not come so far
    }
}
