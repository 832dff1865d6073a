//! What is wrong with a certificate is said in words, and asking again would not mend it.
use rcgen::{CertificateParams, DnType, IsCa, KeyPair, SanType, date_time_ymd};
use rustls::ServerConfig;
use std::sync::Arc;

use crate::support::{
    Act, Authority, Client, Folder, Issued, OK, Origin, Peer, Proxy, act, answers, post,
};

const PATIENT: (&str, &str) = ("UPSTREAM_MAX_ATTEMPTS", "3");

/// An upstream that shows this fails once and for all, with these words, before anything is sent.
#[track_caller]
fn assert_final(shown: Arc<ServerConfig>, trusted: &Authority, words: &[&str]) {
    let fails = |peer: &mut Peer| drop(peer.fails_handshake());
    let origin = Origin::serves_tls_with(shown, 1, fails);
    let proxy = Proxy::start(&origin, &[("UPSTREAM_CA_FILE", trusted.file()), PATIENT]);
    let refusal = Client::connect(&proxy).exchange(post("/", b"{}"));
    refusal.assert_refusal(502, "upstream_request_error");
    let failed = "attempt=1 phase=tls failure=tls_failed delivery=not_sent";
    let line = proxy.logs(&[failed, "again=false"]);
    for words in words {
        assert!(refusal.text().contains(words), "{}", refusal.text());
        assert!(line.contains(words), "{line}");
    }
    assert!(refusal.text().contains("nothing was sent"));
}

#[track_caller]
fn assert_unfit(changed: impl FnOnce(&mut CertificateParams), words: &[&str]) {
    let authority = Authority::new();
    let shown = authority.issue(changed).server();
    assert_final(shown, &authority, words);
}

#[test]
fn an_expired_certificate_is_said_to_be_expired_and_since_when() {
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 2, 29);
    let words = "its certificate has expired: it was valid until 2020-02-29 00:00:00 UTC, and the clock here says 20";
    assert_unfit(expired, &[words]);
}

#[test]
fn a_certificate_that_is_not_valid_yet_is_said_to_be_so_and_from_when_it_is() {
    let early = |params: &mut CertificateParams| params.not_before = date_time_ymd(2100, 12, 1);
    let words = "its certificate is not valid yet: it is from 2100-12-01 00:00:00 UTC on, and the clock here says 20";
    assert_unfit(early, &[words]);
}

#[test]
fn a_certificate_for_other_names_is_said_to_be_so_and_for_which() {
    let name = |name: &str| SanType::DnsName(name.to_owned().try_into().unwrap());
    let named = |names: Vec<SanType>| {
        move |params: &mut CertificateParams| params.subject_alt_names = names
    };
    let other = "its certificate is for another name: not for 127.0.0.1, ";
    let address = SanType::IpAddress([10, 0, 0, 1].into());
    let few = vec![name("a.example"), name("*.b.example"), address];
    assert_unfit(
        named(few),
        &[&format!("{other}but for a.example, *.b.example, 10.0.0.1")],
    );
    let many = (0..300).map(|number| name(&format!("n{number}.example")));
    assert_unfit(named(many.collect()), &[other, ", n7.example and 292 more"]);
    let none = |params: &mut CertificateParams| {
        params.subject_alt_names = Vec::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "127.0.0.1");
    };
    let words = format!("{other}nor for any other (only subject alternative names count)");
    assert_unfit(none, &[&words]);
}

