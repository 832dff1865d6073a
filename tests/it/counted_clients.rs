//! The numbers of what clients do: who leaves when, who is refused and why, what goes which way, how
//! long it takes.
use std::thread;
use std::time::{Duration, Instant};

use crate::support::metrics::{ADMIN, Numbers};
use crate::support::names::{Names, Says};
use crate::support::net::eventually;
use crate::support::{
    Act, Authority, Client, OK, Origin, Proxy, act, answers, chunked, closes, full_backlog, get,
    hangs, pattern, post,
};

const ALONE: (&str, &str) = ("WORKERS", "1");
const PATIENT: [(&str, &str); 3] = [ALONE, ADMIN, ("RESPONSE_HEADER_TIMEOUT_SECONDS", "60")];

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// Sends a request whose client leaves as soon as it is seen to be at `phase`.
fn leaves(proxy: &Proxy, request: &[u8], phase: &str) {
    let at = format!("exchanges_in_flight{{phase={phase}}}");
    let mut client = Client::connect(proxy);
    client.send(request);
    let mut numbers = Numbers::of(proxy);
    eventually(&at, || {
        numbers = Numbers::of(proxy);
        numbers.value(&at) == 1.0
    });
    assert_eq!(numbers.value("client_connections"), 1.0);
    client.reset();
    numbers = Numbers::after(proxy, 1);
    let left = format!("clients_left_total{{phase={phase}}}");
    let outcome = "exchanges_total{outcome=client_left}";
    for series in [&left, "clients_left_total", outcome] {
        assert_eq!(numbers.sum(series), 1, "{phase}: {series}");
    }
}

#[test]
fn a_client_that_leaves_is_counted_where_its_request_was() {
    let much = post("/", &pattern().bytes(16 << 20));
    let half = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello";
    let asks = get("/").into_bytes();
    let relays = act(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
        peer.is_closed();
    });
    let plain: [(Vec<Act>, &[u8], &str); 5] = [
        (vec![], half.as_bytes(), "receiving"),
        (vec![act(|peer| peer.is_deaf())], &much, "send"),
        (vec![hangs()], &asks, "header"),
        (vec![closes()], &asks, "backoff"),
        (vec![relays], &asks, "relay"),
    ];
    let pause = ("RETRY_BACKOFF_SECONDS", "60");
    for (acts, request, phase) in plain {
        let origin = Origin::plays(acts);
        let proxy = Proxy::start(&origin, &[&PATIENT[..], &[pause]].concat());
        leaves(&proxy, request, phase);
    }

    let slowly = [ALONE, ADMIN, ("CONNECT_TIMEOUT_SECONDS", "60")];
    let (deaf, _listener, _queued) = full_backlog();
    let proxy = Proxy::start_at(&format!("http://{deaf}"), &slowly);
    leaves(&proxy, &asks, "connect");
    let origin = Origin::plays_tls(&Authority::new(), [act(|peer| drop(peer.flight()))]);
    leaves(&Proxy::start(&origin, &slowly), &asks, "tls");
    if let Some(names) = Names::new(Says::Nothing) {
        let proxy = Proxy::start_by(&names.launcher(), "http://upstream.example", &slowly);
        leaves(&proxy, &asks, "resolve");
    }
}

