//! Upstream connections are used again when they are clean, and only then.
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::net::eventually;
use crate::support::{
    Act, Client, OK, Origin, PROMPT, Proxy, RESCUE, act, answers, closes, get, hangs, post, soon,
};

/// One pool, whichever connection a client uses.
const ALONE: (&str, &str) = ("WORKERS", "1");
/// A back-off that would be noticed.
const SLOW_BACKOFF: (&str, &str) = ("RETRY_BACKOFF_SECONDS", "15");

/// Answers one request and drops the next on the same connection, by `how`.
fn stale(how: impl FnOnce(&mut crate::support::Peer) + Send + 'static) -> Act {
    act(move |peer| {
        peer.request();
        peer.send(OK);
        peer.request();
        how(peer);
    })
}

#[test]
fn a_connection_is_used_again_after_a_complete_response() {
    let responses = [
        OK,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Trailer: t\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\n\r\n",
        OK,
    ];
    let origin = Origin::plays([act(move |peer| {
        for response in responses {
            peer.request();
            peer.send(response);
        }
    })]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    for number in 1..=responses.len() {
        let response = Client::connect(&proxy).exchange(get("/"));
        assert_eq!(response.attempts(), Some(1));
        proxy.ended(number);
    }
}

#[test]
fn a_response_that_announces_its_end_ends_its_connection() {
    for response in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        let (gone, was_closed) = mpsc::channel();
        let first = act(move |peer| {
            peer.request();
            peer.send(response);
            gone.send(peer.is_closed()).unwrap();
        });
        let origin = Origin::plays([first, answers(OK)]);
        let proxy = Proxy::start(&origin, &[ALONE]);
        let mut client = Client::connect(&proxy);
        assert_eq!(client.exchange(get("/")).text(), "ok");
        soon(&was_closed);
        assert_eq!(client.exchange(get("/")).attempts(), Some(1));
    }
}

#[test]
fn bytes_beyond_a_responses_end_are_never_given_to_anyone() {
    for response in [
        format!("{OK}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsmuggle"),
        format!("{OK}\r\n"),
        "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 304 Not Modified\r\n\r\nok".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nx".to_owned(),
    ] {
        let (gone, was_closed) = mpsc::channel();
        let first = act(move |peer| {
            peer.request();
            peer.send(response);
            gone.send(peer.is_closed()).unwrap();
        });
        let second = answers("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond");
        let origin = Origin::plays([first, second]);
        let proxy = Proxy::start(&origin, &[ALONE]);
        let mut client = Client::connect(&proxy);
        client.exchange(get("/"));
        soon(&was_closed);
        let response = client.exchange(get("/"));
        assert_eq!(response.text(), "second");
        assert_eq!(response.attempts(), Some(1));
    }
}

#[test]
fn a_stale_connection_costs_neither_an_attempt_nor_a_back_off() {
    let fin = stale(|peer| peer.close());
    let rst = stale(|peer| peer.reset());
    for stale in [fin, rst] {
        let origin = Origin::plays([stale, answers(OK)]);
        let proxy = Proxy::start(&origin, &[ALONE, SLOW_BACKOFF]);
        let mut client = Client::connect(&proxy);
        client.exchange(post("/first", b"{}"));
        let start = Instant::now();
        let response = client.exchange(post("/second", b"{}"));
        assert!(start.elapsed() < Duration::from_secs(5), "it backed off");
        assert_eq!(response.status(), 200);
        assert_eq!(response.attempts(), Some(2), "how often it was sent");
        let requests = origin.requests();
        assert_eq!(requests.len(), 3);
        assert_eq!(requests[1], requests[2]);
    }
}

