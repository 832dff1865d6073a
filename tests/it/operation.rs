//! Starting, stopping and staying alive.
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::net::{bound, eventually};
use crate::support::{
    Act, Client, DEADLINE, OK, Origin, Proxy, Vacant, act, answers, get, post, run, soon,
};

const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Begins a stream and ends it when told to.
fn stream(begun: mpsc::Sender<()>, end: mpsc::Receiver<()>) -> Act {
    act(move |peer| {
        peer.request();
        peer.send(HEAD);
        peer.send("5\r\nfirst\r\n");
        begun.send(()).unwrap();
        soon(&end);
        peer.send("4\r\nlast\r\n0\r\n\r\n");
    })
}

fn refuses_connections(proxy: &Proxy) -> bool {
    TcpStream::connect(proxy.addr).is_err()
}

#[test]
fn a_drain_lets_streams_finish_and_accepts_nobody_new() {
    for signal in [Signal::TERM, Signal::INT] {
        let (begun, has_begun) = mpsc::channel();
        let (end, gate) = mpsc::channel();
        let origin = Origin::plays([stream(begun, gate)]);
        let mut proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        client.send(post("/", b"{}"));
        soon(&has_begun);
        client.head();
        client.receive_chunked("first");
        proxy.signal(signal);
        eventually("connections are refused", || refuses_connections(&proxy));
        end.send(()).unwrap();
        client.receive_chunked("last");
        client.receive_chunked_end();
        client.is_closed();
        assert!(proxy.exits_within(DEADLINE).success());
    }
}

#[test]
fn a_request_that_waits_for_its_response_is_answered_in_the_drain_and_then_closed() {
    let (asked, was_asked) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let origin = Origin::plays([act(move |peer| {
        peer.request();
        asked.send(()).unwrap();
        soon(&gate);
        peer.send(OK);
    })]);
    let mut proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    soon(&was_asked);
    proxy.signal(Signal::TERM);
    eventually("connections are refused", || refuses_connections(&proxy));
    go.send(()).unwrap();
    assert_eq!(client.response().text(), "ok");
    client.is_closed();
    assert!(proxy.exits_within(DEADLINE).success());
}

#[test]
fn health_says_that_it_drains() {
    let (begun, has_begun) = mpsc::channel();
    let (end, gate) = mpsc::channel();
    let origin = Origin::plays([stream(begun, gate)]);
    let mut proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    soon(&has_begun);
    // A kept connection on which a request has begun to arrive when the drain starts.
    let mut kept = Client::connect(&proxy);
    assert_eq!(kept.exchange(get("/healthz")).status(), 200);
    kept.send("GET /healthz HTTP/1.1\r\n");
    kept.until_taken();
    proxy.signal(Signal::TERM);
    eventually("connections are refused", || refuses_connections(&proxy));
    kept.send("Host: h\r\n\r\n");
    let response = kept.response();
    assert_eq!(response.status(), 503);
    assert_eq!(response.text().trim(), r#"{"ok":false,"draining":true}"#);
    kept.is_closed();
    end.send(()).unwrap();
    client.head();
    client.receive_chunked("firstlast");
    client.receive_chunked_end();
    assert!(proxy.exits_within(DEADLINE).success());
}

#[test]
fn an_idle_proxy_drains_in_a_moment_and_closes_kept_connections() {
    let origin = Origin::plays([answers(OK)]);
    let mut proxy = Proxy::start(&origin, &[]);
    let mut kept = Client::connect(&proxy);
    assert_eq!(kept.exchange(get("/")).status(), 200);
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    assert!(proxy.exits_within(DEADLINE).success());
    assert!(start.elapsed() < Duration::from_secs(5));
    kept.is_closed();
}

#[test]
fn a_drain_has_a_limit() {
    let (begun, has_begun) = mpsc::channel();
    let (_end, gate) = mpsc::channel::<()>();
    let origin = Origin::plays([act(move |peer| {
        peer.request();
        peer.send(HEAD);
        begun.send(()).unwrap();
        peer.is_closed();
        drop(gate);
    })]);
    let mut proxy = Proxy::start(&origin, &[("DRAIN_TIMEOUT_SECONDS", "0.3")]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    soon(&has_begun);
    client.head();
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    assert!(proxy.exits_within(DEADLINE).success());
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300), "ended after {took:?}");
    assert!(took < Duration::from_secs(10), "ended after {took:?}");
    client.is_closed(); // and no last chunk
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (begun, has_begun) = mpsc::channel();
    let origin = Origin::plays([act(move |peer| {
        peer.request();
        peer.send(HEAD);
        begun.send(()).unwrap();
        peer.is_closed();
    })]);
    let mut proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    soon(&has_begun);
    client.head();
    proxy.signal(Signal::TERM);
    eventually("connections are refused", || refuses_connections(&proxy));
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    proxy.exits_within(DEADLINE);
    assert!(start.elapsed() < Duration::from_secs(5));
    client.is_closed();
}

