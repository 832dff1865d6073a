//! The retry budget: how many of the recent requests may be sent again, so that an upstream that fails
//! them all does not get twice as many.
//!
//! Each core counts for itself. In any `WINDOW` that ends with a replay there are no more replays than
//! `FLOOR` and the given share of the requests that were attempted in it. A request counts from when
//! it is first attempted, whatever becomes of it: finagle and linkerd count so too. Envoy takes a
//! share of the requests in flight, of which streams that go on for minutes would be the most.
use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use crate::net::Instant;

/// A request that hangs asks for its replay after `RESPONSE_HEADER_TIMEOUT_SECONDS`, by default 30 s:
/// it should still count then, and those that began with it too. Much longer, and the good minutes
/// before an outage would pay for doubling its first ones.
const WINDOW: Duration = Duration::from_secs(SLOT_SECONDS * SLOTS as u64);
/// The window moves on in steps of a slot. Turns of a model take seconds, so this is fine enough.
const SLOT_SECONDS: u64 = 5;
const SLOTS: usize = 12;
/// Replays that need no other requests. Who works alone has a few requests a minute, so any share of
/// them would be none. This is one for each of the agents that such a user has running, while all
/// users of a core cannot have more than these together.
const FLOOR: u64 = 3;
/// A request counts for as long as it is less than `WINDOW` old for certain, and a replay until it is
/// older for certain. This takes a slot more.
const SLOTS_KEPT: usize = SLOTS + 1;

/// What one core may send again.
pub struct Budget {
    percent: u64,
    started: Instant,
    /// The number of the slot counted in last, from `started` on.
    latest: Cell<u64>,
    /// Each at its number modulo `SLOTS_KEPT`.
    slots: [Slot; SLOTS_KEPT],
}

#[derive(Default)]
struct Slot {
    requests: Cell<u64>,
    replays: Cell<u64>,
}

/// There was no replay left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied;

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "not tried again, the retry budget of the last {} s is used up (RETRY_BUDGET_PERCENT)",
            WINDOW.as_secs()
        )
    }
}

impl Budget {
    /// `percent` of the requests from `now` on.
    pub fn new(percent: u8, now: Instant) -> Self {
        Self {
            percent: percent.into(),
            started: now,
            latest: Cell::default(),
            slots: Default::default(),
        }
    }

    /// A request is attempted for the first time.
    pub fn request(&self, now: Instant) {
        let slot = &self.slots[self.advance(now)];
        slot.requests.update(|requests| requests + 1);
    }

    /// Takes a replay.
    ///
    /// # Errors
    ///
    /// None is left.
    pub fn replay(&self, now: Instant) -> Result<(), Denied> {
        let index = self.advance(now);
        let (mut requests, mut replays) = (0, 0);
        for slot in &self.slots {
            requests += slot.requests.get();
            replays += slot.replays.get();
        }
        // Some in the oldest slot are more than a window old.
        requests -= self.slots[(index + 1) % SLOTS_KEPT].requests.get();
        if replays >= FLOOR + requests * self.percent / 100 {
            return Err(Denied);
        }
        self.slots[index].replays.update(|replays| replays + 1);
        Ok(())
    }

    /// Forgets what is too old, and says where to count. For a clock that went back no time passes.
    fn advance(&self, now: Instant) -> usize {
        let age = now.saturating_duration_since(self.started);
        let (latest, number) = (self.latest.get(), age.as_secs() / SLOT_SECONDS);
        if number <= latest {
            return index(latest);
        }
        for gone in (latest + 1..=number).take(SLOTS_KEPT) {
            let slot = &self.slots[index(gone)];
            slot.requests.set(0);
            slot.replays.set(0);
        }
        self.latest.set(number);
        index(number)
    }
}

