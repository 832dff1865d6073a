//! Until when something may take.
//!
//! Nearly every wait ends long before its deadline, so a deadline costs next to nothing until it
//! passes: a wait writes its deadline into a list of its core. One timer of the runtime, set for the
//! earliest of them, wakes those that are due.
use std::cell::RefCell;
use std::mem::{ManuallyDrop, replace};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use monoio::time::{Instant, sleep_until};
use pin_project_lite::pin_project;
use slab::Slab;

use crate::telemetry::clock::Moment;

/// So late does a core come that was stopped or kept busy, and not by the tick of its timers.
const LATE: Duration = Duration::from_millis(10);
/// The shortest wait in which a core looks at its sockets.
const LOOK: Duration = Duration::from_millis(1);

thread_local! {
    /// Never dropped: the tasks it wakes belong to a runtime that is not dropped either.
    static ALARMS: ManuallyDrop<RefCell<Alarms>> =
        const { ManuallyDrop::new(RefCell::new(Alarms::NONE)) };
}

/// A point in time, or none where there is no limit.
///
/// A deadline is never early. It may be late by [`Moment::TICK`], so that to set one costs little, and
/// by a millisecond in which timers tick.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Moment>);

/// The deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

impl Deadline {
    /// No limit.
    pub const NEVER: Self = Self(None);

    /// `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Self(Some(Moment::soon() + limit))
    }

    /// This moment.
    pub fn at(moment: Moment) -> Self {
        Self(Some(moment))
    }

    /// `limit` from now, or never.
    pub fn after_if(limit: Option<Duration>) -> Self {
        limit.map_or(Self::NEVER, Self::after)
    }

    /// What is left, `None` where there is no limit.
    pub fn left(self) -> Option<Duration> {
        self.0.map(|at| at.since(Moment::now()))
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.0.is_some_and(|at| at <= Moment::now())
    }

    /// Waits for it.
    pub fn passed(self) -> Passed {
        Passed(self.alarm())
    }

    /// Awaits `future` as long as there is time. A result that is ready beats a deadline that has
    /// passed. The future is dropped when there is none.
    pub fn limit<F: Future>(self, future: F) -> Limited<F> {
        Limited {
            future,
            alarm: self.alarm(),
        }
    }

    fn alarm(self) -> Option<Alarm> {
        self.0.map(|at| Alarm { at, key: None })
    }
}

/// A wait for a deadline. A type of its own is half as large as an async function, and every task holds
/// several.
pub struct Passed(Option<Alarm>);

impl Future for Passed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let rings = |alarm: &mut Alarm| alarm.has_rung(cx.waker());
        match self.0.as_mut().is_some_and(rings) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// Waits for `duration`; none is no wait.
pub fn sleep(duration: Duration) -> Passed {
    Deadline::at(Moment::now() + duration).passed()
}

pin_project! {
    /// A future with a deadline.
    pub struct Limited<F> {
        #[pin]
        future: F,
        alarm: Option<Alarm>,
    }
}

impl<F: Future> Future for Limited<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        match this
            .alarm
            .as_mut()
            .is_some_and(|alarm| alarm.has_rung(cx.waker()))
        {
            true => Poll::Ready(Err(Elapsed)),
            false => Poll::Pending,
        }
    }
}

/// The deadline of one wait; in the list from the first time that it has to be waited for.
struct Alarm {
    at: Moment,
    key: Option<usize>,
}

impl Alarm {
    /// Whether it is over. If not, `waker` is woken when it is.
    fn has_rung(&mut self, waker: &Waker) -> bool {
        // What is replaced is dropped outside of the borrow, as below.
        let mut replaced = None;
        let (rung, earliest) = with_alarms(|alarms| match self.key {
            Some(key) => (alarms.look(key, waker, &mut replaced), false),
            None => {
                let (key, earliest) = alarms.add(self.at, waker.clone());
                self.key = Some(key);
                (false, earliest)
            }
        });
        if earliest {
            wind_up();
        }
        rung
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            // Dropped outside of the borrow: the last waker of a task takes the task with it.
            let _removed = with_alarms(|alarms| alarms.waits.remove(key));
        }
    }
}

fn with_alarms<T>(then: impl FnOnce(&mut Alarms) -> T) -> T {
    ALARMS.with(|alarms| then(&mut alarms.borrow_mut()))
}

/// The deadlines that a core waits for.
struct Alarms {
    waits: Slab<Wait>,
    /// When the clock rings next; no wait that has not rung ends before.
    next: Option<Moment>,
    clock: Clock,
}

struct Wait {
    at: Moment,
    /// `None`: it has rung.
    waker: Option<Waker>,
}

/// The task that rings.
enum Clock {
    NotStarted,
    Started(Option<Waker>),
}

impl Alarms {
    const NONE: Self = Self {
        waits: Slab::new(),
        next: None,
        clock: Clock::NotStarted,
    };

    /// The place of a new wait, and whether the clock has to ring earlier for it.
    fn add(&mut self, at: Moment, waker: Waker) -> (usize, bool) {
        let waker = Some(waker);
        let earliest = self.next.is_none_or(|next| at < next);
        if earliest {
            self.next = Some(at);
        }
        (self.waits.insert(Wait { at, waker }), earliest)
    }

