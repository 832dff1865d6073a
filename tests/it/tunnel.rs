//! WebSocket handshakes are forwarded and replayed like any request; a 101 makes a tunnel of the pair.
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::net::eventually;
use crate::support::{
    Act, Authority, Client, DEADLINE, OK, Origin, PROMPT, Peer, Proxy, act, answers, get, hangs,
    pattern, post, resets, soon,
};

const HANDSHAKE: &str = "GET /v1/responses?model=x HTTP/1.1\r\nhost: client.example\r\n\
     connection: keep-alive, Upgrade\r\nupgrade: h2c, WebSocket\r\nsec-websocket-version: 13\r\n\
     sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-extensions: permessage-deflate\r\n\
     authorization: Bearer k\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
     Connection: Upgrade, x-hop\r\nX-Hop: 1\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Answers a handshake with 101 and goes on from there.
fn switches(then: impl FnOnce(&mut Peer) + Send + 'static) -> Act {
    act(move |peer| {
        peer.request();
        peer.send(SWITCHING);
        then(peer);
    })
}

/// Shakes hands; what follows is the tunnel.
#[track_caller]
fn shake_hands(proxy: &Proxy) -> Client {
    let mut client = Client::connect(proxy);
    client.send(HANDSHAKE);
    assert_eq!(client.head().status(), 101);
    client
}

