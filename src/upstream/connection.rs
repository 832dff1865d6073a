//! Connections to the upstream: taken from the pool or made, and given back after a clean exchange.
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use local_sync::semaphore::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::net::deadline::Deadline;
use crate::net::mailbox::{Resolved, Whose};
use crate::net::resolver::Addresses;
use crate::net::stream::Stream;
use crate::net::tcp::Tcp;
use crate::net::tls::{Tls, TlsSettings};
use crate::net::unix;
use crate::telemetry::clock::Moment;
use crate::telemetry::counters::count;
use crate::telemetry::trace::Trace;
use crate::telemetry::words::Phase;
use crate::upstream::failure::Failure;
use crate::upstream::order::Order;
use crate::upstream::outbound::Outbound;
use crate::upstream::pool::Pool;
use crate::upstream::race::{Course, Way, race};

/// The least time that unacknowledged bytes keep a connection: as long as keep-alive probes take.
const USER_TIMEOUT_MIN: Duration = Duration::from_secs(60);

/// What a core knows of the upstream.
pub struct Upstream {
    config: Rc<Config>,
    /// Of the upstream, or of the outbound proxy.
    addresses: Addresses,
    outbound: Option<Outbound>,
    /// Of the upstream, where the outbound proxy is told one.
    targets: Option<Addresses>,
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
    /// Its other end, as far as we know it: behind an outbound proxy that looks names up, the proxy.
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
    /// The addresses are those of whom we connect to, and those that an outbound proxy is told.
    /// `connections_max` is this core's share of `UPSTREAM_MAX_CONNECTIONS`, 0 = no limit.
    pub fn new(
        config: Rc<Config>,
        (addresses, targets): (Addresses, Option<Addresses>),
        tls: Option<TlsSettings>,
        connections_max: usize,
    ) -> Self {
        let limited = connections_max > 0;
        Self {
            pool: Pool::new(config.upstream.idle_timeout),
            outbound: Outbound::of(&config),
            config,
            addresses,
            targets,
            tls,
            permits: limited.then(|| Rc::new(Semaphore::new(connections_max))),
            permits_max: connections_max,
            order: Order::default(),
        }
    }

    /// Takes the outcome of a look-up that `began` then. Idle connections to what is no address of the
    /// upstream any more are closed.
    pub fn resolved(&self, whose: Whose, resolved: Resolved, began: Moment) {
        match (whose, &self.targets) {
            (Whose::Target, Some(targets)) => targets.update(resolved, began),
            _ => self.addresses.update(resolved, began),
        }
        self.pool.retain(|idle| self.includes(idle.addr));
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
        if !fresh && let Some(idle) = self.pool.take(trace.since()) {
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
            self.look_up();
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
    /// still. To be called after a complete one only, at the moment that it ended.
    pub fn give_back(&self, conn: Connection, now: Moment) {
        match self.includes(conn.addr) {
            true => self.pool.put(conn.stream, conn.addr, now),
            false => conn.close(),
        }
    }

    /// Begins elsewhere for a while, where there is an elsewhere.
    pub fn avoid(&self, addr: SocketAddr, idle_too: bool) {
        self.order.put_back(addr);
        if idle_too {
            self.pool.retain(|idle| idle.addr != addr);
        }
    }

    /// A connection was lost without a word, and so were those that were used last before `then`, whatever
    /// their address: they are closed. We may be in another network, where other addresses hold.
    pub fn forget_older(&self, then: Moment) {
        self.pool.retain(|idle| idle.since >= then);
        self.look_up();
    }

    fn look_up(&self) {
        self.addresses.refresh();
        self.targets.iter().for_each(Addresses::refresh);
    }

    /// Whether an address that connections have is still one.
    fn includes(&self, addr: SocketAddr) -> bool {
        let ends = self.targets.as_ref().unwrap_or(&self.addresses);
        ends.include(addr)
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
        let looked_up = async {
            let targets = match &self.targets {
                Some(targets) => self.order.of(&known(targets).await?, avoided),
                None => Vec::new(),
            };
            let addresses = self.order.of(&known(&self.addresses).await?, avoided);
            Ok((addresses, targets))
        };
        let looked_up = deadline.limit(looked_up).await;
        let (addresses, targets) = looked_up.unwrap_or(Err(Failure::ConnectTimeout(limit)))?;
        let ways = Way::all(&addresses, &targets);
        let connect = |way, course| self.connect_by(way, course);
        let connected = race(&ways, deadline, &self.order, trace, connect).await;
        let time_is_over = || match trace.phase() {
            Phase::Proxy => Failure::ProxyTimeout(limit),
            _ => Failure::ConnectTimeout(limit),
        };
        match connected {
            Ok((stream, way)) => Ok((stream, way.end())),
            Err(failure) => Err(failure.unwrap_or_else(time_is_over)),
        }
    }

    async fn connect_by(&self, way: Way, course: Rc<Course<'_>>) -> Result<Stream, Failure> {
        let stall = self.config.attempts.write_timeout;
        let user_timeout = stall.max(USER_TIMEOUT_MIN);
        let tcp = match &self.config.upstream.socket {
            Some(path) => unix::connect(path).await,
            None => Tcp::connect(way.addr, user_timeout).await,
        };
        let tcp = course.connected(tcp);
        let to = match self.outbound {
            Some(_) => "outbound proxy (OUTBOUND_PROXY)",
            None => "upstream (UPSTREAM_BASE_URL)",
        };
        let tcp = tcp.map_err(|error| Failure::Connect(to, error))?;
        if let Some(outbound) = &self.outbound {
            course.enter(Phase::Proxy);
            let asked = outbound.ask(&tcp, way.target, stall).await;
            asked.map_err(Failure::Proxy)?;
        }
        course.is_there();
        let Some(settings) = &self.tls else {
            return Ok(Stream::Plain(tcp));
        };
        course.enter(Phase::Tls);
        let tls = course.shaken(Tls::handshake(tcp, settings, stall).await);
        Ok(Stream::Tls(Box::new(tls.map_err(Failure::Handshake)?)))
    }
}

async fn known(addresses: &Addresses) -> Result<Arc<[SocketAddr]>, Failure> {
    match addresses.get().await {
        Resolved::Addresses(addresses) => Ok(addresses),
        Resolved::NoSuchName(reason) => Err(Failure::NoSuchName(reason.to_string())),
        Resolved::Failed(reason) => Err(Failure::Resolve(reason.to_string())),
    }
}
