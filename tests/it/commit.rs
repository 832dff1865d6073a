//! From the first response byte on, a request is never sent again; from the first byte sent to the
//! client on, nothing but upstream's bytes follows.
use std::sync::mpsc;

use crate::support::{
    Act, Client, OK, Origin, Proxy, RESCUE, Response, act, answers, get, post, soon,
};

const IMPATIENT: (&str, &str) = ("RESPONSE_HEADER_TIMEOUT_SECONDS", "0.2");

fn then_closes(bytes: &'static str) -> Act {
    act(move |peer| {
        peer.request();
        peer.send(bytes);
        peer.close();
    })
}

fn then_hangs(bytes: &'static str) -> Act {
    act(move |peer| {
        peer.request();
        peer.send(bytes);
        peer.is_closed();
    })
}

fn then_resets(bytes: &'static str) -> Act {
    act(move |peer| {
        peer.request();
        peer.send(bytes);
        peer.until_taken();
        peer.reset();
    })
}

/// The response to a request that `played` answers, which must not be sent twice.
fn only_answer(played: Act) -> Response {
    let origin = Origin::plays([played]);
    let proxy = Proxy::start(&origin, &[IMPATIENT]);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    assert_eq!(origin.requests().len(), 1);
    assert_eq!(response.attempts(), Some(1));
    response
}

#[test]
fn half_a_status_line_and_silence_is_a_timeout_and_not_replayed() {
    only_answer(then_hangs("HTTP/1.1 20")).assert_refusal(504, "upstream_header_timeout");
}

#[test]
fn half_a_head_and_silence_is_a_timeout_and_not_replayed() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n";
    only_answer(then_hangs(half)).assert_refusal(504, "upstream_header_timeout");
}

#[test]
fn one_byte_and_a_close_is_a_bad_response_and_not_replayed() {
    only_answer(then_closes("H")).assert_refusal(502, "upstream_bad_response");
}

#[test]
fn one_byte_and_a_reset_is_not_replayed() {
    let response = only_answer(then_resets("H"));
    assert_eq!(response.status(), 502, "{}", response.text());
}

#[test]
fn garbage_is_a_bad_response_and_not_replayed() {
    for garbage in [
        "\0\u{1}\u{2} no http\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 2OO OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n folded\r\n\r\nok",
        "ok",
    ] {
        only_answer(then_closes(garbage)).assert_refusal(502, "upstream_bad_response");
    }
}

#[test]
fn an_unasked_switch_of_protocols_is_a_bad_response() {
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    only_answer(then_closes(switch)).assert_refusal(502, "upstream_bad_response");
}

