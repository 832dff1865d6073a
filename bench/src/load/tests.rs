//! The load generator against a peer that blocks, has a thread for each connection, and lies.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::LazyLock;
use std::thread;

use super::*;

const SHORT: Window = Window {
    warm_up: Duration::from_millis(50),
    measured: Duration::from_millis(300),
};
static PATTERN: LazyLock<Pattern> = LazyLock::new(Pattern::default);
/// Names the peer for a test that runs the load generator in a process of its own.
const TARGET: &str = "BENCH_TEST_TARGET";

/// A request as the peer sees it: its head, its body, and which one of its connection it is.
struct Seen {
    head: String,
    body: Vec<u8>,
    nth: usize,
}

/// Answers a request and says whether the connection goes on.
type Script = fn(&mut TcpStream, &Seen) -> io::Result<bool>;

fn serve(script: Script) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for conn in listener.incoming() {
            let conn = conn.unwrap();
            thread::spawn(move || converse(conn, script));
        }
    });
    addr
}

/// Ends with an error where the load generator has gone away.
fn converse(mut conn: TcpStream, script: Script) -> io::Result<()> {
    let mut reader = BufReader::new(conn.try_clone()?);
    for nth in 1.. {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let length = head.lines().find_map(|line| {
            let value = line.strip_prefix("Content-Length: ")?;
            value.parse().ok()
        });
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        if !script(&mut conn, &Seen { head, body, nth })? {
            return Ok(());
        }
    }
    Ok(())
}

fn response(content_bytes: usize) -> Vec<u8> {
    let mut response =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {content_bytes}\r\n\r\n").into_bytes();
    response.extend_from_slice(PATTERN.at(0, content_bytes));
    response
}

fn right(conn: &mut TcpStream, _: &Seen) -> io::Result<bool> {
    conn.write_all(&response(1000)).map(|()| true)
}

fn requests(connections: usize, rate: Option<f64>) -> Work {
    Work::Requests {
        path: "/bytes/1000".to_owned(),
        body_bytes: 1000,
        response_bytes: 1000,
        connections,
        keep_alive: true,
        rate,
    }
}

fn measure(target: SocketAddr, work: &Work) -> Measured {
    let patience = Duration::from_millis(500);
    run_with(target, work, SHORT, patience, &mut |_| {}).unwrap()
}

fn assert_faultless(measured: &Measured) {
    let faults = (measured.wrong, measured.errors);
    assert_eq!(faults, (0, 0), "{:?}", measured.error_samples);
    assert!(measured.units > 0, "{measured:?}");
}

#[test]
fn right_responses_within_the_window_are_counted() {
    let target = serve(|conn, seen| {
        assert!(seen.head.starts_with("POST /bytes/1000 HTTP/1.1\r\n"));
        assert_eq!(seen.body, PATTERN.at(0, 1000));
        right(conn, seen)
    });
    let mut edges = Vec::new();
    let measured = run(target, &requests(4, None), SHORT, &mut |edge| {
        edges.push(edge)
    })
    .unwrap();
    assert_eq!(edges, [Edge::Begin, Edge::End]);
    assert_faultless(&measured);
    assert_eq!(measured.latency.len(), measured.units);
    assert!((0.3..2.0).contains(&measured.seconds));
}

#[test]
fn a_large_body_is_sent_whole() {
    let target = serve(|conn, seen| {
        let length = seen.body.len();
        assert_eq!(length, 1_000_000);
        assert!(PATTERN.fits(0, &seen.body));
        right(conn, seen)
    });
    let mut work = requests(2, None);
    let Work::Requests { body_bytes, .. } = &mut work else {
        unreachable!("these are requests")
    };
    *body_bytes = 1_000_000;
    assert_faultless(&measure(target, &work));
}

#[test]
fn a_connection_that_is_not_kept_carries_one_request() {
    let target = serve(|conn, seen| {
        assert_eq!(seen.nth, 1);
        assert!(seen.head.contains("\r\nConnection: close\r\n"));
        right(conn, seen).map(|_| false)
    });
    let mut work = requests(4, None);
    let Work::Requests { keep_alive, .. } = &mut work else {
        unreachable!("these are requests")
    };
    *keep_alive = false;
    let measured = measure(target, &work);
    assert_faultless(&measured);
    assert!(measured.units > 10);
}

#[test]
fn a_connection_that_the_peer_says_it_closes_is_replaced() {
    let target = serve(|conn, seen| {
        let close = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".as_bytes();
        match seen.nth {
            3 => conn
                .write_all(&[close, PATTERN.at(0, 1000)].concat())
                .map(|()| false),
            _ => right(conn, seen),
        }
    });
    assert_faultless(&measure(target, &requests(2, None)));
}