    /// Whether the wait is over. A future may have moved to another task meanwhile.
    fn look(&mut self, key: usize, waker: &Waker, replaced: &mut Option<Waker>) -> bool {
        let known = &mut self.waits[key].waker;
        if known.as_ref().is_some_and(|known| !known.will_wake(waker)) {
            *replaced = known.replace(waker.clone());
        }
        known.is_none()
    }

    /// Takes the wakers of those that are due, and finds out who is next. Each wait is looked at:
    /// this happens when the earliest is due, which is rare beside the waits that come and go.
    fn due(&mut self, now: Moment) -> Vec<Waker> {
        let mut due = Vec::new();
        self.next = None;
        for (_, wait) in &mut self.waits {
            if wait.at <= now {
                due.extend(wait.waker.take());
            } else if self.next.is_none_or(|next| wait.at < next) {
                self.next = Some(wait.at);
            }
        }
        due
    }
}

/// Tells the clock that it has to ring earlier, and starts it at the first time.
fn wind_up() {
    let clock = with_alarms(|alarms| replace(&mut alarms.clock, Clock::Started(None)));
    match clock {
        Clock::NotStarted => drop(monoio::spawn(ring())),
        Clock::Started(waker) => {
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// Rings, for ever.
///
/// A core that was stopped, as by SIGSTOP or `docker pause`, wakes with its timers before its sockets.
/// Where it comes late, what came in time must be seen first: it rings after another look at them.
async fn ring() {
    let mut timer = pin!(sleep_until(Instant::now()));
    let mut timed = Moment::default();
    let mut looked_at: Option<Moment> = None;
    std::future::poll_fn(|cx| {
        loop {
            let now = Moment::now();
            let (due, next) = with_alarms(|alarms| {
                alarms.clock = Clock::Started(Some(cx.waker().clone()));
                let Some(next) = alarms.next.filter(|next| *next <= now) else {
                    return (Vec::new(), alarms.next);
                };
                if now.since(next) > LATE {
                    let after_look = *looked_at.get_or_insert(now + LOOK);
                    if now < after_look {
                        return (Vec::new(), Some(after_look));
                    }
                }
                looked_at = None;
                (alarms.due(now), alarms.next)
            });
            due.into_iter().for_each(Waker::wake);
            let Some(next) = next else {
                return Poll::Pending;
            };
            if timed != next {
                timed = next;
                timer.as_mut().reset(Instant::now() + next.since(now));
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::net::driver;

    fn run(test: impl Future<Output = ()>) {
        driver::run(test);
        let waiting = with_alarms(|alarms| alarms.waits.len());
        assert_eq!(waiting, 0, "who waits no more is not in the list");
    }

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn deadlines_pass_in_their_order_and_never_early() {
        run(async {
            let passed = Rc::new(RefCell::new(Vec::new()));
            // The earliest is set last: the clock is waiting for a later one by then.
            let tasks = [600, 200, 400, 50].map(|limit| {
                let passed = passed.clone();
                monoio::spawn(async move {
                    let started = Instant::now();
                    sleep(millis(limit)).await;
                    assert!(started.elapsed() >= millis(limit));
                    passed.borrow_mut().push(limit);
                })
            });
            for task in tasks {
                task.await;
            }
            assert_eq!(*passed.borrow(), [50, 200, 400, 600]);
        });
    }

    #[test]
    fn a_result_in_time_beats_the_deadline_and_a_late_one_does_not() {
        run(async {
            let soon = Deadline::after(millis(200)).limit(async {
                sleep(millis(1)).await;
                7
            });
            assert_eq!(soon.await, Ok(7));
            let late = Deadline::after(millis(5)).limit(std::future::pending::<()>());
            assert_eq!(late.await, Err(Elapsed));
            let over = Deadline::after(Duration::ZERO);
            assert_eq!(over.limit(async { 7 }).await, Ok(7), "ready is in time");
            for never in [Deadline::NEVER, Deadline::after(Duration::MAX)] {
                assert_eq!(never.limit(sleep(millis(1))).await, Ok(()));
            }
        });
    }

    #[test]
    fn a_wait_that_ends_before_its_deadline_leaves_the_others_alone() {
        run(async {
            let rung = Rc::new(Cell::new(0));
            let waits = (0..100).map(|number| {
                let rung = rung.clone();
                monoio::spawn(async move {
                    let limit = Deadline::after(millis(if number % 2 == 0 { 20 } else { 20_000 }));
                    let ended = limit.limit(sleep(millis(400))).await;
                    rung.set(rung.get() + u32::from(ended.is_err()));
                })
            });
            for wait in waits.collect::<Vec<_>>() {
                wait.await;
            }
            assert_eq!(rung.get(), 50);
        });
    }

    #[test]
    fn a_wait_that_moves_to_another_task_wakes_that_one() {
        run(async {
            let mut moved = Box::pin(sleep(millis(20)));
            let mut nobody = Context::from_waker(Waker::noop());
            assert!(moved.as_mut().poll(&mut nobody).is_pending());
            monoio::spawn(moved).await;
        });
    }
}
