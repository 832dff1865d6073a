//! The only writer of header sections: what crosses the proxy, and what stays on its side.
//!
//! Fields keep their name, value, order and repetition. Hop-by-hop fields (RFC 9110 7.6.1) and those
//! that `Connection` names never cross.
use std::fmt::Display;
use std::io::Write;

use httparse::Header;
use subtle::ConstantTimeEq;

use crate::http1::framing::Framing;
use crate::http1::head::{RequestHead, ResponseHead};

/// Our own family of fields; upstream's are removed, so that nobody can forge them.
pub const OWN_PREFIX: &str = "x-codex-reset-proxy-";

/// Most options of all `Connection` fields together. Each is compared with each field name, so their
/// number bounds the work that a head can cause.
const CONNECTION_OPTIONS_MAX: usize = 32;

/// What the `Connection` fields of a message say.
pub struct Connection<'a> {
    /// `close` is among the options.
    pub close: bool,
    /// `upgrade` is.
    pub upgrade: bool,
    /// The options that name fields; usually there are none.
    named: Vec<&'a [u8]>,
}

/// `Connection` has more options than we are willing to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyOptions;

impl<'a> Connection<'a> {
    /// Reads all `Connection` fields of a header section.
    pub fn of(fields: &[Header<'a>]) -> Result<Self, TooManyOptions> {
        let (mut close, mut upgrade, mut named) = (false, false, Vec::new());
        for field in fields.iter().filter(|field| is(field, "connection")) {
            for option in list(field.value) {
                close |= option.eq_ignore_ascii_case(b"close");
                upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                // The field of this name crosses in no case, and the option is the usual one.
                if !option.eq_ignore_ascii_case(b"keep-alive") {
                    named.push(option);
                }
                if named.len() > CONNECTION_OPTIONS_MAX {
                    return Err(TooManyOptions);
                }
            }
        }
        Ok(Self {
            close,
            upgrade,
            named,
        })
    }

    fn names(&self, field: &str) -> bool {
        let named = |option: &&[u8]| option.eq_ignore_ascii_case(field.as_bytes());
        self.named.iter().any(named)
    }
}

/// The elements of a comma-separated list, empty ones left out (RFC 9110 5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let elements = value.split(|byte| *byte == b',');
    elements
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether `field` has the name `name`, in any case.
pub fn is(field: &Header<'_>, name: &str) -> bool {
    field.name.eq_ignore_ascii_case(name)
}

/// Whether the `Upgrade` fields of a message name WebSocket.
pub fn names_websocket(fields: &[Header<'_>]) -> bool {
    let mut upgrades = fields.iter().filter(|field| is(field, "upgrade"));
    upgrades
        .any(|field| list(field.value).any(|protocol| protocol.eq_ignore_ascii_case(b"websocket")))
}

/// Whether `field` bears `token` in one of the two ways in which clients send their key. Takes the same
/// time wherever they differ.
pub fn bears(field: &Header<'_>, token: &[u8]) -> bool {
    let presented = if is(field, "x-api-key") {
        Some(field.value)
    } else if is(field, "authorization") {
        let bearer = field.value.split_at_checked(7);
        bearer
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map(|(_, presented)| presented.trim_ascii())
    } else {
        None
    };
    presented.is_some_and(|presented| presented.ct_eq(token).into())
}

/// What a request head gets on its way up.
pub struct RequestRules<'a> {
    /// The value of `Host`.
    pub host: &'a str,
    /// The base path that the request-target is appended to.
    pub base_path: &'a str,
    /// Name and value of the field that replaces the client's own.
    pub credential: Option<(&'a str, &'a [u8])>,
    /// `PROXY_ACCESS_TOKEN`: fields that bear it were meant for us and stay here.
    pub token: Option<&'a [u8]>,
    /// It is a WebSocket handshake: that it asks for an upgrade crosses.
    pub websocket: bool,
}

/// Writes the head of a request as every attempt will send it, without the empty line at its end:
/// for a chunked request, `Content-Length` follows once its length is known.
pub fn write_request(
    out: &mut Vec<u8>,
    head: &RequestHead<'_>,
    target: &[u8],
    framing: Framing,
    connection: &Connection<'_>,
    rules: &RequestRules<'_>,
) {
    extend(
        out,
        &[
            head.method.as_bytes(),
            b" ",
            rules.base_path.as_bytes(),
            target,
            b" HTTP/1.1\r\n",
        ],
    );
    let (mut host, mut length, mut credential) = (Some(rules.host), None, rules.credential);
    let (mut upgrade, mut option) = (rules.websocket, rules.websocket);
    if let Framing::Length(bytes) = framing {
        length = Some(bytes);
    }
    for field in head.fields {
        if is(field, "host") {
            if let Some(host) = host.take() {
                write_field(out, field.name, host.as_bytes());
            }
        } else if is(field, "content-length") {
            if length.take().is_some() {
                write_field(out, field.name, field.value);
            }
        } else if rules.credential.is_some_and(|(name, _)| is(field, name)) {
            if let Some((_, value)) = credential.take() {
                write_field(out, field.name, value);
            }
        } else if is(field, "upgrade") {
            if std::mem::take(&mut upgrade) {
                write_field(out, field.name, b"websocket"); // of several protocols, this one
            }
        } else if is(field, "connection") {
            if std::mem::take(&mut option) {
                write_field(out, field.name, b"Upgrade");
            }
        } else if !(is_hop_by_hop(field.name)
            || is(field, "expect")
            || is(field, "trailer") // the trailers are dropped
            || rules.token.is_some_and(|token| bears(field, token))
            || connection.names(field.name))
        {
            write_field(out, field.name, field.value);
        }
    }
    if let Some(host) = host {
        write_field(out, "Host", host.as_bytes()); // HTTP/1.0 may lack it
    }
    if let Some((name, value)) = credential {
        write_field(out, name, value);
    }
}

/// What a response head gets on its way down.
pub struct ResponseRules<'a> {
    /// How its body goes down; chunked and length only where they came that way.
    pub framing: Framing,
    /// The client's connection ends with this response.
    pub close: bool,
    /// How often the request was sent; `None` for an interim response.
    pub attempts: Option<u32>,
    /// What became of the attempts that failed, where there was more than one.
    pub failed: Option<&'a dyn Display>,
    /// It is the 101 of a WebSocket handshake: what it says of the upgrade crosses.
    pub websocket: bool,
}

