//! Idle connections of one core: newest first, bounded, watched.
use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::net::stream::Stream;
use crate::telemetry::clock::Moment;
use crate::telemetry::counters::count;

/// Idle connections kept by a core.
const IDLE_MAX: usize = 1024;

/// A connection between two exchanges.
pub(super) struct Idle {
    pub(super) stream: Rc<Stream>,
    pub(super) addr: SocketAddr,
    /// By a clock that stands still while the machine sleeps: what is lost then shows at its first use.
    pub(super) since: Moment,
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

    /// The connection that was used last, if it is still good at this moment.
    pub(super) fn take(&self, now: Moment) -> Option<Idle> {
        loop {
            let idle = self.idle.borrow_mut().pop_back()?;
            if self.is_good(&idle, now) {
                return Some(idle);
            }
            if self.is_young(&idle, now) {
                count(|core| &core.pool_stale);
            }
        }
    }

    /// Keeps a connection from this moment on.
    pub(super) fn put(&self, stream: Rc<Stream>, addr: SocketAddr, since: Moment) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() == IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle {
            stream,
            addr,
            since,
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
        let now = Moment::now();
        self.idle
            .borrow_mut()
            .retain(|idle| self.is_good(idle, now));
    }

    fn is_good(&self, idle: &Idle, now: Moment) -> bool {
        self.is_young(idle, now) && idle.stream.is_quiet()
    }

    fn is_young(&self, idle: &Idle, now: Moment) -> bool {
        now.since(idle.since) < self.idle_timeout
    }
}
