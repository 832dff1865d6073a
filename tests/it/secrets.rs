//! Whatever fails, no key, token, cookie, query value or body byte is logged or told. Every proxy of
//! every test is held to the same by its `Drop`; here is what no other test provokes with secrets.
use std::sync::mpsc;

use crate::support::{
    Act, Authority, CANARY, Client, Origin, Peer, Proxy, Vacant, act, answers, assert_no_secret,
    closes, full_backlog, hangs, resets, run, shown_canary, soon,
};

const FORMATS: [&str; 2] = ["text", "json"];
const ONE_ATTEMPT: (&str, &str) = ("UPSTREAM_MAX_ATTEMPTS", "1");

fn key() -> String {
    format!("key-{CANARY}")
}

fn token() -> String {
    format!("token-{CANARY}")
}

/// Starts a proxy that has secrets and says all it has to say.
#[track_caller]
fn start(base_url: &str, format: &str, settings: &[(&str, &str)]) -> Proxy {
    let (key, token) = (key(), token());
    let secrets = [
        ("UPSTREAM_API_KEY", key.as_str()),
        ("PROXY_ACCESS_TOKEN", token.as_str()),
        ("LOG_LEVEL", "TRACE"),
        ("LOG_FORMAT", format),
    ];
    Proxy::start_at(base_url, &[&secrets, settings].concat())
}

/// A request with a secret wherever one may be, up to the end of its fields.
fn secretive(line: &str) -> String {
    let token = token();
    format!(
        "{line}\r\nHost: {CANARY}.example\r\nAuthorization: Bearer {CANARY}\r\n\
         Proxy-Authorization: Basic {CANARY}\r\nCookie: session={CANARY}\r\nx-api-key: {token}\r\n\
         Referer: https://user:{CANARY}@h/?{CANARY}\r\nX-Any: {CANARY}\r\n"
    )
}

fn whole() -> String {
    let line = format!("POST /v1/responses?key={CANARY} HTTP/1.1");
    let length = CANARY.len();
    format!(
        "{}Content-Length: {length}\r\n\r\n{CANARY}",
        secretive(&line)
    )
}

/// Sends `request` on a connection of its own: it is refused, and neither the refusal nor its log
/// lines show a secret.
#[track_caller]
fn assert_refused(proxy: &Proxy, status: u16, request: &str) {
    let mut client = Client::connect(proxy);
    client.send_if_taken(request.as_bytes());
    let response = client.response();
    let told = response.head.text() + &response.text();
    assert_eq!(response.status(), status, "{request:?}: {told}");
    assert_no_secret(&told);
    let id = response.head.field("x-request-id").unwrap();
    proxy.logs(&[&id, "total"]); // the line of the exchange, in either format
    assert_no_secret(&proxy.text());
    client.leave();
}

#[test]
fn a_request_that_is_refused_shows_no_secret() {
    let line = |target: &str| format!("POST {target} HTTP/1.1");
    let with = |fields: &str| secretive(&line(&format!("/v1?{CANARY}"))) + fields;
    let cases = [
        (400, with(&format!("{CANARY} : x\r\n\r\n"))),
        (400, with(&format!("X: {CANARY}\rx\r\n\r\n"))),
        (400, with(&format!(" {CANARY}\r\n\r\n"))),
        (400, with(&format!("Content-Length: {CANARY}\r\n\r\n"))),
        (400, with(&format!("Transfer-Encoding: {CANARY}\r\n\r\n"))),
        (
            400,
            with(&format!("Transfer-Encoding: chunked\r\n\r\n{CANARY}\r\n")),
        ),
        (
            400,
            with(&format!(
                "Transfer-Encoding: chunked\r\n\r\n0\r\n{CANARY}\r\n\r\n"
            )),
        ),
        (
            400,
            secretive(&line(&format!("/v1/../..?{CANARY}"))) + "\r\n",
        ),
        (400, secretive(&line(&format!("?{CANARY}"))) + "\r\n"),
        (
            400,
            secretive(&format!("POST /?{CANARY} HTTP/{CANARY}")) + "\r\n",
        ),
        (401, with("\r\n").replace(&token(), CANARY)),
        (401, with("\r\n").replace(&token(), &key())),
        (
            405,
            secretive(&format!("TRACE /?{CANARY} HTTP/1.1")) + "\r\n",
        ),
        (
            405,
            secretive(&format!("CONNECT user:{CANARY}@h:1 HTTP/1.1")) + "\r\n",
        ),
        (408, with("")),
        (408, with(&format!("Content-Length: 99\r\n\r\n{CANARY}"))),
        (413, with(&format!("Content-Length: 9999\r\n\r\n{CANARY}"))),
        (414, format!("GET /?{CANARY}{}", "x".repeat(33 << 10))),
        (431, with(&format!("{CANARY}: x\r\n").repeat(129)) + "\r\n"),
        (
            503,
            with(&format!("Content-Length: 999\r\n\r\n{}", CANARY.repeat(60))),
        ),
    ];
    let settings = [
        ("CLIENT_HEADER_TIMEOUT_SECONDS", "0.3"),
        ("CLIENT_BODY_TIMEOUT_SECONDS", "0.3"),
        ("MAX_REQUEST_BODY_BYTES", "1000"),
        ("MAX_BUFFERED_BYTES", "100"),
    ];
    let origin = Origin::plays([]);
    for format in FORMATS {
        let proxy = start(&format!("{}/base", origin.url()), format, &settings);
        for (status, request) in &cases {
            assert_refused(&proxy, *status, request);
        }
        let absolute = format!("CONNECT http://user:{CANARY}@h/ HTTP/1.1");
        assert_refused(&proxy, 405, &(secretive(&absolute) + "\r\n"));
    }
}

