//! Connecting to a name with several addresses: one that takes long is joined by the next.
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::net::deadline::Deadline;
use crate::net::select;
use crate::net::stream::Stream;
use crate::net::tcp::Tcp;
use crate::net::tls::Tls;
use crate::telemetry::clock::Moment;
use crate::telemetry::counters::{Counters, Histogram, count, observe};
use crate::telemetry::trace::Trace;
use crate::telemetry::words::Phase;
use crate::upstream::failure::Failure;
use crate::upstream::order::Order;

/// After so long without progress the next address is tried as well (RFC 8305, section 5). A TCP
/// connect that succeeds is progress: its handshake has as long again, so that an upstream whose round
/// trip takes an eighth of a second is not asked for two connections.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// Connects under way at once for one attempt: enough to reach past two dead addresses without a wait
/// that counts, and so few that an outage of an upstream with many addresses is not multiplied.
const RACERS_MAX: usize = 3;

/// Whom to connect to, and whom an outbound proxy that is told an address is asked for.
#[derive(Clone, Copy)]
pub(super) struct Way {
    pub(super) addr: SocketAddr,
    pub(super) target: Option<SocketAddr>,
}

impl Way {
    /// So many that each address of both has its turn.
    pub(super) fn all(addresses: &[SocketAddr], targets: &[SocketAddr]) -> Vec<Self> {
        let turns = 0..addresses.len().max(targets.len());
        let at = |all: &[SocketAddr], turn: usize| all.get(turn % all.len().max(1)).copied();
        turns
            .filter_map(|turn| {
                let target = at(targets, turn);
                at(addresses, turn).map(|addr| Self { addr, target })
            })
            .collect()
    }

    /// The other end, as far as we know it.
    pub(super) fn end(self) -> SocketAddr {
        self.target.unwrap_or(self.addr)
    }

    fn put_back(self, order: &Order) {
        order.put_back(self.addr);
        self.target.iter().for_each(|addr| order.put_back(*addr));
    }
}

/// One of the connects under way. Dropping it gives it up and closes its socket.
struct Racer<'t, F> {
    way: Way,
    /// When it gives way to the next, where there is no room for one more.
    gives_way: Deadline,
    course: Rc<Course<'t>>,
    run: Pin<Box<F>>,
}

/// Connects by the first of `ways` that has completed all of it: a TLS handshake belongs to the
/// race, since what accepts and then hangs is no upstream. Where all are taken up that may be under
/// way at once, the oldest gives way after its share of the time. Those that failed, and those slower
/// than one that was begun after them, are put back in `order`.
///
/// # Errors
/// The last failure; `None` where the deadline has ended it.
pub(super) async fn race<'t, F: Future<Output = Result<Stream, Failure>>>(
    ways: &[Way],
    deadline: Deadline,
    order: &Order,
    trace: &'t Trace,
    connect: impl Fn(Way, Rc<Course<'t>>) -> F,
) -> Result<(Stream, Way), Option<Failure>> {
    let mut next = ways.iter().copied();
    let mut racers = Vec::with_capacity(RACERS_MAX);
    let mut failure = None;
    let mut at_once = true;
    loop {
        let share = part_of(deadline, next.len().div_ceil(RACERS_MAX));
        if at_once && let Some(way) = next.next() {
            let course = Rc::new(Course::new(trace));
            racers.push(Racer {
                way,
                gives_way: Deadline::after(share),
                run: Box::pin(connect(way, course.clone())),
                course,
            });
        }
        let delay = ATTEMPT_DELAY.min(part_of(deadline, next.len() + 1));
        let Some(due) = next_is_due(&racers, delay) else {
            return Err(failure);
        };
        show(trace, &racers);
        at_once = select! {
            // In this order: a connection beats a time that is over.
            biased;
            (at, result) = first(&mut racers) => {
                let racer = racers.remove(at);
                match result {
                    Ok(stream) => {
                        racers[..at].iter().for_each(|slow| slow.way.put_back(order));
                        racer.course.tell();
                        return Ok((stream, racer.way));
                    }
                    Err(error) => {
                        racer.way.put_back(order);
                        let may_pass = error.may_pass_elsewhere();
                        failure = Some(error);
                        if !may_pass {
                            return Err(failure);
                        }
                        true
                    }
                }
            }
            () = deadline.passed() => {
                racers.iter().for_each(|racer| racer.time_is_over(order));
                return Err(None);
            }
            () = due.passed(), if next.len() > 0 => {
                if racers.len() == RACERS_MAX {
                    racers.remove(0).time_is_over(order);
                }
                next_is_due(&racers, delay).is_none_or(Deadline::has_passed)
            }
        };
    }
}

