//! A request's head: read under a size and a time limit, checked, and rewritten as it goes up.
use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use memchr::memchr;

use crate::config::{Config, Secret};
use crate::downstream::client::{Client, Ended};
use crate::http1::fields::{self, Connection, RequestRules};
use crate::http1::framing::{self, Framing};
use crate::http1::head::{self, Malformed, RequestHead, Scan, Version};
use crate::http1::target;
use crate::net::buffer::Buffer;
use crate::net::deadline::Deadline;
use crate::net::drain::Drain;
use crate::net::select;
use crate::refusal::Refusal;
use crate::telemetry::record::Named;

/// Largest request head.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Most empty lines before a request. RFC 9112 2.2 wants one passed over; without end they would be
/// a head that never begins.
const EMPTY_LINES_MAX: u32 = 32;
/// Most bytes of a path, or of a method, in a log line: ten thousand of them wait for a slow stdout.
const LOGGED_BYTES_MAX: usize = 256;
/// Longest request-line.
const LINE_BYTES_MAX: usize = 32 << 10;

/// How long a connection that is draining is kept for a request that may be on its way: closing it just
/// then would lose that.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// What a connection's next bytes come to.
pub enum Next {
    /// A request to be exchanged.
    Request(Box<Request>),
    /// A head that is refused: the message's end is uncertain, the connection ends.
    Refused(Refusal, Rc<Named>),
    /// No request: the client has left, was idle too long, or we are draining.
    Nothing,
}

impl Next {
    /// What becomes of it on a connection beyond `MAX_CLIENT_CONNECTIONS`: only health is told.
    pub fn turned_away(self) -> Self {
        match self {
            Self::Request(mut request) if request.kind == Kind::Health => {
                request.keep_alive = false;
                Self::Request(request)
            }
            Self::Request(request) => Self::Refused(
                Refusal::Overloaded("connections of clients", "MAX_CLIENT_CONNECTIONS"),
                request.named,
            ),
            next => next,
        }
    }
}

/// A request whose head has been read and rewritten.
pub struct Request {
    /// Its method and path.
    pub named: Rc<Named>,
    /// The client's version.
    pub version: Version,
    /// How its body ends.
    pub framing: Framing,
    /// The client waits for 100 (Continue) before it sends the body.
    pub expects_continue: bool,
    /// The client wants the connection kept.
    pub keep_alive: bool,
    /// Its Host is a name that anybody may have pointed at this machine, where not any will do.
    pub by_foreign_name: bool,
    /// The head as it goes up, without the empty line at its end.
    pub head: Buffer,
    /// What is to be done with it.
    pub kind: Kind,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To be forwarded.
    Forward,
    /// To be forwarded: a WebSocket handshake, which a tunnel may follow.
    Handshake,
    /// `/healthz`: answered here.
    Health,
}

impl Request {
    /// RFC 9110 9.2.2.
    pub fn is_idempotent(&self) -> bool {
        matches!(
            &*self.named.method,
            "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE"
        )
    }
}

/// Reads the next request of a connection. `input` holds what came behind the request before it.
pub async fn next(
    client: &Client,
    input: &mut Buffer,
    config: &Config,
    drain: &Drain,
    first: bool,
) -> Next {
    let limits = &client.limits;
    if input.is_empty() {
        *input = Buffer::empty();
        let idle = if first {
            limits.header_timeout
        } else {
            limits.idle_timeout
        };
        select! {
            biased;
            received = client.receive(input, Deadline::after(idle)) => if received.is_err() {
                return Next::Nothing;
            },
            () = drain.started() => (),
        }
    }
    if input.is_empty() {
        let grace = Deadline::after(DRAIN_GRACE.min(limits.idle_timeout));
        if client.receive(input, grace).await.is_err() {
            return Next::Nothing;
        }
    }
    match read_head(client, input).await {
        Ok(length) => {
            let next = head::with_request(&input[..length], |head| match check(head, config) {
                Ok(request) => Next::Request(Box::new(request)),
                Err(refusal) => Next::Refused(refusal, named(head)),
            });
            input.consume(length);
            next.unwrap_or_else(|error| Next::Refused(refusal(error), unnamed()))
        }
        Err(Some(refusal)) => Next::Refused(refusal, unnamed()),
        Err(None) => Next::Nothing,
    }
}

/// The length of the head at the front of `input`; `Err(None)` where the client has left.
async fn read_head(client: &Client, input: &mut Buffer) -> Result<usize, Option<Refusal>> {
    let limit = client.limits.header_timeout;
    let mut deadline = None;
    let mut scan = Scan::default();
    let mut empty_lines = 0;
    loop {
        while scan.in_start_line() && input.starts_with(b"\r\n") {
            empty_lines += 1;
            if empty_lines > EMPTY_LINES_MAX {
                return Err(Some(Refusal::BadRequest("there are too many empty lines")));
            }
            input.consume(2);
            scan = Scan::default();
        }
        if let Some(length) = scan
            .head_length(input)
            .map_err(|error| Some(refusal(error)))?
        {
            if memchr(b'\n', input).is_some_and(|end| end > LINE_BYTES_MAX) {
                return Err(Some(Refusal::UriTooLong));
            }
            if length > HEAD_BYTES_MAX {
                return Err(Some(Refusal::FieldsTooLarge));
            }
            return Ok(length);
        }
        if scan.in_start_line() && input.len() > LINE_BYTES_MAX {
            return Err(Some(Refusal::UriTooLong));
        }
        if input.len() > HEAD_BYTES_MAX {
            return Err(Some(Refusal::FieldsTooLarge));
        }
        // Most come whole, and need none.
        let deadline = *deadline.get_or_insert_with(|| Deadline::after(limit));
        match client.receive(input, deadline).await {
            Ok(()) => (),
            Err(Ended::Left) => return Err(None),
            Err(Ended::Late) if input.is_empty() => return Err(None), // empty lines are no request
            Err(Ended::Late) => return Err(Some(head_timeout(limit))),
        }
    }
}