/// Reads the request and sends what is no response, or no whole one.
fn sends(bytes: String) -> Act {
    act(move |peer: &mut Peer| {
        peer.request();
        peer.send(bytes);
        peer.close();
    })
}

#[test]
fn an_upstream_that_fails_shows_no_secret() {
    let head = |fields: &str| {
        format!("HTTP/1.1 200 {CANARY}\r\nSet-Cookie: {CANARY}\r\n{fields}\r\n\r\n{CANARY}")
    };
    let unusable = || {
        [
            format!("{CANARY} is no HTTP\r\n\r\n"),
            format!("HTTP/1.1 2{CANARY}\r\n\r\n"),
            format!("HTTP/1.1 200 OK\r\nSet-Cookie: {CANARY}"),
            format!("HTTP/1.1 200 OK\r\n{CANARY}\r\n\r\n"),
            head("Content-Length: 1\r\nContent-Length: 2"),
            head("Transfer-Encoding: chunked").replace("\r\n\r\n", "\r\n\r\nx"),
            head("").replacen("200", "101", 1),
        ]
    };
    for format in FORMATS {
        let silent: [(u16, Act); 3] = [(502, closes()), (502, resets()), (504, hangs())];
        let unusable = unusable().map(|bytes| (502, sends(bytes)));
        let (statuses, acts): (Vec<_>, Vec<_>) = silent.into_iter().chain(unusable).unzip();
        let origin = Origin::plays(acts);
        let settings = [ONE_ATTEMPT, ("RESPONSE_HEADER_TIMEOUT_SECONDS", "1")];
        let proxy = start(&origin.url(), format, &settings);
        for status in statuses {
            assert_refused(&proxy, status, &whole());
        }
    }
}

#[test]
fn a_response_that_is_broken_off_shows_no_secret() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    for format in FORMATS {
        let goes_silent = act(move |peer| {
            peer.request();
            peer.send(format!("{chunked}10\r\n{CANARY}\r\n"));
            peer.is_closed();
        });
        let origin = Origin::plays([
            sends(format!("{chunked}{CANARY}\r\n")),
            sends(format!("{chunked}10\r\n{CANARY}\r\n10\r\n")),
            sends(format!("{chunked}0\r\n{CANARY}\r\n\r\n")),
            goes_silent,
            hangs(),
            answers(format!(
                "HTTP/1.1 200 OK\r\nSet-Cookie: {CANARY}\r\n\r\n{CANARY}"
            )),
        ]);
        let settings = [ONE_ATTEMPT, ("STREAM_IDLE_TIMEOUT_SECONDS", "0.3")];
        let proxy = start(&origin.url(), format, &settings);
        for number in 1..=4 {
            let mut client = Client::connect(&proxy);
            client.send(whole());
            // Refused where the fault came with the head, cut where it came later.
            let told = client.try_response("POST");
            assert!(!matches!(told, Ok(response) if response.status() == 200));
            client.leave();
            proxy.ended(number);
        }
        let mut client = Client::connect(&proxy);
        client.send(whole());
        origin.request(5);
        client.leave();
        proxy.ended(5);
        let mut client = Client::connect(&proxy);
        client.send(whole());
        client.head();
        client.take(CANARY.len());
        client.leave();
        proxy.ended(6);
        assert_no_secret(&proxy.text());
    }
}

