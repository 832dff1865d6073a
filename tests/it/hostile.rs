//! Peers that pipeline, stall, half-close, flood or break the rules harm nobody but themselves.
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, prlimit};
use rustls::ServerConnection;
use rustls::version::TLS12;

use crate::support::net::eventually;
use crate::support::{
    Act, Authority, Client, DEADLINE, Origin, PROMPT, Proxy, act, get, pattern, post, sockets, soon,
};

const ALONE: (&str, &str) = ("WORKERS", "1");
const MIB: usize = 1 << 20;

/// Answers with a body of this length, which comes when the gate opens.
fn gated(length: usize, asked: mpsc::Sender<()>, gate: mpsc::Receiver<()>) -> Act {
    act(move |peer| {
        peer.request();
        asked.send(()).unwrap();
        soon(&gate);
        peer.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
        ));
        peer.send_pattern(pattern(), length, 100_000, false);
    })
}

/// The body that the client reads is the pattern, whole.
#[track_caller]
fn assert_whole(client: &mut Client, length: usize) {
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

#[test]
fn the_last_response_of_a_connection_arrives_whole_though_the_client_has_sent_more() {
    // More than a client's socket holds unread, less than the proxy's takes at once.
    const LENGTH: usize = 300_000;
    let (asked, was_asked) = mpsc::channel();
    let (go, gate) = mpsc::channel();
    let origin = Origin::plays([gated(LENGTH, asked, gate)]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    client.send(
        "POST /first HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
    );
    soon(&was_asked);
    client.send(get("/second")); // nobody reads it
    go.send(()).unwrap();
    proxy.ended(1);
    assert_whole(&mut client, LENGTH);
    client.is_closed();
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_large_response_needs_no_descriptors() {
    const LENGTH: usize = 4_000_000;
    let (asked, was_asked) = mpsc::channel();
    let (go, gate) = mpsc::channel();
    let origin = Origin::plays([gated(LENGTH, asked, gate)]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    soon(&was_asked);
    let limit = Some(proxy.descriptors() as u64);
    let limits = Rlimit {
        current: limit,
        maximum: limit,
    };
    prlimit(Some(proxy.pid()), Resource::Nofile, limits).unwrap();
    // Each takes a descriptor below the limit that may be left, until one is not accepted.
    let _idle: Vec<_> = (0..8).map(|_| Client::connect(&proxy)).collect();
    proxy.logs(&["cannot accept for now"]);
    go.send(()).unwrap();
    assert_whole(&mut client, LENGTH);
}

#[test]
fn a_client_that_reads_nothing_is_given_up_wherever_its_response_stalls() {
    const CLIENTS: usize = 8;
    const LIMIT: Duration = Duration::from_secs(1);
    let (gone, was_closed) = mpsc::channel();
    let origin = Origin::serves(CLIENTS, move |peer| {
        peer.request();
        let start = Instant::now();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4000000000\r\n\r\n");
        while peer.send_if_taken(pattern().at(0, MIB)) {}
        gone.send(start.elapsed()).unwrap();
        peer.close();
    });
    let limit = ("CLIENT_WRITE_TIMEOUT_SECONDS", "1");
    let proxy = Proxy::start(&origin, &[ALONE, limit]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients {
        client.send(get("/"));
    }
    for _ in 0..CLIENTS {
        let took = soon(&was_closed);
        assert!(took >= LIMIT, "given up after {took:?}");
    }
    proxy.logs_times(CLIENTS, &["aborted", "CLIENT_WRITE_TIMEOUT_SECONDS"]);
    for client in &mut clients {
        client.discard();
    }
}

#[test]
fn a_client_that_half_closes_is_noticed_while_the_upstream_never_pauses() {
    // An upstream that nobody stops has to end some day.
    const LONG: Duration = Duration::from_secs(5);
    // Many bytes at little cost to the proxy, and few at a high one: it is always behind.
    let large = ("Content-Length: 80000000000", vec![b'x'; MIB]);
    let tiny = ("Transfer-Encoding: chunked", b"1\r\nx\r\n".repeat(MIB / 6));
    for (framing, block) in [large, tiny] {
        let (gone, was_closed) = mpsc::channel();
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            peer.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
            let start = Instant::now();
            while start.elapsed() < LONG && peer.send_if_taken(&block) {}
            gone.send(Instant::now()).unwrap();
            peer.close();
        })]);
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        client.send(get("/"));
        client.head();
        client.take(4 * MIB);
        client.half_close();
        let left = Instant::now();
        client.discard();
        let took = soon(&was_closed).saturating_duration_since(left);
        assert!(took < PROMPT, "{framing}: closed after {took:?}");
    }
}

#[test]
fn a_client_that_leaves_during_a_stalled_upload_resets_the_upstream() {
    for leave in [Client::leave, Client::reset] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let proxy = Proxy::start_at(&url, &[]);
        let mut client = Client::connect(&proxy);
        client.send(post("/", &vec![b'x'; 20 * MIB]));
        let (upstream, other) = listener.accept().unwrap();
        let own = upstream.local_addr().unwrap();
        // Nothing is read here: what was sent fills the socket, and a FIN would wait behind it.
        let mut before = 0;
        eventually("the upload stalls", || {
            let unread = sockets::find(own, other).map_or(0, |socket| socket.unread);
            std::mem::replace(&mut before, unread) == unread && unread >= 64 << 10
        });
        let left = leave(&mut client);
        assert!(is_reset(&upstream), "no reset within {DEADLINE:?}");
        let took = left.elapsed();
        assert!(took < PROMPT, "reset after {took:?}");
    }
}

