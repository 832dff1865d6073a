//! Connections by the thousand: idle, rude, or storming in while the proxy drains.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::net::{affordable, close_with_reset, eventually};
use crate::support::{Client, DEADLINE, OK, Origin, Proxy, get};

/// Answers every request, on any number of connections.
fn answering() -> Origin {
    Origin::serves(usize::MAX, |peer| {
        while peer.next_whole_request().is_some() {
            peer.send(OK);
        }
    })
}

/// How a connection of a storm ended.
enum Met {
    Refused,
    /// Accepted by the kernel and closed without a byte.
    Nothing,
    Whole,
    Broken(String),
}

/// Connects, asks once and reads to the end.
fn meet(addr: SocketAddr) -> Met {
    let Ok(mut tcp) = TcpStream::connect_timeout(&addr, DEADLINE) else {
        return Met::Refused;
    };
    tcp.set_read_timeout(Some(DEADLINE)).unwrap();
    let sent = tcp.write_all(b"GET /storm HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let end = sent.and_then(|()| tcp.read_to_end(&mut answer));
    let text = String::from_utf8_lossy(&answer).into_owned();
    match end {
        _ if answer.is_empty() => Met::Nothing,
        Ok(_) if text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\nok") => {
            Met::Whole
        }
        end => Met::Broken(format!("{end:?} after {text:?}")),
    }
}

#[test]
fn a_drain_ends_in_time_and_breaks_no_answer_while_connections_storm_in() {
    const STORMERS: usize = 8;
    const BEFORE: usize = 200;
    let origin = answering();
    let mut proxy = Proxy::start(&origin, &[]);
    let addr = proxy.addr;
    let over = AtomicBool::new(false);
    let [whole, nothing, refused] = [const { AtomicUsize::new(0) }; 3];
    let mut began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..STORMERS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    match meet(addr) {
                        Met::Refused => &refused,
                        Met::Nothing => &nothing,
                        Met::Whole => &whole,
                        Met::Broken(how) => panic!("{how}"),
                    }
                    .fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let _ = TcpStream::connect(addr).map(|tcp| close_with_reset(&tcp));
                }
            });
        }
        eventually("it storms", || whole.load(Ordering::Relaxed) >= BEFORE);
        assert_eq!(nothing.load(Ordering::Relaxed), 0, "before the drain");
        began = Instant::now();
        proxy.signal(Signal::TERM);
        let status = proxy.exits_within(Duration::from_secs(20));
        over.store(true, Ordering::Relaxed);
        assert!(status.success());
    });
    println!("took {:?}", began.elapsed());
    println!("whole {whole:?}, nothing {nothing:?}, refused {refused:?}");
}

#[test]
fn connections_that_wait_to_be_accepted_when_the_drain_begins_are_answered() {
    const WAITING: usize = 300;
    let origin = answering();
    let mut proxy = Proxy::start(&origin, &[]);
    proxy.stop();
    let mut clients: Vec<_> = (0..WAITING).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients {
        client.send(get("/"));
    }
    proxy.signal(Signal::TERM);
    proxy.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.response().status(), 200);
        client.is_closed();
    }
    assert!(proxy.exits_within(DEADLINE).success());
}

/// Per connection that says nothing; unoptimised futures are larger.
const IDLE_KIB_MAX: f64 = if cfg!(debug_assertions) { 16.0 } else { 4.0 };

#[test]
fn five_thousand_idle_connections_are_cheap_and_harm_nobody_and_end_with_the_drain() {
    let count = affordable(5000);
    let origin = answering();
    let settings = [
        ("CLIENT_HEADER_TIMEOUT_SECONDS", "600"),
        ("CLIENT_IDLE_TIMEOUT_SECONDS", "600"),
    ];
    let mut proxy = Proxy::start(&origin, &settings);
    let mut other = Client::connect(&proxy);
    assert_eq!(other.exchange(get("/")).status(), 200);
    let resident = proxy.resident_kib();
    let mut idle: Vec<_> = (0..count)
        .map(|_| TcpStream::connect_timeout(&proxy.addr, DEADLINE).unwrap())
        .collect();
    // Half of them have been served once.
    for tcp in idle.iter_mut().step_by(2) {
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        tcp.write_all(get("/healthz").as_bytes()).unwrap();
    }
    for tcp in idle.iter_mut().step_by(2) {
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            let mut byte = [0];
            tcp.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
    }
    eventually("all are accepted", || proxy.clients() > count);
    let each = (proxy.resident_kib() - resident) as f64 / count as f64;
    println!("{each:.2} KiB for each of {count} idle connections");
    assert!(each <= IDLE_KIB_MAX, "{each:.2} KiB a connection");
    for _ in 0..100 {
        assert_eq!(other.exchange(get("/")).status(), 200);
    }
    proxy.signal(Signal::TERM);
    assert!(proxy.exits_within(DEADLINE).success());
    for tcp in &mut idle {
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(tcp.read(&mut [0]).unwrap(), 0);
    }
    other.is_closed();
}

/// Comes and goes, politely or not.
fn visit(proxy: &Proxy, number: usize) {
    let mut tcp = TcpStream::connect_timeout(&proxy.addr, DEADLINE).unwrap();
    let bytes = match number % 4 {
        0 => "",
        1 => "GET / HTTP/1.1\r\nHo",
        2 => "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf",
        _ => "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n",
    };
    tcp.write_all(bytes.as_bytes()).unwrap();
    if number % 8 > 3 {
        close_with_reset(&tcp);
    }
}

#[test]
fn five_thousand_rude_visitors_leave_nothing_behind() {
    let origin = answering();
    let proxy = Proxy::start(&origin, &[]);
    let visits = |count: usize| {
        (0..count).for_each(|number| visit(&proxy, number));
        eventually("all are closed", || proxy.clients() == 0);
    };
    visits(1000);
    let (descriptors, resident) = (proxy.descriptors(), proxy.resident_kib());
    visits(5000);
    eventually("descriptors return", || proxy.descriptors() <= descriptors);
    let grown = proxy.resident_kib().saturating_sub(resident);
    println!("{grown} KiB more");
    assert!(grown < 2048, "{grown} KiB more after 5000 visitors");
    assert_eq!(Client::connect(&proxy).exchange(get("/")).status(), 200);
}

#[test]
fn a_storm_of_resets_collects_no_connections() {
    const STORMS: usize = 4;
    const AT_ONCE: usize = 64;
    let proxy = Proxy::start(&answering(), &[("WORKERS", "1")]);
    let idle = proxy.descriptors();
    let end = Instant::now() + Duration::from_secs(2);
    let storm = || {
        while Instant::now() < end {
            let connect = |_| TcpStream::connect_timeout(&proxy.addr, DEADLINE).unwrap();
            let all: Vec<_> = (0..AT_ONCE).map(connect).collect();
            all.iter().for_each(close_with_reset);
        }
    };
    let mut most = 0;
    thread::scope(|scope| {
        (0..STORMS).for_each(|_| _ = scope.spawn(storm));
        while Instant::now() < end {
            most = most.max(proxy.descriptors() - idle);
        }
    });
    println!("at most {most} descriptors");
    assert!(
        most < 3 * STORMS * AT_ONCE / 2,
        "{most} descriptors, more than there can be"
    );
    eventually("all are closed", || proxy.descriptors() <= idle);
}