#[test]
fn a_port_in_use_stops_the_start_whoever_uses_it() {
    for shared in [false, true] {
        let socket = bound(0, shared);
        rustix::net::listen(&socket, 16).unwrap();
        let port = std::net::TcpListener::from(socket);
        let number = port.local_addr().unwrap().port().to_string();
        let settings = [
            ("UPSTREAM_BASE_URL", "http://127.0.0.1:9"),
            ("LISTEN_PORT", number.as_str()),
            ("WORKERS", "2"),
        ];
        let ended = run(&[], &settings);
        assert_eq!(ended.status.code(), Some(1));
        let addr = format!("cannot listen on 127.0.0.1:{number}: ");
        for part in [&*addr, "set LISTEN_PORT", "REUSE_PORT=on"] {
            assert!(ended.text.contains(part), "{part} in {}", ended.text);
        }
    }
}

#[test]
fn a_port_of_another_proxy_stops_the_start() {
    let vacant = Vacant::new();
    let first = Proxy::start_at(&vacant.url(), &[]);
    let number = first.addr.port().to_string();
    let url = vacant.url();
    let settings = [
        ("UPSTREAM_BASE_URL", url.as_str()),
        ("LISTEN_PORT", number.as_str()),
    ];
    let ended = run(&[], &settings);
    assert!(!ended.status.success());
    assert!(ended.text.contains(&number), "{}", ended.text);
    let mut client = Client::connect(&first);
    assert_eq!(client.exchange(get("/healthz")).status(), 200);
}

#[test]
fn a_port_that_was_just_in_use_can_be_used_again() {
    let vacant = Vacant::new();
    let mut first = Proxy::start_at(&vacant.url(), &[]);
    let mut client = Client::connect(&first);
    client.exchange(get("/healthz"));
    first.signal(Signal::TERM); // the proxy closes first: its side stays in TIME_WAIT
    assert!(first.exits_within(DEADLINE).success());
    client.is_closed();
    let number = first.addr.port().to_string();
    let second = Proxy::start_at(&vacant.url(), &[("LISTEN_PORT", &number)]);
    assert_eq!(second.addr, first.addr);
}

#[test]
fn it_starts_without_an_upstream_and_without_its_name() {
    let vacant = Vacant::new();
    for url in [vacant.url(), "https://no-such-name.invalid".to_owned()] {
        let proxy = Proxy::start_at(&url, &[]);
        let mut client = Client::connect(&proxy);
        assert_eq!(client.exchange(get("/healthz")).status(), 200);
    }
}

#[test]
fn its_health_can_be_asked_for_on_the_command_line() {
    let vacant = Vacant::new();
    let proxy = Proxy::start_at(&vacant.url(), &[]);
    let number = proxy.addr.port().to_string();
    assert!(
        run(&["healthcheck"], &[("LISTEN_PORT", &number)])
            .status
            .success()
    );
    let nobody = vacant.addr.port().to_string();
    let ended = run(&["healthcheck"], &[("LISTEN_PORT", &nobody)]);
    assert_eq!(ended.status.code(), Some(1));
}

#[test]
fn the_start_line_names_the_driver() {
    let vacant = Vacant::new();
    let proxy = Proxy::start_at(&vacant.url(), &[]);
    let line = proxy.logs(&["listening on"]);
    let forced = std::env::var("MONOIO_FORCE_LEGACY_DRIVER").is_ok();
    assert!(
        line.contains(if forced { "epoll" } else { "io_uring" }),
        "{line}"
    );
}

#[test]
fn running_out_of_descriptors_pauses_accepting_and_kills_nothing() {
    use rustix::process::{Resource, Rlimit, prlimit};
    const ROOM: u64 = 24;
    let origin = Origin::serves(4, |peer| {
        while peer.next_request().is_some() {
            peer.send(OK);
        }
    });
    let proxy = Proxy::start(&origin, &[("WORKERS", "1")]);
    let mut working = Client::connect(&proxy);
    assert_eq!(working.exchange(get("/")).status(), 200);
    let limit = proxy.descriptors() as u64 + ROOM;
    let limit = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    prlimit(Some(proxy.pid()), Resource::Nofile, limit).unwrap();
    // More connections than it can hold; those that it cannot accept wait in the queue.
    let mut crowd: Vec<_> = (0..ROOM * 2).map(|_| Client::connect(&proxy)).collect();
    eventually("it has used up its descriptors", || {
        proxy.descriptors() as u64 >= limit.current.unwrap()
    });
    assert_eq!(working.exchange(get("/")).status(), 200);
    for client in &mut crowd {
        client.leave();
    }
    let mut later = Client::connect(&proxy);
    assert_eq!(later.exchange(get("/")).status(), 200);
}
