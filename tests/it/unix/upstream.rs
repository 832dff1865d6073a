//! An upstream that listens on a Unix socket: its name, its failures, and large bodies both ways.
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{Folder, text, unprivileged};
use crate::support::net::{eventually, unix_listener, until_stuck};
use crate::support::{
    Client, OK, Origin, Peer, Proxy, RESCUE, act, answers, closes, get, hangs, pattern, post,
    resets, soon,
};

const ALONE: (&str, &str) = ("WORKERS", "1");
const MIB: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Tcp,
    Unix,
}

/// A proxy whose clients come by `down`, in front of `origin`.
fn proxy(folder: &Folder, down: Side, origin: &Origin, settings: &[(&str, &str)]) -> Proxy {
    let path = folder.at("down");
    let listen = (
        "LISTEN_UNIX",
        if down == Side::Unix { text(&path) } else { "" },
    );
    Proxy::start(origin, &[&[listen], settings].concat())
}

fn each_pair(play: impl Fn(&Folder, Side, Side)) {
    for (down, up) in [
        (Side::Unix, Side::Unix),
        (Side::Unix, Side::Tcp),
        (Side::Tcp, Side::Unix),
    ] {
        play(&Folder::new(), down, up);
    }
}

#[test]
fn host_is_localhost_and_the_base_path_comes_first() {
    let folder = Folder::new();
    let socket = folder.at("a b:c");
    for (behind, target) in [("", "/x?y"), (":/", "/x?y"), (":/v1/", "/v1/x?y")] {
        let _ = fs::remove_file(&socket);
        let origin = Origin::plays_on(unix_listener(&socket), [answers(OK)]);
        let url = format!("{}{behind}", origin.url());
        let proxy = Proxy::start_at(&url, &[]);
        assert_eq!(Client::connect(&proxy).exchange(get("/x?y")).text(), "ok");
        let head = origin.request(1).head;
        assert_eq!(head.line(), format!("GET {target} HTTP/1.1"));
        assert_eq!(head.field("host").as_deref(), Some("localhost"));
        let shown = url.trim_end_matches('/').trim_end_matches(':');
        proxy.logs(&["listening on", &format!("upstream {shown}")]);
    }
}

#[test]
fn events_arrive_one_by_one_and_the_connection_is_used_again() {
    each_pair(|folder, down, up| {
        let (next, asked) = mpsc::channel();
        let asked = std::sync::Mutex::new(asked);
        let stream = move |peer: &mut Peer| {
            while peer.next_request().is_some() {
                peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                for _ in 0..10 {
                    soon(&asked.lock().unwrap());
                    peer.send("5\r\nevent\r\n");
                }
                peer.send("0\r\n\r\n");
            }
        };
        let origin = match up {
            Side::Unix => Origin::serves_on(folder.listener("up"), 1, stream),
            Side::Tcp => Origin::serves(1, stream),
        };
        let proxy = proxy(folder, down, &origin, &[ALONE]);
        let mut client = Client::connect(&proxy);
        for number in 1..=3 {
            client.send(post("/v1/responses", b"{}"));
            client.head();
            for _ in 0..10 {
                next.send(()).unwrap();
                client.receive_chunked("event");
            }
            client.receive_chunked_end();
            proxy.ended(number);
        }
    });
}

#[test]
fn large_bodies_are_byte_exact_both_ways_and_go_down_inside_the_kernel() {
    const LENGTH: usize = 32 * MIB;
    each_pair(|folder, down, up| {
        let serve = |peer: &mut Peer| {
            while let Some(request) = peer.next_request() {
                pattern().check(0, &request.body);
                assert_eq!(request.body.len(), LENGTH);
                peer.send(format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
                ));
                peer.send_pattern(pattern(), LENGTH, 700_001, false);
            }
        };
        let origin = match up {
            Side::Unix => Origin::serves_on(folder.listener("up"), 1, serve),
            Side::Tcp => Origin::serves(1, serve),
        };
        let proxy = proxy(folder, down, &origin, &[ALONE, ("ADMIN_PORT", "0")]);
        let mut client = Client::connect(&proxy);
        for number in 1..=2 {
            client.send(post("/", &pattern().bytes(LENGTH)));
            let response = client.response();
            assert_eq!(response.body.len(), LENGTH);
            pattern().check(0, &response.body);
            proxy.ended(number);
        }
        let counters = &proxy.status()["counters"];
        let spliced = counters["spliced_bytes"].as_u64().unwrap();
        assert!(spliced > LENGTH as u64, "{spliced} from {up:?} to {down:?}");
    });
}

