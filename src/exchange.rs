//! The path of a request, from the client's first byte to the last byte of its response.
//!
//! ```text
//! read head -> buffer body -> attempt (at most N) -> read response head -> relay -> next request
//!                                  |                       |
//!                    upstream commit: first byte read      |
//!                                       downstream commit: first byte sent
//! ```
use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use crate::config::Config;
use crate::downstream::body;
use crate::downstream::client::{Client, Left};
use crate::downstream::reply::{Answered, Answering, Unanswered};
use crate::downstream::request::{self, Kind, Next, Request};
use crate::http1::fields::{ResponseRules, names_websocket, write_response};
use crate::http1::framing::Framing;
use crate::http1::head::{ResponseHead, Version};
use crate::net::buffer::Buffer;
use crate::net::drain::Drain;
use crate::net::quota::Quota;
use crate::net::tcp::Tcp;
use crate::net::{Instant, select, sleep};
use crate::refusal::Refusal;
use crate::relay::{Aborted, Relay, tunnel};
use crate::telemetry::record::{Ids, Outcome, Record};
use crate::upstream::attempt::{Committed, Limits};
use crate::upstream::connection::Upstream;
use crate::upstream::failure::{self, Failure};
use crate::upstream::request::Replayable;
use crate::upstream::response::{Fault, Response};

/// What a request counts as beside the bytes of its client: pipelined ones that are answered here
/// need no wait between them.
const REQUEST_WORK_BYTES: usize = 16 << 10;
/// Interim responses before the final one: more is an upstream out of its mind.
const INTERIM_MAX: u32 = 32;

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
                let mut record = Record::new(&core.ids, &named.method, &named.path);
                let reply = Unanswered::new(&client, named.method == "HEAD", false);
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
    let draining = core.drain.has_started();
    let keep_alive = request.keep_alive && !draining;
    let reply = Unanswered::new(client, request.named.method == "HEAD", keep_alive);
    let mut record = Record::new(&core.ids, &request.named.method, &request.named.path);
    let wire = match body::buffer(client, input, &request, head, &reply).await {
        Ok(wire) => wire,
        Err(body::Fault::Refused(refusal)) => return refuse(reply, &refusal, &mut record).await,
        Err(body::Fault::Left) => {
            record.finish(&Outcome::ClientLeft("sending its request"), 0);
            return Answered::GONE;
        }
    };
    if request.kind == Kind::Health {
        return Box::pin(reply.tell_health(draining)).await;
    }
    let replayable = Replayable::new(wire, request.is_idempotent());
    record.up(replayable.bytes());
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
            record.finish(&Outcome::ClientLeft("waiting for the response"), 0);
            return Answered::GONE;
        }
        Some(Ok(committed)) => {
            let (record, left) = (&mut record, &mut left);
            respond(core, committed, reply, &request, input, record, left).await
        }
        Some(Err(failure)) => {
            let refusal = told(&request, failure::refusal(&failure, record.sends));
            refuse(reply, &refusal, &mut record).await
        }
    };
    // RFC 9112 9.6: a client that asked for the end sends nothing more.
    answered.lingers &=
        request.keep_alive || !input.is_empty() || !matches!(client.read_into(input), Ok(0));
    answered
}