/// The one that comes to its end first.
async fn first<F: Future>(racers: &mut [Racer<'_, F>]) -> (usize, F::Output) {
    poll_fn(|cx| {
        for (at, racer) in racers.iter_mut().enumerate() {
            if let Poll::Ready(output) = racer.run.as_mut().poll(cx) {
                return Poll::Ready((at, output));
            }
        }
        Poll::Pending
    })
    .await
}

/// Shows the furthest of them as what the exchange is at.
fn show<F>(trace: &Trace, racers: &[Racer<'_, F>]) {
    let phases = racers.iter().filter_map(|racer| racer.course.at.get());
    let furthest = phases.max_by_key(|phase| *phase as usize);
    trace.enter(furthest.unwrap_or(Phase::Connect));
}

impl<F> Racer<'_, F> {
    fn time_is_over(&self, order: &Order) {
        self.way.put_back(order);
        self.course.fails();
    }
}

/// What is left of the time, in so many parts: so each of the addresses has its turn, also where one
/// before it has taken longer than it should.
fn part_of(deadline: Deadline, parts: usize) -> Duration {
    let left = deadline.left().unwrap_or(Duration::MAX);
    left / u32::try_from(parts.max(1)).unwrap_or(u32::MAX)
}

/// When the next address has its turn: `delay` after the last progress, or when there is room. `None`
/// where nobody is under way.
fn next_is_due<F>(racers: &[Racer<'_, F>], delay: Duration) -> Option<Deadline> {
    let progress = racers.iter().map(|racer| racer.course.since.get()).max()?;
    Some(match racers.len() == RACERS_MAX {
        true => racers[0].gives_way,
        false => Deadline::at(progress + delay),
    })
}

/// What a connect is at, and what is counted of it. Whatever has begun is counted once: as a success,
/// as failed, or, where it is dropped before that, as abandoned.
pub(super) struct Course<'t> {
    trace: &'t Trace,
    /// `Connect`, `Proxy` or `Tls`.
    at: Cell<Option<Phase>>,
    began: Cell<Moment>,
    /// The last progress.
    since: Cell<Moment>,
    connect: Cell<Duration>,
    tls: Cell<Option<Duration>>,
}

impl<'t> Course<'t> {
    /// The TCP connect begins.
    fn new(trace: &'t Trace) -> Self {
        let now = Moment::now();
        Self {
            trace,
            at: Cell::new(Some(Phase::Connect)),
            began: Cell::new(now),
            since: Cell::new(now),
            connect: Cell::default(),
            tls: Cell::default(),
        }
    }

    /// The TCP connect has come to its end.
    pub(super) fn connected(&self, tcp: io::Result<Tcp>) -> io::Result<Tcp> {
        let tcp = tcp.inspect_err(|_| self.fails())?;
        self.at.take();
        self.since.set(Moment::now());
        count(|core| &core.connects);
        Ok(tcp)
    }

    /// The handshake with an outbound proxy, which is a part of connecting, or that of TLS begins.
    pub(super) fn enter(&self, phase: Phase) {
        self.at.set(Some(phase));
        self.trace.enter(phase);
    }

    /// All that comes before TLS is done.
    pub(super) fn is_there(&self) {
        self.connect.set(self.ends(|core| &core.connect_time));
        self.tell();
    }

    /// The TLS handshake has come to its end.
    pub(super) fn shaken(&self, tls: io::Result<Tls>) -> io::Result<Tls> {
        let tls = tls.inspect_err(|_| self.fails())?;
        self.tls.set(Some(self.ends(|core| &core.handshake_time)));
        count(|core| match tls.is_resumed() {
            true => &core.handshakes_resumed,
            false => &core.handshakes_full,
        });
        Ok(tls)
    }

    fn ends(&self, times: fn(&Counters) -> &Histogram) -> Duration {
        self.at.take();
        let now = Moment::now();
        self.since.set(now);
        let took = now.since(self.began.replace(now));
        observe(took, times);
        took
    }

    fn fails(&self) {
        match self.at.take() {
            Some(Phase::Connect) => count(|core| &core.connects_failed),
            Some(Phase::Tls) => count(|core| &core.handshakes_failed),
            _ => (), // its TCP connect has been counted
        }
    }

    /// Notes how long it took, as far as it has come.
    fn tell(&self) {
        self.trace.made(self.connect.get(), self.tls.get());
    }
}

impl Drop for Course<'_> {
    fn drop(&mut self) {
        match self.at.take() {
            Some(Phase::Connect) => count(|core| &core.connects_abandoned),
            Some(Phase::Tls) => count(|core| &core.handshakes_abandoned),
            _ => (),
        }
    }
}
