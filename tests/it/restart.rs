//! Stopping, and being replaced by a successor on the same port: nobody who has come is lost.
use std::collections::HashSet;
use std::io::ErrorKind;
use std::mem::take;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use socket2::{SockFilter, SockRef};

use crate::support::net::{bound, eventually, swallow_no_more};
use crate::support::{
    Client, DEADLINE, OK, Origin, Peer, Proxy, Vacant, act, get, look_at, post, run, sockets, soon,
};

/// With how many the port is put under load, half of them on a new connection for each request.
const CLIENTS: usize = 8;
const CONNECTIONS_MAX: usize = 10_000;
/// After a second a client's kernel sends the first segment again.
const SYN_AGAIN: Duration = Duration::from_millis(900);

/// Answers each request with its own target.
pub fn echo(peer: &mut Peer) {
    while let Some(request) = peer.next_request() {
        let line = request.head.line();
        let target = line.split(' ').nth(1).unwrap();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            target.len()
        );
        peer.send(head + target);
    }
}

/// One request; whether the connection goes on. Anything but its own whole response is a fault.
#[track_caller]
fn ask(client: &mut Client, target: &str, close: bool) -> bool {
    let request = String::from_utf8(post(target, b"{}")).unwrap();
    let request = match close {
        true => request.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"),
        false => request,
    };
    client.send(request);
    let response = client.response();
    assert_eq!((response.status(), &*response.text()), (200, target));
    let close = response.head.field("connection");
    !close.is_some_and(|options| options.eq_ignore_ascii_case("close"))
}

/// What clients do to a port, and what comes of it.
pub struct Load<'scope> {
    clients: Vec<ScopedJoinHandle<'scope, usize>>,
    told: &'scope Told,
}

impl Drop for Load<'_> {
    /// A test that has failed ends too.
    fn drop(&mut self) {
        self.told.over.store(true, Ordering::Relaxed);
    }
}

/// What clients and the test tell each other.
#[derive(Default)]
pub struct Told {
    answered: AtomicUsize,
    over: AtomicBool,
}

impl Told {
    pub fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }
}

impl<'scope> Load<'scope> {
    /// Asks `addr` until told otherwise.
    pub fn begin(
        scope: &'scope thread::Scope<'scope, '_>,
        addr: SocketAddr,
        told: &'scope Told,
    ) -> Self {
        let begin = |number| scope.spawn(move || Self::run(addr, number, told));
        Self {
            clients: (0..CLIENTS).map(begin).collect(),
            told,
        }
    }

    /// How many connections took as long as they do where a first segment was thrown away.
    fn run(addr: SocketAddr, number: usize, told: &Told) -> usize {
        let close = number.is_multiple_of(2);
        let (mut kept, mut slow) = (None, 0);
        for turn in 0.. {
            if told.over.load(Ordering::Relaxed) {
                break;
            }
            let mut client = kept.take().unwrap_or_else(|| {
                let start = Instant::now();
                let client = Client::connect_to(addr);
                slow += usize::from(start.elapsed() > SYN_AGAIN);
                client
            });
            if ask(&mut client, &format!("/{number}/{turn}"), close) {
                kept = Some(client);
            }
            told.answered.fetch_add(1, Ordering::Relaxed);
        }
        slow
    }

    /// Ends it. Panics where a request was lost; else says how many connections were slow.
    pub fn end(mut self) -> usize {
        self.told.over.store(true, Ordering::Relaxed);
        let ended = take(&mut self.clients)
            .into_iter()
            .map(|client| client.join());
        ended.map(Result::unwrap).sum()
    }
}

