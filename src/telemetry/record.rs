//! One exchange as its log lines tell it: one line when it ends, one for each failed attempt.
//!
//! Nothing here is secret: no field values, no query, no body.
use std::cell::Cell;
use std::fmt::{self, Display};
use std::hash::{BuildHasher, Hasher, RandomState};

use tracing::{debug, info, warn};

use std::time::{Duration, Instant};

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
    fn next(&self) -> Id {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        Id(id)
    }
}

/// The id of one exchange, shown as 16 hex digits.
#[derive(Clone, Copy)]
pub struct Id(u64);

impl Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What is known of an exchange so far.
pub struct Record<'r> {
    /// The id in the log lines and in `x-request-id`.
    pub id: Id,
    /// How often the request was sent.
    pub sends: u32,
    /// The status that the client was told.
    pub status: Option<u16>,
    method: &'r str,
    path: &'r str,
    started: Instant,
    request_bytes: u64,
    header_time: Option<Duration>,
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
    /// The client left; in which phase.
    ClientLeft(&'a str),
    /// The connection became a tunnel, which has ended; how.
    Tunnelled(&'a dyn Display),
    /// The response was broken off; why.
    Aborted(&'a dyn Display),
}

impl<'r> Record<'r> {
    /// An exchange that begins now. `path` without its query.
    pub fn new(ids: &Ids, method: &'r str, path: &'r str) -> Self {
        Self {
            id: ids.next(),
            sends: 0,
            status: None,
            method,
            path,
            started: Instant::now(),
            request_bytes: 0,
            header_time: None,
        }
    }

    /// Bytes that go up, or have gone: the request's, head included, and those of a tunnel.
    pub fn up(&mut self, bytes: u64) {
        self.request_bytes += bytes;
    }

    /// The final response head has come.
    pub fn head(&mut self, status: u16) {
        self.status = Some(status);
        self.header_time = Some(self.started.elapsed());
    }

    /// An attempt has failed.
    pub fn attempt_failed(
        &self,
        attempt: u32,
        phase: &str,
        took: Duration,
        cause: &dyn Display,
        again: bool,
    ) {
        warn!(
            id = %self.id, method = %self.method, path = %self.path, attempt, phase,
            ms = millis(took), %cause, again, "attempt failed"
        );
    }

    /// A reused connection turned out to be closed: no attempt is used up.
    pub fn stale_connection(&self, cause: &dyn Display) {
        debug!(id = %self.id, %cause, "stale connection, sent again on a fresh one");
    }

    /// The exchange has ended, with `response_bytes` written to the client.
    pub fn finish(&self, outcome: &Outcome<'_>, response_bytes: u64) {
        let answered = match self.sends {
            ..=1 => "answered",
            _ => "rescued",
        };
        let (outcome, detail): (&str, Option<&dyn Display>) = match outcome {
            Outcome::Answered => (answered, None),
            Outcome::Sufficed => (answered, Some(&"the client closed just before the end")),
            Outcome::Refused(code) => ("refused", Some(code)),
            Outcome::ClientLeft(phase) => ("client left", Some(phase)),
            Outcome::Tunnelled(end) => ("tunnelled", Some(*end)),
            Outcome::Aborted(cause) => ("aborted", Some(*cause)),
        };
        info!(
            id = %self.id, method = %self.method, path = %self.path,
            status = self.status, attempts = self.sends,
            request_bytes = self.request_bytes, response_bytes,
            header_ms = self.header_time.map(millis), total_ms = millis(self.started.elapsed()),
            outcome, detail = detail.map(tracing::field::display), "exchange"
        );
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}
