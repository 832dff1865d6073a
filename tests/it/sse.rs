//! No event waits for the next.
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::support::{Authority, Client, Origin, Peer, Proxy, act, get, pattern, post, soon};

const EVENTS: usize = 100;
/// How late an event may be, loosely: the bench shows what it takes on a quiet machine.
const LATE: Duration = Duration::from_secs(1);

fn event(number: usize) -> String {
    let data = "x".repeat(number % 50 * 20);
    format!("event: response.output_text.delta\ndata: {{\"n\":{number},\"d\":\"{data}\"}}\n\n")
}

/// Sends an event for each token, so that the next one does not exist before the client asks for it.
fn stream(peer: &mut Peer, next: &Receiver<()>, chunked: bool) {
    peer.request();
    let framing = if chunked {
        "Transfer-Encoding: chunked\r\n"
    } else {
        ""
    };
    peer.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n"
    ));
    for number in 0..EVENTS {
        soon(next);
        let event = event(number);
        if chunked {
            peer.send(format!("{:x}\r\n{event}\r\n", event.len()));
        } else {
            peer.send(event);
        }
    }
    if chunked {
        peer.send("0\r\n\r\n");
    } else {
        peer.close_with_notify();
    }
}

fn receive_event(client: &mut Client, number: usize, chunked: bool) {
    let event = event(number);
    if chunked {
        client.receive_chunked(&event);
    } else {
        client.receive(&event);
    }
}

fn assert_in_step(client: &mut Client, next: &mpsc::Sender<()>, chunked: bool) {
    client.send(post("/v1/responses", b"{}"));
    assert_eq!(client.head().status(), 200); // before any event
    for number in 0..EVENTS {
        next.send(()).unwrap();
        let asked = Instant::now();
        receive_event(client, number, chunked);
        let took = asked.elapsed();
        assert!(took < LATE, "event {number} took {took:?}");
    }
    if chunked {
        client.receive_chunked_end();
    } else {
        client.is_closed();
    }
}

#[test]
fn every_event_arrives_before_the_next_is_sent() {
    for chunked in [true, false] {
        let (next, events) = mpsc::channel();
        let play = move |peer: &mut Peer| stream(peer, &events, chunked);
        let origin = Origin::plays([act(play)]);
        let proxy = Proxy::start(&origin, &[]);
        assert_in_step(&mut Client::connect(&proxy), &next, chunked);
    }
}

#[test]
fn every_event_arrives_before_the_next_is_sent_over_tls() {
    let authority = Authority::new();
    for chunked in [true, false] {
        let (next, events) = mpsc::channel();
        let play = move |peer: &mut Peer| stream(peer, &events, chunked);
        let origin = Origin::plays_tls(&authority, [act(play)]);
        let proxy = Proxy::start(&origin, &[("UPSTREAM_CA_FILE", authority.file())]);
        assert_in_step(&mut Client::connect(&proxy), &next, chunked);
    }
}

#[test]
fn bytes_of_a_large_chunk_or_length_are_not_held_back_either() {
    const LARGE: usize = 1 << 20;
    const STEPS: [usize; 6] = [1, 100, 70_000, 3, 200_000, 1];
    let framings = [
        (format!("Content-Length: {LARGE}\r\n\r\n"), ""),
        (
            "Transfer-Encoding: chunked\r\n\r\n100000\r\n".to_owned(),
            "\r\n0\r\n\r\n",
        ),
    ];
    for (framing, end) in framings {
        let (next, pieces) = mpsc::channel::<()>();
        let start = framing.clone();
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            peer.send(format!("HTTP/1.1 200 OK\r\n{start}"));
            let mut sent = 0;
            for length in STEPS {
                soon(&pieces);
                peer.send(pattern().at(sent, length));
                sent += length;
            }
            soon(&pieces);
            peer.send(&pattern().bytes(LARGE)[sent..]);
            peer.send(end);
        })]);
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        client.send(get("/"));
        client.head();
        let chunked = !end.is_empty();
        let take = |client: &mut Client, count| match chunked {
            true => client.take_chunked(count),
            false => client.take(count),
        };
        let mut received = 0;
        for length in STEPS {
            next.send(()).unwrap();
            pattern().check(received, &take(&mut client, length));
            received += length;
        }
        next.send(()).unwrap();
        pattern().check(received, &take(&mut client, LARGE - received));
        if chunked {
            client.receive_chunked_end();
        }
    }
}
