//! A response head from the upstream's bytes to what the client gets.
#![no_main]
use codex_reset_proxy::http1::fields::{Connection, ResponseRules, write_response};
use codex_reset_proxy::http1::framing::{Framing, of_response};
use codex_reset_proxy::http1::head::{self, ResponseHead, Version};
use fuzz::head as naive;
use fuzz::head::{End, Field, elements, is, is_hop_by_hop, values};
use libfuzzer_sys::fuzz_target;

const FIELDS_MAX: usize = 1024;
const CONNECTION_OPTIONS_MAX: usize = 32;

fuzz_target!(|data: &[u8]| {
    let [choice, received @ ..] = data else {
        return;
    };
    let Ok(Some(length)) = naive::length(received) else {
        return;
    };
    let bytes: Box<[u8]> = received[..length].into(); // its end is the end of its memory
    let expected = naive::parse(&bytes).filter(|(_, fields)| fields.len() <= FIELDS_MAX);
    let expected =
        expected.and_then(|(line, fields)| naive::status_line(line).map(|words| (words, fields)));
    let parsed = head::with_response(&bytes, |head| {
        let Some(((minor, status, reason), fields)) = &expected else {
            panic!("taken for a head");
        };
        assert_eq!((head.status, head.reason), (*status, *reason));
        assert_eq!(head.version == Version::Http11, *minor == 1);
        let parsed = head.fields.iter().map(|f| (f.name.as_bytes(), f.value));
        assert!(parsed.eq(fields.iter().map(|(name, value)| (&name[..], &value[..]))));
        agrees_with_httparse(&bytes, head);
        relay(head, fields, *minor, *choice);
    });
    match parsed {
        Ok(()) => (),
        Err(error) => assert!(expected.is_none(), "refused: {error:?}"),
    }
});

/// A parser that others use takes the head for the same.
fn agrees_with_httparse(bytes: &[u8], head: &ResponseHead<'_>) {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let status = response.parse(bytes);
    assert_eq!(status, Ok(httparse::Status::Complete(bytes.len())));
    assert_eq!(response.code, Some(head.status));
    // It leaves out the space, and all of a reason that is not ASCII.
    let reason = response.reason.unwrap_or_default().as_bytes();
    assert!(reason.is_empty() || [b" ", reason].concat() == head.reason);
    let minor = u8::from(head.version == Version::Http11);
    assert_eq!(response.version, Some(minor));
    assert_eq!(&*response.headers, head.fields);
}

fn relay(head: &ResponseHead<'_>, fields: &[Field], minor: u8, choice: u8) {
    let [asked_head, unchunk, close] = [1, 2, 4].map(|bit| choice & bit != 0);
    let Some(mut framing) = framing(head, fields, minor, asked_head) else {
        return;
    };
    let named = elements(fields, "connection");
    let options = named.iter().filter(|option| *option != b"keep-alive");
    let Ok(connection) = Connection::of(head.fields) else {
        return assert!(options.count() > CONNECTION_OPTIONS_MAX);
    };
    assert!(options.count() <= CONNECTION_OPTIONS_MAX);
    assert_eq!(connection.close, named.contains(&b"close".to_vec()));
    if unchunk && framing == Framing::Chunked {
        framing = Framing::UntilClose;
    }
    let attempts = (head.status >= 200).then_some(7);
    let rules = ResponseRules {
        framing,
        close,
        attempts,
        failed: None,
        websocket: head.status == 101,
    };
    let mut written = Vec::new();
    write_response(&mut written, head, &connection, &rules);
    assert_eq!(naive::length(&written), Ok(Some(written.len())), "one head");
    let (line, sent) = naive::parse(&written).expect("what goes down is well-formed");
    let status = naive::status_line(line);
    assert_eq!(status, Some((1, head.status, head.reason)));

    let chunked = framing == Framing::Chunked;
    assert_eq!(
        values(&sent, "transfer-encoding").len(),
        usize::from(chunked)
    );
    let length = values(fields, "content-length").first().copied();
    let length = length.filter(|_| !matches!(head.status, 100..=199 | 204));
    assert_eq!(values(&sent, "content-length"), Vec::from_iter(length));
    let ends: &[&[u8]] = match (close, rules.websocket) {
        (true, _) => &[b"close"],
        (false, true) => &[b"Upgrade"],
        (false, false) => &[],
    };
    assert_eq!(values(&sent, "connection"), ends);
    let count: &[&[u8]] = if attempts.is_some() { &[b"7"] } else { &[] };
    assert_eq!(values(&sent, "x-codex-reset-proxy-attempts"), count);
    let own = |(name, _): &&Field| {
        name.to_ascii_lowercase()
            .starts_with(b"x-codex-reset-proxy-")
    };
    assert_eq!(sent.iter().filter(own).count(), count.len(), "forged");
    let upgrades = values(&sent, "upgrade");
    let upgrades_expected = match rules.websocket {
        true => values(fields, "upgrade"),
        false => Vec::new(),
    };
    assert_eq!(upgrades, upgrades_expected);
    let hop = |field: &&Field| is_hop_by_hop(field);
    let hops = sent.iter().filter(hop).count();
    assert_eq!(hops, usize::from(chunked) + ends.len() + upgrades.len());
    assert_eq!(rest(&sent, &[]), rest(fields, &named));
}

/// How the body ends, if that is certain.
fn framing(
    head: &ResponseHead<'_>,
    fields: &[Field],
    minor: u8,
    asked_head: bool,
) -> Option<Framing> {
    let method = if asked_head { "HEAD" } else { "GET" };
    let bodyless = asked_head || matches!(head.status, 100..=199 | 204 | 304);
    let expected = naive::end(fields, minor).map(|end| match end {
        _ if bodyless => Framing::None,
        End::Nothing => Framing::UntilClose,
        End::Length(bytes) => Framing::Length(bytes),
        End::Chunked => Framing::Chunked,
    });
    let framing = of_response(method, head).ok();
    assert_eq!(framing, expected);
    framing
}

/// Those of `fields` that go down as they are.
fn rest<'a>(fields: &'a [Field], named: &[Vec<u8>]) -> Vec<&'a Field> {
    let stays = |field: &&Field| {
        let name = field.0.to_ascii_lowercase();
        is_hop_by_hop(field)
            || is(field, "content-length")
            || name.starts_with(b"x-codex-reset-proxy-")
            || named.contains(&name)
    };
    fields.iter().filter(|field| !stays(field)).collect()
}
