//! What a newcomer gets wrong, and what one is told: a line that says what to do next.
use std::fs;

use rustix::process::geteuid;

use crate::support::{Authority, Client, Origin, Proxy, Vacant, act, get, run, run_by};

#[test]
fn a_start_that_cannot_be_says_in_one_line_what_to_do_next() {
    let local = "http://127.0.0.1:9";
    for (url, host, code, next) in [
        (
            "",
            "127.0.0.1",
            2,
            "such as https://api.openai.com; --help has all settings",
        ),
        (
            "api.openai.com",
            "127.0.0.1",
            2,
            "lacks its scheme; put https:// before it",
        ),
        (
            "localhost:8080/v1",
            "127.0.0.1",
            2,
            "or http:// for an API without TLS",
        ),
        (
            "\"https://a\"",
            "127.0.0.1",
            2,
            "quotation mark; write it without",
        ),
        (
            local,
            "proxy.example",
            2,
            "is not an IP address, nor localhost",
        ),
        (
            local,
            "192.0.2.1",
            1,
            "no interface of this machine has this address",
        ),
    ] {
        let settings = [
            ("UPSTREAM_BASE_URL", url),
            ("LISTEN_HOST", host),
            ("LISTEN_PORT", "0"),
        ];
        let ended = run(&[], &settings);
        assert_eq!(ended.status.code(), Some(code), "{url} {host}");
        assert!(ended.text.contains(next), "no {next:?} in {}", ended.text);
        assert_eq!(ended.text.lines().count(), 1, "{}", ended.text);
    }
}

#[test]
fn a_port_for_the_privileged_is_said_to_be_one() {
    let first_for_all = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    if matches!(fs::read_to_string(first_for_all).unwrap().trim(), "0" | "1") {
        eprintln!("SKIPPED: here every port is for everybody");
        return;
    }
    let settings = [
        ("UPSTREAM_BASE_URL", "http://127.0.0.1:9"),
        ("LISTEN_PORT", "1"),
    ];
    // Root without its capabilities is nobody in particular.
    let launcher: &[&str] = match geteuid().is_root() {
        true => &["setpriv", "--bounding-set=-net_bind_service"],
        false => &["env"],
    };
    let ended = run_by(launcher, &settings);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.text);
    let next = "CAP_NET_BIND_SERVICE: choose another";
    assert!(ended.text.contains(next), "{}", ended.text);
}

#[test]
fn white_space_around_the_base_url_does_not_matter() {
    let vacant = Vacant::new();
    let proxy = Proxy::start_at(&format!("  {} \n", vacant.url()), &[]);
    let line = proxy.logs(&["listening on"]);
    assert!(
        line.ends_with(&format!("upstream {}", vacant.url())),
        "{line}"
    );
}

#[test]
fn an_upstream_that_is_not_there_is_named_by_its_setting() {
    let vacant = Vacant::new();
    let proxy = Proxy::start_at(&vacant.url(), &[]);
    let response = Client::connect(&proxy).exchange(get("/"));
    assert_eq!(response.status(), 502);
    let told = "could not connect to the upstream (UPSTREAM_BASE_URL): Connection refused";
    assert!(response.text().contains(told), "{}", response.text());
    proxy.logs(&["attempt failed", told]);
}

#[test]
fn a_key_that_the_upstream_refuses_is_its_answer_and_a_line_in_the_log() {
    const BODY: &str = r#"{"error":{"message":"Incorrect API key provided"}}"#;
    let origin = Origin::plays([act(|peer| {
        peer.request();
        let length = BODY.len();
        peer.send(format!(
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: {length}\r\n\r\n{BODY}"
        ));
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let response = Client::connect(&proxy).exchange(get("/v1/models"));
    assert_eq!((response.status(), response.text()), (401, BODY.into()));
    proxy.logs(&["answered", " 401 GET  /v1/models"]);
}

#[test]
fn https_to_an_upstream_without_tls_is_said_to_be_that() {
    let authority = Authority::new();
    let plain = act(|peer| {
        peer.flight();
        peer.send_sealed(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        peer.close();
    });
    let origin = Origin::plays_tls(&authority, [plain]);
    let proxy = Proxy::start(&origin, &[("UPSTREAM_MAX_ATTEMPTS", "1")]);
    let response = Client::connect(&proxy).exchange(get("/"));
    assert_eq!(response.status(), 502);
    let told = "not in TLS: perhaps UPSTREAM_BASE_URL has to begin with http://";
    assert!(response.text().contains(told), "{}", response.text());
}

#[test]
fn http_to_an_upstream_with_tls_is_said_to_be_that() {
    let alert = [21, 3, 3, 0, 2, 2, 50];
    let origin = Origin::plays([act(move |peer| {
        peer.request();
        peer.send(alert);
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let response = Client::connect(&proxy).exchange(get("/"));
    assert_eq!(response.status(), 502);
    let told = "it is a TLS alert: UPSTREAM_BASE_URL has to begin with https://";
    assert!(response.text().contains(told), "{}", response.text());
}

#[test]
fn an_upstream_whose_network_may_read_along_is_warned_of() {
    for (url, warned) in [
        ("http://api.example.com", true),
        ("http://api.example.com:443/v1", true),
        ("https://api.example.com", false),
        ("http://localhost:8080", false),
        ("http://192.0.2.1", false),
        ("http://[2001:db8::192.0.2.1]", false),
        ("http://vllm:8000", false),
        ("http://vllm.models.svc.cluster.local:8000", false),
    ] {
        let ended = run(&["--check"], &[("UPSTREAM_BASE_URL", url)]);
        assert_eq!(ended.status.code(), Some(0));
        let text = ended.text;
        assert_eq!(
            text.contains("Write https:// unless"),
            warned,
            "{url}: {text}"
        );
    }
}

#[test]
fn help_says_how_to_begin_how_to_end_and_with_what_code() {
    let ended = run(&["--help"], &[]);
    for part in [
        "\n  UPSTREAM_BASE_URL=https://",
        "\n  curl http://127.0.0.1:8788/",
        "SIGTERM",
        "Exit codes: 0 ",
    ] {
        assert!(ended.text.contains(part), "no {part:?} in {}", ended.text);
    }
}