#[test]
fn a_refusal_is_counted_by_the_code_that_the_client_was_told() {
    let origin = Origin::plays([answers("no HTTP\r\n\r\n")]);
    let settings = [
        ("PROXY_ACCESS_TOKEN", "token"),
        ("MAX_REQUEST_BODY_BYTES", "100"),
        ("MAX_BUFFERED_BYTES", "50"),
        ("CLIENT_BODY_TIMEOUT_SECONDS", "0.3"),
    ];
    let proxy = Proxy::start(&origin, &[&PATIENT[..], &settings].concat());
    let with = |line: &str, fields: &str| {
        format!("{line} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer token\r\n{fields}\r\n")
    };
    let long = "x".repeat(33 << 10);
    let refused = [
        ("bad_request", 400, with("GET /", "Host: other\r\n")),
        ("unauthorized", 401, get("/")),
        ("method_not_allowed", 405, with("TRACE /", "")),
        (
            "request_timeout",
            408,
            with("POST /", "Content-Length: 9\r\n"),
        ),
        (
            "request_body_too_large",
            413,
            with("POST /", "Content-Length: 101\r\n"),
        ),
        ("uri_too_long", 414, with(&format!("GET /{long}"), "")),
        (
            "header_fields_too_large",
            431,
            with("GET /", &format!("X: {long}{long}\r\n")),
        ),
        ("upstream_bad_response", 502, with("GET /", "")),
        (
            "overloaded",
            503,
            with("POST /", "Content-Length: 99\r\n") + &"x".repeat(60),
        ),
    ];
    for (code, status, request) in &refused {
        let mut client = Client::connect(&proxy);
        client.send_if_taken(request.as_bytes());
        client.response().assert_refusal(*status, code);
    }
    let count = refused.len() as u64;
    let numbers = Numbers::after(&proxy, count);
    for (code, ..) in refused {
        let series = format!("refusals_total{{code={code}}}");
        assert_eq!(numbers.sum(&series), 1, "{series}");
    }
    assert_eq!(numbers.sum("refusals_total"), count);
    assert_eq!(numbers.sum("exchanges_total{outcome=refused}"), count);
    assert_eq!(numbers.sum("attempt_failures_total"), 0);
}

#[test]
fn a_connection_too_many_is_counted_as_turned_away() {
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[ALONE, ADMIN, ("MAX_CLIENT_CONNECTIONS", "1")]);
    let mut client = Client::connect(&proxy);
    assert_eq!(client.exchange(get("/")).status(), 200);
    let mut second = Client::connect(&proxy);
    second.exchange(get("/")).assert_refusal(503, "overloaded");
    second.is_closed();
    let numbers = Numbers::after(&proxy, 2);
    for (series, count) in [
        ("client_accepts_total{result=admitted}", 1),
        ("client_accepts_total{result=turned_away}", 1),
        ("client_accepts_total{result=closed}", 0),
        ("refusals_total{code=overloaded}", 1),
        ("client_connections_limit", 1),
        ("idle_upstream_connections", 1),
    ] {
        assert_eq!(numbers.sum(series), count, "{series}");
    }
    eventually("one is left", || {
        Numbers::of(&proxy).value("client_connections") == 1.0
    });
}

#[test]
fn bytes_are_counted_as_they_are_on_the_wire() {
    const LENGTH: usize = 5_000_000;
    let origin = Origin::serves(4, |peer| {
        let request = peer.request();
        let (field, body) = match request.head.line().split(' ').nth(1).unwrap() {
            "/length" => (
                format!("Content-Length: {LENGTH}\r\n"),
                pattern().bytes(LENGTH),
            ),
            "/chunked" => {
                let field = "Transfer-Encoding: chunked\r\n".to_owned();
                (field, chunked(&pattern().bytes(LENGTH), 70_001))
            }
            "/close" => (String::new(), pattern().bytes(LENGTH)),
            _ => ("Content-Length: 0\r\n".to_owned(), Vec::new()),
        };
        peer.send(format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n{field}\r\n"
        ));
        peer.send(body);
        peer.close();
    });
    let proxy = Proxy::start(&origin, &[ADMIN]);
    let mut down = 0;
    for (target, body) in [
        ("/length", 0),
        ("/chunked", 0),
        ("/close", 0),
        ("/upload", LENGTH),
    ] {
        let mut client = Client::connect(&proxy);
        let fields = format!(
            "Host: h\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: {body}\r\n"
        );
        client.send(format!("POST {target} HTTP/1.1\r\n{fields}\r\n"));
        if body > 0 {
            client.receive(CONTINUE);
            down += CONTINUE.len() as u64;
        }
        client.send(pattern().bytes(body));
        down += client.rest().len() as u64;
    }
    let numbers = Numbers::after(&proxy, 4);
    let requests = origin.requests();
    let up = requests
        .iter()
        .map(|request| request.head.0.len() + request.body.len());
    assert_eq!(numbers.sum("request_bytes_total"), up.sum::<usize>() as u64);
    assert_eq!(numbers.sum("response_bytes_total"), down);
    let spliced = numbers.sum("spliced_bytes_total");
    assert!(spliced > 0 && spliced < down, "{spliced} of {down}");
}

