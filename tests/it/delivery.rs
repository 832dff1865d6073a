//! How far the request of a failed attempt came. What the upstream's program could read of it, until the
//! very end of the connection, is the judge: where it is not said to be taken whole, it never was.
use std::net::TcpListener;
use std::sync::mpsc;

use rustix::net::sockopt;

use crate::support::net::{swallow_data, swallow_no_more, until_stuck};
use crate::support::{
    Authority, Client, OK, Origin, Peer, Proxy, Stream, Vacant, Wire, act, answers, get, post, soon,
};

/// One pool, whichever connection a client uses.
const ALONE: (&str, &str) = ("WORKERS", "1");
const HEADER_LIMIT: (&str, &str) = ("RESPONSE_HEADER_TIMEOUT_SECONDS", "0.5");
const LAST_LIMIT: (&str, &str) = ("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS", "30");
const WRITE_LIMIT: (&str, &str) = ("WRITE_TIMEOUT_SECONDS", "1");
/// Time for the kernel to send the same bytes again several times.
const LONG: (&str, &str) = ("RESPONSE_HEADER_TIMEOUT_SECONDS", "4");
const SMALL: usize = 2000;
/// More than the peer's kernel takes for a program that does not read, and less than ours does.
const MEDIUM: usize = 1 << 20;
/// More than both take.
const LARGE: usize = 30 << 20;

type Play = fn(&mut Peer);

/// What an upstream does with a request, without an answer.
struct Case {
    body: usize,
    play: Play,
    /// The limit that ends it, where one does.
    limit: Option<(&'static str, &'static str)>,
    /// One of these is told.
    told: &'static [&'static str],
    /// Whether its program has the whole request in the end; `None`: that depends.
    whole: Option<bool>,
}

/// TLS: shakes hands, and reads nothing beyond.
fn greet(peer: &mut Peer) {
    if matches!(peer.wire().stream, Stream::Tls(_)) {
        let flight = peer.flight();
        peer.send_sealed(&flight);
    }
}

fn until_something_came(peer: &mut Peer) {
    let tcp = peer.wire().stream.tcp();
    assert!(tcp.peek(&mut [0]).unwrap() > 0);
}

fn until_full(peer: &mut Peer) {
    greet(peer);
    until_stuck(peer.wire().stream.tcp());
}

