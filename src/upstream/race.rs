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
use crate::net::stream::Stream;
use crate::net::tcp::Tcp;
use crate::net::tls::Tls;
use crate::net::{Instant, select};
use crate::telemetry::counters::{Count, Counters, Histogram, count, observe};
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

/// One of the connects under way. Dropping it gives it up and closes its socket.
struct Racer<'t, F> {
    addr: SocketAddr,
    /// When it gives way to the next, where there is no room for one more.
    gives_way: Deadline,
    course: Rc<Course<'t>>,
    run: Pin<Box<F>>,
}

/// Connects to the first of `addresses` that has completed all of it: a TLS handshake belongs to the
/// race, since what accepts and then hangs is no upstream. Where all are taken up that may be under
/// way at once, the oldest gives way after its share of the time. Those that failed, and those slower
/// than one that was begun after them, are put back in `order`.
///
/// # Errors
/// The last failure; `None` where the deadline has ended it.
pub(super) async fn race<'t, F: Future<Output = Result<Stream, Failure>>>(
    addresses: &[SocketAddr],
    deadline: Deadline,
    order: &Order,
    trace: &'t Trace,
    connect: impl Fn(SocketAddr, Rc<Course<'t>>) -> F,
) -> Result<(Stream, SocketAddr), Option<Failure>> {
    let mut next = addresses.iter().copied();
    let mut racers = Vec::with_capacity(RACERS_MAX);
    let mut failure = None;
    let mut at_once = true;
    loop {
        let share = part_of(deadline, next.len().div_ceil(RACERS_MAX));
        if at_once && let Some(addr) = next.next() {
            let course = Rc::new(Course::new(trace));
            racers.push(Racer {
                addr,
                gives_way: Deadline::after(share),
                run: Box::pin(connect(addr, course.clone())),
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
                        racers[..at].iter().for_each(|slow| order.put_back(slow.addr));
                        racer.course.tell();
                        return Ok((stream, racer.addr));
                    }
                    Err(error) => {
                        order.put_back(racer.addr);
                        let may_pass = error.may_pass();
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
    let shakes_hands = |racer: &Racer<'_, F>| racer.course.at.get() == Some(Phase::Tls);
    trace.enter(match racers.iter().any(shakes_hands) {
        true => Phase::Tls,
        false => Phase::Connect,
    });
}

impl<F> Racer<'_, F> {
    fn time_is_over(&self, order: &Order) {
        order.put_back(self.addr);
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
        false => Deadline::after(delay.saturating_sub(progress.elapsed())),
    })
}

/// What a connect is at, and what is counted of it. Whatever has begun is counted once: as a success,
/// as failed, or, where it is dropped before that, as abandoned.
pub(super) struct Course<'t> {
    trace: &'t Trace,
    at: Cell<Option<Phase>>,
    /// The last progress.
    since: Cell<Instant>,
    connect: Cell<Duration>,
    tls: Cell<Option<Duration>>,
}

impl<'t> Course<'t> {
    /// The TCP connect begins.
    fn new(trace: &'t Trace) -> Self {
        Self {
            trace,
            at: Cell::new(Some(Phase::Connect)),
            since: Cell::new(Instant::now()),
            connect: Cell::default(),
            tls: Cell::default(),
        }
    }

    /// The TCP connect has come to its end.
    pub(super) fn connected(&self, tcp: io::Result<Tcp>) -> Result<Tcp, Failure> {
        let tcp = tcp.map_err(|error| {
            self.fails();
            Failure::Connect(error)
        })?;
        self.connect
            .set(self.ends(|core| &core.connects, |core| &core.connect_time));
        self.tell();
        Ok(tcp)
    }

    /// The TLS handshake begins.
    pub(super) fn shakes_hands(&self) {
        self.at.set(Some(Phase::Tls));
        self.trace.enter(Phase::Tls);
    }

    /// The TLS handshake has come to its end.
    pub(super) fn shaken(&self, tls: io::Result<Tls>) -> Result<Tls, Failure> {
        let tls = tls.map_err(|error| {
            self.fails();
            Failure::Handshake(error)
        })?;
        let took = self.ends(
            match tls.is_resumed() {
                true => |core| &core.handshakes_resumed,
                false => |core| &core.handshakes_full,
            },
            |core| &core.handshake_time,
        );
        self.tls.set(Some(took));
        Ok(tls)
    }

    fn ends(
        &self,
        as_what: fn(&Counters) -> &Count,
        times: fn(&Counters) -> &Histogram,
    ) -> Duration {
        self.at.take();
        let now = Instant::now();
        let took = now - self.since.replace(now);
        count(as_what);
        observe(took, times);
        took
    }

    fn fails(&self) {
        match self.at.take() {
            Some(Phase::Tls) => count(|core| &core.handshakes_failed),
            Some(_) => count(|core| &core.connects_failed),
            None => (), // between the two
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
            Some(Phase::Tls) => count(|core| &core.handshakes_abandoned),
            Some(_) => count(|core| &core.connects_abandoned),
            None => (),
        }
    }
}
