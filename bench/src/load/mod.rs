//! The load generator: keeps a proxy busy, checks every byte that comes back, and measures.
//!
//! One runtime on one thread, as cheap as it can be, for it shares a core with the origin. Nothing
//! waits without an end: one watch over all connections ends those that do not get on.
mod crew;
pub(crate) mod events;
mod pace;
mod requests;
pub(crate) mod response;
mod socket;
mod streams;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::machine;
use crate::pattern::Pattern;
use crate::ring;
use crew::Crew;
use socket::Slot;

/// How long a connection may not get on before that is an error.
const PATIENCE: Duration = Duration::from_secs(5);
const ERROR_SAMPLES_MAX: usize = 8;
/// Latencies are kept to three digits, up to a minute.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// How long to run, once all connections are up.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub warm_up: Duration,
    pub measured: Duration,
}

/// Of the measured part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    Begin,
    End,
}

/// What to keep a proxy busy with.
#[derive(Debug, Clone)]
pub enum Work {
    /// Requests, GET where there is no body: closed loop where `rate` is `None`, else open loop at
    /// so many a second, latency counted from the intended send time.
    Requests {
        path: String,
        body_bytes: usize,
        response_bytes: u64,
        connections: usize,
        keep_alive: bool,
        rate: Option<f64>,
    },
    /// Downloads in a loop; units are bytes, latencies those of whole downloads.
    Downloads {
        path: String,
        bytes: u64,
        connections: usize,
    },
    /// Event streams held open; units are events, latency is from the origin's sending to our reading.
    Streams {
        path: String,
        streams: usize,
        event_bytes: usize,
    },
}

impl Work {
    /// How many at the same time.
    pub fn connections(&self) -> usize {
        match self {
            Self::Requests { connections, .. } | Self::Downloads { connections, .. } => {
                *connections
            }
            Self::Streams { streams, .. } => *streams,
        }
    }
}

/// What came of it. Units and latencies are of what was completed in the measured window; faults of
/// the whole run.
#[derive(Debug)]
pub struct Measured {
    pub units: u64,
    /// Length of the measured window.
    pub seconds: f64,
    /// Nanoseconds.
    pub latency: Histogram<u64>,
    /// Responses with a wrong byte, a wrong length, or doubled.
    pub wrong: u64,
    /// Requests without a proper response.
    pub errors: u64,
    /// Different faults, a few.
    pub error_samples: Vec<String>,
}

/// Runs `work` against `target` on the calling thread. `sample` is called at both edges of the
/// measured window, after all connections or streams are up.
///
/// # Errors
/// Not all connections came up, `work` makes no sense, or there is no io_uring.
pub fn run(
    target: SocketAddr,
    work: &Work,
    window: Window,
    sample: &mut dyn FnMut(Edge),
) -> io::Result<Measured> {
    run_with(target, work, window, PATIENCE, sample)
}

fn run_with(
    target: SocketAddr,
    work: &Work,
    window: Window,
    patience: Duration,
    sample: &mut dyn FnMut(Edge),
) -> io::Result<Measured> {
    machine::allow_many_files()?;
    let mut runtime = ring::runtime()?;
    let run = Rc::new(Run::new(target)?);
    runtime.block_on(async {
        let mut crew = Crew::new(run.clone(), work, patience)?;
        let ran = crew.work(work.connections(), window, sample).await;
        crew.end().await?;
        ran
    })?;
    let run = Rc::into_inner(run).expect("all tasks have ended");
    Ok(run.measured.into_inner())
}

/// CLOCK_MONOTONIC in nanoseconds, the clock of the origin's events.
pub(crate) fn clock() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What went wrong with a request.
#[derive(Debug)]
pub(crate) enum Fault {
    /// A wrong byte, a truncation, a surplus.
    Wrong(String),
    /// Any other way to have no proper response.
    Error(String),
}

/// What all connections share.
struct Run {
    target: SocketAddr,
    pattern: Pattern,
    measured: RefCell<Measured>,
    /// Of the window, in nanoseconds.
    begin: Cell<u64>,
    end: Cell<u64>,
    /// Connections that have had a response.
    up: Cell<usize>,
    stopping: Cell<bool>,
    /// We have ended all connections: what they report now is our doing.
    cut: Cell<bool>,
}

impl Run {
    fn new(target: SocketAddr) -> io::Result<Self> {
        let latency = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).map_err(io::Error::other)?;
        Ok(Self {
            target,
            pattern: Pattern::default(),
            measured: RefCell::new(Measured {
                units: 0,
                seconds: 0.0,
                latency,
                wrong: 0,
                errors: 0,
                error_samples: Vec::new(),
            }),
            begin: Cell::new(u64::MAX),
            end: Cell::new(u64::MAX),
            up: Cell::new(0),
            stopping: Cell::new(false),
            cut: Cell::new(false),
        })
    }

    fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    fn came_up(&self) {
        self.up.set(self.up.get() + 1);
    }

    /// `units` arrived at `now`.
    fn count(&self, now: u64, units: u64) {
        if self.is_measured(now) {
            self.measured.borrow_mut().units += units;
        }
    }

    /// Something was completed at `now`, `latency` nanoseconds after it was wanted.
    fn completed(&self, now: u64, latency: u64) {
        if self.is_measured(now) {
            self.measured
                .borrow_mut()
                .latency
                .saturating_record(latency);
        }
    }

    fn is_measured(&self, now: u64) -> bool {
        (self.begin.get()..self.end.get()).contains(&now)
    }

    fn fault(&self, slot: &Slot, fault: Fault) {
        let overdue = slot.take_overdue();
        if self.cut.get() && !overdue {
            return;
        }
        let mut measured = self.measured.borrow_mut();
        let text = match fault {
            // What a connection reports after the watch has ended it is not the peer's doing.
            Fault::Wrong(text) | Fault::Error(text) if overdue => {
                measured.errors += 1;
                format!("given up waiting: {text}")
            }
            Fault::Error(text) => {
                measured.errors += 1;
                text
            }
            Fault::Wrong(text) => {
                measured.wrong += 1;
                text
            }
        };
        let samples = &mut measured.error_samples;
        if samples.len() < ERROR_SAMPLES_MAX && !samples.contains(&text) {
            samples.push(text);
        }
    }
}
