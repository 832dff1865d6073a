//! What is not forwarded is refused with the right status and code, and nothing of it goes upstream.
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, OK, Origin, Proxy, act, answers, chunked, get};

/// Sends each request on a connection of its own; all must be refused alike and closed.
fn assert_refused(requests: &[Vec<u8>], status: u16, code: &str) {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[]);
    for request in requests {
        let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
        let mut client = Client::connect(&proxy);
        client.send_if_taken(request);
        let response = client.try_response("GET");
        let response = response.unwrap_or_else(|cut| panic!("{shown:?}: {cut:?}"));
        assert_eq!(response.status(), status, "{shown:?}: {}", response.text());
        response.assert_refusal(status, code);
        assert_eq!(response.attempts(), None, "{shown:?}");
        client.is_closed();
    }
}

#[test]
fn a_head_over_64_kib_or_128_fields_is_refused() {
    let bytes = format!(
        "GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
        "x".repeat(65 << 10)
    );
    let endless = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(80 << 10));
    let fields: String = (0..128).map(|n| format!("X-{n}: v\r\n")).collect();
    let fields = format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let requests = [bytes.into(), endless.into(), fields.into()];
    assert_refused(&requests, 431, "header_fields_too_large");
}

#[test]
fn a_request_line_over_32_kib_is_refused() {
    let target = format!("/{}", "x".repeat(33 << 10));
    let requests = [get(&target).into(), format!("GET {target}").into()];
    assert_refused(&requests, 414, "uri_too_long");
}

#[test]
fn what_just_fits_is_forwarded() {
    let origin = Origin::plays([act(|peer| {
        for _ in 0..3 {
            peer.request();
            peer.send(OK);
        }
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    let start = "GET / HTTP/1.1\r\nHost: h\r\nX: ";
    let padding = "x".repeat((64 << 10) - start.len() - 4);
    let fields: String = (0..127).map(|n| format!("X-{n}: v\r\n")).collect();
    let line = "x".repeat((32 << 10) - "GET / HTTP/1.1\r\n".len());
    for request in [
        format!("{start}{padding}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n"),
        get(&format!("/{line}")),
    ] {
        let response = client.exchange(request);
        assert_eq!(response.status(), 200, "{}", response.text());
    }
}

#[test]
fn empty_lines_without_end_are_refused() {
    let request = "\r\n".repeat(100) + &get("/");
    assert_refused(&[request.into()], 400, "bad_request");
}

#[test]
fn a_body_that_claims_too_much_is_refused_before_it_comes() {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[("MAX_REQUEST_BODY_BYTES", "1000")]);
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut client = Client::connect(&proxy);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\n{expect}Content-Length: 1001\r\n\r\n"
        ));
        let response = client.response();
        response.assert_refusal(413, "request_body_too_large");
        assert!(response.text().contains("MAX_REQUEST_BODY_BYTES"));
        client.half_close();
        client.is_closed();
    }
}

#[test]
fn a_body_that_just_fits_is_forwarded() {
    let origin = Origin::plays([act(|peer| {
        for _ in 0..2 {
            assert_eq!(peer.request().body.len(), 1000);
            peer.send(OK);
        }
    })]);
    let proxy = Proxy::start(&origin, &[("MAX_REQUEST_BODY_BYTES", "1000")]);
    let mut client = Client::connect(&proxy);
    let body = [b'x'; 1000];
    let by_length = crate::support::post("/", &body);
    let by_chunks = crate::support::post_chunked("/", &body, 300);
    assert_eq!(client.exchange(by_length).status(), 200);
    assert_eq!(client.exchange(by_chunks).status(), 200);
}

#[test]
fn a_client_that_is_still_sending_a_body_too_large_reads_the_answer() {
    const BODY: usize = 4 << 20;
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[("MAX_REQUEST_BODY_BYTES", "1000000")]);
    let body = vec![b'x'; BODY];
    let by_length = format!("Content-Length: {BODY}\r\n\r\n").into_bytes();
    let by_length = [by_length, body.clone()].concat();
    let by_chunks = [
        b"Transfer-Encoding: chunked\r\n\r\n".to_vec(),
        chunked(&body, 100_000),
    ];
    for rest in [by_length, by_chunks.concat()] {
        let mut client = Client::connect(&proxy);
        client.send("POST / HTTP/1.1\r\nHost: h\r\n");
        // All of it first, as many clients do; only then is the answer read.
        client.send(rest);
        let response = client.response();
        response.assert_refusal(413, "request_body_too_large");
        client.half_close();
        client.is_closed();
    }
}