/// Attempts the request until the upstream commits to an answer or the attempts are used up.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn holds its arguments twice"
)]
fn attempt(
    core: &Core,
    client: &Client,
    mut request: Replayable,
    handshake: bool,
    record: &mut Record<'_>,
) -> impl Future<Output = Result<Committed, Failure>> {
    async move {
        let attempts = &core.config.attempts;
        // A reused connection that the upstream has closed is not its failure: once, that is free.
        let mut stale_may_be_free = attempts.max > 1 || request.is_idempotent();
        let (mut attempt, mut fresh) = (1, false);
        loop {
            if fresh && client.tcp.has_hung_up() {
                // Who watches the client looks only now and then where it has sent ahead: this ends
                // when that is seen.
                pending::<()>().await;
            }
            let last = attempt == attempts.max;
            let started = Instant::now();
            let (limits, sends) = (limits(core, last, handshake), &mut record.sends);
            let failed = match request.attempt(&core.upstream, fresh, limits, sends).await {
                Ok(committed) => return Ok(committed),
                Err(failed) => failed,
            };
            fresh = true;
            let failure = failed.failure();
            if failed.was_stale() && stale_may_be_free {
                stale_may_be_free = false;
                record.stale_connection(failure);
                request = failed.into_request();
                continue;
            }
            let again = !last && failure.may_pass();
            record.attempt_failed(attempt, failure.phase(), started.elapsed(), failure, again);
            if !again {
                return Err(failed.into_failure());
            }
            request = failed.into_request();
            attempt += 1;
            sleep(attempts.backoff).await;
        }
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

/// No way back to another attempt: whatever comes is relayed, refused or broken off.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn holds its arguments twice"
)]
fn respond(
    core: &Core,
    mut committed: Committed,
    reply: Unanswered<'_>,
    request: &Request,
    input: &mut Buffer,
    record: &mut Record<'_>,
    left: &mut Left<'_>,
) -> impl Future<Output = Answered> {
    async move {
        let keep_alive = reply.keeps_alive();
        let mut reply = Reply::Unanswered(reply);
        let mut interim_left = INTERIM_MAX;
        let unchunk = request.version == Version::Http10;
        loop {
            let mut head = Buffer::small();
            let read = committed.read_head(&request.named.method, |parsed, framing, connection| {
                let leads = leads(request, parsed);
                let rules = rules(leads, framing, unchunk, keep_alive, record.sends);
                write_response(head.as_vec(), parsed, connection, &rules);
                leads
            });
            let read = select! {
                biased;
                read = read => read,
                () = &mut *left => {
                    committed.close();
                    return reply.client_left(record, "waiting for the response");
                }
            };
            let fault = match read {
                Ok(read) if read.then == Leads::On && interim_left > 0 => {
                    interim_left -= 1;
                    committed.skip(&read);
                    let ours = read.status == 100 && request.expects_continue;
                    if unchunk || ours {
                        continue; // HTTP/1.0 knows no interim responses, and our own 100 was sent
                    }
                    reply = match reply.send(&mut head, left).await {
                        Ok(answering) => Reply::Answering(answering),
                        Err(answered) => {
                            committed.close();
                            record.finish(&Outcome::ClientLeft("waiting for the response"), 0);
                            return answered;
                        }
                    };
                    continue;
                }
                Ok(read) if read.then == Leads::ToBody => {
                    record.head(read.status);
                    let response = committed.into_response(&read);
                    return finish(core, response, reply, request, head, record, left).await;
                }
                Ok(read) if read.then == Leads::ToTunnel => {
                    record.head(read.status);
                    let response = committed.into_response(&read);
                    return switch(core, response, reply, input, head, record, left).await;
                }
                Ok(_) => Fault::Malformed("an interim response that was not asked for"),
                Err(fault) => fault,
            };
            committed.close();
            return reply.fail(&fault, request, record).await;
        }
    }
}

/// What a response head leads to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leads {
    /// It is interim: another head follows.
    On,
    ToBody,
    ToTunnel,
    /// It switches to what nobody has asked for.
    Nowhere,
}

fn leads(request: &Request, head: &ResponseHead<'_>) -> Leads {
    match head.status {
        101 if request.kind == Kind::Handshake && names_websocket(head.fields) => Leads::ToTunnel,
        101 => Leads::Nowhere,
        ..200 => Leads::On,
        _ => Leads::ToBody,
    }
}

/// What the head of a response gets on its way to this client.
fn rules(
    leads: Leads,
    framing: Framing,
    unchunk: bool,
    keep_alive: bool,
    sends: u32,
) -> ResponseRules {
    let framing = match framing {
        Framing::Chunked if unchunk => Framing::UntilClose,
        framing => framing,
    };
    ResponseRules {
        framing,
        close: leads == Leads::ToBody && (framing == Framing::UntilClose || !keep_alive),
        attempts: (leads != Leads::On).then_some(sends),
        websocket: leads == Leads::ToTunnel,
    }
}

/// Sends the 101 and becomes a tunnel: what follows it, either way, is no HTTP.
fn switch(
    core: &Core,
    response: Response,
    reply: Reply<'_>,
    input: &mut Buffer,
    mut head: Buffer,
    record: &mut Record<'_>,
    left: &mut Left<'_>,
) -> impl Future<Output = Answered> {
    let limits = tunnel::Limits {
        idle: core.config.stream_idle_timeout,
        upstream_write: core.config.attempts.write_timeout,
    };
    let early = std::mem::take(input);
    async move {
        head.as_vec().extend_from_slice(&response.received);
        drop(response.received);
        let answering = match reply.send(&mut head, left).await {
            Ok(answering) => answering,
            Err(answered) => {
                response.conn.close();
                record.finish(&Outcome::ClientLeft("during the response"), 0);
                return answered;
            }
        };
        drop(head);
        // Boxed: it is rare.
        let tunnelled = Box::pin(tunnel::tunnel(response.conn, answering, early, limits)).await;
        record.up(tunnelled.up_bytes);
        record.finish(&Outcome::Tunnelled(&tunnelled.end), tunnelled.answered.sent);
        tunnelled.answered
    }
}

