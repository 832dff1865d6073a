//! One exchange as it is told: a log line when it ends, one for each failed attempt, and numbers.
//!
//! Nothing here is secret: no field values, no query, no body.
use std::borrow::Cow;
use std::cell::Cell;
use std::fmt::{self, Display};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tracing::{debug, info, warn};

use crate::telemetry::clock::Moment;
use crate::telemetry::counters::{count, observe};
use crate::telemetry::failed::FailedAttempts;
use crate::telemetry::live::{Mishap, State, remember};
use crate::telemetry::trace::Trace;
use crate::telemetry::words::{Cause, Delivery, Ending, Phase};

/// Ids of one core: unlike those of other cores and other runs, and in order.
pub struct Ids {
    next: Cell<u64>,
}

impl Default for Ids {
    fn default() -> Self {
        Self {
            next: Cell::new(RandomState::new().build_hasher().finish()),
        }
    }
}

impl Ids {
    pub(super) fn next(&self) -> Id {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        Id(id)
    }
}

/// The id of one exchange, shown as 16 hex digits.
#[derive(Clone, Copy, Default)]
pub struct Id(u64);

impl Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A request as it is told.
pub struct Named {
    /// The method, and not all of a very long one.
    pub method: Cow<'static, str>,
    /// The path of its target, without the query, and not all of a very long one.
    pub path: String,
    pub(super) state: State,
}

impl Named {
    /// A request that no exchange has begun of.
    pub fn new(method: Cow<'static, str>, path: String) -> Rc<Self> {
        Rc::new(Self {
            method,
            path,
            state: State::default(),
        })
    }
}

/// What is known of an exchange so far.
pub struct Record {
    /// The id in the log lines and in `x-request-id`.
    pub id: Id,
    /// The status that the client was told.
    pub status: Option<u16>,
    /// What its attempts come through.
    pub trace: Trace,
    started: Moment,
    request_bytes: u64,
    header_time: Option<Duration>,
    failed: Option<Box<FailedAttempts>>,
    last: Option<Then>,
}

/// What comes of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Another one.
    Again,
    /// None: it was the last.
    Exhausted,
    /// None: it would only fail again.
    Hopeless,
    /// None: the retry budget is used up.
    Denied,
}

impl Then {
    fn in_words(self) -> &'static str {
        match self {
            Self::Again => "sent again",
            Self::Exhausted => "given up: it was the last attempt",
            Self::Hopeless => "given up: it would only fail again",
            Self::Denied => "given up: the retry budget is used up",
        }
    }

    /// What client and log are told where another attempt would have been possible.
    pub fn denial(self) -> Option<&'static str> {
        (self == Self::Denied).then_some(
            "not tried again: the retry budget of the last 60 s is used up (RETRY_BUDGET_PERCENT)",
        )
    }
}

/// A failed attempt.
pub struct Failed<'f> {
    /// Why, as a word.
    pub cause: Cause,
    /// Why, in a sentence.
    pub text: &'f dyn Display,
    /// How far the request came.
    pub delivery: Delivery,
    /// What comes of it.
    pub then: Then,
}

