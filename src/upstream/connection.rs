//! Connections to the upstream: taken from the pool or made, and given back after a clean exchange.
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
use crate::upstream::order::Order;
use crate::upstream::pool::Pool;
use crate::upstream::race::{Course, race};

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
    order: Order,
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
            order: Order::default(),
        }
    }

    /// Takes the outcome of a look-up. Idle connections to what is no address of the upstream any more
    /// are closed.
    pub fn resolved(&self, resolved: Resolved) {
        self.addresses.update(resolved);
        self.pool.retain(|addr| self.addresses.include(addr));
    }

    /// Closes idle connections that are of no more use. To be called now and then.
    pub fn tidy(&self) {
        self.pool.tidy();
    }

    /// How many idle connections there are.
    pub fn idle(&self) -> usize {
        self.pool.len()
    }

    /// A connection for one attempt; `fresh`: a brand-new one, to `avoided` only where all else fails.
    pub async fn connection(
        &self,
        fresh: bool,
        avoided: Option<SocketAddr>,
        trace: &Trace,
    ) -> Result<Connection, Failure> {
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
        // Boxed: connecting is rare, and its state is large beside that of an exchange.
        let connected = Box::pin(self.connect(avoided, trace)).await;
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

    /// Keeps a connection for the next exchange, where its other end is an address of the upstream
    /// still. To be called after a complete one only.
    pub fn give_back(&self, conn: Connection) {
        match self.addresses.include(conn.addr) {
            true => self.pool.put(conn.stream, conn.addr),
            false => conn.close(),
        }
    }

    /// Begins elsewhere for a while, where there is an elsewhere.
    pub fn avoid(&self, addr: SocketAddr, idle_too: bool) {
        self.order.put_back(addr);
        if idle_too {
            self.pool.retain(|known| known != addr);
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

    async fn connect(
        &self,
        avoided: Option<SocketAddr>,
        trace: &Trace,
    ) -> Result<(Stream, SocketAddr), Failure> {
        let limit = self.config.attempts.connect_timeout;
        let deadline = Deadline::after(limit);
        trace.enter(Phase::Resolve);
        let addresses = match deadline.limit(self.addresses.get()).await {
            Ok(Resolved::Addresses(addresses)) => addresses,
            Ok(Resolved::NoSuchName(reason)) => {
                return Err(Failure::NoSuchName(reason.to_string()));
            }
            Ok(Resolved::Failed(reason)) => return Err(Failure::Resolve(reason.to_string())),
            Err(_) => return Err(Failure::ConnectTimeout(limit)),
        };
        let ordered = self.order.of(&addresses, avoided);
        let connect = |addr, course| self.connect_to(addr, course);
        let connected = race(&ordered, deadline, &self.order, trace, connect).await;
        connected.map_err(|failure| failure.unwrap_or(Failure::ConnectTimeout(limit)))
    }

    async fn connect_to(
        &self,
        addr: SocketAddr,
        course: Rc<Course<'_>>,
    ) -> Result<Stream, Failure> {
        let stall = self.config.attempts.write_timeout;
        let user_timeout = stall.max(USER_TIMEOUT_MIN);
        let tcp = course.connected(Tcp::connect(addr, user_timeout).await)?;
        let Some(settings) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        course.shakes_hands();
        let tls = course.shaken(Tls::handshake(tcp, settings, stall).await)?;
        Ok(Stream::Tls(Box::new(tls)))
    }
}
