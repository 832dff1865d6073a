//! A request head: cut here, decoded by monoio-http, and judged strictly, since a proxy is to send
//! nothing that is not clean.
use bytes::BytesMut;
use monoio_codec::{Decoded, Decoder};
use monoio_http::common::request::RequestHead;
use monoio_http::h1::codec::decoder::RequestHeadDecoder;

use super::target::Target;

/// More than any client of the harness sends; the decoder panics at names of 64 KiB.
pub const HEAD_BYTES_MAX: usize = 60 * 1024;

#[derive(Debug, Clone)]
pub struct Request {
    pub target: Target,
    pub body: Body,
    /// The client waits for 100 (Continue) before it sends the body.
    pub expects_continue: bool,
    /// The client does not ask for the connection to be closed.
    pub keep_alive: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    Length(u64),
    Chunked,
}

/// The response to a request that is not served; the connection is closed after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub status: &'static str,
    pub why: &'static str,
}

/// Length of the head that `bytes` begin with, where its end is there.
pub fn head_length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(end + 4)
}

impl Request {
    /// Decodes `head`, which ends with its empty line.
    pub fn decode(head: &[u8]) -> Result<Self, Refusal> {
        // The decoder takes a bare LF for the end of a line, but not for that of the head.
        let ends_bare = |at: usize| head[at] == b'\n' && (at == 0 || head[at - 1] != b'\r');
        if (0..head.len()).any(ends_bare) {
            return Err(bad("a line ends with a bare LF"));
        }
        let decoded = RequestHeadDecoder.decode(&mut BytesMut::from(head));
        let Ok(Decoded::Some(fields)) = decoded else {
            return Err(bad("the head is malformed"));
        };
        let start_line = head.split(|byte| *byte == b'\r').next();
        if !start_line.is_some_and(|line| line.ends_with(b" HTTP/1.1")) {
            return Err(Refusal {
                status: "505 HTTP Version Not Supported",
                why: "only HTTP/1.1 is spoken",
            });
        }
        if fields.method.as_str() == "HEAD" || fields.method.as_str() == "CONNECT" {
            return Err(Refusal {
                status: "501 Not Implemented",
                why: "the method is neither like GET nor like POST",
            });
        }
        if fields.headers.get_all("host").iter().count() != 1 {
            return Err(bad("there is not one Host"));
        }
        let target = Target::parse(fields.uri.path()).ok_or(Refusal {
            status: "404 Not Found",
            why: "the target asks for nothing that is done here",
        })?;
        Ok(Self {
            target,
            body: body(&fields)?,
            expects_continue: says(&fields, "expect", "100-continue"),
            keep_alive: !says(&fields, "connection", "close"),
        })
    }
}

fn bad(why: &'static str) -> Refusal {
    let status = "400 Bad Request";
    Refusal { status, why }
}

/// How the end of the request body is told (RFC 9112 6.3).
fn body(head: &RequestHead) -> Result<Body, Refusal> {
    let lengths = head.headers.get_all("content-length");
    let codings = head.headers.get_all("transfer-encoding");
    match (lengths.iter().count(), codings.iter().count()) {
        (0, 0) => Ok(Body::Length(0)),
        (1, 0) => lengths
            .iter()
            .next()
            .and_then(|length| length.to_str().ok())
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .map(Body::Length)
            .ok_or(bad("the Content-Length is no number")),
        (0, 1)
            if codings
                .iter()
                .all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) =>
        {
            Ok(Body::Chunked)
        }
        (0, _) => Err(bad("the Transfer-Encoding is not just chunked")),
        _ => Err(bad("the length is told twice")),
    }
}

/// Whether a field `name` is, or one of its comma-separated members is, `value`.
fn says(head: &RequestHead, name: &str, value: &str) -> bool {
    let fields = head.headers.get_all(name);
    fields
        .iter()
        .filter_map(|field| field.to_str().ok())
        .any(|field| {
            let mut members = field.split(',');
            members.any(|member| member.trim().eq_ignore_ascii_case(value))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(head: &str) -> Result<Request, Refusal> {
        assert_eq!(head_length(head.as_bytes()), Some(head.len()));
        Request::decode(head.as_bytes())
    }

    #[test]
    fn a_clean_head_says_how_the_body_ends_and_whether_the_connection_stays() {
        let post = "POST /bytes/9?a=b HTTP/1.1\r\nHost: x\r\n";
        let request = decode(&format!("{post}Content-Length: 12\r\n\r\n")).unwrap();
        assert_eq!(Some(request.target), Target::parse("/bytes/9"));
        assert_eq!(request.body, Body::Length(12));
        assert!(request.keep_alive && !request.expects_continue);
        let fields = "transfer-encoding: Chunked\r\nexpect: 100-Continue\r\nconnection: te, close";
        let request = decode(&format!("{post}{fields}\r\n\r\n")).unwrap();
        assert_eq!(request.body, Body::Chunked);
        assert!(!request.keep_alive && request.expects_continue);
    }

    #[test]
    fn a_head_that_is_not_clean_is_refused() {
        let line = "GET /bytes/9 HTTP/1.1\r\n";
        let host = "Host: x\r\n";
        for head in [
            "GET /bytes/9 HTTP/1.1\nHost: x\r\n\r\n".to_owned(),
            format!("{line}\r\n"),
            format!("{line}{host}{host}\r\n"),
            format!("{line}{host}Content-Length: +1\r\n\r\n"),
            format!("{line}{host}Content-Length: 1\r\nContent-Length: 1\r\n\r\n"),
            format!("{line}{host}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
            format!("{line}{host}Transfer-Encoding: gzip, chunked\r\n\r\n"),
            format!("{line}{host}a b: c\r\n\r\n"),
        ] {
            let refusal = decode(&head).unwrap_err();
            assert_eq!(refusal.status, "400 Bad Request", "{head}");
        }
        let status = |head: &str| decode(head).unwrap_err().status;
        assert!(status("GET /bytes/9 HTTP/1.0\r\nHost: x\r\n\r\n").starts_with("505"));
        assert!(status("HEAD /bytes/9 HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("501"));
        assert!(status("GET /other HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("404"));
    }

    #[test]
    fn a_head_is_not_cut_before_its_end() {
        let head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(head_length(&head[..end]), None);
        }
    }
}
