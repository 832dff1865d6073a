//! One line an exchange, one line a failed attempt.
use std::sync::mpsc;

use crate::support::{
    Client, OK, Origin, Proxy, RESCUE, act, answers, closes, get, hangs, post, resets, soon,
};

#[test]
fn an_exchange_leaves_one_line() {
    let origin = Origin::plays([act(|peer| {
        for _ in 0..3 {
            peer.request();
            peer.send(OK);
        }
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    for _ in 0..3 {
        client.exchange(post("/v1/responses?query", b"{}"));
    }
    let lines = proxy.logs_times(3, &["/v1/responses"]);
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in lines {
        let parts = ["POST", "status=200", "attempts=1", "total_ms=", "outcome="];
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        assert!(!line.contains("query"), "{line}");
    }
}

#[test]
fn a_failed_attempt_leaves_one_line_with_its_phase() {
    let origin = Origin::plays([hangs(), resets(), answers(OK)]);
    let proxy = Proxy::start(
        &origin,
        &[RESCUE[0], RESCUE[1], ("UPSTREAM_MAX_ATTEMPTS", "3")],
    );
    Client::connect(&proxy).exchange(post("/v1", b"{}"));
    let done = proxy.logs(&["/v1", "status=200", "attempts=3"]);
    let id = done.split("id=").nth(1).unwrap();
    let id = id.split_whitespace().next().unwrap();
    let lines = proxy.logs_times(2, &[id, "attempt failed"]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (number, line) in lines.iter().enumerate() {
        let attempt = format!("attempt={}", number + 1);
        let parts = ["WARN", attempt.as_str(), "phase=", "ms="];
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
}

#[test]
fn a_refusal_leaves_one_line_with_the_id_that_the_client_was_told() {
    let origin = Origin::plays([closes(), closes()]);
    let proxy = Proxy::start(&origin, &[]);
    let response = Client::connect(&proxy).exchange(post("/v1", b"{}"));
    let id = response.head.field("x-request-id").unwrap();
    let line = proxy.logs(&[&id, "status=502"]);
    assert!(line.contains("upstream_request_error"), "{line}");
}

#[test]
fn a_client_that_leaves_is_not_an_error() {
    let origin = Origin::plays([act(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nevent\r\n");
        peer.is_closed();
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    client.send(post("/v1", b"{}"));
    client.head();
    client.receive_chunked("event");
    client.leave();
    let line = proxy.logs(&["/v1", "status=200"]);
    assert!(line.contains("INFO"), "{line}");
}

#[test]
fn a_log_that_nobody_reads_does_not_stop_the_proxy() {
    // The pipe holds 64 KiB; more lines than that are lost, and nothing waits for them.
    const EXCHANGES: usize = 2000;
    let origin = Origin::serves(1, |peer| {
        while peer.next_request().is_some() {
            peer.send(OK);
        }
    });
    let proxy = Proxy::start_unread(&origin, &[("LOG_LEVEL", "TRACE"), ("WORKERS", "1")]);
    let mut client = Client::connect(&proxy);
    for _ in 0..EXCHANGES {
        assert_eq!(client.exchange(get("/")).status(), 200);
    }
}

#[test]
fn log_lines_can_be_json() {
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[("LOG_FORMAT", "json")]);
    Client::connect(&proxy).exchange(get("/v1"));
    let line = proxy.logs(&["/v1"]);
    assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    assert!(line.contains(r#""status":200"#), "{line}");
}

/// Whether a request is logged as rescued whose client leaves between the last event and the end.
fn is_logged_as_rescued() -> bool {
    let (left, has_left) = mpsc::channel::<()>();
    let origin = Origin::plays([
        hangs(),
        act(move |peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nlast\r\n");
            soon(&has_left);
            peer.send_if_taken(b"0\r\n\r\n");
            peer.is_closed_after();
        }),
    ]);
    let proxy = Proxy::start(&origin, &RESCUE);
    let mut client = Client::connect(&proxy);
    client.send(post("/v1", b"{}"));
    client.head();
    client.receive_chunked("last");
    client.leave();
    left.send(()).unwrap();
    let line = proxy.logs(&["outcome="]);
    line.contains("outcome=\"rescued\" detail=the client closed just before the end")
}

#[test]
fn a_client_that_has_seen_enough_just_before_the_end_has_been_answered() {
    // What is left of the response is followed for a short while, which a busy machine may miss.
    const TRIES: usize = 5;
    assert!((0..TRIES).any(|_| is_logged_as_rescued()));
}
