//! Limits of the whole process: too many bytes of bodies, too many connections, and what is told then.
use std::sync::mpsc;

use crate::support::net::eventually;
use crate::support::{
    Client, OK, Origin, Peer, Proxy, Response, act, get, post, post_chunked, soon,
};

/// All bodies together may have as many bytes.
const BODIES_MAX: usize = 100_000;

fn bodies_of_100_000(origin: &Origin, settings: &[(&str, &str)]) -> Proxy {
    let limit = ("MAX_BUFFERED_BYTES", "100000");
    Proxy::start(origin, &[&[limit], settings].concat())
}

/// The head of a request that claims `length` bytes.
fn head(target: &str, length: usize) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n")
}

/// The status of a request with a body of `count` bytes, on a connection of its own.
#[track_caller]
fn status(proxy: &Proxy, count: usize) -> u16 {
    let mut client = Client::connect(proxy);
    client.send_if_taken(&post("/", &vec![b'x'; count]));
    let response = client.response();
    if response.status() == 503 {
        assert_overloaded(&response, "MAX_BUFFERED_BYTES");
        client.is_closed();
    }
    response.status()
}

#[track_caller]
fn assert_overloaded(response: &Response, setting: &str) {
    response.assert_refusal(503, "overloaded");
    assert_eq!(response.head.field("retry-after").as_deref(), Some("1"));
    assert!(response.text().contains(setting), "{}", response.text());
    assert_eq!(response.attempts(), None);
}

/// Nothing is held: exactly the whole limit can be had.
#[track_caller]
fn assert_nothing_is_held(proxy: &Proxy, after: &str) {
    eventually(after, || status(proxy, BODIES_MAX) == 200);
    assert_eq!(status(proxy, BODIES_MAX + 1), 503, "{after}");
}

/// Plays what the target of each request asks for.
fn by_target(peer: &mut Peer) {
    while let Some(request) = peer.next_whole_request() {
        match request.head.line().split(' ').nth(1) {
            Some("/hangs") => {
                peer.is_closed();
                return;
            }
            Some("/resets") => return peer.reset(),
            _ => peer.send(OK),
        }
    }
}

#[test]
fn bodies_together_hold_no_more_than_the_limit() {
    let origin = Origin::serves(64, by_target);
    let proxy = bodies_of_100_000(&origin, &[]);
    let mut slow = Client::connect(&proxy);
    slow.send([head("/slow", 90_000).as_bytes(), &[b'x'; 80_000]].concat());
    slow.until_taken();
    // What has come counts, and not what was claimed.
    eventually("80 000 bytes are held", || status(&proxy, 20_001) == 503);
    assert_eq!(status(&proxy, 20_000), 200);
    let mut chunked = Client::connect(&proxy);
    chunked.send_if_taken(&post_chunked("/", &[b'x'; 30_000], 700));
    assert_overloaded(&chunked.response(), "MAX_BUFFERED_BYTES");
    slow.send([b'x'; 10_000]);
    assert_eq!(slow.response().text(), "ok", "the others cost it nothing");
    assert_nothing_is_held(&proxy, "all have been answered");
    let forwarded = origin.requests();
    assert!(forwarded.iter().all(|request| request.body.len() != 20_001));
    proxy.logs(&[" 503 ", "overloaded"]);
}

#[test]
fn what_was_held_is_given_back_once_however_a_request_ends() {
    let origin = Origin::serves(256, by_target);
    let limits = [
        ("RESPONSE_HEADER_TIMEOUT_SECONDS", "0.3"),
        ("CLIENT_BODY_TIMEOUT_SECONDS", "0.3"),
    ];
    let proxy = bodies_of_100_000(&origin, &limits);
    let part = |target| [head(target, 90_000).as_bytes(), &[b'x'; 60_000]].concat();
    for (how, leaves) in [
        (
            "a client that closes",
            Client::leave as fn(&mut Client) -> _,
        ),
        ("a client that resets", Client::reset),
    ] {
        let mut client = Client::connect(&proxy);
        client.send(part("/"));
        client.until_taken();
        leaves(&mut client);
        assert_nothing_is_held(&proxy, &format!("{how} within its body"));
        let mut client = Client::connect(&proxy);
        client.send(post("/hangs", &[b'x'; 60_000]));
        client.until_taken();
        leaves(&mut client);
        assert_nothing_is_held(&proxy, &format!("{how} while it waits"));
    }
    let too_late = part("/");
    let malformed = post_chunked("/", &[b'x'; 60_000], 30_000);
    let malformed = [&malformed[..malformed.len() - 5], b"no chunk\r\n"].concat();
    for (how, request, expected) in [
        ("a body that stops", too_late, 408),
        ("a body that is malformed", malformed, 400),
        (
            "an upstream that hangs",
            post("/hangs", &[b'x'; 60_000]),
            504,
        ),
        (
            "an upstream that resets",
            post("/resets", &[b'x'; 60_000]),
            502,
        ),
    ] {
        let mut client = Client::connect(&proxy);
        client.send(request);
        assert_eq!(client.response().status(), expected, "{how}");
        assert_nothing_is_held(&proxy, how);
    }
}