#[test]
fn a_handshake_goes_up_as_it_is_and_its_101_comes_down() {
    let origin = Origin::plays([switches(|peer| {
        assert_eq!(peer.take(4), b"ping");
        peer.send("pong");
        peer.is_closed();
    })]);
    let proxy = Proxy::start(&origin, &[("LOG_FORMAT", "json")]);
    let mut client = Client::connect(&proxy);
    client.send(HANDSHAKE);
    let head = client.head();
    assert_eq!(
        head.text(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
         x-codex-reset-proxy-attempts: 1\r\nConnection: Upgrade\r\n\r\n"
    );
    client.send("ping");
    assert_eq!(client.take(4), b"pong");
    client.half_close();
    client.is_closed();
    let sent = origin.request(1).head;
    let expected = HANDSHAKE
        .replace("client.example", &origin.addr.to_string())
        .replace("keep-alive, Upgrade", "Upgrade")
        .replace("h2c, WebSocket", "websocket");
    assert_eq!(sent.text(), expected);
    let line = proxy.logs(&[r#""outcome":"tunnelled""#, "closed by the client"]);
    let sizes = (expected.len() + 4, head.text().len() + 4);
    for part in [
        r#""status":101"#.to_owned(),
        format!(r#""request_bytes":{},"#, sizes.0),
        format!(r#""response_bytes":{},"#, sizes.1),
    ] {
        assert!(line.contains(&part), "{part}: {line}");
    }
}

#[test]
fn bytes_right_behind_either_head_come_first_and_in_order() {
    let origin = Origin::plays([act(|peer| {
        peer.request();
        peer.send([SWITCHING, "early "].concat());
        assert_eq!(peer.take(11), b"eager later");
        peer.send("late");
        peer.is_closed();
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    client.send([HANDSHAKE, "eager "].concat());
    client.head();
    assert_eq!(client.take(6), b"early ");
    client.send("later");
    assert_eq!(client.take(4), b"late");
    client.half_close();
    client.is_closed();
}

/// Sends and receives so much at the same time, both ways.
fn moves_much_both_ways(origin: Origin, settings: &[(&str, &str)]) {
    let proxy = Proxy::start(&origin, settings);
    let mut client = shake_hands(&proxy);
    let pattern = pattern();
    client.both_ways(pattern, MUCH);
    client.half_close();
    client.is_closed();
    proxy.logs(&["tunnelled", "closed by the client"]);
}

const MUCH: usize = 48 << 20;

fn much(peer: &mut Peer) {
    peer.request();
    peer.send(SWITCHING);
    peer.both_ways(pattern(), MUCH);
    peer.is_closed();
}

#[test]
fn much_goes_both_ways_at_once() {
    moves_much_both_ways(Origin::plays([act(much)]), &[]);
}

#[test]
fn much_goes_both_ways_at_once_over_tls() {
    let authority = Authority::new();
    let origin = Origin::plays_tls(&authority, [act(much)]);
    moves_much_both_ways(origin, &[("UPSTREAM_CA_FILE", authority.file())]);
}

#[test]
fn a_handshake_that_hangs_is_sent_again_within_its_own_limit() {
    let origin = Origin::plays([
        hangs(),
        resets(),
        switches(|peer| {
            peer.is_closed();
        }),
    ]);
    let limits = [
        ("UPGRADE_HEADER_TIMEOUT_SECONDS", "0.2"),
        ("UPSTREAM_MAX_ATTEMPTS", "3"),
    ];
    let proxy = Proxy::start(&origin, &limits);
    let mut client = Client::connect(&proxy);
    client.send(HANDSHAKE);
    let head = client.head();
    assert_eq!(head.status(), 101);
    assert_eq!(
        head.field("x-codex-reset-proxy-attempts").as_deref(),
        Some("3")
    );
    client.leave();
    let sent = origin.requests();
    assert!(sent.iter().all(|request| request.head == sent[0].head) && sent.len() == 3);
}

#[test]
fn a_handshake_without_an_answer_is_refused_with_426_and_the_connection_goes_on() {
    let limit = ("UPGRADE_HEADER_TIMEOUT_SECONDS", "0.2");
    for (act, code, cause) in [
        (
            hangs as fn() -> Act,
            "upstream_header_timeout",
            "UPGRADE_HEADER_TIMEOUT_SECONDS",
        ),
        (resets, "upstream_request_error", "broke the connection"),
    ] {
        let origin = Origin::plays([act(), act(), answers(OK)]);
        let proxy = Proxy::start(&origin, &[limit]);
        let mut client = Client::connect(&proxy);
        let response = client.exchange(HANDSHAKE);
        response.assert_refusal(426, code);
        assert!(response.text().contains(cause), "{}", response.text());
        assert_eq!(response.head.field("upgrade").as_deref(), Some("websocket"));
        assert_eq!(
            response.head.field("connection").as_deref(),
            Some("upgrade")
        );
        assert_eq!(response.attempts(), Some(2));
        assert_eq!(client.exchange(post("/v1/responses", b"{}")).text(), "ok");
    }
}

#[test]
fn the_limit_of_handshakes_is_no_longer_than_that_of_requests() {
    let origin = Origin::plays([hangs(), hangs()]);
    let proxy = Proxy::start(&origin, &[("RESPONSE_HEADER_TIMEOUT_SECONDS", "0.2")]);
    let response = Client::connect(&proxy).exchange(HANDSHAKE);
    response.assert_refusal(426, "upstream_header_timeout");
    assert!(response.text().contains("RESPONSE_HEADER_TIMEOUT_SECONDS"));
}

#[test]
fn any_other_answer_to_a_handshake_is_relayed_and_the_connection_goes_on() {
    for status in ["401 Unauthorized", "426 Upgrade Required", "200 OK"] {
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno");
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            peer.send(text);
            peer.request();
            peer.send(OK);
        })]);
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        let response = client.exchange(HANDSHAKE);
        assert_eq!(
            (response.head.line(), response.text()),
            (format!("HTTP/1.1 {status}"), "no".to_owned())
        );
        assert_eq!(client.exchange(get("/")).text(), "ok");
    }
}

#[test]
fn a_101_for_another_protocol_or_for_no_handshake_makes_no_tunnel() {
    let other = SWITCHING.replace("websocket", "h2c");
    let origin = Origin::plays([answers(other), answers(SWITCHING)]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    client
        .exchange(HANDSHAKE)
        .assert_refusal(426, "upstream_bad_response");
    client
        .exchange(get("/"))
        .assert_refusal(502, "upstream_bad_response");
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn what_is_no_websocket_handshake_is_forwarded_without_its_upgrade() {
    let requests = [
        HANDSHAKE.replace("h2c, WebSocket", "h2c"),
        HANDSHAKE.replace("keep-alive, Upgrade", "keep-alive"),
        HANDSHAKE.replace("GET", "POST"),
        HANDSHAKE.replace("HTTP/1.1", "HTTP/1.0"),
        HANDSHAKE.replace("\r\n\r\n", "\r\ncontent-length: 2\r\n\r\n{}"),
    ];
    for request in requests {
        let origin = Origin::plays([answers(OK)]);
        let proxy = Proxy::start(&origin, &[]);
        assert_eq!(Client::connect(&proxy).exchange(&request).text(), "ok");
        let sent = origin.request(1).head;
        assert_eq!(
            (sent.field("upgrade"), sent.field("connection")),
            (None, None),
            "{request}"
        );
    }
}

#[test]
fn a_side_that_has_closed_still_hears_the_other() {
    let origin = Origin::plays([
        switches(|peer| {
            assert_eq!(peer.take(3), b"bye");
            peer.ends();
            peer.send("the answer to it");
        }),
        switches(|peer| {
            peer.half_close();
            assert_eq!(peer.take(16), b"the answer to it");
            peer.is_closed();
        }),
    ]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = shake_hands(&proxy);
    client.send("bye");
    client.half_close();
    assert_eq!(client.rest(), b"the answer to it");
    proxy.logs(&["tunnelled", "closed by the client"]);
    let mut client = shake_hands(&proxy);
    client.ends();
    client.send("the answer to it");
    client.half_close();
    proxy.logs(&["tunnelled", "closed by the upstream"]);
}

#[test]
fn an_end_after_a_long_rest_leaves_the_other_side_its_time() {
    const REST: Duration = Duration::from_millis(1300);
    let origin = Origin::plays([switches(|peer| {
        peer.ends();
        thread::sleep(REST);
        peer.send("the answer to it");
    })]);
    let proxy = Proxy::start(&origin, &[("STREAM_IDLE_TIMEOUT_SECONDS", "2")]);
    let mut client = shake_hands(&proxy);
    thread::sleep(REST);
    client.half_close();
    assert_eq!(client.rest(), b"the answer to it");
    proxy.logs(&["tunnelled", "closed by the client"]);
}

#[test]
fn a_side_that_breaks_off_is_passed_on_as_that() {
    let (gone, went) = mpsc::channel();
    let origin = Origin::plays([
        switches(move |peer| gone.send(peer.is_closed_after().0).unwrap()),
        switches(|peer| {
            peer.send("x");
            peer.reset();
        }),
    ]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = shake_hands(&proxy);
    let left = client.reset();
    let seen = soon(&went);
    assert!(seen.saturating_duration_since(left) < PROMPT);
    proxy.logs(&["tunnelled", "broken by the client"]);
    let mut client = shake_hands(&proxy);
    client.is_reset();
    proxy.logs(&["tunnelled", "broken by the upstream"]);
}

#[test]
fn a_tunnel_may_rest_unless_it_is_told_otherwise() {
    let rests = || {
        switches(|peer| {
            assert_eq!(peer.take(4), b"ping");
            peer.is_closed_after();
        })
    };
    let origin = Origin::plays([rests(), rests()]);
    let soon = ("CLIENT_IDLE_TIMEOUT_SECONDS", "0.2");
    let limits = [
        soon,
        ("CLIENT_HEADER_TIMEOUT_SECONDS", "0.2"),
        ("WRITE_TIMEOUT_SECONDS", "0.2"),
    ];
    let proxy = Proxy::start(&origin, &limits);
    let mut client = shake_hands(&proxy);
    thread::sleep(Duration::from_millis(700));
    client.send("ping");
    assert!(!client.has_answer(), "it is still open");
    let proxy = Proxy::start(&origin, &[("STREAM_IDLE_TIMEOUT_SECONDS", "0.4")]);
    let begun = Instant::now();
    let mut client = shake_hands(&proxy);
    client.send("ping");
    client.is_reset();
    assert!(begun.elapsed() > Duration::from_millis(400));
    proxy.logs(&["tunnelled", "STREAM_IDLE_TIMEOUT_SECONDS"]);
}

#[test]
fn a_side_that_takes_nothing_slows_the_other_down_and_ends_the_tunnel_in_the_end() {
    let (full, filled) = mpsc::channel();
    let origin = Origin::plays([switches(move |peer| {
        full.send(peer.fill_the_pipe(pattern())).unwrap();
        peer.is_closed_after();
    })]);
    let proxy = Proxy::start(&origin, &[("CLIENT_WRITE_TIMEOUT_SECONDS", "2")]);
    let before = proxy.resident_kib();
    let mut client = shake_hands(&proxy);
    let fitted = soon(&filled);
    assert!(fitted < 128 << 20, "{fitted} bytes were taken");
    proxy.logs(&["tunnelled", "the client took no bytes"]);
    assert!(proxy.resident_kib() < before + 4096);
    client.discard();
}

#[test]
fn a_tunnel_outlives_the_order_to_stop_for_as_long_as_is_allowed() {
    let (gone, went) = mpsc::channel();
    let origin = Origin::plays([switches(move |peer| {
        assert_eq!(peer.take(4), b"ping");
        peer.send("pong");
        peer.is_closed_after();
        gone.send(()).unwrap();
    })]);
    let mut proxy = Proxy::start(&origin, &[("DRAIN_TIMEOUT_SECONDS", "2")]);
    let mut client = shake_hands(&proxy);
    proxy.signal(Signal::TERM);
    proxy.logs(&["draining"]);
    client.send("ping");
    assert_eq!(client.take(4), b"pong");
    assert!(proxy.exits_within(DEADLINE).success());
    soon(&went);
    client.discard();
}

#[test]
fn tunnels_at_rest_hold_next_to_no_memory_and_leave_nothing_behind() {
    const TUNNELS: usize = 300;
    let origin = Origin::serves(TUNNELS + 1, |peer| {
        peer.request();
        peer.send(SWITCHING);
        let echoed = peer.take(1);
        peer.send(echoed);
        peer.is_closed();
    });
    let proxy = Proxy::start(&origin, &[]);
    let echo = |client: &mut Client| {
        client.send("x");
        assert_eq!(client.take(1), b"x");
    };
    let mut first = shake_hands(&proxy);
    echo(&mut first);
    let (descriptors, memory) = (proxy.descriptors(), proxy.resident_kib());
    let mut tunnels: Vec<_> = (0..TUNNELS).map(|_| shake_hands(&proxy)).collect();
    tunnels.iter_mut().for_each(echo);
    let each = (proxy.resident_kib() - memory) / TUNNELS as u64;
    assert!(each < 16, "{each} KiB each");
    drop(tunnels);
    eventually("all are gone", || proxy.descriptors() <= descriptors);
    first.half_close();
    first.is_closed();
}

#[test]
fn the_last_words_of_a_side_that_takes_no_more_arrive() {
    const ROUNDS: usize = 8;
    let origin = Origin::serves(ROUNDS, |peer| {
        peer.request();
        peer.send(SWITCHING);
        peer.take(1);
        peer.send("too much of it");
        peer.close(); // with bytes unread: a reset is right behind the words
    });
    let proxy = Proxy::start(&origin, &[]);
    for _ in 0..ROUNDS {
        let mut client = shake_hands(&proxy);
        let much = vec![b'x'; 8 << 20];
        client.send_if_taken(&much);
        assert_eq!(client.rest(), b"too much of it");
    }
}

#[test]
fn a_side_that_breaks_off_while_the_other_takes_nothing_is_noticed() {
    let origin = Origin::plays([switches(Peer::is_deaf)]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = shake_hands(&proxy);
    client.fill_the_pipe(pattern());
    let left = client.reset();
    proxy.logs(&["tunnelled", "broken by the client"]);
    assert!(
        left.elapsed() < Duration::from_secs(10),
        "WRITE_TIMEOUT_SECONDS is 30"
    );
}