/// How an exchange ended.
pub enum Outcome<'a> {
    /// The upstream's response was relayed to its end.
    Answered,
    /// The upstream's response came to its end just after the client had closed: Codex does so when it
    /// has its last event.
    Sufficed,
    /// We answered ourselves; the code.
    Refused(&'a str),
    /// The client left, in the phase that the exchange is at.
    ClientLeft,
    /// The connection became a tunnel, which has ended; how.
    Tunnelled(&'a dyn Display),
    /// The response was broken off; why.
    Aborted(&'a dyn Display),
}

impl Record {
    /// An exchange that begins now.
    pub fn new(ids: &Ids, named: Rc<Named>) -> Self {
        let (id, started) = (ids.next(), Moment::now());
        Self {
            id,
            status: None,
            trace: Trace::new(id, named, started),
            started,
            request_bytes: 0,
            header_time: None,
            failed: None,
            last: None,
        }
    }

    /// Bytes that go up, or have gone: the request's, head included, and those of a tunnel.
    pub fn up(&mut self, bytes: u64) {
        self.request_bytes += bytes;
    }

    /// The final response head has come, and `phase` follows.
    pub fn head(&mut self, status: u16, phase: Phase) {
        self.status = Some(status);
        let now = self.trace.answered(phase);
        self.header_time = Some(now.since(self.started));
        self.tell_attempt("answered");
    }

    /// An attempt has failed.
    pub fn attempt_failed(&mut self, failed: &Failed<'_>) {
        let Failed {
            cause,
            text,
            delivery,
            then,
        } = *failed;
        let named = self.trace.named();
        let attempt = self.trace.attempt();
        let took = self.trace.failed(cause, delivery);
        let all = self.failed.get_or_insert_default();
        all.add(Some(attempt), (delivery, cause), took);
        self.last = Some(then);
        warn!(
            id = %self.id, method = %named.method, path = %named.path, attempt,
            phase = cause.phase().name(), failure = cause.name(), delivery = delivery.name(),
            ms = millis(took), cause = %text, again = then == Then::Again, reason = then.denial(),
            "attempt failed"
        );
        if then == Then::Denied {
            count(|core| &core.replays_denied);
        }
        self.tell_attempt(cause.name());
        let attempt = Some((attempt, cause, delivery));
        self.remember(attempt, cause.phase(), text, then.in_words());
    }

    /// The upstream has answered with what is no response: there is no way back, and the client is told.
    pub fn unusable(&self, cause: &dyn Display) {
        let named = self.trace.named();
        warn!(
            id = %self.id, method = %named.method, path = %named.path, %cause,
            "unusable response"
        );
        let phase = self.trace.phase();
        self.remember(
            None,
            phase,
            cause,
            "given up: a part of a response had come",
        );
    }

    fn remember(
        &self,
        attempt: Option<(u32, Cause, Delivery)>,
        phase: Phase,
        cause: &dyn Display,
        then: &'static str,
    ) {
        let named = self.trace.named();
        remember(Mishap {
            at: SystemTime::now(),
            id: self.id.to_string(),
            method: named.method.to_string(),
            path: named.path.clone(),
            attempt,
            phase,
            cause: cause.to_string(),
            then,
        });
    }

    /// A reused connection turned out to be closed: no attempt is used up.
    pub fn stale_connection(&mut self, cause: Cause, text: &dyn Display, delivery: Delivery) {
        count(|core| &core.pool_stale);
        let took = self.trace.stale(delivery);
        let all = self.failed.get_or_insert_default();
        all.add(None, (delivery, cause), took);
        debug!(
            id = %self.id, failure = cause.name(), delivery = delivery.name(), cause = %text,
            "stale connection, sent again on a fresh one"
        );
    }

    /// What the client is told of the attempts that have failed, where there was more than one attempt.
    pub fn failed_attempts(&self) -> Option<&dyn Display> {
        let failed = self.failed.as_deref()?;
        let several = self.trace.attempt() > 1 || failed.begins_stale();
        several.then_some(failed as &dyn Display)
    }

    /// The phases of an attempt, for who wants to know.
    fn tell_attempt(&self, end: &str) {
        let times = self.trace.times();
        debug!(
            id = %self.id, attempt = self.trace.attempt(), reused = self.trace.reused(),
            connect_ms = times.connect.map(tenths), tls_ms = times.tls.map(tenths),
            send_ms = times.send.map(tenths), header_ms = times.header.map(tenths), end, "attempt"
        );
    }

    /// The exchange has ended, with `response_bytes` written to the client; when.
    pub fn finish(&self, outcome: &Outcome<'_>, response_bytes: u64) -> Moment {
        let well = |ending| match self.trace.has_failed() {
            true => Ending::Rescued,
            false => ending,
        };
        let phase = self.trace.phase();
        let left_while = match phase {
            Phase::Receiving => "sending its request",
            Phase::Relay | Phase::Tunnel => "during the response",
            _ => "waiting for the response",
        };
        let (ending, detail): (_, Option<&dyn Display>) = match outcome {
            Outcome::Answered => (well(Ending::Answered), None),
            Outcome::Sufficed => {
                let detail: &dyn Display = &"the client closed just before the end";
                (well(Ending::Answered), Some(detail))
            }
            Outcome::Refused(code) if self.last == Some(Then::Exhausted) => {
                (Ending::Exhausted, Some(code))
            }
            Outcome::Refused(code) => (Ending::Refused, Some(code)),
            Outcome::ClientLeft => (Ending::ClientLeft, Some(&left_while)),
            Outcome::Tunnelled(end) => (well(Ending::Tunnelled), Some(*end)),
            Outcome::Aborted(cause) => (Ending::Aborted, Some(*cause)),
        };
        let now = Moment::now();
        let took = now.since(self.started);
        count(|core| &core.exchanges[ending as usize]);
        observe(took, |core| &core.exchange_time);
        match outcome {
            Outcome::Refused(code) => count(|core| core.refusals(code)),
            Outcome::ClientLeft => count(|core| &core.clients_left[phase as usize]),
            Outcome::Aborted(cause) => {
                self.remember(None, phase, *cause, "the response was broken off");
            }
            _ => (),
        }
        let named = self.trace.named();
        info!(
            id = %self.id, method = %named.method, path = %named.path,
            status = self.status, attempts = self.trace.sends(),
            request_bytes = self.request_bytes, response_bytes,
            header_ms = self.header_time.map(millis), total_ms = millis(took),
            outcome = ending.name(), detail = detail.map(tracing::field::display), "exchange"
        );
        now
    }
}

fn millis(duration: Duration) -> f64 {
    tenths(duration.as_secs_f64())
}

/// Milliseconds with one decimal.
fn tenths(seconds: impl Into<f64>) -> f64 {
    (seconds.into() * 1e4).round() / 10.0
}