#[test]
fn a_connection_closed_while_idle_is_not_used() {
    let (gone, was_closed) = mpsc::channel();
    let first = act(move |peer| {
        peer.request();
        peer.send(OK);
        peer.half_close();
        gone.send(peer.is_closed()).unwrap();
    });
    let origin = Origin::plays([first, answers(OK)]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    let mut client = Client::connect(&proxy);
    client.exchange(post("/", b"{}"));
    soon(&was_closed); // idle connections are watched
    let response = client.exchange(post("/", b"{}"));
    assert_eq!(response.attempts(), Some(1));
}

#[test]
fn a_free_replay_leaves_all_attempts_for_the_fresh_connection() {
    let origin = Origin::plays([stale(|peer| peer.close()), closes(), answers(OK)]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    let mut client = Client::connect(&proxy);
    client.exchange(get("/"));
    let response = client.exchange(post("/", b"{}"));
    assert_eq!(response.status(), 200);
    assert_eq!(response.attempts(), Some(3));
}

#[test]
fn a_free_replay_happens_once_a_request_and_never_on_a_second_stale_connection() {
    let (pair, paired) = mpsc::channel();
    let idle = move || {
        let pair = pair.clone();
        act(move |peer| {
            peer.request();
            let (go, gate) = mpsc::channel::<()>();
            pair.send(go).unwrap();
            soon(&gate);
            peer.send(OK);
            if peer.next_request().is_some() {
                peer.close();
            }
        })
    };
    let origin = Origin::plays([idle(), idle(), answers(OK)]);
    let proxy = Proxy::start(&origin, &[ALONE, SLOW_BACKOFF]);
    let mut clients = [Client::connect(&proxy), Client::connect(&proxy)];
    for client in &mut clients {
        client.send(get("/"));
    }
    for go in [soon(&paired), soon(&paired)] {
        go.send(()).unwrap();
    }
    for client in &mut clients {
        client.response();
    }
    let response = clients[0].exchange(post("/", b"{}"));
    assert_eq!(response.status(), 200);
    assert_eq!(response.attempts(), Some(2));
}

#[test]
fn with_one_attempt_only_an_idempotent_request_is_replayed_after_a_stale_connection() {
    let once = ("UPSTREAM_MAX_ATTEMPTS", "1");
    let origin = Origin::plays([stale(|peer| peer.close()), answers(OK)]);
    let proxy = Proxy::start(&origin, &[ALONE, once]);
    let mut client = Client::connect(&proxy);
    client.exchange(get("/"));
    assert_eq!(client.exchange(get("/")).attempts(), Some(2));
    drop((client, proxy, origin));

    let origin = Origin::plays([stale(|peer| peer.close())]);
    let proxy = Proxy::start(&origin, &[ALONE, once]);
    let mut client = Client::connect(&proxy);
    client.exchange(get("/"));
    let response = client.exchange(post("/", b"{}"));
    response.assert_refusal(502, "upstream_request_error");
    assert_eq!(response.attempts(), Some(1));
}

#[test]
fn a_stale_connection_that_sent_a_byte_is_no_longer_free() {
    let origin = Origin::plays([stale(|peer| {
        peer.send("H");
        peer.close();
    })]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    let mut client = Client::connect(&proxy);
    client.exchange(get("/"));
    let response = client.exchange(get("/"));
    response.assert_refusal(502, "upstream_bad_response");
}

#[test]
fn after_a_header_time_out_a_fresh_connection_is_used_and_idle_ones_are_dropped() {
    let (pair, paired) = mpsc::channel();
    let (gone, was_closed) = mpsc::channel();
    let idle = move || {
        let (pair, gone) = (pair.clone(), gone.clone());
        act(move |peer| {
            peer.request();
            let (go, gate) = mpsc::channel::<()>();
            pair.send(go).unwrap();
            soon(&gate);
            peer.send(OK);
            if peer.next_request().is_some() {
                peer.is_closed(); // the one that hangs
            }
            gone.send(()).unwrap();
        })
    };
    let origin = Origin::plays([idle(), idle(), answers(OK)]);
    let proxy = Proxy::start(&origin, &[ALONE, RESCUE[0], RESCUE[1]]);
    let mut clients = [Client::connect(&proxy), Client::connect(&proxy)];
    for client in &mut clients {
        client.send(get("/"));
    }
    for go in [soon(&paired), soon(&paired)] {
        go.send(()).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.response().attempts(), Some(1));
    }
    let response = clients[0].exchange(post("/", b"{}"));
    assert_eq!(response.attempts(), Some(2));
    soon(&was_closed);
    soon(&was_closed);
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let (gone, was_closed) = mpsc::channel();
    let first = act(move |peer| {
        peer.request();
        peer.send(OK);
        let start = Instant::now();
        gone.send(peer.is_closed() - start).unwrap();
    });
    let origin = Origin::plays([first, answers(OK)]);
    let proxy = Proxy::start(&origin, &[ALONE, ("UPSTREAM_IDLE_TIMEOUT_SECONDS", "0.3")]);
    let mut client = Client::connect(&proxy);
    client.exchange(get("/"));
    let kept = soon(&was_closed);
    assert!(kept > Duration::from_millis(250), "closed after {kept:?}");
    assert!(kept < Duration::from_secs(5), "closed after {kept:?}");
    assert_eq!(client.exchange(get("/")).attempts(), Some(1));
}

#[test]
fn a_limit_on_connections_makes_requests_wait_for_each_other() {
    const CLIENTS: usize = 4;
    let (asked, was_asked) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let origin = Origin::plays([act(move |peer| {
        for _ in 0..CLIENTS {
            let request = peer.request();
            asked.send(request.head.line()).unwrap();
            soon(&gate);
            peer.send(OK);
        }
    })]);
    let proxy = Proxy::start(&origin, &[ALONE, ("UPSTREAM_MAX_CONNECTIONS", "1")]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients {
        client.send(post("/", b"{}"));
        client.until_taken();
    }
    for answered in 0..CLIENTS {
        soon(&was_asked);
        assert_eq!(origin.requests().len(), answered + 1);
        go.send(()).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.response().attempts(), Some(1));
    }
}

#[test]
fn a_limit_on_connections_holds_for_all_cores_together() {
    const LIMIT: usize = 3;
    const CLIENTS: usize = 24;
    for workers in ["1", "2", "8"] {
        let origin = Origin::serves(LIMIT, |peer| {
            while peer.next_request().is_some() {
                peer.send(OK);
            }
        });
        let settings = [("WORKERS", workers), ("UPSTREAM_MAX_CONNECTIONS", "3")];
        let proxy = Proxy::start(&origin, &settings);
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect(&proxy)).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        for client in &mut clients {
            assert_eq!(client.response().attempts(), Some(1));
        }
    }
}

#[test]
fn waiting_for_a_connection_has_a_limit() {
    let (asked, was_asked) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let origin = Origin::plays([act(move |peer| {
        peer.request();
        asked.send(()).unwrap();
        soon(&gate);
        peer.send(OK);
    })]);
    let settings = [
        ALONE,
        ("UPSTREAM_MAX_CONNECTIONS", "1"),
        ("POOL_TIMEOUT_SECONDS", "0.2"),
        ("UPSTREAM_MAX_ATTEMPTS", "1"),
    ];
    let proxy = Proxy::start(&origin, &settings);
    let mut first = Client::connect(&proxy);
    first.send(get("/first"));
    soon(&was_asked);
    let response = Client::connect(&proxy).exchange(get("/second"));
    response.assert_refusal(504, "upstream_timeout");
    assert!(response.text().contains("POOL_TIMEOUT_SECONDS"));
    go.send(()).unwrap();
    assert_eq!(first.response().status(), 200);
}

#[test]
fn a_failed_attempt_gives_its_place_back() {
    let origin = Origin::plays([hangs(), closes(), answers(OK)]);
    let settings = [
        ALONE,
        RESCUE[0],
        RESCUE[1],
        ("UPSTREAM_MAX_CONNECTIONS", "1"),
        ("UPSTREAM_MAX_ATTEMPTS", "3"),
        ("POOL_TIMEOUT_SECONDS", "1"),
    ];
    let proxy = Proxy::start(&origin, &settings);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    assert_eq!(response.status(), 200);
    assert_eq!(response.attempts(), Some(3));
}

#[test]
fn a_request_without_a_response_body_ends_when_its_head_does() {
    let (gone, was_closed) = mpsc::channel();
    let origin = Origin::plays([act(move |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n");
        peer.request();
        peer.send(OK);
        gone.send(()).unwrap();
    })]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    let mut client = Client::connect(&proxy);
    let start = Instant::now();
    let response = client.exchange("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(start.elapsed() < PROMPT);
    assert_eq!(response.head.field("content-length").unwrap(), "100");
    assert_eq!(client.exchange(get("/")).text(), "ok");
    soon(&was_closed);
    eventually("one connection", || proxy.sockets_to(origin.addr) == 1);
}

/// A client that asks many times at once and does not read, until the proxy holds a whole response
/// that it cannot pass on; what `then` does to the upstream's connection meanwhile; and what the
/// client reads in the end.
fn while_a_response_waits(then: impl FnOnce(&TcpStream) + Send + 'static) -> String {
    const REQUESTS: usize = 1500;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let proxy = Proxy::start_at(&url, &[ALONE, ("UPSTREAM_MAX_ATTEMPTS", "1")]);
    let (full, was_full) = mpsc::channel();
    thread::spawn(move || {
        let (first, _) = listener.accept().unwrap();
        first
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        answer_all(&first);
        then(&first);
        thread::sleep(Duration::from_millis(20)); // for the kernel; the proxy waits for its client
        full.send(()).unwrap();
        let (second, _) = listener.accept().unwrap();
        answer_all(&second); // until the proxy ends
    });
    let mut client = TcpStream::connect(proxy.addr).unwrap();
    let request = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n";
    let last = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    client
        .write_all((request.repeat(REQUESTS - 1) + last).as_bytes())
        .unwrap();
    soon(&was_full);
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all.matches("HTTP/1.1 ").count(), REQUESTS);
    all
}

/// Answers each request with a response that the proxy reads at once, until none comes.
fn answer_all(mut upstream: &TcpStream) {
    let body = "x".repeat(15_000);
    let response = format!("HTTP/1.1 200 OK\r\nContent-Length: 15000\r\n\r\n{body}");
    let (mut head, mut byte) = (Vec::new(), [0]);
    while let Ok(1) = upstream.read(&mut byte) {
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            upstream.write_all(response.as_bytes()).unwrap();
        }
    }
}

#[test]
fn a_connection_that_ended_while_its_response_waited_is_not_used_again() {
    let all = while_a_response_waits(|upstream| upstream.shutdown(Shutdown::Both).unwrap());
    assert!(!all.contains("HTTP/1.1 502"), "it was used again");
}

#[test]
fn bytes_that_came_while_the_response_waited_are_nobodys() {
    let all = while_a_response_waits(|mut upstream| {
        upstream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsmuggle")
            .unwrap();
    });
    assert!(!all.contains("smuggle"), "they were given to somebody");
}
