//! The retry budget: how many of the recent requests may be sent again, so that an upstream that fails
//! them all does not get twice as many.
//!
//! Each core counts for itself. In any 60 seconds that end with a replay there are no more replays than
//! `FLOOR` and the given share of the requests that were first attempted in them. A request counts
//! whatever becomes of it, as in finagle. Envoy takes a share of the requests in flight: of streams
//! that go on for minutes these are the most, and they say nothing of how much is asked just now.
use std::cell::Cell;

use crate::telemetry::clock::Moment;

/// The window, in slots. 60 seconds: a request that hangs asks for its replay after 30, unless
/// `RESPONSE_HEADER_TIMEOUT_SECONDS` says otherwise, and should still count then, with all that began
/// when it did. Were it much longer, the good minutes before an outage would pay for doubling it.
const SLOTS: usize = 12;
/// The window moves on in such steps: turns of a model take as long.
const SLOT_SECONDS: u64 = 5;
/// Replays that are there without any share. A single user has a few requests a minute, and of those
/// most shares are none: with three of them hanging at once, or one through four attempts, all are
/// still rescued. In an outage it is next to nothing, however many users there are.
const FLOOR: u64 = 3;
/// By slots, ages are known to within one. To be sure, a replay is remembered for one slot longer than
/// the window, and a request for as long as it is surely in it.
const SLOTS_KEPT: usize = SLOTS + 1;

/// What one core may send again.
pub struct Budget {
    percent: u64,
    started: Moment,
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

impl Budget {
    /// `percent` of the requests from `now` on.
    pub fn new(percent: u8, now: Moment) -> Self {
        Self {
            percent: percent.into(),
            started: now,
            latest: Cell::default(),
            slots: Default::default(),
        }
    }

    /// A request is attempted for the first time.
    pub fn request(&self, now: Moment) {
        let slot = &self.slots[index(self.advance(now))];
        slot.requests.update(|requests| requests + 1);
    }

    /// Takes a replay, if one is left.
    pub fn replay(&self, now: Moment) -> bool {
        let is_left = self.left(now) > 0;
        if is_left {
            let slot = &self.slots[index(self.latest.get())];
            slot.replays.update(|replays| replays + 1);
        }
        is_left
    }

    /// How many replays are left.
    pub fn left(&self, now: Moment) -> u64 {
        let latest = self.advance(now);
        let (mut requests, mut replays) = (0, 0);
        for slot in &self.slots {
            requests += slot.requests.get();
            replays += slot.replays.get();
        }
        // In the oldest slot some are older than the window.
        requests -= self.slots[index(latest + 1)].requests.get();
        (FLOOR + requests * self.percent / 100).saturating_sub(replays)
    }

    /// Forgets what is too old; the number of the slot to count in. For a clock that went back no time
    /// passes.
    fn advance(&self, now: Moment) -> u64 {
        let age = now.since(self.started);
        let (latest, number) = (self.latest.get(), age.as_secs() / SLOT_SECONDS);
        if number <= latest {
            return latest;
        }
        for gone in (latest + 1..=number).take(SLOTS_KEPT) {
            let slot = &self.slots[index(gone)];
            slot.requests.set(0);
            slot.replays.set(0);
        }
        self.latest.set(number);
        number
    }
}

fn index(number: u64) -> usize {
    (number % SLOTS_KEPT as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: u64 = 3_600_000;

    /// A budget and its clock, in milliseconds from its start.
    struct Clocked(Budget, Moment);

    impl Clocked {
        fn new(percent: u8) -> Self {
            let start = Moment::now();
            Self(Budget::new(percent, start), start)
        }

        fn requests(&self, count: usize, at: u64) {
            for _ in 0..count {
                self.0.request(self.1 + Duration::from_millis(at));
            }
        }

        fn replays(&self, at: u64) -> bool {
            self.0.replay(self.1 + Duration::from_millis(at))
        }

        /// Takes all that are left.
        fn left(&self, at: u64) -> u64 {
            let said = self.0.left(self.1 + Duration::from_millis(at));
            let taken = (0..=said).take_while(|_| self.replays(at)).count() as u64;
            assert_eq!(taken, said);
            taken
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
        let before = Moment::now();
        let budget = Budget::new(100, before + Duration::from_secs(7200));
        let after = before + Duration::from_secs(7300);
        budget.request(after);
        budget.request(before);
        let replays = [before, after].repeat(5).into_iter();
        let granted = replays.filter(|now| budget.replay(*now));
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