#[test]
fn successors_take_over_under_load_and_no_request_is_lost() {
    const REQUESTS: usize = 25_000;
    const RESTARTS: usize = 6;
    let origin = Origin::serves(CONNECTIONS_MAX, echo);
    let mut proxy = Proxy::start(&origin, &[("LOG_LEVEL", "INFO")]);
    let (addr, port) = (proxy.addr, proxy.addr.port().to_string());
    // More and fewer workers than before: the kernel's numbering of listeners is not to matter.
    let workers = ["1", "3", "2"].into_iter().cycle();
    let told = Told::default();
    let answered = || told.answered();
    thread::scope(|scope| {
        let load = Load::begin(scope, addr, &told);
        for (restart, workers) in (1..=RESTARTS).zip(workers) {
            let settings = [
                ("LOG_LEVEL", "INFO"),
                ("LISTEN_PORT", &port),
                ("REUSE_PORT", "on"),
                ("WORKERS", workers),
            ];
            let successor = Proxy::start(&origin, &settings);
            assert_eq!(successor.addr, addr);
            successor.logs(&["listening on", "beside another process"]);
            proxy.signal(Signal::TERM);
            assert!(proxy.exits_within(DEADLINE).success());
            proxy = successor;
            eventually("it serves for a while", || {
                answered() >= REQUESTS * restart / RESTARTS
            });
        }
        let slow = load.end();
        println!("{} requests, {slow} connections slow", answered());
        // None is, as a rule: all are steered to the successor while there is one.
        assert!(slow <= RESTARTS / 2, "{slow} connections were slow");
    });
    assert!(answered() >= REQUESTS);
}

#[test]
fn a_successor_is_served_on_all_its_cores_when_its_predecessor_is_gone() {
    let origin = Origin::serves(CONNECTIONS_MAX, echo);
    let mut old = Proxy::start(&origin, &[("WORKERS", "1")]);
    let settings = [
        ("LISTEN_PORT", &*old.addr.port().to_string()),
        ("REUSE_PORT", "on"),
        ("WORKERS", "3"),
    ];
    let new = Proxy::start(&origin, &settings);
    old.signal(Signal::TERM);
    assert!(old.exits_within(DEADLINE).success());
    for _ in 0..64 {
        ask(&mut Client::connect(&new), "/", true);
    }
    // Each core counts on from an id of its own.
    let lines = new.ended(64);
    let id = |line: &String| line.split_once("id=").unwrap().1[..8].to_owned();
    let cores: HashSet<_> = lines.iter().map(id).collect();
    assert_eq!(cores.len(), 3, "{cores:?}");
}

#[test]
fn a_stop_under_load_answers_who_got_in_and_refuses_the_others() {
    const ROUNDS: usize = 10;
    let origin = Origin::serves(CONNECTIONS_MAX, echo);
    for round in 0..ROUNDS {
        let mut proxy = Proxy::start(&origin, &[]);
        let addr = proxy.addr;
        let served = AtomicUsize::new(0);
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let served = &served;
                scope.spawn(move || {
                    loop {
                        match TcpStream::connect_timeout(&addr, DEADLINE) {
                            Ok(tcp) => {
                                ask(&mut Client::over(tcp), &format!("/{round}/{number}"), true)
                            }
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                                return;
                            }
                        };
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            eventually("it is under load", || served.load(Ordering::Relaxed) > 50);
            proxy.signal(Signal::TERM);
        });
        assert!(proxy.exits_within(DEADLINE).success());
    }
}

#[test]
fn who_waits_to_be_accepted_when_a_drain_begins_is_answered() {
    let origin = Origin::serves(8, echo);
    let mut proxy = Proxy::start(&origin, &[]);
    proxy.stop();
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients[..4] {
        client.send(get("/early"));
    }
    proxy.signal(Signal::TERM);
    proxy.signal(Signal::CONT);
    proxy.logs(&["draining"]);
    eventually("all are accepted", || proxy.clients() == 8);
    for client in &mut clients[4..] {
        client.send(get("/late"));
    }
    for (number, mut client) in clients.into_iter().enumerate() {
        let response = client.response();
        assert_eq!(response.text(), if number < 4 { "/early" } else { "/late" });
        client.is_closed();
    }
    assert!(proxy.exits_within(DEADLINE).success());
}

