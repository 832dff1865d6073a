//! Every fault at every phase and byte of an exchange: whether the request is sent again, how often
//! it is sent in all, and what the client sees, stated once as a law of (phase, fault).
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;

use crate::support::net::eventually;
use crate::support::{Authority, Client, Origin, Peer, Proxy, pattern, post, post_chunked};

/// How far an exchange gets before the fault. Offsets are bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// So much of the server's first flight of a TLS handshake is sent.
    Handshake(usize),
    /// So much of the request is read.
    Request(usize),
    /// The request is read, and of the TLS record that bears the response so much is sent.
    Record(usize),
    /// The request is read, and so much of the response is sent.
    Response(usize),
}
use Phase::{Handshake, Record, Request, Response};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// Nothing more, ever.
    Silence,
    /// FIN; over TLS with close_notify, save in a handshake.
    End,
    /// FIN without close_notify.
    Cut,
    Reset,
    /// Bytes that belong to no message or record, and then the end.
    Garbage,
    /// No fault in the end: the rest, byte by byte.
    Trickle,
}
use Fault::{Cut, End, Garbage, Reset, Silence, Trickle};

#[derive(Clone, Copy, Debug)]
struct Case {
    phase: Phase,
    fault: Fault,
    response: &'static str,
    tls: bool,
}

