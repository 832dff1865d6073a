//! A load whose every byte is checked, both ways: each request has a body of its own, and so has its
//! response, so that a lost, doubled, displaced or foreign byte shows.
use std::thread;

use super::{Client, Peer, Proxy, chunked, get, pattern, post};

/// Longer than several blocks of the proxy, and than what it moves by read and write.
const LARGE: usize = 700_000;
const SMALL: usize = 100;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// The whole response, every byte as it should be.
    Whole,
    /// A refusal by the proxy.
    Refusal(u16),
    /// A part of the response, and it is seen to be a part.
    Part,
}

/// How the responses of some requests are framed, by the first segment of the target.
const KINDS: [&str; 4] = ["length", "chunked", "large", "upload"];

/// Answers requests until the proxy closes; for any number of connections.
pub fn answer(peer: &mut Peer) {
    while let Some(request) = peer.next_whole_request() {
        let line = request.head.line();
        let target = line.split(' ').nth(1).unwrap();
        let (kind, seed) = parts(target);
        pattern().check(seed, &request.body);
        let body = pattern().bytes_from(seed, length(kind));
        let sent = match kind {
            "chunked" => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                peer.send_if_taken(&[head.as_bytes(), &chunked(&body, 7)].concat())
            }
            _ => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                peer.send_if_taken(&[head.as_bytes(), &body].concat())
            }
        };
        if !sent {
            return peer.close();
        }
    }
}

fn parts(target: &str) -> (&str, usize) {
    let mut segments = target[1..].split('/');
    let kind = segments.next().unwrap();
    (kind, segments.next().unwrap().parse().unwrap())
}

fn length(kind: &str) -> usize {
    if kind == "large" { LARGE } else { SMALL }
}

/// Sends the request number `seed` and judges what comes. A connection that the proxy has closed
/// before the first byte counts as a part of a response.
pub fn ask(client: &mut Client, seed: usize) -> Came {
    let kind = KINDS[seed % KINDS.len()];
    let target = format!("/{kind}/{seed}");
    let request = match kind {
        "upload" => post(&target, &pattern().bytes_from(seed, LARGE)),
        "chunked" => post(&target, &pattern().bytes_from(seed, SMALL)),
        _ => get(&target).into_bytes(),
    };
    // A refusal may come before the body is taken.
    client.send_if_taken(&request);
    match client.try_response("GET") {
        Ok(response) if response.head.field("x-codex-reset-proxy-error").is_some() => {
            Came::Refusal(response.status())
        }
        Ok(response) => {
            assert_eq!(response.status(), 200, "{target}: {}", response.head.text());
            assert_eq!(response.body.len(), length(kind), "{target}");
            pattern().check(seed, &response.body);
            Came::Whole
        }
        Err(cut) => {
            if cut.head.is_some() {
                pattern().check(seed, &cut.body);
            } else {
                assert!(b"HTTP/1.1 200 OK\r\n".starts_with(&cut.body[..cut.body.len().min(17)]));
            }
            Came::Part
        }
    }
}

/// `clients` at once, each with `requests` in a row; what became of them.
pub fn storm(proxy: &Proxy, clients: usize, requests: usize) -> Vec<Came> {
    let run = |number: usize| {
        let mut client = Client::connect(proxy);
        let mut came = Vec::new();
        for turn in 0..requests {
            if !client.is_usable() {
                client = Client::connect(proxy);
            }
            came.push(ask(&mut client, number * requests + turn));
        }
        came
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..clients)
            .map(|number| scope.spawn(move || run(number)))
            .collect();
        let ended = running.into_iter().map(|thread| thread.join());
        ended.flat_map(Result::unwrap).collect()
    })
}
