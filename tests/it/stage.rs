//! The stage itself: a test must fail when more or less happens than its script says.
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::net::until_taken;
use crate::support::{Client, OK, Origin, act, answers, chunked, get, pattern, post, sockets};

/// The complaint that ends a test.
fn complaint(test: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(test)).expect_err("nothing was noticed");
    let text = panic.downcast_ref::<String>().cloned();
    text.unwrap_or_else(|| panic.downcast_ref::<&str>().unwrap().to_string())
}

#[test]
fn a_script_that_is_followed_passes() {
    let body = pattern().bytes(100_000);
    let framed = chunked(&body, 777);
    let origin = Origin::plays([act(move |peer| {
        assert_eq!(peer.request().body, b"{}");
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        peer.send(framed);
        peer.request();
        peer.send(OK);
    })]);
    let mut client = Client::connect_to(origin.addr);
    assert_eq!(client.exchange(post("/", b"{}")).body, body);
    assert_eq!(client.exchange(get("/")).text(), "ok");
    assert_eq!(origin.requests().len(), 2);
}

#[test]
fn a_connection_too_many_is_noticed() {
    let text = complaint(|| {
        let origin = Origin::plays([answers(OK)]);
        Client::connect_to(origin.addr).exchange(get("/"));
        Client::connect_to(origin.addr).leave();
    });
    assert!(text.contains("a connection more"), "{text}");
}

#[test]
fn a_request_too_many_is_noticed() {
    let text = complaint(|| {
        let origin = Origin::plays([answers(OK)]);
        let mut client = Client::connect_to(origin.addr);
        client.exchange(get("/"));
        client.send(get("/"));
    });
    assert!(text.contains("more than the script allows"), "{text}");
}

#[test]
fn an_act_that_is_not_played_is_noticed() {
    let text = complaint(|| {
        let origin = Origin::plays([answers(OK), answers(OK)]);
        Client::connect_to(origin.addr).exchange(get("/"));
    });
    assert!(text.contains("1 acts were never played"), "{text}");
}

#[test]
fn an_act_that_fails_is_noticed() {
    let text = complaint(|| {
        let origin = Origin::plays([act(|peer| {
            peer.request();
            peer.send(OK);
            panic!("wrong request");
        })]);
        Client::connect_to(origin.addr).exchange(get("/"));
    });
    assert!(text.contains("wrong request"), "{text}");
}

#[test]
fn bytes_that_a_client_did_not_ask_for_are_noticed() {
    let text = complaint(|| {
        let origin = Origin::plays([answers(format!("{OK}more"))]);
        Client::connect_to(origin.addr).exchange(get("/"));
    });
    assert!(text.contains("nobody asked for"), "{text}");
}

#[test]
fn a_response_that_is_cut_is_noticed() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
    ] {
        let origin = Origin::plays([act(move |peer| {
            peer.request();
            peer.send(bytes);
            peer.close();
        })]);
        let mut client = Client::connect_to(origin.addr);
        client.send(get("/"));
        assert!(client.try_response("GET").is_err(), "{bytes:?}");
    }
}

#[test]
fn a_displaced_byte_is_noticed() {
    let mut body = pattern().bytes(3_000_000);
    pattern().check(0, &body);
    pattern().check(0, &body[..2_500_000]);
    pattern().check(17, &body[17..]);
    body.remove(2_000_000);
    let text = complaint(|| pattern().check(0, &body));
    assert!(text.contains("differs"), "{text}");
}

#[test]
fn what_is_unread_is_seen() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let mut client = Client::connect_to(addr);
    let (mut accepted, own) = listener.accept().unwrap();
    until_taken(&accepted);
    client.send("hello");
    let unread = |local, remote| {
        let one = sockets::find(local, remote).unwrap();
        let all = sockets::all();
        let mut alike = all
            .iter()
            .filter(|s| s.local == local && s.remote == remote);
        assert_eq!(alike.next().unwrap().unread, one.unread);
        assert!(alike.next().is_none());
        one.unread
    };
    assert_eq!(unread(addr, own), 5);
    assert_eq!(unread(own, addr), 0);
    std::io::Read::read_exact(&mut accepted, &mut [0; 5]).unwrap();
    client.until_taken();
    drop(TcpStream::connect(addr).unwrap());
    client.leave();
}
