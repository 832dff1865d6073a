//! A name with several addresses, of which some are bad: the others are reached in a moment, and nothing
//! is left of those that were tried.
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::metrics::{ADMIN, Numbers};
use crate::support::names::{Names, Says};
use crate::support::net::{eventually, fill_backlog, on_one_port};
use crate::support::{
    Authority, Client, DEADLINE, OK, Origin, Peer, Proxy, RESCUE, Seen, get, post,
};

const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const ALONE: (&str, &str) = ("WORKERS", "1");
const ONCE: (&str, &str) = ("UPSTREAM_MAX_ATTEMPTS", "1");
const LAST: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
/// So long that waiting for it, or for half of it, shows.
const PATIENT: (&str, &str) = ("CONNECT_TIMEOUT_SECONDS", "60");

fn start(names: &Names, port: u16, settings: &[(&str, &str)]) -> Proxy {
    let settings = [&[ALONE, ADMIN], settings].concat();
    let url = format!("http://upstream.example:{port}");
    Proxy::start_by(&names.launcher(), &url, &settings)
}

fn start_tls(names: &Names, port: u16, authority: &Authority, settings: &[(&str, &str)]) -> Proxy {
    let trusts = ("UPSTREAM_CA_FILE", authority.file());
    let settings = [&[ALONE, ADMIN, trusts], settings].concat();
    let url = format!("https://upstream.example:{port}");
    Proxy::start_by(&names.launcher(), &url, &settings)
}

/// One response for each connection, where a request comes.
fn answers_once(peer: &mut Peer) {
    if peer.next_request().is_some() {
        peer.send(LAST);
        peer.close();
    }
}

fn assert_moment(start: Instant) {
    assert!(start.elapsed() < DEADLINE / 2, "{:?}", start.elapsed());
}

/// Accepts, says nothing, and yields all that has come on each connection once it has ended.
fn hears_only(listener: TcpListener) -> Seen<Vec<u8>> {
    let heard = Seen::new();
    let ended = heard.clone();
    let hear = move |mut tcp: TcpStream| {
        let mut bytes = Vec::new();
        let _ = tcp.read_to_end(&mut bytes); // a reset is an end too
        ended.push(bytes);
    };
    thread::spawn(move || {
        for tcp in listener.incoming().map_while(Result::ok) {
            let hear = hear.clone();
            thread::spawn(move || hear(tcp));
        }
    });
    heard
}

/// Both orders of two addresses: which one a resolver puts first is not ours to say.
const ORDERS: [[Ipv4Addr; 2]; 2] = [[ONE, OTHER], [OTHER, ONE]];

#[test]
fn an_address_that_refuses_or_swallows_costs_a_moment_and_only_once() {
    for (order, swallows) in [(0, false), (1, false), (0, true), (1, true)] {
        let Some(names) = Names::new(Says::these(ORDERS[order])) else {
            return;
        };
        let [bad, good] = on_one_port([ONE, OTHER]);
        let (port, bad_addr) = (bad.local_addr().unwrap().port(), bad.local_addr().unwrap());
        let _queued = swallows.then(|| fill_backlog(&bad));
        let _bad = swallows.then_some(bad);
        let origin = Origin::serves_on(good, 8, answers_once);
        // One attempt is one connection, however many addresses it tries.
        let proxy = start(&names, port, &[PATIENT, ("UPSTREAM_MAX_CONNECTIONS", "1")]);
        let mut client = Client::connect(&proxy);
        for _ in 0..4 {
            let start = Instant::now();
            let response = client.exchange(post("/", b"{}"));
            assert_eq!((response.status(), response.attempts()), (200, Some(1)));
            assert_moment(start);
        }
        eventually("its sockets are closed", || proxy.sockets_to(bad_addr) == 0);
        assert_eq!(origin.requests().len(), 4);
        assert!(!proxy.text().contains("attempt failed"), "{}", proxy.text());
        let numbers = Numbers::after(&proxy, 4);
        assert_eq!(numbers.sum("connects_total{result=ok}"), 4);
        assert_eq!(numbers.sum("connect_duration_seconds_count"), 4);
        let (tried, never) = match swallows {
            true => ("abandoned", "failed"),
            false => ("failed", "abandoned"),
        };
        assert!(numbers.sum(&format!("connects_total{{result={tried}}}")) <= 1);
        assert_eq!(numbers.sum(&format!("connects_total{{result={never}}}")), 0);
    }
}

