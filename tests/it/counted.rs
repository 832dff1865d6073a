//! The numbers are those of what has happened: each script is followed by a look at all of them.
use std::sync::mpsc::{self, Receiver};

use rustls::HandshakeKind;

use crate::support::metrics::{ADMIN, Numbers};
use crate::support::names::{Names, Says};
use crate::support::{
    Act, Authority, Client, OK, Origin, Proxy, Response, Vacant, act, answers, closes,
    full_backlog, get, hangs, pattern, post, resets, soon,
};

const ALONE: (&str, &str) = ("WORKERS", "1");
const ONCE: (&str, &str) = ("UPSTREAM_MAX_ATTEMPTS", "1");
/// Longer than a test takes.
const LONG: &str = "60";
/// No wait but the one that a test is about ends.
const PATIENT: [(&str, &str); 3] = [ALONE, ADMIN, ("RESPONSE_HEADER_TIMEOUT_SECONDS", LONG)];
const HANDSHAKE: &str = "GET /socket HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\
     Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

/// Reads a request and says so; the proxy closes.
fn waits() -> (Act, Receiver<()>) {
    let (asked, was_asked) = mpsc::channel();
    let played = act(move |peer| {
        peer.request();
        asked.send(()).unwrap();
        peer.is_closed();
    });
    (played, was_asked)
}

fn bytes(response: &Response) -> u64 {
    (response.head.0.len() + response.body.len()) as u64
}

/// All that the upstream was sent, every request once however often it came.
fn request_bytes(origin: &Origin) -> u64 {
    let mut requests = origin.requests();
    requests.dedup();
    let length = |request: &crate::support::Request| request.head.0.len() + request.body.len();
    requests.iter().map(length).sum::<usize>() as u64
}

/// What the upstream does where each outcome comes once, and the first one twice.
fn one_of_each(waits: Act) -> [Act; 8] {
    [
        act(|peer| {
            peer.request();
            peer.send(OK);
            peer.request();
            peer.send(LAST);
        }),
        closes(),
        answers(LAST),
        closes(),
        closes(),
        waits,
        act(|peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok");
            peer.close();
        }),
        act(|peer| {
            peer.request();
            peer.send(SWITCHING);
            assert_eq!(peer.take(4), b"ping");
            peer.send("pong!");
            peer.is_closed();
        }),
    ]
}

const ONE_OF_EACH: [(&str, u64); 24] = [
    ("exchanges_total{outcome=answered}", 2),
    ("exchanges_total{outcome=rescued}", 1),
    ("exchanges_total{outcome=exhausted}", 1),
    ("exchanges_total{outcome=refused}", 1),
    ("exchanges_total{outcome=client_left}", 1),
    ("exchanges_total{outcome=aborted}", 1),
    ("exchanges_total{outcome=tunnelled}", 1),
    ("refusals_total{code=bad_request}", 1),
    ("refusals_total{code=upstream_request_error}", 1),
    ("clients_left_total{phase=header}", 1),
    ("possibly_doubled_requests_total", 2),
    ("tunnels_total", 1),
    ("attempts_total", 9),
    (
        "attempt_failures_total{phase=header,failure=closed,delivery=acked}",
        3,
    ),
    ("replays_total", 2),
    ("pool_takes_total{result=hit}", 1),
    ("pool_takes_total{result=miss}", 6),
    ("connects_total{result=ok}", 8),
    ("client_accepts_total{result=admitted}", 5),
    ("response_header_wait_seconds_count{attempt=1}", 4),
    ("response_header_wait_seconds_count{attempt=2}", 1),
    ("connect_duration_seconds_count", 8),
    ("send_duration_seconds_count", 9),
    ("exchange_duration_seconds_count", 8),
];

