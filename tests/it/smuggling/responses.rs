//! Responses that somebody might take for another one, or for two: what becomes of each.
use std::ops::Range;

/// What has to become of a response.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// 502, or where bytes have gone out, a broken connection; upstream's is not used again.
    Bad,
    /// It passes with this status and this content.
    Passes(u16, &'static [u8], Then),
}
use Then::{Ends, Stays};
use Verdict::{Bad, Passes};

/// What has to become of the upstream's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It serves the next exchange.
    Stays,
    Ends,
}

const HELLO: Verdict = Passes(200, b"hello", Stays);
const LAST: Verdict = Passes(200, b"hello", Ends);
const EMPTY: Verdict = Passes(200, b"", Stays);

/// Cases that differ in one place only.
struct Section {
    method: &'static str,
    before: &'static [u8],
    after: &'static [u8],
    cases: &'static [(&'static [u8], Verdict)],
    closes: bool,
}

/// The bytes of a response, and which of them make the case.
pub struct Case {
    /// Of the request.
    pub method: &'static str,
    pub bytes: Vec<u8>,
    pub own: Range<usize>,
    /// Upstream closes behind it.
    pub closes: bool,
    pub verdict: Verdict,
}

pub fn cases() -> Vec<Case> {
    let sections = [FRAMING, CHUNKS, LINES, FIELDS, MESSAGES, TO_HEAD, CLOSED];
    let listed = sections.into_iter().flat_map(|section| {
        section.cases.iter().map(move |(own, verdict)| Case {
            method: section.method,
            bytes: [section.before, own, section.after].concat(),
            own: section.before.len()..section.before.len() + own.len(),
            closes: section.closes,
            verdict: *verdict,
        })
    });
    listed.chain(floods()).collect()
}

/// Responses, each with its request's method and with bytes that belong to nobody.
#[rustfmt::skip]
pub const EXCESSES: &[(&str, &str, &str)] = &[
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 100 Continue\r\n\r\n"),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "\r\n"),
    ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "H"),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "0\r\n\r\n"),
    ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
    ("GET", "HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\n\r\n"),
    ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", "hello"),
    ("GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n"),
    ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "hello"),
    ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
    ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "hello"),
    ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n"),
    ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
];

/// Lengths and codings before five bytes.
#[rustfmt::skip]
const FRAMING: Section = Section {
    method: "GET",
    before: b"HTTP/1.1 200 OK\r\n",
    after: b"\r\n\r\nhello",
    closes: false,
    cases: &[
        (b"Content-Length: 5", HELLO),
        (b"content-LENGTH:\t5 ", HELLO),
        (b"Content-Length: 005", HELLO),
        (b"Content-Length: 5\r\nX: y\r\nContent-Length: 5", HELLO),
        (b"Connection: Content-Length\r\nContent-Length: 5", HELLO),
        (b"Content_Length: 9\r\nContent-Length: 5", HELLO),
        (b"Content-Length: 5\r\nTransfer_Encoding: chunked", HELLO),
        (b"Content-Length: 5\r\nConnection: Upgrade\r\nUpgrade: h2c", HELLO),
        (b"Content-Length: 5\r\nConnection: x, CLOSE", LAST),
        (b"Content-Length: 0", Passes(200, b"", Ends)),
        (b"Content-Length: 3", Passes(200, b"hel", Ends)),
        (b"Content-Length: 5\r\nContent-Length: 6", Bad),
        (b"Content-Length: 0\r\ncontent-length: 5", Bad),
        (b"Content-Length: 5\r\nContent-Length:", Bad),
        (b"Content-Length: 5, 5", Bad),
        (b"Content-Length: 5,6", Bad),
        (b"Content-Length: 5 5", Bad),
        (b"Content-Length:", Bad),
        (b"Content-Length: +5", Bad),
        (b"Content-Length: -5", Bad),
        (b"Content-Length: 0x5", Bad),
        (b"Content-Length: 5x", Bad),
        (b"Content-Length: 5.0", Bad),
        (b"Content-Length: 5\0", Bad),
        (b"Content-Length: \x0b5", Bad),
        (b"Content-Length: \xef\xbc\x95", Bad), // 5, full width
        (b"Content-Length: 0000000000000000005", Bad),
        (b"Content-Length: 18446744073709551621", Bad), // 5, 64 bits wide
        (b"Content-Length: 99999999999999999999", Bad),
        (b"Content-Length : 5", Bad),
        (b" Content-Length: 5", Bad),
        (b"Content-Length:\r\n 5", Bad),
        (b"X: y\r\n\tContent-Length: 5", Bad),
        (b"X: y\nContent-Length: 5", Bad),
        (b"X: y\rContent-Length: 5", Bad),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", Bad),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5", Bad),
        (b"Content-Length: 5\r\nTransfer-Encoding: identity", Bad),
        (b"Content-Length: 5\r\nTransfer-Encoding:", Bad),
        (b"Content-Length: 5\r\nTransfer-Encoding : chunked", Bad),
        (b"Connection: Transfer-Encoding\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", Bad),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Bad),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", Bad),
        (b"Transfer-Encoding: chunked, chunked", Bad),
        (b"Transfer-Encoding: chunked, gzip", Bad),
        (b"Transfer-Encoding: gzip, chunked", Bad),
        (b"Transfer-Encoding: identity", Bad),
        (b"Transfer-Encoding: xchunked", Bad),
        (b"Transfer-Encoding: chunked;q=1", Bad),
        (b"Transfer-Encoding: \"chunked\"", Bad),
        (b"Transfer-Encoding: chunked\0", Bad),
        (b"Transfer-Encoding: \x0bchunked", Bad),
        (b"Transfer-Encoding:\r\n chunked", Bad),
        (b"Transfer-Encoding:", Bad),
    ],
};