fn index(number: u64) -> usize {
    (number % SLOTS_KEPT as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    /// A budget and its clock, in milliseconds from its start.
    struct Clocked(Budget, Instant);

    impl Clocked {
        fn new(percent: u8) -> Self {
            let start = Instant::now();
            Self(Budget::new(percent, start), start)
        }

        fn requests(&self, count: usize, at: u64) {
            for _ in 0..count {
                self.0.request(self.1 + Duration::from_millis(at));
            }
        }

        fn replays(&self, at: u64) -> bool {
            self.0.replay(self.1 + Duration::from_millis(at)).is_ok()
        }

        /// Takes all that are left.
        fn left(&self, at: u64) -> usize {
            let most = 1_000_000;
            (0..most).take_while(|_| self.replays(at)).count()
        }
    }

    #[test]
    fn without_other_requests_there_is_the_floor_and_no_more() {
        let budget = Clocked::new(1);
        assert_eq!(budget.left(0), 3);
        budget.requests(99, 0);
        assert_eq!(budget.left(0), 0);
        budget.requests(1, 0);
        assert_eq!(budget.left(0), 1);
    }

    #[test]
    fn the_share_is_rounded_down_and_comes_on_top_of_the_floor() {
        for (percent, requests, share) in [
            (1, 250, 2),
            (20, 4, 0),
            (20, 5, 1),
            (33, 100, 33),
            (99, 1, 0),
            (100, 1, 1),
            (100, 1000, 1000),
        ] {
            let budget = Clocked::new(percent);
            budget.requests(requests, 0);
            assert_eq!(budget.left(0), 3 + share, "{percent} % of {requests}");
        }
    }

    #[test]
    fn a_request_counts_for_up_to_a_window_and_at_least_a_slot_less() {
        for (at, until) in [(0, 59_999), (4_999, 59_999), (5_000, 64_999)] {
            let counted = |then| {
                let budget = Clocked::new(10);
                budget.requests(100, at);
                budget.left(then)
            };
            assert_eq!((counted(until), counted(until + 1)), (13, 3), "{at}");
        }
    }

    #[test]
    fn a_replay_counts_for_a_window_and_up_to_a_slot_more() {
        for (at, until) in [(0, 64_999), (4_999, 64_999), (5_000, 69_999)] {
            let left = |then| {
                let budget = Clocked::new(10);
                budget.left(at);
                budget.left(then)
            };
            assert_eq!((left(until), left(until + 1)), (0, 3), "{at}");
        }
    }

    #[test]
    fn nothing_is_left_of_what_was_before_a_long_silence() {
        for silence in [HOUR, 24 * HOUR, 30 * 365 * 24 * HOUR] {
            // Whichever slot the clock comes out in.
            for more in (0..70_000).step_by(5_000) {
                let budget = Clocked::new(100);
                for slot in 0..SLOTS_KEPT as u64 {
                    budget.requests(10, slot * SLOT_SECONDS * 1000);
                }
                assert!(budget.replays(60_000));
                assert_eq!(budget.left(silence + more), 3, "{silence} {more}");
            }
        }
    }

    #[test]
    fn for_a_clock_that_goes_back_no_time_passes() {
        let before = Instant::now();
        let budget = Budget::new(100, before + Duration::from_secs(7200));
        let after = before + Duration::from_secs(7300);
        budget.request(after);
        budget.request(before);
        let replays = [before, after].repeat(5).into_iter();
        let granted = replays.filter(|now| budget.replay(*now).is_ok());
        assert_eq!(granted.count(), 3 + 2);
    }

    /// Draws that can be had again (splitmix64).
    struct Draws(u64);

    impl Draws {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % end
        }
    }

    /// How many of these moments lie less than `age` before `now`.
    fn younger(moments: &[u64], age: u64, now: u64) -> u64 {
        moments.iter().filter(|at| **at + age > now).count() as u64
    }

    #[test]
    fn no_minute_has_more_replays_than_it_may_and_none_is_denied_that_every_minute_allows() {
        let (mut granted, mut denied) = (0, 0);
        for seed in 0..100 {
            let mut draws = Draws(seed);
            let percent = 1 + draws.below(100);
            let budget = Clocked::new(percent as u8);
            let (mut requests, mut replays, mut now) = (Vec::new(), Vec::new(), 0);
            let (busy, failing) = (1 + draws.below(4_000), 1 + draws.below(6));
            for _ in 0..1_000 {
                now += match draws.below(50) {
                    0 => draws.below(90_000),
                    1 => 5_000 - now % 5_000, // to the edge of a slot
                    2 => 60_000,
                    _ => draws.below(busy),
                };
                requests.push(now);
                budget.requests(1, now);
                if draws.below(failing) > 0 {
                    continue;
                }
                let most = |age| 3 + younger(&requests, age, now) * percent / 100;
                if budget.replays(now) {
                    replays.push(now);
                    granted += 1;
                    assert!(younger(&replays, 60_000, now) <= most(60_000), "{seed}");
                } else {
                    denied += 1;
                    assert!(younger(&replays, 65_001, now) >= most(55_000), "{seed}");
                }
            }
        }
        assert!(granted > 10_000 && denied > 10_000, "{granted} {denied}");
    }
}
