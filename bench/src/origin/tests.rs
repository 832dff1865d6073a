//! The origin over loopback, seen by blocking sockets of the standard library.
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::answer::{PATTERN, monotonic_nanos};
use super::{EMPTY, Origin, Shared, hash, plan_answer, server_config, start};
use crate::pattern::PERIOD;

static ORIGIN: LazyLock<Origin> = LazyLock::new(|| start(any_port(), None, None).unwrap());

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn connect() -> TcpStream {
    let stream = TcpStream::connect(ORIGIN.addr).unwrap();
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).unwrap();
    stream
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes()
}

fn post(path: &str, length: usize) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), &body(length)].concat()
}

fn body(length: usize) -> Vec<u8> {
    let mut body = PATTERN.at(0, PERIOD).repeat(length / PERIOD + 1);
    body.truncate(length);
    body
}

/// Sends `request` on a new connection and reads until the end.
fn all(request: &[u8]) -> (Vec<u8>, io::Result<usize>) {
    let mut stream = connect();
    stream.write_all(request).unwrap();
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    (bytes, end)
}

fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn read_line(stream: &mut impl Read) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.push(byte[0]);
    }
    line
}

/// Reads a chunk; empty at the end.
fn read_chunk(stream: &mut impl Read) -> Vec<u8> {
    let line = String::from_utf8(read_line(stream)).unwrap();
    let mut chunk = vec![0; usize::from_str_radix(line.trim_end(), 16).unwrap()];
    stream.read_exact(&mut chunk).unwrap();
    assert_eq!(read_line(stream), b"\r\n");
    chunk
}

