//! A client that leaves, by FIN or by RST, ends its request in every phase: nothing is sent again and
//! the upstream connection is closed.
use std::sync::mpsc::{self, Sender};
use std::time::Instant;

use crate::support::net::eventually;
use crate::support::{
    Act, Client, OK, Origin, PROMPT, Peer, Proxy, act, answers, full_backlog, get, pattern, post,
    soon,
};

const PATIENT: (&str, &str) = ("RESPONSE_HEADER_TIMEOUT_SECONDS", "20");
const ALONE: (&str, &str) = ("WORKERS", "1");
const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const EVENT: &str = "data: event\n\n";
const CHUNK: &str = "d\r\ndata: event\n\n\r\n";

#[derive(Clone, Copy, Debug)]
enum Leaving {
    Fin,
    Rst,
    HalfClose,
}

const WAYS: [Leaving; 3] = [Leaving::Fin, Leaving::Rst, Leaving::HalfClose];

/// Leaves; where the client can still see it, the proxy must close at once.
#[track_caller]
fn leave(client: &mut Client, how: Leaving) -> Instant {
    match how {
        Leaving::Fin => client.leave(),
        Leaving::Rst => client.reset(),
        Leaving::HalfClose => {
            let left = Instant::now();
            client.half_close();
            client.is_closed_promptly(left);
            left
        }
    }
}

#[track_caller]
fn assert_prompt(left: Instant, seen: Instant) {
    let took = seen.saturating_duration_since(left);
    assert!(took < PROMPT, "upstream's connection closed after {took:?}");
}

/// Reads a request, says so, and reports when the proxy closes.
fn waits(asked: Sender<()>, gone: Sender<Instant>) -> Act {
    act(move |peer| {
        peer.request();
        asked.send(()).unwrap();
        gone.send(peer.is_closed()).unwrap();
    })
}

#[test]
fn while_sending_its_head_nothing_is_sent_up() {
    for how in WAYS {
        let origin = Origin::plays([]);
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Le");
        client.until_taken();
        leave(&mut client, how);
        eventually("the connection is closed", || proxy.clients() == 0);
    }
}

#[test]
fn while_sending_its_body_nothing_is_sent_up() {
    for how in WAYS {
        let origin = Origin::plays([]);
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello");
        client.until_taken();
        leave(&mut client, how);
        eventually("the connection is closed", || proxy.clients() == 0);
    }
}

#[test]
fn while_upstream_is_being_connected_to_the_attempt_ends() {
    for how in WAYS {
        let (addr, _listener, _queued) = full_backlog();
        let proxy = Proxy::start_at(&format!("http://{addr}"), &[]);
        let mut client = Client::connect(&proxy);
        client.send(get("/"));
        eventually("it connects", || proxy.sockets_to(addr) == 1);
        let left = leave(&mut client, how);
        eventually("it gives up", || proxy.sockets_to(addr) == 0);
        assert_prompt(left, Instant::now());
    }
}

#[test]
fn while_the_request_is_sent_the_upstream_connection_is_closed() {
    for how in WAYS {
        let (asked, was_asked) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let origin = Origin::plays([act(move |peer| {
            peer.head();
            asked.send(()).unwrap();
            soon(&gate);
            let (_, received) = peer.is_closed_after();
            assert!(received < 20 << 20, "the whole request was sent");
        })]);
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        client.send(post("/", &vec![b'x'; 20 << 20]));
        soon(&was_asked);
        let left = leave(&mut client, how);
        eventually("it gives up", || proxy.sockets_to(origin.addr) == 0);
        assert_prompt(left, Instant::now());
        go.send(()).unwrap();
    }
}

#[test]
fn while_waiting_for_the_head_the_upstream_connection_is_closed() {
    for how in WAYS {
        let (asked, was_asked) = mpsc::channel();
        let (gone, was_closed) = mpsc::channel();
        let origin = Origin::plays([waits(asked, gone)]);
        let proxy = Proxy::start(&origin, &[PATIENT]);
        let mut client = Client::connect(&proxy);
        client.send(post("/", b"{}"));
        soon(&was_asked);
        let left = leave(&mut client, how);
        assert_prompt(left, soon(&was_closed));
        assert_eq!(origin.requests().len(), 1);
    }
}

