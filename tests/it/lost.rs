//! Connections that were lost while they were idle, and nobody was told: a NAT forgot them, the machine
//! slept, the way has gone. What is sent on them is acknowledged by nobody.
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::net::{eventually, swallow_all, swallow_data, swallow_no_more, until_stuck};
use crate::support::{
    Act, Authority, Client, OK, Origin, Peer, Proxy, act, answers, get, post, sockets, soon,
};

/// One pool, whichever connection a client uses.
const ALONE: (&str, &str) = ("WORKERS", "1");
/// Each of them would be noticed.
const PATIENT: (&str, &str) = ("RESPONSE_HEADER_TIMEOUT_SECONDS", "60");
const SLOW_BACKOFF: (&str, &str) = ("RETRY_BACKOFF_SECONDS", "60");
/// Time enough to find out that a connection was lost.
const SHORT: (&str, &str) = ("RESPONSE_HEADER_TIMEOUT_SECONDS", "6");
/// The default of CONNECT_TIMEOUT_SECONDS, and a second.
const FOUND: Duration = Duration::from_secs(11);
const SMALL: usize = 2000;
/// More than the kernels of both ends take.
const LARGE: usize = 30 << 20;
/// Longer than a connection that was lost is used.
const LONG: Duration = Duration::from_secs(6);

/// Answers a request, does `cut` to the connection, and says so; then goes on with `then`.
fn after_one(cut: fn(&TcpStream), then: impl FnOnce(&mut Peer) + Send + 'static) -> (Act, Cut) {
    let (tell, is_cut) = mpsc::channel();
    let act = act(move |peer| {
        peer.request();
        peer.send(OK);
        until_acked(peer); // or it would be sent again, and so be heard of
        cut(peer.wire().stream.tcp());
        tell.send(()).unwrap();
        then(peer);
    });
    (act, is_cut)
}

type Cut = Receiver<()>;

fn is_lost_after_one() -> (Act, Cut) {
    after_one(|tcp| swallow_all(tcp), Peer::stays_silent)
}

/// A client that has had one answer, on a connection that is `cut` by now.
fn client_of(proxy: &Proxy, is_cut: &Cut) -> Client {
    let mut client = Client::connect(proxy);
    assert_eq!(client.exchange(get("/before")).attempts(), Some(1));
    soon(is_cut);
    proxy.ended(1);
    client
}

fn until_acked(peer: &mut Peer) {
    let tcp = peer.wire().stream.tcp();
    let (own, other) = (tcp.local_addr().unwrap(), tcp.peer_addr().unwrap());
    eventually("it has come", || {
        sockets::find(own, other).is_some_and(|socket| socket.unacked == 0)
    });
}

/// Waits until the proxy has sent something on the connection of `peer` that is not acknowledged.
fn until_sent(peer: &mut Peer) {
    let tcp = peer.wire().stream.tcp();
    let (own, other) = (tcp.local_addr().unwrap(), tcp.peer_addr().unwrap());
    eventually("a request is on its way", || {
        sockets::find(other, own).is_some_and(|socket| socket.unacked > 0)
    });
}

/// Has a connection in the pool that is `lost`, and then sends a POST of `body` bytes.
fn judge_loss(origin: &Origin, lost: &Cut, settings: &[(&str, &str)], body: usize) {
    let settings = [&[ALONE, PATIENT, SLOW_BACKOFF], settings].concat();
    let proxy = Proxy::start(origin, &settings);
    let mut client = client_of(&proxy, lost);
    let start = Instant::now();
    let response = client.exchange(post("/v1", &vec![b'x'; body]));
    assert!(start.elapsed() < FOUND, "after {:?}", start.elapsed());
    assert_eq!((response.status(), response.attempts()), (200, Some(2)));
    let told = response.failed_attempts();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("stale=not_acked,read_failed,"),
        "{told:?}"
    );
    proxy.logs(&["stale", "delivery=not_acked"]);
    assert_eq!(origin.requests().len(), 2, "what was lost never came");
}

#[test]
fn a_lost_connection_costs_a_moment_and_neither_an_attempt_nor_a_back_off() {
    for body in [SMALL, LARGE] {
        let (first, lost) = is_lost_after_one();
        judge_loss(&Origin::plays([first, answers(OK)]), &lost, &[], body);
        let (first, lost) = is_lost_after_one();
        let authority = Authority::new();
        let origin = Origin::plays_tls(&authority, [first, answers(OK)]);
        let trusts = ("UPSTREAM_CA_FILE", authority.file());
        judge_loss(&origin, &lost, &[trusts], body);
    }
}

#[test]
fn of_several_lost_connections_only_the_first_costs_a_wait() {
    const IDLE: usize = 3;
    let all = Arc::new(Barrier::new(IDLE));
    let (tell, lost) = mpsc::channel();
    let idle = || {
        let (all, tell) = (all.clone(), tell.clone());
        act(move |peer| {
            peer.request();
            all.wait();
            peer.send(OK);
            until_acked(peer);
            swallow_all(peer.wire().stream.tcp());
            tell.send(()).unwrap();
            peer.stays_silent();
        })
    };
    // Of the two after it neither is answered before both have come.
    let both = Arc::new(Barrier::new(2));
    let fresh = |before: usize| {
        let both = both.clone();
        act(move |peer| {
            for _ in 0..before {
                peer.request();
                peer.send(OK);
            }
            peer.request();
            both.wait();
            peer.send(OK);
        })
    };
    let origin = Origin::plays([idle(), idle(), idle(), fresh(1), fresh(0)]);
    let proxy = Proxy::start(&origin, &[ALONE, PATIENT]);
    let mut clients: Vec<_> = (0..IDLE).map(|_| Client::connect(&proxy)).collect();
    clients.iter_mut().for_each(|client| client.send(get("/")));
    for client in &mut clients {
        assert_eq!(client.response().attempts(), Some(1));
        soon(&lost);
    }
    proxy.ended(IDLE);
    assert_eq!(clients[0].exchange(post("/", b"{}")).attempts(), Some(2));
    proxy.ended(IDLE + 1);
    for client in &mut clients[1..] {
        client.send(post("/", b"{}"));
    }
    for client in &mut clients[1..] {
        assert_eq!(client.response().attempts(), Some(1));
    }
}