/// Sends the head with what came of the body, relays the rest, and keeps what can be kept.
async fn finish(
    core: &Core,
    response: Response,
    reply: Reply<'_>,
    request: &Request,
    mut head: Buffer,
    record: &mut Record<'_>,
    left: &mut Left<'_>,
) -> Answered {
    let unchunk = request.version == Version::Http10;
    let mut relay = match Relay::new(response, unchunk, core.config.stream_idle_timeout) {
        Ok(relay) => relay,
        Err(reason) => return reply.fail(&Fault::Malformed(reason), request, record).await,
    };
    head.as_vec().extend_from_slice(&relay.first());
    let (answered, conn, result) = match reply.send(&mut head, left).await {
        Ok(answering) => {
            drop(head);
            let relayed = relay.run(answering, left).await;
            (relayed.answered, relayed.conn, relayed.result)
        }
        Err(answered) => {
            let (conn, aborted) = relay.abandon().await;
            (answered, conn, Err(aborted))
        }
    };
    if let Some(conn) = conn {
        core.upstream.give_back(conn);
    }
    let outcome = match &result {
        Ok(()) => Outcome::Answered,
        // Where nothing was sent, nobody has seen an answer.
        Err(Aborted::ClientLeft { complete: true }) if answered.sent > 0 => Outcome::Sufficed,
        Err(Aborted::ClientLeft { .. }) => Outcome::ClientLeft("during the response"),
        Err(aborted) => Outcome::Aborted(aborted),
    };
    record.finish(&outcome, answered.sent);
    answered
}

/// What a client is told when there is no response to be had from the upstream.
fn told(request: &Request, refusal: Refusal) -> Refusal {
    match request.kind {
        Kind::Handshake => Refusal::NoUpgrade(Box::new(refusal)),
        _ => refusal,
    }
}

async fn refuse(reply: Unanswered<'_>, refusal: &Refusal, record: &mut Record<'_>) -> Answered {
    let told = refusal.tell();
    record.status = Some(told.status.0);
    // Boxed: it is rare, and a task holds the largest of what it may wait for.
    let refuse = Box::pin(reply.refuse(refusal, record.sends, record.id));
    let answered = refuse.await;
    record.finish(&Outcome::Refused(told.code), answered.sent);
    answered
}

/// The client's side while response heads are read: an interim response commits downstream.
enum Reply<'c> {
    Unanswered(Unanswered<'c>),
    Answering(Answering<'c>),
}

impl<'c> Reply<'c> {
    /// Sends a head. `Err`: the client is gone.
    async fn send(self, head: &mut Buffer, left: &mut Left<'_>) -> Result<Answering<'c>, Answered> {
        let client = match &self {
            Self::Unanswered(reply) => reply.client(),
            Self::Answering(answering) => answering.client(),
        };
        let send = async {
            match self {
                Self::Unanswered(reply) => reply.begin(head).await,
                Self::Answering(mut answering) => answering.write(head).await.map(|()| answering),
            }
        };
        let sent = select! {
            biased;
            sent = send => sent.ok(),
            () = left => None,
        };
        sent.ok_or_else(|| {
            // A part of it may be out, and with a FIN behind it look like the whole.
            client.reset_on_close();
            Answered::GONE
        })
    }

    fn client_left(self, record: &Record<'_>, phase: &str) -> Answered {
        record.finish(&Outcome::ClientLeft(phase), 0);
        Answered::GONE
    }

    /// There is no final response head: told, or where an interim response has gone out, shown by
    /// the end of the connection.
    async fn fail(self, fault: &Fault, request: &Request, record: &mut Record<'_>) -> Answered {
        match self {
            Self::Unanswered(reply) => {
                let refusal = match fault {
                    Fault::Timeout(message) => Refusal::HeaderTimeout(message.clone()),
                    fault => Refusal::BadResponse(format!(
                        "the upstream's response is unusable: {fault}"
                    )),
                };
                refuse(reply, &told(request, refusal), record).await
            }
            Self::Answering(answering) => {
                let answered = answering.break_off(false);
                record.finish(&Outcome::Aborted(fault), answered.sent);
                answered
            }
        }
    }
}
