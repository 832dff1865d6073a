//! A message head: where it ends in the bytes received, and what its lines say.
//!
//! Stricter than RFC 9112 2.2 allows a recipient to be: a line ends with CRLF and nothing else. A
//! proxy that takes a bare LF for a line's end disagrees with its neighbours about where a message
//! ends, and that disagreement is request smuggling.
use httparse::{EMPTY_HEADER, Header};
use memchr::memchr;

/// Most fields of a request head.
pub const REQUEST_FIELDS_MAX: usize = 128;
/// Most fields of a response head: some upstreams set hundreds of cookies and rate-limit fields.
pub const RESPONSE_FIELDS_MAX: usize = 1024;
/// What nearly every head fits in; a longer one is parsed a second time.
const FIELDS_USUAL: usize = 48;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A line ends with LF alone.
    BareLf,
    /// The request-line is not `method SP request-target SP HTTP/1.x`.
    RequestLine,
    /// The status-line is not `HTTP/1.x SP 3DIGIT [SP reason-phrase]`.
    StatusLine,
    /// A field line is not `name ":" OWS value OWS`, or is folded.
    FieldLine,
    /// More fields than allowed.
    TooManyFields,
}

impl Malformed {
    /// The fault in words, for a message to the client or a log line.
    pub fn reason(self) -> &'static str {
        match self {
            Self::BareLf => "a line of the head ends with LF instead of CRLF",
            Self::RequestLine => "the request-line is malformed",
            Self::StatusLine => "the status-line is malformed",
            Self::FieldLine => "a field line is malformed",
            Self::TooManyFields => "the head has too many fields",
        }
    }
}

/// The only versions spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// Looks for the empty line that ends a head, over as many reads as it takes.
#[derive(Default)]
pub struct Scan {
    line: usize,
    looked_at: usize,
}

impl Scan {
    /// The length of the head at the start of `received`, once its empty line is there. `received`
    /// must start with the same bytes as at the call before: each byte is looked at once.
    pub fn head_length(&mut self, received: &[u8]) -> Result<Option<usize>, Malformed> {
        while let Some(at) = memchr(b'\n', &received[self.looked_at..]) {
            let lf = self.looked_at + at;
            if lf == 0 || received[lf - 1] != b'\r' {
                return Err(Malformed::BareLf);
            }
            let empty = lf - 1 == self.line;
            self.line = lf + 1;
            self.looked_at = self.line;
            if empty {
                return Ok(Some(self.line));
            }
        }
        self.looked_at = received.len();
        Ok(None)
    }

    /// Whether the start-line is still incomplete.
    pub fn in_start_line(&self) -> bool {
        self.line == 0
    }
}

/// A request head. Everything in it points into the bytes received.
pub struct RequestHead<'a> {
    /// A token; methods are case-sensitive.
    pub method: &'a str,
    /// As it came: any byte but white space and controls.
    pub target: &'a [u8],
    /// The version of the request-line.
    pub version: Version,
    /// In order of arrival, values without surrounding white space.
    pub fields: &'a [Header<'a>],
}

/// A response head. Everything in it points into the bytes received.
pub struct ResponseHead<'a> {
    /// The version of the status-line.
    pub version: Version,
    /// 100 to 999.
    pub status: u16,
    /// The reason phrase with the space before it, or nothing.
    pub reason: &'a [u8],
    /// In order of arrival, values without surrounding white space.
    pub fields: &'a [Header<'a>],
}

