//! What a core says of itself when it is asked.
use crate::telemetry::counters::{self, Counters};
use crate::telemetry::live::{self, Live, Mishap};

/// One core at one moment.
pub struct Report {
    /// Which core.
    pub core: usize,
    /// What it has counted.
    pub counters: Counters,
    /// What it is at.
    pub live: Live,
    /// What went wrong last.
    pub mishaps: Vec<Mishap>,
    /// What it holds.
    pub gauges: Gauges,
}

/// What a core holds at one moment.
#[derive(Clone, Copy, Default)]
pub struct Gauges {
    /// Connections of clients.
    pub client_connections: u64,
    /// Idle connections to the upstream.
    pub idle_connections: u64,
    /// Request bodies, in bytes.
    pub buffered_bytes: u64,
    /// Responses that are followed a little further for clients that have left.
    pub drains: u64,
    /// Replays that RETRY_BUDGET_PERCENT allows now, where it is set.
    pub replays_left: Option<u64>,
    /// It accepts no more and finishes what there is.
    pub draining: bool,
}

impl Report {
    /// Of the core that this thread is, which holds `gauges`.
    pub fn of_core(core: usize, gauges: Gauges) -> Self {
        Self {
            core,
            counters: counters::copy(),
            live: live::look(),
            mishaps: live::mishaps(),
            gauges,
        }
    }
}