/// What has to come of a case.
#[derive(Debug, PartialEq)]
enum Law {
    /// Sent again, and answered then; how often it has been sent in all.
    Rescued(u32),
    /// Sent once and refused.
    Refused(u16, &'static str),
    /// Sent once; the client sees that the response is not complete. What came is its beginning.
    Broken,
    /// Sent once and answered with this body.
    Answered(Vec<u8>),
}
use Law::{Answered, Broken, Refused, Rescued};

const LENGTH: &str =
    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 12\r\n\r\nabcdefghijkl";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
    5;x=y\r\nabcde\r\n07\r\nfghijkl\r\n0\r\nX-T: t\r\n\r\n";
const UNTIL_CLOSE: &str = "HTTP/1.1 200 OK\r\nX: y\r\n\r\nabcdefghijkl";
const BODY: &[u8] = b"abcdefghijkl";
const SECOND: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nsecond";
/// No byte of it can stand in a head or in a chunk-size line, and it is longer than `BODY`.
const GARBAGE: &[u8] = b"\0\x01\x02\x03 nothing that was asked for\0";

fn head_length(response: &str) -> usize {
    response.find("\r\n\r\n").unwrap() + 4
}

fn law(case: &Case) -> Law {
    let (sent, fault) = match (case.phase, case.fault) {
        // Not a byte of the request has been sent on that connection.
        (Handshake(_), _) => return Rescued(1),
        // What cannot be decrypted is no response byte.
        (Record(_), Trickle) => return Answered(BODY.to_vec()),
        (Record(_), _) => return Rescued(2),
        (Request(_), fault) => (0, fault),
        (Response(sent), fault) => (sent, fault),
    };
    let head = head_length(case.response);
    match fault {
        Trickle => Answered(BODY.to_vec()),
        // No response byte: the only case of a replay.
        Silence | End | Cut | Reset if sent == 0 => Rescued(2),
        Silence if sent < head => Refused(504, "upstream_header_timeout"),
        _ if sent < head => Refused(502, "upstream_bad_response"),
        // The end of a close-delimited body is its end, where somebody vouches for it.
        End if case.response == UNTIL_CLOSE => Answered(BODY[..sent - head].to_vec()),
        Cut if case.response == UNTIL_CLOSE && !case.tls => Answered(BODY[..sent - head].to_vec()),
        // Within a body there is no telling what belongs to it; beyond its length nothing does.
        Garbage if case.response == LENGTH => {
            Answered([&BODY[..sent - head], GARBAGE].concat()[..BODY.len()].to_vec())
        }
        Garbage if case.response == UNTIL_CLOSE => {
            Answered([&BODY[..sent - head], GARBAGE].concat())
        }
        _ => Broken,
    }
}

/// The upstream's part of a case; of a response, after the request has been read.
fn play(case: &Case, peer: &mut Peer) {
    let mut rest: Vec<u8> = Vec::new();
    match case.phase {
        Handshake(count) => {
            let flight = peer.flight();
            peer.send_sealed(&flight[..count.min(flight.len() - 1)]);
        }
        Request(count) => drop(peer.take_no_more_than(count)),
        Record(count) => {
            rest = peer.seal(case.response.as_bytes());
            let rest_of_it = rest.split_off(count);
            peer.send_sealed(&rest);
            rest = rest_of_it;
        }
        Response(count) => {
            peer.send(&case.response[..count]);
            rest.extend_from_slice(&case.response.as_bytes()[count..]);
        }
    }
    peer.until_taken();
    let sealed = matches!(case.phase, Record(_) | Handshake(_));
    match case.fault {
        Silence if matches!(case.phase, Request(_)) => peer.is_deaf(),
        Silence => _ = peer.is_closed_after(),
        End if !matches!(case.phase, Handshake(_)) => peer.close_with_notify(),
        End | Cut => peer.close(),
        Reset => peer.reset(),
        Garbage if sealed => {
            peer.send_sealed(&[0xff; 2048]);
            peer.is_closed_after();
        }
        Garbage => {
            peer.send(GARBAGE);
            peer.until_taken();
            peer.close_with_notify();
        }
        Trickle if sealed => {
            for byte in rest {
                peer.send_sealed(&[byte]);
                peer.until_taken();
            }
            peer.close_with_notify();
        }
        Trickle => {
            for byte in rest {
                peer.send([byte]);
                peer.until_taken();
            }
            peer.close_with_notify();
        }
    }
}

/// Answers a request that is sent again, after it has been read.
fn play_second(peer: &mut Peer) {
    peer.send(SECOND);
    peer.close_with_notify();
}

fn judge(case: &Case, client: &mut Client) {
    let law = law(case);
    let seen = match client.try_response("POST") {
        Ok(response) => response,
        Err(cut) => {
            assert_eq!(law, Broken, "{case:?}: {cut:?}");
            assert_eq!(cut.head.expect("a head").status(), 200, "{case:?}");
            let whole = [BODY, GARBAGE].concat();
            let from = |body: &[u8]| case.fault == Garbage || whole.starts_with(body);
            assert!(from(&cut.body), "{case:?}: {:?}", cut.body);
            return;
        }
    };
    let text = format!("{case:?}: {}{}", seen.head.text(), seen.text());
    match law {
        Rescued(sends) => {
            assert_eq!(
                (seen.status(), seen.text().as_str()),
                (200, "second"),
                "{text}"
            );
            assert_eq!(seen.attempts(), Some(sends), "{text}");
        }
        Answered(body) => {
            assert_eq!((seen.status(), &seen.body), (200, &body), "{text}");
            assert_eq!(seen.attempts(), Some(1), "{text}");
        }
        Refused(status, code) => {
            assert_eq!(seen.status(), status, "{text}");
            seen.assert_refusal(status, code);
            assert_eq!(seen.attempts(), Some(1), "{text}");
        }
        Broken => panic!("complete: {text}"),
    }
}

fn settings<'a>(authority: &'a Authority, limit: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("UPSTREAM_CA_FILE", authority.file()),
        ("WORKERS", "1"),
        ("CONNECT_TIMEOUT_SECONDS", limit),
        ("WRITE_TIMEOUT_SECONDS", limit),
        ("RESPONSE_HEADER_TIMEOUT_SECONDS", limit),
        ("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS", "30"),
        ("STREAM_IDLE_TIMEOUT_SECONDS", limit),
    ]
}