#[test]
fn a_chunk_that_goes_too_far_is_refused_before_its_end() {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[("MAX_REQUEST_BODY_BYTES", "1000")]);
    let mut client = Client::connect(&proxy);
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n");
    client.send([b'x'; 1001]);
    let response = client.response();
    response.assert_refusal(413, "request_body_too_large");
    client.half_close();
    client.is_closed();
}

#[test]
fn a_head_that_does_not_come_in_time_is_given_up() {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[("CLIENT_HEADER_TIMEOUT_SECONDS", "0.3")]);
    let mut client = Client::connect(&proxy);
    client.send("GET / HTTP/1.1\r\nHo");
    let response = client.response();
    response.assert_refusal(408, "request_timeout");
    assert!(response.text().contains("CLIENT_HEADER_TIMEOUT_SECONDS"));
    client.is_closed();
}

#[test]
fn a_head_that_trickles_in_has_one_limit_for_all_of_it() {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[("CLIENT_HEADER_TIMEOUT_SECONDS", "0.5")]);
    let mut client = Client::connect(&proxy);
    let start = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: ");
    while !client.has_answer() {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "it waits for ever"
        );
        client.send("x");
        thread::sleep(Duration::from_millis(20)); // the client's slowness, not a wait
    }
    let response = client.response();
    response.assert_refusal(408, "request_timeout");
}

#[test]
fn a_body_that_does_not_come_in_time_is_given_up() {
    for framing in [
        "Content-Length: 10\r\n\r\nhello",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ] {
        let origin = Origin::plays([]);
        let proxy = Proxy::start(&origin, &[("CLIENT_BODY_TIMEOUT_SECONDS", "0.3")]);
        let mut client = Client::connect(&proxy);
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}"));
        let response = client.response();
        response.assert_refusal(408, "request_timeout");
        assert!(response.text().contains("CLIENT_BODY_TIMEOUT_SECONDS"));
        client.half_close();
        client.is_closed();
    }
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[("CLIENT_HEADER_TIMEOUT_SECONDS", "0.3")]);
    let mut client = Client::connect(&proxy);
    client.discard();
}

#[test]
fn the_proxys_own_health_is_answered_here() {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[("PROXY_ACCESS_TOKEN", "t")]);
    let mut client = Client::connect(&proxy);
    let response = client.exchange(get("/healthz"));
    assert_eq!(response.status(), 200);
    assert_eq!(response.text().trim(), r#"{"ok":true}"#);
    let kind = response.head.field("content-type").unwrap();
    assert!(kind.starts_with("application/json"), "{kind}");
    let response = client.exchange("HEAD /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(response.status(), 200);
}

#[test]
fn only_get_and_head_of_exactly_healthz_are_answered_here() {
    let requests = [
        "POST /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        "GET /healthz/ HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /v1/healthz HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET //healthz HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    let origin = Origin::plays([act(move |peer| {
        for _ in requests {
            peer.request();
            peer.send(OK);
        }
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    for request in requests {
        assert_eq!(client.exchange(request).text(), "ok", "{request:?}");
    }
}

#[test]
fn without_the_access_token_nothing_is_forwarded() {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[("PROXY_ACCESS_TOKEN", "the-token")]);
    for field in [
        "X-Other: the-token",
        "Authorization: Bearer the-toke",
        "Authorization: Bearer the-token2",
        "Authorization: Bearer THE-TOKEN",
        "Authorization: Basic the-token",
        "Authorization: the-token",
        "x-api-key: wrong",
        "x-api-key:",
    ] {
        let mut client = Client::connect(&proxy);
        let response = client.exchange(format!("GET / HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n"));
        response.assert_refusal(401, "unauthorized");
        assert!(!response.text().contains("the-token"));
    }
}

#[test]
fn the_access_token_lets_in_and_stays_here() {
    let fields = [
        "Authorization: Bearer the-token",
        "authorization: bearer the-token",
        "X-API-Key: the-token",
        "X-API-Key: the-token\r\nAuthorization: Bearer the-token",
    ];
    for field in fields {
        let origin = Origin::plays([answers(OK)]);
        let proxy = Proxy::start(&origin, &[("PROXY_ACCESS_TOKEN", "the-token")]);
        let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{field}\r\nX-Other: 1\r\n\r\n");
        let response = Client::connect(&proxy).exchange(request);
        assert_eq!(response.status(), 200, "{field}");
        let head = origin.request(1).head;
        assert!(!head.text().contains("the-token"), "{}", head.text());
        assert_eq!(head.field("x-other").unwrap(), "1");
    }
}
