//! Upstreams that ask who we are: a client certificate is shown, and where it is missing or refused
//! that is said, once. TLS 1.3 says it after the handshake, when the request may be on its way.
use std::sync::Arc;

use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ServerConfig, SupportedProtocolVersion};

use crate::support::net::eventually;
use crate::support::{
    Act, Authority, Client, OK, Origin, Peer, Proxy, Response, Shown, act, get, pattern, post,
};

const PATIENT: (&str, &str) = ("UPSTREAM_MAX_ATTEMPTS", "3");
const ALONE: (&str, &str) = ("WORKERS", "1");
const WANTED: &str = "it wants a client certificate, and UPSTREAM_CLIENT_CERT_FILE is unset";
const UNACCEPTED: &str = "it does not accept the certificate of UPSTREAM_CLIENT_CERT_FILE";

/// Asks for a certificate by one version of TLS only.
fn asking(authority: &Authority, version: Version) -> Arc<ServerConfig> {
    let issued = authority.issue(|_| ());
    issued.server_by(&[version], Some(authority))
}

type Version = &'static SupportedProtocolVersion;
const VERSIONS: [Version; 2] = [&TLS12, &TLS13];

fn answers_each(peer: &mut Peer) {
    while peer.next_request().is_some() {
        peer.send(OK);
    }
}

#[test]
fn who_asks_is_shown_the_certificate_and_who_does_not_is_not() {
    for version in VERSIONS {
        let authority = Authority::new();
        let shown = Shown::new(&authority.issue(|_| ()));
        for (config, count) in [
            (asking(&authority, version), 1),
            (authority.issue(|_| ()).server_by(&[version], None), 0),
        ] {
            let origin = Origin::serves_tls_with(config, 1, move |peer| {
                peer.request();
                assert_eq!(peer.certificates(), count);
                peer.send(OK);
            });
            let trusted = ("UPSTREAM_CA_FILE", authority.file());
            let proxy = Proxy::start(&origin, &[&[trusted], &shown.settings()[..]].concat());
            let response = Client::connect(&proxy).exchange(post("/", b"{}"));
            assert_eq!(response.status(), 200, "{}", response.text());
        }
    }
}

#[test]
fn a_session_with_a_certificate_is_resumed() {
    for version in VERSIONS {
        let authority = Authority::new();
        let shown = Shown::new(&authority.issue(|_| ()));
        let once = |peer: &mut Peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        };
        let origin = Origin::serves_tls_with(asking(&authority, version), 2, once);
        let trusted = ("UPSTREAM_CA_FILE", authority.file());
        let settings = [&[trusted, ALONE], &shown.settings()[..]].concat();
        let proxy = Proxy::start(&origin, &settings);
        for _ in 0..2 {
            let response = Client::connect(&proxy).exchange(get("/"));
            assert_eq!(response.status(), 200, "{}", response.text());
        }
        let kinds = origin.handshakes();
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
    }
}

/// One connection, one refusal that says `words`, nothing sent again.
#[track_caller]
fn assert_final(
    config: Arc<ServerConfig>,
    play: Act,
    settings: &[(&str, &str)],
    body: &[u8],
    words: &str,
) -> Response {
    let mut acts = vec![play];
    let origin = Origin::serves_tls_in_turn_with(config, move |_| acts.pop());
    let proxy = Proxy::start(&origin, &[&[PATIENT], settings].concat());
    let refusal = Client::connect(&proxy).exchange(post("/", body));
    refusal.assert_refusal(502, "upstream_request_error");
    assert!(refusal.text().contains(words), "{}", refusal.text());
    let line = proxy.logs(&["attempt=1 phase=tls failure=tls_failed", "again=false"]);
    assert!(line.contains(words), "{line}");
    refusal
}

fn fails() -> Act {
    act(|peer| drop(peer.fails_handshake()))
}

#[test]
fn a_certificate_that_is_wanted_and_unset_is_said_to_be_so_once() {
    for version in VERSIONS {
        let authority = Authority::new();
        let trusted = ("UPSTREAM_CA_FILE", authority.file());
        assert_final(
            asking(&authority, version),
            fails(),
            &[trusted],
            b"{}",
            WANTED,
        );
    }
}

