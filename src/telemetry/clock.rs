//! The clock by which exchanges are timed.
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A point in time: one number, so that what is taken of each exchange several times costs little to
/// reckon with. Seconds and nanoseconds, as in `Instant`, take fifty instructions to subtract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The present one.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
        // Since the machine's start: neither is negative, and 64 bits last for 500 years.
        Self(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
    }

    /// The time from `earlier` to this; none where it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time from this to the present.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }
}

#[cfg(test)]
impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0 + later.as_nanos() as u64)
    }
}
