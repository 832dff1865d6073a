//! Where nothing fails, the proxy is not there: what passes through it stays as it was.
use crate::support::{Client, OK, Origin, Proxy, act, answers, fields_without, post};

/// A request head with everything that a proxy might want to tidy up.
fn fussy(method: &str, target: &str, host: &str, length: usize) -> Vec<u8> {
    format!(
        "{method} {target} HTTP/1.1\r\nuser-agent: codex\r\nHOST: {host}\r\nX-Twice: 1\r\n\
         x-twice: 2\r\nX-Twice: 1\r\nAccept: text/event-stream, */*;q=0.1\r\nX-Empty: \r\n\
         Cookie: a=b; c=\"d\"\r\nCookie: e\r\nx-inner:  spaces  and\ttab\r\n\
         X-UTF8: žluťoučký\r\nVia: 1.0 before\r\nX-Forwarded-For: 10.0.0.1\r\n\
         authorization: Bearer of-the-client\r\nx-api-key: k\r\nContent-Length: {length}\r\n\r\n"
    )
    .replace(":  ", ": ")
    .into_bytes()
}

#[test]
fn a_request_goes_up_byte_for_byte_with_host_replaced_in_place() {
    let targets = [
        ("POST", "/v1/responses"),
        ("GET", "/"),
        ("PUT", "//double//slash//"),
        ("DELETE", "/a%2Fb%2f%C3%A9/%7e~"),
        ("PATCH", "/a?x={}&y=%7B%7D&z=[1]|^\\\""),
        ("OPTIONS", "*"),
        ("PURGE", "/empty?"),
        ("POST", "/two??and#fragment"),
        ("QUERY", "/ünï/çødé?ž=ř"),
        ("get", "/a/./b/../c/%2e%2e/d"),
        ("M-SEARCH", "/;p=1;q"),
    ];
    let origin = Origin::plays([act(move |peer| {
        for _ in targets {
            peer.request();
            peer.send(OK);
        }
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    let body: Vec<u8> = (0..=255).collect();
    let upstream = origin.addr.to_string();
    for (number, (method, target)) in targets.into_iter().enumerate() {
        client.send(fussy(method, target, "client.example:1", body.len()));
        client.send(&body);
        let response = client.response();
        assert_eq!(response.status(), 200, "{}", response.text());
        let seen = origin.request(number + 1);
        let expected = fussy(method, target, &upstream, body.len());
        assert_eq!(seen.head.text(), String::from_utf8_lossy(&expected));
        assert_eq!(seen.body, body);
    }
}

#[test]
fn bytes_beyond_ascii_in_a_target_and_a_value_are_kept() {
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[]);
    let head = |host: &str| {
        let start = b"GET /\xff\xfe?\x80=\xe9 HTTP/1.1\r\nX-Latin1: na\xefve\r\nHost: ";
        [start, host.as_bytes(), b"\r\n\r\n"].concat()
    };
    let response = Client::connect(&proxy).exchange(head("h"));
    assert_eq!(response.status(), 200);
    assert_eq!(origin.request(1).head.0, head(&origin.addr.to_string()));
}

#[test]
fn a_response_comes_down_as_it_is_with_one_field_added() {
    let head = "HTTP/1.1 299 Quite  Odd: \"reason\"\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                server: x\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nSet-Cookie: a=1\r\n\
                x-request-id: of-upstream\r\nx-should-retry: false\r\nretry-after-ms: 5\r\n\
                X-Codex-Primary-Used-Percent: 12\r\nVia: 1.1 cdn\r\nX-UTF8: žluť\r\n\
                Content-Encoding: gzip\r\nContent-Type: text/event-stream\r\nContent-Length: 256";
    let body: Vec<u8> = (0..=255).rev().collect();
    let origin = Origin::plays([answers([head.as_bytes(), b"\r\n\r\n", &body].concat())]);
    let proxy = Proxy::start(&origin, &[]);
    let response = Client::connect(&proxy).exchange(post("/v1", b"{}"));
    let added = "x-codex-reset-proxy-attempts: 1";
    let without = response
        .head
        .text()
        .replacen(&format!("\r\n{added}"), "", 1);
    assert_eq!(without, format!("{head}\r\n\r\n"));
    assert_eq!(response.attempts(), Some(1));
    assert_eq!(response.body, body);
}

#[test]
fn an_upstream_cannot_forge_our_fields() {
    let origin = Origin::plays([answers(
        "HTTP/1.1 200 OK\r\nX-Codex-Reset-Proxy-Attempts: 7\r\nx-codex-reset-proxy-error: forged\r\n\
         X-CODEX-RESET-PROXY-OTHER: x\r\nx-codex-reset-prox: stays\r\nContent-Length: 0\r\n\r\n",
    )]);
    let proxy = Proxy::start(&origin, &[]);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    assert_eq!(response.attempts(), Some(1));
    let others = fields_without(&response.head, &["x-codex-reset-proxy-attempts"]);
    let names: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-codex-reset-prox", "Content-Length"]);
}

#[test]
fn a_status_code_is_never_a_reason_to_retry() {
    let codes = [400, 401, 404, 408, 409, 425, 429, 500, 502, 503, 504, 529];
    let origin = Origin::plays([act(move |peer| {
        for code in codes {
            peer.request();
            peer.send(format!(
                "HTTP/1.1 {code} \r\nRetry-After: 1\r\nContent-Length: 1\r\n\r\n!"
            ));
        }
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    for code in codes {
        let response = client.exchange(post("/", b"{}"));
        assert_eq!(response.status(), code);
        assert_eq!(response.attempts(), Some(1));
        assert_eq!(response.head.field("retry-after").unwrap(), "1");
    }
    assert_eq!(origin.requests().len(), codes.len());
}

#[test]
fn many_clients_at_once_each_get_their_own_response() {
    const CLIENTS: usize = 32;
    const EXCHANGES: usize = 10;
    let origin = Origin::serves(CLIENTS, |peer| {
        while let Some(request) = peer.next_request() {
            let body = [b"echo ", request.body.as_slice()].concat();
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ));
            peer.send(body);
        }
    });
    let proxy = Proxy::start(&origin, &[]);
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut client = Client::connect(proxy);
                for turn in 0..EXCHANGES {
                    let body = format!("client {number}, turn {turn}");
                    let response = client.exchange(post("/", body.as_bytes()));
                    assert_eq!(response.text(), format!("echo {body}"));
                    assert_eq!(response.attempts(), Some(1));
                }
            });
        }
    });
}
