//! What a client is told of the attempts that failed: on any response to a request that took several,
//! and on no other.
use std::time::Duration;

use crate::support::{
    Client, OK, Origin, Proxy, RESCUE, Response, Vacant, act, answers, assert_no_secret, closes,
    get, hangs, post, resets,
};

const ALONE: (&str, &str) = ("WORKERS", "1");
const DETAIL: &str = "x-codex-reset-proxy-attempts-detail";
const HANDSHAKE: &str = "GET /v1/responses HTTP/1.1\r\nhost: client.example\r\nconnection: Upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A response to a request whose first attempt has failed by a close after it was read.
#[track_caller]
fn assert_told(response: &Response) {
    let told = response.failed_attempts();
    assert_eq!(told.len(), 1, "{}", response.head.text());
    assert!(told[0].starts_with("1=acked,closed,0."), "{told:?}");
    assert_eq!(response.attempts(), Some(2));
}

#[test]
fn any_response_of_a_second_attempt_bears_it() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    let until_close = "HTTP/1.1 200 OK\r\n\r\nok";
    let length = "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\nok";
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let post = String::from_utf8(post("/", b"{}")).unwrap();
    let old = post.replace("HTTP/1.1", "HTTP/1.0");
    let asks = get("/").replace("GET", "HEAD");
    let unusable = "HTTP/2 200\r\n\r\n";
    for (request, answer) in [
        (&post, chunked),
        (&post, until_close),
        (&post, length),
        (&post, unusable),
        (&old, chunked),
        (&old, OK),
        (&asks, head),
    ] {
        let second = act(move |peer| {
            peer.request();
            peer.send(answer);
            if answer == until_close {
                peer.close();
            }
        });
        let origin = Origin::plays([closes(), second]);
        let proxy = Proxy::start(&origin, &[ALONE]);
        assert_told(&Client::connect(&proxy).exchange(request));
    }
}

#[test]
fn a_handshake_that_took_several_attempts_bears_it_whatever_comes_of_it() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let second = act(move |peer| {
        peer.request();
        peer.send(switching);
    });
    let origin = Origin::plays([closes(), second]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    let mut client = Client::connect(&proxy);
    client.send(HANDSHAKE);
    let head = client.head();
    assert_eq!(head.status(), 101);
    let told = head.field(DETAIL).unwrap();
    assert!(told.starts_with("1=acked,closed,0."), "{told}");
    client.leave();

    let origin = Origin::plays([resets(), closes()]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    let response = Client::connect(&proxy).exchange(HANDSHAKE);
    assert_eq!(response.status(), 426);
    let told = response.failed_attempts();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("1=acked,read_failed,"), "{told:?}");
    assert!(told[1].starts_with("2=acked,closed,"), "{told:?}");
}

#[test]
fn an_exhausted_request_is_told_of_every_attempt_and_how_long_it_took() {
    let origin = Origin::plays([hangs(), resets(), closes()]);
    let settings = [ALONE, RESCUE[0], ("UPSTREAM_MAX_ATTEMPTS", "3")];
    let proxy = Proxy::start(&origin, &settings);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    response.assert_refusal(502, "upstream_request_error");
    let told = response.failed_attempts();
    assert_eq!(told.len(), 3, "{told:?}");
    let took = told[0].strip_prefix("1=acked,header_timeout,").unwrap();
    let took: f64 = took.strip_suffix('s').unwrap().parse().unwrap();
    assert!((0.2..30.0).contains(&took), "{took}");
    assert!(told[1].starts_with("2=acked,read_failed,"), "{told:?}");
    assert!(told[2].starts_with("3=acked,closed,"), "{told:?}");
}

#[test]
fn any_number_of_attempts_makes_a_line_of_bounded_length() {
    let vacant = Vacant::new();
    let settings = [
        ("UPSTREAM_MAX_ATTEMPTS", "100"),
        ("RETRY_BACKOFF_SECONDS", "0"),
    ];
    let proxy = Proxy::start_at(&vacant.url(), &settings);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    let told = response.failed_attempts();
    let (more, told) = told.split_last().unwrap();
    assert_eq!((more.as_str(), told.len()), ("more=92", 8));
    for (told, number) in told.iter().zip(1..) {
        let expected = format!("{number}=not_sent,connect_failed,0.");
        assert!(told.starts_with(&expected), "{told}");
    }
}

#[test]
fn one_attempt_is_told_nothing() {
    for second in [OK, "HTTP/2 200\r\n\r\n"] {
        let origin = Origin::plays([answers(second)]);
        let proxy = Proxy::start(&origin, &[]);
        let response = Client::connect(&proxy).exchange(post("/", b"{}"));
        assert_eq!(response.head.field(DETAIL), None);
    }
    for fault in [closes, resets] {
        let origin = Origin::plays([fault()]);
        let proxy = Proxy::start(&origin, &[("UPSTREAM_MAX_ATTEMPTS", "1")]);
        let response = Client::connect(&proxy).exchange(post("/", b"{}"));
        assert_eq!((response.status(), response.attempts()), (502, Some(1)));
        assert_eq!(response.head.field(DETAIL), None);
    }
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[]);
    let response = Client::connect(&proxy).exchange(get("/healthz"));
    assert_eq!(response.head.field(DETAIL), None);
}

#[test]
fn a_request_is_told_of_its_own_attempts_only() {
    let second = act(|peer| {
        for _ in 0..2 {
            peer.request();
            peer.send(OK);
        }
    });
    let origin = Origin::plays([closes(), second]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    let mut client = Client::connect(&proxy);
    assert_told(&client.exchange(post("/", b"{}")));
    proxy.ended(1);
    let response = client.exchange(post("/", b"{}"));
    assert_eq!(response.attempts(), Some(1));
    assert_eq!(response.head.field(DETAIL), None);
}

#[test]
fn an_interim_response_is_not_told() {
    let second = act(|peer| {
        peer.request();
        peer.send(format!(
            "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{OK}"
        ));
    });
    let origin = Origin::plays([closes(), second]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    let interim = client.head();
    assert_eq!((interim.status(), interim.field(DETAIL)), (103, None));
    assert_told(&client.response());
}

#[test]
fn what_an_upstream_says_in_our_name_is_removed() {
    let forged = "HTTP/1.1 200 OK\r\nX-Codex-Reset-Proxy-Attempts-Detail: 1=not_sent,closed,0.0s\r\n\
        Transfer-Encoding: chunked\r\nTrailer: x-codex-reset-proxy-attempts-detail\r\n\
        x-codex-reset-proxy-attempts-detail: 2=acked,closed,0.0s\r\n\r\n\
        2\r\nok\r\n0\r\nx-codex-reset-proxy-attempts-detail: 3=acked,closed,0.0s\r\n\r\n";
    let origin = Origin::plays([answers(forged), closes(), answers(forged)]);
    let proxy = Proxy::start(&origin, &[("UPSTREAM_IDLE_TIMEOUT_SECONDS", "0.001")]);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    assert_eq!(response.head.field(DETAIL), None);
    assert!(response.trailers.is_empty());
    std::thread::sleep(Duration::from_millis(10)); // the connection grows too old to be used again
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    assert_told(&response);
    assert!(response.trailers.is_empty());
}

#[test]
fn nothing_secret_is_in_it() {
    let origin = Origin::plays([resets(), closes()]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    let response = Client::connect(&proxy).exchange(post("/?q=1", b"{}"));
    let told = response.head.field(DETAIL).unwrap();
    assert_no_secret(&told);
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let known = |byte: u8| plain(byte) || b"=_,.; ".contains(&byte);
    assert!(told.bytes().all(known), "{told}");
}
