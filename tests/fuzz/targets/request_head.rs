//! A request head from the client's bytes to what goes up: found, parsed, checked and rewritten.
#![no_main]
use std::sync::LazyLock;

use codex_reset_proxy::config::Config;
use codex_reset_proxy::downstream::request::{Kind, check};
use codex_reset_proxy::http1::framing::Framing;
use codex_reset_proxy::http1::head::{self, Malformed, RequestHead, Scan, Version};
use fuzz::head::{End, Field, elements, is, is_hop_by_hop, values};
use fuzz::{head as naive, pieces, target};
use libfuzzer_sys::fuzz_target;

const KEY: &str = "canary-key";
const TOKEN: &str = "canary-token";
const FIELDS_MAX: usize = 128;
const CONNECTION_OPTIONS_MAX: usize = 32;

/// Settings that change what becomes of a head.
static CONFIGS: LazyLock<Vec<Config>> = LazyLock::new(|| {
    let url = ("UPSTREAM_BASE_URL", "https://up.example:8443/base/v1/");
    let key = ("UPSTREAM_API_KEY", KEY);
    let token = ("PROXY_ACCESS_TOKEN", TOKEN);
    [
        vec![("UPSTREAM_BASE_URL", "http://up.example:8443")],
        vec![url, ("MAX_REQUEST_BODY_BYTES", "100")],
        vec![url, key],
        vec![url, key, token, ("UPSTREAM_API_KEY_HEADER", "X-Api-Key")],
        vec![url, token],
    ]
    .iter()
    .map(|variables| {
        let lookup = |name: &str| {
            let known = variables.iter().find(|(known, _)| *known == name);
            known.map(|(_, value)| value.into())
        };
        Config::from_lookup(lookup).unwrap_or_else(|_| panic!("these settings are valid"))
    })
    .collect()
});

fuzz_target!(|data: &[u8]| {
    let [config, seed, received @ ..] = data else {
        return;
    };
    let config = &CONFIGS[usize::from(*config) % CONFIGS.len()];
    let Some(length) = scan(*seed, received) else {
        return;
    };
    let bytes: Box<[u8]> = received[..length].into(); // its end is the end of its memory
    let expected = naive::parse(&bytes).filter(|(_, fields)| fields.len() <= FIELDS_MAX);
    let expected =
        expected.and_then(|(line, fields)| naive::request_line(line).map(|words| (words, fields)));
    let parsed = head::with_request(&bytes, |head| {
        let Some(((method, target, minor), fields)) = &expected else {
            panic!("taken for a head");
        };
        assert_eq!((head.method.as_bytes(), head.target), (*method, *target));
        assert_eq!(head.version == Version::Http11, *minor == 1);
        let parsed = head.fields.iter().map(|f| (f.name.as_bytes(), f.value));
        assert!(parsed.eq(fields.iter().map(|(name, value)| (&name[..], &value[..]))));
        agrees_with_httparse(&bytes, head);
        forward(head, fields, *minor, config);
    });
    match parsed {
        Ok(()) => (),
        Err(error) => assert!(expected.is_none(), "refused: {error:?}"),
    }
});

/// The length of the head, which is the same however its bytes arrive.
fn scan(seed: u8, received: &[u8]) -> Option<usize> {
    let (mut scan, mut come) = (Scan::default(), 0);
    let mut found = Ok(None);
    for piece in pieces(seed, received) {
        come += piece.len();
        let so_far: Box<[u8]> = received[..come].into();
        found = scan.head_length(&so_far);
        if found != Ok(None) {
            break;
        }
    }
    // What lies behind a head is not looked at, so a bare LF there is none of its faults.
    assert_eq!(
        found,
        naive::length(received).map_err(|_| Malformed::BareLf)
    );
    found.ok().flatten()
}

/// A parser that others use takes the head for the same.
fn agrees_with_httparse(bytes: &[u8], head: &RequestHead<'_>) {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(status) => assert_eq!(status, httparse::Status::Complete(bytes.len())),
        // It wants UTF-8 and has its own idea of what a target may hold.
        Err(error) => {
            assert_eq!(error, httparse::Error::Token);
            return;
        }
    }
    assert_eq!(request.method, Some(head.method));
    assert_eq!(request.path.map(str::as_bytes), Some(head.target));
    let minor = u8::from(head.version == Version::Http11);
    assert_eq!(request.version, Some(minor));
    assert_eq!(&*request.headers, head.fields);
}

