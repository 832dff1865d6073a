//! The clock by which exchanges are timed, and deadlines set.
use std::ops::Add;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A point in time: one number, so that what is taken of each exchange several times costs little to
/// reckon with. Seconds and nanoseconds, as in `Instant`, take fifty instructions to subtract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// As often the kernel sets its coarse clock, at the least (CONFIG_HZ=100).
    pub const TICK: Duration = Duration::from_millis(10);

    /// The present one.
    pub fn now() -> Self {
        Self::of(ClockId::CLOCK_MONOTONIC)
    }

    /// The present one or later, by [`Self::TICK`] at most, for a fifth of the cost.
    pub fn soon() -> Self {
        Self::of(ClockId::CLOCK_MONOTONIC_COARSE) + Self::TICK
    }

    fn of(clock: ClockId) -> Self {
        let now = clock_gettime(clock).expect("every Linux has this clock");
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

impl Add<Duration> for Moment {
    type Output = Self;

    /// Five hundred years stand for ever.
    fn add(self, later: Duration) -> Self {
        let nanos = u64::try_from(later.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}