#[test]
fn a_certificate_that_is_refused_is_said_to_be_so_once() {
    for version in VERSIONS {
        let namesake = || Authority::named("issuer.example", &["127.0.0.1"]);
        let authority = namesake();
        let expired = |params: &mut rcgen::CertificateParams| {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        };
        for (issued, why) in [
            (authority.issue(expired), "(alert CertificateExpired)"),
            (Authority::new().issue(|_| ()), "(alert UnknownCA)"),
            (namesake().issue(|_| ()), "(alert DecryptError)"),
        ] {
            let shown = Shown::new(&issued);
            let trusted = ("UPSTREAM_CA_FILE", authority.file());
            let settings = [&[trusted], &shown.settings()[..]].concat();
            let words = format!("{UNACCEPTED} {why}");
            assert_final(
                asking(&authority, version),
                fails(),
                &settings,
                b"{}",
                &words,
            );
        }
    }
}

/// Shakes hands as far as the proxy needs to send its request, and looks at what it has sent only when
/// `count` bytes have come. Then the alert goes out, and a reset right behind it if something is left.
fn late(count: usize) -> Act {
    act(move |peer| {
        let flight = peer.flight();
        peer.send_sealed(&flight);
        eventually("the request has come", || peer.waiting() >= count);
        drop(peer.fails_handshake());
    })
}

#[test]
fn a_refusal_that_comes_when_the_request_has_been_sent_is_final_too() {
    let authority = Authority::new();
    let trusted = ("UPSTREAM_CA_FILE", authority.file());
    for length in [4 << 10, 4 << 20] {
        let config = asking(&authority, &TLS13);
        let body = pattern().bytes(length);
        let refusal = assert_final(config, late(4 << 10), &[trusted], &body, WANTED);
        assert_eq!(refusal.attempts(), Some(1));
        assert!(refusal.text().contains("; sent once"), "{}", refusal.text());
    }
}

#[test]
fn what_one_session_was_asked_is_not_held_against_the_next() {
    let authority = Authority::new();
    let config = asking(&authority, &TLS13);
    let handshake_failure = || {
        act(|peer| {
            peer.flight();
            peer.send_sealed(&[21, 3, 3, 0, 2, 2, 40]);
            peer.close();
        })
    };
    let mut acts = vec![handshake_failure(), handshake_failure(), fails()];
    let origin = Origin::serves_tls_in_turn_with(config, move |_| acts.pop());
    let proxy = Proxy::start(&origin, &[ALONE, ("UPSTREAM_CA_FILE", authority.file())]);
    let refusal = Client::connect(&proxy).exchange(get("/"));
    assert!(refusal.text().contains(WANTED), "{}", refusal.text());
    let refusal = Client::connect(&proxy).exchange(get("/"));
    let words = "received fatal alert: HandshakeFailure";
    assert!(refusal.text().contains(words), "{}", refusal.text());
    proxy.logs(&["attempt=1 phase=tls", words, "again=true"]);
}

#[test]
fn who_breaks_off_without_a_word_is_asked_again() {
    let authority = Authority::new();
    let config = asking(&authority, &TLS13);
    let shown = Shown::new(&authority.issue(|_| ()));
    let breaks_off = act(|peer: &mut Peer| {
        let flight = peer.flight();
        peer.send_sealed(&flight);
        eventually("the request has come", || peer.waiting() >= 4 << 10);
        peer.reset();
    });
    let mut acts = vec![act(answers_each), breaks_off];
    let origin = Origin::serves_tls_in_turn_with(config, move |_| acts.pop());
    let trusted = ("UPSTREAM_CA_FILE", authority.file());
    let settings = [&[trusted, PATIENT], &shown.settings()[..]].concat();
    let proxy = Proxy::start(&origin, &settings);
    let response = Client::connect(&proxy).exchange(post("/", &pattern().bytes(4 << 10)));
    assert_eq!(response.status(), 200, "{}", response.text());
    assert_eq!(response.attempts(), Some(2));
}
