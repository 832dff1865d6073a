//! What a core counts: plain cells of its own thread. Who reads them gets a copy, and adds up those of
//! all cores.
use std::array;
use std::cell::Cell;
use std::time::Duration;

use crate::telemetry::words::{Cause, Delivery, Ending, Phase};

/// Upper bounds of the buckets of a histogram of seconds, in nanoseconds. Beyond the last one there is
/// a bucket more.
pub const BOUNDS: [u64; 19] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    120_000_000_000,
    300_000_000_000,
    600_000_000_000,
];

/// The codes of `Refusal`, which stands above this module.
pub const CODES: [&str; 12] = [
    "bad_request",
    "unauthorized",
    "method_not_allowed",
    "request_timeout",
    "request_body_too_large",
    "uri_too_long",
    "header_fields_too_large",
    "overloaded",
    "upstream_header_timeout",
    "upstream_timeout",
    "upstream_request_error",
    "upstream_bad_response",
];

/// The number of an attempt, as a label: all from the third on are one.
pub(super) const ATTEMPTS: [&str; 3] = ["1", "2", "3+"];

thread_local! {
    static COUNTERS: Counters = const { Counters::new() };
}

/// Adds one to a number of this core.
pub fn count(which: impl FnOnce(&Counters) -> &Count) {
    add(1, which);
}

/// Adds `amount` to a number of this core.
pub fn add(amount: u64, which: impl FnOnce(&Counters) -> &Count) {
    COUNTERS.with(|counters| which(counters).add(amount));
}

/// Puts a duration into a histogram of this core.
pub fn observe(took: Duration, which: impl FnOnce(&Counters) -> &Histogram) {
    COUNTERS.with(|counters| which(counters).observe(took));
}

/// The numbers of this core, as they are now.
pub fn copy() -> Counters {
    COUNTERS.with(Counters::clone)
}

/// A number that only grows.
#[derive(Clone)]
pub struct Count(Cell<u64>);

impl Count {
    const fn new() -> Self {
        Self(Cell::new(0))
    }

    /// Its value.
    pub fn value(&self) -> u64 {
        self.0.get()
    }

    fn add(&self, amount: u64) {
        self.0.set(self.0.get().wrapping_add(amount));
    }
}

/// How often something took how long.
#[derive(Clone)]
pub struct Histogram {
    buckets: [Count; BOUNDS.len() + 1],
    /// A u64 would last thousands of streams for weeks only.
    nanos: Cell<f64>,
}

impl Histogram {
    const fn new() -> Self {
        Self {
            buckets: [const { Count::new() }; BOUNDS.len() + 1],
            nanos: Cell::new(0.0),
        }
    }

    fn observe(&self, took: Duration) {
        let nanos = took.as_secs().saturating_mul(1_000_000_000);
        let nanos = nanos.saturating_add(u64::from(took.subsec_nanos()));
        self.buckets[BOUNDS.partition_point(|bound| *bound < nanos)].add(1);
        self.nanos.set(self.nanos.get() + nanos as f64);
    }

    /// How many there are in each bucket; the last has no upper bound.
    pub fn buckets(&self) -> [u64; BOUNDS.len() + 1] {
        array::from_fn(|at| self.buckets[at].value())
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::try_from_secs_f64(self.nanos.get() / 1e9).unwrap_or(Duration::MAX)
    }
}

/// All numbers of a core, or their sums. What each means is said by [`Counters::families`].
#[derive(Clone)]
#[allow(missing_docs, reason = "each has its help text in `families`")]
pub struct Counters {
    pub exchanges: [Count; Ending::NAMES.len()],
    pub refusals: [Count; CODES.len()],
    pub clients_left: [Count; Phase::NAMES.len()],
    pub attempts: Count,
    pub failures: [[Count; Delivery::NAMES.len()]; Cause::NAMES.len()],
    pub replays: Count,
    pub replays_denied: Count,
    pub possibly_doubled: Count,
    pub early_answers: Count,
    pub tunnels: Count,
    pub request_bytes: Count,
    pub response_bytes: Count,
    pub spliced_bytes: Count,
    pub pool_hits: Count,
    pub pool_misses: Count,
    pub pool_stale: Count,
    pub connects: Count,
    pub connects_failed: Count,
    pub connects_abandoned: Count,
    pub handshakes_full: Count,
    pub handshakes_resumed: Count,
    pub handshakes_failed: Count,
    pub handshakes_abandoned: Count,
    pub clients_admitted: Count,
    pub clients_turned_away: Count,
    pub clients_closed: Count,
    pub panics: Count,
    pub connect_time: Histogram,
    pub handshake_time: Histogram,
    pub send_time: Histogram,
    pub header_time: [Histogram; ATTEMPTS.len()],
    pub exchange_time: Histogram,
}