#[test]
fn a_body_is_held_until_its_response_begins() {
    let (ask, asked) = mpsc::channel();
    let (gate, opened) = mpsc::channel::<()>();
    let held = act(move |peer| {
        peer.request();
        ask.send(()).unwrap();
        soon(&opened);
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
        soon(&opened);
        peer.send("ok");
        by_target(peer);
    });
    let mut first = Some(held);
    let origin =
        Origin::serves_in_turn(move |_| Some(first.take().unwrap_or_else(|| act(by_target))));
    let proxy = bodies_of_100_000(&origin, &[]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", &[b'x'; 60_000]));
    soon(&asked);
    assert_eq!(status(&proxy, 60_000), 503);
    gate.send(()).unwrap();
    client.head();
    assert_nothing_is_held(&proxy, "a response that has begun");
    gate.send(()).unwrap();
    assert_eq!(client.take(2), b"ok");
}

#[test]
fn a_body_that_is_still_sent_after_its_response_began_is_held_as_long() {
    const LENGTH: usize = 24 << 20; // more than sockets hold
    let (gate, opened) = mpsc::channel::<()>();
    let early = act(move |peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
        soon(&opened);
        peer.take(LENGTH);
        soon(&opened);
        peer.send("0\r\n\r\n");
    });
    let mut first = Some(early);
    let origin =
        Origin::serves_in_turn(move |_| Some(first.take().unwrap_or_else(|| act(by_target))));
    let proxy = Proxy::start(&origin, &[("MAX_BUFFERED_BYTES", &LENGTH.to_string())]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", &vec![b'x'; LENGTH]));
    client.head();
    client.receive_chunked("ok");
    assert_eq!(status(&proxy, 1), 503);
    gate.send(()).unwrap();
    eventually("it has been sent", || status(&proxy, LENGTH) == 200);
    gate.send(()).unwrap();
    client.receive_chunked_end();
}

#[test]
fn a_request_without_a_body_needs_no_room() {
    let origin = Origin::serves(8, by_target);
    let proxy = Proxy::start(&origin, &[("MAX_BUFFERED_BYTES", "1")]);
    assert_eq!(Client::connect(&proxy).exchange(get("/")).status(), 200);
    assert_eq!((status(&proxy, 1), status(&proxy, 2)), (200, 503));
    proxy.logs(&["WARN", "MAX_REQUEST_BODY_BYTES", "MAX_BUFFERED_BYTES"]);
}

#[test]
fn requests_on_more_connections_than_allowed_are_refused_and_health_is_told() {
    let origin = Origin::serves(8, by_target);
    let proxy = Proxy::start(&origin, &[("MAX_CLIENT_CONNECTIONS", "2")]);
    let mut placed = [Client::connect(&proxy), Client::connect(&proxy)];
    for client in &mut placed {
        assert_eq!(client.exchange(get("/")).text(), "ok");
    }
    for request in [
        get("/more"),
        String::from_utf8(post("/more", b"{}")).unwrap(),
    ] {
        let mut beyond = Client::connect(&proxy);
        beyond.send(request.repeat(2));
        assert_overloaded(&beyond.response(), "MAX_CLIENT_CONNECTIONS");
        beyond.is_closed();
    }
    let mut health = Client::connect(&proxy);
    health.send(get("/healthz").repeat(2));
    let response = health.response();
    assert_eq!((response.status(), response.head.closes()), (200, true));
    health.is_closed();
    Client::connect(&proxy).leave();
    for client in &mut placed {
        assert_eq!(client.exchange(get("/")).text(), "ok");
    }
    placed[0].leave();
    eventually("the place is free again", || {
        Client::connect(&proxy).exchange(get("/")).status() == 200
    });
    let forwarded = origin.requests();
    assert!(
        !forwarded
            .iter()
            .any(|request| request.head.line().contains("/more"))
    );
    proxy.logs(&["WARN", "MAX_CLIENT_CONNECTIONS"]);
}

#[test]
fn a_crowd_beyond_the_connections_allowed_is_closed_and_costs_the_others_nothing() {
    let origin = Origin::serves(8, by_target);
    let limits = [("MAX_CLIENT_CONNECTIONS", "1"), ("WORKERS", "1")];
    let proxy = Proxy::start(&origin, &limits);
    let mut placed = Client::connect(&proxy);
    assert_eq!(placed.exchange(get("/")).text(), "ok");
    // As many as are refused at the same time, and say nothing; and one more.
    let silent: Vec<_> = (0..256).map(|_| Client::connect(&proxy)).collect();
    let mut beyond = Client::connect(&proxy);
    beyond.is_closed();
    assert_eq!(placed.exchange(get("/")).text(), "ok");
    drop(silent);
    eventually("one can be refused again", || {
        let mut beyond = Client::connect(&proxy);
        let told = beyond.send_if_taken(get("/").as_bytes()) && beyond.has_answer();
        told && beyond.response().status() == 503
    });
    assert_eq!(placed.exchange(get("/")).text(), "ok");
    eventually("their connections are gone", || proxy.clients() == 1);
}

#[test]
fn memory_that_bodies_have_taken_goes_back_to_the_system() {
    const BODIES: usize = 64;
    const LENGTH: usize = 1 << 20;
    let (begin, begun) = mpsc::channel();
    let origin = Origin::serves(2 * BODIES, move |peer| {
        peer.request();
        begin.send(()).unwrap();
        peer.is_closed_after();
    });
    let proxy = Proxy::start(&origin, &[]);
    let at_rest = proxy.resident_kib();
    let mut clients: Vec<_> = (0..BODIES).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients {
        client.send(post("/", &vec![b'x'; LENGTH]));
    }
    (0..BODIES).for_each(|_| soon(&begun));
    let held = proxy.resident_kib();
    assert!(
        held > at_rest + (BODIES * LENGTH / 1024) as u64,
        "{held} KiB"
    );
    drop(clients);
    eventually("a quarter is left", || {
        proxy.resident_kib() < at_rest + (held - at_rest) / 4
    });
}