#[test]
fn an_upstream_that_ends_its_session_and_sends_on_does_not_stall_the_core() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let config = authority.issue(|_| ()).server_by(&[&TLS12], None);
    let (sent, was_sent) = mpsc::channel();
    let upstream = thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut session = ServerConnection::new(config).unwrap();
        let mut last = last_flight(&mut session, &mut tcp);
        session.send_close_notify();
        session.write_tls(&mut last).unwrap();
        // Alerts that nobody will look at.
        last.extend_from_slice(&b"\x15\x03\x03\x00\x02\x01\x00".repeat(1500));
        tcp.write_all(&last).unwrap();
        sent.send(()).unwrap();
        let _ = tcp.read_to_end(&mut Vec::new()); // a reset is an end as well
    });
    let settings = [
        ALONE,
        ("UPSTREAM_CA_FILE", authority.file()),
        ("UPSTREAM_MAX_ATTEMPTS", "1"),
    ];
    let proxy = Proxy::start_at(&url, &settings);
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    soon(&was_sent);
    let start = Instant::now();
    let health = Client::connect(&proxy).exchange(get("/healthz"));
    assert_eq!(health.status(), 200);
    let took = start.elapsed();
    assert!(took < PROMPT, "the core was busy for {took:?}");
    let response = client.response();
    response.assert_refusal(502, "upstream_request_error");
    upstream.join().unwrap();
}

#[test]
fn a_request_line_over_32_kib_is_refused_however_it_arrives() {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[]);
    let request = get(&format!("/{}", "x".repeat(33 << 10)));
    for pieces in [1, 2, 3, 5, 8] {
        let mut client = Client::connect(&proxy);
        for piece in request.as_bytes().chunks(request.len().div_ceil(pieces)) {
            client.send_if_taken(piece);
            client.until_taken();
        }
        let response = client.response();
        response.assert_refusal(414, "uri_too_long");
        client.half_close();
        client.is_closed();
    }
}