#[test]
fn an_address_that_accepts_and_hangs_in_the_handshake_does_not_win() {
    let authority = Authority::of(&["upstream.example"]);
    let mut tried = 0;
    for order in ORDERS {
        let Some(names) = Names::new(Says::these(order)) else {
            return;
        };
        let [bad, good] = on_one_port([ONE, OTHER]);
        let port = good.local_addr().unwrap().port();
        let bad_addr = bad.local_addr().unwrap();
        let heard = hears_only(bad);
        let origin = Origin::serves_tls_on(good, &authority, 4, |peer| {
            peer.request();
            peer.send(LAST);
            peer.close_with_notify();
        });
        let proxy = start_tls(&names, port, &authority, &[PATIENT]);
        for _ in 0..3 {
            let start = Instant::now();
            let response = Client::connect(&proxy).exchange(post("/", b"{}"));
            assert_eq!((response.status(), response.attempts()), (200, Some(1)));
            assert_moment(start);
        }
        assert_eq!(origin.requests().len(), 3);
        let numbers = Numbers::after(&proxy, 3);
        let abandoned = numbers.sum("tls_handshakes_total{result=abandoned}");
        assert_eq!(numbers.sum("tls_handshakes_total"), 3 + abandoned);
        assert_eq!(numbers.sum("connects_total{result=ok}"), 3 + abandoned);
        assert_eq!(numbers.sum("connect_duration_seconds_count"), 3 + abandoned);
        assert_eq!(numbers.sum("tls_handshake_duration_seconds_count"), 3);
        eventually("its sockets are closed", || proxy.sockets_to(bad_addr) == 0);
        heard.wait(DEADLINE, |all| {
            (all.len() as u64 == abandoned).then_some(())
        });
        for bytes in heard.all() {
            // RFC 8446, 5.1: one record of the handshake, and nothing behind it.
            let length = usize::from(u16::from_be_bytes([bytes[3], bytes[4]]));
            assert_eq!(
                (bytes[0], bytes.len()),
                (22, 5 + length),
                "only a ClientHello"
            );
        }
        tried += abandoned;
    }
    assert!(tried >= 1, "it never came first");
}

#[test]
fn a_retry_goes_to_another_address_than_the_one_that_hung_after_it_accepted() {
    for order in ORDERS {
        let Some(names) = Names::new(Says::these(order)) else {
            return;
        };
        let listeners = on_one_port([ONE, OTHER]);
        let port = listeners[0].local_addr().unwrap().port();
        let came = Arc::new(Mutex::new(Vec::new()));
        let _origins = listeners.map(|listener| {
            let addr = listener.local_addr().unwrap().ip();
            let came = came.clone();
            Origin::serves_on(listener, 2, move |peer| {
                let Some(_) = peer.next_request() else { return };
                let first = {
                    let mut came = came.lock().unwrap();
                    came.push(addr);
                    came.len() == 1
                };
                match first {
                    true => drop(peer.is_closed()),
                    false => peer.send(LAST),
                }
            })
        });
        let proxy = start(&names, port, &RESCUE);
        let mut client = Client::connect(&proxy);
        let response = client.exchange(post("/", b"{}"));
        assert_eq!((response.status(), response.attempts()), (200, Some(2)));
        assert_eq!(client.exchange(get("/")).status(), 200);
        let came = came.lock().unwrap();
        assert_ne!(came[0], came[1]);
        assert_eq!(came[1], came[2], "the one that hung is tried last");
    }
}

