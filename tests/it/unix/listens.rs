//! A proxy that listens on a Unix socket: who may have the path, who may connect, and its end.
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use rustix::process::Signal;

use super::{Folder, text, unprivileged};
use crate::support::net::eventually;
use crate::support::{
    Client, DEADLINE, OK, Origin, Peer, Proxy, Vacant, act, answers, get, post, run, run_by, soon,
};

/// Answers every request.
fn ok(peer: &mut Peer) {
    while peer.next_request().is_some() {
        peer.send(OK);
    }
}

fn listen(path: &Path) -> (&'static str, &str) {
    ("LISTEN_UNIX", text(path))
}

/// The start must fail; what it says.
#[track_caller]
fn refused_start(code: i32, settings: &[(&str, &str)]) -> String {
    let ended = run(&[], settings);
    assert_eq!(ended.status.code(), Some(code), "{}", ended.text);
    assert_eq!(ended.text.lines().count(), 1, "{}", ended.text);
    ended.text
}

#[test]
fn a_socket_is_listened_on_instead_of_a_port_and_that_is_shown() {
    let folder = Folder::new();
    let path = folder.at("s");
    let origin = Origin::plays([answers(OK)]);
    let port = Vacant::new(); // nobody else takes it
    let number = port.addr.port().to_string();
    let settings = [listen(&path), ("LISTEN_PORT", &number), ("ADMIN_PORT", "0")];
    let proxy = Proxy::start(&origin, &settings);
    assert_eq!(proxy.unix.as_deref(), Some(&*path));
    assert!(std::net::TcpStream::connect(port.addr).is_err());
    let shown = format!("unix:{}", text(&path));
    assert_eq!(proxy.status()["listen"], shown);
    let page = proxy.asked("/").text();
    let hint = format!(
        "curl --unix-socket {} http://localhost/v1/models",
        text(&path)
    );
    assert!(page.contains(&hint) && page.contains(&shown), "{page}");
    assert_eq!(Client::connect(&proxy).exchange(get("/")).text(), "ok");
}

#[test]
fn every_client_of_many_is_served_by_workers_that_share_the_socket() {
    const CLIENTS: usize = 200;
    let folder = Folder::new();
    let path = folder.at("s");
    let origin = Origin::serves(2 * CLIENTS, ok);
    let proxy = Proxy::start(&origin, &[listen(&path), ("WORKERS", "4")]);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..CLIENTS / 8 {
                    let mut client = Client::connect(&proxy);
                    for _ in 0..3 {
                        assert_eq!(client.exchange(post("/", b"{}")).text(), "ok");
                    }
                }
            });
        }
    });
    proxy.ended(3 * CLIENTS);
}

#[test]
fn the_umask_says_who_may_connect() {
    let folder = Folder::new();
    let vacant = Vacant::new();
    for (umask, mode) in [("022", 0o755), ("007", 0o770), ("077", 0o700)] {
        let path = folder.at(umask);
        let script = format!("umask {umask} && exec \"$0\"");
        let launcher = ["sh", "-c", &script];
        let _proxy = Proxy::start_by(&launcher, &vacant.url(), &[listen(&path)]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode);
    }
}

#[test]
fn what_a_dead_process_has_left_is_replaced_at_once() {
    let folder = Folder::new();
    let path = folder.at("s");
    let origin = Origin::serves(9, ok);
    for _ in 0..3 {
        let mut proxy = Proxy::start(&origin, &[listen(&path)]);
        assert_eq!(Client::connect(&proxy).exchange(get("/")).text(), "ok");
        proxy.signal(Signal::KILL);
        proxy.exits_within(DEADLINE);
        assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    }
}

#[test]
fn a_socket_that_is_in_use_stops_the_start_and_goes_on_being_used() {
    let folder = Folder::new();
    let path = folder.at("s");
    let origin = Origin::serves(9, ok);
    let settings = [("UPSTREAM_BASE_URL", &*origin.url()), listen(&path)];
    let proxy = Proxy::start(&origin, &[listen(&path)]);
    let told = refused_start(1, &settings);
    let place = format!(
        "cannot listen on unix:{}: another process listens there",
        text(&path)
    );
    assert!(told.contains(&place), "{told}");
    assert_eq!(Client::connect(&proxy).exchange(get("/")).text(), "ok");
}