fn head_timeout(limit: Duration) -> Refusal {
    Refusal::RequestTimeout("the request head", limit, "CLIENT_HEADER_TIMEOUT_SECONDS")
}

fn refusal(error: Malformed) -> Refusal {
    match error {
        Malformed::TooManyFields => Refusal::FieldsTooLarge,
        error => Refusal::BadRequest(error.reason()),
    }
}

/// Refuses what is ambiguous or not for forwarding; rewrites the rest.
pub fn check(head: &RequestHead<'_>, config: &Config) -> Result<Request, Refusal> {
    let version = head.version;
    let bad = Refusal::BadRequest;
    let framing = framing::of_request(head).map_err(|ambiguous| bad(ambiguous.reason()))?;
    let connection =
        Connection::of(head.fields).map_err(|_| bad("Connection has too many options"))?;
    let mut hosts = head.fields.iter().filter(|f| fields::is(f, "host"));
    let by_foreign_name = match (hosts.next(), hosts.next()) {
        (Some(host), None) => !config.client.any_host && target::is_foreign_name(host.value),
        (None, _) if version == Version::Http10 => false,
        (None, _) => return Err(bad("there is no Host field")),
        _ => return Err(bad("there are two Host fields")),
    };
    if matches!(head.method, "CONNECT" | "TRACE") {
        return Err(Refusal::MethodNotAllowed);
    }
    let target =
        target::origin_form(head.target).ok_or_else(|| bad("the request-target is malformed"))?;
    let base_path = config.upstream.path.as_str();
    if !base_path.is_empty() && (target == b"*" || target::climbs(target)) {
        return Err(bad(
            "the request-target climbs above the path of UPSTREAM_BASE_URL",
        ));
    }
    if matches!(framing, Framing::Length(bytes) if bytes > config.client.body_bytes_max) {
        return Err(Refusal::BodyTooLarge(config.client.body_bytes_max));
    }
    let health = path(target) == b"/healthz" && matches!(head.method, "GET" | "HEAD");
    let token = config.access_token.as_ref().filter(|_| !health);
    let token = token.map(Secret::expose);
    if token.is_some_and(|token| !head.fields.iter().any(|field| fields::bears(field, token))) {
        return Err(Refusal::Unauthorized);
    }
    let kind = match health {
        true => Kind::Health,
        false if is_handshake(head, framing, &connection) => Kind::Handshake,
        false => Kind::Forward,
    };
    let credential = config.upstream.credential.as_ref();
    let rules = RequestRules {
        host: &config.upstream.authority,
        base_path,
        credential: credential.map(|field| (field.name.as_str(), field.value.expose())),
        token,
        websocket: kind == Kind::Handshake,
    };
    let mut rewritten = Buffer::small();
    fields::write_request(
        rewritten.as_vec(),
        head,
        target,
        framing,
        &connection,
        &rules,
    );
    Ok(Request {
        named: named(head),
        version,
        framing,
        expects_continue: version == Version::Http11 && expects_continue(head),
        keep_alive: version == Version::Http11 && !connection.close,
        by_foreign_name,
        head: rewritten,
        kind,
    })
}

fn named(head: &RequestHead<'_>) -> Rc<Named> {
    let target = target::origin_form(head.target).unwrap_or(b"-");
    let path = path(target);
    let path = &path[..path.len().min(LOGGED_BYTES_MAX)];
    let path = String::from_utf8_lossy(path).into_owned();
    Named::new(method(head.method), path)
}

fn unnamed() -> Rc<Named> {
    Named::new(Cow::Borrowed("-"), "-".to_owned())
}

/// The usual methods cost no memory.
fn method(name: &str) -> Cow<'static, str> {
    match name {
        "POST" => Cow::Borrowed("POST"),
        "GET" => Cow::Borrowed("GET"),
        // A token is ASCII: it can be cut anywhere.
        other => Cow::Owned(other[..other.len().min(LOGGED_BYTES_MAX)].to_owned()),
    }
}

fn path(target: &[u8]) -> &[u8] {
    memchr(b'?', target).map_or(target, |query| &target[..query])
}

fn expects_continue(head: &RequestHead<'_>) -> bool {
    let expect = |field: &&httparse::Header<'_>| fields::is(field, "expect");
    head.fields
        .iter()
        .find(expect)
        .is_some_and(|field| field.value.eq_ignore_ascii_case(b"100-continue"))
}

/// RFC 6455 4.1: a GET without a body. Any other upgrade is not passed on, and the request is one like
/// any other.
fn is_handshake(head: &RequestHead<'_>, framing: Framing, connection: &Connection<'_>) -> bool {
    head.method == "GET"
        && head.version == Version::Http11
        && matches!(framing, Framing::None | Framing::Length(0))
        && connection.upgrade
        && fields::names_websocket(head.fields)
}