impl Counters {
    /// All zero.
    pub const fn new() -> Self {
        Self {
            exchanges: [const { Count::new() }; Ending::NAMES.len()],
            refusals: [const { Count::new() }; CODES.len()],
            clients_left: [const { Count::new() }; Phase::NAMES.len()],
            attempts: Count::new(),
            failures: [const { [const { Count::new() }; Delivery::NAMES.len()] };
                Cause::NAMES.len()],
            replays: Count::new(),
            replays_denied: Count::new(),
            possibly_doubled: Count::new(),
            early_answers: Count::new(),
            tunnels: Count::new(),
            request_bytes: Count::new(),
            response_bytes: Count::new(),
            spliced_bytes: Count::new(),
            pool_hits: Count::new(),
            pool_misses: Count::new(),
            pool_stale: Count::new(),
            connects: Count::new(),
            connects_failed: Count::new(),
            connects_abandoned: Count::new(),
            handshakes_full: Count::new(),
            handshakes_resumed: Count::new(),
            handshakes_failed: Count::new(),
            handshakes_abandoned: Count::new(),
            clients_admitted: Count::new(),
            clients_turned_away: Count::new(),
            clients_closed: Count::new(),
            panics: Count::new(),
            connect_time: Histogram::new(),
            handshake_time: Histogram::new(),
            send_time: Histogram::new(),
            header_time: [const { Histogram::new() }; ATTEMPTS.len()],
            exchange_time: Histogram::new(),
        }
    }

    /// The wait for a response head, of the attempt with this number.
    pub fn header_time(&self, attempt: u32) -> &Histogram {
        let at = (attempt.max(1) as usize - 1).min(ATTEMPTS.len() - 1);
        &self.header_time[at]
    }

    /// The refusals with this code.
    pub fn refusals(&self, code: &str) -> &Count {
        let at = CODES.iter().position(|known| *known == code);
        &self.refusals[at.expect("every code stands in the list")]
    }

    /// Adds the numbers of another core.
    pub fn add(&self, other: &Self) {
        let pairs = self.families().into_iter().zip(other.families());
        for (ours, theirs) in pairs {
            match (ours.series, theirs.series) {
                (Series::Counts(ours), Series::Counts(theirs)) => {
                    for ((_, ours), (_, theirs)) in ours.iter().zip(theirs) {
                        ours.add(theirs.value());
                    }
                }
                (Series::Histograms(ours), Series::Histograms(theirs)) => {
                    for ((_, ours), (_, theirs)) in ours.iter().zip(theirs) {
                        for (ours, theirs) in ours.buckets.iter().zip(&theirs.buckets) {
                            ours.add(theirs.value());
                        }
                        ours.nanos.set(ours.nanos.get() + theirs.nanos.get());
                    }
                }
                _ => unreachable!("both are the same list"),
            }
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

/// Names and values of labels.
pub type Labels = Vec<(&'static str, &'static str)>;

/// Numbers of one meaning, told apart by labels.
pub struct Family<'c> {
    /// As Prometheus writes it, without the common prefix and `_total`.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub help: &'static str,
    /// The numbers.
    pub series: Series<'c>,
}

/// The numbers of a family.
pub enum Series<'c> {
    /// Each is one number.
    Counts(Vec<(Labels, &'c Count)>),
    /// Each is a distribution of seconds.
    Histograms(Vec<(Labels, &'c Histogram)>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_up_to_its_bound() {
        let times = Histogram::new();
        for nanos in [0, BOUNDS[0], BOUNDS[0] + 1, BOUNDS[18], BOUNDS[18] + 1] {
            times.observe(Duration::from_nanos(nanos));
        }
        times.observe(Duration::MAX);
        let buckets = times.buckets();
        assert_eq!((buckets[0], buckets[1]), (2, 1));
        assert_eq!((buckets[18], buckets[19]), (1, 2));
        assert_eq!(buckets.iter().sum::<u64>(), 6);
        assert!(BOUNDS.is_sorted());
    }

    #[test]
    fn the_numbers_of_cores_are_added_up_one_by_one() {
        let core = |factor: u64| {
            let core = Counters::new();
            let mut value = 0;
            for family in core.families() {
                match family.series {
                    Series::Counts(counts) => {
                        for (_, count) in counts {
                            value += 1;
                            count.add(value * factor);
                        }
                    }
                    Series::Histograms(histograms) => {
                        for (_, times) in histograms {
                            value += 1;
                            times.observe(Duration::from_secs(value * factor));
                        }
                    }
                }
            }
            assert!(value > 70, "{value}");
            core
        };
        let all = |core: &Counters| -> Vec<u64> {
            let numbers = |family: Family<'_>| match family.series {
                Series::Counts(counts) => counts.iter().map(|(_, count)| count.value()).collect(),
                Series::Histograms(histograms) => histograms
                    .iter()
                    .map(|(_, times)| times.sum().as_secs_f64().round() as u64)
                    .collect::<Vec<_>>(),
            };
            core.families().into_iter().flat_map(numbers).collect()
        };
        let sum = core(1);
        sum.add(&core(1000));
        let expected: Vec<u64> = (1..)
            .map(|number| number * 1001)
            .take(all(&sum).len())
            .collect();
        assert_eq!(all(&sum), expected);
    }

    #[test]
    fn a_name_is_given_once() {
        let core = Counters::new();
        let mut names: Vec<_> = core.families().iter().map(|family| family.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