/// A reused connection on which a POST of `body` bytes is sent once and answered well.
fn judge_living(
    cut: fn(&TcpStream),
    body: usize,
    then: impl FnOnce(&mut Peer) + Copy + Send + 'static,
) {
    let authority = Authority::new();
    for tls in [false, true] {
        let (act, is_cut) = after_one(cut, then);
        let origin = match tls {
            true => Origin::plays_tls(&authority, [act]),
            false => Origin::plays([act]),
        };
        let settings = [ALONE, PATIENT, ("UPSTREAM_CA_FILE", authority.file())];
        let proxy = Proxy::start(&origin, &settings);
        let mut client = client_of(&proxy, &is_cut);
        let response = client.exchange(post("/v1", &vec![b'x'; body]));
        assert_eq!((response.status(), response.attempts()), (200, Some(1)));
    }
}

#[test]
fn a_peer_that_has_the_request_and_is_slow_is_not_taken_for_lost() {
    judge_living(
        |_| (),
        SMALL,
        |peer| {
            peer.request();
            thread::sleep(LONG);
            peer.send(OK);
        },
    );
}

#[test]
fn a_peer_that_takes_no_more_bytes_and_says_so_is_not_taken_for_lost() {
    judge_living(
        |_| (),
        LARGE,
        |peer| {
            until_stuck(peer.wire().stream.tcp());
            thread::sleep(LONG);
            peer.request();
            peer.send(OK);
        },
    );
}

#[test]
fn a_network_that_holds_a_request_up_for_seconds_has_not_lost_it() {
    for held_up in [300, 2400].map(Duration::from_millis) {
        judge_living(
            |tcp| swallow_data(tcp),
            SMALL,
            move |peer| {
                until_sent(peer);
                thread::sleep(held_up); // it is sent again, once, or three times
                swallow_no_more(peer.wire().stream.tcp());
                peer.request();
                peer.send(OK);
            },
        );
    }
}

#[test]
fn a_peer_that_is_heard_of_is_not_lost_whatever_it_acknowledges() {
    let (first, is_cut) = after_one(
        |tcp| swallow_data(tcp),
        |peer| {
            until_sent(peer);
            // Part of a record is no byte of a response; it comes with an old acknowledgement.
            let sealed = peer.seal(b"HTTP/1.1 200 OK\r\n");
            thread::sleep(Duration::from_millis(200));
            peer.send_sealed(&sealed[..3]);
            peer.stays_silent();
        },
    );
    let authority = Authority::new();
    let origin = Origin::plays_tls(&authority, [first, answers(OK)]);
    let settings = [
        ALONE,
        SHORT,
        ("UPSTREAM_CA_FILE", authority.file()),
        ("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS", "30"),
    ];
    let proxy = Proxy::start(&origin, &settings);
    let response = client_of(&proxy, &is_cut).exchange(post("/v1", b"{}"));
    assert_eq!((response.status(), response.attempts()), (200, Some(2)));
    let told = response.failed_attempts();
    assert!(
        told[0].starts_with("1=not_acked,header_timeout,"),
        "{told:?}"
    );
}

#[test]
fn a_lost_request_is_not_sent_again_once_a_byte_of_a_response_has_come() {
    let (first, is_cut) = after_one(
        |tcp| swallow_data(tcp),
        |peer| {
            until_sent(peer);
            peer.send("H");
            peer.stays_silent();
        },
    );
    let origin = Origin::plays([first]);
    let proxy = Proxy::start(&origin, &[ALONE, SHORT]);
    let response = client_of(&proxy, &is_cut).exchange(post("/v1", b"{}"));
    response.assert_refusal(504, "upstream_header_timeout");
    assert_eq!(response.attempts(), Some(1));
}

#[test]
fn a_fresh_connection_has_the_whole_time() {
    // Its way was there a moment ago: what is lost now is waited for.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    swallow_data(&listener);
    let first = act(|peer| {
        until_sent(peer);
        thread::sleep(LONG);
        swallow_no_more(peer.wire().stream.tcp());
        peer.request();
        peer.send(OK);
    });
    let origin = Origin::plays_on(listener, [first]);
    let proxy = Proxy::start(&origin, &[ALONE, PATIENT]);
    let response = Client::connect(&proxy).exchange(post("/v1", b"{}"));
    assert_eq!((response.status(), response.attempts()), (200, Some(1)));
}

#[test]
fn with_one_attempt_only_an_idempotent_request_is_sent_again_after_a_loss() {
    let once = ("UPSTREAM_MAX_ATTEMPTS", "1");
    for (again, request) in [(true, get("/")), (false, get("/").replace("GET", "PATCH"))] {
        let (first, lost) = is_lost_after_one();
        let second = again.then(|| answers(OK));
        let origin = Origin::plays([first].into_iter().chain(second));
        let proxy = Proxy::start(&origin, &[ALONE, PATIENT, once]);
        let response = client_of(&proxy, &lost).exchange(request);
        match again {
            true => assert_eq!(response.attempts(), Some(2)),
            false => {
                response.assert_refusal(502, "upstream_request_error");
                let text = response.text();
                assert!(text.contains("the upstream was lost"), "{text}");
            }
        }
    }
}
