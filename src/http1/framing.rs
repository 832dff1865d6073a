//! How long a message body is: RFC 9112 6.3, item by item, and nowhere else.
use httparse::Header;

use crate::http1::head::{RequestHead, ResponseHead, Version};

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// Content-Length: so many bytes.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// Close-delimited: until the sender closes. Responses only.
    UntilClose,
}

/// Why a head does not say for certain where its message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguous {
    /// A Content-Length that is no plain decimal number of at most 2^63 - 1.
    Length,
    /// Content-Length fields that differ.
    Lengths,
    /// Content-Length and Transfer-Encoding together.
    LengthAndCoding,
    /// A Transfer-Encoding other than exactly `chunked`, or one in HTTP/1.0.
    Coding,
}

impl Ambiguous {
    /// The fault in words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Length => "Content-Length is malformed",
            Self::Lengths => "two Content-Length fields differ",
            Self::LengthAndCoding => "both Content-Length and Transfer-Encoding are given",
            Self::Coding => "Transfer-Encoding is not exactly `chunked`",
        }
    }
}

/// The framing of a request.
pub fn of_request(head: &RequestHead<'_>) -> Result<Framing, Ambiguous> {
    Ok(declared(head.fields, head.version)?.unwrap_or(Framing::None)) // item 7
}

/// The framing of the response to a request with method `method`.
pub fn of_response(method: &str, head: &ResponseHead<'_>) -> Result<Framing, Ambiguous> {
    let declared = declared(head.fields, head.version)?;
    if method == "HEAD" || matches!(head.status, 100..=199 | 204 | 304) {
        return Ok(Framing::None); // item 1
    }
    Ok(declared.unwrap_or(Framing::UntilClose)) // item 8
}

/// What the fields say, items 3 to 6.
fn declared(fields: &[Header<'_>], version: Version) -> Result<Option<Framing>, Ambiguous> {
    let mut length = None;
    let mut chunked = false;
    for field in fields {
        if field.name.eq_ignore_ascii_case("content-length") {
            let value = parse_length(field.value).ok_or(Ambiguous::Length)?;
            if length.replace(value).is_some_and(|other| other != value) {
                return Err(Ambiguous::Lengths);
            }
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            // A second field is a second coding, even where both say `chunked`.
            if chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Ambiguous::Coding);
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(Ambiguous::LengthAndCoding),
        (None, true) if version == Version::Http10 => Err(Ambiguous::Coding), // RFC 9112 6.1
        (None, true) => Ok(Some(Framing::Chunked)),
        (length, false) => Ok(length.map(Framing::Length)),
    }
}

/// RFC 9110 8.6: `1*DIGIT`. Lists are refused: no two recipients agree on them.
fn parse_length(value: &[u8]) -> Option<u64> {
    const DIGITS_MAX: usize = 18; // below 2^63, so that no arithmetic on it overflows
    if value.is_empty() || value.len() > DIGITS_MAX || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        value
            .iter()
            .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head;

    fn request(fields: &str) -> Result<Framing, Ambiguous> {
        let text = format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        head::with_request(text.as_bytes(), of_request).expect("a well-formed head")
    }

    fn response(method: &str, start: &str, fields: &str) -> Result<Framing, Ambiguous> {
        let text = format!("{start}\r\n{fields}\r\n");
        head::with_response(text.as_bytes(), |head| of_response(method, head)).expect("well-formed")
    }

    #[test]
    fn a_request_says_how_long_it_is_or_is_refused() {
        for (fields, framing) in [
            ("", Ok(Framing::None)),
            ("Content-Length: 0\r\n", Ok(Framing::Length(0))),
            ("content-length: 007\r\n", Ok(Framing::Length(7))),
            (
                "Content-Length: 5\r\nContent-Length: 5\r\n",
                Ok(Framing::Length(5)),
            ),
            ("Transfer-Encoding: Chunked\r\n", Ok(Framing::Chunked)),
            (
                "Content-Length: 5\r\nContent-Length: 6\r\n",
                Err(Ambiguous::Lengths),
            ),
            ("Content-Length: 5, 5\r\n", Err(Ambiguous::Length)),
            ("Content-Length: +5\r\n", Err(Ambiguous::Length)),
            ("Content-Length: -1\r\n", Err(Ambiguous::Length)),
            ("Content-Length: 0x5\r\n", Err(Ambiguous::Length)),
            ("Content-Length: 5 5\r\n", Err(Ambiguous::Length)),
            ("Content-Length:\r\n", Err(Ambiguous::Length)),
            (
                "Content-Length: 18446744073709551617\r\n",
                Err(Ambiguous::Length),
            ),
            (
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                Err(Ambiguous::LengthAndCoding),
            ),
            (
                "Transfer-Encoding: gzip, chunked\r\n",
                Err(Ambiguous::Coding),
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Err(Ambiguous::Coding),
            ),
            ("Transfer-Encoding: identity\r\n", Err(Ambiguous::Coding)),
            ("Transfer-Encoding: xchunked\r\n", Err(Ambiguous::Coding)),
            ("Transfer-Encoding:\r\n", Err(Ambiguous::Coding)),
        ] {
            assert_eq!(request(fields), framing, "{fields:?}");
        }
    }

    #[test]
    fn a_response_body_depends_on_the_method_and_the_status() {
        let length = "Content-Length: 5\r\n";
        for (method, start, fields, framing) in [
            ("GET", "HTTP/1.1 200 OK", length, Ok(Framing::Length(5))),
            ("HEAD", "HTTP/1.1 200 OK", length, Ok(Framing::None)),
            ("GET", "HTTP/1.1 204 No Content", length, Ok(Framing::None)),
            (
                "GET",
                "HTTP/1.1 304 Not Modified",
                length,
                Ok(Framing::None),
            ),
            ("GET", "HTTP/1.1 103 Early Hints", "", Ok(Framing::None)),
            ("GET", "HTTP/1.1 200 OK", "", Ok(Framing::UntilClose)),
            ("GET", "HTTP/1.0 200 OK", "", Ok(Framing::UntilClose)),
            (
                "GET",
                "HTTP/1.1 200",
                "Transfer-Encoding: chunked\r\n",
                Ok(Framing::Chunked),
            ),
            (
                "GET",
                "HTTP/1.0 200",
                "Transfer-Encoding: chunked\r\n",
                Err(Ambiguous::Coding),
            ),
            (
                "HEAD",
                "HTTP/1.1 200",
                "Content-Length: x\r\n",
                Err(Ambiguous::Length),
            ),
        ] {
            assert_eq!(
                response(method, start, fields),
                framing,
                "{method} {start} {fields:?}"
            );
        }
    }
}
