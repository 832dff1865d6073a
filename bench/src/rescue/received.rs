//! What a client can tell of the bytes that it got: whether they are a response, and a whole one.
use httparse::Status;

/// More than any head here has.
const HEAD_BYTES_MAX: usize = 16 << 10;
const FIELDS_MAX: usize = 64;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// FIN
    Closed,
    /// RST, or another error.
    Broken,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// One response, complete by its own framing.
    Whole {
        status: u16,
        content: Vec<u8>,
        /// The connection can be used again.
        persists: bool,
    },
    /// The end came first, as anyone can see.
    Cut,
    /// No response, or more than one.
    Wrong(String),
}

enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

struct Head {
    bytes: usize,
    status: u16,
    framing: Framing,
    persists: bool,
}

enum Content {
    /// What it is, and the bytes it took.
    Whole(Vec<u8>, usize),
    Partial,
    Malformed,
}

/// Judges all `bytes` that came in answer to one request. `None`: more are to come.
pub(super) fn received(bytes: &[u8], end: Option<End>) -> Option<Received> {
    let cut = end.map(|_| Received::Cut);
    let head = match head(bytes) {
        Ok(Some(head)) => head,
        Ok(None) => return cut,
        Err(wrong) => return Some(Received::Wrong(wrong)),
    };
    let rest = &bytes[head.bytes..];
    let content = match head.framing {
        Framing::Length(length) if rest.len() < length => Content::Partial,
        Framing::Length(length) => Content::Whole(rest[..length].to_vec(), length),
        Framing::Chunked => unchunked(rest),
        Framing::UntilClose if end == Some(End::Closed) => {
            Content::Whole(rest.to_vec(), rest.len())
        }
        Framing::UntilClose => Content::Partial,
    };
    match content {
        Content::Partial => cut,
        Content::Malformed => Some(wrong("a malformed chunk")),
        Content::Whole(_, taken) if taken < rest.len() => Some(wrong("more than one response")),
        Content::Whole(content, _) => Some(Received::Whole {
            status: head.status,
            content,
            persists: head.persists && end.is_none(),
        }),
    }
}

fn wrong(why: &str) -> Received {
    Received::Wrong(why.to_owned())
}

/// The final response's head; interim ones are passed over. `None`: it is not complete.
fn head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut start = 0;
    loop {
        let rest = &bytes[start..];
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut fields);
        let length = match parsed.parse(rest) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) if rest.len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(Status::Partial) => return Err("an endless head".to_owned()),
            Err(error) => return Err(format!("no response: {error}")),
        };
        start += length;
        let status = parsed.code.unwrap_or_default();
        if matches!(status, 100 | 102..=199) {
            continue;
        }
        let (framing, closes) = framing(parsed.headers)?;
        return Ok(Some(Head {
            bytes: start,
            status,
            persists: parsed.version == Some(1) && !closes,
            framing,
        }));
    }
}

/// How the end of the content is told, and whether the connection ends then.
fn framing(fields: &[httparse::Header<'_>]) -> Result<(Framing, bool), String> {
    let named = |name: &'static str| {
        let fields = fields.iter();
        let same = fields.filter(move |field| field.name.eq_ignore_ascii_case(name));
        same.map(|field| field.value.trim_ascii())
    };
    let mut options = named("connection").flat_map(|value| value.split(|&byte| byte == b','));
    let closes = options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
    let lengths: Vec<&[u8]> = named("content-length").collect();
    let codings: Vec<&[u8]> = named("transfer-encoding").collect();
    let framing = match (&lengths[..], &codings[..]) {
        ([], []) => Framing::UntilClose,
        ([length], []) if length.iter().all(u8::is_ascii_digit) => {
            let length = std::str::from_utf8(length).ok();
            let length = length.and_then(|length| length.parse().ok());
            Framing::Length(length.ok_or("a bad Content-Length")?)
        }
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        _ => return Err("a framing that is bad, or told twice".to_owned()),
    };
    Ok((framing, closes))
}

/// The origin sends no trailers: who adds some has made them up.
fn unchunked(bytes: &[u8]) -> Content {
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let (size_line, size) = match httparse::parse_chunk_size(rest) {
            Ok(Status::Complete((taken, size))) => (taken, size as usize),
            Ok(Status::Partial) => return Content::Partial,
            Err(_) => return Content::Malformed,
        };
        let rest = &rest[size_line..];
        let piece = &rest[..size.min(rest.len())];
        content.extend_from_slice(piece);
        let line_end = &rest[piece.len()..];
        if piece.len() < size || (line_end.len() < 2 && b"\r\n".starts_with(line_end)) {
            return Content::Partial;
        }
        if !line_end.starts_with(b"\r\n") {
            return Content::Malformed;
        }
        at += size_line + size + 2;
        if size == 0 {
            return Content::Whole(content, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    const UNTIL_CLOSE: &str = "HTTP/1.1 200 OK\r\n\r\n";

    fn whole(status: u16, persists: bool) -> Received {
        Received::Whole {
            status,
            content: b"hello".to_vec(),
            persists,
        }
    }

    #[test]
    fn a_response_is_whole_with_its_last_byte_and_not_before() {
        let error =
            "HTTP/1.1 504 Gateway Timeout\r\nconnection: Close\r\ncontent-length: 5\r\n\r\n";
        for (wire, expected) in [
            (format!("{LENGTH}hello"), whole(200, true)),
            (
                format!("HTTP/1.1 103 Hint\r\nA: b\r\n\r\n{LENGTH}hello"),
                whole(200, true),
            ),
            (
                format!("{CHUNKED}2\r\nhe\r\n03\r\nllo\r\n0\r\n\r\n"),
                whole(200, true),
            ),
            (format!("{error}hello"), whole(504, false)),
        ] {
            let wire = wire.as_bytes();
            for length in 0..wire.len() {
                let part = &wire[..length];
                assert_eq!(received(part, None), None, "{length}");
                for end in [End::Closed, End::Broken] {
                    assert_eq!(received(part, Some(end)), Some(Received::Cut), "{length}");
                }
            }
            assert_eq!(received(wire, None), Some(expected));
        }
    }

    #[test]
    fn content_without_framing_is_whole_when_the_connection_closes_in_good_order() {
        let wire = format!("{UNTIL_CLOSE}hello");
        let wire = wire.as_bytes();
        assert_eq!(received(wire, None), None);
        assert_eq!(received(wire, Some(End::Closed)), Some(whole(200, false)));
        assert_eq!(received(wire, Some(End::Broken)), Some(Received::Cut));
    }

    #[test]
    fn what_is_not_one_response_is_wrong() {
        for wire in [
            "hello".to_owned(),
            "\x16\x03\x01 this is not HTTP".to_owned(),
            format!("{LENGTH}hello{LENGTH}hello"),
            format!("{LENGTH}hello!"),
            format!("{CHUNKED}5\r\nhello\r\n0\r\n\r\n\r\n"),
            format!("{CHUNKED}4\r\nhello\r\n0\r\n\r\n"),
            format!("{CHUNKED}5\r\nhello\r\n0\r\nA: b\r\n\r\n"),
            format!("{CHUNKED}HTTP/1.1 200 OK\r\n\r\n"),
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello".to_owned(),
        ] {
            let judged = received(wire.as_bytes(), Some(End::Closed));
            assert!(
                matches!(judged, Some(Received::Wrong(_))),
                "{wire}: {judged:?}"
            );
        }
    }
}
