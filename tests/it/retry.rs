//! A request that upstream leaves unanswered is sent again, and only then.
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Client, DEADLINE, OK, Origin, Proxy, RESCUE, Vacant, act, answers, closes, full_backlog, hangs,
    post, resets,
};

const IMPATIENT: (&str, &str) = ("RESPONSE_HEADER_TIMEOUT_SECONDS", "0.2");
const LIMIT: Duration = Duration::from_millis(200);

#[test]
fn a_request_left_unanswered_is_sent_again_with_the_same_bytes_on_a_new_connection() {
    let origin = Origin::plays([hangs(), answers(OK)]);
    let proxy = Proxy::start(&origin, &RESCUE);
    let response = Client::connect(&proxy).exchange(post("/v1/responses?q=%2F", b"{\"a\":1}"));
    assert_eq!(response.status(), 200);
    assert_eq!(response.text(), "ok");
    assert_eq!(response.attempts(), Some(2));
    let requests = origin.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], requests[1]);
}

#[test]
fn an_upstream_that_never_answers_is_reported_after_all_attempts() {
    let origin = Origin::plays([hangs(), hangs(), hangs()]);
    let proxy = Proxy::start(
        &origin,
        &[
            IMPATIENT,
            ("UPSTREAM_MAX_ATTEMPTS", "3"),
            ("RETRY_BACKOFF_SECONDS", "0.15"),
        ],
    );
    let mut client = Client::connect(&proxy);
    let start = Instant::now();
    let response = client.exchange(post("/v1/responses", b"{}"));
    let took = start.elapsed();
    response.assert_refusal(504, "upstream_header_timeout");
    assert_eq!(response.attempts(), Some(3));
    let text = response.text();
    assert!(text.contains("RESPONSE_HEADER_TIMEOUT_SECONDS"), "{text}");
    let expected = LIMIT * 3 + Duration::from_millis(150) * 2;
    assert!(took >= expected, "gave up after {took:?}");
    assert!(took < expected * 2, "gave up after {took:?}");
    let requests = origin.requests();
    assert!(requests.iter().all(|request| *request == requests[0]));
}

#[test]
fn a_client_whose_request_was_refused_can_send_another() {
    let origin = Origin::plays([hangs(), answers(OK)]);
    let proxy = Proxy::start(&origin, &[IMPATIENT, ("UPSTREAM_MAX_ATTEMPTS", "1")]);
    let mut client = Client::connect(&proxy);
    let response = client.exchange(post("/", b"{}"));
    response.assert_refusal(504, "upstream_header_timeout");
    if response.head.closes() {
        client.is_closed();
        client = Client::connect(&proxy);
    }
    assert_eq!(client.exchange(post("/", b"{}")).status(), 200);
}

#[test]
fn a_reset_before_any_byte_is_rescued() {
    let origin = Origin::plays([resets(), answers(OK)]);
    let proxy = Proxy::start(&origin, &[]);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    assert_eq!(response.status(), 200);
    assert_eq!(response.attempts(), Some(2));
    assert_eq!(origin.requests()[0], origin.requests()[1]);
}

#[test]
fn a_close_before_any_byte_is_rescued() {
    let origin = Origin::plays([closes(), answers(OK)]);
    let proxy = Proxy::start(&origin, &[]);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    assert_eq!(response.status(), 200);
    assert_eq!(response.attempts(), Some(2));
    assert_eq!(origin.requests()[0], origin.requests()[1]);
}

#[test]
fn a_close_before_the_request_is_read_is_rescued() {
    let origin = Origin::plays([act(|peer| peer.reset()), answers(OK)]);
    let proxy = Proxy::start(&origin, &[]);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    assert_eq!(response.status(), 200);
    assert_eq!(origin.requests().len(), 1);
}

#[test]
fn an_upstream_that_always_resets_is_a_bad_gateway() {
    let origin = Origin::plays([resets(), closes()]);
    let proxy = Proxy::start(&origin, &[]);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    response.assert_refusal(502, "upstream_request_error");
    assert_eq!(response.attempts(), Some(2));
}

#[test]
fn a_refused_connection_is_a_bad_gateway_and_was_never_sent() {
    let vacant = Vacant::new();
    let proxy = Proxy::start_at(&vacant.url(), &[("RETRY_BACKOFF_SECONDS", "0.1")]);
    let mut client = Client::connect(&proxy);
    let start = Instant::now();
    let response = client.exchange(post("/", b"{}"));
    response.assert_refusal(502, "upstream_request_error");
    assert!(start.elapsed() >= Duration::from_millis(100), "no back-off");
    assert!(matches!(response.attempts(), None | Some(0)));
}