/// Chunked bodies.
#[rustfmt::skip]
const CHUNKS: Section = Section {
    method: "GET",
    before: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    after: b"",
    closes: false,
    cases: &[
        (b"5\r\nhello\r\n0\r\n\r\n", HELLO),
        (b"1\r\nh\r\n004\r\nello\r\n00\r\nX: y\r\n\r\n", HELLO),
        (b"5;a=\"b;c\"\r\nhello\r\n0;d\r\n\r\n", HELLO),
        (b"5 ; a\r\nhello\r\n0\r\n\r\n", HELLO),
        (b"5\r\nhello\r\n0\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n", HELLO),
        (b"16\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n0\r\n\r\n", Passes(200, b"0\r\n\r\nHTTP/1.1 200 OK\r\n", Stays)),
        (b"\r\nhello\r\n0\r\n\r\n", Bad),
        (b"x\r\nhello\r\n0\r\n\r\n", Bad),
        (b"-5\r\nhello\r\n0\r\n\r\n", Bad),
        (b"+5\r\nhello\r\n0\r\n\r\n", Bad),
        (b"0x5\r\nhello\r\n0\r\n\r\n", Bad),
        (b" 5\r\nhello\r\n0\r\n\r\n", Bad),
        (b"5 5\r\nhello\r\n0\r\n\r\n", Bad),
        (b"5,5\r\nhello\r\n0\r\n\r\n", Bad),
        (b"5\0\r\nhello\r\n0\r\n\r\n", Bad),
        (b";a\r\nhello\r\n0\r\n\r\n", Bad),
        (b"0000000000000005\r\nhello\r\n0\r\n\r\n", Bad),
        (b"10000000000000005\r\nhello\r\n0\r\n\r\n", Bad), // 5, 64 bits wide
        (b"5\nhello\r\n0\r\n\r\n", Bad),
        (b"5\rhello\r\n0\r\n\r\n", Bad),
        (b"5\r\nhello\n0\r\n\r\n", Bad),
        (b"5\r\nhello\r\n0\n\r\n", Bad),
        (b"5\r\nhello\r\n0\r\n\n", Bad),
        (b"5;a\nb\r\nhello\r\n0\r\n\r\n", Bad),
        (b"5;a\rb\r\nhello\r\n0\r\n\r\n", Bad),
        (b"5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n", Bad),
        (b"5\r\nhello0\r\n\r\n", Bad),
        (b"4\r\nhello\r\n0\r\n\r\n", Bad),
        (b"6\r\nhello\r\n0\r\n\r\n", Bad),
        (b"5\r\nhello\r\n\r\n0\r\n\r\n", Bad),
        (b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", Bad),
        (b"5\r\nhello\r\n0\r\n X: y\r\n\r\n", Bad),
        (b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n", Bad),
        (b"5\r\nhello\r\n0\r\nX: y\n\r\n", Bad),
        (b"5\r\nhello\r\n0\r\nHTTP/1.1 200 OK\r\n\r\n", Bad),
    ],
};

/// Status-lines.
#[rustfmt::skip]
const LINES: Section = Section {
    method: "GET",
    before: b"",
    after: b"\r\nContent-Length: 5\r\n\r\nhello",
    closes: false,
    cases: &[
        (b"HTTP/1.1 200", HELLO),
        (b"HTTP/1.1 200 ", HELLO),
        (b"HTTP/1.1 200 \t\xc3\xa9 HTTP/1.1 100", HELLO),
        (b"HTTP/1.1 999 Odd", Passes(999, b"hello", Stays)),
        (b"HTTP/1.0 200 OK", LAST),
        (b"HTTP/1.1 20", Bad),
        (b"HTTP/1.1 2000", Bad),
        (b"HTTP/1.1 099", Bad),
        (b"HTTP/1.1 +20", Bad),
        (b"HTTP/1.1 2 0", Bad),
        (b"HTTP/1.1 200OK", Bad),
        (b"HTTP/1.1  200", Bad),
        (b"HTTP/1.1\t200", Bad),
        (b"HTTP/1.1", Bad),
        (b"HTTP/1.2 200", Bad),
        (b"HTTP/0.9 200", Bad),
        (b"HTTP/2 200", Bad),
        (b"http/1.1 200", Bad),
        (b"ICY 200 OK", Bad),
        (b" HTTP/1.1 200", Bad),
        (b"\r\nHTTP/1.1 200", Bad),
        (b"\nHTTP/1.1 200", Bad),
        (b"\0HTTP/1.1 200", Bad),
        (b"HTTP/1.1 200 O\rK", Bad),
        (b"HTTP/1.1 200 O\0K", Bad),
        (b"HTTP/1.1 200 OK\nX: y", Bad),
        (b"HTTP/1.1 200 OK\r\n X: y", Bad),
        (b"GET / HTTP/1.1", Bad),
    ],
};

/// Fields that have nothing to do with framing.
#[rustfmt::skip]
const FIELDS: Section = Section {
    method: "GET",
    before: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
    after: b"\r\n\r\nhello",
    closes: false,
    cases: &[
        (b"X:\r\nY: \t\r\nx: \xc3\xa9\xff", HELLO),
        (b"Connection: keep-alive, X\r\nX: y", HELLO),
        (b"X : y", Bad),
        (b" X: y", Bad),
        (b"X: y\r\n z", Bad),
        (b"X: y\r\n \r\nZ: a", Bad),
        (b"X: y\nZ: a", Bad),
        (b"X: y\rZ: a", Bad),
        (b"X: y\r\rZ: a", Bad),
        (b"X: y\r", Bad),
        (b"X: \0", Bad),
        (b"X: \x01", Bad),
        (b"X: \x7f", Bad),
        (b"X Y: z", Bad),
        (b"X\0: z", Bad),
        (b"X\xc3\xa9: z", Bad),
        (b": z", Bad),
        (b"X", Bad),
        (b"HTTP/1.1 200 OK", Bad),
    ],
};

/// Whole messages.
#[rustfmt::skip]
const MESSAGES: Section = Section {
    method: "GET",
    before: b"",
    after: b"",
    closes: false,
    cases: &[
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Passes(204, b"", Stays)),
        (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", Passes(204, b"", Stays)),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Passes(304, b"", Stays)),
        (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", Passes(205, b"", Stays)),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", Bad),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", HELLO),
        (b"HTTP/1.1 102\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", HELLO),
        (b"HTTP/1.1 103 x\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", HELLO),
        (b"HTTP/1.1 199 x\r\nConnection: close\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", HELLO),
        (b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Bad),
        (b"HTTP/1.1 103 x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Bad),
        (b"HTTP/1.1 100 Continue\r\nContent-Length: 5, 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Bad),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", Bad),
        (b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", Bad),
        (b"HTTP/1.1 101 x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Bad),
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Bad),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello", Bad),
        (b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64\0\x04\0\x10\0\0\0\x06\0\0\x40\0", Bad), // HTTP/2
        (b"\x15\x03\x01\0\x02\x02\x46", Bad), // a TLS alert
        (b"220 mail.example ESMTP\r\n", Bad),
    ],
};

/// Responses to HEAD.
#[rustfmt::skip]
const TO_HEAD: Section = Section {
    method: "HEAD",
    before: b"HTTP/1.1 200 OK\r\n",
    after: b"\r\n\r\n",
    closes: false,
    cases: &[
        (b"Content-Length: 5", EMPTY),
        (b"Content-Length: 99999999", EMPTY),
        (b"Transfer-Encoding: chunked", EMPTY),
        (b"X: y", EMPTY),
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", Bad),
        (b"Content-Length: 5, 5", Bad),
        (b"Transfer-Encoding: gzip, chunked", Bad),
    ],
};

/// Responses behind which the upstream closes.
#[rustfmt::skip]
const CLOSED: Section = Section {
    method: "GET",
    before: b"",
    after: b"",
    closes: true,
    cases: &[
        (b"HTTP/1.1 200 OK\r\n\r\nhello", LAST),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nhello", LAST),
        (b"HTTP/1.1 200 OK\r\nContent_Length: 3\r\nX-Transfer-Encoding: chunked\r\n\r\nhello", LAST),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Passes(200, b"HTTP/1.1 200 OK\r\n\r\n", Ends)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", Bad),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\nhello", Bad),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello", Bad),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Bad),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", Bad),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n", Bad),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\nhello", Bad),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", Bad),
        (b"HTTP/1.1 103 x\r\n\r\n", Bad),
    ],
};

/// More interim responses than anybody needs.
fn floods() -> impl Iterator<Item = Case> {
    [(32, HELLO), (33, Bad), (5000, Bad)]
        .into_iter()
        .map(|(count, verdict)| {
            let interim = "HTTP/1.1 103 x\r\n\r\n".repeat(count);
            let bytes = interim + "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
            Case {
                method: "GET",
                own: 0..bytes.len(),
                bytes: bytes.into_bytes(),
                closes: false,
                verdict,
            }
        })
}