/// Plays cases that begin with a whole request, many at the same time: its target says which.
fn together(cases: Vec<Case>, limit: &str, at_once: usize) {
    let authority = Authority::new();
    for tls in [false, true] {
        let of_kind = cases.iter().filter(|case| case.tls == tls).copied();
        let cases: Arc<Vec<Case>> = Arc::new(of_kind.collect());
        if cases.is_empty() {
            continue;
        }
        let sends = Arc::new(Mutex::new(HashMap::new()));
        let (max, known, counts) = (cases.len() * 2, cases.clone(), sends.clone());
        let act = move |peer: &mut Peer| {
            let line = peer.request().head.line();
            let target = line.split(' ').nth(1).unwrap();
            let index: usize = target[1..].parse().unwrap();
            let count = {
                let mut counts = counts.lock().unwrap();
                let count: &mut u32 = counts.entry(index).or_default();
                *count += 1;
                *count
            };
            match count {
                1 => play(&known[index], peer),
                _ => play_second(peer),
            }
        };
        let origin = match tls {
            true => Origin::serves_tls(&authority, max, act),
            false => Origin::serves(max, act),
        };
        let proxy = Proxy::start(&origin, &settings(&authority, limit));
        let next = Mutex::new(0..cases.len());
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    loop {
                        let Some(index) = next.lock().unwrap().next() else {
                            return;
                        };
                        let mut client = Client::connect(&proxy);
                        client.send(post(&format!("/{index}"), b"{}"));
                        judge(&cases[index], &mut client);
                    }
                });
            }
        });
        for (index, case) in cases.iter().enumerate() {
            let expected = if matches!(law(case), Rescued(_)) {
                2
            } else {
                1
            };
            assert_eq!(sends.lock().unwrap()[&index], expected, "{case:?}");
        }
    }
}

/// Plays cases that end before a whole request is read, each thread one after another in front of an
/// upstream and a proxy of its own: which one it is can be known only so.
fn in_turn(cases: Vec<Case>, body: usize, limit: &str, at_once: usize) {
    let authority = Authority::new();
    let config = without_resumption(&authority);
    let next = Mutex::new(cases.iter());
    let turns = || {
        let turn = Arc::new(Mutex::new((cases[0], 0)));
        let counted = turn.clone();
        let act = move |peer: &mut Peer| {
            let (case, count) = {
                let mut turn = counted.lock().unwrap();
                turn.1 += 1;
                *turn
            };
            if count == 1 {
                return play(&case, peer);
            }
            peer.request();
            play_second(peer);
        };
        let max = cases.len() * 2;
        let origin = match cases[0].tls {
            true => Origin::serves_tls_with(config.clone(), max, act),
            false => Origin::serves(max, act),
        };
        let proxy = Proxy::start(&origin, &settings(&authority, limit));
        loop {
            let Some(case) = next.lock().unwrap().next() else {
                return;
            };
            *turn.lock().unwrap() = (*case, 0);
            let mut client = Client::connect(&proxy);
            client.send_if_taken(&post("/", &pattern().bytes(body)));
            judge(case, &mut client);
            let expected = if matches!(law(case), Rescued(_)) {
                2
            } else {
                1
            };
            assert_eq!(turn.lock().unwrap().1, expected, "{case:?}");
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(turns);
        }
    });
}