#[test]
fn a_close_delimited_response_to_a_client_that_half_closes_never_looks_complete() {
    const ROUNDS: usize = 12;
    let (asked, was_asked) = mpsc::channel();
    let (send, may_send) = mpsc::channel();
    let gates = std::sync::Mutex::new((asked, may_send));
    let origin = Origin::serves(ROUNDS, move |peer| {
        peer.request();
        let (asked, may_send) = &*gates.lock().unwrap();
        asked.send(()).unwrap();
        soon(may_send);
        peer.send("HTTP/1.1 200 OK\r\n\r\npart one;");
        asked.send(()).unwrap();
    });
    let proxy = Proxy::start(&origin, &[ALONE]);
    for round in 0..ROUNDS {
        let mut client = Client::connect(&proxy);
        client.send(get("/"));
        soon(&was_asked);
        // Both come at once for the proxy.
        proxy.sleeps(Duration::ZERO, || {
            if round.is_multiple_of(2) {
                client.half_close();
            }
            send.send(()).unwrap();
            soon(&was_asked);
            if !round.is_multiple_of(2) {
                client.half_close();
            }
        });
        match client.try_response("GET") {
            Ok(response) => panic!("round {round}: complete with {:?}", response.text()),
            Err(cut) => assert!(cut.reset || cut.head.is_none() && cut.body.is_empty()),
        }
    }
}

#[test]
fn a_core_that_slept_through_the_idle_limit_relays_what_came_meanwhile() {
    const LIMIT: Duration = Duration::from_secs(1);
    let (begun, has_begun) = mpsc::channel();
    let (send, may_send) = mpsc::channel();
    let origin = Origin::plays([act(move |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npart");
        soon(&may_send);
        peer.send(" two");
        begun.send(()).unwrap();
    })]);
    let proxy = Proxy::start(&origin, &[ALONE, ("STREAM_IDLE_TIMEOUT_SECONDS", "1")]);
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    client.head();
    client.receive("part");
    proxy.sleeps(LIMIT + LIMIT / 2, || {
        send.send(()).unwrap();
        soon(&has_begun);
    });
    client.receive(" two");
}

#[test]
fn a_refusal_that_closes_the_connection_ends_in_fin_though_the_client_has_sent_more() {
    let (asked, was_asked) = mpsc::channel();
    let origin = Origin::plays([act(move |peer| {
        peer.request();
        asked.send(()).unwrap();
        peer.is_closed();
    })]);
    let settings = [
        ("UPSTREAM_MAX_ATTEMPTS", "1"),
        ("RESPONSE_HEADER_TIMEOUT_SECONDS", "0.3"),
    ];
    let proxy = Proxy::start(&origin, &settings);
    let mut client = Client::connect(&proxy);
    let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    client.send(request);
    soon(&was_asked);
    client.send(request);
    assert_eq!(client.response().status(), 504);
    let end = client.try_response("GET").unwrap_err();
    assert!(!end.reset && end.head.is_none());
}

#[test]
fn the_body_of_a_health_request_is_not_the_next_request() {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let length = smuggled.len();
    let head = format!("GET /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
    client.send(format!("{head}{smuggled}"));
    assert_eq!(client.response().status(), 200);
    assert_eq!(client.exchange(get("/healthz")).status(), 200);
}

#[test]
fn a_client_that_is_silent_after_stray_empty_lines_is_closed_without_a_response() {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[("CLIENT_HEADER_TIMEOUT_SECONDS", "0.3")]);
    for stray in ["\r\n", "\r\n\r\n\r\n"] {
        let mut client = Client::connect(&proxy);
        client.send(stray);
        client.is_closed();
    }
}

/// Whether the connection is reset within the deadline; bytes that were not read may lie before it.
fn is_reset(tcp: &TcpStream) -> bool {
    let limit = Timespec::try_from(DEADLINE).unwrap();
    let mut fds = [PollFd::new(tcp, PollFlags::RDHUP)];
    poll(&mut fds, Some(&limit)).unwrap();
    fds[0].revents().contains(PollFlags::ERR)
}

/// Shakes hands up to the server's last flight, which is not sent yet.
fn last_flight(session: &mut ServerConnection, tcp: &mut TcpStream) -> Vec<u8> {
    loop {
        session.read_tls(tcp).unwrap();
        session.process_new_packets().unwrap();
        let mut flight = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut flight).unwrap();
        }
        if !session.is_handshaking() {
            return flight;
        }
        tcp.write_all(&flight).unwrap();
    }
}
