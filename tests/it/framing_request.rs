//! A request is the same request however its bytes arrive and however its body is framed.
use std::sync::mpsc;

use crate::support::{
    Client, OK, Origin, Proxy, act, answers, chunked, fields_without, get, pattern, post,
    post_chunked, soon,
};

const BODY: &[u8] = b"{\"model\":\"m\",\"stream\":true}";

/// Answers each request with its own body.
fn echo() -> Origin {
    Origin::serves(8, |peer| {
        while let Some(request) = peer.next_request() {
            let length = request.body.len();
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"
            ));
            peer.send(request.body);
        }
    })
}

fn chunked_with_everything() -> Vec<u8> {
    let head = "POST /v1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n";
    let body = "5\r\nhello\r\n01;ext=\"a;b\";c\r\n \r\n00A\r\n0123456789\r\n0;last\r\nX-T: trailer\r\n\r\n";
    format!("{head}{body}").into_bytes()
}

#[test]
fn a_request_split_at_every_byte_is_the_same_request() {
    let origin = echo();
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    for (request, body) in [
        (post("/v1?a", BODY), BODY),
        (chunked_with_everything(), b"hello 0123456789".as_slice()),
    ] {
        let first = origin.requests().len();
        for split in 1..request.len() {
            client.send(&request[..split]);
            client.until_taken();
            client.send(&request[split..]);
            assert_eq!(client.response().body, body, "split at {split}");
        }
        let seen = &origin.requests()[first..];
        assert_eq!(seen.len(), request.len() - 1);
        assert!(seen.iter().all(|other| *other == seen[0]));
    }
}

#[test]
fn a_request_that_comes_byte_by_byte_is_the_same_request() {
    let origin = echo();
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    for request in [post("/v1", BODY), chunked_with_everything()] {
        let whole = client.exchange(&request);
        for byte in &request {
            client.send([*byte]);
        }
        assert_eq!(client.response(), whole);
    }
    let seen = origin.requests();
    assert_eq!((&seen[0], &seen[2]), (&seen[1], &seen[3]));
}

#[test]
fn a_chunked_request_goes_up_with_its_length_and_without_trailers() {
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[]);
    Client::connect(&proxy).exchange(chunked_with_everything());
    let request = origin.request(1);
    assert_eq!(request.body, b"hello 0123456789");
    assert_eq!(request.head.field("content-length").unwrap(), "16");
    assert_eq!(request.head.field("transfer-encoding"), None);
    assert_eq!(request.head.field("x-t"), None);
}

#[test]
fn every_chunk_size_gives_the_same_body() {
    let body = pattern().bytes(100_000);
    let origin = echo();
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    for size in [
        1, 7, 15, 16, 17, 255, 256, 4096, 65_535, 65_536, 99_999, 100_000,
    ] {
        let part = &body[..body.len().min(size * 1000)];
        let response = client.exchange(post_chunked("/", part, size));
        assert!(response.body == part, "chunks of {size}");
    }
}

#[test]
fn an_empty_chunked_body_is_an_empty_body() {
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[]);
    Client::connect(&proxy).exchange(post_chunked("/", b"", 1));
    let request = origin.request(1);
    assert_eq!(request.head.field("content-length").unwrap(), "0");
    assert!(request.body.is_empty());
}

#[test]
fn pipelined_requests_are_answered_in_order_one_at_a_time() {
    const COUNT: usize = 5;
    let (asked, was_asked) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let origin = Origin::plays([act(move |peer| {
        for number in 0..COUNT {
            let target = peer.request().head.line();
            assert!(target.contains(&format!("/{number}")), "{target}");
            asked.send(()).unwrap();
            soon(&gate);
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}"
            ));
        }
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    let all: Vec<Vec<u8>> = (0..COUNT)
        .map(|number| match number % 3 {
            0 => get(&format!("/{number}")).into_bytes(),
            1 => post(&format!("/{number}"), BODY),
            _ => post_chunked(&format!("/{number}"), BODY, 3),
        })
        .collect();
    client.send(all.concat());
    for number in 0..COUNT {
        soon(&was_asked);
        assert_eq!(origin.requests().len(), number + 1, "one at a time");
        go.send(()).unwrap();
        assert_eq!(client.response().text(), number.to_string());
    }
}

#[test]
fn an_http_1_0_client_gets_its_connection_closed_and_goes_up_as_1_1() {
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    let response = client.exchange("GET /old HTTP/1.0\r\nUser-Agent: ab\r\n\r\n");
    assert_eq!(response.text(), "ok");
    client.is_closed();
    let head = origin.request(1).head;
    assert_eq!(head.line(), "GET /old HTTP/1.1");
    assert_eq!(head.field("host").unwrap(), origin.addr.to_string());
}

#[test]
fn an_expectation_is_met_here_and_not_passed_on() {
    for (body, framing) in [
        (BODY.to_vec(), format!("Content-Length: {}", BODY.len())),
        (chunked(BODY, 4), "Transfer-Encoding: chunked".to_owned()),
    ] {
        let origin = Origin::plays([act(|peer| {
            let request = peer.request();
            assert_eq!(request.head.field("expect"), None);
            assert_eq!(request.body, BODY);
            // One that nobody asked us for any more: the client has had its 100.
            peer.send("HTTP/1.1 100 Continue\r\n\r\n");
            peer.send(OK);
        })]);
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\n{framing}\r\n\r\n"
        ));
        client.receive("HTTP/1.1 100 Continue\r\n\r\n");
        client.send(body);
        assert_eq!(client.response().text(), "ok");
    }
}

