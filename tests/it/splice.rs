//! Large downloads are byte-exact in every framing, many at once, and without kernel worker threads.
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::{Authority, Client, Origin, Peer, Proxy, get, pattern};

const MIB: usize = 1 << 20;

#[derive(Clone, Copy, Debug)]
enum Framed {
    Length,
    Chunked,
    UntilClose,
}

const FRAMINGS: [Framed; 3] = [Framed::Length, Framed::Chunked, Framed::UntilClose];

/// Answers each request with `length` bytes of the pattern.
fn download(peer: &mut Peer, length: usize, framed: Framed) {
    while peer.next_request().is_some() {
        let field = match framed {
            Framed::Length => format!("Content-Length: {length}\r\n"),
            Framed::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
            Framed::UntilClose => String::new(),
        };
        peer.send(format!("HTTP/1.1 200 OK\r\n{field}\r\n"));
        // Chunks large and small, so that both ways of moving them take turns.
        let write = if peer.number.is_multiple_of(2) {
            700_001
        } else {
            60_000
        };
        let chunked = matches!(framed, Framed::Chunked);
        peer.send_pattern(pattern(), length, write, chunked);
        if matches!(framed, Framed::UntilClose) {
            return peer.close_with_notify();
        }
    }
}

fn assert_downloads(proxy: &Proxy, length: usize) {
    let mut client = Client::connect(proxy);
    client.send(get("/"));
    let mut offset = 0;
    let (head, end) = client
        .streamed("GET", &mut |piece| {
            pattern().check(offset, piece);
            offset += piece.len();
        })
        .unwrap();
    assert_eq!(head.status(), 200);
    assert!(end.is_ok(), "cut after {offset} of {length} bytes");
    assert_eq!(offset, length);
}

fn at_once(count: usize, length: usize) {
    for framed in FRAMINGS {
        let origin = Origin::serves(count, move |peer| download(peer, length, framed));
        let proxy = Proxy::start(&origin, &[]);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let names = proxy.threads();
                    let kernel = names.iter().find(|name| name.starts_with("iou-wrk"));
                    assert_eq!(kernel, None, "{framed:?}");
                    thread::yield_now();
                }
            });
            thread::scope(|clients| {
                for _ in 0..count {
                    clients.spawn(|| assert_downloads(&proxy, length));
                }
            });
            done.store(true, Ordering::Relaxed);
            watch.join().unwrap();
        });
    }
}

#[test]
fn a_download_is_byte_exact() {
    at_once(1, 64 * MIB);
}

#[test]
fn sixteen_downloads_at_once_are_byte_exact() {
    at_once(16, 16 * MIB);
}

#[test]
fn sixty_four_downloads_at_once_are_byte_exact() {
    at_once(64, 4 * MIB);
}

#[test]
fn downloads_around_the_size_where_the_way_of_moving_changes_are_byte_exact() {
    const AROUND: usize = 128 * 1024;
    let lengths = [
        1,
        AROUND - 1,
        AROUND,
        AROUND + 1,
        AROUND + 65_536,
        3 * AROUND + 7,
    ];
    for length in lengths {
        for framed in FRAMINGS {
            let origin = Origin::serves(1, move |peer| download(peer, length, framed));
            let proxy = Proxy::start(&origin, &[]);
            assert_downloads(&proxy, length);
        }
    }
}

#[test]
fn downloads_over_tls_are_byte_exact() {
    let authority = Authority::new();
    for framed in FRAMINGS {
        let serve = move |peer: &mut Peer| download(peer, 64 * MIB, framed);
        let origin = Origin::serves_tls(&authority, 1, serve);
        let proxy = Proxy::start(&origin, &[("UPSTREAM_CA_FILE", authority.file())]);
        assert_downloads(&proxy, 64 * MIB);
    }
}

#[test]
fn a_connection_that_carried_a_large_body_is_used_again() {
    let serve = |peer: &mut Peer| download(peer, 2 * MIB, Framed::Length);
    let origin = Origin::serves(1, serve);
    let proxy = Proxy::start(&origin, &[("WORKERS", "1")]);
    for number in 1..=5 {
        assert_downloads(&proxy, 2 * MIB);
        proxy.ended(number);
    }
}
