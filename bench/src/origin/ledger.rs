//! What the origin saw of the requests that carry a plan.
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// All arrivals by ID. Shared with the harness, which is in the same process.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<HashMap<String, Vec<Arrival>>>);

/// One time that a request was seen.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When its head was there.
    pub at: Instant,
    /// [`hash`] of its body, once that is there in full.
    pub body: Option<u64>,
    /// When the first byte in answer was sent to a peer that had not closed the connection.
    pub answered: Option<Instant>,
    /// A byte in answer to an earlier arrival had been sent before: nobody may send it again then.
    pub after_answer: bool,
}

impl Ledger {
    /// The arrivals of the request with this ID, in their order.
    pub fn arrivals(&self, id: &str) -> Vec<Arrival> {
        self.lock().get(id).cloned().unwrap_or_default()
    }

    /// The same, and forgets them: whatever arrives later is a request that nobody has taken.
    pub fn take(&self, id: &str) -> Vec<Arrival> {
        self.lock().remove(id).unwrap_or_default()
    }

    /// The requests that nobody has taken.
    pub fn left(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Enters an arrival; its number, from 0 on.
    pub(super) fn arrives(&self, id: &str) -> usize {
        let mut seen = self.lock();
        let arrivals = seen.entry(id.to_owned()).or_default();
        arrivals.push(Arrival {
            at: Instant::now(),
            body: None,
            answered: None,
            after_answer: arrivals.iter().any(|earlier| earlier.answered.is_some()),
        });
        arrivals.len() - 1
    }

    pub(super) fn has_body(&self, id: &str, number: usize, hash: u64) {
        self.change(id, number, |arrival| arrival.body = Some(hash));
    }

    /// To be said before the byte is sent: who sees it may act on it at once.
    pub(super) fn is_answered(&self, id: &str, number: usize) {
        let now = Instant::now();
        self.change(id, number, |arrival| arrival.answered = Some(now));
    }

    fn change(&self, id: &str, number: usize, change: impl FnOnce(&mut Arrival)) {
        let mut seen = self.lock();
        if let Some(arrival) = seen.get_mut(id).and_then(|all| all.get_mut(number)) {
            change(arrival);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Arrival>>> {
        // Every change is complete once made: a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hash (FNV-1a) of a body that begins with what `state` stands for and goes on with `bytes`.
pub fn hash(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The hash of no bytes.
pub const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrival_after_an_answer_is_told_from_one_before() {
        let ledger = Ledger::default();
        assert_eq!(ledger.arrives("a"), 0);
        assert_eq!(ledger.arrives("a"), 1);
        assert_eq!(ledger.arrives("b"), 0);
        ledger.is_answered("a", 1);
        ledger.has_body("a", 1, hash(hash(EMPTY, b"bo"), b"dy"));
        ledger.arrives("a");
        ledger.arrives("b");
        let after = |id| -> Vec<bool> {
            let arrivals = ledger.arrivals(id);
            arrivals
                .iter()
                .map(|arrival| arrival.after_answer)
                .collect()
        };
        assert_eq!(after("a"), [false, false, true]);
        assert_eq!(after("b"), [false, false]);
        assert_eq!(ledger.arrivals("a")[1].body, Some(hash(EMPTY, b"body")));
        assert!(ledger.arrivals("c").is_empty());
    }
}