/// A proxy with descriptors for so many, and twice as many clients.
fn full(room: usize, settings: &[(&str, &str)]) -> (Proxy, Vec<Client>) {
    let settings = [&[("WORKERS", "1")], settings].concat();
    let proxy = Proxy::start_at(&Vacant::new().url(), &settings);
    let limit = Some((proxy.descriptors() + room) as u64);
    let limit = Rlimit {
        current: limit,
        maximum: limit,
    };
    prlimit(Some(proxy.pid()), Resource::Nofile, limit).unwrap();
    let clients = (0..room * 2).map(|_| Client::connect(&proxy)).collect();
    proxy.logs(&["cannot accept for now: Too many open files"]);
    (proxy, clients)
}

#[test]
fn who_waits_for_a_descriptor_does_not_make_a_drain_longer() {
    let (mut proxy, mut clients) = full(8, &[("DRAIN_TIMEOUT_SECONDS", "6")]);
    for client in &mut clients {
        client.send("GET ");
    }
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    assert!(proxy.exits_within(DEADLINE).success());
    // Three more are for handshakes, which without a descriptor nobody sees.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(14), "{took:?}");
}

#[test]
fn who_waits_for_a_descriptor_when_a_drain_begins_is_answered() {
    const ROOM: usize = 24;
    let (mut proxy, mut clients) = full(ROOM, &[]);
    for client in &mut clients[ROOM + 2..] {
        client.send(get("/healthz"));
    }
    proxy.signal(Signal::TERM);
    for client in &mut clients[ROOM + 2..] {
        assert_eq!(client.response().status(), 503);
        client.is_closed();
    }
    assert!(proxy.exits_within(DEADLINE).success());
}

#[test]
fn a_handshake_that_is_under_way_when_a_drain_begins_is_waited_for() {
    let origin = Origin::serves(1, echo);
    let mut proxy = Proxy::start(&origin, &[]);
    let flags = SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    // It does not hear the proxy's kernel, which sends its part of the handshake again after a second.
    let nothing = [SockFilter::new(0x06, 0, 0, 0)];
    SockRef::from(&socket).attach_filter(&nothing).unwrap();
    connect(&socket, &proxy.addr).unwrap_err();
    let tcp = TcpStream::from(socket);
    let own = tcp.local_addr().unwrap();
    eventually("it is under way", || {
        sockets::find(proxy.addr, own).is_some()
    });
    proxy.signal(Signal::TERM);
    proxy.logs(&["draining"]);
    swallow_no_more(&tcp);
    eventually("it is over", || tcp.peer_addr().is_ok());
    tcp.set_nonblocking(false).unwrap();
    ask(&mut Client::over(tcp), "/", false);
    assert!(proxy.exits_within(DEADLINE).success());
}

#[test]
fn a_kept_connection_has_a_moment_for_another_request_when_a_drain_begins() {
    let origin = Origin::serves(2, echo);
    let mut proxy = Proxy::start(&origin, &[("WORKERS", "1")]);
    let mut witness = Client::connect(&proxy);
    let mut kept: Vec<_> = (0..2).map(|_| Client::connect(&proxy)).collect();
    for client in &mut kept {
        assert!(ask(client, "/before", false));
    }
    proxy.signal(Signal::TERM);
    eventually("it drains", || {
        witness.exchange(get("/healthz")).status() == 503
    });
    witness.is_closed();
    let [mut used, mut idle] = kept.try_into().ok().unwrap();
    assert!(!ask(&mut used, "/during", false));
    used.is_closed();
    idle.is_closed();
    assert!(proxy.exits_within(DEADLINE).success());
}

#[test]
fn a_port_whose_process_was_killed_is_had_at_once() {
    let vacant = Vacant::new().url();
    let mut proxy = Proxy::start_at(&vacant, &[]);
    let port = proxy.addr.port().to_string();
    for _ in 0..8 {
        proxy.signal(Signal::KILL);
        proxy.exits_within(DEADLINE);
        proxy = Proxy::start_at(&vacant, &[("LISTEN_PORT", &port)]);
    }
}

