//! The admin listener: where it is, what it answers, and that nothing it is sent or owed hurts.
use std::fs;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::net::eventually;
use crate::support::{
    Client, DEADLINE, OK, Origin, Proxy, RESCUE, act, closes, get, hangs, look_at, post, run,
};

const ADMIN: (&str, &str) = ("ADMIN_PORT", "0");

fn with_admin(origin: &Origin, settings: &[(&str, &str)]) -> Proxy {
    Proxy::start(origin, &[&[ADMIN], settings].concat())
}

#[test]
fn clients_never_reach_what_operators_look_at() {
    let paths = ["/metrics", "/status.json", "/"];
    let origin = Origin::plays([act(move |peer| {
        for path in paths {
            assert!(
                peer.request()
                    .head
                    .line()
                    .starts_with(&format!("GET {path} "))
            );
            peer.send(OK);
        }
    })]);
    let proxy = with_admin(&origin, &[("WORKERS", "1")]);
    assert_ne!(proxy.admin().port(), proxy.addr.port());
    assert!(proxy.admin().ip().is_loopback());
    let mut client = Client::connect(&proxy);
    for path in paths {
        assert_eq!(client.exchange(get(path)).body, b"ok");
    }
}

#[test]
fn there_is_no_admin_listener_until_it_is_asked_for() {
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[]);
    assert!(!proxy.text().contains("admin listener"));
    assert!(!proxy.threads().contains(&"admin".to_owned()));
}

#[test]
fn a_port_in_use_stops_the_start() {
    let origin = Origin::plays([]);
    let proxy = with_admin(&origin, &[]);
    let port = proxy.admin().port().to_string();
    let url = origin.url();
    let again = [
        ("UPSTREAM_BASE_URL", &*url),
        ("LISTEN_PORT", "0"),
        ("ADMIN_PORT", &port),
    ];
    let ended = run(&[], &again);
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended
            .text
            .contains(&format!("cannot listen on 127.0.0.1:{port}")),
        "{}",
        ended.text
    );
}

#[test]
fn it_answers_get_and_head_on_a_connection_that_is_kept_and_says_what_else_there_is() {
    let origin = Origin::plays([]);
    let proxy = with_admin(&origin, &[("PROXY_ACCESS_TOKEN", "t")]);
    let mut client = Client::connect_to(proxy.admin());
    let healthy = client.exchange(look_at("/healthz?verbose"));
    assert_eq!(
        (healthy.status(), &*healthy.text()),
        (200, r#"{"ok":true}"#)
    );
    let head = client.exchange("HEAD /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!((head.status(), &head.body[..]), (200, &b""[..]));
    let elsewhere = client.exchange(look_at("/status"));
    assert_eq!(elsewhere.status(), 404);
    assert!(
        elsewhere.text().contains("/status.json"),
        "{}",
        elsewhere.text()
    );
    let put =
        client.exchange("PUT /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(put.status(), 405);
    assert_eq!(put.head.field("allow").as_deref(), Some("GET, HEAD"));
    let upgrade = "Connection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let upgrade = client.exchange(format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n{upgrade}"
    ));
    assert_eq!(upgrade.status(), 200);
}

#[test]
fn no_website_reads_it_by_a_name_that_it_has_pointed_at_loopback() {
    let origin = Origin::plays([]);
    let proxy = with_admin(&origin, &[]);
    let told = |proxy: &Proxy, host: &str, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        Client::connect_to(proxy.admin()).exchange(request)
    };
    for path in ["/", "/status.json", "/metrics", "/healthz"] {
        let refused = told(&proxy, "rebound.example:9788", path);
        assert_eq!(refused.status(), 403, "{path}");
        assert!(refused.text().contains("localhost"), "{}", refused.text());
        for host in ["127.0.0.1:9788", "[::1]:9788", "localhost", "a.localhost:1"] {
            assert_eq!(told(&proxy, host, path).status(), 200, "{host}");
        }
    }
    // In a network of containers it is asked by name.
    let anywhere = with_admin(&origin, &[("ADMIN_HOST", "0.0.0.0")]);
    assert_eq!(told(&anywhere, "proxy:9788", "/metrics").status(), 200);
}

