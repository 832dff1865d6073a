//! An outbound proxy that says no, says nothing, or says what makes no sense: each has its cause, and
//! another attempt where that may help.
use std::time::{Duration, Instant};

use crate::support::metrics::{ADMIN, Numbers};
use crate::support::{Act, Client, OK, Origin, Peer, Proxy, Vacant, act, full_backlog, post};

const UNKNOWN: &str = "http://no-such-name.invalid";
const ALONE: (&str, &str) = ("WORKERS", "1");

#[track_caller]
fn start(kind: &str, outbound: &Origin, settings: &[(&str, &str)]) -> Proxy {
    let url = format!("{kind}{}", outbound.addr);
    let settings = [&[ALONE, ("OUTBOUND_PROXY", &*url)], settings].concat();
    Proxy::start_at(UNKNOWN, &settings)
}

/// How far a SOCKS proxy comes before it says what it should not.
#[derive(Clone, Copy)]
enum Step {
    Method,
    Login,
    Request,
    /// CONNECT.
    Head,
}

const SOCKS: &str = "socks5h://";
const SOCKS_LOGIN: &str = "socks5h://u:p@";
const HTTP: &str = "http://";
const HTTP_LOGIN: &str = "http://u:p@";

/// Listens up to `step`: whatever was to be said before it was said.
fn hears(peer: &mut Peer, kind: &str, step: Step) {
    if let Step::Head = step {
        let head = peer.head();
        assert_eq!(head.line(), "CONNECT no-such-name.invalid:80 HTTP/1.1");
        return;
    }
    let login = kind == SOCKS_LOGIN;
    peer.take(if login { 4 } else { 3 });
    if let Step::Method = step {
        return;
    }
    if login {
        peer.send([5, 2]);
        assert_eq!(peer.take(5), b"\x01\x01u\x01p");
        if let Step::Login = step {
            return;
        }
        peer.send([1, 0]);
    } else {
        peer.send([5, 0]);
    }
    peer.take(27);
}

fn yes(step: Step) -> &'static [u8] {
    match step {
        Step::Head => b"HTTP/1.1 200 OK\r\n\r\n",
        _ => b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
    }
}

/// A proxy that plays `fault` on its first connection, and is well on the next one.
fn faulty(kind: &'static str, step: Step, fault: Act, again: bool) -> Origin {
    let first = act(move |peer| {
        hears(peer, kind, step);
        fault(peer);
    });
    let second = act(move |peer: &mut Peer| {
        let last = match step {
            Step::Head => Step::Head,
            _ => Step::Request,
        };
        hears(peer, kind, last);
        peer.send(yes(last));
        peer.request();
        peer.send(OK);
    });
    Origin::plays([Some(first), again.then_some(second)].into_iter().flatten())
}

/// A fault leads to this cause and these words, and to another attempt or not.
#[track_caller]
fn assert_cause(
    kind: &'static str,
    step: Step,
    fault: Act,
    (cause, words, again): (&str, &str, bool),
) {
    let outbound = faulty(kind, step, fault, again);
    let proxy = start(kind, &outbound, &[ADMIN]);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    let told = format!("attempt=1 phase=proxy failure={cause} delivery=not_sent");
    let line = proxy.logs(&[&told, &format!("again={again}")]);
    assert!(line.contains(words), "{words}: {line}");
    match again {
        true => {
            assert_eq!((response.status(), response.attempts()), (200, Some(1)));
            let told = response.failed_attempts();
            let expected = format!("1=not_sent,{cause},");
            assert!(
                told.len() == 1 && told[0].starts_with(&expected),
                "{told:?}"
            );
        }
        false => {
            response.assert_refusal(502, "upstream_request_error");
            let text = response.text();
            assert!(
                text.contains(words) && text.contains("nothing was sent"),
                "{text}"
            );
            assert_eq!(response.attempts(), None, "nothing was sent");
        }
    }
    let series = format!("attempt_failures_total{{phase=proxy,failure={cause},delivery=not_sent}}");
    assert_eq!(Numbers::after(&proxy, 1).value(&series), 1.0);
}

fn says(bytes: impl AsRef<[u8]>) -> Act {
    let bytes = bytes.as_ref().to_vec();
    act(move |peer| {
        peer.send(bytes);
        peer.is_closed();
    })
}

