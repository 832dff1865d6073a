//! Requests that somebody might take for another one, or for two: what becomes of each. `bench/` reads
//! this file as well.
mod framing;
mod heads;

use std::ops::Range;

use framing::{BOTH, CHUNKS, CODINGS, LENGTHS};
use heads::{BELOW_A_PATH, FIELDS, HEADS, LINES, MESSAGES};

/// What has to become of a request.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// It is refused with this status: nothing of it goes up, and its connection ends.
    No(u16),
    /// It goes up as one request.
    Up {
        /// Without the base path.
        target: &'static [u8],
        body: &'static [u8],
        then: Then,
    },
}
use Verdict::No;

/// What has to become of what stands behind a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It is the next request.
    Goes,
    /// It is not looked at: the connection ends.
    Ends,
    /// It is no request, and refused with 400.
    Fails,
}

const fn up(body: &'static [u8]) -> Verdict {
    goes(b"/", body, Then::Goes)
}

const fn to(target: &'static [u8]) -> Verdict {
    goes(target, b"", Then::Goes)
}

const fn goes(target: &'static [u8], body: &'static [u8], then: Then) -> Verdict {
    Verdict::Up { target, body, then }
}

/// Without a body, whatever the client thinks.
const BODILESS: Verdict = goes(b"/", b"", Then::Fails);
const ENDS: Verdict = goes(b"/", b"", Then::Ends);

/// Cases that differ in one place only.
struct Section {
    before: &'static [u8],
    after: &'static [u8],
    cases: &'static [(&'static [u8], Verdict)],
}

/// The bytes of a request, and which of them make the case.
pub struct Case {
    pub bytes: Vec<u8>,
    pub own: Range<usize>,
    pub verdict: Verdict,
}

/// The cases for an upstream without a base path.
pub fn cases() -> Vec<Case> {
    let sections = [
        CODINGS, LENGTHS, BOTH, CHUNKS, LINES, FIELDS, HEADS, MESSAGES,
    ];
    let listed = sections.iter().flat_map(Section::cases);
    listed.chain(large()).collect()
}

/// The cases for an upstream with a base path.
pub fn cases_below_a_path() -> Vec<Case> {
    BELOW_A_PATH.cases().collect()
}

impl Section {
    fn cases(&self) -> impl Iterator<Item = Case> {
        self.cases
            .iter()
            .map(|(own, verdict)| case(self.before, own, self.after, *verdict))
    }
}

fn case(before: &[u8], own: &[u8], after: &[u8], verdict: Verdict) -> Case {
    Case {
        bytes: [before, own, after].concat(),
        own: before.len()..before.len() + own.len(),
        verdict,
    }
}

/// What is too long to be written down.
fn large() -> impl Iterator<Item = Case> {
    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n";
    let x = |count: usize| "x".repeat(count);
    let fields = |count: usize| "X: y\r\n".repeat(count);
    let cases = [
        (format!("{}: y\r\n\r\n", x(60_000)), up(b"")),
        (format!("{}: y\r\n\r\n", x(65_536)), No(431)),
        (format!("{}: y\r\n\r\n", x(65_537 + 14)), No(431)), // X-Forwarded-For, 16 bits wide
        (format!("X: {}\r\n\r\n", x(66_000)), No(431)),
        (format!("{}\r\n", fields(127)), up(b"")),
        (format!("{}\r\n", fields(128)), No(431)),
        (
            format!("{}Content-Length: 5\r\n\r\na b c", fields(127)),
            No(431),
        ),
        (format!("Connection: {}\r\n\r\n", "x,".repeat(32)), up(b"")),
        (format!("Connection: {}\r\n\r\n", "x,".repeat(33)), No(400)),
        (
            format!("Content-Length: {}5\r\n\r\na b c", "0".repeat(5000)),
            No(400),
        ),
        (
            format!("{CHUNKED}{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(5000)),
            No(400),
        ),
        (
            format!("{CHUNKED}5;{}\r\nhello\r\n0\r\n\r\n", x(1000)),
            up(b"hello"),
        ),
        (
            format!("{CHUNKED}5;{}\r\nhello\r\n0\r\n\r\n", x(5000)),
            No(400),
        ),
        (
            format!("{CHUNKED}5{}\r\nhello\r\n0\r\n\r\n", " ".repeat(5000)),
            No(400),
        ),
        (format!("{CHUNKED}0\r\n{}\r\n", fields(129)), No(400)),
        (format!("{CHUNKED}0\r\nX: {}\r\n\r\n", x(66_000)), No(431)),
    ];
    let start = b"POST / HTTP/1.1\r\nHost: h\r\n";
    let with_head = cases.map(|(own, verdict)| case(start, own.as_bytes(), b"", verdict));
    let line = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", x(33_000));
    let empty = "\r\n".repeat(1000) + "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let whole = [(line, No(414)), (empty, up(b""))]
        .map(|(own, verdict)| case(b"", own.as_bytes(), b"", verdict));
    with_head.into_iter().chain(whole)
}