#[test]
fn what_is_no_request_ends_its_connection_and_nothing_else() {
    let origin = Origin::plays([]);
    let proxy = with_admin(&origin, &[]);
    for bad in [
        "GET /healthz HTTP/1.1\r\n\r\n".to_owned(),
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n".to_owned(),
        format!(
            "GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "x".repeat(40_000)
        ),
        "CONNECT h:1 HTTP/1.1\r\nHost: localhost:1\r\n\r\n".to_owned(),
    ] {
        let mut client = Client::connect_to(proxy.admin());
        client.send_if_taken(bad.as_bytes());
        let response = client.response();
        assert!(
            (400..500).contains(&response.status()),
            "{}",
            response.text()
        );
        client.is_closed();
    }
    let mut client = Client::connect_to(proxy.admin());
    let body = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let response = client.exchange(format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n{body}"
    ));
    assert_eq!(response.status(), 200);
    client.is_closed();
    assert_eq!(proxy.asked("/healthz").status(), 200);
}

#[test]
fn those_who_say_nothing_keep_nobody_out_and_hold_no_more_than_their_places() {
    let origin = Origin::plays([]);
    let proxy = with_admin(&origin, &[]);
    let admin = proxy.admin();
    assert_eq!(proxy.asked("/healthz").status(), 200);
    let before = proxy.descriptors();
    let silent: Vec<_> = (0..40).map(|_| Client::connect_to(admin)).collect();
    assert_eq!(proxy.asked("/healthz").status(), 200);
    let mut more: Vec<_> = (0..100).map(|_| Client::connect_to(admin)).collect();
    more.last_mut().unwrap().is_closed();
    assert!(proxy.descriptors() < before + 80, "{}", proxy.descriptors());
    drop(silent);
    for mut client in more {
        client.leave();
    }
    eventually("their places are free", || {
        let mut client = Client::connect_to(admin);
        client.send_if_taken(look_at("/healthz").as_bytes());
        client
            .try_response("GET")
            .is_ok_and(|response| response.status() == 200)
    });
    eventually("nothing is left", || proxy.descriptors() <= before);
}

#[test]
fn numbers_are_those_of_all_cores_and_of_what_was_done() {
    let origin = Origin::serves(100, |peer| {
        while peer.next_request().is_some() {
            peer.send(OK);
        }
    });
    let proxy = with_admin(&origin, &[("WORKERS", "3")]);
    let start = proxy.status();
    assert_eq!(start["counters"]["exchanges"]["answered"], 0);
    let (mut up, mut down) = (0, 0);
    for count in 1..=60 {
        // Each may come to another core.
        let request = post("/v1/responses?key=value", &vec![b'x'; count]);
        let response = Client::connect(&proxy).exchange(&request);
        let seen = origin.request(count);
        up += (seen.head.text().len() + seen.body.len()) as u64;
        down += (response.head.text().len() + response.body.len()) as u64;
    }
    proxy.ended(60);
    let status = proxy.status();
    let counters = &status["counters"];
    assert_eq!(status["workers"], 3);
    assert_eq!(counters["exchanges"]["answered"], 60);
    assert_eq!(counters["attempts"], 60);
    assert_eq!(counters["request_bytes"], up);
    assert_eq!(counters["response_bytes"], down);
    assert_eq!(counters["client_accepts"]["admitted"], 60);
    let (hits, misses) = (
        &counters["pool_takes"]["hit"],
        &counters["pool_takes"]["miss"],
    );
    assert_eq!(hits.as_u64().unwrap() + misses.as_u64().unwrap(), 60);
    assert_eq!(counters["connects"]["ok"], *misses);
    assert_eq!(counters["response_header_wait_seconds"]["1"]["count"], 60);
    assert_eq!(counters["exchange_duration_seconds"]["count"], 60);
    assert_eq!(status["in_flight"]["total"], 0);
    eventually("the clients' connections are gone", || {
        proxy.status()["client_connections"] == 0
    });
}

