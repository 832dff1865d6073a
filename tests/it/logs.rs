//! One line an exchange, one line a failed attempt.
use std::sync::mpsc;

use serde_json::Value;

use crate::support::metrics::Numbers;
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
        assert!(
            line.contains(" answered    200 POST /v1/responses  "),
            "{line}"
        );
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
    let done = proxy.logs(&[" rescued     200 POST /v1 ", "  attempts 3  "]);
    let (_, id) = done.split_once("  id=").unwrap();
    let lines = proxy.logs_times(2, &[id, "attempt failed"]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (number, line) in lines.iter().enumerate() {
        let attempt = format!(" attempt={} ", number + 1);
        let parts = [" WARN  attempt failed  id=", &attempt, " phase=", " ms="];
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
}

#[test]
fn an_id_is_the_same_in_every_line_and_in_field_and_body_of_the_refusal() {
    for (format, shown) in [("text", " id="), ("json", r#""id":""#)] {
        let origin = Origin::plays([closes(), closes()]);
        let proxy = Proxy::start(&origin, &[("LOG_FORMAT", format)]);
        let response = Client::connect(&proxy).exchange(post("/v1", b"{}"));
        response.assert_refusal(502, "upstream_request_error");
        let told: Value = serde_json::from_slice(&response.body).unwrap();
        let id = told["error"]["request_id"].as_str().unwrap();
        assert_eq!(response.head.field("x-request-id").as_deref(), Some(id));
        let shown = format!("{shown}{id}");
        assert!(proxy.ended(1)[0].contains(&shown), "{}", proxy.text());
        proxy.logs_times(2, &[&shown, "attempt failed"]);
    }
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
    proxy.logs(&[" INFO  client left 200 POST /v1 ", "during the response"]);
}

#[test]
fn a_log_that_nobody_reads_does_not_stop_the_proxy() {
    // The pipe holds 64 KiB and the queue 10 000 lines; more are lost, and nothing waits for them.
    const EXCHANGES: usize = 6000;
    let origin = Origin::serves(1, |peer| {
        while peer.next_request().is_some() {
            peer.send(OK);
        }
    });
    let settings = [
        ("LOG_LEVEL", "TRACE"),
        ("WORKERS", "1"),
        ("ADMIN_PORT", "0"),
    ];
    let proxy = Proxy::start_unread(&origin, &settings);
    let mut client = Client::connect(&proxy);
    for _ in 0..EXCHANGES {
        assert_eq!(client.exchange(get("/")).status(), 200);
    }
    let lost = proxy.status()["log_lines_lost"].as_u64().unwrap();
    let written = 2 * EXCHANGES as u64; // a line for each attempt as well
    assert!(lost > 0 && lost < written - 10_000, "{lost}");
    let metric = Numbers::of(&proxy).value("log_lines_lost_total");
    assert_eq!(metric, lost as f64);
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
    let lines = proxy.ended(1);
    lines[0].contains(" rescued ") && lines[0].ends_with("  the client closed just before the end")
}

#[test]
fn a_client_that_has_seen_enough_just_before_the_end_has_been_answered() {
    // What is left of the response is followed for a short while, which a busy machine may miss.
    const TRIES: usize = 5;
    assert!((0..TRIES).any(|_| is_logged_as_rescued()));
}
