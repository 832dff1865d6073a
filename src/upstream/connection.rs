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
use crate::telemetry::counters::count;
use crate::telemetry::trace::Trace;
use crate::telemetry::words::Phase;
use crate::upstream::failure::Failure;
use crate::upstream::outbound::Outbound;
use crate::upstream::pool::Pool;

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
        }
    }

    /// Takes the outcome of a look-up.
    pub fn resolved(&self, whose: Whose, resolved: Resolved) {
        match (whose, &self.targets) {
            (Whose::Target, Some(targets)) => targets.update(resolved),
            _ => self.addresses.update(resolved),
        }
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
            Err(timeout(limit, trace))
        });
        if connected.is_err() {
            self.addresses.refresh();
            self.targets.iter().for_each(Addresses::refresh);
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
        self.addresses.avoid(addr);
        self.targets.iter().for_each(|targets| targets.avoid(addr));
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
        let addresses = known(&self.addresses).await?;
        let targets = match &self.targets {
            Some(targets) => (known(targets).await?, targets.first()),
            None => ([].into(), 0),
        };
        let addresses = (addresses, self.addresses.first());
        let limit = self.config.attempts.connect_timeout;
        let mut failure = Failure::ConnectTimeout(limit);
        let turns = addresses.0.len().max(targets.0.len());
        for turn in 0..turns {
            let way = Way {
                addr: at(&addresses, turn).expect("there is an address"),
                target: at(&targets, turn),
            };
            let turns_left = u32::try_from(turns - turn).unwrap_or(u32::MAX);
            let share = deadline.left().map(|left| left / turns_left);
            match Deadline::after_if(share)
                .limit(self.connect_by(way, trace))
                .await
            {
                Ok(Ok(stream)) => return Ok((stream, way.target.unwrap_or(way.addr))),
                Ok(Err(error)) => failure = error,
                Err(_) => {
                    count_cut(trace);
                    if trace.phase() == Phase::Proxy {
                        failure = Failure::ProxyTimeout(limit);
                    }
                }
            }
            self.avoid(way.addr, false);
            way.target.iter().for_each(|addr| self.avoid(*addr, false));
            if !failure.may_pass_elsewhere() {
                break;
            }
        }
        Err(failure)
    }

    async fn connect_by(&self, way: Way, trace: &Trace) -> Result<Stream, Failure> {
        let stall = self.config.attempts.write_timeout;
        let user_timeout = stall.max(USER_TIMEOUT_MIN);
        trace.enter(Phase::Connect);
        let tcp = Tcp::connect(way.addr, user_timeout).await;
        count(|core| match &tcp {
            Ok(_) => &core.connects,
            Err(_) => &core.connects_failed,
        });
        let to = match self.outbound {
            Some(_) => "outbound proxy",
            None => "upstream",
        };
        let tcp = tcp.map_err(|error| Failure::Connect(to, error))?;
        if let Some(outbound) = &self.outbound {
            trace.enter(Phase::Proxy);
            let asked = outbound.ask(&tcp, way.target, stall).await;
            asked.map_err(Failure::Proxy)?;
        }
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

/// Whom to connect to, and what to ask it for.
#[derive(Clone, Copy)]
struct Way {
    addr: SocketAddr,
    target: Option<SocketAddr>,
}

/// The address whose turn it is, of some and the one to begin with.
fn at((all, first): &(Arc<[SocketAddr]>, usize), turn: usize) -> Option<SocketAddr> {
    all.get((first + turn).checked_rem(all.len())?).copied()
}

async fn known(addresses: &Addresses) -> Result<Arc<[SocketAddr]>, Failure> {
    match addresses.get().await {
        Resolved::Addresses(addresses) => Ok(addresses),
        Resolved::NoSuchName(reason) => Err(Failure::NoSuchName(reason.to_string())),
        Resolved::Failed(reason) => Err(Failure::Resolve(reason.to_string())),
    }
}

fn timeout(limit: Duration, trace: &Trace) -> Failure {
    match trace.phase() {
        Phase::Proxy => Failure::ProxyTimeout(limit),
        _ => Failure::ConnectTimeout(limit),
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
