//! Through an outbound proxy, scripted: what it is asked, that nothing is lost and nothing sent too soon.
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use rustls::HandshakeKind;

use crate::support::names::{Names, Says};
use crate::support::{
    Act, Authority, CANARY, Client, OK, Origin, Peer, Proxy, RESCUE, Seen, Vacant, act,
    assert_no_secret, get, post, run,
};

/// A name that nobody here can look up.
const UNKNOWN: &str = "http://no-such-name.invalid:8080/base";
const ALONE: (&str, &str) = ("WORKERS", "1");
const SOCKS_YES: &[u8] = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50";
const HTTP_YES: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// The URL of the proxy at `addr`, `kind` being all that stands before its address.
fn at(kind: &str, addr: SocketAddr) -> String {
    format!("{kind}{addr}")
}

/// Starts it behind the scripted proxy `outbound`.
#[track_caller]
fn start(base_url: &str, kind: &str, outbound: &Origin, settings: &[(&str, &str)]) -> Proxy {
    let url = at(kind, outbound.addr);
    let settings = [&[ALONE, ("OUTBOUND_PROXY", &*url)], settings].concat();
    Proxy::start_at(base_url, &settings)
}

fn name_request(name: &str, port: u16) -> Vec<u8> {
    let head = [&[5, 1, 0, 3, name.len() as u8], name.as_bytes()].concat();
    [head, port.to_be_bytes().to_vec()].concat()
}

/// Reads what the proxy says first, nothing of which may be followed by anything.
fn hears(peer: &mut Peer, expected: &[u8]) {
    let said = peer.take(expected.len());
    assert_eq!(said, expected, "{:?}", String::from_utf8_lossy(&said));
    assert!(peer.wire().unread().is_empty(), "it waits for an answer");
}

/// Plays an outbound proxy up to its last answer, `answer` saying how each goes out.
fn socks(peer: &mut Peer, request: &[u8], answer: impl Fn(&mut Peer, &[u8])) {
    hears(peer, &[5, 1, 0]);
    answer(peer, &[5, 0]);
    hears(peer, request);
}

fn socks_with_login(peer: &mut Peer, request: &[u8], answer: impl Fn(&mut Peer, &[u8])) {
    hears(peer, &[5, 2, 0, 2]);
    answer(peer, &[5, 2]);
    let login = format!("\x01\x02u@\x10{CANARY}");
    hears(peer, login.as_bytes());
    answer(peer, &[1, 0]);
    hears(peer, request);
}

fn http(peer: &mut Peer, authority: &str, login: &str) {
    let head = peer.head().text();
    let expected = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{login}\r\n");
    assert_eq!(head, expected);
    assert!(peer.wire().unread().is_empty(), "it waits for an answer");
}

fn at_once(peer: &mut Peer, bytes: &[u8]) {
    peer.send(bytes);
}

fn byte_by_byte(peer: &mut Peer, bytes: &[u8]) {
    for byte in bytes {
        peer.send([*byte]);
        peer.until_taken();
    }
}

/// The upstream behind the proxy: on the same connection.
fn answers_two(peer: &mut Peer) {
    for _ in 0..2 {
        let head = peer.request().head;
        assert_eq!(head.line(), "GET /base/x HTTP/1.1");
        assert_eq!(head.field("host").unwrap(), "no-such-name.invalid:8080");
        peer.send(OK);
    }
}