#[test]
fn what_a_tunnel_moves_down_inside_the_kernel_is_counted_as_such() {
    const LENGTH: usize = 16 << 20;
    let origin = Origin::plays([act(|peer| {
        peer.request();
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        peer.send(pattern().bytes(LENGTH));
        peer.is_closed();
    })]);
    let proxy = Proxy::start(&origin, &PATIENT);
    let mut client = Client::connect(&proxy);
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    let head = client.head().0.len();
    client.take(LENGTH);
    client.reset();
    let numbers = Numbers::after(&proxy, 1);
    let down = (head + LENGTH) as u64;
    assert_eq!(numbers.sum("response_bytes_total"), down);
    let spliced = numbers.sum("spliced_bytes_total");
    assert!(spliced > 0 && spliced < down, "{spliced} of {down}");
}

#[test]
fn an_answer_that_begins_before_the_request_has_gone_is_counted_as_early() {
    let origin = Origin::plays([act(|peer| {
        peer.head();
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n");
        peer.is_deaf(); // it holds up the rest of the request
    })]);
    let proxy = Proxy::start(&origin, &PATIENT);
    let response = Client::connect(&proxy).exchange(post("/", &pattern().bytes(16 << 20)));
    assert_eq!(response.status(), 413);
    let numbers = Numbers::after(&proxy, 1);
    for (series, count) in [
        ("early_answers_total", 1),
        ("exchanges_total{outcome=answered}", 1),
        ("attempt_failures_total", 0),
        ("response_header_wait_seconds_count", 1),
        ("send_duration_seconds_count", 0),
    ] {
        assert_eq!(numbers.sum(series), count, "{series}");
    }
}

#[test]
fn a_stale_connection_is_counted_and_no_attempt_for_it() {
    let stale = act(|peer| {
        peer.request();
        peer.send(OK);
        peer.request();
        peer.close();
    });
    let origin = Origin::plays([stale, answers(OK)]);
    let proxy = Proxy::start(&origin, &PATIENT);
    let mut client = Client::connect(&proxy);
    client.exchange(post("/first", b"{}"));
    assert_eq!(client.exchange(post("/second", b"{}")).attempts(), Some(2));
    let numbers = Numbers::after(&proxy, 2);
    numbers.are(&[
        ("exchanges_total{outcome=answered}", 2),
        // It had been taken whole.
        ("possibly_doubled_requests_total", 1),
        ("attempts_total", 2),
        ("pool_takes_total{result=hit}", 1),
        ("pool_takes_total{result=miss}", 1),
        ("pool_takes_total{result=stale}", 1),
        ("connects_total{result=ok}", 2),
        ("client_accepts_total{result=admitted}", 1),
        ("response_header_wait_seconds_count{attempt=1}", 2),
        ("connect_duration_seconds_count", 2),
        ("send_duration_seconds_count", 3),
        ("exchange_duration_seconds_count", 2),
    ]);
}

#[test]
fn a_wait_is_in_the_buckets_that_it_fits() {
    const WAIT: Duration = Duration::from_millis(300);
    let origin = Origin::plays([act(|peer| {
        peer.request();
        thread::sleep(WAIT);
        peer.send(OK);
    })]);
    let proxy = Proxy::start(&origin, &PATIENT);
    let began = Instant::now();
    Client::connect(&proxy).exchange(get("/"));
    let numbers = Numbers::after(&proxy, 1);
    let took = began.elapsed().as_secs_f64();
    for name in ["response_header_wait_seconds", "exchange_duration_seconds"] {
        let labels = if name.starts_with('r') {
            "attempt=1"
        } else {
            ""
        };
        let comma = if labels.is_empty() { "" } else { "," };
        let below =
            |bound: &str| numbers.sum(&format!("{name}_bucket{{{labels}{comma}le={bound}}}"));
        assert_eq!(
            (below("0.25"), below("600"), below("+Inf")),
            (0, 1, 1),
            "{name}"
        );
        let own = match labels {
            "" => format!("{name}_sum"),
            labels => format!("{name}_sum{{{labels}}}"),
        };
        let sum = numbers.value(&own);
        assert!(
            WAIT.as_secs_f64() <= sum && sum <= took,
            "{name}: {sum} s of {took} s"
        );
    }
}