#[test]
fn what_a_hostile_certificate_calls_itself_stays_one_line_of_text() {
    let hostile = format!("evil\r\nERROR \u{1b}[31m\".{}", "x".repeat(30_000));
    let named = move |params: &mut CertificateParams| {
        let name = SanType::DnsName(hostile.try_into().unwrap());
        params.subject_alt_names = vec![name];
    };
    let authority = Authority::new();
    let shown = authority.issue(named).server();
    let fails = |peer: &mut Peer| drop(peer.fails_handshake());
    let origin = Origin::serves_tls_with(shown, 1, fails);
    let proxy = Proxy::start(&origin, &[("UPSTREAM_CA_FILE", authority.file())]);
    let refusal = Client::connect(&proxy).exchange(post("/", b"{}"));
    let error: serde_json::Value = serde_json::from_slice(&refusal.body).unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("evil"), "{message}");
    let line = proxy.logs(&["failure=tls_failed", "evil", "again=false"]);
    assert!(!line.contains(char::is_control), "{line:?}");
    assert!(line.len() < 1000 && message.len() < 1000, "{line}");
}

#[test]
fn an_unknown_issuer_is_said_to_be_unknown() {
    let words = "its certificate comes from an unknown issuer: UPSTREAM_CA_FILE can name one";
    assert_final(Authority::new().server(), &Authority::new(), &[words]);
    let namesake = || Authority::named("issuer.example", &["127.0.0.1"]);
    let wrong = "its certificate bears a wrong signature: an issuer in UPSTREAM_CA_FILE has the name of its issuer and another key";
    assert_final(namesake().server(), &namesake(), &[wrong]);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let itself = Issued { certificate, key };
    assert_final(itself.server(), &Authority::new(), &[words]);
}

#[test]
fn a_certificate_that_has_issued_itself_is_trusted_where_it_is_named() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = IsCa::ExplicitNoCa;
    let certificate = params.self_signed(&key).unwrap();
    let folder = Folder::new();
    let file = folder.write("own.pem", certificate.pem());
    let own = Issued { certificate, key }.server();
    let origin = Origin::serves_tls_with(own, 1, |peer| {
        peer.request();
        peer.send(OK);
    });
    let proxy = Proxy::start(&origin, &[("UPSTREAM_CA_FILE", &file)]);
    let response = Client::connect(&proxy).exchange(post("/", b"{}"));
    assert_eq!(response.status(), 200, "{}", response.text());
}

#[test]
fn a_certificate_for_another_purpose_is_not_used() {
    let of_an_authority = |params: &mut CertificateParams| {
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    };
    let words =
        "its certificate is that of an authority (CA:TRUE), and a server may not show such a one";
    assert_unfit(of_an_authority, &[words]);
    let of_a_client = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    };
    let words =
        "its certificate cannot be used: certificate does not allow extended key usage for server";
    assert_unfit(of_a_client, &[words]);
}

/// A fatal alert of TLS 1.2, before any key is agreed upon.
fn alert(description: u8) -> Act {
    act(move |peer| {
        peer.flight();
        peer.send_sealed(&[21, 3, 3, 0, 2, 2, description]);
        peer.close();
    })
}

fn garbage() -> Act {
    act(|peer| {
        peer.flight();
        peer.send_sealed(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        peer.close();
    })
}

#[test]
fn a_handshake_that_fails_for_another_reason_is_tried_again() {
    let breaks: [fn() -> Act; 2] = [
        || act(Peer::close),
        || {
            act(|peer| {
                peer.flight();
                peer.reset();
            })
        },
    ];
    let (handshake_failure, internal_error, unrecognized_name) = (40, 80, 112);
    let alerts = [handshake_failure, internal_error, unrecognized_name].map(alert);
    let faults = breaks.into_iter().map(|fault| fault()).chain(alerts);
    for fault in faults.chain([garbage()]) {
        let authority = Authority::new();
        let origin = Origin::plays_tls(&authority, [fault, answers(OK)]);
        let proxy = Proxy::start(&origin, &[("UPSTREAM_CA_FILE", authority.file())]);
        let response = Client::connect(&proxy).exchange(post("/", b"{}"));
        assert_eq!(response.status(), 200, "{}", response.text());
        let failed = "attempt=1 phase=tls failure=tls_failed delivery=not_sent";
        proxy.logs(&[failed, "again=true"]);
    }
}
