//! The phases that an exchange goes through, timed, and how far its request has come.
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::telemetry::clock::Moment;
use crate::telemetry::counters::{count, observe};
use crate::telemetry::live::{Place, State};
use crate::telemetry::record::{Id, Named};
use crate::telemetry::words::{Cause, Delivery, Phase};

/// What is noted of an exchange's attempts while they are under way.
pub struct Trace {
    place: Place,
    since: Cell<Moment>,
    began: Cell<Moment>,
    reused: Cell<bool>,
    times: Cell<Times>,
    sends: Cell<u32>,
    failed: Cell<u32>,
    /// An attempt that failed had its request taken whole.
    acked: Cell<bool>,
    /// It was sent again after that.
    doubled: Cell<bool>,
}

/// How long the phases of one attempt took, in seconds, as far as it went through them. Small: it is held
/// as long as a stream goes on.
#[derive(Clone, Copy, Default)]
pub struct Times {
    /// TCP, and the outbound proxy.
    pub connect: Option<f32>,
    /// The TLS handshake.
    pub tls: Option<f32>,
    /// Sending the request.
    pub send: Option<f32>,
    /// From then on, to the end of the response head.
    pub header: Option<f32>,
}

impl Trace {
    pub(super) fn new(id: Id, named: Rc<Named>, now: Moment) -> Self {
        Self {
            place: Place::take(id, named, now),
            since: Cell::new(now),
            began: Cell::new(now),
            reused: Cell::new(false),
            times: Cell::default(),
            sends: Cell::new(0),
            failed: Cell::new(0),
            acked: Cell::new(false),
            doubled: Cell::new(false),
        }
    }

    /// Another attempt begins.
    pub fn begin(&self) {
        let attempt = self.attempt() + 1;
        self.state().attempt.set(attempt);
        count(|core| &core.attempts);
        if attempt > 1 {
            count(|core| &core.replays);
        }
        self.times.take();
        self.enter(Phase::Pool);
        self.began.set(self.since.get());
    }

    /// A new connection for the attempt has come so far: what its TCP connect and its TLS handshake
    /// took. Of several connects the last one told of is the one that is used, where one is.
    pub fn made(&self, connect: Duration, tls: Option<Duration>) {
        self.times.set(Times {
            connect: Some(connect.as_secs_f32()),
            tls: tls.map(|took| took.as_secs_f32()),
            ..self.times.get()
        });
    }

    /// The attempt has a connection.
    pub fn connected(&self, reused: bool) {
        self.reused.set(reused);
        match reused {
            // Nothing has taken time: a look at the clock less for most requests.
            true => self.state().phase.set(Phase::Send),
            false => self.enter(Phase::Send),
        }
    }

    /// The request is put on a connection.
    pub fn sent(&self) {
        self.sends.set(self.sends.get() + 1);
        if self.acked.get() && !self.doubled.replace(true) {
            count(|core| &core.possibly_doubled);
        }
    }

    /// The exchange is at something else from now on.
    pub fn enter(&self, phase: Phase) {
        let now = Moment::now();
        let since = self.since.replace(now);
        if (self.phase(), phase) == (Phase::Send, Phase::Header) {
            let took = now.since(since);
            observe(took, |core| &core.send_time);
            self.times.set(Times {
                send: Some(took.as_secs_f32()),
                ..self.times.get()
            });
        }
        self.state().phase.set(phase);
    }

    fn state(&self) -> &State {
        &self.place.named.state
    }

    /// The response head has come.
    pub(super) fn answered(&self, next: Phase) -> Moment {
        let waited = self.phase() == Phase::Header;
        let sent = self.since.get();
        self.enter(next);
        let now = self.since.get();
        let took = match waited {
            true => now.since(sent),
            false => Duration::ZERO, // before the request was sent whole
        };
        let times = self.times.get();
        self.times.set(Times {
            header: Some(took.as_secs_f32()),
            ..times
        });
        observe(took, |core| core.header_time(self.attempt()));
        now
    }

    /// The attempt has failed; how long it took.
    pub(super) fn failed(&self, cause: Cause, delivery: Delivery) -> Duration {
        count(|core| &core.failures[cause as usize][delivery as usize]);
        self.failed.set(self.failed.get() + 1);
        self.note(delivery);
        self.began.get().elapsed()
    }

    /// The connection was not good any more, which is no failure of the attempt: it needs another one. How
    /// long that took.
    pub(super) fn stale(&self, delivery: Delivery) -> Duration {
        self.note(delivery);
        self.times.take();
        self.enter(Phase::Pool);
        self.began.get().elapsed()
    }

    fn note(&self, delivery: Delivery) {
        self.acked
            .set(self.acked.get() || delivery == Delivery::Acked);
    }

    /// When the attempt under way began.
    pub fn began(&self) -> Moment {
        self.began.get()
    }

    /// Since when the exchange is at what it is at.
    pub fn since(&self) -> Moment {
        self.since.get()
    }

    /// Whose attempts these are.
    pub(super) fn named(&self) -> &Named {
        &self.place.named
    }

    pub(super) fn times(&self) -> Times {
        self.times.get()
    }

    /// What the exchange is at.
    pub fn phase(&self) -> Phase {
        self.state().phase.get()
    }

    pub(super) fn reused(&self) -> bool {
        self.reused.get()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.get() > 0
    }

    /// The number of the attempt under way, or of the last one; 0 before the first.
    pub fn attempt(&self) -> u32 {
        self.state().attempt.get()
    }

    /// How often the request was put on a connection.
    pub fn sends(&self) -> u32 {
        self.sends.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::counters::copy;
    use crate::telemetry::record::{Ids, Record};

    #[test]
    fn a_request_counts_once_as_possibly_doubled_and_only_when_it_is_sent_again() {
        use Delivery::{Acked, NotAcked, NotSent};
        let doubled = |deliveries: &[Delivery], stale: Option<Delivery>| {
            let before = copy().possibly_doubled.value();
            let named = Named::new("POST".into(), "/".to_owned());
            let trace = Record::new(&Ids::default(), named).trace;
            trace.begin();
            if let Some(delivery) = stale {
                trace.sent();
                trace.stale(delivery);
            }
            for (at, delivery) in deliveries.iter().enumerate() {
                if at > 0 {
                    trace.begin();
                }
                if *delivery != NotSent {
                    trace.sent();
                }
                trace.failed(Cause::Closed, *delivery);
            }
            copy().possibly_doubled.value() - before
        };
        assert_eq!(doubled(&[Acked], None), 0);
        assert_eq!(doubled(&[Acked, NotSent, NotSent], None), 0);
        assert_eq!(doubled(&[NotAcked, NotAcked, Acked], None), 0);
        assert_eq!(doubled(&[Acked, NotSent, NotAcked], None), 1);
        assert_eq!(doubled(&[NotSent], Some(Acked)), 0);
        assert_eq!(doubled(&[NotAcked], Some(NotSent)), 0);
        assert_eq!(doubled(&[Acked], Some(Acked)), 1);
        assert_eq!(doubled(&[Acked; 9], None), 1);
    }
}
