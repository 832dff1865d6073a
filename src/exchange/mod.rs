//! The path of a request, from the client's first byte to the last byte of its response.
//!
//! ```text
//! read head -> buffer body -> attempt (at most N) -> read response head -> relay -> next request
//!                                  |                       |
//!                    upstream commit: first byte read      |
//!                                       downstream commit: first byte sent
//! ```
mod budget;
mod respond;

use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

pub use self::budget::Budget;
use self::respond::respond;
use crate::config::Config;
use crate::downstream::body;
use crate::downstream::client::{Client, Left};
use crate::downstream::reply::{Answered, Unanswered};
use crate::downstream::request::{self, Kind, Next, Request};
use crate::net::buffer::Buffer;
use crate::net::drain::Drain;
use crate::net::quota::Quota;
use crate::net::tcp::Tcp;
use crate::net::{select, sleep};
use crate::refusal::Refusal;
use crate::telemetry::clock::Moment;
use crate::telemetry::counters::add;
use crate::telemetry::record::{Failed, Ids, Outcome, Record, Then};
use crate::telemetry::words::Phase;
use crate::upstream::attempt::{Committed, Limits};
use crate::upstream::connection::Upstream;
use crate::upstream::failure::{self, Failure};
use crate::upstream::request::Replayable;

/// What a request counts as beside the bytes of its client: pipelined ones that are answered here
/// need no wait between them.
const REQUEST_WORK_BYTES: usize = 16 << 10;
/// How long a client beyond `MAX_CLIENT_CONNECTIONS` may take to say what it wants.
const TURNED_AWAY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the tasks of one core share.
pub struct Core {
    /// The settings.
    pub config: Rc<Config>,
    /// The way up.
    pub upstream: Upstream,
    /// The word to finish.
    pub drain: Drain,
    /// The ids of log lines.
    pub ids: Ids,
    /// What request bodies may hold.
    pub bodies: Rc<Quota>,
    /// `RETRY_BUDGET_PERCENT`.
    pub budget: Option<Budget>,
}

/// Serves one client's connection until either side has had enough. `turned_away`: there are too many
/// connections for this one to have a request forwarded.
pub async fn serve(core: &Core, tcp: Tcp, turned_away: bool) {
    let mut client = Client {
        tcp,
        limits: core.config.client.clone(),
        bodies: core.bodies.clone(),
    };
    if turned_away {
        let limit = &mut client.limits.header_timeout;
        *limit = TURNED_AWAY_HEADER_TIMEOUT.min(*limit);
    }
    let mut input = Buffer::empty();
    let mut first = true;
    loop {
        let next = request::next(&client, &mut input, &core.config, &core.drain, first).await;
        let next = match turned_away {
            true => next.turned_away(),
            false => next,
        };
        let answered = match next {
            Next::Nothing => return,
            Next::Request(request) => exchange(core, &client, &mut input, request).await,
            Next::Refused(refusal, named) => {
                let mut record = Record::new(&core.ids, named.clone());
                let reply = Unanswered::new(&client, &core.drain, named.method == "HEAD", false);
                refuse(reply, &refusal, &mut record).await
            }
        };
        if !answered.keep_alive {
            if answered.lingers {
                client.linger().await;
            }
            return;
        }
        first = false;
        client.tcp.worked(REQUEST_WORK_BYTES);
        client.tcp.breathe().await;
    }
}

/// One request and its one response.
async fn exchange(
    core: &Core,
    client: &Client,
    input: &mut Buffer,
    mut request: Box<Request>,
) -> Answered {
    let head = std::mem::take(&mut request.head);
    let head_only = request.named.method == "HEAD";
    let reply = Unanswered::new(client, &core.drain, head_only, request.keep_alive);
    let mut record = Record::new(&core.ids, request.named.clone());
    let wire = match body::buffer(client, input, &request, head, &reply).await {
        Ok(wire) => wire,
        Err(body::Fault::Refused(refusal)) => return refuse(reply, &refusal, &mut record).await,
        Err(body::Fault::Left) => {
            record.finish(&Outcome::ClientLeft, 0);
            return Answered::GONE;
        }
    };
    if request.kind == Kind::Health {
        return Box::pin(reply.tell_health(core.drain.has_started())).await;
    }
    let replayable = Replayable::new(wire, request.is_idempotent());
    let bytes = replayable.bytes();
    record.up(bytes);
    add(bytes, |core| &core.request_bytes);
    let mut left = pin!(client.left());
    let mut left: Left<'_> = left.as_mut();
    let attempted = {
        let handshake = request.kind == Kind::Handshake;
        let attempt = pin!(attempt(core, client, replayable, handshake, &mut record));
        select! {
            // An answer that is here counts, even for a client that is about to leave.
            biased;
            attempted = attempt => Some(attempted),
            // Dropping the attempts ends the connection: nothing is sent again.
            () = &mut left => None,
        }
    };
    let mut answered = match attempted {
        None => {
            record.finish(&Outcome::ClientLeft, 0);
            return Answered::GONE;
        }
        Some(Ok(committed)) => {
            let (record, left) = (&mut record, &mut left);
            respond(core, committed, reply, &request, input, record, left).await
        }
        Some(Err((failure, then))) => {
            let refusal = failure::refusal(&failure, record.trace.sends(), then);
            let refusal = told(&request, refusal);
            refuse(reply, &refusal, &mut record).await
        }
    };
    // RFC 9112 9.6: a client that asked for the end sends nothing more.
    answered.lingers &=
        request.keep_alive || !input.is_empty() || !matches!(client.read_into(input), Ok(0));
    answered
}