#[test]
fn a_port_is_shared_where_both_sides_say_so() {
    for shares in [false, true] {
        let socket = bound(0, shares);
        rustix::net::listen(&socket, 16).unwrap();
        let port = TcpListener::from(socket);
        let port = port.local_addr().unwrap().port().to_string();
        let vacant = Vacant::new().url();
        let settings = [
            ("UPSTREAM_BASE_URL", &*vacant),
            ("LISTEN_PORT", &port),
            ("REUSE_PORT", "on"),
        ];
        if shares {
            let proxy = Proxy::start_at(&vacant, &settings);
            proxy.logs(&["listening on", "beside another process (REUSE_PORT)"]);
        } else {
            let ended = run(&[], &settings);
            assert_eq!(ended.status.code(), Some(1));
            let why = "does not share the port (REUSE_PORT)";
            assert!(ended.text.contains(why), "{}", ended.text);
        }
    }
}

#[test]
fn operators_see_the_successor_as_soon_as_its_predecessor_drains() {
    let (begun, has_begun) = mpsc::channel();
    let (end, gate) = mpsc::channel();
    let stream = act(move |peer| {
        peer.request();
        begun.send(()).unwrap();
        soon(&gate);
        peer.send(OK);
    });
    let origin = Origin::plays([stream]);
    let mut old = Proxy::start(&origin, &[("ADMIN_PORT", "0"), ("WORKERS", "1")]);
    let (addr, admin) = (old.addr, old.admin());
    let mut client = Client::connect(&old);
    client.send(get("/"));
    soon(&has_begun);
    let mut witness = Client::connect(&old);
    assert_eq!(witness.exchange(get("/healthz")).status(), 200);
    for successors in 0..2 {
        let settings = [
            ("LISTEN_PORT", &*addr.port().to_string()),
            ("ADMIN_PORT", &admin.port().to_string()),
            ("REUSE_PORT", "on"),
            ("WORKERS", "1"),
        ];
        let new = Proxy::start(&origin, &settings);
        old.signal(Signal::TERM);
        if successors == 0 {
            eventually("it drains", || {
                witness.exchange(get("/healthz")).status() == 503
            });
            witness.is_closed();
            all_are_well(admin);
            end.send(()).unwrap();
            assert_eq!(client.response().text(), "ok");
            client.is_closed();
        }
        assert!(old.exits_within(DEADLINE).success());
        all_are_well(admin);
        old = new;
    }
}

#[test]
fn operators_see_the_newest_while_two_before_it_drain() {
    let (begun, has_begun) = mpsc::channel();
    let origin = Origin::serves(2, move |peer| {
        peer.request();
        begun.send(()).unwrap();
        peer.next_request(); // it is never answered
    });
    let mut newest = Proxy::start(&origin, &[("ADMIN_PORT", "0"), ("WORKERS", "1")]);
    let (port, admin) = (newest.addr.port().to_string(), newest.admin());
    let (mut before, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let mut client = Client::connect(&newest);
        client.send(get("/"));
        soon(&has_begun);
        let mut witness = Client::connect(&newest);
        assert_eq!(witness.exchange(get("/healthz")).status(), 200);
        let settings = [
            ("LISTEN_PORT", &*port),
            ("ADMIN_PORT", &admin.port().to_string()),
            ("REUSE_PORT", "on"),
            ("WORKERS", "1"),
        ];
        let successor = Proxy::start(&origin, &settings);
        newest.signal(Signal::TERM);
        eventually("it drains", || {
            witness.exchange(get("/healthz")).status() == 503
        });
        before.push(newest);
        clients.push(client);
        newest = successor;
        all_are_well(admin);
    }
}

/// Whoever is asked there is not draining.
#[track_caller]
fn all_are_well(admin: SocketAddr) {
    for _ in 0..32 {
        let told = Client::connect_to(admin).exchange(look_at("/healthz"));
        assert_eq!(told.status(), 200, "{}", told.text());
    }
}