#[test]
fn a_retry_goes_elsewhere_whatever_other_requests_meet_there() {
    let Some(names) = Names::new(Says::these([ONE, OTHER])) else {
        return;
    };
    let listeners = on_one_port([ONE, OTHER]);
    let port = listeners[0].local_addr().unwrap().port();
    let came = Arc::new(Mutex::new(BTreeMap::<String, Vec<IpAddr>>::new()));
    let _origins = listeners.map(|listener| {
        let addr = listener.local_addr().unwrap().ip();
        let came = came.clone();
        Origin::serves_on(listener, 4, move |peer| {
            let Some(request) = peer.next_request() else {
                return;
            };
            let first = {
                let mut came = came.lock().unwrap();
                let here = came.entry(request.head.line()).or_default();
                here.push(addr);
                here.len() == 1
            };
            if !first {
                peer.send(LAST);
            }
            peer.close();
        })
    });
    let proxy = start(&names, port, &[("RETRY_BACKOFF_SECONDS", "3")]);
    // The second fails at the other address while the first waits for its second attempt.
    let mut clients = ["/one", "/two"].map(|path| {
        let mut client = Client::connect(&proxy);
        client.send(post(path, b"{}"));
        proxy.logs(&["attempt failed", &format!("path={path} attempt=1")]);
        client
    });
    for client in &mut clients {
        let response = client.response();
        assert_eq!((response.status(), response.attempts()), (200, Some(2)));
    }
    for (line, addresses) in &*came.lock().unwrap() {
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 2, "{line}");
    }
}

#[test]
fn where_one_refuses_and_one_swallows_the_time_is_over_and_where_all_refuse_it_is_said_at_once() {
    for order in ORDERS {
        let Some(names) = Names::new(Says::these(order)) else {
            return;
        };
        let [swallows, refuses] = on_one_port([ONE, OTHER]);
        let (addr, port) = (
            swallows.local_addr().unwrap(),
            swallows.local_addr().unwrap().port(),
        );
        let queued = fill_backlog(&swallows);
        drop(refuses);
        let limit = Duration::from_secs(1);
        let proxy = start(&names, port, &[ONCE, ("CONNECT_TIMEOUT_SECONDS", "1")]);
        let begun = Instant::now();
        let refusal = Client::connect(&proxy).exchange(post("/", b"{}"));
        refusal.assert_refusal(504, "upstream_timeout");
        assert!(begun.elapsed() >= limit);
        assert_eq!(refusal.attempts(), None, "nothing was sent");
        let numbers = Numbers::after(&proxy, 1);
        assert_eq!(numbers.sum("connects_total{result=failed}"), 2);
        assert_eq!(numbers.sum("connects_total"), 2);
        eventually("its sockets are closed", || proxy.sockets_to(addr) == 0);

        drop((swallows, queued));
        let proxy = start(&names, port, &[ONCE, PATIENT]);
        let begun = Instant::now();
        let refusal = Client::connect(&proxy).exchange(post("/", b"{}"));
        refusal.assert_refusal(502, "upstream_request_error");
        assert_moment(begun);
        assert_eq!(
            Numbers::after(&proxy, 1).sum("connects_total{result=failed}"),
            2
        );
    }
}

/// 127.0.0.2 and those that follow.
fn sixteen() -> [Ipv4Addr; 16] {
    std::array::from_fn(|at| Ipv4Addr::new(127, 0, 0, 2 + at as u8))
}