#[test]
fn requests_go_through_each_kind_of_proxy_on_one_connection_however_its_answers_are_cut() {
    let request = || name_request("no-such-name.invalid", 8080);
    let login = "u%40:%63".to_owned() + &CANARY[1..];
    for answer in [at_once, byte_by_byte] {
        let name = "no-such-name.invalid:8080";
        // By coreutils: printf 'u@:c4nary9f3e71d0b5' | base64
        let basic = "Proxy-Authorization: Basic dUA6YzRuYXJ5OWYzZTcxZDBiNQ==\r\n";
        let kinds: [(String, Act); 4] = [
            (
                "socks5h://".to_owned(),
                act(move |peer| {
                    socks(peer, &request(), answer);
                    answer(peer, SOCKS_YES);
                    answers_two(peer);
                }),
            ),
            (
                format!("socks5h://{login}@"),
                act(move |peer| {
                    socks_with_login(peer, &request(), answer);
                    answer(peer, b"\x05\x00\x00\x03\x05h.exa\x00\x50");
                    answers_two(peer);
                }),
            ),
            (
                "http://".to_owned(),
                act(move |peer| {
                    http(peer, name, "");
                    answer(peer, b"HTTP/1.1 103 x\r\nA: b\r\n\r\n");
                    answer(peer, HTTP_YES);
                    answers_two(peer);
                }),
            ),
            (
                format!("http://{login}@"),
                act(move |peer| {
                    http(peer, name, basic);
                    answer(peer, b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n");
                    answers_two(peer);
                }),
            ),
        ];
        for (kind, play) in kinds {
            let outbound = Origin::plays([play]);
            let proxy = start(UNKNOWN, &kind, &outbound, &[]);
            for number in 1..=2 {
                let response = Client::connect(&proxy).exchange(get("/x"));
                assert_eq!((response.status(), response.attempts()), (200, Some(1)));
                proxy.ended(number);
            }
        }
    }
}

#[test]
fn addresses_are_asked_for_as_addresses_and_both_ends_may_be_ipv6() {
    let v4 = b"\x05\x01\x00\x01\xc0\x00\x02\x07\x01\xbb".to_vec();
    let v6 = b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50".to_vec();
    let urls = [("http://192.0.2.7:443", v4), ("http://[2001:db8::1]", v6)];
    for (url, request) in urls {
        for kind in ["socks5://", "socks5h://"] {
            let Ok(listener) = TcpListener::bind("[::1]:0") else {
                return eprintln!("SKIPPED: no IPv6 here");
            };
            let request = request.clone();
            let outbound = Origin::serves_on(listener, 1, move |peer| {
                socks(peer, &request, at_once);
                peer.send(SOCKS_YES);
                peer.request();
                peer.send(OK);
            });
            let proxy = start(url, kind, &outbound, &[]);
            assert_eq!(Client::connect(&proxy).exchange(get("/")).status(), 200);
        }
        let authority = url.trim_start_matches("http://");
        let authority = match authority.ends_with(']') {
            true => format!("{authority}:80"),
            false => authority.to_owned(),
        };
        let outbound = Origin::plays([act(move |peer| {
            http(peer, &authority, "");
            peer.send(HTTP_YES);
            peer.request();
            peer.send(OK);
        })]);
        let proxy = start(url, "http://", &outbound, &[]);
        assert_eq!(Client::connect(&proxy).exchange(get("/")).status(), 200);
    }
}

/// What the upstream says before it is asked anything is an answer like any other early one.
#[test]
fn what_comes_right_behind_the_proxys_answer_is_the_upstreams() {
    let early = "HTTP/1.1 503 Full\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfull";
    let request = name_request("no-such-name.invalid", 8080);
    let plays: [(&str, Act); 2] = [
        (
            "socks5h://",
            act(move |peer| {
                socks(peer, &request, at_once);
                peer.send([SOCKS_YES, early.as_bytes()].concat());
                peer.is_closed_after();
            }),
        ),
        (
            "http://",
            act(move |peer| {
                http(peer, "no-such-name.invalid:8080", "");
                peer.send([HTTP_YES, early.as_bytes()].concat());
                peer.is_closed_after();
            }),
        ),
    ];
    for (kind, play) in plays {
        let outbound = Origin::plays([play]);
        let proxy = start(UNKNOWN, kind, &outbound, &[]);
        let response = Client::connect(&proxy).exchange(post("/", b"{}"));
        assert_eq!((response.status(), &*response.text()), (503, "full"));
    }
}

/// Connects to `addr`, says yes and passes bytes on both ways until both sides have ended.
fn passes_on(peer: &mut Peer, addr: SocketAddr, yes: &[u8]) {
    let upstream = TcpStream::connect(addr).unwrap();
    peer.send(yes);
    let client = peer.wire().stream.tcp().try_clone().unwrap();
    let one_way = |mut from: TcpStream, mut to: TcpStream| {
        let mut block = [0; 1000];
        while let Ok(count @ 1..) = from.read(&mut block) {
            if to.write_all(&block[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    };
    let (from, to) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
    let down = thread::spawn(move || one_way(from, to));
    one_way(client, upstream);
    down.join().unwrap();
}

#[test]
fn tls_goes_through_to_the_upstream_and_is_resumed_there() {
    let authority = Authority::new();
    let last = || {
        act(|peer: &mut Peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        })
    };
    let origin = Origin::plays_tls(&authority, [last(), last()]);
    let addr = origin.addr;
    let outbound = Origin::serves(2, move |peer| {
        http(peer, &format!("localhost:{}", addr.port()), "");
        passes_on(peer, addr, HTTP_YES);
    });
    let url = format!("https://localhost:{}", addr.port());
    let settings = [("UPSTREAM_CA_FILE", authority.file())];
    let proxy = start(&url, "http://", &outbound, &settings);
    for _ in 0..2 {
        let response = Client::connect(&proxy).exchange(post("/", b"{}"));
        assert_eq!(response.status(), 200, "{}", response.text());
    }
    let kinds = [HandshakeKind::Full, HandshakeKind::Resumed];
    assert_eq!(origin.handshakes(), kinds);
    drop(proxy);
}

#[test]
fn a_certificate_that_is_not_the_upstreams_is_refused_through_a_proxy_as_well() {
    let authority = Authority::of(&["other.example"]);
    let origin = Origin::serves_tls(&authority, 1, |peer| drop(peer.fails_handshake()));
    let addr = origin.addr;
    let outbound = Origin::plays([act(move |peer| {
        socks(peer, &name_request("localhost", addr.port()), at_once);
        passes_on(peer, addr, SOCKS_YES);
    })]);
    let url = format!("https://localhost:{}", addr.port());
    let settings = [("UPSTREAM_CA_FILE", authority.file())];
    let proxy = start(&url, "socks5h://", &outbound, &settings);
    let refusal = Client::connect(&proxy).exchange(get("/"));
    refusal.assert_refusal(502, "upstream_request_error");
    proxy.logs(&["phase=tls", "failure=tls_failed", "again=false"]);
}

#[test]
fn a_proxy_that_looks_names_up_is_told_them_and_nobody_is_asked_here() {
    let Some(names) = Names::new(Says::these([Ipv4Addr::LOCALHOST])) else {
        return;
    };
    for kind in ["socks5h://", "http://"] {
        let outbound = Origin::plays([act(move |peer| {
            match kind {
                "http://" => {
                    http(peer, "upstream.example:80", "");
                    peer.send(HTTP_YES);
                }
                _ => {
                    socks(peer, &name_request("upstream.example", 80), at_once);
                    peer.send(SOCKS_YES);
                }
            }
            peer.request();
            peer.send(OK);
        })]);
        let url = at(kind, outbound.addr);
        let settings = [ALONE, ("OUTBOUND_PROXY", &*url)];
        let proxy = Proxy::start_by(&names.launcher(), "http://upstream.example", &settings);
        assert_eq!(Client::connect(&proxy).exchange(get("/")).status(), 200);
    }
    assert_eq!(names.asked(), 0);
}

#[test]
fn a_proxy_that_wants_addresses_is_asked_for_each_until_one_can_be_reached() {
    let all = [1, 2, 3, 4].map(|last| Ipv4Addr::new(192, 0, 2, last));
    let Some(names) = Names::new(Says::these(all)) else {
        return;
    };
    // Unreachable, of a type it does not know, hanging, and there; each on a connection of its own.
    let outbound = Origin::serves(4, |peer| {
        asked_for(peer);
        match peer.number {
            0 => peer.send([5, 4, 0, 1]),
            1 => peer.send([5, 8]),
            2 => drop(peer.is_closed_after()),
            _ => {
                peer.send(SOCKS_YES);
                peer.request();
                peer.send(OK);
            }
        }
    });
    // The proxy's own name is looked up as well, in the hosts file.
    let url = format!("socks5://localhost:{}", outbound.addr.port());
    let settings = [
        ALONE,
        ("OUTBOUND_PROXY", &*url),
        ("UPSTREAM_MAX_ATTEMPTS", "1"),
        ("CONNECT_TIMEOUT_SECONDS", "4"),
    ];
    let proxy = Proxy::start_by(&names.launcher(), "http://upstream.example", &settings);
    let response = Client::connect(&proxy).exchange(get("/"));
    assert_eq!((response.status(), response.attempts()), (200, Some(1)));
}

/// Plays SOCKS up to the request for one of the addresses 192.0.2.x; which.
fn asked_for(peer: &mut Peer) -> u8 {
    hears(peer, &[5, 1, 0]);
    peer.send([5, 0]);
    let request = peer.take(10);
    assert_eq!(request[..7], [5, 1, 0, 1, 192, 0, 2]);
    assert_eq!(request[8..], [0, 80]);
    request[7]
}

#[test]
fn another_attempt_asks_the_proxy_for_another_address() {
    let all = [1, 2].map(|last| Ipv4Addr::new(192, 0, 2, last));
    let Some(names) = Names::new(Says::these(all)) else {
        return;
    };
    let asked = Seen::new();
    let seen = asked.clone();
    let outbound = Origin::serves(2, move |peer| {
        seen.push(asked_for(peer));
        peer.send(SOCKS_YES);
        peer.request();
        match peer.number {
            0 => drop(peer.is_closed_after()),
            _ => peer.send(OK),
        }
    });
    let url = at("socks5://", outbound.addr);
    let settings = [&[ALONE, ("OUTBOUND_PROXY", &*url)], &RESCUE[..]].concat();
    let proxy = Proxy::start_by(&names.launcher(), "http://upstream.example", &settings);
    let response = Client::connect(&proxy).exchange(get("/"));
    assert_eq!((response.status(), response.attempts()), (200, Some(2)));
    let asked = asked.all();
    assert_ne!(asked[0], asked[1]);
}

#[test]
fn the_environment_of_others_is_not_picked_up() {
    let vacant = Vacant::new();
    let url = vacant.url();
    let names = [
        "HTTP_PROXY",
        "http_proxy",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "all_proxy",
    ];
    let settings = names.map(|name| (name, &*url));
    let origin = Origin::plays([act(|peer| {
        peer.request();
        peer.send(OK);
    })]);
    let proxy = Proxy::start(&origin, &settings);
    assert_eq!(Client::connect(&proxy).exchange(get("/")).status(), 200);
}

#[test]
fn user_and_password_are_shown_nowhere() {
    let check = |url: &str| {
        let settings = [
            ("UPSTREAM_BASE_URL", "http://127.0.0.1"),
            ("OUTBOUND_PROXY", url),
        ];
        run(&["--check"], &settings) // looks its output through
    };
    for scheme in ["socks5", "socks5h", "http"] {
        let ended = check(&format!("{scheme}://{CANARY}:{CANARY}@proxy.example"));
        assert_eq!(ended.status.code(), Some(0), "{}", ended.text);
        let shown = format!("{scheme}://********@proxy.example:1080");
        assert!(ended.text.contains(&shown), "{}", ended.text);
    }
    for url in [
        format!("ftp://u:{CANARY}@proxy"),
        format!("socks5://u:{CANARY}%40proxy:1080"),
        format!("http://u:{CANARY}/@proxy"),
        format!("http://proxy/{CANARY}"),
        format!("http://proxy/?{CANARY}"),
        format!("u:{CANARY}@proxy"),
        format!("http://u:{CANARY}%0a@proxy"),
    ] {
        let ended = check(&url);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.text);
        assert_eq!(ended.text.lines().count(), 1, "{}", ended.text);
        assert!(ended.text.contains("OUTBOUND_PROXY "), "{}", ended.text);
    }
    // While it runs: the page, the numbers, the log, and what a client is told.
    let outbound = Origin::plays([act(|peer| {
        peer.head();
        let fields = format!("Proxy-Authenticate: Basic realm={CANARY}\r\nX: {CANARY}");
        peer.send(format!("HTTP/1.1 407 {CANARY}\r\n{fields}\r\n\r\n{CANARY}"));
        peer.is_closed();
    })]);
    let kind = format!("http://{CANARY}:{CANARY}@");
    let proxy = start(UNKNOWN, &kind, &outbound, &[("ADMIN_PORT", "0")]);
    let refusal = Client::connect(&proxy).exchange(get("/"));
    refusal.assert_refusal(502, "upstream_request_error");
    assert_no_secret(&(refusal.head.text() + &refusal.text()));
    for path in ["/", "/metrics", "/status.json"] {
        assert_no_secret(&proxy.asked(path).text());
    }
    let shown = proxy.asked("/").text();
    assert!(shown.contains("http://********@127.0.0.1:"), "{shown}");
}
