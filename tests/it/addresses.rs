//! Names and their addresses: a resolver that fails and recovers, an address that swallows all.
use std::net::Ipv4Addr;

use crate::support::load;
use crate::support::names::{Names, Says};
use crate::support::net::{eventually, fill_backlog, on_one_port};
use crate::support::{Client, OK, Origin, Peer, Proxy, get, post};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const ALONE: (&str, &str) = ("WORKERS", "1");

fn url(port: u16) -> String {
    format!("http://upstream.example:{port}")
}

/// One response for each connection, where a request comes.
fn answers_once(peer: &mut Peer) {
    if peer.next_request().is_none() {
        return;
    }
    peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    peer.close();
}

fn answers_always(peer: &mut Peer) {
    while peer.next_request().is_some() {
        peer.send(OK);
    }
}

#[test]
fn a_resolver_that_fails_is_retried_and_asked_again_until_it_recovers() {
    let Some(names) = Names::new(Says::Fails) else {
        return;
    };
    let origin = Origin::serves(1, answers_always);
    let url = url(origin.addr.port());
    let proxy = Proxy::start_by(&names.launcher(), &url, &[ALONE]);
    let mut client = Client::connect(&proxy);
    let refusal = client.exchange(get("/"));
    refusal.assert_refusal(502, "upstream_request_error");
    assert_eq!(refusal.attempts(), None, "nothing was sent");
    proxy.logs(&["attempt=1", "phase=resolve", "again=true"]);
    proxy.logs(&["attempt=2", "phase=resolve", "again=false"]);
    names.say(Says::these([HERE]));
    let response = client.exchange(get("/"));
    assert_eq!((response.status(), response.attempts()), (200, Some(1)));
    // What is known is kept.
    names.say(Says::Fails);
    assert_eq!(client.exchange(get("/")).status(), 200);
}

#[test]
fn a_resolver_that_recovers_between_two_attempts_rescues_the_request() {
    let Some(names) = Names::new(Says::Fails) else {
        return;
    };
    let origin = Origin::serves(1, answers_always);
    let settings = [ALONE, ("RETRY_BACKOFF_SECONDS", "3")];
    let proxy = Proxy::start_by(&names.launcher(), &url(origin.addr.port()), &settings);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    proxy.logs(&["attempt=1", "phase=resolve", "again=true"]);
    names.say(Says::these([HERE]));
    let response = client.response();
    assert_eq!((response.status(), response.attempts()), (200, Some(1)));
}

#[test]
fn a_name_that_does_not_exist_is_not_retried_and_found_once_it_does() {
    let Some(names) = Names::new(Says::NoSuchName) else {
        return;
    };
    let origin = Origin::serves(1, answers_always);
    let proxy = Proxy::start_by(&names.launcher(), &url(origin.addr.port()), &[ALONE]);
    let mut client = Client::connect(&proxy);
    let refusal = client.exchange(get("/"));
    refusal.assert_refusal(502, "upstream_request_error");
    let text = refusal.text();
    assert!(text.contains("upstream.example does not exist"), "{text}");
    proxy.logs(&["attempt=1", "phase=resolve", "again=false"]);
    names.say(Says::these([HERE]));
    eventually("it is found", || client.exchange(get("/")).text() == "ok");
    assert!(!proxy.text().contains("attempt=2"), "{}", proxy.text());
}

#[test]
fn a_resolver_that_says_nothing_is_a_time_out_and_keeps_nothing_waiting() {
    let Some(names) = Names::new(Says::Nothing) else {
        return;
    };
    let origin = Origin::serves(1, answers_always);
    let settings = [ALONE, ("CONNECT_TIMEOUT_SECONDS", "0.2")];
    let proxy = Proxy::start_by(&names.launcher(), &url(origin.addr.port()), &settings);
    let mut client = Client::connect(&proxy);
    client
        .exchange(get("/"))
        .assert_refusal(504, "upstream_timeout");
    assert_eq!(client.exchange(get("/healthz")).status(), 200);
    names.say(Says::these([HERE]));
    eventually("it is asked again", || {
        client.exchange(get("/")).status() == 200
    });
}

#[test]
fn an_address_that_has_moved_is_found() {
    let Some(names) = Names::new(Says::these([ONE])) else {
        return;
    };
    let [first, second] = on_one_port([ONE, OTHER]);
    let port = first.local_addr().unwrap().port();
    let before = Origin::serves_on(first, 1, answers_once);
    let proxy = Proxy::start_by(&names.launcher(), &url(port), &[ALONE]);
    let mut client = Client::connect(&proxy);
    assert_eq!(client.exchange(get("/")).text(), "ok");
    drop(before); // nobody listens there any more
    let after = Origin::serves_on(second, 1, answers_once);
    names.say(Says::these([OTHER]));
    eventually("the other is tried", || {
        client.exchange(get("/")).status() == 200
    });
    assert_eq!(after.requests().len(), 1);
    assert!(names.asked() >= 2);
}

#[test]
fn addresses_that_all_swallow_are_a_time_out_and_leave_nothing() {
    let Some(names) = Names::new(Says::these([ONE, OTHER])) else {
        return;
    };
    let holes = on_one_port([ONE, OTHER]);
    let _queued = holes.each_ref().map(fill_backlog);
    let port = holes[0].local_addr().unwrap().port();
    let settings = [ALONE, ("CONNECT_TIMEOUT_SECONDS", "0.4")];
    let proxy = Proxy::start_by(&names.launcher(), &url(port), &settings);
    let mut client = Client::connect(&proxy);
    let refusal = client.exchange(get("/"));
    refusal.assert_refusal(504, "upstream_timeout");
    assert_eq!(refusal.attempts(), None, "nothing was sent");
    for hole in &holes {
        let addr = hole.local_addr().unwrap();
        eventually("its sockets are closed", || proxy.sockets_to(addr) == 0);
    }
}

#[test]
fn a_load_finds_the_address_that_works() {
    let Some(names) = Names::new(Says::these([ONE, OTHER])) else {
        return;
    };
    let [refuses, good] = on_one_port([ONE, OTHER]);
    let port = good.local_addr().unwrap().port();
    drop(refuses);
    let _origin = Origin::serves_on(good, usize::MAX, load::answer);
    let proxy = Proxy::start_by(&names.launcher(), &url(port), &[]);
    let came = load::storm(&proxy, 8, 8);
    assert!(
        came.iter().all(|came| *came == load::Came::Whole),
        "{came:?}"
    );
}

#[test]
fn an_address_without_a_route_is_passed_over_at_once() {
    let nowhere = Ipv4Addr::BROADCAST;
    let Some(names) = Names::new(Says::these([nowhere, HERE])) else {
        return;
    };
    let origin = Origin::serves(1, answers_always);
    let proxy = Proxy::start_by(&names.launcher(), &url(origin.addr.port()), &[ALONE]);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    assert_eq!((response.status(), response.attempts()), (200, Some(1)));
    assert!(!proxy.text().contains("attempt failed"), "{}", proxy.text());
    names.say(Says::these([nowhere]));
    let proxy = Proxy::start_by(&names.launcher(), &url(origin.addr.port()), &[ALONE]);
    let refusal = Client::connect(&proxy).exchange(post("/", b"{}"));
    refusal.assert_refusal(502, "upstream_request_error");
    assert_eq!(refusal.attempts(), None, "nothing was sent");
}