/// Attempts the request until the upstream commits to an answer, the attempts are used up, or the
/// retry budget denies another.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn holds its arguments twice"
)]
fn attempt(
    core: &Core,
    client: &Client,
    mut request: Replayable,
    handshake: bool,
    record: &mut Record,
) -> impl Future<Output = Result<Committed, (Failure, Then)>> {
    async move {
        let attempts = &core.config.attempts;
        // A reused connection that the upstream has closed is not its failure: once, that is free.
        let mut stale_may_be_free = attempts.max > 1 || request.is_idempotent();
        let mut fresh = false;
        record.trace.begin();
        if let Some(budget) = &core.budget {
            budget.request(record.trace.began());
        }
        loop {
            if fresh && client.tcp.has_hung_up() {
                // Who watches the client looks only now and then where it has sent ahead: this ends
                // when that is seen.
                pending::<()>().await;
            }
            let last = record.trace.attempt() == attempts.max;
            let limits = limits(core, last, handshake);
            let attempted = request.attempt(&core.upstream, fresh, limits, &record.trace);
            let failed = match attempted.await {
                Ok(committed) => return Ok(committed),
                Err(failed) => failed,
            };
            fresh = true;
            let failure = failed.failure();
            if failed.was_stale() && stale_may_be_free {
                stale_may_be_free = false;
                record.stale_connection(failure.cause(), failure, failed.delivery());
                request = failed.into_request();
                continue;
            }
            let then = match failure.may_pass() {
                false => Then::Hopeless,
                true if last => Then::Exhausted,
                true => replay(core),
            };
            record.attempt_failed(&Failed {
                cause: failure.cause(),
                text: failure,
                delivery: failed.delivery(),
                then,
            });
            if then != Then::Again {
                return Err((failed.into_failure(), then));
            }
            request = failed.into_request();
            record.trace.enter(Phase::Backoff);
            sleep(attempts.backoff).await;
            record.trace.begin();
        }
    }
}

/// Another attempt, if the budget has one.
fn replay(core: &Core) -> Then {
    match &core.budget {
        Some(budget) if !budget.replay(Moment::now()) => Then::Denied,
        _ => Then::Again,
    }
}

fn limits(core: &Core, last: bool, handshake: bool) -> Limits {
    let attempts = &core.config.attempts;
    let usual = Some(attempts.header_timeout);
    let (mut header, mut header_setting) = match last && attempts.last_header_timeout != usual {
        true => (
            attempts.last_header_timeout,
            "LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS",
        ),
        false => (usual, "RESPONSE_HEADER_TIMEOUT_SECONDS"),
    };
    let upgrade = attempts.upgrade_header_timeout;
    if handshake && header.is_none_or(|header| upgrade < header) {
        (header, header_setting) = (Some(upgrade), "UPGRADE_HEADER_TIMEOUT_SECONDS");
    }
    Limits {
        write: attempts.write_timeout,
        header,
        header_setting,
    }
}

/// What a client is told when there is no response to be had from the upstream.
fn told(request: &Request, refusal: Refusal) -> Refusal {
    match request.kind {
        Kind::Handshake => Refusal::NoUpgrade(Box::new(refusal)),
        _ => refusal,
    }
}

async fn refuse(reply: Unanswered<'_>, refusal: &Refusal, record: &mut Record) -> Answered {
    let told = refusal.tell();
    record.status = Some(told.status.0);
    // Boxed: it is rare, and a task holds the largest of what it may wait for.
    let attempts = (record.trace.sends(), record.failed_attempts());
    let refuse = Box::pin(reply.refuse(refusal, attempts, record.id));
    let answered = refuse.await;
    record.finish(&Outcome::Refused(told.code), answered.sent);
    answered
}