#[test]
fn what_is_no_socket_is_never_removed() {
    let folder = Folder::new();
    let (file, link, directory) = (folder.at("file"), folder.at("link"), folder.at("directory"));
    fs::write(&file, "precious").unwrap();
    let listener = folder.at("s");
    drop(UnixListener::bind(&listener).unwrap());
    std::os::unix::fs::symlink(&listener, &link).unwrap();
    fs::create_dir(&directory).unwrap();
    for path in [&file, &link, &directory] {
        let before = fs::symlink_metadata(path).unwrap().ino();
        let settings = [("UPSTREAM_BASE_URL", "http://127.0.0.1:9"), listen(path)];
        let told = refused_start(1, &settings);
        assert!(
            told.contains("something that is no socket is there"),
            "{told}"
        );
        assert_eq!(fs::symlink_metadata(path).unwrap().ino(), before);
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_path_that_cannot_be_is_told_with_what_to_do() {
    let folder = Folder::new();
    let long = format!("/{}", "x".repeat(107));
    let missing = folder.at("none/s");
    for (code, path, told) in [
        (2, "relative/s", "is not the absolute path of a socket"),
        (2, "@abstract", "is not the absolute path of a socket"),
        (2, "/run/", "is not the absolute path of a socket"),
        (2, &*long, "more than 107 bytes"),
        (1, text(&missing), "No such file or directory"),
    ] {
        let settings = [
            ("UPSTREAM_BASE_URL", "http://127.0.0.1:9"),
            ("LISTEN_UNIX", path),
        ];
        let text = refused_start(code, &settings);
        assert!(text.contains(told) && text.contains(path), "{text}");
        if code == 2 {
            let text = refused_start(2, &[("UPSTREAM_BASE_URL", &format!("unix:{path}"))]);
            assert!(text.contains(told) && text.contains(path), "{text}");
        }
    }
    let longest = folder.at("x");
    let longest = folder.at(&"x".repeat(108 - text(&longest).len()));
    assert_eq!(text(&longest).len(), 107);
    let vacant = Vacant::new();
    let _proxy = Proxy::start_at(&vacant.url(), &[listen(&longest)]);
    let outbound = [
        ("UPSTREAM_BASE_URL", "unix:/run/s"),
        ("OUTBOUND_PROXY", "socks5://canary@proxy"),
    ];
    let told = refused_start(2, &outbound);
    assert!(
        told.contains("OUTBOUND_PROXY leads to no Unix socket"),
        "{told}"
    );
}

#[test]
fn a_directory_that_may_not_be_written_to_is_said_so() {
    let Some(launcher) = unprivileged() else {
        return;
    };
    let folder = Folder::new();
    fs::set_permissions(folder.at("."), Permissions::from_mode(0o555)).unwrap();
    let path = folder.at("s");
    let settings = [("UPSTREAM_BASE_URL", "http://127.0.0.1:9"), listen(&path)];
    let ended = run_by(launcher, &settings);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.text);
    let told = format!("cannot listen on unix:{}: Permission denied", text(&path));
    assert!(ended.text.contains(&told), "{}", ended.text);
}

#[test]
fn healthcheck_asks_at_the_socket() {
    let folder = Folder::new();
    let path = folder.at("s");
    let origin = Origin::plays([]);
    let settings = [listen(&path), ("LISTEN_PORT", "0")];
    let ask = || run(&["healthcheck"], &settings);
    let proxy = Proxy::start(&origin, &settings);
    let well = ask();
    assert_eq!((well.status.code(), &*well.text), (Some(0), ""));
    drop(proxy);
    let ended = ask();
    assert_eq!(ended.status.code(), Some(1));
    for part in ["no answer from unix:", text(&path), "LISTEN_UNIX"] {
        assert!(ended.text.contains(part), "{}", ended.text);
    }
    // One that never answers, and one whose queue is full: the time is limited.
    let _ = fs::remove_file(&path);
    let silent = UnixListener::bind(&path).unwrap();
    assert_eq!(ask().status.code(), Some(1));
    rustix::net::listen(&silent, 0).unwrap();
    assert_eq!(ask().status.code(), Some(1));
}

#[test]
fn a_drain_serves_who_has_connected_and_lets_the_next_process_have_the_path() {
    let folder = Folder::new();
    let path = folder.at("s");
    let (begun, has_begun) = mpsc::channel();
    let (end, gate) = mpsc::channel();
    let stream = act(move |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        begun.send(()).unwrap();
        soon(&gate);
        peer.send("4\r\nlast\r\n0\r\n\r\n");
    });
    let origin = Origin::plays([stream]);
    let mut old = Proxy::start(&origin, &[listen(&path)]);
    let link = folder.at("link");
    fs::hard_link(&path, &link).unwrap();
    let mut client = Client::connect_at(&link);
    client.send(post("/", b"{}"));
    soon(&has_begun);
    old.signal(Signal::TERM);
    eventually("the file is removed", || !path.exists());
    eventually("nobody gets in who has found it before", || {
        UnixStream::connect(&link).is_err()
    });
    let next = Origin::plays([answers(OK)]);
    let new = Proxy::start(&next, &[listen(&path)]);
    assert_eq!(Client::connect(&new).exchange(get("/")).text(), "ok");
    end.send(()).unwrap();
    client.head();
    client.receive_chunked("firstlast");
    client.receive_chunked_end();
    client.is_closed();
    assert!(old.exits_within(DEADLINE).success());
    assert!(path.exists(), "it is another's now");
}

#[test]
fn a_socket_that_another_has_put_in_its_place_is_not_removed() {
    let folder = Folder::new();
    let path = folder.at("s");
    let vacant = Vacant::new();
    let mut proxy = Proxy::start_at(&vacant.url(), &[listen(&path)]);
    fs::remove_file(&path).unwrap();
    let _another = UnixListener::bind(&path).unwrap();
    proxy.signal(Signal::TERM);
    assert!(proxy.exits_within(DEADLINE).success());
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn nobody_who_waits_in_the_queue_is_lost_in_a_drain() {
    const CLIENTS: usize = 50;
    let folder = Folder::new();
    let path = folder.at("s");
    let origin = Origin::serves(CLIENTS, ok);
    let mut proxy = Proxy::start(&origin, &[listen(&path), ("WORKERS", "3")]);
    proxy.stop();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients {
        client.send(post("/", b"{}"));
    }
    proxy.signal(Signal::TERM);
    proxy.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.response().text(), "ok");
        client.is_closed();
    }
    assert!(proxy.exits_within(DEADLINE).success());
    assert!(!path.exists());
}

#[test]
fn a_start_that_fails_leaves_no_socket_behind() {
    let folder = Folder::new();
    let path = folder.at("s");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let settings = [
        ("UPSTREAM_BASE_URL", "http://127.0.0.1:9"),
        ("ADMIN_PORT", &port),
        listen(&path),
    ];
    let told = refused_start(1, &settings);
    assert!(told.contains("cannot listen on 127.0.0.1:"), "{told}");
    assert!(!path.exists());
}