#[test]
fn while_waiting_for_the_head_of_a_second_attempt_the_upstream_connection_is_closed() {
    for how in WAYS {
        let (asked, was_asked) = mpsc::channel();
        let (gone, was_closed) = mpsc::channel();
        let resets = crate::support::resets();
        let origin = Origin::plays([resets, waits(asked, gone)]);
        let proxy = Proxy::start(&origin, &[PATIENT, ("UPSTREAM_MAX_ATTEMPTS", "5")]);
        let mut client = Client::connect(&proxy);
        client.send(post("/", b"{}"));
        soon(&was_asked);
        let left = leave(&mut client, how);
        assert_prompt(left, soon(&was_closed));
        assert_eq!(origin.requests().len(), 2);
    }
}

#[test]
fn while_half_a_head_is_there_the_upstream_connection_is_closed() {
    for how in WAYS {
        let (asked, was_asked) = mpsc::channel();
        let (gone, was_closed) = mpsc::channel();
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            peer.send("HTTP/1.1 200 O");
            peer.until_taken();
            asked.send(()).unwrap();
            gone.send(peer.is_closed()).unwrap();
        })]);
        let proxy = Proxy::start(&origin, &[PATIENT]);
        let mut client = Client::connect(&proxy);
        client.send(post("/", b"{}"));
        soon(&was_asked);
        let left = leave(&mut client, how);
        assert_prompt(left, soon(&was_closed));
    }
}

#[test]
fn during_the_back_off_nothing_is_sent_again() {
    for how in WAYS {
        let (gone, was_closed) = mpsc::channel();
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            peer.half_close();
            gone.send(peer.is_closed()).unwrap();
        })]);
        let proxy = Proxy::start(&origin, &[("RETRY_BACKOFF_SECONDS", "20")]);
        let mut client = Client::connect(&proxy);
        client.send(post("/", b"{}"));
        soon(&was_closed);
        let left = leave(&mut client, how);
        eventually("the connection is closed", || proxy.clients() == 0);
        assert_prompt(left, Instant::now());
        assert_eq!(origin.requests().len(), 1);
    }
}

#[test]
fn nothing_is_sent_again_for_a_client_that_has_sent_its_next_request_as_well() {
    for how in [Leaving::Fin, Leaving::Rst] {
        let (asked, was_asked) = mpsc::channel();
        let (left, has_left) = mpsc::channel::<()>();
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            asked.send(()).unwrap();
            soon(&has_left);
            peer.close();
        })]);
        let proxy = Proxy::start(&origin, &[ALONE, ("RETRY_BACKOFF_SECONDS", "0")]);
        let mut client = Client::connect(&proxy);
        client.send(post("/", b"{}"));
        soon(&was_asked);
        client.send(post("/next", b"{}"));
        // When this is answered, that has been seen.
        assert_eq!(
            Client::connect(&proxy).exchange(get("/healthz")).status(),
            200
        );
        match how {
            Leaving::Rst => _ = client.reset(),
            _ => _ = client.leave(),
        }
        left.send(()).unwrap();
        eventually("the connection is closed", || proxy.clients() == 0);
        proxy.ended(1);
        assert_eq!(origin.requests().len(), 1);
    }
}

#[test]
fn while_waiting_for_a_connection_the_request_is_never_sent() {
    for how in WAYS {
        let (asked, was_asked) = mpsc::channel();
        let (go, gate) = mpsc::channel::<()>();
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            asked.send(()).unwrap();
            soon(&gate);
            peer.send(OK);
        })]);
        let proxy = Proxy::start(&origin, &[ALONE, ("UPSTREAM_MAX_CONNECTIONS", "1")]);
        let mut first = Client::connect(&proxy);
        first.send(get("/first"));
        soon(&was_asked);
        let mut second = Client::connect(&proxy);
        second.send(get("/second"));
        second.until_taken();
        leave(&mut second, how);
        eventually("the connection is closed", || proxy.clients() == 1);
        go.send(()).unwrap();
        assert_eq!(first.response().status(), 200);
        assert_eq!(origin.requests().len(), 1);
    }
}

#[test]
fn while_a_silent_stream_is_relayed_the_upstream_connection_is_closed_after_the_drain() {
    for how in WAYS {
        let (gone, was_closed) = mpsc::channel();
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            peer.send(HEAD);
            peer.send(CHUNK);
            gone.send(peer.is_closed()).unwrap();
        })]);
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        client.send(post("/", b"{}"));
        client.head();
        client.receive_chunked(EVENT);
        let left = leave(&mut client, how);
        assert_prompt(left, soon(&was_closed));
    }
}