/// Parses the whole request head `head` and hands it to `then`.
pub fn with_request<T>(
    head: &[u8],
    then: impl FnOnce(&RequestHead<'_>) -> T,
) -> Result<T, Malformed> {
    let (line, rest) = split_line(head);
    let (method, target, version) = request_line(line).ok_or(Malformed::RequestLine)?;
    with_fields::<T, REQUEST_FIELDS_MAX>(rest, |fields| {
        then(&RequestHead {
            method,
            target,
            version,
            fields,
        })
    })
}

/// Parses the whole response head `head` and hands it to `then`.
pub fn with_response<T>(
    head: &[u8],
    then: impl FnOnce(&ResponseHead<'_>) -> T,
) -> Result<T, Malformed> {
    let (line, rest) = split_line(head);
    let (version, status, reason) = status_line(line).ok_or(Malformed::StatusLine)?;
    with_fields::<T, RESPONSE_FIELDS_MAX>(rest, |fields| {
        then(&ResponseHead {
            version,
            status,
            reason,
            fields,
        })
    })
}

/// Parses field lines that end with an empty line: a field section or a trailer section.
pub fn with_fields<T, const MAX: usize>(
    section: &[u8],
    then: impl FnOnce(&[Header<'_>]) -> T,
) -> Result<T, Malformed> {
    let mut usual = [EMPTY_HEADER; FIELDS_USUAL];
    let mut all;
    let fields = match httparse::parse_headers(section, &mut usual) {
        Err(httparse::Error::TooManyHeaders) => {
            all = [EMPTY_HEADER; MAX];
            httparse::parse_headers(section, &mut all)
        }
        parsed => parsed,
    };
    match fields {
        Ok(httparse::Status::Complete((length, fields))) if length == section.len() => {
            Ok(then(fields))
        }
        Err(httparse::Error::TooManyHeaders) => Err(Malformed::TooManyFields),
        _ => Err(Malformed::FieldLine),
    }
}

/// The first line without its CRLF, and what follows it. `Scan` has seen that the CRLF is there.
fn split_line(head: &[u8]) -> (&[u8], &[u8]) {
    match memchr(b'\n', head) {
        Some(lf) if lf > 0 => (&head[..lf - 1], &head[lf + 1..]),
        _ => (head, &[]),
    }
}

/// RFC 9112 3: `method SP request-target SP HTTP-version`, one space each.
fn request_line(line: &[u8]) -> Option<(&str, &[u8], Version)> {
    let method_end = memchr(b' ', line)?;
    let (method, rest) = (&line[..method_end], &line[method_end + 1..]);
    let target_end = memchr(b' ', rest)?;
    let (target, version) = (&rest[..target_end], version(&rest[target_end + 1..])?);
    let visible = |byte: &u8| !matches!(byte, 0..=b' ' | 0x7f);
    if target.is_empty() || !target.iter().all(visible) || !is_token(method) {
        return None;
    }
    Some((str::from_utf8(method).ok()?, target, version))
}

/// RFC 9112 4: `HTTP-version SP status-code SP [reason-phrase]`. The second space is missing in
/// practice where there is no reason phrase.
fn status_line(line: &[u8]) -> Option<(Version, u16, &[u8])> {
    let version = version(line.get(..8)?)?;
    let [
        b' ',
        a @ b'1'..=b'9',
        b @ b'0'..=b'9',
        c @ b'0'..=b'9',
        reason @ ..,
    ] = &line[8..]
    else {
        return None;
    };
    let digit = |byte: &u8| u16::from(byte - b'0');
    let legal = |byte: &u8| matches!(byte, b'\t' | b' '..=0x7e | 0x80..);
    if !matches!(reason, [] | [b' ', ..]) || !reason.iter().all(legal) {
        return None;
    }
    Some((version, digit(a) * 100 + digit(b) * 10 + digit(c), reason))
}

fn version(text: &[u8]) -> Option<Version> {
    match text {
        b"HTTP/1.1" => Some(Version::Http11),
        b"HTTP/1.0" => Some(Version::Http10),
        _ => None,
    }
}

/// RFC 9110 5.6.2.
pub fn is_token(text: &[u8]) -> bool {
    let tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(tchar)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"POST /v1//x?a=%2F&{} HTTP/1.1\r\nHost: h\r\nX-A:  b \r\n\r\n";

    #[test]
    fn a_head_is_found_whatever_the_split() {
        for split in 0..HEAD.len() {
            let mut scan = Scan::default();
            assert_eq!(scan.head_length(&HEAD[..split]), Ok(None), "{split}");
            assert_eq!(scan.head_length(HEAD), Ok(Some(HEAD.len())));
        }
        let mut scan = Scan::default();
        for end in 0..HEAD.len() {
            assert_eq!(scan.head_length(&HEAD[..end]), Ok(None));
        }
        let followed = [HEAD, b"body\n"].concat();
        assert_eq!(scan.head_length(&followed), Ok(Some(HEAD.len())));
    }

    #[test]
    fn a_bare_lf_is_refused_as_soon_as_it_is_there() {
        for text in ["\n", "GET / HTTP/1.1\n", "GET / HTTP/1.1\r\nA: b\nC: d"] {
            let found = Scan::default().head_length(text.as_bytes());
            assert_eq!(found, Err(Malformed::BareLf), "{text:?}");
        }
    }

    #[test]
    fn a_request_head_is_kept_as_it_came() {
        let seen = with_request(HEAD, |head| {
            assert_eq!(head.method, "POST");
            assert_eq!(head.target, b"/v1//x?a=%2F&{}");
            assert_eq!(head.version, Version::Http11);
            let fields: Vec<_> = head.fields.iter().map(|f| (f.name, f.value)).collect();
            assert_eq!(fields, [("Host", &b"h"[..]), ("X-A", b"b")]);
        });
        assert!(seen.is_ok());
        let latin1 = b"GET /\xff HTTP/1.0\r\n\r\n";
        assert!(with_request(latin1, |head| assert_eq!(head.target, b"/\xff")).is_ok());
    }

    #[test]
    fn malformed_heads_are_refused() {
        for line in [
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET /",
            "GET / HTTP/2.0",
            "GET / http/1.1",
            "G(T / HTTP/1.1",
            "GET /\t HTTP/1.1",
            "GET /\0 HTTP/1.1",
            "GET /a b HTTP/1.1",
            "",
        ] {
            let head = format!("{line}\r\nHost: h\r\n\r\n");
            let found = with_request(head.as_bytes(), |_| ());
            assert_eq!(found, Err(Malformed::RequestLine), "{line:?}");
        }
        for field in [
            "A : b",
            " A: b",
            "A",
            ": b",
            "A: b\rc",
            "A: b\0",
            "A: b\r\n c",
            "A\u{e9}: b",
            "A: \x01",
        ] {
            let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n");
            let found = with_request(head.as_bytes(), |_| ());
            assert_eq!(found, Err(Malformed::FieldLine), "{field:?}");
        }
    }

    #[test]
    fn the_number_of_fields_is_bounded() {
        let head = |fields: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(fields));
        let count = |text: String| with_request(text.as_bytes(), |head| head.fields.len());
        assert_eq!(count(head(REQUEST_FIELDS_MAX)), Ok(REQUEST_FIELDS_MAX));
        assert_eq!(
            count(head(REQUEST_FIELDS_MAX + 1)),
            Err(Malformed::TooManyFields)
        );
    }

    #[test]
    fn a_status_line_may_lack_its_reason_or_have_an_odd_one() {
        for (line, status, reason) in [
            (&b"HTTP/1.1 200 OK"[..], 200, &b" OK"[..]),
            (b"HTTP/1.1 200", 200, b""),
            (b"HTTP/1.0 999 ", 999, b" "),
            (
                b"HTTP/1.1 404 Nicht gef\xfcnden",
                404,
                b" Nicht gef\xfcnden",
            ),
        ] {
            let head = [line, b"\r\n\r\n"].concat();
            let seen = with_response(&head, |head| (head.status, head.reason.to_vec()));
            assert_eq!(seen, Ok((status, reason.to_vec())));
        }
        for line in [
            "HTTP/1.1 20",
            "HTTP/1.1 2000",
            "HTTP/2 200",
            "HTTP/1.1  200",
            "HTTP/1.1 099",
            "ICY 200 OK",
        ] {
            let head = format!("{line}\r\n\r\n");
            let seen = with_response(head.as_bytes(), |_| ());
            assert_eq!(seen, Err(Malformed::StatusLine), "{line:?}");
        }
    }
}