#[test]
fn the_last_of_sixteen_addresses_is_reached_and_few_are_under_way_at_once() {
    const AT_ONCE: usize = 3;
    let Some(names) = Names::new(Says::these(sixteen())) else {
        return;
    };
    let mut listeners = Vec::from(on_one_port(sixteen()));
    let good = listeners.pop().unwrap();
    let port = good.local_addr().unwrap().port();
    let _queued: Vec<_> = listeners.iter().map(fill_backlog).collect();
    let _origin = Origin::serves_on(good, 2, answers_once);
    let proxy = start(&names, port, &[ONCE, ("CONNECT_TIMEOUT_SECONDS", "6")]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    let (mut all, mut fewer, mut more) = (0, 0, 0);
    while !client.has_answer() {
        let connects = proxy.sockets_to_port(port);
        all += 1;
        fewer += u32::from(connects < AT_ONCE);
        more += u32::from(connects > AT_ONCE); // one that is being closed
        thread::sleep(Duration::from_millis(10));
    }
    let response = client.response();
    assert_eq!((response.status(), response.attempts()), (200, Some(1)));
    let none_of_these = all - fewer - more;
    assert!(none_of_these * 2 > all, "{all}, {fewer} fewer, {more} more");
    // It took long to come to it, and no time once it was tried.
    let line = proxy.logs(&["DEBUG", "attempt=1", "connect_ms="]);
    let (_, took) = line.split_once("connect_ms=").unwrap();
    let took: f64 = took.split(' ').next().unwrap().parse().unwrap();
    assert!(took < 1000.0, "{line}");
    let numbers = Numbers::after(&proxy, 1);
    assert_eq!(numbers.sum("connects_total{result=ok}"), 1);
    eventually("all sockets are closed", || {
        proxy.sockets_to_port(port) == 0
    });
}

#[test]
fn addresses_that_refuse_are_all_tried_at_once_and_once_each() {
    const REQUESTS: u64 = 8;
    let Some(names) = Names::new(Says::these(sixteen())) else {
        return;
    };
    let port = on_one_port(sixteen())[0].local_addr().unwrap().port();
    let proxy = start(&names, port, &[ONCE, PATIENT]);
    let begun = Instant::now();
    for _ in 0..REQUESTS {
        let refusal = Client::connect(&proxy).exchange(post("/", b"{}"));
        refusal.assert_refusal(502, "upstream_request_error");
    }
    assert_moment(begun); // a delay before each address would be twice as long
    let numbers = Numbers::after(&proxy, REQUESTS);
    assert_eq!(numbers.sum("connects_total{result=failed}"), 16 * REQUESTS);
    assert_eq!(numbers.sum("connects_total"), 16 * REQUESTS);
}

#[test]
fn a_client_that_leaves_while_two_connects_are_under_way_leaves_nothing_of_them() {
    let authority = Authority::of(&["upstream.example"]);
    for tls in [false, true] {
        let Some(names) = Names::new(Says::these([ONE, OTHER])) else {
            return;
        };
        let listeners = on_one_port([ONE, OTHER]);
        let all = listeners
            .each_ref()
            .map(|listener| listener.local_addr().unwrap());
        let mut queued = Vec::new();
        let proxy = match tls {
            true => {
                drop(listeners.map(hears_only));
                start_tls(&names, all[0].port(), &authority, &[PATIENT])
            }
            false => {
                queued.extend(listeners.map(|hole| (fill_backlog(&hole), hole)));
                start(&names, all[0].port(), &[PATIENT])
            }
        };
        let mut before = usize::MAX; // what it opens at the first time stays open
        for round in 1..=3 {
            let mut client = Client::connect(&proxy);
            client.send(post("/", b"{}"));
            eventually("both are tried", || {
                all.iter().all(|addr| proxy.sockets_to(*addr) == 1)
            });
            client.leave();
            eventually("both are given up", || {
                all.iter().all(|addr| proxy.sockets_to(*addr) == 0)
            });
            let numbers = Numbers::after(&proxy, round);
            let (series, phase) = match tls {
                true => ("tls_handshakes_total", "tls"),
                false => ("connects_total", "connect"),
            };
            assert_eq!(
                numbers.sum(&format!("{series}{{result=abandoned}}")),
                2 * round
            );
            assert_eq!(numbers.sum(series), 2 * round);
            let left = format!("clients_left_total{{phase={phase}}}");
            assert_eq!(numbers.sum(&left), round);
            eventually("no descriptor is left", || proxy.descriptors() <= before);
            before = proxy.descriptors();
        }
    }
}

#[test]
fn connections_to_an_address_that_has_vanished_are_used_to_their_end_and_not_again() {
    let Some(names) = Names::new(Says::these([ONE])) else {
        return;
    };
    let [old, new] = on_one_port([ONE, OTHER]);
    let port = new.local_addr().unwrap().port();
    let after = Origin::serves_on(new, 4, |peer| {
        while peer.next_request().is_some() {
            peer.send(OK);
        }
    });
    let settings = [
        ("UPSTREAM_MAX_ATTEMPTS", "100"),
        ("RETRY_BACKOFF_SECONDS", "0.2"),
    ];
    let proxy = start(&names, port, &settings);
    let mut busy = ["/idle", "/in-use"].map(|path| {
        let mut client = Client::connect(&proxy);
        client.send(get(path));
        let (mut tcp, _) = old.accept().unwrap();
        tcp.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut head = [0; 1024];
        assert!(tcp.read(&mut head).unwrap() > 0);
        (client, tcp)
    });
    drop(old); // new connections are refused, those that are there go on
    names.say(Says::Fails);
    let mut moved = Client::connect(&proxy);
    moved.send(get("/moved"));
    proxy.logs(&["path=/moved", "connect_failed"]);
    let [(idle, idle_tcp), (in_use, in_use_tcp)] = &mut busy;
    idle_tcp.write_all(OK.as_bytes()).unwrap();
    assert_eq!(idle.response().status(), 200);
    eventually("it is kept", || {
        proxy.status()["idle_upstream_connections"] == 1
    });

    names.say(Says::these([OTHER]));
    let begun = Instant::now();
    assert_eq!(moved.response().status(), 200);
    assert_eq!(
        idle_tcp.read(&mut [0]).unwrap(),
        0,
        "closed, and no request came"
    );
    in_use_tcp.write_all(OK.as_bytes()).unwrap();
    assert_eq!(in_use.response().status(), 200);
    let more = in_use_tcp.read(&mut [0]).unwrap();
    assert_eq!(more, 0, "closed, and no request came");
    assert_moment(begun); // before any time-out or the next look-up
    assert_eq!(in_use.exchange(get("/")).status(), 200);
    assert_eq!(after.requests().len(), 2);
}

#[test]
fn the_other_family_is_reached_where_one_leads_nowhere() {
    let Ok(six) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else {
        eprintln!("SKIPPED: no IPv6 on this machine");
        return;
    };
    let port = six.local_addr().unwrap().port();
    let Ok(four) = TcpListener::bind((ONE, port)) else {
        eprintln!("SKIPPED: the port is taken on the other family");
        return;
    };
    let both: [IpAddr; 2] = [Ipv6Addr::LOCALHOST.into(), ONE.into()];
    let Some(names) = Names::new(Says::these(both)) else {
        return;
    };
    let (addr, _queued) = (SocketAddr::from((both[1], port)), fill_backlog(&six));
    let origin = Origin::serves_on(four, 4, answers_once);
    let proxy = start(&names, port, &[PATIENT]);
    let begun = Instant::now();
    assert_eq!(Client::connect(&proxy).exchange(get("/")).status(), 200);
    assert_moment(begun);
    assert_eq!(origin.addr, addr);
    drop((origin, six));
    // And the other way round: only IPv6 leads somewhere.
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).unwrap();
    let _origin = Origin::serves_on(six, 4, answers_once);
    let begun = Instant::now();
    assert_eq!(Client::connect(&proxy).exchange(get("/")).status(), 200);
    assert_moment(begun);
}