#[test]
fn one_of_each_outcome_is_all_that_is_counted() {
    let (waits, was_asked) = waits();
    let origin = Origin::plays(one_of_each(waits));
    let proxy = Proxy::start(&origin, &PATIENT);
    let mut client = Client::connect(&proxy);
    let mut down = bytes(&client.exchange(get("/answered")));
    down += bytes(&client.exchange(post("/answered", b"{}")));
    let rescued = client.exchange(post("/rescued", &pattern().bytes(100_000)));
    assert_eq!(rescued.attempts(), Some(2));
    let exhausted = client.exchange(post("/exhausted", b"{}"));
    exhausted.assert_refusal(502, "upstream_request_error");
    let refused = Client::connect(&proxy).exchange("GET /refused HTTP/1.1\r\n\r\n");
    refused.assert_refusal(400, "bad_request");
    down += bytes(&rescued) + bytes(&exhausted) + bytes(&refused);

    let mut leaving = Client::connect(&proxy);
    leaving.send(post("/left", b"{}"));
    soon(&was_asked);
    leaving.leave();

    let mut aborted = Client::connect(&proxy);
    aborted.send(get("/aborted"));
    let cut = aborted.try_response("GET").unwrap_err();
    down += (cut.head.unwrap().0.len() + cut.body.len()) as u64;

    let mut tunnel = Client::connect(&proxy);
    tunnel.send(HANDSHAKE);
    down += tunnel.head().0.len() as u64 + 5;
    tunnel.send("ping");
    assert_eq!(tunnel.take(5), b"pong!");
    tunnel.half_close();
    tunnel.is_closed();

    let numbers = Numbers::after(&proxy, 8);
    numbers.are(&ONE_OF_EACH);
    assert_eq!(numbers.sum("response_bytes_total"), down);
    assert_eq!(
        numbers.sum("request_bytes_total"),
        request_bytes(&origin) + 4
    );
}

/// One request whose only attempt fails of this cause.
fn fails(proxy: &Proxy, request: &[u8], code: &str, failed: &str, too: &[(&str, u64)]) {
    let mut client = Client::connect(proxy);
    client.send(request);
    let response = client.response();
    let error = response.head.field("x-codex-reset-proxy-error");
    assert_eq!(error.as_deref(), Some(code), "{failed}");
    let numbers = Numbers::after(proxy, 1);
    assert_eq!(numbers.sum("attempt_failures_total"), 1, "{failed}");
    // What would only fail again has not been tried to the end.
    let hopeless = failed.contains("no_such_name") || failed.contains("tls_failed");
    let outcome = match hopeless {
        true => "exchanges_total{outcome=refused}",
        false => "exchanges_total{outcome=exhausted}",
    };
    assert_eq!(numbers.sum(&format!("attempt_failures_total{{{failed}")), 1);
    for (series, count) in [
        (outcome, 1),
        ("attempts_total", 1),
        ("response_header_wait_seconds_count", 0),
        (&*format!("refusals_total{{code={code}}}"), 1),
    ]
    .iter()
    .chain(too)
    {
        assert_eq!(numbers.sum(series), *count, "{failed}: {series}");
    }
}

#[test]
fn a_failed_attempt_is_counted_by_its_cause() {
    let (error, timeout) = ("upstream_request_error", "upstream_timeout");
    let short = |name| vec![ALONE, ADMIN, ONCE, (name, "0.3")];
    let patient = [
        ALONE,
        ADMIN,
        ONCE,
        ("RESPONSE_HEADER_TIMEOUT_SECONDS", LONG),
    ];
    let asks = get("/");

    let vacant = Vacant::new();
    let proxy = Proxy::start_at(&vacant.url(), &patient);
    let failed = "phase=connect,failure=connect_failed,delivery=not_sent";
    let too = [("connects_total{result=failed}", 1), ("connects_total", 1)];
    fails(&proxy, asks.as_bytes(), error, failed, &too);

    let (deaf, _listener, _queued) = full_backlog();
    let proxy = Proxy::start_at(&format!("http://{deaf}"), &short("CONNECT_TIMEOUT_SECONDS"));
    let failed = "phase=connect,failure=connect_timeout,delivery=not_sent";
    fails(&proxy, asks.as_bytes(), timeout, failed, &too);

    let header = [
        (
            hangs(),
            short("RESPONSE_HEADER_TIMEOUT_SECONDS"),
            "upstream_header_timeout",
            "header_timeout",
        ),
        (closes(), patient.to_vec(), error, "closed"),
        (resets(), patient.to_vec(), error, "read_failed"),
    ];
    for (played, settings, code, cause) in header {
        let origin = Origin::plays([played]);
        let proxy = Proxy::start(&origin, &settings);
        let failed = format!("phase=header,failure={cause},delivery=acked");
        let too = [
            ("connects_total{result=ok}", 1),
            ("send_duration_seconds_count", 1),
        ];
        fails(&proxy, asks.as_bytes(), code, &failed, &too);
    }

    // More than sockets hold.
    let origin = Origin::plays([act(|peer| peer.is_deaf())]);
    let proxy = Proxy::start(&origin, &short("WRITE_TIMEOUT_SECONDS"));
    let much = post("/", &pattern().bytes(16 << 20));
    let too = [("send_duration_seconds_count", 0)];
    fails(
        &proxy,
        &much,
        timeout,
        "phase=send,failure=write_timeout",
        &too,
    );
}

