//! Slow and greedy peers: each is bounded in time and memory, leaves nothing behind, and the rest of
//! the world does not notice.
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::net::eventually;
use crate::support::{
    Authority, Client, DEADLINE, Origin, Peer, Proxy, chunked, get, pattern, post,
};

/// A client that sends so slowly that it is best served among hundreds on one thread.
struct Slow {
    tcp: TcpStream,
    answer: Vec<u8>,
    /// When it last sent something, or began.
    since: Instant,
    took: Option<Duration>,
}

impl Slow {
    fn begin(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Self {
        let mut tcp = TcpStream::connect_timeout(&addr, DEADLINE).unwrap();
        let since = Instant::now();
        tcp.write_all(bytes.as_ref()).unwrap();
        tcp.set_nonblocking(true).unwrap();
        Self {
            tcp,
            answer: Vec::new(),
            since,
            took: None,
        }
    }

    /// Whether it has been answered or closed.
    fn has_ended(&mut self) -> bool {
        let mut block = [0; 1024];
        while self.took.is_none() {
            match self.tcp.read(&mut block) {
                Ok(count @ 1..) => self.answer.extend_from_slice(&block[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
                Ok(0) | Err(_) => self.took = Some(self.since.elapsed()),
            }
            if self.answer.ends_with(b"}") {
                self.took = Some(self.since.elapsed());
            }
        }
        true
    }

    /// Fails unless it was refused with 408, not before `limit` and not long after.
    #[track_caller]
    fn assert_late(&self, limit: Duration) {
        let answer = String::from_utf8_lossy(&self.answer);
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
        let took = self.took.unwrap();
        assert!((limit..limit + DEADLINE).contains(&took), "after {took:?}");
    }
}

/// Each sends a byte now and then until all have ended or `over`; another client is served meanwhile.
fn trickle(proxy: &Proxy, slow: &mut [Slow], restarts: bool, over: impl Fn() -> bool) {
    let mut other = Client::connect(proxy);
    while !over() && !slow.iter_mut().all(Slow::has_ended) {
        for client in slow.iter_mut().filter(|client| client.took.is_none()) {
            if restarts {
                client.since = Instant::now();
            }
            let _ = client.tcp.write(b"1"); // the answer may be under way
        }
        assert_eq!(other.exchange(get("/healthz")).status(), 200);
        thread::sleep(Duration::from_millis(50)); // their slowness, not a wait
    }
}

const SLOW: usize = 300;

#[test]
fn hundreds_of_heads_that_trickle_in_have_one_limit_each_and_leave_nothing() {
    const LIMIT: Duration = Duration::from_secs(2);
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[("CLIENT_HEADER_TIMEOUT_SECONDS", "2")]);
    Client::connect(&proxy).exchange(get("/healthz"));
    eventually("it is closed", || proxy.clients() == 0);
    let (descriptors, resident) = (proxy.descriptors(), proxy.resident_kib());
    let begin = |_| Slow::begin(proxy.addr, "GET / HTTP/1.1\r\nHost: ");
    let mut slow: Vec<_> = (0..SLOW).map(begin).collect();
    let start = Instant::now();
    trickle(&proxy, &mut slow, false, || start.elapsed() > DEADLINE);
    slow.iter().for_each(|client| client.assert_late(LIMIT));
    drop(slow);
    eventually("descriptors return", || proxy.descriptors() <= descriptors);
    let grown = proxy.resident_kib().saturating_sub(resident);
    assert!(grown < 16 << 10, "{grown} KiB more after {SLOW} slow heads");
}

#[test]
fn hundreds_of_bodies_that_trickle_in_have_a_limit_between_bytes_and_leave_nothing() {
    const LIMIT: Duration = Duration::from_secs(3);
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[("CLIENT_BODY_TIMEOUT_SECONDS", "3")]);
    Client::connect(&proxy).exchange(get("/healthz"));
    eventually("it is closed", || proxy.clients() == 0);
    let descriptors = proxy.descriptors();
    let framings = [
        "Content-Length: 1000\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3e8\r\n",
    ];
    let begin = |number: usize| {
        let framing = framings[number % 2];
        Slow::begin(
            proxy.addr,
            format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}"),
        )
    };
    let mut slow: Vec<_> = (0..SLOW).map(begin).collect();
    let start = Instant::now();
    trickle(&proxy, &mut slow, true, || start.elapsed() > 2 * LIMIT);
    assert!(
        !slow.iter_mut().any(Slow::has_ended),
        "ended in spite of its bytes"
    );
    eventually("all are given up", || slow.iter_mut().all(Slow::has_ended));
    slow.iter().for_each(|client| client.assert_late(LIMIT));
    drop(slow);
    eventually("descriptors return", || proxy.descriptors() <= descriptors);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Spliced,
    Chunked,
    Tls,
}