#[test]
fn a_body_that_is_already_there_needs_no_100() {
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    client.send(
        "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    );
    let head = client.head();
    match head.status() {
        100 => assert_eq!(client.response().text(), "ok"), // allowed, not needed
        200 => client.receive("ok"),
        other => panic!("{other}"),
    }
    assert_eq!(origin.request(1).body, b"hello");
}

#[test]
fn hop_by_hop_fields_stay_here() {
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    let response = client.exchange(
        "GET / HTTP/1.1\r\nHost: h\r\nX-Stays: 1\r\nConnection: keep-alive, X-Named ,x-other\r\n\
         X-Named: 1\r\nX-OTHER: 2\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n\
         TE: trailers\r\nProxy-Authorization: Basic x\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n\
         Connection: Upgrade, HTTP2-Settings\r\nX-Stays-Too: 2\r\n\r\n",
    );
    assert_eq!(response.status(), 200);
    let fields = origin.request(1).head.fields();
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Host", "X-Stays", "X-Stays-Too"]);
}

#[test]
fn a_client_that_asks_for_a_close_gets_it_and_upstream_is_kept() {
    let origin = Origin::plays([act(|peer| {
        for _ in 0..2 {
            let head = peer.request().head;
            assert!(head.all("connection").is_empty());
            peer.send(OK);
        }
    })]);
    let proxy = Proxy::start(&origin, &[("WORKERS", "1")]);
    for _ in 0..2 {
        let mut client = Client::connect(&proxy);
        let response = client.exchange("GET / HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n");
        assert_eq!(response.text(), "ok");
        assert!(response.head.closes());
        client.is_closed(); // after the exchange, so that its connection is back in the pool
    }
}

#[test]
fn a_kept_connection_is_closed_when_it_stays_idle() {
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[("CLIENT_IDLE_TIMEOUT_SECONDS", "0.2")]);
    let mut client = Client::connect(&proxy);
    assert_eq!(client.exchange(get("/")).status(), 200);
    client.is_closed();
}

#[test]
fn a_key_of_the_proxys_own_replaces_the_clients() {
    let cases = [
        ("Authorization", "Bearer ", "Bearer the-key"),
        ("Authorization", "Token", "Token the-key"),
        ("authorization", "", "the-key"),
        ("x-api-key", "", "the-key"),
    ];
    for (name, prefix, value) in cases {
        let origin = Origin::plays([answers(OK)]);
        let settings = [
            ("UPSTREAM_API_KEY", "the-key"),
            ("UPSTREAM_API_KEY_HEADER", name),
            ("UPSTREAM_API_KEY_PREFIX", prefix),
        ];
        let proxy = Proxy::start(&origin, &settings);
        let mut client = Client::connect(&proxy);
        client.exchange(
            "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer of-the-client\r\n\
             X-Api-Key: of-the-client\r\nX-Last: 1\r\n\r\n",
        );
        let head = origin.request(1).head;
        assert_eq!(head.field(name).unwrap(), value);
        let others = fields_without(&head, &[name, "host"]);
        assert_eq!(others.len(), 2, "{}", head.text());
    }
}

#[test]
fn a_key_is_written_where_the_client_sent_none() {
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[("UPSTREAM_API_KEY", "the-key")]);
    Client::connect(&proxy).exchange(get("/"));
    let head = origin.request(1).head;
    assert_eq!(head.field("authorization").unwrap(), "Bearer the-key");
}

#[test]
fn a_base_urls_path_comes_first() {
    for (base, target, expected) in [
        ("/api/", "/v1/x?y", "/api/v1/x?y"),
        ("/api", "//x", "/api//x"),
        ("/a%20b/c", "/", "/a%20b/c/"),
        ("/", "/x", "/x"),
        ("/api", "/a/../b", "/api/a/../b"),
    ] {
        let origin = Origin::plays([answers(OK)]);
        let proxy = Proxy::start_at(&format!("{}{base}", origin.url()), &[]);
        let response = Client::connect(&proxy).exchange(get(target));
        assert_eq!(response.status(), 200, "{}", response.text());
        let line = origin.request(1).head.line();
        assert_eq!(line, format!("GET {expected} HTTP/1.1"));
    }
}
