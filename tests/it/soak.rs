//! Long and wide: descriptors and memory return to where they were.
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use crate::support::net::{eventually, within};
use crate::support::{Client, DEADLINE, OK, Origin, Proxy, get, post};

const STREAMS: usize = 2000;
/// Per idle stream; unoptimised futures are larger.
const STREAM_KIB_MAX: f64 = if cfg!(debug_assertions) { 16.0 } else { 4.0 };

#[test]
fn ten_thousand_exchanges_leave_nothing_behind() {
    const WARM_UP: usize = 1000;
    const EXCHANGES: usize = 10_000;
    let origin = Origin::serves(2, |peer| {
        while peer.forget_request() {
            peer.send(OK);
        }
    });
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    let mut exchange = |count: usize| {
        for number in 0..count {
            let response = match number % 2 {
                0 => client.exchange(get("/v1/models")),
                _ => client.exchange(post("/v1/responses", &[b'x'; 5000])),
            };
            assert_eq!(response.status(), 200);
        }
    };
    exchange(WARM_UP);
    let (descriptors, resident) = (proxy.descriptors(), proxy.resident_kib());
    exchange(EXCHANGES);
    let grown = proxy.resident_kib().saturating_sub(resident);
    assert!(grown < 1024, "{grown} KiB more after {EXCHANGES} exchanges");
    assert_eq!(proxy.descriptors(), descriptors);
}

#[test]
fn a_thousand_connections_leave_nothing_behind() {
    let origin = Origin::serves(2, |peer| {
        while peer.forget_request() {
            peer.send(OK);
        }
    });
    let proxy = Proxy::start(&origin, &[]);
    let connections = |count: usize| {
        for _ in 0..count {
            let mut client = Client::connect(&proxy);
            assert_eq!(client.exchange(get("/")).status(), 200);
        }
        eventually("all are closed", || proxy.clients() == 0);
    };
    connections(200);
    let (descriptors, resident) = (proxy.descriptors(), proxy.resident_kib());
    connections(1000);
    eventually("descriptors return", || proxy.descriptors() <= descriptors);
    let grown = proxy.resident_kib().saturating_sub(resident);
    assert!(grown < 1024, "{grown} KiB more after 1000 connections");
}

/// An upstream that begins a stream for each request and then keeps it.
fn streams_for_ever(listener: TcpListener) {
    let mut streams = Vec::new();
    for _ in 0..STREAMS * 2 {
        let (mut tcp, _) = listener.accept().unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n{}") {
            let mut block = [0; 1024];
            let count = tcp.read(&mut block).unwrap();
            assert!(count > 0, "half a request");
            request.extend_from_slice(&block[..count]);
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        tcp.write_all(format!("{head}5\r\nevent\r\n").as_bytes())
            .unwrap();
        streams.push(tcp);
        if streams.len() == STREAMS {
            // The clients leave: upstream sees the close of every stream.
            for tcp in streams.drain(..) {
                tcp.set_read_timeout(Some(DEADLINE)).unwrap();
                let mut tcp = tcp;
                assert!(matches!(tcp.read(&mut [0]), Ok(0) | Err(_)));
            }
        }
    }
}

#[test]
fn two_thousand_idle_streams_are_cheap_and_leave_nothing_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upstream = thread::spawn(move || streams_for_ever(listener));
    let proxy = Proxy::start_at(&url, &[]);
    Client::connect(&proxy).exchange(get("/healthz"));
    eventually("it is closed", || proxy.clients() == 0);
    let descriptors = proxy.descriptors();
    let at_start = proxy.resident_kib();
    let mut rounds = Vec::new();
    for _ in 0..2 {
        let before = proxy.resident_kib();
        let mut clients = Vec::new();
        for _ in 0..STREAMS {
            let mut client = Client::connect(&proxy);
            client.send(post("/v1/responses", b"{}"));
            assert_eq!(client.head().status(), 200);
            client.receive_chunked("event");
            clients.push(client);
        }
        let during = proxy.resident_kib();
        let held = proxy.descriptors() - descriptors;
        assert!(held >= 2 * STREAMS, "{held} descriptors more");
        for client in &mut clients {
            client.leave();
        }
        let returned = within(DEADLINE, || proxy.descriptors() <= descriptors + 8);
        assert!(returned, "{} descriptors left", proxy.descriptors());
        rounds.push((before, during, proxy.resident_kib()));
    }
    let (_, first_peak, _) = rounds[0];
    let per_stream = (first_peak - at_start) as f64 / STREAMS as f64;
    println!("{per_stream:.2} KiB a stream; resident KiB before, during, after: {rounds:?}");
    assert!(per_stream <= STREAM_KIB_MAX, "{per_stream:.2} KiB a stream");
    let (_, second_peak, _) = rounds[1];
    let grown = second_peak.saturating_sub(first_peak);
    assert!(
        grown < 2048,
        "{grown} KiB more in the second round: {rounds:?}"
    );
    upstream.join().unwrap();
}