/// Writes the head of a response as the client gets it, its empty line included.
pub fn write_response(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_>,
    connection: &Connection<'_>,
    rules: &ResponseRules<'_>,
) {
    let digit = |value: u16| b'0' + (value % 10) as u8;
    let code = [
        digit(head.status / 100),
        digit(head.status / 10),
        digit(head.status),
    ];
    extend(out, &[b"HTTP/1.1 ", &code, head.reason, b"\r\n"]);
    let (mut length_written, mut coding_written) = (false, false);
    for field in head.fields {
        if is(field, "transfer-encoding") {
            if rules.framing == Framing::Chunked && !coding_written {
                write_field(out, field.name, field.value);
                coding_written = true;
            }
        } else if is(field, "content-length") {
            // RFC 9110 8.6: never in 1xx and 204, where a client may wait for the bytes.
            if !length_written && !matches!(head.status, 100..=199 | 204) {
                write_field(out, field.name, field.value);
                length_written = true;
            }
        } else if crosses_down(field.name, connection) || (rules.websocket && is(field, "upgrade"))
        {
            write_field(out, field.name, field.value);
        }
    }
    // Writing to memory does not fail.
    if let Some(attempts) = rules.attempts {
        let _ = write!(out, "x-codex-reset-proxy-attempts: {attempts}\r\n");
    }
    if let Some(failed) = rules.failed {
        let _ = write!(out, "x-codex-reset-proxy-attempts-detail: {failed}\r\n");
    }
    if rules.close || rules.websocket {
        let option: &[u8] = if rules.close { b"close" } else { b"Upgrade" };
        write_field(out, "Connection", option);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a trailer section as the client gets it, its empty line included.
pub fn write_trailers(out: &mut Vec<u8>, fields: &[Header<'_>]) {
    for field in fields {
        // RFC 9110 6.5.1: framing has no place in trailers.
        if !is_hop_by_hop(field.name) && !is(field, "content-length") && !is_own(field.name) {
            write_field(out, field.name, field.value);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes `name: value CRLF`.
pub fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    extend(out, &[name.as_bytes(), b": ", value, b"\r\n"]);
}

fn extend(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn crosses_down(name: &str, connection: &Connection<'_>) -> bool {
    !is_hop_by_hop(name) && !is_own(name) && !connection.names(name)
}

fn is_own(name: &str) -> bool {
    let start = name.as_bytes().get(..OWN_PREFIX.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(OWN_PREFIX.as_bytes()))
}

/// RFC 9110 7.6.1, and the proxy authentication of RFC 9110 11.7, which is between us and nobody.
fn is_hop_by_hop(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "te",
        "upgrade",
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "proxy-authenticate",
        "proxy-authorization",
    ];
    matches!(name.len(), 2 | 7 | 10 | 16..=19)
        && NAMES.iter().any(|hop| hop.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::{framing, head};

    fn up(text: &str, rules: &RequestRules<'_>) -> String {
        let mut out = Vec::new();
        head::with_request(text.as_bytes(), |head| {
            let framing = framing::of_request(head).expect("plain framing");
            let connection = Connection::of(head.fields).expect("few options");
            write_request(&mut out, head, head.target, framing, &connection, rules);
        })
        .expect("a well-formed head");
        String::from_utf8(out).expect("text")
    }

    fn down(text: &str, framing: Framing) -> String {
        let mut out = Vec::new();
        let rules = ResponseRules {
            framing,
            close: false,
            attempts: Some(2),
            failed: None,
            websocket: false,
        };
        head::with_response(text.as_bytes(), |head| {
            let connection = Connection::of(head.fields).expect("few options");
            write_response(&mut out, head, &connection, &rules);
        })
        .expect("a well-formed head");
        String::from_utf8(out).expect("text")
    }

    const PLAIN: RequestRules<'_> = RequestRules {
        host: "up:1",
        base_path: "",
        credential: None,
        token: None,
        websocket: false,
    };

    #[test]
    fn a_request_keeps_its_fields_and_loses_its_hop() {
        let sent = up(
            "POST /x?y HTTP/1.1\r\nuser-agent: a\r\nhOsT: here\r\nX-A: 1\r\nx-a:2\r\nTE: trailers\r\n\
             Keep-Alive: 5\r\nConnection: keep-alive, x-B, close\r\nX-b: 3\r\nClose: 1\r\nExpect: 100-continue\r\n\
             Upgrade: h2c\r\nContent-length: 3\r\nContent-Length: 3\r\nAuthorization: k\r\n\r\n",
            &PLAIN,
        );
        assert_eq!(
            sent,
            "POST /x?y HTTP/1.1\r\nuser-agent: a\r\nhOsT: up:1\r\nX-A: 1\r\nx-a: 2\r\n\
             Content-length: 3\r\nAuthorization: k\r\n"
        );
    }

    #[test]
    fn connection_cannot_name_away_host_or_length() {
        let sent = up(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: host, content-length\r\n\r\n",
            &PLAIN,
        );
        assert_eq!(
            sent,
            "POST / HTTP/1.1\r\nHost: up:1\r\nContent-Length: 1\r\n"
        );
    }

    #[test]
    fn a_credential_replaces_the_clients_field_once_or_is_added() {
        let rules = RequestRules {
            base_path: "/api",
            credential: Some(("Authorization", b"Bearer key")),
            token: Some(b"t"),
            ..PLAIN
        };
        let sent = up(
            "GET /v HTTP/1.1\r\nHost: h\r\nauthorization: a\r\nX-Api-Key: t\r\nAuthorization: b\r\n\r\n",
            &rules,
        );
        assert_eq!(
            sent,
            "GET /api/v HTTP/1.1\r\nHost: up:1\r\nauthorization: Bearer key\r\n"
        );
        let sent = up("GET /v HTTP/1.0\r\n\r\n", &rules);
        assert_eq!(
            sent,
            "GET /api/v HTTP/1.1\r\nHost: up:1\r\nAuthorization: Bearer key\r\n"
        );
    }

    #[test]
    fn a_response_keeps_its_fields_and_cannot_forge_ours() {
        let text = "HTTP/1.0 200 Fine\r\nSet-Cookie: a\r\nset-cookie: b\r\nX-Codex-Reset-Proxy-Attempts: 9\r\n\
                    x-codex-reset-proxy-attempts-detail: 1=not_sent,closed,0.0s\r\n\
                    Connection: close, x-c\r\nX-C: 1\r\nContent-Length: 3\r\nProxy-Authenticate: x\r\n\r\n";
        assert_eq!(
            down(text, Framing::Length(3)),
            "HTTP/1.1 200 Fine\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 3\r\n\
             x-codex-reset-proxy-attempts: 2\r\n\r\n"
        );
        let text = "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n";
        assert_eq!(
            down(text, Framing::Chunked),
            "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\nx-codex-reset-proxy-attempts: 2\r\n\r\n"
        );
        assert_eq!(
            down(
                "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
                Framing::None
            ),
            "HTTP/1.1 204 No Content\r\nx-codex-reset-proxy-attempts: 2\r\n\r\n"
        );
    }

    #[test]
    fn the_work_of_connection_options_is_bounded() {
        let text = format!("GET / HTTP/1.1\r\nConnection: {}\r\n\r\n", "a,".repeat(40));
        let counted =
            head::with_request(text.as_bytes(), |head| Connection::of(head.fields).is_err());
        assert_eq!(counted, Ok(true));
    }

    #[test]
    fn a_token_is_found_in_either_field() {
        for (fields, bear) in [
            ("Authorization: Bearer s3cret\r\n", 1),
            ("authorization: bearer  s3cret\r\n", 1),
            ("X-Api-Key: s3cret\r\n", 1),
            ("Authorization: Bearer other\r\nx-api-key: s3cret\r\n", 1),
            ("Authorization: Bearer s3cret\r\nx-api-key: s3cret\r\n", 2),
            ("Authorization: s3cret\r\n", 0),
            ("Authorization: Bearer s3cret2\r\n", 0),
            ("x-api-key: s3cre\r\n", 0),
            ("", 0),
        ] {
            let text = format!("GET / HTTP/1.1\r\n{fields}\r\n");
            let found = head::with_request(text.as_bytes(), |head| {
                let found = head.fields.iter().filter(|field| bears(field, b"s3cret"));
                found.count()
            });
            assert_eq!(found, Ok(bear), "{fields:?}");
        }
    }
}
