//! What all cores say of themselves, as one.
use std::cmp::Reverse;

use crate::telemetry::counters::Counters;
use crate::telemetry::live::{Going, MISHAPS_MAX, Mishap, TOLD_MAX};
use crate::telemetry::log;
use crate::telemetry::report::{Gauges, Report};
use crate::telemetry::words::Phase;

/// The process at one moment, or nearly: each core has been asked at its own.
#[derive(Default)]
pub struct Whole {
    /// What has been counted.
    pub counters: Counters,
    /// How many exchanges there are at each phase.
    pub phases: [u64; Phase::NAMES.len()],
    /// The oldest of them, oldest first.
    pub oldest: Vec<Going>,
    /// What went wrong last, the latest first.
    pub mishaps: Vec<Mishap>,
    /// What is held.
    pub gauges: Gauges,
    /// Log lines that stdout was read too slowly for.
    pub log_lines_lost: u64,
}

impl Whole {
    /// All of `reports`, one of each core.
    pub fn of<'r>(reports: impl IntoIterator<Item = &'r Report>) -> Self {
        let mut whole = Self {
            log_lines_lost: log::lines_lost(),
            ..Self::default()
        };
        for report in reports {
            whole.counters.add(&report.counters);
            for (all, one) in whole.phases.iter_mut().zip(report.live.phases) {
                *all += one;
            }
            whole.oldest.extend(report.live.oldest.iter().cloned());
            whole.mishaps.extend(report.mishaps.iter().cloned());
            whole.gauges.add(&report.gauges);
        }
        whole.oldest.sort_by_key(|going| going.since);
        whole.oldest.truncate(TOLD_MAX);
        whole.mishaps.sort_by_key(|mishap| Reverse(mishap.at));
        whole.mishaps.truncate(MISHAPS_MAX);
        whole
    }

    /// Exchanges that are going on.
    pub fn in_flight(&self) -> u64 {
        self.phases.iter().sum()
    }
}

impl Gauges {
    fn add(&mut self, other: &Self) {
        // Taken apart by name, so that a new one cannot be forgotten here.
        let Self {
            client_connections,
            idle_connections,
            buffered_bytes,
            drains,
            replays_left,
            draining,
        } = other;
        self.client_connections += client_connections;
        self.idle_connections += idle_connections;
        self.buffered_bytes += buffered_bytes;
        self.drains += drains;
        if let Some(left) = replays_left {
            *self.replays_left.get_or_insert(0) += left;
        }
        self.draining |= draining;
    }
}