#[test]
fn much_goes_through_a_tunnel_both_ways_at_once() {
    const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\n\r\n";
    const MUCH: usize = 16 * MIB;
    each_pair(|folder, down, up| {
        let tunnel = |peer: &mut Peer| {
            peer.request();
            peer.send(SWITCHING);
            peer.both_ways(pattern(), MUCH);
            peer.ends(); // and may still be sent to
            peer.send("last");
            peer.close();
        };
        let origin = match up {
            Side::Unix => Origin::serves_on(folder.listener("up"), 1, tunnel),
            Side::Tcp => Origin::serves(1, tunnel),
        };
        let proxy = proxy(folder, down, &origin, &[]);
        let mut client = Client::connect(&proxy);
        client
            .send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        assert_eq!(client.head().status(), 101);
        client.both_ways(pattern(), MUCH);
        client.half_close();
        client.receive("last");
        client.is_closed();
        proxy.logs(&["tunnelled", "closed by the client"]);
    });
}

#[test]
fn what_is_left_unanswered_is_sent_again_and_told_to_have_been_taken() {
    for (first, failure) in [
        (hangs as fn() -> _, "header_timeout"),
        (closes, "closed"),
        (resets, "closed"), // a Unix socket has no reset
    ] {
        let folder = Folder::new();
        let origin = Origin::plays_on(folder.listener("up"), [first(), answers(OK)]);
        let proxy = Proxy::start(&origin, &RESCUE);
        let response = Client::connect(&proxy).exchange(post("/v1/responses", b"{}"));
        assert_eq!(
            (response.text().as_str(), response.attempts()),
            ("ok", Some(2))
        );
        let told = response.failed_attempts();
        assert!(
            told[0].starts_with(&format!("1=acked,{failure},")),
            "{told:?}"
        );
        let requests = origin.requests();
        assert_eq!(requests[0], requests[1]);
    }
}

#[test]
fn a_request_that_is_not_taken_was_not_processed_and_its_rest_never_comes() {
    const LENGTH: usize = 8 * MIB;
    let folder = Folder::new();
    let (tell, gave_up) = mpsc::channel();
    let (looked, seen) = mpsc::channel();
    let first = act(move |peer| {
        until_stuck(peer.wire().stream.tcp());
        soon(&gave_up);
        let (_, came) = peer.is_closed_after();
        assert!(came < LENGTH as u64, "{came}");
        looked.send(()).unwrap();
    });
    let second = act(move |peer| {
        tell.send(()).unwrap();
        soon(&seen);
        peer.request();
        peer.send(OK);
    });
    let origin = Origin::plays_on(folder.listener("up"), [first, second]);
    // Both attempts stall for a while, and the limit is one without progress.
    let settings = [ALONE, ("WRITE_TIMEOUT_SECONDS", "2")];
    let proxy = Proxy::start(&origin, &settings);
    let response = Client::connect(&proxy).exchange(post("/", &vec![b'x'; LENGTH]));
    let told = response.failed_attempts();
    assert!(
        told[0].starts_with("1=not_acked,write_timeout,"),
        "{told:?}"
    );
    assert_eq!(response.text(), "ok");
}

#[test]
fn an_idle_connection_that_the_upstream_closes_is_not_used() {
    let folder = Folder::new();
    let (close, told) = mpsc::channel();
    let first = act(move |peer| {
        peer.request();
        peer.send(OK);
        soon(&told);
        peer.close();
    });
    let origin = Origin::plays_on(folder.listener("up"), [first, answers(OK)]);
    let proxy = Proxy::start(&origin, &[ALONE]);
    let mut client = Client::connect(&proxy);
    client.exchange(get("/"));
    proxy.ended(1);
    close.send(()).unwrap();
    // Whether it is found closed before it is used or by being used, that is no attempt.
    let response = client.exchange(post("/", b"{}"));
    assert_eq!(response.text(), "ok");
    assert!(!proxy.text().contains("attempt failed") || response.attempts() == Some(2));
}