/// Fails once by `case`, on either kind of connection, and is answered on another.
fn judge(case: &Case, authority: Option<&Authority>) {
    let (tell, gave_up) = mpsc::channel();
    let (looked, seen) = mpsc::channel();
    let play = case.play;
    let first = act(move |peer| {
        play(peer);
        soon(&gave_up);
        if peer.is_open() {
            peer.next_whole_request();
            peer.is_closed_after();
        }
        looked.send(()).unwrap();
    });
    let second = act(move |peer| {
        peer.request();
        tell.send(()).unwrap();
        soon(&seen);
        peer.send(OK);
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    sockopt::set_socket_recv_buffer_size(&listener, 64 << 10).unwrap();
    let (origin, file) = match authority {
        Some(authority) => (
            Origin::plays_tls_on(listener, authority, [first, second]),
            authority.file(),
        ),
        None => (Origin::plays_on(listener, [first, second]), ""),
    };
    let mut settings = vec![ALONE, LAST_LIMIT, ("UPSTREAM_CA_FILE", file)];
    settings.extend(case.limit);
    let proxy = Proxy::start(&origin, &settings);
    let response = Client::connect(&proxy).exchange(post("/v1", &vec![b'x'; case.body]));
    assert_eq!(response.status(), 200);
    let told = response.failed_attempts();
    assert_eq!(told.len(), 1, "{told:?}");
    let told = told[0].strip_prefix("1=").unwrap();
    let (told, seconds) = told.rsplit_once(',').unwrap();
    assert!(seconds.ends_with('s'), "{seconds}");
    let whole = origin.requests().len() == 2;
    assert!(!whole || told.starts_with("acked,"), "{told}, and it came");
    assert!(case.told.contains(&told), "{told}, and not {:?}", case.told);
    assert!(case.whole.is_none_or(|expected| expected == whole));
    let (delivery, failure) = told.split_once(',').unwrap();
    let (delivery, failure) = (
        format!("delivery={delivery} "),
        format!("failure={failure} "),
    );
    proxy.logs(&["attempt failed", &delivery, &failure]);
}

fn judge_both(case: &Case) {
    judge(case, None);
    judge(case, Some(&Authority::new()));
}

#[test]
fn a_request_that_is_read_and_not_answered_may_have_been_processed() {
    judge_both(&Case {
        body: SMALL,
        play: |peer| drop(peer.request()),
        limit: Some(HEADER_LIMIT),
        told: &["acked,header_timeout"],
        whole: Some(true),
    });
}

#[test]
fn a_request_that_waits_in_the_peers_kernel_may_be_processed_yet() {
    judge_both(&Case {
        body: SMALL,
        play: greet,
        limit: Some(HEADER_LIMIT),
        told: &["acked,header_timeout"],
        whole: Some(true),
    });
}

#[test]
fn a_request_whose_end_has_not_left_never_does() {
    judge_both(&Case {
        body: MEDIUM,
        play: greet,
        limit: Some(HEADER_LIMIT),
        told: &["not_acked,header_timeout"],
        whole: Some(false),
    });
}

#[test]
fn a_request_that_is_not_taken_was_not_processed() {
    judge_both(&Case {
        body: LARGE,
        play: greet,
        limit: Some(WRITE_LIMIT),
        told: &["not_acked,write_timeout"],
        whole: Some(false),
    });
}

#[test]
fn a_reset_after_the_request_was_read_may_hide_that_it_was_processed() {
    judge_both(&Case {
        body: SMALL,
        play: |peer| {
            peer.request();
            peer.reset();
        },
        limit: None,
        told: &["acked,read_failed"],
        whole: Some(true),
    });
}

#[test]
fn a_reset_proves_nothing_of_what_was_not_read() {
    let case = Case {
        body: SMALL,
        play: |peer| {
            greet(peer);
            until_something_came(peer);
            peer.reset();
        },
        limit: None,
        told: &["acked,read_failed"],
        whole: Some(false),
    };
    judge(&case, None);
    let over_tls = Case {
        // What came may have been the end of the handshake.
        told: &[
            "acked,read_failed",
            "acked,closed",
            "not_sent,write_failed",
            "not_sent,read_failed",
        ],
        ..case
    };
    judge(&over_tls, Some(&Authority::new()));
}

#[test]
fn a_reset_of_a_request_that_has_not_all_left_proves_that_it_was_not_processed() {
    let unread: Play = |peer| {
        until_full(peer);
        peer.reset();
    };
    let partly_read: Play = |peer| {
        greet(peer);
        peer.take(1 << 20);
        until_stuck(peer.wire().stream.tcp());
        peer.reset();
    };
    for play in [unread, partly_read] {
        judge_both(&Case {
            body: LARGE,
            play,
            limit: None,
            told: &[
                "not_acked,read_failed",
                "not_acked,write_failed",
                "not_acked,closed",
            ],
            whole: Some(false),
        });
    }
}

#[test]
fn an_end_after_the_request_was_read_may_hide_that_it_was_processed() {
    judge_both(&Case {
        body: SMALL,
        play: |peer| {
            peer.request();
            peer.close_with_notify();
        },
        limit: None,
        told: &["acked,closed"],
        whole: Some(true),
    });
}

#[test]
fn an_end_proves_nothing_of_what_is_read_after_it() {
    let case = Case {
        body: SMALL,
        play: |peer| {
            greet(peer);
            until_something_came(peer);
            peer.half_close();
        },
        limit: None,
        told: &["acked,closed"],
        whole: Some(true),
    };
    judge(&case, None);
    let over_tls = Case {
        told: &["acked,closed", "not_sent,closed"],
        whole: None,
        ..case
    };
    judge(&over_tls, Some(&Authority::new()));
}

#[test]
fn an_end_before_the_request_has_all_left_means_that_it_never_does() {
    for body in [MEDIUM, LARGE] {
        judge_both(&Case {
            body,
            play: |peer| {
                until_full(peer);
                peer.half_close();
            },
            limit: None,
            told: &["not_acked,closed"],
            whole: Some(false),
        });
    }
}

#[test]
fn an_upstream_that_cannot_be_reached_was_sent_nothing() {
    let vacant = Vacant::new();
    let proxy = Proxy::start_at(&vacant.url(), &[ALONE, ("RETRY_BACKOFF_SECONDS", "1")]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    proxy.logs(&["attempt failed", "delivery=not_sent"]);
    let origin = Origin::plays_on(vacant.listen(), [answers(OK)]);
    let response = client.response();
    assert_eq!((response.status(), response.attempts()), (200, Some(1)));
    assert_eq!(
        response.failed_attempts(),
        ["1=not_sent,connect_failed,0.0s"]
    );
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_handshake_that_is_never_answered_is_no_request() {
    let authority = Authority::new();
    let origin = Origin::plays_tls(&authority, [act(|peer| peer.is_deaf())]);
    let settings = [
        ("UPSTREAM_CA_FILE", authority.file()),
        ("CONNECT_TIMEOUT_SECONDS", "0.3"),
        ("UPSTREAM_MAX_ATTEMPTS", "1"),
    ];
    let proxy = Proxy::start(&origin, &settings);
    let response = Client::connect(&proxy).exchange(get("/"));
    response.assert_refusal(504, "upstream_timeout");
    proxy.logs(&[
        "attempt failed",
        "failure=connect_timeout",
        "delivery=not_sent",
    ]);
}

#[test]
fn what_a_kernel_takes_for_a_program_that_never_accepts_may_be_processed_yet() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let proxy = Proxy::start_at(&url, &[HEADER_LIMIT]);
    let response = Client::connect(&proxy).exchange(post("/v1", b"{}"));
    response.assert_refusal(504, "upstream_header_timeout");
    let told = response.failed_attempts();
    assert_eq!(told.len(), 2, "{told:?}");
    for (told, number) in told.iter().zip(1..) {
        let expected = format!("{number}=acked,header_timeout,");
        assert!(told.starts_with(&expected), "{told}");
        let (tcp, _) = listener.accept().unwrap();
        let mut wire = Wire::new(Stream::Plain(tcp));
        assert!(wire.head().unwrap().line().starts_with("POST /v1 "));
        assert_eq!(wire.exact(2).unwrap(), b"{}");
    }
}

/// Gives up what fell into a hole, and says so; is answered on another connection.
fn judge_hole(origin: &Origin, settings: &[(&str, &str)]) {
    let settings = [&[ALONE, LAST_LIMIT, LONG], settings].concat();
    let proxy = Proxy::start(origin, &settings);
    let response = Client::connect(&proxy).exchange(post("/v1", b"{}"));
    assert_eq!((response.status(), response.attempts()), (200, Some(2)));
    let told = response.failed_attempts();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].starts_with("1=not_acked,header_timeout,"),
        "{told:?}"
    );
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn a_request_that_falls_into_a_hole_was_not_processed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    swallow_data(&listener);
    let other = listener.try_clone().unwrap();
    let first = act(move |peer| {
        swallow_no_more(&other); // for the next
        peer.is_closed();
    });
    let origin = Origin::plays_on(listener, [first, answers(OK)]);
    judge_hole(&origin, &[]);
}

#[test]
fn a_request_behind_a_handshake_whose_end_is_lost_was_not_processed() {
    let authority = Authority::new();
    let first = act(|peer| {
        let flight = peer.flight();
        swallow_data(peer.wire().stream.tcp());
        peer.send_sealed(&flight);
        peer.is_closed();
    });
    let origin = Origin::plays_tls(&authority, [first, answers(OK)]);
    judge_hole(&origin, &[("UPSTREAM_CA_FILE", authority.file())]);
}

#[test]
fn what_is_still_on_its_way_may_arrive() {
    // Given up before the kernel has sent it often enough to know.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    swallow_data(&listener);
    let other = listener.try_clone().unwrap();
    let (tell, gave_up) = mpsc::channel();
    let first = act(move |peer| {
        swallow_no_more(&other);
        soon(&gave_up);
        swallow_no_more(peer.wire().stream.tcp());
        peer.request();
        peer.is_closed();
    });
    let second = act(move |peer| {
        peer.request();
        tell.send(()).unwrap();
        peer.send(OK);
    });
    let origin = Origin::plays_on(listener, [first, second]);
    let soon = ("RESPONSE_HEADER_TIMEOUT_SECONDS", "0.1");
    let proxy = Proxy::start(&origin, &[LAST_LIMIT, soon]);
    let response = Client::connect(&proxy).exchange(post("/v1", b"{}"));
    let told = response.failed_attempts();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("1=acked,header_timeout,"), "{told:?}");
    let (one, other) = (origin.request(1), origin.request(2));
    assert_eq!(one, other);
}

#[test]
fn a_stale_connection_is_told_with_how_far_the_request_came() {
    let plays: [(usize, Play, &str); 3] = [
        (
            SMALL,
            |peer| {
                peer.request();
                peer.close();
            },
            "stale=acked,closed,",
        ),
        (
            SMALL,
            |peer| {
                peer.request();
                peer.reset();
            },
            "stale=acked,read_failed,",
        ),
        (
            LARGE,
            |peer| {
                until_full(peer);
                peer.half_close();
                peer.is_closed_after();
            },
            "stale=not_acked,closed,",
        ),
    ];
    for (body, play, expected) in plays {
        let first = act(move |peer| {
            peer.request();
            peer.send(OK);
            play(peer);
        });
        let origin = Origin::plays([first, answers(OK)]);
        let proxy = Proxy::start(&origin, &[ALONE]);
        let mut client = Client::connect(&proxy);
        client.exchange(get("/before"));
        proxy.ended(1);
        let response = client.exchange(post("/v1", &vec![b'x'; body]));
        assert_eq!((response.status(), response.attempts()), (200, Some(2)));
        let told = response.failed_attempts();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(expected), "{told:?}");
    }
}
