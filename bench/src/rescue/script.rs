//! The requests of the scenario, and what the origin does with each: the same behind every contestant
//! and in every run.
use crate::{
    origin::{EMPTY, hash},
    pattern::Pattern,
};

const BODY_BYTES_MIN: u64 = 1 << 10;
const BODY_BYTES_MAX: u64 = 40 << 10;

/// What an origin does with a request, time after time, and how many of `SHARES` requests meet it.
struct Lot {
    share: u64,
    steps: &'static str,
    /// Two attempts are enough for the right answer, and the second is sent with no byte seen before.
    second_helps: bool,
}

/// All shares together.
const SHARES: u64 = 1000;

/// Whoever asks once more after a byte of an answer gets a good one: it is then in the ledger.
const LOTS: [Lot; 11] = [
    lot(550, "ok", true),
    // A model thinks in the middle of its answer.
    lot(50, "pause,ok", true),
    lot(100, "silent,ok", true),
    lot(50, "reset,ok", true),
    lot(50, "reset-at-once,ok", true),
    lot(30, "half-head,ok", false),
    lot(20, "half-head-hang,ok", false),
    lot(30, "garbage,ok", false),
    lot(40, "cut,ok", false),
    lot(40, "cut-chunked,ok", false),
    lot(40, "silent,silent,ok", false),
];

const fn lot(share: u64, steps: &'static str, second_helps: bool) -> Lot {
    Lot {
        share,
        steps,
        second_helps,
    }
}

/// A request as it is sent, and by what it is known.
pub(super) struct Request {
    pub(super) id: String,
    pub(super) steps: &'static str,
    /// Head and body.
    pub(super) bytes: Vec<u8>,
    pub(super) body_hash: u64,
}

/// The requests behind one contestant.
pub(super) struct Script {
    contestant: &'static str,
    pattern: Pattern,
}

impl Script {
    pub(super) fn new(contestant: &'static str) -> Self {
        let pattern = Pattern::default();
        Self {
            contestant,
            pattern,
        }
    }

    pub(super) fn request(&self, index: u64) -> Request {
        let id = format!("{}-{index}", self.contestant);
        let steps = lot_of(index).steps;
        let length = BODY_BYTES_MIN + drawn(index, 1) % (BODY_BYTES_MAX - BODY_BYTES_MIN + 1);
        let head = format!(
            "POST /plan/{id}/{steps} HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
        );
        let mut bytes = head.into_bytes();
        let body = bytes.len()..bytes.len() + length as usize;
        // The body is no other request's.
        bytes.extend_from_slice(id.as_bytes());
        let filling = body.end - bytes.len();
        bytes.extend_from_slice(self.pattern.at(drawn(index, 2), filling));
        let body_hash = hash(EMPTY, &bytes[body]);
        Request {
            id,
            steps,
            bytes,
            body_hash,
        }
    }
}

/// How many of the first `requests` a proxy with two attempts must get a right answer for.
pub(super) fn answerable(requests: u64) -> u64 {
    let answerable = (0..requests).filter(|&index| lot_of(index).second_helps);
    answerable.count() as u64
}

fn lot_of(index: u64) -> &'static Lot {
    let mut drawn = drawn(index, 0) % SHARES;
    let met = LOTS.iter().find(|lot| match drawn.checked_sub(lot.share) {
        Some(left) => {
            drawn = left;
            false
        }
        None => true,
    });
    met.expect("the shares add up to SHARES")
}

/// A number that looks random and is always the same (SplitMix64).
fn drawn(index: u64, what: u64) -> u64 {
    let mut state = (index * 3 + what + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_requests_meet_every_lot_and_many_meet_each_by_its_share() {
        assert_eq!(LOTS.iter().map(|lot| lot.share).sum::<u64>(), SHARES);
        for (requests, tolerance) in [(400, 0.9), (100_000, 0.1)] {
            for lot in &LOTS {
                let met = (0..requests).filter(|&index| lot_of(index).steps == lot.steps);
                let expected = (requests * lot.share / SHARES) as f64;
                let off = (met.count() as f64 - expected).abs() / expected;
                assert!(off < tolerance, "{}: off by {off} of {requests}", lot.steps);
            }
        }
    }

    #[test]
    fn requests_differ_in_id_and_body_and_are_the_same_again() {
        let script = Script::new("x");
        let (one, same, other) = (script.request(7), script.request(7), script.request(8));
        assert_eq!(one.bytes, same.bytes);
        assert_ne!(one.id, other.id);
        assert_ne!(one.body_hash, other.body_hash);
    }
}
