//! A parser that shares no code with the proxy sees behind it the requests that the proxy has seen.
#[allow(dead_code, reason = "the tests of the proxy use the rest")]
#[path = "../../tests/it/smuggling/requests/mod.rs"]
mod requests;

use std::{
    env, fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process,
    sync::mpsc::{self, Sender},
    thread,
    time::Duration,
};

use kawa::{Block, Buffer, Kawa, Kind, SliceBuffer, StatusLine, h1};
use requests::{Then, Verdict};

use crate::{
    machine,
    peers::{self, Upstream},
};

const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nHost: h\r\n\r\n";
const LIMIT: Duration = Duration::from_secs(30);

/// A request as the other parser sees it.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    method: Vec<u8>,
    target: Vec<u8>,
    body: Vec<u8>,
}

#[test]
fn another_parser_sees_the_same_requests_behind_the_proxy() {
    let origin = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let upstream = Upstream::plain(origin.local_addr().expect("bound"));
    let (sees, seen) = mpsc::channel();
    thread::spawn(move || {
        for conn in origin.incoming().flatten() {
            let sees = sees.clone();
            thread::spawn(move || serve(conn, &sees));
        }
    });
    let built = peers::installed()
        .into_iter()
        .find(|peer| peer.name == "proxy");
    let proxy = built.expect("target/release has the proxy");
    let port = machine::free_port().expect("one of thousands");
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let dir = env::temp_dir().join(format!("bench-smuggling-{}", process::id()));
    let running = proxy.start(listen, &upstream, &[], &dir);
    let running = running.unwrap_or_else(|error| panic!("{error}"));
    for case in requests::cases() {
        let shown = String::from_utf8_lossy(&case.bytes[..case.bytes.len().min(300)]);
        let Verdict::Up { target, body, then } = case.verdict else {
            continue;
        };
        let start = case.bytes.iter().position(|byte| !b"\r\n".contains(byte));
        let method = case.bytes[start.unwrap_or(0)..]
            .split(|byte| *byte == b' ')
            .next();
        let mut expected = vec![request(method.unwrap_or_default(), target, body)];
        if then == Then::Goes {
            expected.push(request(b"GET", b"/canary", b""));
        }
        let mut client = TcpStream::connect(listen).expect("it accepts");
        client
            .write_all(&[&case.bytes, CANARY].concat())
            .expect("it reads");
        for expected in expected {
            let saw = seen
                .recv_timeout(LIMIT)
                .unwrap_or_else(|_| panic!("{shown:?}: nothing came"));
            assert_eq!(saw, Ok(expected), "{shown:?}");
        }
    }
    drop(running);
    assert!(seen.try_recv().is_err(), "a request more than was sent");
    fs::remove_dir_all(dir).expect("it was made");
}

fn request(method: &[u8], target: &[u8], body: &[u8]) -> Request {
    Request {
        method: method.to_vec(),
        target: target.to_vec(),
        body: body.to_vec(),
    }
}

/// Answers every request, and tells which.
fn serve(mut conn: TcpStream, sees: &Sender<Result<Request, String>>) {
    let (mut unread, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(count @ 1..) = conn.read(&mut piece) {
        unread.extend_from_slice(&piece[..count]);
        while !unread.is_empty() {
            match parse(&unread) {
                Ok(None) => break,
                Ok(Some((request, length))) => {
                    unread.drain(..length);
                    let _ = conn.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    let _ = sees.send(Ok(request)); // the test may have failed
                }
                Err(error) => {
                    let _ = sees.send(Err(error));
                    return;
                }
            }
        }
    }
}

/// The first request of `bytes` and its length, where it is whole.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, String> {
    let mut room = vec![0; bytes.len()];
    let mut kawa = Kawa::new(Kind::Request, Buffer::new(SliceBuffer(&mut room)));
    kawa.storage
        .write_all(bytes)
        .map_err(|error| error.to_string())?;
    h1::parse(&mut kawa, &mut h1::NoCallbacks);
    if kawa.is_error() {
        return Err(format!(
            "{:?} in {:?}",
            kawa.parsing_phase,
            String::from_utf8_lossy(bytes)
        ));
    }
    let StatusLine::Request { method, uri, .. } = &kawa.detached.status_line else {
        return Ok(None);
    };
    if !kawa.is_terminated() {
        return Ok(None);
    }
    let buffer = kawa.storage.buffer();
    let mut body = Vec::new();
    for block in &kawa.blocks {
        if let Block::Chunk(chunk) = block {
            body.extend_from_slice(chunk.data.data(buffer));
        }
    }
    let request = request(method.data(buffer), uri.data(buffer), &body);
    Ok(Some((
        request,
        bytes.len() - kawa.storage.unparsed_data().len(),
    )))
}