#[test]
fn an_upstream_that_comes_back_during_the_back_off_is_reached() {
    let vacant = Vacant::new();
    let url = vacant.url();
    let proxy = Proxy::start_at(&url, &[("RETRY_BACKOFF_SECONDS", "1")]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    proxy.logs(&["attempt", "refused"]);
    let origin = Origin::plays_on(vacant.listen(), [answers(OK)]);
    assert_eq!(client.response().status(), 200);
    assert_eq!(origin.requests().len(), 1);
    drop(proxy);
}

#[test]
fn connecting_has_a_limit() {
    let (addr, _listener, _queued) = full_backlog();
    let settings = [("CONNECT_TIMEOUT_SECONDS", "0.2")];
    let proxy = Proxy::start_at(&format!("http://{addr}"), &settings);
    let start = Instant::now();
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    response.assert_refusal(504, "upstream_timeout");
    let text = response.text();
    assert!(text.contains("CONNECT_TIMEOUT_SECONDS"), "{text}");
    assert!(start.elapsed() >= LIMIT * 2);
    assert!(start.elapsed() < DEADLINE);
}

#[test]
fn sending_has_a_limit_without_progress() {
    let deaf = || {
        act(|peer| {
            peer.head();
            peer.is_deaf();
        })
    };
    let origin = Origin::plays([deaf(), deaf()]);
    let proxy = Proxy::start(&origin, &[("WRITE_TIMEOUT_SECONDS", "0.3")]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", &vec![b'x'; 30 << 20]));
    let response = client.response();
    response.assert_refusal(504, "upstream_timeout");
    let text = response.text();
    assert!(text.contains("WRITE_TIMEOUT_SECONDS"), "{text}");
}

#[test]
fn a_slow_reader_that_makes_progress_is_waited_for() {
    const BODY: usize = 16 << 20;
    let origin = Origin::plays([act(|peer| {
        peer.head();
        for _ in 0..8 {
            thread::sleep(Duration::from_millis(200)); // the upstream's slowness, not a wait
            peer.take(BODY / 8);
        }
        peer.send(OK);
    })]);
    let proxy = Proxy::start(&origin, &[("WRITE_TIMEOUT_SECONDS", "1")]);
    let response = Client::connect(&proxy).exchange(post("/", &vec![b'x'; BODY]));
    assert_eq!(response.status(), 200);
    assert_eq!(response.attempts(), Some(1));
}

#[test]
fn one_attempt_means_that_nothing_is_sent_twice() {
    for fault in [hangs, resets, closes] {
        let origin = Origin::plays([fault()]);
        let proxy = Proxy::start(&origin, &[IMPATIENT, ("UPSTREAM_MAX_ATTEMPTS", "1")]);
        let response = Client::connect(&proxy).exchange(post("/", b"{}"));
        assert!(matches!(response.status(), 502 | 504));
        assert_eq!(response.attempts(), Some(1));
        assert_eq!(origin.requests().len(), 1);
    }
}

#[test]
fn the_last_attempt_has_a_limit_of_its_own() {
    let patient = act(|peer| {
        peer.request();
        thread::sleep(LIMIT * 3); // the upstream's slowness, not a wait
        peer.send(OK);
    });
    let origin = Origin::plays([hangs(), patient]);
    let settings = [IMPATIENT, ("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS", "0")];
    let proxy = Proxy::start(&origin, &settings);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    assert_eq!(response.status(), 200);
    assert_eq!(response.attempts(), Some(2));
}

#[test]
fn the_last_attempts_limit_can_be_shorter_and_names_its_setting() {
    let origin = Origin::plays([hangs()]);
    let settings = [
        ("UPSTREAM_MAX_ATTEMPTS", "1"),
        ("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS", "0.1"),
    ];
    let proxy = Proxy::start(&origin, &settings);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    response.assert_refusal(504, "upstream_header_timeout");
    let text = response.text();
    let named = text.contains("LAST_ATTEMPT_HEADER_TIMEOUT_SECONDS");
    assert!(named, "{text}");
}

#[test]
fn the_header_limit_starts_when_the_request_is_sent() {
    const BODY: usize = 16 << 20;
    let origin = Origin::plays([act(|peer| {
        peer.head();
        // Longer than the limit, while the request is still going out.
        thread::sleep(Duration::from_millis(1500));
        peer.take(BODY);
        peer.send(OK);
    })]);
    let proxy = Proxy::start(&origin, &[("RESPONSE_HEADER_TIMEOUT_SECONDS", "1")]);
    let response = Client::connect(&proxy).exchange(post("/", &vec![b'x'; BODY]));
    assert_eq!(response.status(), 200);
    assert_eq!(response.attempts(), Some(1));
}