#[test]
fn an_interim_response_is_passed_on_at_once_and_the_final_one_follows() {
    let (go, gate) = mpsc::channel::<()>();
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    let origin = Origin::plays([act(move |peer| {
        peer.request();
        peer.send(hint);
        soon(&gate);
        peer.send("HTTP/1.1 102 Processing\r\n\r\n");
        peer.send(OK);
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", b"{}"));
    client.receive(hint);
    go.send(()).unwrap();
    assert_eq!(client.head().status(), 102);
    let response = client.response();
    assert_eq!(response.text(), "ok");
    assert_eq!(response.attempts(), Some(1));
}

#[test]
fn after_an_interim_response_nothing_is_replayed_and_the_connection_is_broken() {
    let hint = "HTTP/1.1 103 Early Hints\r\n\r\n";
    let half = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 20";
    for played in [
        then_hangs(hint),
        then_closes(hint),
        then_resets(hint),
        then_hangs(half),
        then_closes(half),
        then_closes("HTTP/1.1 103 Early Hints\r\n\r\ngarbage\r\n\r\n"),
    ] {
        let origin = Origin::plays([played]);
        let proxy = Proxy::start(&origin, &[IMPATIENT]);
        let mut client = Client::connect(&proxy);
        client.send(post("/", b"{}"));
        client.receive(hint);
        client.is_closed();
        assert_eq!(origin.requests().len(), 1);
    }
}

#[test]
fn an_http_1_0_client_gets_no_interim_response() {
    let played = act(|peer| {
        peer.request();
        peer.send("HTTP/1.1 103 Early Hints\r\n\r\n");
        peer.send(OK);
    });
    let origin = Origin::plays([played]);
    let proxy = Proxy::start(&origin, &[]);
    let response = Client::connect(&proxy).exchange("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(response.status(), 200);
    assert_eq!(response.text(), "ok");
}

#[test]
fn an_endless_row_of_interim_responses_ends() {
    let origin = Origin::plays([act(|peer| {
        peer.request();
        while peer.send_if_taken(b"HTTP/1.1 102 Processing\r\n\r\n") {}
        peer.close();
    })]);
    let proxy = Proxy::start(&origin, &[IMPATIENT]);
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    let rest = String::from_utf8(client.rest()).unwrap();
    let other = rest.replace("HTTP/1.1 102 Processing\r\n\r\n", "");
    assert!(
        "HTTP/1.1 102 Processing\r\n\r\n".starts_with(&other),
        "{other}"
    );
}

#[test]
fn an_early_413_during_an_upload_is_relayed_and_not_replayed() {
    let early = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large";
    // Closing with the rest of the body unread makes the kernel reset the connection.
    let and_resets = act(move |peer| {
        peer.head();
        peer.take(64 * 1024);
        peer.send(early);
        peer.close();
    });
    let and_reads_on = act(move |peer| {
        peer.head();
        peer.send(early);
        peer.half_close();
        peer.is_closed_after();
    });
    let and_waits = act(move |peer| {
        peer.head();
        peer.take(1024);
        peer.send(early);
        peer.is_deaf();
    });
    for played in [and_resets, and_reads_on, and_waits] {
        let origin = Origin::plays([played]);
        let proxy = Proxy::start(&origin, &[]);
        let response = Client::connect(&proxy).exchange(post("/", &vec![b'x'; 20 << 20]));
        assert_eq!(response.status(), 413, "{}", response.text());
        assert_eq!(response.text(), "too large");
        assert_eq!(response.attempts(), Some(1));
    }
}

#[test]
fn a_connection_whose_request_was_not_sent_whole_is_not_used_again() {
    let (go, gate) = mpsc::channel::<()>();
    let early = act(move |peer| {
        peer.head();
        peer.take(1024);
        peer.send(OK);
        soon(&gate); // the rest of the request stays where it is
        peer.is_closed_after();
    });
    let origin = Origin::plays([early, answers(OK)]);
    let proxy = Proxy::start(&origin, &[("WORKERS", "1")]);
    let mut client = Client::connect(&proxy);
    client.send(post("/", &vec![b'x'; 20 << 20]));
    assert_eq!(client.response().text(), "ok");
    assert_eq!(client.exchange(get("/")).attempts(), Some(1));
    go.send(()).unwrap();
}

#[test]
fn an_early_response_whose_end_waits_for_the_request_gets_it_all() {
    const BODY: usize = 20 << 20;
    let origin = Origin::plays([act(|peer| {
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nearly");
        peer.take(BODY);
        peer.send(" late");
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let response = Client::connect(&proxy).exchange(post("/", &vec![b'x'; BODY]));
    assert_eq!(response.text(), "early late");
    assert_eq!(response.attempts(), Some(1));
}

#[test]
fn an_early_head_and_then_silence_while_sending_is_not_replayed() {
    const BODY: usize = 20 << 20;
    for framing in ["Content-Length: 10\r\n", ""] {
        let origin = Origin::plays([act(move |peer| {
            peer.head();
            peer.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\nearly"));
            peer.is_deaf();
        })]);
        let proxy = Proxy::start(&origin, &[("WRITE_TIMEOUT_SECONDS", "1.5"), IMPATIENT]);
        let mut client = Client::connect(&proxy);
        client.send(post("/", &vec![b'x'; BODY]));
        let cut = client.try_response("POST").unwrap_err();
        assert!(b"early".starts_with(&cut.body[..]));
    }
}

#[test]
fn a_failed_first_attempt_leaves_no_trace_in_the_second_ones_response() {
    let origin = Origin::plays([
        act(|peer| {
            peer.request();
            peer.is_closed();
        }),
        answers("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"),
    ]);
    let proxy = Proxy::start(&origin, &RESCUE);
    let mut client = Client::connect(&proxy);
    let response = client.exchange(post("/", b"{}"));
    assert_eq!(response.text(), "second");
    assert_eq!(response.head.all("content-length").len(), 1);
}