#[test]
fn each_code_of_socks_has_its_words_and_is_tried_again_where_that_may_help() {
    for (code, words, again) in [
        (1, "general failure (SOCKS code 1)", true),
        (2, "not allowed by its rules (SOCKS code 2)", false),
        (3, "network unreachable (SOCKS code 3)", true),
        (4, "host unreachable (SOCKS code 4)", true),
        (
            5,
            "the upstream refused the connection (SOCKS code 5)",
            true,
        ),
        (6, "TTL expired (SOCKS code 6)", true),
        (7, "command not supported (SOCKS code 7)", false),
        (8, "address type not supported (SOCKS code 8)", false),
        (9, "unknown reason (SOCKS code 9)", true),
        (255, "unknown reason (SOCKS code 255)", true),
    ] {
        let fault = says([5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_cause(SOCKS, Step::Request, fault, ("proxy_refused", words, again));
    }
}

#[test]
fn a_login_that_is_missing_or_wrong_is_not_tried_again() {
    let missing = (
        "proxy_refused",
        "wants a user and a password (OUTBOUND_PROXY)",
        false,
    );
    let wrong = (
        "proxy_refused",
        "does not accept the user and password of OUTBOUND_PROXY",
        false,
    );
    assert_cause(SOCKS, Step::Method, says([5, 0xff]), missing);
    assert_cause(SOCKS_LOGIN, Step::Method, says([5, 0xff]), wrong);
    assert_cause(SOCKS_LOGIN, Step::Login, says([1, 1]), wrong);
    let needed = "HTTP/1.1 407 x\r\nContent-Length: 3\r\n\r\nno!";
    assert_cause(HTTP, Step::Head, says(needed), missing);
    assert_cause(HTTP_LOGIN, Step::Head, says(needed), wrong);
}

#[test]
fn each_status_but_a_2xx_is_a_refusal_and_tried_again_where_that_may_help() {
    for (status, again) in [
        (301, false),
        (400, false),
        (403, false),
        (405, false),
        (429, true),
        (500, true),
        (501, false),
        (502, true),
        (503, true),
        (504, true),
    ] {
        let fault = says(format!("HTTP/1.1 {status} x\r\nContent-Length: 99\r\n\r\n"));
        let words = format!("refused CONNECT with {status}");
        assert_cause(HTTP, Step::Head, fault, ("proxy_refused", &words, again));
    }
}

#[test]
fn what_makes_no_sense_is_told_at_once_and_not_tried_again() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(16 << 10));
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    let garbage = |words| ("proxy_failed", words, false);
    for (kind, step, answer, words) in [
        (
            SOCKS,
            Step::Method,
            &b"HTTP/1.1 400 x\r\n\r\n"[..],
            "no SOCKS 5",
        ),
        (SOCKS, Step::Method, &[4, 0], "no SOCKS 5"),
        (SOCKS, Step::Method, &[5, 2], "not offered"),
        (SOCKS_LOGIN, Step::Method, &[5, 1], "not offered"),
        (SOCKS_LOGIN, Step::Login, &[5, 0], "no SOCKS 5"),
        (
            SOCKS,
            Step::Request,
            &[0, 90, 0, 0, 0, 0, 0, 0],
            "no SOCKS 5",
        ),
        (SOCKS, Step::Request, &[5, 0, 0, 2], "unknown type"),
        (HTTP, Step::Head, &[5, 0], "does not start with HTTP/1."),
        (
            HTTP,
            Step::Head,
            b"HTTP/2 200\r\n\r\n",
            "does not start with HTTP/1.",
        ),
        (HTTP, Step::Head, b"HTTP/1.1 abc\r\n\r\n", "status-line"),
        (HTTP, Step::Head, b"HTTP/1.1 200 OK\n\n", "LF"),
        (HTTP, Step::Head, long.as_bytes(), "16 KiB"),
        (HTTP, Step::Head, interim.as_bytes(), "16 KiB"),
        (
            HTTP,
            Step::Head,
            b"HTTP/1.1 101 x\r\n\r\n",
            "switches protocols",
        ),
    ] {
        let bytes = answer.to_vec();
        let fault = act(move |peer| {
            peer.send_if_taken(&bytes);
            peer.is_closed();
        });
        assert_cause(kind, step, fault, garbage(words));
    }
}