/// Reads a response to `/bytes/LENGTH` and checks all of it.
fn expect_bytes(stream: &mut impl Read, length: usize) {
    let head = read_head(stream);
    let framing = format!("\r\nContent-Length: {length}\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with(&framing));
    let mut got = vec![0; length];
    stream.read_exact(&mut got).unwrap();
    assert!(PATTERN.fits(0, &got));
}

fn is_reset(end: &io::Result<usize>) -> bool {
    matches!(end, Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn bodies_by_length_are_the_pattern_and_the_connection_stays() {
    let mut stream = connect();
    for length in [0, 1, 1024, 1024, PERIOD, PERIOD + 1, 3_000_017, 1024] {
        stream
            .write_all(&post(&format!("/bytes/{length}"), length))
            .unwrap();
        expect_bytes(&mut stream, length);
    }
}

#[test]
fn requests_in_one_write_are_answered_in_turn() {
    let mut stream = connect();
    let two = post("/bytes/5", 3).repeat(2);
    stream
        .write_all(&[two, get("/bytes/70000")].concat())
        .unwrap();
    for length in [5, 5, 70_000] {
        expect_bytes(&mut stream, length);
    }
}

#[test]
fn a_request_may_be_split_anywhere() {
    let request = post("/bytes/7", 3);
    let mut stream = connect();
    stream.set_nodelay(true).unwrap();
    for at in 1..request.len() {
        stream.write_all(&request[..at]).unwrap();
        thread::yield_now();
        stream.write_all(&request[at..]).unwrap();
        expect_bytes(&mut stream, 7);
    }
}

#[test]
fn chunks_have_sixteen_kibibytes_but_the_last() {
    let mut stream = connect();
    for length in [0, 1024, 16_384, 16_385, 1_000_003, 1024, 1024] {
        stream
            .write_all(&get(&format!("/bytes/{length}/chunked")))
            .unwrap();
        assert!(read_head(&mut stream).contains("Transfer-Encoding: chunked\r\n"));
        let mut got = Vec::new();
        loop {
            let chunk = read_chunk(&mut stream);
            assert_eq!(chunk.len(), 16_384.min(length - got.len()));
            if chunk.is_empty() {
                break;
            }
            got.extend(chunk);
        }
        assert!(got == body(length));
    }
}

#[test]
fn a_body_without_a_length_ends_with_the_connection() {
    let (bytes, end) = all(&get("/bytes/100000/close"));
    assert!(end.is_ok());
    let head = bytes.len() - 100_000;
    assert!(
        bytes[head..] == body(100_000) && bytes[..head].ends_with(b"Connection: close\r\n\r\n")
    );
}

#[test]
fn who_asks_for_the_connection_to_be_closed_gets_it() {
    let request = b"GET /bytes/3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let (bytes, end) = all(request);
    assert!(end.is_ok() && bytes.ends_with(&body(3)));
}

#[test]
fn request_bodies_are_compared() {
    let mut request = post("/bytes/3", 200_000);
    *request.last_mut().unwrap() ^= 1;
    let (bytes, end) = all(&request);
    let answer = String::from_utf8(bytes).unwrap();
    assert!(end.is_ok() && answer.starts_with("HTTP/1.1 400 ") && answer.contains("pattern"));
}

#[test]
fn request_bodies_in_chunks_are_read_to_their_end() {
    let head = b"POST /bytes/9 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = body(8);
    let chunks = [
        b"5;a=b\r\n",
        &body[..5],
        b"\r\n03\r\n",
        &body[5..],
        b"\r\n0\r\nT: t\r\n\r\n",
    ];
    let mut stream = connect();
    for _ in 0..2 {
        stream
            .write_all(&[&head[..], &chunks.concat()].concat())
            .unwrap();
        expect_bytes(&mut stream, 9);
    }
    let (bytes, _) = all(&[&head[..], b"5\r\n", &body[..5], b"x\r\n0\r\n\r\n"].concat());
    assert!(bytes.starts_with(b"HTTP/1.1 400 "));
}

#[test]
fn who_waits_to_send_the_body_is_told_to_go_on() {
    let fields = "Host: x\r\nContent-Length: 4\r\nExpect: 100-continue";
    let mut stream = connect();
    write!(stream, "POST /bytes/6 HTTP/1.1\r\n{fields}\r\n\r\n").unwrap();
    assert_eq!(read_head(&mut stream), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&body(4)).unwrap();
    expect_bytes(&mut stream, 6);
}

#[test]
fn events_come_one_a_chunk_at_their_times() {
    let begin = monotonic_nanos();
    let mut stream = connect();
    stream.write_all(&post("/sse/5/200/10000", 10)).unwrap();
    assert!(read_head(&mut stream).contains("Content-Type: text/event-stream\r\n"));
    let mut times = Vec::new();
    for _ in 0..5 {
        let event = read_chunk(&mut stream);
        assert_eq!(event.len(), 200);
        let text = event
            .strip_prefix(b"data: ")
            .unwrap()
            .strip_suffix(b"\n\n")
            .unwrap();
        let space = text.iter().position(|byte| *byte == b' ').unwrap();
        times.push(
            str::from_utf8(&text[..space])
                .unwrap()
                .parse::<u64>()
                .unwrap(),
        );
        assert!(PATTERN.fits(0, &text[space + 1..]));
    }
    assert!(read_chunk(&mut stream).is_empty());
    assert!(times.is_sorted());
    assert!(times[4] >= begin + 40_000_000 && times[4] <= monotonic_nanos());
    stream.write_all(&get("/sse/1000/29/0")).unwrap();
    read_head(&mut stream);
    let events = std::iter::repeat_with(|| read_chunk(&mut stream));
    assert_eq!(events.take_while(|event| event.len() == 29).count(), 1000);
}

#[test]
fn streams_are_spread_over_their_interval() {
    let shared = Shared {
        ledger: Arc::default(),
        streams: 0.into(),
        speaks_tls: false,
    };
    let mut phases: Vec<f64> = (0..100).map(|_| shared.next_phase()).collect();
    phases.sort_by(f64::total_cmp);
    assert!(phases.windows(2).all(|pair| pair[1] - pair[0] > 0.003));
    assert!(phases.windows(2).all(|pair| pair[1] - pair[0] < 0.017));
}

#[test]
fn resets_are_resets_and_half_a_head_comes_before_them() {
    let (bytes, end) = all(&post("/fault/reset", 1000));
    assert!(bytes.is_empty() && is_reset(&end));
    let head = b"POST /fault/reset-at-once HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n";
    let (bytes, end) = all(head);
    assert!(bytes.is_empty() && is_reset(&end));
    let (bytes, end) = all(&get("/fault/half-head"));
    assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n") && !bytes.ends_with(b"\r\n"));
    assert!(is_reset(&end));
}

#[test]
fn who_is_silent_stays_so() {
    for (path, half) in [("/fault/silent", 0), ("/fault/half-head-hang", 46)] {
        let mut stream = connect();
        stream.write_all(&post(path, 10)).unwrap();
        stream.read_exact(&mut vec![0; half]).unwrap();
        let moment = Some(Duration::from_millis(50));
        stream.set_read_timeout(moment).unwrap();
        let end = stream.read(&mut [0]).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::WouldBlock);
    }
}

#[test]
fn slow_answers_are_slow_and_whole() {
    let mut stream = connect();
    let begin = Instant::now();
    stream.write_all(&get("/fault/slow-head/1")).unwrap();
    expect_bytes(&mut stream, 1024);
    assert!(begin.elapsed() > Duration::from_millis(90));
    let begin = Instant::now();
    stream.write_all(&get("/fault/slow-body/30/2")).unwrap();
    expect_bytes(&mut stream, 30);
    assert!(begin.elapsed() > Duration::from_millis(60));
}

#[test]
fn an_early_answer_does_not_wait_for_the_body_and_is_not_lost() {
    let mut stream = connect();
    let request = post("/fault/early/413", 1_000_000);
    stream.write_all(&request[..100]).unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 413 ") && head.contains("Connection: close"));
    stream.write_all(&request[100..]).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn bodies_are_cut_where_the_target_says() {
    for at in [0, 1, 1024, 70_000, 299_999] {
        let (bytes, end) = all(&get(&format!("/fault/cut/300000/{at}")));
        let head = bytes.len() - at;
        assert!(bytes[..head].ends_with(b"Content-Length: 300000\r\n\r\n"));
        assert!(end.is_ok() && bytes[head..] == body(at));
    }
    let (bytes, end) = all(&get("/fault/cut-chunked/300000/20000"));
    let ending = [b"\r\n4000\r\n", PATTERN.at(16_384, 3616)].concat();
    assert!(end.is_ok() && bytes.ends_with(&ending));
}

#[test]
fn a_connection_closed_at_reuse_answers_once() {
    let mut stream = connect();
    stream.write_all(&get("/fault/close-at-reuse")).unwrap();
    expect_bytes(&mut stream, 1024);
    stream.set_nonblocking(true).unwrap();
    assert_eq!(
        stream.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    stream.set_nonblocking(false).unwrap();
    stream.write_all(b"G").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn garbage_and_unknown_targets() {
    let (bytes, end) = all(&get("/fault/garbage"));
    assert!(end.is_ok() && !bytes.is_empty() && !bytes.starts_with(b"HTTP/"));
    let (bytes, end) = all(&get("/nothing"));
    assert!(end.is_ok() && bytes.starts_with(b"HTTP/1.1 404 "));
    let (bytes, _) = all(&b"GET /bytes/1 HTTP/1.1\r\nHost: ".repeat(3000));
    assert!(bytes.starts_with(b"HTTP/1.1 431 "));
    let long_name = "n".repeat(70_000);
    let head = format!("GET /bytes/1 HTTP/1.1\r\nHost: x\r\n{long_name}: v\r\n\r\n");
    // Behind a large body, the whole head is there in one read.
    let request = [post("/bytes/1", 300_000), head.into_bytes()].concat();
    let (bytes, _) = all(&request);
    assert!(bytes.windows(13).any(|window| window == b"HTTP/1.1 431 "));
}

#[test]
fn an_answer_to_a_peer_that_has_closed_is_none_in_the_ledger() {
    let mut stream = connect();
    // The request and FIN arrive at once.
    sockopt::set_tcp_cork(&stream, true).unwrap();
    stream.write_all(&post("/plan/p-closed/ok", 500)).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"));
    let arrivals = ORIGIN.ledger.arrivals("p-closed");
    assert_eq!(arrivals.len(), 1);
    assert!(arrivals[0].body.is_some() && arrivals[0].answered.is_none());
}

#[test]
fn a_plan_is_followed_and_entered() {
    let request = post(
        "/plan/p-1/reset,half-head,cut,cut-chunked,garbage,pause,ok",
        500,
    );
    assert!(is_reset(&all(&request).1));
    assert!(is_reset(&all(&request).1));
    let (cut, end) = all(&request);
    assert!(end.is_ok() && cut.ends_with(&plan_answer("p-1", 2).as_bytes()[..512]));
    let (cut, end) = all(&request);
    assert!(end.is_ok() && cut.ends_with(&plan_answer("p-1", 3).as_bytes()[..512]));
    assert!(!all(&request).0.starts_with(b"HTTP"));
    let mut stream = connect();
    let begun = Instant::now();
    for number in [5, 6] {
        stream.write_all(&request).unwrap();
        let head = read_head(&mut stream);
        assert!(head.ends_with("\r\nContent-Length: 1024\r\n\r\n"));
        let mut answer = vec![0; 1024];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, plan_answer("p-1", number).as_bytes());
    }
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let answer: serde_json::Value = serde_json::from_str(&plan_answer("p-1", 5)).unwrap();
    assert_eq!(answer["id"], "p-1");

    let arrivals = ORIGIN.ledger.arrivals("p-1");
    let sent = Some(hash(EMPTY, &body(500)));
    assert_eq!(arrivals.len(), 7);
    assert!(arrivals.iter().all(|arrival| arrival.body == sent));
    let after: Vec<bool> = arrivals
        .iter()
        .map(|arrival| arrival.after_answer)
        .collect();
    assert_eq!(after, [false, false, true, true, true, true, true]);
}

/// A client of a TLS origin of its own.
fn tls() -> StreamOwned<ClientConnection, TcpStream> {
    static ADDR_AND_ROOTS: LazyLock<(SocketAddr, RootCertStore)> = LazyLock::new(|| {
        let ca_file = std::env::temp_dir().join(format!("origin-{}.pem", std::process::id()));
        let config = server_config(&ca_file).unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&ca_file).unwrap())
            .unwrap();
        std::fs::remove_file(ca_file).unwrap();
        (start(any_port(), None, Some(config)).unwrap().addr, roots)
    });
    let (addr, roots) = &*ADDR_AND_ROOTS;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    StreamOwned::new(client, stream)
}

#[test]
fn the_same_is_served_over_tls() {
    let mut stream = tls();
    for length in [1024, 1024, 1_000_003] {
        stream
            .write_all(&post(&format!("/bytes/{length}"), length))
            .unwrap();
        expect_bytes(&mut stream, length);
    }
    stream.write_all(&get("/sse/3/100/1000")).unwrap();
    read_head(&mut stream);
    for length in [100, 100, 100, 0] {
        assert_eq!(read_chunk(&mut stream).len(), length);
    }
}

#[test]
fn over_tls_a_good_end_is_told_from_a_cut_and_a_reset() {
    let end = |path: &str| {
        let mut stream = tls();
        stream.write_all(&get(path)).unwrap();
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes);
        (bytes.len(), end.map_err(|error| error.kind()).err())
    };
    let (length, error) = end("/bytes/100000/close");
    assert!(length > 100_000 && error.is_none());
    let (length, error) = end("/fault/cut/100000/50000");
    assert!(length > 50_000 && error == Some(ErrorKind::UnexpectedEof));
    assert_eq!(end("/fault/reset"), (0, Some(ErrorKind::ConnectionReset)));
    assert_eq!(end("/fault/half-head").1, Some(ErrorKind::ConnectionReset));
}
