//! TLS records arrive in any pieces; what cannot be decrypted is no response byte.
use std::sync::mpsc;

use crate::support::{Act, Authority, Client, OK, Origin, Proxy, act, answers, get, post, soon};

const ALONE: (&str, &str) = ("WORKERS", "1");

fn sealed_length() -> usize {
    let (sealed, length) = mpsc::channel();
    let authority = Authority::new();
    let origin = Origin::plays_tls(
        &authority,
        [act(move |peer| {
            peer.request();
            let bytes = peer.seal(OK.as_bytes());
            sealed.send(bytes.len()).unwrap();
            peer.send_sealed(&bytes);
        })],
    );
    let proxy = Proxy::start(&origin, &[("UPSTREAM_CA_FILE", authority.file())]);
    assert_eq!(Client::connect(&proxy).exchange(get("/")).text(), "ok");
    soon(&length)
}

#[test]
fn a_record_split_at_every_byte_is_the_same_record() {
    let length = sealed_length();
    let authority = Authority::new();
    let origin = Origin::plays_tls(
        &authority,
        [act(move |peer| {
            for split in 1..length {
                peer.request();
                let sealed = peer.seal(OK.as_bytes());
                peer.send_sealed(&sealed[..split]);
                peer.until_taken();
                peer.send_sealed(&sealed[split..]);
            }
        })],
    );
    let proxy = Proxy::start(&origin, &[("UPSTREAM_CA_FILE", authority.file())]);
    let mut client = Client::connect(&proxy);
    for split in 1..length {
        let response = client.exchange(get("/"));
        assert_eq!(response.text(), "ok", "split at {split}");
        assert_eq!(response.attempts(), Some(1));
    }
}

#[test]
fn a_record_for_every_byte_is_the_same_response() {
    let authority = Authority::new();
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: t\r\n\r\n";
    let origin = Origin::plays_tls(
        &authority,
        [act(move |peer| {
            for response in [OK, chunked] {
                peer.request();
                for byte in response.bytes() {
                    peer.send([byte]);
                }
            }
        })],
    );
    let proxy = Proxy::start(&origin, &[("UPSTREAM_CA_FILE", authority.file())]);
    let mut client = Client::connect(&proxy);
    assert_eq!(client.exchange(get("/")).text(), "ok");
    assert_eq!(client.exchange(get("/")).text(), "ok");
}

/// Stops after `count` bytes of the record that carries the response.
fn stops_after(count: usize, closes: bool) -> Act {
    act(move |peer| {
        peer.request();
        let sealed = peer.seal(OK.as_bytes());
        peer.send_sealed(&sealed[..count]);
        peer.until_taken();
        match closes {
            true => peer.close(),
            false => _ = peer.is_closed(),
        }
    })
}

#[test]
fn a_record_that_never_ends_is_no_response_byte_and_the_request_is_sent_again() {
    let length = sealed_length();
    for (count, closes) in [
        (1, true),
        (5, false),
        (6, true),
        (length / 2, false),
        (length - 1, true),
    ] {
        let authority = Authority::new();
        let origin = Origin::plays_tls(&authority, [stops_after(count, closes), answers(OK)]);
        let settings = [
            ALONE,
            ("UPSTREAM_CA_FILE", authority.file()),
            ("RESPONSE_HEADER_TIMEOUT_SECONDS", "0.2"),
        ];
        let proxy = Proxy::start(&origin, &settings);
        let response = Client::connect(&proxy).exchange(post("/", b"{}"));
        assert_eq!(response.text(), "ok", "after {count} bytes");
        assert_eq!(response.attempts(), Some(2));
    }
}

#[test]
fn a_body_cut_within_any_record_is_seen_to_be_cut() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for end in ["2\r\nok\r\n0\r\n\r\n", "2\r\nok\r\n"] {
        let length = end.len() + 22;
        for count in 0..length {
            let authority = Authority::new();
            let played = act(move |peer| {
                peer.request();
                peer.send(head);
                let sealed = peer.seal(end.as_bytes());
                assert_eq!(sealed.len(), length);
                peer.send_sealed(&sealed[..count]);
                peer.until_taken();
                peer.close();
            });
            let origin = Origin::plays_tls(&authority, [played]);
            let proxy = Proxy::start(&origin, &[("UPSTREAM_CA_FILE", authority.file())]);
            let mut client = Client::connect(&proxy);
            client.send(get("/"));
            let seen = client.try_response("GET");
            assert!(seen.is_err(), "complete after {count} of {length} bytes");
        }
    }
}

#[test]
fn a_forged_record_in_a_body_breaks_the_connection() {
    let authority = Authority::new();
    let origin = Origin::plays_tls(
        &authority,
        [act(|peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
            let mut sealed = peer.seal(b"done");
            *sealed.last_mut().unwrap() ^= 1;
            peer.send_sealed(&sealed);
            peer.is_closed_after();
        })],
    );
    let proxy = Proxy::start(&origin, &[("UPSTREAM_CA_FILE", authority.file())]);
    let mut client = Client::connect(&proxy);
    client.send(get("/"));
    let cut = client.try_response("GET").unwrap_err();
    assert_eq!(cut.body, b"half");
}