#[test]
fn wrong_bytes_and_wrong_lengths_are_wrong() {
    let scripts: [Script; 4] = [
        |conn, seen| {
            let mut response = response(1000);
            response[600] ^= u8::from(seen.nth > 1);
            conn.write_all(&response).map(|()| true)
        },
        |conn, seen| {
            conn.write_all(&response(1001 - usize::from(seen.nth == 1)))
                .map(|()| true)
        },
        |conn, seen| {
            let response = response(1000);
            conn.write_all(&response[..response.len() - usize::from(seen.nth > 1)])
                .map(|()| seen.nth == 1)
        },
        // Once only, and late: the connection is one response ahead from then on.
        |conn, seen| {
            right(conn, seen)?;
            if seen.nth == 2 {
                thread::sleep(Duration::from_millis(5));
                right(conn, seen)?;
            }
            Ok(true)
        },
    ];
    for script in scripts {
        let measured = measure(serve(script), &requests(1, None));
        assert!(measured.wrong > 0, "{measured:?}");
        assert_eq!(measured.errors, 0, "{:?}", measured.error_samples);
    }
}

#[test]
fn an_answer_that_is_no_200_is_an_error() {
    let target = serve(|conn, seen| match seen.nth {
        1 => right(conn, seen),
        _ => conn
            .write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            .map(|()| true),
    });
    let measured = measure(target, &requests(2, None));
    assert!(measured.errors > 0 && measured.wrong == 0);
    assert_eq!(measured.error_samples, ["status 502 Bad Gateway"]);
}

#[test]
fn a_peer_that_falls_silent_is_an_error() {
    let target = serve(|conn, seen| match seen.nth {
        1 => right(conn, seen),
        _ => Ok(true),
    });
    let measured = measure(target, &requests(2, None));
    assert_eq!((measured.errors, measured.wrong), (2, 0), "{measured:?}");
}

#[test]
fn a_peer_that_never_answers_or_is_not_there_ends_the_run() {
    let patience = Duration::from_millis(20);
    let work = requests(8, None);
    let silent = run_with(serve(|_, _| Ok(true)), &work, SHORT, patience, &mut |_| {});
    let reason = silent.unwrap_err().to_string();
    assert!(reason.starts_with("0 of 8 connections"), "{reason}");

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    drop(listener);
    let reason = run(target, &work, SHORT, &mut |_| {}).unwrap_err();
    assert!(reason.to_string().contains("refused"), "{reason}");
}

#[test]
fn the_open_loop_sends_at_its_rate() {
    let measured = measure(serve(right), &requests(8, Some(1000.0)));
    assert_faultless(&measured);
    let rate = measured.units as f64 / measured.seconds;
    assert!((700.0..1300.0).contains(&rate), "{rate}");
}

#[test]
fn waiting_for_a_free_connection_counts() {
    let target = serve(|conn, seen| {
        thread::sleep(Duration::from_millis(20));
        right(conn, seen)
    });
    let measured = measure(target, &requests(1, Some(200.0)));
    assert_faultless(&measured);
    // After 200 ms one of four requests due has been answered.
    assert!(measured.latency.max() > 150_000_000, "{measured:?}");
}

#[test]
fn downloads_count_bytes_whatever_their_framing() {
    let scripts: [Script; 2] = [
        |conn, _| {
            conn.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for chunk in 0..10 {
                conn.write_all(b"c350\r\n")?;
                conn.write_all(PATTERN.at(chunk * 50_000, 50_000))?;
                conn.write_all(b"\r\n")?;
            }
            conn.write_all(b"0\r\n\r\n").map(|()| true)
        },
        |conn, _| {
            conn.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            for chunk in 0..10 {
                conn.write_all(PATTERN.at(chunk * 50_000, 50_000))?;
            }
            Ok(false)
        },
    ];
    for script in scripts {
        let work = Work::Downloads {
            path: "/bytes/500000".to_owned(),
            bytes: 500_000,
            connections: 2,
        };
        assert_faultless(&measure(serve(script), &work));
    }
}

/// 100 events a second of 100 bytes each, until the load generator goes away.
fn events(conn: &mut TcpStream, _: &Seen) -> io::Result<bool> {
    conn.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    loop {
        let mut event = format!("64\r\ndata: {} ", clock()).into_bytes();
        event.extend_from_slice(PATTERN.at(0, 102 - event.len()));
        event.extend_from_slice(b"\n\n\r\n");
        conn.write_all(&event)?;
        thread::sleep(Duration::from_millis(10));
    }
}

fn streams(streams: usize) -> Work {
    Work::Streams {
        path: "/sse/0/100/10000".to_owned(),
        streams,
        event_bytes: 100,
    }
}

#[test]
fn events_are_counted_with_their_delays() {
    let measured = measure(serve(events), &streams(10));
    assert_faultless(&measured);
    assert_eq!(measured.latency.len(), measured.units);
    assert!((100..=400).contains(&measured.units), "{measured:?}");
}

#[test]
fn a_stream_that_falls_silent_is_an_error() {
    let target = serve(|conn, _| {
        conn.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        Ok(true)
    });
    let measured = measure(target, &streams(3));
    assert_eq!((measured.errors, measured.units), (3, 0), "{measured:?}");
}

/// In a process of its own: other tests open descriptors as they please.
#[test]
fn no_descriptor_is_left_behind() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    if let Ok(target) = std::env::var(TARGET) {
        let before = open();
        assert_faultless(&measure(target.parse().unwrap(), &streams(200)));
        assert_eq!(open(), before);
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "load::tests::no_descriptor_is_left_behind"])
        .env(TARGET, serve(events).to_string())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(output.contains("1 passed"), "{output}");
}