#[test]
fn what_is_going_on_is_told_with_its_phase_and_its_age() {
    let origin = Origin::plays([
        hangs(),
        act(|peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
            peer.is_closed();
        }),
    ]);
    let proxy = with_admin(&origin, &[]);
    let mut waiting = Client::connect(&proxy);
    waiting.send(post("/waits?secret=1", b"{}"));
    origin.request(1);
    let mut streaming = Client::connect(&proxy);
    streaming.send(post("/streams", b"{}"));
    assert_eq!(streaming.head().status(), 200);
    let mut sending = Client::connect(&proxy);
    sending.send("POST /sends HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe");
    sending.until_taken();
    eventually("all three are seen", || {
        proxy.status()["in_flight"]["total"] == 3
    });
    let flight = proxy.status()["in_flight"].clone();
    for (at, path, phase) in [
        (0, "/waits", "header"),
        (1, "/streams", "relay"),
        (2, "/sends", "receiving"),
    ] {
        assert_eq!(flight["phases"][phase], 1, "{flight}");
        let going = &flight["oldest"][at];
        assert_eq!(
            (&going["path"], &going["phase"]),
            (&path.into(), &phase.into())
        );
        assert_eq!(going["attempt"], u64::from(phase != "receiving"));
        assert!(going["age_seconds"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(flight["oldest"].as_array().unwrap().len(), 3);
    for mut client in [waiting, streaming, sending] {
        client.leave();
    }
    eventually("nothing is going on", || {
        proxy.status()["in_flight"]["total"] == 0
    });
    let left = proxy.status()["counters"]["clients_left"].clone();
    assert_eq!(
        [&left["header"], &left["relay"], &left["receiving"]],
        [1, 1, 1]
    );
}

#[test]
fn who_waits_for_a_connection_again_after_a_stale_one_is_told_to_be_waiting() {
    let (sent, closes) = mpsc::channel();
    let stale = act(move |peer| {
        peer.request();
        peer.send(OK);
        peer.request();
        closes.recv().unwrap();
        peer.close();
    });
    let origin = Origin::plays([stale, hangs()]);
    let settings = [("UPSTREAM_MAX_CONNECTIONS", "1"), ("WORKERS", "1")];
    let proxy = with_admin(&origin, &settings);
    let phases = |header: u64, pool: u64| {
        let phases = &proxy.status()["in_flight"]["phases"];
        phases["header"] == header && phases["pool"] == pool
    };
    let mut first = Client::connect(&proxy);
    assert_eq!(first.exchange(get("/")).status(), 200);
    first.send(get("/"));
    eventually("it waits for its response", || phases(1, 0));
    let mut second = Client::connect(&proxy);
    second.send(get("/"));
    eventually("the other waits for the connection", || phases(1, 1));
    sent.send(()).unwrap();
    origin.request(3);
    eventually("they have changed places", || phases(1, 1));
    first.leave();
    eventually("nobody waits for the connection", || phases(1, 0));
}

/// Path, attempt, phase and delivery of something that went wrong.
fn told(failure: &serde_json::Value) -> (String, Option<u64>, String, String) {
    let text = |name: &str| failure[name].as_str().unwrap_or("-").to_owned();
    let attempt = failure["attempt"].as_u64();
    (text("path"), attempt, text("phase"), text("delivery"))
}

#[test]
fn what_went_wrong_is_told_with_its_cause_and_what_came_of_it() {
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe";
    let ends = |response: &'static str| {
        act(move |peer| {
            peer.request();
            peer.send(response);
            peer.close();
        })
    };
    let origin = Origin::plays([
        hangs(),
        ends(OK),
        closes(),
        closes(),
        ends(cut),
        ends("SSH-2.0\r\n"),
    ]);
    let proxy = with_admin(&origin, &RESCUE);
    for (path, status) in [("/rescued", 200), ("/exhausted", 502)] {
        let response = Client::connect(&proxy).exchange(post(path, b"{}"));
        assert_eq!(response.status(), status);
    }
    let mut cut = Client::connect(&proxy);
    cut.send(post("/cut", b"{}"));
    cut.try_response("POST").expect_err("it is cut");
    let garbage = Client::connect(&proxy).exchange(post("/garbage", b"{}"));
    assert_eq!(garbage.status(), 502);
    proxy.logs(&["WARN  unusable response", "path=/garbage", "HTTP/1."]);
    proxy.ended(4);
    let status = proxy.status();
    let exchanges = &status["counters"]["exchanges"];
    let each = ["rescued", "exhausted", "aborted"].map(|outcome| &exchanges[outcome]);
    assert_eq!(each, [1, 1, 1]);
    assert_eq!(status["counters"]["refusals"]["upstream_request_error"], 1);
    assert_eq!(status["counters"]["possibly_doubled_requests"], 2);
    assert_eq!(status["counters"]["replays"], 2);
    let failures = status["failures"].as_array().unwrap();
    let told = |at: usize| told(&failures[at]);
    let failed = |path: &str, attempt: u64| {
        (
            path.to_owned(),
            Some(attempt),
            "header".to_owned(),
            "acked".to_owned(),
        )
    };
    let answered =
        |path: &str, phase: &str| (path.to_owned(), None, phase.to_owned(), "-".to_owned());
    assert_eq!(told(0), answered("/garbage", "header"));
    assert_eq!(told(1), answered("/cut", "relay"));
    assert_eq!(told(2), failed("/exhausted", 2));
    assert_eq!(told(3), failed("/exhausted", 1));
    assert_eq!(told(4), failed("/rescued", 1));
    assert_eq!(failures.len(), 5);
    let names: Vec<_> = failures
        .iter()
        .map(|failure| failure["failure"].as_str())
        .collect();
    let (closed, late) = (Some("closed"), Some("header_timeout"));
    assert_eq!(names, [None, None, closed, closed, late]);
    let cause = failures[4]["cause"].as_str().unwrap();
    assert!(cause.contains("RESPONSE_HEADER_TIMEOUT_SECONDS"), "{cause}");
}

#[test]
fn a_proxy_that_drains_says_so_to_its_end() {
    let origin = Origin::plays([act(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
        peer.is_closed();
    })]);
    let mut proxy = with_admin(&origin, &[]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    assert_eq!(client.head().status(), 200);
    proxy.signal(Signal::TERM);
    eventually("it says so", || proxy.asked("/healthz").status() == 503);
    assert_eq!(
        proxy.asked("/healthz").text(),
        r#"{"draining":true,"ok":false}"#
    );
    let status = proxy.status();
    assert_eq!(
        (&status["draining"], &status["in_flight"]["total"]),
        (&true.into(), &1.into())
    );
    assert!(proxy.asked("/").text().contains(">Draining</h2>"));
    client.leave();
    assert!(proxy.exits_within(DEADLINE).success());
}

#[test]
fn a_core_that_has_drained_goes_on_answering_until_all_have() {
    let origin = Origin::plays([act(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe");
        peer.is_closed();
    })]);
    let mut proxy = with_admin(&origin, &[("WORKERS", "2")]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    assert_eq!(client.head().status(), 200);
    // On both cores: the kernel deals them out.
    let kept: Vec<_> = (0..40).map(|_| Client::connect(&proxy)).collect();
    let is_connected = |count: u64| proxy.status()["client_connections"] == count;
    eventually("all are accepted", || is_connected(41));
    proxy.signal(Signal::TERM);
    eventually("who waits for nothing is gone", || is_connected(1));
    assert_eq!(proxy.status()["silent_workers"], 0);
    drop(kept);
    client.leave();
    assert!(proxy.exits_within(DEADLINE).success());
}

/// Has strace(1) hold a thread up for a minute whenever it waits for something. `None`: it cannot.
fn delayed(proxy: &Proxy, name: &str) -> Option<Child> {
    let thread = proxy.thread(name).to_string();
    let delay = "inject=io_uring_enter,epoll_wait,epoll_pwait:delay_exit=60s";
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", "/dev/null", "-p", &thread, "-e", delay]);
    let mut child = command.stderr(Stdio::null()).spawn().ok()?;
    let status = format!("/proc/{thread}/status");
    let mut ended = false;
    eventually("it is traced, or cannot be", || {
        ended = child.try_wait().unwrap().is_some();
        ended
            || !fs::read_to_string(&status)
                .unwrap()
                .contains("TracerPid:\t0\n")
    });
    (!ended).then_some(child)
}

/// A core that stands still answers nobody; its numbers are those of the last time.
#[test]
fn a_core_that_does_not_answer_is_unhealthy_and_loses_no_number() {
    let origin = Origin::serves(10, |peer| {
        while peer.next_request().is_some() {
            peer.send(OK);
        }
    });
    let proxy = with_admin(&origin, &[("WORKERS", "1")]);
    Client::connect(&proxy).exchange(get("/"));
    proxy.ended(1);
    assert_eq!(proxy.status()["counters"]["exchanges"]["answered"], 1);
    let Some(mut delays) = delayed(&proxy, "worker-0") else {
        return eprintln!("SKIPPED: strace(1) is not to be had or may not trace, so no core stops");
    };
    // The wait that it is in may end before it is held up.
    let is_silent = || proxy.asked("/healthz").status() == 503;
    eventually("it does not answer", is_silent);
    let start = Instant::now();
    let health = proxy.asked("/healthz");
    assert_eq!(health.text(), r#"{"ok":false,"silent_workers":1}"#);
    assert!(start.elapsed() > Duration::from_millis(900));
    let status = proxy.status();
    assert_eq!(status["silent_workers"], 1);
    let note = ">1 of 1 workers did not answer in time";
    assert!(proxy.asked("/").text().contains(note));
    assert_eq!(status["counters"]["exchanges"]["answered"], 1);
    delays.kill().unwrap();
    delays.wait().unwrap();
    eventually("it is well again", || {
        proxy.asked("/healthz").status() == 200
    });
}
