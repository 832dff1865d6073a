//! Large requests are held once, sent as they are, and sent again byte for byte.
use sha2::{Digest, Sha256};

use crate::support::{
    Client, OK, Origin, Proxy, RESCUE, act, answers, hangs, pattern, post, post_chunked,
};

const BODY: usize = 32 << 20;

fn assert_replayed(request: &[u8], body: &[u8]) {
    let origin = Origin::plays([hangs(), answers(OK)]);
    let proxy = Proxy::start(&origin, &RESCUE);
    let mut client = Client::connect(&proxy);
    let response = client.exchange(request);
    assert_eq!(response.status(), 200, "{}", response.text());
    assert_eq!(response.attempts(), Some(2));
    let requests = origin.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].head, requests[1].head);
    let sent = Sha256::digest(body);
    for request in &requests {
        assert_eq!(request.body.len(), body.len());
        assert_eq!(Sha256::digest(&request.body), sent);
    }
}

#[test]
fn thirty_two_mebibytes_with_a_length_are_replayed_byte_for_byte() {
    let body = pattern().bytes(BODY);
    assert_replayed(&post("/", &body), &body);
}

#[test]
fn thirty_two_mebibytes_in_chunks_are_replayed_byte_for_byte() {
    let body = pattern().bytes(BODY);
    assert_replayed(&post_chunked("/", &body, 65_537), &body);
}

#[test]
fn a_body_that_trickles_in_is_the_same_body() {
    let body = pattern().bytes(300_000);
    let origin = Origin::plays([answers(OK)]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    for piece in post("/", &body).chunks(1009) {
        client.send(piece);
    }
    assert_eq!(client.response().status(), 200);
    assert!(origin.request(1).body == body);
}

#[test]
fn memory_follows_the_bytes_that_came_and_not_the_length_that_was_claimed() {
    const CLIENTS: usize = 50;
    let origin = Origin::plays([]);
    let proxy = Proxy::start(&origin, &[]);
    let before = proxy.resident_kib();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| Client::connect(&proxy)).collect();
    for client in &mut clients {
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {BODY}\r\n\r\nx"
        ));
        client.until_taken();
    }
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB for {CLIENTS} bytes");
}

#[test]
fn memory_of_a_body_is_given_back_or_used_again() {
    const ROUNDS: usize = 6;
    let origin = Origin::plays([act(|peer| {
        for _ in 0..ROUNDS {
            peer.request();
            peer.send(OK);
        }
    })]);
    let proxy = Proxy::start(&origin, &[("WORKERS", "1")]);
    let body = pattern().bytes(BODY);
    let request = post("/", &body);
    let mut sizes = Vec::new();
    for round in 1..=ROUNDS {
        assert_eq!(Client::connect(&proxy).exchange(&request).status(), 200);
        proxy.ended(round);
        sizes.push(proxy.resident_kib());
    }
    println!("resident KiB after each round: {sizes:?}");
    // The second round may still find no room where the first one's was.
    let grown = sizes[ROUNDS - 1].saturating_sub(sizes[1]);
    assert!(grown < 8 * 1024, "resident KiB after each round: {sizes:?}");
}

#[test]
fn a_request_and_its_response_can_both_be_large() {
    const RESPONSE: usize = 16 << 20;
    let origin = Origin::plays([act(|peer| {
        let request = peer.request();
        pattern().check(0, &request.body);
        peer.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {RESPONSE}\r\n\r\n"
        ));
        peer.send_pattern(pattern(), RESPONSE, 50_000, false);
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let mut client = Client::connect(&proxy);
    let response = client.exchange(post("/", &pattern().bytes(8 << 20)));
    assert_eq!(response.body.len(), RESPONSE);
    pattern().check(0, &response.body);
}

#[test]
fn a_client_that_reads_slowly_slows_the_upstream_down() {
    const RESPONSE: usize = 64 << 20;
    let (full, is_full) = std::sync::mpsc::channel();
    let origin = Origin::plays([act(move |peer| {
        peer.request();
        peer.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {RESPONSE}\r\n\r\n"
        ));
        let sent = peer.fill_the_pipe(pattern());
        full.send(sent).unwrap();
        peer.send(&pattern().bytes(RESPONSE)[sent..]);
    })]);
    let proxy = Proxy::start(&origin, &[]);
    let before = proxy.resident_kib();
    let mut client = Client::connect(&proxy);
    client.send(crate::support::get("/"));
    let sent = crate::support::soon(&is_full);
    assert!(sent < RESPONSE / 2, "{sent} bytes went nowhere");
    let grown = proxy.resident_kib().saturating_sub(before);
    assert!(
        grown < 4 * 1024,
        "{grown} KiB for a client that does not read"
    );
    let mut offset = 0;
    let (_, end) = client
        .streamed("GET", &mut |piece| {
            pattern().check(offset, piece);
            offset += piece.len();
        })
        .unwrap();
    assert!(end.is_ok());
    assert_eq!(offset, RESPONSE);
}