#[test]
fn while_a_busy_stream_is_relayed_only_little_more_is_read() {
    for how in [Leaving::Fin, Leaving::Rst] {
        let (left, has_left) = mpsc::channel::<Instant>();
        let (gone, was_closed) = mpsc::channel();
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            peer.send(HEAD);
            peer.send(CHUNK);
            let left = soon(&has_left);
            while peer.send_if_taken(CHUNK.repeat(100).as_bytes()) {}
            peer.close();
            gone.send(left.elapsed()).unwrap();
        })]);
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        client.send(post("/", b"{}"));
        client.head();
        client.receive_chunked(EVENT);
        left.send(leave(&mut client, how)).unwrap();
        let took = soon(&was_closed);
        assert!(took < PROMPT, "{how:?}: drained for {took:?}");
    }
}

#[test]
fn a_client_that_does_not_read_and_then_leaves_frees_the_upstream() {
    for how in [Leaving::Fin, Leaving::Rst] {
        let (full, is_full) = mpsc::channel();
        let (gone, was_closed) = mpsc::channel();
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
            peer.fill_the_pipe(pattern());
            full.send(()).unwrap();
            gone.send(peer.is_closed()).unwrap();
        })]);
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        client.send(get("/"));
        soon(&is_full);
        let left = leave(&mut client, how);
        assert_prompt(left, soon(&was_closed));
    }
}

#[test]
fn a_client_that_takes_nothing_for_too_long_is_left() {
    let (gone, was_closed) = mpsc::channel();
    let origin = Origin::plays([act(move |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while peer.send_if_taken(&[b'x'; 64 * 1024]) {}
        peer.close();
        gone.send(()).unwrap();
    })]);
    let proxy = Proxy::start(&origin, &[("CLIENT_WRITE_TIMEOUT_SECONDS", "0.3")]);
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    soon(&was_closed);
    assert!(client.try_response("GET").is_err());
}

/// Tells on which connection a request came, counted from 0.
fn numbered(peer: &mut Peer) {
    let number = peer.number;
    peer.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}"
    ));
}

/// Whether the connection outlives a client that leaves just before the end of its response.
fn keeps_its_connection(how: Leaving) -> bool {
    let (left, has_left) = mpsc::channel::<()>();
    let first = act(move |peer| {
        peer.request();
        peer.send(HEAD);
        peer.send(CHUNK);
        soon(&has_left);
        peer.send_if_taken(b"0\r\n\r\n");
        if peer.next_request().is_some() {
            numbered(peer);
        }
    });
    let mut acts = vec![first];
    let origin = Origin::serves_in_turn(move |number| match number {
        0 => acts.pop(),
        1 => Some(act(|peer| {
            peer.request();
            numbered(peer);
        })),
        _ => None,
    });
    let proxy = Proxy::start(&origin, &[ALONE]);
    let mut client = Client::connect(&proxy);
    client.send(post("/first", b"{}"));
    client.head();
    client.receive_chunked(EVENT);
    match how {
        Leaving::Fin => _ = client.leave(),
        Leaving::Rst => _ = client.reset(),
        Leaving::HalfClose => client.half_close(),
    }
    left.send(()).unwrap();
    eventually("the connection is closed", || proxy.clients() == 0);
    client.discard();
    let response = Client::connect(&proxy).exchange(post("/second", b"{}"));
    assert_eq!(response.status(), 200);
    response.text() == "0"
}

#[test]
fn a_response_that_completes_in_the_drain_keeps_its_connection() {
    // The drain is short: on a busy machine this upstream may miss it once, not always.
    const TRIES: usize = 5;
    for how in WAYS {
        let kept = (0..TRIES).any(|_| keeps_its_connection(how));
        assert!(kept, "{how:?}");
    }
}

#[test]
fn a_response_that_does_not_complete_in_the_drain_loses_its_connection() {
    let (gone, was_closed) = mpsc::channel();
    let origin = Origin::plays([
        act(move |peer| {
            peer.request();
            peer.send(HEAD);
            peer.send(CHUNK);
            gone.send(peer.is_closed()).unwrap();
        }),
        answers(OK),
    ]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    let mut client = Client::connect(&proxy);
    client.send(post("/first", b"{}"));
    client.head();
    client.receive_chunked(EVENT);
    let left = client.leave();
    assert_prompt(left, soon(&was_closed));
    let response = Client::connect(&proxy).exchange(post("/second", b"{}"));
    assert_eq!(response.status(), 200);
}

#[test]
fn a_client_that_leaves_after_its_response_costs_nothing() {
    for how in WAYS {
        let origin = Origin::plays([act(|peer| {
            for _ in 0..2 {
                peer.request();
                peer.send(OK);
            }
        })]);
        let proxy = Proxy::start(&origin, &[ALONE]);
        for number in 1..=2 {
            let mut client = Client::connect(&proxy);
            assert_eq!(client.exchange(get("/")).status(), 200);
            proxy.ended(number);
            leave(&mut client, how);
        }
    }
}