#[test]
fn a_client_that_leaves_ends_its_request() {
    for half in [false, true] {
        each_pair(|folder, down, up| {
            let (asked, was_asked) = mpsc::channel();
            let waits = act(move |peer| {
                peer.request();
                asked.send(()).unwrap();
                peer.is_closed();
            });
            let origin = match up {
                Side::Unix => Origin::plays_on(folder.listener("up"), [waits]),
                Side::Tcp => Origin::plays([waits]),
            };
            let proxy = proxy(folder, down, &origin, &[]);
            let mut client = Client::connect(&proxy);
            client.send(post("/", b"{}"));
            soon(&was_asked);
            match half {
                true => client.half_close(),
                false => drop(client.leave()),
            }
            proxy.logs(&["client left", "waiting for the response"]);
        });
    }
}

/// The message and what became of each attempt.
#[track_caller]
fn refused(proxy: &Proxy, status: u16, code: &str) -> String {
    let response = Client::connect(proxy).exchange(post("/", b"{}"));
    response.assert_refusal(status, code);
    format!("{} {:?}", response.text(), response.failed_attempts())
}

#[test]
fn an_upstream_that_cannot_be_reached_is_said_why_and_tried_again() {
    let folder = Folder::new();
    let (missing, dead) = (folder.at("missing"), folder.at("dead"));
    drop(UnixListener::bind(&dead).unwrap());
    for (path, why) in [
        (&missing, "No such file or directory"),
        (&dead, "Connection refused"),
        (&folder.at("."), "Connection refused"),
    ] {
        let url = format!("unix:{}", text(path));
        let proxy = Proxy::start_at(&url, &[]);
        let told = refused(&proxy, 502, "upstream_request_error");
        let place = format!("could not connect to the upstream (UPSTREAM_BASE_URL): {url}: {why}");
        assert!(told.contains(&place), "{told}");
        assert!(told.contains("nothing was sent"), "{told}");
        assert!(told.contains("2=not_sent,connect_failed,"), "{told}");
    }
    // It comes back in the back-off.
    let url = format!("unix:{}", text(&missing));
    let proxy = Proxy::start_at(&url, &[("RETRY_BACKOFF_SECONDS", "30")]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    proxy.logs(&["attempt failed", "again=true"]);
    client.leave();
    let _origin = Origin::plays_on(unix_listener(&missing), [answers(OK)]);
    assert_eq!(Client::connect(&proxy).exchange(get("/")).text(), "ok");
}

#[test]
fn an_upstream_that_may_not_be_reached_is_said_so() {
    let folder = Folder::new();
    let socket = folder.at("up");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o000)).unwrap();
    let url = format!("unix:{}", text(&socket));
    let Some(launcher) = unprivileged() else {
        return;
    };
    let proxy = Proxy::start_by(launcher, &url, &[]);
    let told = refused(&proxy, 502, "upstream_request_error");
    assert!(told.contains("Permission denied"), "{told}");
}

#[test]
fn an_upstream_whose_queue_is_full_is_waited_for() {
    let folder = Folder::new();
    let socket = folder.at("up");
    let listener = unix_listener(&socket);
    rustix::net::listen(&listener, 0).unwrap();
    let addr = SocketAddrUnix::new(&socket).unwrap();
    let mut queued = Vec::new();
    let flags = SocketFlags::NONBLOCK;
    loop {
        let more = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        if connect(&more, &addr).is_err() {
            break;
        }
        queued.push(UnixStream::from(more));
    }
    let url = format!("unix:{}", text(&socket));
    let impatient = [("CONNECT_TIMEOUT_SECONDS", "0.2")];
    let proxy = Proxy::start_at(&url, &impatient);
    let told = refused(&proxy, 504, "upstream_timeout");
    assert!(told.contains("CONNECT_TIMEOUT_SECONDS"), "{told}");
    assert!(told.contains("2=not_sent,connect_timeout,"), "{told}");

    let proxy = Proxy::start_at(
        &url,
        &[("CONNECT_TIMEOUT_SECONDS", "30"), ("ADMIN_PORT", "0")],
    );
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    eventually("it is waiting", || {
        proxy.status()["in_flight"]["phases"]["connect"] == 1
    });
    drop(queued);
    let serve = |peer: &mut Peer| {
        if peer.next_request().is_some() {
            peer.send(OK);
        }
    };
    let _origin = Origin::serves_on(listener, 99, serve);
    assert_eq!(client.response().attempts(), Some(1));
}
