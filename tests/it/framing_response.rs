//! A response ends where upstream's framing says, however its bytes arrive.
use crate::support::{
    Client, OK, Origin, Peer, Proxy, Response, act, answers, chunked, get, pattern,
};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n\
     5;ext=\"a;b\"\r\nhello\r\n1\r\n \r\n00A ; x\r\n0123456789\r\n0;last=1\r\nX-T: trailer\r\nX-U: 2\r\n\r\n";

/// The response that a client gets to `request` when upstream answers `bytes`.
fn relayed(request: &str, bytes: impl AsRef<[u8]> + Send + 'static) -> (Client, Response) {
    let origin = Origin::plays([answers(bytes)]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    let response = client.exchange(request);
    (client, response)
}

fn until_close(response: &'static [u8]) -> Origin {
    Origin::plays([act(move |peer| {
        peer.request();
        peer.send(response);
        peer.close();
    })])
}

#[test]
fn a_response_split_at_every_byte_is_the_same_response() {
    let responses: [(&str, &str); 5] = [
        ("GET", OK),
        ("GET", CHUNKED),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfinal",
        ),
    ];
    for (method, response) in responses {
        let origin = Origin::serves(1, move |peer| {
            for split in 1..response.len() {
                peer.request();
                peer.send(&response[..split]);
                peer.until_taken();
                peer.send(&response[split..]);
            }
        });
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        let mut first = None;
        for split in 1..response.len() {
            client.send(format!("{method} /{split} HTTP/1.1\r\nHost: h\r\n\r\n"));
            let mut seen = client.response_to(method);
            if seen.status() == 103 {
                seen = client.response_to(method);
            }
            let expected = first.get_or_insert_with(|| seen.clone());
            assert_eq!(seen, *expected, "split at {split}");
            assert_eq!(seen.attempts(), Some(1));
        }
    }
}

