//! On one core: whoever keeps the proxy busy without a pause, the requests of others go on being
//! answered.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Act, Client, DEADLINE, OK, Origin, Peer, Proxy, act, chunked, get};

const MIB: usize = 1 << 20;
/// Small requests of another client while the core is kept busy.
const REQUESTS: usize = 50;
/// Generous: the machine does other things as well, and a debug build is some twenty times slower.
const MEDIAN_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1500 } else { 250 });
const LONGEST_MAX: Duration = Duration::from_secs(20);

/// What the busy side has done so far, and whether it may go on.
#[derive(Clone, Default)]
struct Progress(Arc<(AtomicU64, AtomicBool)>);

impl Progress {
    fn add(&self, count: usize) {
        self.0.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn so_far(&self) -> u64 {
        self.0.0.load(Ordering::Relaxed)
    }

    fn may_go_on(&self) -> bool {
        !self.0.1.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        self.0.1.store(true, Ordering::Relaxed);
    }
}

/// Small requests are answered with `OK`, those for `/bulk` by `bulk`.
fn origin(bulk: impl Fn(&mut Peer) + Send + Sync + 'static) -> Origin {
    let bulk = Arc::new(bulk);
    Origin::serves_in_turn(move |_| {
        let bulk = Arc::clone(&bulk);
        let play: Act = act(move |peer| {
            while let Some(request) = peer.next_whole_request() {
                if request.head.line().contains("/bulk") {
                    return bulk(peer);
                }
                peer.send(OK);
            }
        });
        Some(play)
    })
}

/// Makes `busy` work on a connection of its own, and others ask for little meanwhile.
#[track_caller]
fn assert_others_are_served(
    origin: &Origin,
    settings: &[(&str, &str)],
    busy: impl Fn(SocketAddr, &Progress) + Send + Sync,
) {
    let proxy = Proxy::start(origin, &[settings, &[("WORKERS", "1")]].concat());
    let progress = Progress::default();
    let mut took = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| busy(proxy.addr, &progress));
        let _stop = StopOnDrop(&progress);
        let begun = Instant::now();
        while progress.so_far() == 0 {
            assert!(begun.elapsed() < DEADLINE, "the busy side never begins");
            thread::yield_now();
        }
        let before = progress.so_far();
        let mut kept = Client::connect(&proxy);
        while took.len() < REQUESTS || progress.so_far() == before {
            assert!(
                begun.elapsed() < 2 * DEADLINE,
                "the busy side does not go on"
            );
            let start = Instant::now();
            let response = match took.len() % 2 {
                0 => kept.exchange(get("/small")),
                _ => Client::connect(&proxy).exchange(get("/small")),
            };
            took.push(start.elapsed());
            assert_eq!(response.status(), 200);
        }
    });
    took.sort();
    let (median, longest) = (took[took.len() / 2], took[took.len() - 1]);
    println!("median {median:?}, longest {longest:?}");
    let fair = median < MEDIAN_MAX && longest < LONGEST_MAX;
    assert!(fair, "median {median:?}, longest {longest:?}");
}

/// Ends the busy side even where an assertion fails: its thread is waited for.
struct StopOnDrop<'a>(&'a Progress);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Sends `block` for as long as it may, reading nothing.
fn floods(mut tcp: &TcpStream, block: &[u8], progress: &Progress) {
    tcp.set_write_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    while progress.may_go_on() {
        match tcp.write(block) {
            Ok(count) => progress.add(count),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (),
            Err(_) => return,
        }
    }
}

/// Reads whatever comes for as long as it may.
fn devours(mut tcp: &TcpStream, progress: &Progress) {
    let mut scrap = vec![0; MIB];
    tcp.set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    while progress.may_go_on() {
        match tcp.read(&mut scrap) {
            Ok(0) => return,
            Ok(count) => progress.add(count),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => (),
            Err(_) => return,
        }
    }
}

/// Sends `request` once and devours the response.
fn downloads(request: &'static str) -> impl Fn(SocketAddr, &Progress) {
    move |addr, progress| {
        let mut tcp = TcpStream::connect(addr).unwrap();
        tcp.write_all(request.as_bytes()).unwrap();
        devours(&tcp, progress);
    }
}

/// Sends `start` and then `block` again and again; whatever is answered is devoured.
fn talks(start: &'static [u8], block: Vec<u8>) -> impl Fn(SocketAddr, &Progress) {
    move |addr, progress| {
        let mut tcp = TcpStream::connect(addr).unwrap();
        tcp.write_all(start).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| devours(&tcp, &Progress(Arc::clone(&progress.0))));
            floods(&tcp, &block, progress);
            let _ = tcp.shutdown(std::net::Shutdown::Both);
        });
    }
}

/// A response that never ends, of `block` again and again.
fn endless(head: &'static str, block: Vec<u8>) -> Origin {
    origin(move |peer| {
        peer.send(head);
        while peer.send_if_taken(&block) {}
        peer.close();
    })
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const BULK: &str = "GET /bulk HTTP/1.1\r\nHost: h\r\n\r\n";

/// One byte of data in a kilobyte of framing.
fn framing_alone() -> Vec<u8> {
    format!("1;{}\r\nx\r\n", "e".repeat(1000))
        .into_bytes()
        .repeat(256)
}

#[test]
fn a_bulk_response_that_is_spliced() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 800000000000\r\n\r\n";
    let origin = endless(head, vec![b'x'; MIB]);
    assert_others_are_served(&origin, &[], downloads(BULK));
}

