//! Idle connections of one core: newest first, bounded, watched.
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::net::stream::Stream;
use crate::telemetry::counters::count;

/// Idle connections kept by a core.
const IDLE_MAX: usize = 1024;

/// A connection between two exchanges.
pub(super) struct Idle {
    pub(super) stream: Rc<Stream>,
    pub(super) addr: SocketAddr,
    /// By a clock that stands still while the machine sleeps: what is lost then shows at its first use.
    pub(super) since: Instant,
}

/// The idle connections.
pub(super) struct Pool {
    idle: RefCell<VecDeque<Idle>>,
    idle_timeout: Duration,
}

impl Pool {
    pub(super) fn new(idle_timeout: Duration) -> Self {
        Self {
            idle: RefCell::new(VecDeque::new()),
            idle_timeout,
        }
    }

    /// The connection that was used last, if it is still good.
    pub(super) fn take(&self) -> Option<Idle> {
        loop {
            let idle = self.idle.borrow_mut().pop_back()?;
            if self.is_good(&idle) {
                return Some(idle);
            }
            if self.is_young(&idle) {
                count(|core| &core.pool_stale);
            }
        }
    }

    /// Keeps a connection after a complete exchange.
    pub(super) fn put(&self, stream: Rc<Stream>, addr: SocketAddr) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() == IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle {
            stream,
            addr,
            since: Instant::now(),
        });
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Closes the connection that was used longest ago.
    pub(super) fn evict(&self) {
        self.idle.borrow_mut().pop_front();
    }

    /// Closes all connections save those that are `wanted`.
    pub(super) fn retain(&self, wanted: impl FnMut(&Idle) -> bool) {
        self.idle.borrow_mut().retain(wanted);
    }

    /// Closes what has been idle too long or was closed by the upstream.
    pub(super) fn tidy(&self) {
        self.idle.borrow_mut().retain(|idle| self.is_good(idle));
    }

    fn is_good(&self, idle: &Idle) -> bool {
        self.is_young(idle) && idle.stream.is_quiet()
    }

    fn is_young(&self, idle: &Idle) -> bool {
        idle.since.elapsed() < self.idle_timeout
    }
}