#[test]
fn a_response_that_comes_byte_by_byte_is_the_same_response() {
    let origin = Origin::plays([act(|peer| {
        peer.request();
        peer.send(CHUNKED);
        peer.request();
        for byte in CHUNKED.as_bytes() {
            peer.send([*byte]);
        }
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    let whole = client.exchange(get("/"));
    assert_eq!(client.exchange(get("/")), whole);
    assert_eq!(whole.text(), "hello 0123456789");
}

#[test]
fn a_response_cut_into_bytes_until_its_close_is_the_same_response() {
    const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\nuntil the close";
    let origin = Origin::serves(RESPONSE.len(), |peer: &mut Peer| {
        peer.request();
        let split = peer.number + 1;
        peer.send(&RESPONSE[..split]);
        peer.until_taken();
        peer.send(&RESPONSE[split..]);
        peer.close();
    });
    let proxy = Proxy::start(&origin, &[]);
    for _ in 1..RESPONSE.len() {
        let mut client = Client::connect(&proxy);
        let response = client.exchange(get("/"));
        assert_eq!(response.text(), "until the close");
    }
}

#[test]
fn chunked_stays_chunked_and_trailers_pass() {
    let (_, response) = relayed(&get("/"), CHUNKED);
    assert_eq!(response.head.field("transfer-encoding").unwrap(), "chunked");
    assert_eq!(response.head.field("content-length"), None);
    assert_eq!(response.text(), "hello 0123456789");
    let trailers = String::from_utf8(response.trailers).unwrap();
    assert_eq!(trailers, "X-T: trailer\r\nX-U: 2\r\n");
}

#[test]
fn every_chunk_size_gives_the_same_body() {
    let sizes = [
        1, 2, 9, 15, 16, 17, 4095, 4096, 65_536, 131_072, 131_073, 300_000,
    ];
    let length = |size: usize| (size * 2000).min(300_000);
    let origin = Origin::plays([act(move |peer| {
        for size in sizes {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            peer.send(chunked(&pattern().bytes(length(size)), size));
        }
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    for size in sizes {
        let response = client.exchange(get("/"));
        assert_eq!(response.body.len(), length(size), "chunks of {size}");
        pattern().check(0, &response.body);
    }
}

#[test]
fn a_response_until_close_closes_the_clients_connection_too() {
    for response in [
        b"HTTP/1.1 200 OK\r\n\r\nuntil the close".as_slice(),
        b"HTTP/1.0 200 OK\r\n\r\nuntil the close",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the close",
    ] {
        let origin = until_close(response);
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        let response = client.exchange(get("/")); // reads to the close
        assert_eq!(response.text(), "until the close");
        assert_eq!(response.head.field("content-length"), None);
        assert_eq!(response.head.field("transfer-encoding"), None);
    }
}

#[test]
fn responses_without_a_body_have_none() {
    for (request, response) in [
        (
            "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\n\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 9\r\n\r\n",
        ),
    ] {
        let (client, seen) = relayed(request, response);
        let line = response.lines().next().unwrap();
        assert_eq!(seen.head.line(), line);
        assert!(seen.body.is_empty());
        drop(client); // fails on bytes that nobody asked for
    }
}

#[test]
fn an_http_1_0_client_gets_a_chunked_response_unchunked_and_closed() {
    let origin = Origin::plays([answers(CHUNKED)]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    let response = client.exchange("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(response.head.field("transfer-encoding"), None);
    assert_eq!(response.text(), "hello 0123456789");
}

#[test]
fn hop_by_hop_fields_of_a_response_stay_here() {
    let (_, response) = relayed(
        &get("/"),
        "HTTP/1.1 200 OK\r\nX-Stays: 1\r\nConnection: keep-alive, X-Named\r\nX-Named: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nProxy-Connection: x\r\n\
         Upgrade: h2c\r\nContent-Length: 0\r\n\r\n",
    );
    let fields = response.head.fields();
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    let expected = ["X-Stays", "Content-Length", "x-codex-reset-proxy-attempts"];
    assert_eq!(names, expected);
}

#[test]
fn bad_chunk_framing_breaks_the_connection() {
    for body in [
        "x\r\nok\r\n0\r\n\r\n",
        "-2\r\nok\r\n0\r\n\r\n",
        "+2\r\nok\r\n0\r\n\r\n",
        "0x2\r\nok\r\n0\r\n\r\n",
        "\r\nok\r\n0\r\n\r\n",
        "2\nok\n0\n\n",
        "2\r\nokay\r\n0\r\n\r\n",
        "2\r\nok0\r\n\r\n",
        "11111111111111111\r\nok\r\n0\r\n\r\n",
        "2\r\nok\r\n0\r\nbad trailer\r\n\r\n",
    ] {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n";
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            peer.send(head);
            peer.until_taken();
            peer.send(body);
        })]);
        let proxy = Proxy::start(&origin, &[]);
        let mut client = Client::connect(&proxy);
        client.send(get("/"));
        let cut = client.try_response("GET");
        let cut = cut.expect_err("a complete response out of a broken one");
        assert_eq!(cut.head.unwrap().status(), 200);
        assert!(cut.body.starts_with(b"yes"), "{body:?}");
    }
}

fn response_with_fields(fields: usize) -> String {
    let padding: String = (1..fields).map(|n| format!("X-{n}: v\r\n")).collect();
    format!("HTTP/1.1 200 OK\r\n{padding}Content-Length: 2\r\n\r\nok")
}

fn response_with_head(bytes: usize) -> String {
    let rest = "HTTP/1.1 200 OK\r\nX: \r\nContent-Length: 2\r\n\r\n".len();
    let padding = "x".repeat(bytes - rest);
    format!("HTTP/1.1 200 OK\r\nX: {padding}\r\nContent-Length: 2\r\n\r\nok")
}

#[test]
fn a_large_head_passes_and_a_larger_one_is_a_bad_response() {
    for large in [response_with_fields(1024), response_with_head(256 * 1024)] {
        let (_, seen) = relayed(&get("/"), large);
        assert_eq!(seen.status(), 200, "{}", seen.text());
        assert_eq!(seen.text(), "ok");
    }
    let (_, seen) = relayed(&get("/"), response_with_fields(1025));
    seen.assert_refusal(502, "upstream_bad_response");
    let origin = Origin::plays([act(|peer| {
        peer.request();
        peer.send_if_taken(response_with_head(256 * 1024 + 1).as_bytes());
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let seen = Client::connect(&proxy).exchange(get("/"));
    seen.assert_refusal(502, "upstream_bad_response");
}

#[test]
fn an_endless_head_is_a_bad_response() {
    let origin = Origin::plays([act(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nX: ");
        while peer.send_if_taken(&[b'x'; 4096]) {}
        peer.close();
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let seen = Client::connect(&proxy).exchange(get("/"));
    seen.assert_refusal(502, "upstream_bad_response");
}

#[test]
fn a_stream_that_falls_silent_is_broken_off_where_a_limit_is_set() {
    let origin = Origin::plays([act(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nyes\r\n");
        peer.is_closed();
    })]);
    let proxy = Proxy::start(&origin, &[("STREAM_IDLE_TIMEOUT_SECONDS", "0.2")]);
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    let cut = client.try_response("GET").unwrap_err();
    assert_eq!(cut.body, b"yes");
}