#[test]
fn an_upstream_that_cannot_be_reached_shows_no_secret() {
    let vacant = Vacant::new();
    let (deaf, _listener, _queued) = full_backlog();
    let stranger = Authority::new();
    for format in FORMATS {
        let unknown = "http://no-such-name.invalid".to_owned();
        let tls = Origin::serves_tls(&stranger, 1, |peer| drop(peer.fails_handshake()));
        let urls = [
            (502, vacant.url()),
            (502, unknown),
            (502, tls.url()),
            (504, format!("http://{deaf}")),
        ];
        for (status, url) in urls {
            let settings = [ONE_ATTEMPT, ("CONNECT_TIMEOUT_SECONDS", "2")];
            assert_refused(&start(&url, format, &settings), status, &whole());
        }
        let handshake = secretive(&format!("GET /?{CANARY} HTTP/1.1"))
            + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_refused(
            &start(&vacant.url(), format, &[ONE_ATTEMPT]),
            426,
            &handshake,
        );
    }
}

#[test]
fn an_upstream_that_takes_no_bytes_and_a_pool_that_is_empty_show_no_secret() {
    for format in FORMATS {
        let (asked, was_asked) = mpsc::channel();
        let origin = Origin::plays([act(move |peer| {
            peer.head();
            asked.send(()).unwrap();
            peer.is_deaf();
        })]);
        let settings = [
            ONE_ATTEMPT,
            ("UPSTREAM_MAX_CONNECTIONS", "1"),
            ("POOL_TIMEOUT_SECONDS", "0.2"),
            ("WRITE_TIMEOUT_SECONDS", "2"),
        ];
        let proxy = start(&origin.url(), format, &settings);
        let mut stalled = Client::connect(&proxy);
        let body = CANARY.repeat(1 << 20);
        let head = secretive(&format!("PUT /?{CANARY} HTTP/1.1"));
        stalled.send(format!(
            "{head}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        soon(&was_asked);
        assert_refused(&proxy, 504, &whole());
        let response = stalled.response();
        assert_eq!(response.status(), 504);
        assert_no_secret(&(response.head.text() + &response.text()));
        proxy.ended(2);
        proxy.logs(&["WRITE_TIMEOUT_SECONDS"]);
    }
}

#[test]
fn no_start_and_no_command_shows_a_secret() {
    let (key, token) = (key(), token());
    let broken = format!("{CANARY}\u{1}{CANARY}");
    let urls = [
        format!("http://user:{CANARY}@127.0.0.1"),
        format!("http://{CANARY}@127.0.0.1/v1"),
        format!("http://127.0.0.1/v1?key={CANARY}"),
        format!("http://127.0.0.1:x/#{CANARY}"),
        "http://127.0.0.1:9".to_owned(),
    ];
    let taken = Vacant::new().listen();
    let port = taken.local_addr().unwrap().port().to_string();
    for url in &urls {
        for (key, token) in [(&key, &token), (&broken, &token), (&key, &broken)] {
            let settings = [
                ("UPSTREAM_BASE_URL", url.as_str()),
                ("UPSTREAM_API_KEY", key.as_str()),
                ("PROXY_ACCESS_TOKEN", token.as_str()),
                ("LISTEN_PORT", port.as_str()),
                ("LISTEN_HOST", "0.0.0.0"),
                ("LOG_LEVEL", "TRACE"),
            ];
            // The port is in use: what is not refused for its settings fails to start.
            for arguments in [
                &[][..],
                &["--check"],
                &["--help"],
                &["--version"],
                &["--no-such"],
            ] {
                assert_no_secret(&run(arguments, &settings).text);
            }
        }
    }
}

#[test]
fn a_secret_is_known_in_every_form() {
    let around = |before: &str| format!("{before}{CANARY}-after");
    for (form, shown) in [
        ("as it is", around("x")),
        ("in capitals", around("x").to_uppercase()),
        (
            "every byte percent-encoded",
            CANARY.bytes().map(|b| format!("%{b:02X}")).collect(),
        ),
        (
            "as Debug shows bytes",
            format!("{:?}", around("x").as_bytes()),
        ),
        (
            "in hexadecimal",
            CANARY.bytes().map(|b| format!("{b:02x}")).collect(),
        ),
    ] {
        assert!(shown_canary(&shown).is_some(), "{form}: {shown}");
    }
    // By the base64 of coreutils.
    for encoded in [
        "YzRuYXJ5OWYzZTcxZDBiNQ==",
        "eGM0bmFyeTlmM2U3MWQwYjU=",
        "eHhjNG5hcnk5ZjNlNzFkMGI1",
    ] {
        assert!(shown_canary(encoded).is_some(), "{encoded}");
    }
    assert_eq!(shown_canary("c4nary9f3e71d0b"), None);
}
