//! A response that upstream breaks off is seen to be broken off, wherever that happens.
use std::sync::mpsc;

use rustix::process::Signal;

use crate::support::{Client, Cut, DEADLINE, Origin, Peer, Proxy, Response, act, get, soon};

const LENGTH: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 26\r\n\r\nabcdefghijklmnopqrstuvwxyz";
const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
    a\r\nabcdefghij\r\n10;x=y\r\nklmnopqrstuvwxyz\r\n0\r\nX-T: t\r\n\r\n";
const BODY: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

fn head_length(response: &[u8]) -> usize {
    let end = response.windows(4).position(|four| four == b"\r\n\r\n");
    end.unwrap() + 4
}

/// What the client sees of `response` when upstream stops after each of its bytes, by `how`.
fn cuts(response: &'static [u8], how: fn(&mut Peer)) -> Vec<Result<Response, Cut>> {
    let origin = Origin::serves(response.len() - 1, move |peer| {
        peer.request();
        peer.send(&response[..=peer.number]);
        peer.until_taken();
        how(peer);
    });
    let proxy = Proxy::start(&origin, &[]);
    let seen = (1..response.len()).map(|_| {
        let mut client = Client::connect(&proxy);
        client.send(get("/"));
        client.try_response("GET")
    });
    let seen = seen.collect();
    assert_eq!(origin.requests().len(), response.len() - 1, "replayed");
    seen
}

fn fin(peer: &mut Peer) {
    peer.close();
}

fn rst(peer: &mut Peer) {
    peer.reset();
}

#[test]
fn an_upstream_that_dies_after_any_byte_never_leaves_a_complete_response() {
    for response in [LENGTH, CHUNKED] {
        for how in [fin, rst] {
            for (at, seen) in cuts(response, how).into_iter().enumerate() {
                let sent = at + 1;
                if sent < head_length(response) {
                    let refusal = seen.unwrap();
                    assert_eq!(refusal.status(), 502, "after {sent} bytes");
                    assert_eq!(refusal.attempts(), Some(1));
                    continue;
                }
                let Err(cut) = seen else {
                    panic!("complete after {sent} of {} bytes", response.len());
                };
                let head = cut.head.expect("a head");
                assert_eq!(head.status(), 200);
                assert!(BODY.starts_with(&cut.body), "after {sent} bytes");
            }
        }
    }
}

#[test]
fn every_byte_that_came_before_the_cut_reaches_the_client() {
    let start = head_length(LENGTH);
    for (at, seen) in cuts(LENGTH, fin).into_iter().enumerate() {
        if at + 1 >= start {
            let came = seen.unwrap_err().body;
            assert_eq!(came.len(), at + 1 - start);
        }
    }
}

#[test]
fn a_close_is_the_end_of_a_close_delimited_response_and_a_reset_is_not() {
    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\r\nabcdefghijklmnopqrstuvwxyz";
    let start = head_length(RESPONSE);
    for (at, seen) in cuts(RESPONSE, fin).into_iter().enumerate() {
        let sent = at + 1;
        let response = seen.unwrap();
        if sent < start {
            assert_eq!(response.status(), 502);
        } else {
            assert_eq!(response.body, BODY[..sent - start]);
        }
    }
    for (at, seen) in cuts(RESPONSE, rst).into_iter().enumerate() {
        let sent = at + 1;
        if sent < start {
            assert_eq!(seen.unwrap().status(), 502);
        } else {
            let cut = seen.expect_err("a reset taken for an end");
            assert!(cut.reset, "after {sent} bytes");
        }
    }
}

#[test]
fn a_reset_that_the_sending_of_the_request_meets_first_is_no_end_either() {
    const ROUNDS: usize = 8;
    let origin = Origin::serves(ROUNDS, |peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\n\r\npart");
        peer.until_taken();
        rst(peer);
    });
    let proxy = Proxy::start(&origin, &[]);
    let request = crate::support::post("/", &vec![b'x'; 20 << 20]);
    for round in 0..ROUNDS {
        let mut client = Client::connect(&proxy);
        client.send(&request);
        let cut = client.try_response("POST");
        let cut = cut.expect_err(&format!("round {round}: a reset taken for an end"));
        assert!(cut.reset, "round {round}");
    }
}

#[test]
fn an_end_is_one_while_the_request_is_sent() {
    let (read, has_read) = std::sync::mpsc::channel();
    let origin = Origin::plays([crate::support::act(move |peer| {
        peer.head();
        peer.send("HTTP/1.1 413 Content Too Large\r\n\r\ntoo large");
        peer.half_close();
        crate::support::soon(&has_read);
        rst(peer);
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    client.send(crate::support::post("/", &vec![b'x'; 20 << 20]));
    assert_eq!(client.response().text(), "too large");
    read.send(()).unwrap();
}

#[test]
fn a_large_body_that_is_cut_is_short() {
    const SENT: usize = 3_000_000;
    for (framing, chunk) in [
        ("Content-Length: 9000000", false),
        ("Transfer-Encoding: chunked", true),
    ] {
        for how in [fin, rst] {
            let origin = Origin::serves(1, move |peer| {
                peer.request();
                peer.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
                if chunk {
                    peer.send("895440\r\n"); // 9 000 000
                }
                let pattern = crate::support::pattern();
                peer.send_pattern(pattern, SENT, 100_000, false);
                peer.until_taken();
                how(peer);
            });
            let proxy = Proxy::start(&origin, &[]);
            let mut client = Client::connect(&proxy);
            client.send(get("/"));
            let mut offset = 0;
            let (_, end) = client
                .streamed("GET", &mut |piece| {
                    crate::support::pattern().check(offset, piece);
                    offset += piece.len();
                })
                .unwrap();
            assert!(end.is_err(), "a complete response out of a broken one");
            assert!(offset <= SENT);
        }
    }
}

#[test]
fn an_http_1_0_client_sees_a_cut_as_a_reset() {
    for how in [fin, rst] {
        let origin = Origin::serves(1, move |peer| {
            peer.request();
            peer.send(&CHUNKED[..CHUNKED.len() - 20]);
            peer.until_taken();
            how(peer);
        });
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        client.send("GET / HTTP/1.0\r\n\r\n");
        let cut = client.try_response("GET");
        assert!(cut.expect_err("a cut taken for an end").reset);
    }
}

#[test]
fn an_http_1_0_client_sees_the_end_of_the_process_as_a_reset() {
    let ends: [(&str, &[Signal]); 3] = [
        ("0", &[Signal::TERM]),
        ("30", &[Signal::TERM, Signal::INT]),
        ("30", &[Signal::KILL]),
    ];
    for (drain, signals) in ends {
        let (end, gate) = mpsc::channel();
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            peer.send(&CHUNKED[..CHUNKED.len() - 20]);
            soon(&gate);
        })]);
        let mut proxy = Proxy::start(&origin, &[("DRAIN_TIMEOUT_SECONDS", drain)]);
        let mut client = Client::connect(&proxy);
        client.send("GET / HTTP/1.0\r\n\r\n");
        client.head();
        for signal in signals {
            proxy.signal(*signal);
        }
        proxy.exits_within(DEADLINE);
        client.is_reset();
        end.send(()).unwrap();
    }
}
