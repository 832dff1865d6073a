//! The second half of the path: what the upstream answers, on its way to the client.
use crate::downstream::client::{Client, Left};
use crate::downstream::reply::{Answered, Answering, Unanswered};
use crate::downstream::request::{Kind, Request};
use crate::exchange::{Core, refuse, told};
use crate::http1::fields::{ResponseRules, names_websocket, write_response};
use crate::http1::framing::Framing;
use crate::http1::head::{ResponseHead, Version};
use crate::net::buffer::Buffer;
use crate::net::select;
use crate::refusal::Refusal;
use crate::relay::{Aborted, Relay, tunnel};
use crate::telemetry::counters::count;
use crate::telemetry::record::{Outcome, Record};
use crate::telemetry::words::Phase;
use crate::upstream::attempt::Committed;
use crate::upstream::response::{Fault, Response};

/// Interim responses before the final one: more is an upstream out of its mind.
const INTERIM_MAX: u32 = 32;

/// No way back to another attempt: whatever comes is relayed, refused or broken off.
#[allow(
    clippy::manual_async_fn,
    reason = "an async fn holds its arguments twice"
)]
pub(super) fn respond(
    core: &Core,
    mut committed: Committed,
    reply: Unanswered<'_>,
    request: &Request,
    input: &mut Buffer,
    record: &mut Record,
    left: &mut Left<'_>,
) -> impl Future<Output = Answered> {
    async move {
        let mut reply = Reply::Unanswered(reply);
        let mut interim_left = INTERIM_MAX;
        let unchunk = request.version == Version::Http10;
        loop {
            let mut head = Buffer::small();
            let read = committed.read_head(&request.named.method, |parsed, framing, connection| {
                let leads = leads(request, parsed);
                let keep_alive = request.keep_alive && !core.drain.has_started();
                let rules = rules(leads, framing, unchunk, keep_alive, record);
                write_response(head.as_vec(), parsed, connection, &rules);
                leads
            });
            let read = select! {
                biased;
                read = read => read,
                () = &mut *left => {
                    committed.close();
                    return reply.client_left(record);
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
                            record.finish(&Outcome::ClientLeft, 0);
                            return answered;
                        }
                    };
                    continue;
                }
                Ok(read) if read.then == Leads::ToBody => {
                    record.head(read.status, Phase::Relay);
                    let response = committed.into_response(&read);
                    return finish(core, response, reply, request, head, record, left).await;
                }
                Ok(read) if read.then == Leads::ToTunnel => {
                    record.head(read.status, Phase::Tunnel);
                    count(|core| &core.tunnels);
                    let response = committed.into_response(&read);
                    return switch(core, response, reply, input, head, record, left).await;
                }
                Ok(_) => {
                    Fault::Malformed("an interim response that was not asked for, or one too many")
                }
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
    record: &Record,
) -> ResponseRules<'_> {
    let framing = match framing {
        Framing::Chunked if unchunk => Framing::UntilClose,
        framing => framing,
    };
    let is_final = leads != Leads::On;
    ResponseRules {
        framing,
        close: leads == Leads::ToBody && (framing == Framing::UntilClose || !keep_alive),
        attempts: is_final.then(|| record.trace.sends()),
        failed: record.failed_attempts().filter(|_| is_final),
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
    record: &mut Record,
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
                record.finish(&Outcome::ClientLeft, 0);
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
    record: &mut Record,
    left: &mut Left<'_>,
) -> Answered {
    let unchunk = request.version == Version::Http10;
    let mut relay = match Relay::new(response, unchunk, core.config.stream_idle_timeout) {
        Ok(relay) => relay,
        Err(reason) => return reply.fail(&Fault::Malformed(reason), request, record).await,
    };
    if relay.is_close_delimited() {
        // Until the whole is out: not even the end of this process is to look like that of the message.
        reply.client().reset_on_close();
    }
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
    let outcome = match &result {
        Ok(()) => Outcome::Answered,
        // Where nothing was sent, nobody has seen an answer.
        Err(Aborted::ClientLeft { complete: true }) if answered.sent > 0 => Outcome::Sufficed,
        Err(Aborted::ClientLeft { .. }) => Outcome::ClientLeft,
        Err(aborted) => Outcome::Aborted(aborted),
    };
    let now = record.finish(&outcome, answered.sent);
    if let Some(conn) = conn {
        core.upstream.give_back(conn, now);
    }
    answered
}

/// The client's side while response heads are read: an interim response commits downstream.
enum Reply<'c> {
    Unanswered(Unanswered<'c>),
    Answering(Answering<'c>),
}

impl<'c> Reply<'c> {
    fn client(&self) -> &'c Client {
        match self {
            Self::Unanswered(reply) => reply.client(),
            Self::Answering(answering) => answering.client(),
        }
    }

    /// Sends a head. `Err`: the client is gone.
    async fn send(self, head: &mut Buffer, left: &mut Left<'_>) -> Result<Answering<'c>, Answered> {
        let client = self.client();
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

    fn client_left(self, record: &Record) -> Answered {
        record.finish(&Outcome::ClientLeft, 0);
        Answered::GONE
    }

    /// There is no final response head: told, or where an interim response has gone out, shown by
    /// the end of the connection.
    async fn fail(self, fault: &Fault, request: &Request, record: &mut Record) -> Answered {
        match self {
            Self::Unanswered(reply) => {
                record.unusable(fault);
                let refusal = match fault {
                    Fault::Timeout(message) => Refusal::HeaderTimeout(message.clone()),
                    fault => Refusal::BadResponse(format!(
                        "the upstream's response is unusable: {fault}"
                    )),
                };
                refuse(reply, &told(request, refusal), record).await
            }
            Self::Answering(answering) => {
                let answered = answering.break_off();
                record.finish(&Outcome::Aborted(fault), answered.sent);
                answered
            }
        }
    }
}