/// What `count` clients that read nothing of an endless response make the proxy hold, in KiB each,
/// and how many bytes of each response the upstream got rid of.
fn held_for(count: usize, way: Way) -> (u64, u64) {
    let authority = Authority::new();
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let play = move |peer: &mut Peer| {
        peer.request();
        let (framing, block) = match way {
            Way::Chunked => (
                "Transfer-Encoding: chunked",
                chunked(&vec![b'x'; 1 << 20], 30_000),
            ),
            _ => ("Content-Length: 1000000000", vec![b'x'; 30_000]),
        };
        let block = block.strip_suffix(b"0\r\n\r\n").unwrap_or(&block);
        peer.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
        while peer.send_if_taken(block) {
            counted.fetch_add(block.len() as u64, Ordering::Relaxed);
        }
        peer.close();
    };
    let origin = match way {
        Way::Tls => Origin::serves_tls(&authority, count, play),
        _ => Origin::serves(count, play),
    };
    let proxy = Proxy::start(&origin, &[("UPSTREAM_CA_FILE", authority.file())]);
    Client::connect(&proxy).exchange(get("/healthz"));
    eventually("it is closed", || proxy.clients() == 0);
    let (descriptors, resident) = (proxy.descriptors(), proxy.resident_kib());
    let mut clients: Vec<_> = (0..count).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients {
        client.send(get("/"));
    }
    origin.request(count);
    let (mut before, mut since) = (0, Instant::now());
    eventually("nothing more is taken", || {
        let now = sent.load(Ordering::Relaxed);
        if std::mem::replace(&mut before, now) != now {
            since = Instant::now();
        }
        now > 0 && since.elapsed() > Duration::from_secs(1)
    });
    let held = proxy.resident_kib().saturating_sub(resident);
    assert_eq!(
        Client::connect(&proxy).exchange(get("/healthz")).status(),
        200
    );
    for client in &mut clients {
        client.leave();
    }
    eventually("descriptors return", || {
        proxy.descriptors() <= descriptors + PIPES
    });
    (held / count as u64, before / count as u64)
}

/// Pipes are kept for the next large response: 16 of each core, two descriptors each.
const PIPES: usize = 64;

#[test]
fn clients_that_read_nothing_of_an_endless_response_hold_little_and_slow_the_upstream() {
    // Spliced bytes are the kernel's. What is read is held in one buffer of 256 KiB, over TLS in one
    // before and one after decryption; a debug build's task is some 20 KiB.
    for (way, kib_max) in [(Way::Spliced, 64), (Way::Chunked, 320), (Way::Tls, 704)] {
        let (alone_kib, alone_bytes) = held_for(1, way);
        let (each_kib, each_bytes) = held_for(100, way);
        println!(
            "{way:?}: {alone_kib} KiB, {alone_bytes} B alone; {each_kib} KiB, {each_bytes} B each"
        );
        assert!(alone_kib < 4096, "{way:?}: {alone_kib} KiB for one client");
        assert!(
            each_kib < kib_max,
            "{way:?}: {each_kib} KiB for each client"
        );
        assert!(
            alone_bytes.max(each_bytes) < 64 << 20,
            "{way:?}: the upstream is not slowed"
        );
    }
}

#[test]
fn uploads_to_an_upstream_that_never_reads_are_held_once_given_up_and_freed() {
    const CLIENTS: usize = 4;
    const ROUNDS: usize = 3;
    const BODY_KIB: usize = 30 << 10;
    let origin = Origin::serves(CLIENTS * ROUNDS, |peer| {
        peer.head();
        peer.is_deaf();
    });
    let settings = [
        ("WORKERS", "1"),
        ("WRITE_TIMEOUT_SECONDS", "1"),
        ("UPSTREAM_MAX_ATTEMPTS", "1"),
    ];
    let proxy = Proxy::start(&origin, &settings);
    let healthy = || {
        assert_eq!(
            Client::connect(&proxy).exchange(get("/healthz")).status(),
            200
        )
    };
    healthy();
    let resident = proxy.resident_kib();
    let request = post("/", &vec![b'x'; BODY_KIB << 10]);
    let mut peak = 0;
    for _ in 0..ROUNDS {
        thread::scope(|scope| {
            let upload = || Client::connect(&proxy).exchange(&request);
            let uploads: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(upload)).collect();
            while !uploads.iter().all(thread::ScopedJoinHandle::is_finished) {
                peak = proxy.resident_kib().max(peak);
                healthy();
            }
            for upload in uploads {
                let response = upload.join().unwrap();
                response.assert_refusal(504, "upstream_timeout");
            }
        });
    }
    // What is freed goes back to the system a moment later; the next round may use it again.
    let (grown, bodies) = (peak - resident, (CLIENTS * BODY_KIB) as u64);
    assert!(
        grown > bodies / 2,
        "{grown} KiB: the bodies were never held"
    );
    assert!(
        grown < bodies + bodies / 2,
        "{grown} KiB for bodies of {bodies} KiB"
    );
}

#[test]
fn a_client_that_reads_slowly_has_all_of_its_response_however_long_it_takes() {
    const LENGTH: usize = 12 << 20;
    let limit = ("CLIENT_WRITE_TIMEOUT_SECONDS", "2");
    thread::scope(|scope| {
        for chunked in [false, true] {
            scope.spawn(move || {
                let origin = Origin::serves(1, move |peer| {
                    peer.request();
                    let framing = match chunked {
                        true => "Transfer-Encoding: chunked".to_owned(),
                        false => format!("Content-Length: {LENGTH}"),
                    };
                    peer.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
                    peer.send_pattern(pattern(), LENGTH, 50_000, chunked);
                });
                let proxy = Proxy::start(&origin, &[limit]);
                let mut client = Client::connect(&proxy);
                client.send(get("/"));
                let (mut offset, start) = (0, Instant::now());
                let mut slowly = |piece: &[u8]| {
                    pattern().check(offset, piece);
                    offset += piece.len();
                    thread::sleep(Duration::from_micros(piece.len() as u64 / 2)); // 2 MB/s
                };
                let (_, end) = client.streamed("GET", &mut slowly).unwrap();
                assert!(end.is_ok(), "cut after {offset} bytes");
                assert_eq!(offset, LENGTH);
                assert!(
                    start.elapsed() > Duration::from_secs(4),
                    "that was not slow"
                );
            });
        }
    });
}
