//! The exchanges of a core that are going on, and what went wrong last.
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::SystemTime;

use slab::Slab;

use crate::telemetry::clock::Moment;
use crate::telemetry::record::{Id, Named};
use crate::telemetry::words::{Cause, Delivery, Phase};

/// Exchanges that a look at a core tells one by one; the others are only counted.
pub(super) const TOLD_MAX: usize = 50;
/// Mishaps that a core remembers.
pub const MISHAPS_MAX: usize = 20;

thread_local! {
    static LIVE: RefCell<Slab<Rc<Named>>> = const { RefCell::new(Slab::new()) };
    static MISHAPS: RefCell<VecDeque<Mishap>> = const { RefCell::new(VecDeque::new()) };
}

/// What an exchange that is going on is at.
#[derive(Default)]
pub(super) struct State {
    id: Cell<Id>,
    since: Cell<Moment>,
    pub(super) phase: Cell<Phase>,
    pub(super) attempt: Cell<u32>,
}

/// A place among the exchanges that are going on; left when dropped.
pub(super) struct Place {
    pub(super) named: Rc<Named>,
    key: usize,
}

impl Place {
    pub(super) fn take(id: Id, named: Rc<Named>, since: Moment) -> Self {
        named.state.id.set(id);
        named.state.since.set(since);
        let key = LIVE.with_borrow_mut(|live| live.insert(named.clone()));
        Self { named, key }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // At the end of a thread there may be nothing left to leave.
        let _ = LIVE.try_with(|live| live.borrow_mut().try_remove(self.key));
    }
}

/// The exchanges of a core that are going on.
pub struct Live {
    /// How many there are at each phase.
    pub phases: [u64; Phase::NAMES.len()],
    /// The oldest of them, oldest first.
    pub oldest: Vec<Going>,
}

/// One exchange that is going on.
#[derive(Clone)]
pub struct Going {
    /// Its id, as in the log.
    pub id: String,
    /// Its method.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
    /// What it is at.
    pub phase: Phase,
    /// The number of its attempt; 0 before the first.
    pub attempt: u32,
    /// When its request's head had come.
    pub since: Moment,
}

/// What this core is at.
pub fn look() -> Live {
    LIVE.with_borrow(|live| {
        let mut phases = [0; Phase::NAMES.len()];
        let mut all: Vec<&Named> = live.iter().map(|(_, named)| &**named).collect();
        for named in &all {
            phases[named.state.phase.get() as usize] += 1;
        }
        let since = |named: &&Named| named.state.since.get();
        if all.len() > TOLD_MAX {
            all.select_nth_unstable_by_key(TOLD_MAX, since);
            all.truncate(TOLD_MAX);
        }
        all.sort_unstable_by_key(since);
        let going = |named: &Named| Going {
            id: named.state.id.get().to_string(),
            method: named.method.to_string(),
            path: named.path.clone(),
            phase: named.state.phase.get(),
            attempt: named.state.attempt.get(),
            since: named.state.since.get(),
        };
        Live {
            phases,
            oldest: all.into_iter().map(going).collect(),
        }
    })
}

/// Something that went wrong.
#[derive(Clone)]
pub struct Mishap {
    /// When.
    pub at: SystemTime,
    /// The exchange's id, as in the log.
    pub id: String,
    /// Its method.
    pub method: String,
    /// Its path, without the query.
    pub path: String,
    /// The attempt that failed, how, and how far its request came; `None` where a response had begun.
    pub attempt: Option<(u32, Cause, Delivery)>,
    /// What it was at.
    pub phase: Phase,
    /// Why, in a sentence.
    pub cause: String,
    /// What came of it, in a few words.
    pub then: &'static str,
}

pub(super) fn remember(mishap: Mishap) {
    MISHAPS.with_borrow_mut(|mishaps| {
        if mishaps.len() == MISHAPS_MAX {
            mishaps.pop_front();
        }
        mishaps.push_back(mishap);
    });
}

/// What went wrong last on this core, the latest last.
pub fn mishaps() -> Vec<Mishap> {
    MISHAPS.with_borrow(|mishaps| mishaps.iter().cloned().collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::record::Ids;

    fn named(path: &str) -> Rc<Named> {
        Named::new("GET".into(), path.to_owned())
    }

    #[test]
    fn the_oldest_are_told_and_all_are_counted() {
        let (ids, start) = (Ids::default(), Moment::now());
        let place = |at: u64| {
            let since = start + Duration::from_secs(at * 7 % 1000);
            Place::take(ids.next(), named(&format!("/{}", at * 7 % 1000)), since)
        };
        let mut places: Vec<_> = (0..1000).map(place).collect();
        places[3].named.state.phase.set(Phase::Relay);
        let live = look();
        assert_eq!(live.phases[Phase::Receiving as usize], 999);
        assert_eq!(live.phases[Phase::Relay as usize], 1);
        let paths: Vec<_> = live.oldest.iter().map(|going| going.path.clone()).collect();
        let expected: Vec<_> = (0..TOLD_MAX).map(|at| format!("/{at}")).collect();
        assert_eq!(paths, expected);
        places.truncate(2);
        assert_eq!(look().oldest.len(), 2);
        drop(places);
        assert_eq!(look().phases.iter().sum::<u64>(), 0);
    }

    #[test]
    fn mishaps_are_remembered_up_to_a_number() {
        let ids = Ids::default();
        for at in 0..MISHAPS_MAX + 5 {
            remember(Mishap {
                at: SystemTime::now(),
                id: ids.next().to_string(),
                method: "GET".to_owned(),
                path: format!("/{at}"),
                attempt: Some((1, Cause::HeaderTimeout, Delivery::Acked)),
                phase: Phase::Header,
                cause: "silence".to_owned(),
                then: "sent again",
            });
        }
        let paths: Vec<_> = mishaps().into_iter().map(|mishap| mishap.path).collect();
        let expected: Vec<_> = (5..MISHAPS_MAX + 5).map(|at| format!("/{at}")).collect();
        assert_eq!(paths, expected);
    }
}