#[test]
fn a_name_without_an_address_is_counted_by_what_is_said_of_it() {
    for (says, cause) in [
        (Says::NoSuchName, "no_such_name"),
        (Says::Fails, "resolve_failed"),
    ] {
        let Some(names) = Names::new(says) else {
            return;
        };
        let settings = [ALONE, ADMIN, ONCE];
        let proxy = Proxy::start_by(&names.launcher(), "http://upstream.example", &settings);
        let failed = format!("phase=resolve,failure={cause},delivery=not_sent");
        let code = "upstream_request_error";
        fails(
            &proxy,
            get("/").as_bytes(),
            code,
            &failed,
            &[("connects_total", 0)],
        );
    }
}

#[test]
fn a_wait_for_a_connection_that_ends_in_vain_is_counted() {
    let (waits, was_asked) = waits();
    let origin = Origin::plays([waits]);
    let limits = [
        ("UPSTREAM_MAX_CONNECTIONS", "1"),
        ("POOL_TIMEOUT_SECONDS", "0.3"),
        ONCE,
    ];
    let proxy = Proxy::start(&origin, &[&PATIENT[..], &limits].concat());
    let mut holds = Client::connect(&proxy);
    holds.send(get("/holds"));
    soon(&was_asked);
    let refused = Client::connect(&proxy).exchange(get("/"));
    refused.assert_refusal(504, "upstream_timeout");
    holds.leave();
    let numbers = Numbers::after(&proxy, 2);
    for series in [
        "attempt_failures_total{phase=pool,failure=pool_timeout,delivery=not_sent}",
        "attempt_failures_total",
        "exchanges_total{outcome=exhausted}",
        "pool_takes_total",
        "connects_total",
    ] {
        assert_eq!(numbers.sum(series), 1, "{series}");
    }
}

#[test]
fn handshakes_are_counted_by_how_they_came_out() {
    let authority = Authority::new();
    let origin = Origin::serves_tls(&authority, 2, |peer| {
        peer.request();
        peer.send(LAST);
        peer.close_with_notify();
    });
    let trusts = ("UPSTREAM_CA_FILE", authority.file());
    let proxy = Proxy::start(&origin, &[&PATIENT[..], &[trusts]].concat());
    for _ in 0..2 {
        assert_eq!(Client::connect(&proxy).exchange(get("/")).status(), 200);
    }
    assert_eq!(
        origin.handshakes(),
        [HandshakeKind::Full, HandshakeKind::Resumed]
    );
    let numbers = Numbers::after(&proxy, 2);
    for (series, count) in [
        ("tls_handshakes_total{result=full}", 1),
        ("tls_handshakes_total{result=resumed}", 1),
        ("tls_handshakes_total{result=failed}", 0),
        ("tls_handshake_duration_seconds_count", 2),
        ("connects_total{result=ok}", 2),
    ] {
        assert_eq!(numbers.sum(series), count, "{series}");
    }

    let cases = [
        (
            act(|peer| drop(peer.fails_handshake())),
            ONCE,
            "tls",
            "tls_failed",
            "upstream_request_error",
        ),
        (
            act(|peer| drop(peer.flight())),
            ("CONNECT_TIMEOUT_SECONDS", "1"),
            "connect",
            "connect_timeout",
            "upstream_timeout",
        ),
    ];
    for (played, setting, phase, cause, code) in cases {
        let origin = Origin::plays_tls(&authority, [played]);
        let proxy = Proxy::start(&origin, &[ALONE, ADMIN, ONCE, setting]);
        let failed = format!("phase={phase},failure={cause},delivery=not_sent");
        let too = [
            ("tls_handshakes_total{result=failed}", 1),
            ("tls_handshakes_total", 1),
            ("connects_total{result=ok}", 1),
        ];
        fails(&proxy, get("/").as_bytes(), code, &failed, &too);
    }
}