fn forward(head: &RequestHead<'_>, fields: &[Field], minor: u8, config: &Config) {
    let base = &config.upstream.path;
    let refused = reason(head, fields, minor, config);
    let request = match check(head, config) {
        Ok(request) => request,
        Err(refusal) => {
            let told = refusal.tell().body("-");
            assert!(!told.contains("canary"), "{told}");
            let climbs = !base.is_empty() && target::has_dot_segments(head.target);
            assert!(refused.is_some() || climbs, "refused: {refusal:?}");
            return;
        }
    };
    assert_eq!(refused, None, "forwarded");
    let framing = match naive::end(fields, minor) {
        Some(End::Nothing) => Framing::None,
        Some(End::Length(bytes)) => Framing::Length(bytes),
        Some(End::Chunked) => Framing::Chunked,
        None => unreachable!("a reason to refuse"),
    };
    assert_eq!(request.framing, framing);
    let closes = elements(fields, "connection").contains(&b"close".to_vec());
    assert_eq!(request.keep_alive, minor == 1 && !closes);

    let written = [&request.head[..], b"\r\n"].concat();
    assert_eq!(naive::length(&written), Ok(Some(written.len())), "one head");
    let (line, sent) = naive::parse(&written).expect("what goes up is well-formed");
    let origin = target::origin_form(head.target).expect("a reason to refuse");
    let line_expected = [
        head.method.as_bytes(),
        b" ",
        base.as_bytes(),
        origin,
        b" HTTP/1.1",
    ];
    assert_eq!(line, line_expected.concat());
    let length = values(fields, "content-length").first().copied();
    assert_eq!(values(&sent, "content-length"), Vec::from_iter(length));
    assert_eq!(
        values(&sent, "host"),
        [config.upstream.authority.as_bytes()]
    );
    if request.kind != Kind::Health && config.access_token.is_some() {
        // The token may be in both fields; one of them was meant for us.
        let borne = |fields: &[Field]| bearers(fields).len();
        let replaced = config.upstream.credential.is_some();
        assert!(borne(&sent) < borne(fields) || replaced && borne(&sent) == 0);
    }
    let handshake = request.kind == Kind::Handshake;
    assert_eq!(handshake, is_handshake(head, fields, framing));
    let upgrade: [&[&[u8]]; 2] = match handshake {
        true => [&[b"websocket"], &[b"Upgrade"]],
        false => [&[], &[]],
    };
    let upgrades = ["upgrade", "connection"].map(|name| values(&sent, name));
    assert_eq!(upgrades, upgrade);
    let hops = sent.iter().filter(|field| is_hop_by_hop(field)).count();
    assert_eq!(
        (hops, values(&sent, "expect").len()),
        (2 * usize::from(handshake), 0)
    );
    assert_eq!(rest(&sent, &[], config), rest(fields, fields, config));
    if let Some(credential) = &config.upstream.credential {
        assert_eq!(values(&sent, &credential.name), [credential.value.expose()]);
    }
}

/// Those of `fields` that go up as they are, `came` being all that came.
fn rest<'a>(fields: &'a [Field], came: &[Field], config: &Config) -> Vec<&'a Field> {
    let named = elements(came, "connection");
    let credential = config.upstream.credential.as_ref();
    let stays = |field: &&Field| {
        let governed = ["host", "content-length", "expect", "trailer"];
        let token =
            config.access_token.is_some() && (is(field, "authorization") || is(field, "x-api-key"));
        governed.iter().any(|name| is(field, name))
            || is_hop_by_hop(field)
            || token // told apart above
            || credential.is_some_and(|credential| is(field, &credential.name))
            || named.contains(&field.0.to_ascii_lowercase())
    };
    fields.iter().filter(|field| !stays(field)).collect()
}

/// RFC 6455 4.1.
fn is_handshake(head: &RequestHead<'_>, fields: &[Field], framing: Framing) -> bool {
    let lists = |name: &str, element: &[u8]| elements(fields, name).contains(&element.to_vec());
    let path = target::origin_form(head.target).and_then(|path| path.split(|b| *b == b'?').next());
    head.method == "GET"
        && head.version == Version::Http11
        && matches!(framing, Framing::None | Framing::Length(0))
        && lists("connection", b"upgrade")
        && lists("upgrade", b"websocket")
        && path != Some(b"/healthz")
}

/// The fields that bear the access token.
fn bearers(fields: &[Field]) -> Vec<&Field> {
    let bears = |(name, value): &&Field| match &name.to_ascii_lowercase()[..] {
        b"x-api-key" => value == TOKEN.as_bytes(),
        b"authorization" => value.split_at_checked(7).is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case(b"bearer ") && token.trim_ascii() == TOKEN.as_bytes()
        }),
        _ => false,
    };
    fields.iter().filter(bears).collect()
}

/// Why the head is not to be forwarded.
fn reason(
    head: &RequestHead<'_>,
    fields: &[Field],
    minor: u8,
    config: &Config,
) -> Option<&'static str> {
    let base = &config.upstream.path;
    let body_bytes_max = config.client.body_bytes_max;
    let options = elements(fields, "connection");
    let options = options.iter().filter(|option| *option != b"keep-alive");
    let Some(origin) = target::origin_form(head.target) else {
        return Some("no origin can be asked for this");
    };
    let path = origin.split(|byte| *byte == b'?').next();
    let health = path == Some(b"/healthz") && ["GET", "HEAD"].contains(&head.method);
    let reasons = [
        match naive::end(fields, minor) {
            None => Some("its end is in doubt"),
            Some(End::Length(bytes)) if bytes > body_bytes_max => Some("too large a body"),
            Some(_) => None,
        },
        (options.count() > CONNECTION_OPTIONS_MAX).then_some("too many options"),
        match values(fields, "host").len() {
            1 => None,
            0 if minor == 0 => None,
            _ => Some("not one Host"),
        },
        ["CONNECT", "TRACE"]
            .contains(&head.method)
            .then_some("method"),
        (!base.is_empty() && (origin == b"*" || target::leaves(base, origin))).then_some("climbs"),
        (config.access_token.is_some() && !health && bearers(fields).is_empty()).then_some("token"),
    ];
    reasons.into_iter().flatten().next()
}