#[test]
fn a_bulk_response_in_chunks_large_or_tiny() {
    for size in [32 << 10, 10] {
        let mut block = chunked(&vec![b'x'; MIB], size);
        block.truncate(block.len() - b"0\r\n\r\n".len());
        let origin = endless(CHUNKED, block);
        assert_others_are_served(&origin, &[], downloads(BULK));
    }
}

#[test]
fn a_response_of_framing_alone_that_is_unchunked() {
    let origin = endless(CHUNKED, framing_alone());
    assert_others_are_served(&origin, &[], downloads("GET /bulk HTTP/1.0\r\n\r\n"));
}

#[test]
fn requests_without_end_for_health_that_are_pipelined() {
    let requests = get("/healthz").into_bytes().repeat(1000);
    // Several, so that one of them always has room to be answered.
    assert_others_are_served(&origin(|_| ()), &[], |addr, progress| {
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| talks(b"", requests.clone())(addr, progress));
            }
        });
    });
}

#[test]
fn requests_without_end_that_are_pipelined() {
    let requests = get("/small").into_bytes().repeat(1000);
    assert_others_are_served(&origin(|_| ()), &[], talks(b"", requests));
}

#[test]
fn empty_lines_without_end_before_a_request() {
    assert_others_are_served(&origin(|_| ()), &[], |addr, progress| {
        while progress.may_go_on() {
            talks(b"", b"\r\n".repeat(MIB))(addr, progress);
        }
    });
}

#[test]
fn uploads_one_after_the_other() {
    let head = "POST /small HTTP/1.1\r\nHost: h\r\nContent-Length: 33554432\r\n\r\n";
    let request = [head.as_bytes(), &vec![b'x'; 32 * MIB]].concat();
    assert_others_are_served(&origin(|_| ()), &[], talks(b"", request));
}

#[test]
fn an_upload_of_framing_alone() {
    let start = b"POST /small HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_others_are_served(&origin(|_| ()), &[], talks(start, framing_alone()));
}

#[test]
fn a_client_that_goes_on_sending_after_its_refusal() {
    let settings = [("MAX_REQUEST_BODY_BYTES", "1000")];
    assert_others_are_served(&origin(|_| ()), &settings, |addr, progress| {
        while progress.may_go_on() {
            let start = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 80000000\r\n\r\n";
            talks(start, vec![b'x'; MIB])(addr, progress);
        }
    });
}

#[test]
fn connections_without_end() {
    assert_others_are_served(&origin(|_| ()), &[], |addr, progress| {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while progress.may_go_on() {
                        let _ = TcpStream::connect(addr)
                            .map(|tcp| crate::support::net::close_with_reset(&tcp));
                        progress.add(1);
                    }
                });
            }
        });
    });
}

/// On io_uring every operation is a turn of its own.
const ONE_ON_EPOLL: [(&str, &str); 2] = [("WORKERS", "1"), ("MONOIO_FORCE_LEGACY_DRIVER", "1")];

/// What a core that wakes to a crowd has done for it, in the median of some rounds, by the time that
/// another client, which came last, has its answer.
fn done_before_another<C>(
    proxy: &Proxy,
    crowd: impl Fn() -> C,
    mut done: impl FnMut(&mut C) -> usize,
) -> usize {
    const ROUNDS: usize = 5;
    let round = || {
        let mut other = Client::connect(proxy);
        assert_eq!(other.exchange(get("/small")).status(), 200);
        proxy.stop();
        let mut crowd = crowd();
        other.send(get("/small"));
        proxy.signal(Signal::CONT);
        assert_eq!(other.response().status(), 200);
        proxy.stop();
        let done = done(&mut crowd);
        proxy.signal(Signal::CONT);
        done
    };
    let mut counts: Vec<_> = std::iter::repeat_with(round).take(ROUNDS).collect();
    counts.sort_unstable();
    println!("{counts:?}");
    counts[ROUNDS / 2]
}

#[test]
fn of_a_queue_of_connections_only_some_are_accepted_before_others_have_their_turn() {
    const QUEUED: usize = 2000;
    let origin = origin(|_| ());
    let proxy = Proxy::start(&origin, &ONE_ON_EPOLL);
    let connect = |_| TcpStream::connect_timeout(&proxy.addr, DEADLINE).unwrap();
    let crowd = || (0..QUEUED).map(connect).collect::<Vec<_>>();
    let accepted = done_before_another(&proxy, crowd, |_| proxy.clients());
    assert!(accepted < QUEUED / 2, "{accepted} of {QUEUED} came first");
}

#[test]
fn of_pipelined_requests_only_some_are_answered_before_others_have_their_turn() {
    const PIPELINED: usize = 1000;
    let origin = origin(|_| ());
    let proxy = Proxy::start(&origin, &ONE_ON_EPOLL);
    let crowd = || {
        let mut tcp = TcpStream::connect_timeout(&proxy.addr, DEADLINE).unwrap();
        let request = "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n";
        tcp.write_all(request.repeat(PIPELINED).as_bytes()).unwrap();
        tcp.set_nonblocking(true).unwrap();
        tcp
    };
    let answered = done_before_another(&proxy, crowd, |tcp| {
        let mut answers = Vec::new();
        let _ = tcp.read_to_end(&mut answers); // ends where nothing more is there
        String::from_utf8_lossy(&answers)
            .matches("HTTP/1.1")
            .count()
    });
    assert!(
        answered < PIPELINED / 2,
        "{answered} of {PIPELINED} came first"
    );
}