/// Every handshake is a full one.
fn without_resumption(authority: &Authority) -> Arc<ServerConfig> {
    let mut config = (*authority.server()).clone();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

fn cases(
    phases: impl Iterator<Item = Phase> + Clone,
    faults: &[Fault],
    response: &'static str,
    tls: bool,
) -> Vec<Case> {
    let of_fault = |fault: &Fault| {
        let fault = *fault;
        phases.clone().map(move |phase| Case {
            phase,
            fault,
            response,
            tls,
        })
    };
    faults.iter().flat_map(of_fault).collect()
}

/// Everywhere in a response, save where it is complete; of the heads, which differ by one field, in one.
fn offsets(response: &str) -> impl Iterator<Item = Phase> + Clone {
    let begin = if response == LENGTH {
        0
    } else {
        head_length(response)
    };
    let complete = response.len() + usize::from(response == UNTIL_CLOSE);
    (begin..complete).map(Response)
}

/// A record holds a byte for its kind, and header and tag.
const RECORD: usize = LENGTH.len() + 22;

#[test]
fn a_response_is_whole_or_seen_not_to_be_whatever_ends_it_at_whatever_byte() {
    let mut all = Vec::new();
    for response in [LENGTH, CHUNKED, UNTIL_CLOSE] {
        let at = offsets(response);
        all.extend(cases(at.clone(), &[End, Reset, Garbage], response, false));
        all.extend(cases(at, &[End, Cut, Reset, Garbage], response, true));
        for tls in [false, true] {
            all.extend(cases([Response(0)].into_iter(), &[Trickle], response, tls));
        }
    }
    let at = (0..RECORD).map(Record);
    all.extend(cases(at, &[End, Cut, Reset, Garbage], LENGTH, true));
    all.extend(cases([Record(0)].into_iter(), &[Trickle], LENGTH, true));
    together(all, "30", 8);
}

#[test]
fn silence_is_replayed_before_the_first_byte_and_never_after_it() {
    let mut all = cases(offsets(LENGTH), &[Silence], LENGTH, false);
    all.extend(cases(offsets(CHUNKED), &[Silence], CHUNKED, false));
    all.extend(cases(offsets(UNTIL_CLOSE), &[Silence], UNTIL_CLOSE, false));
    all.extend(cases(
        (0..RECORD).step_by(3).map(Record),
        &[Silence],
        LENGTH,
        true,
    ));
    all.extend(cases(offsets(LENGTH).step_by(5), &[Silence], LENGTH, true));
    together(all, "2", 100);
}

#[test]
fn a_request_that_is_taken_in_part_is_sent_again_unless_a_byte_came_back() {
    const LARGE: usize = 3_000_000;
    let some = [1, 17, 100];
    let more = [4096, 65_535, 65_536, 65_537, 131_072, 1 << 20, 2_000_000];
    for tls in [false, true] {
        for (body, offsets) in [(2, some.to_vec()), (LARGE, [&some[..], &more].concat())] {
            let at = || offsets.iter().copied().map(Request);
            in_turn(
                cases(at(), &[End, Cut, Reset, Garbage], LENGTH, tls),
                body,
                "30",
                3,
            );
            in_turn(cases(at(), &[Silence], LENGTH, tls), body, "1", 11);
        }
    }
}

#[test]
fn a_handshake_that_faults_at_any_byte_has_sent_nothing_and_is_tried_again() {
    const FLIGHT: usize = 900;
    let some = || (0..FLIGHT).step_by(11).map(Handshake);
    in_turn(
        cases(some(), &[End, Reset, Garbage], LENGTH, true),
        2,
        "30",
        4,
    );
    let few = (0..FLIGHT).step_by(60).map(Handshake);
    in_turn(cases(few, &[Silence], LENGTH, true), 2, "2", 15);
}

#[test]
fn a_request_that_its_client_ends_at_any_byte_reaches_nobody() {
    let origin = Origin::serves(0, |_| ());
    let proxy = Proxy::start(&origin, &[("WORKERS", "1")]);
    let chunked = post_chunked("/", b"abcdefghijkl", 5);
    for request in [post("/", b"abcdefghijkl"), chunked] {
        for length in 0..request.len() {
            for fault in [End, Cut, Reset] {
                let mut client = Client::connect(&proxy);
                client.send(&request[..length]);
                match fault {
                    End => {
                        client.half_close();
                        client.is_closed();
                    }
                    Cut => _ = client.leave(),
                    _ => _ = client.reset(),
                }
            }
        }
    }
    eventually("all clients are closed", || proxy.clients() == 0);
    assert_eq!(proxy.sockets_to(origin.addr), 0);
}