#[test]
fn a_proxy_that_breaks_off_wherever_it_is_is_tried_again() {
    let cases = [
        (SOCKS_LOGIN, Step::Method, &[5, 2][..]),
        (SOCKS_LOGIN, Step::Login, &[1, 0]),
        (SOCKS_LOGIN, Step::Request, yes(Step::Request)),
        (HTTP, Step::Head, yes(Step::Head)),
    ];
    for (kind, step, answer) in cases {
        for end in [0, 1, answer.len() - 1] {
            for reset in [false, true] {
                let half = answer[..end].to_vec();
                let fault = act(move |peer: &mut Peer| {
                    peer.send(half);
                    peer.until_taken();
                    match reset {
                        true => peer.reset(),
                        false => peer.close(),
                    }
                });
                let words = "broke the connection in the handshake";
                assert_cause(kind, step, fault, ("proxy_failed", words, true));
            }
        }
    }
}

/// All of connecting has one limit, however busy the proxy keeps us.
#[test]
fn a_proxy_that_hangs_or_trickles_is_given_up_when_the_time_to_connect_is_over() {
    let trickle: Act = act(|peer: &mut Peer| {
        let head = "HTTP/1.1 100 Continue\r\n\r\n".repeat(600);
        let mut bytes = head.bytes();
        while peer.send_if_taken(&[bytes.next().expect("it is given up before")]) {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let hangs = || {
        act(|peer: &mut Peer| {
            peer.is_closed();
        })
    };
    for (kind, step, fault) in [
        (SOCKS, Step::Method, hangs()),
        (SOCKS_LOGIN, Step::Login, hangs()),
        (SOCKS, Step::Request, hangs()),
        (HTTP, Step::Head, hangs()),
        (HTTP, Step::Head, trickle),
    ] {
        let outbound = Origin::plays([act(move |peer| {
            hears(peer, kind, step);
            fault(peer);
        })]);
        let settings = [
            ("UPSTREAM_MAX_ATTEMPTS", "1"),
            ("CONNECT_TIMEOUT_SECONDS", "1"),
        ];
        let proxy = start(kind, &outbound, &settings);
        let begun = Instant::now();
        let refusal = Client::connect(&proxy).exchange(post("/", b"{}"));
        let took = begun.elapsed();
        refusal.assert_refusal(504, "upstream_timeout");
        let text = refusal.text();
        let words = "through the outbound proxy within 1 s (CONNECT_TIMEOUT_SECONDS)";
        assert!(text.contains(words), "{text}");
        let limit = Duration::from_secs(1);
        assert!((limit..10 * limit).contains(&took), "{took:?}");
        proxy.logs(&["phase=proxy", "failure=proxy_timeout", "delivery=not_sent"]);
    }
}

#[test]
fn a_proxy_that_cannot_be_reached_is_told_from_an_upstream_that_cannot() {
    let vacant = Vacant::new();
    let (deaf, _listener, _queued) = full_backlog();
    let there = |addr| format!("http://{addr}");
    for (url, status, words, failure) in [
        (
            there(vacant.addr),
            502,
            "could not connect to the outbound proxy",
            "phase=connect failure=connect_failed delivery=not_sent",
        ),
        (
            there(deaf),
            504,
            "CONNECT_TIMEOUT_SECONDS",
            "phase=connect failure=connect_timeout delivery=not_sent",
        ),
        (
            "socks5://no-such-proxy.invalid".to_owned(),
            502,
            "no-such-proxy.invalid",
            "phase=resolve",
        ),
    ] {
        let settings = [
            ("OUTBOUND_PROXY", &*url),
            ("UPSTREAM_MAX_ATTEMPTS", "1"),
            ("CONNECT_TIMEOUT_SECONDS", "2"),
        ];
        let proxy = Proxy::start_at("http://192.0.2.1", &settings);
        let refusal = Client::connect(&proxy).exchange(post("/", b"{}"));
        assert_eq!(refusal.status(), status, "{}", refusal.text());
        assert!(refusal.text().contains(words), "{}", refusal.text());
        proxy.logs(&["attempt=1", failure]);
    }
}
