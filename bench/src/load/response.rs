//! What a response must look like on the wire, to the byte: the load generator's own framing.
//!
//! It is stricter than RFC 9112 asks of a recipient. The origin sends no trailers and no chunk
//! extensions, so a proxy that delivers any has made them up.
use std::io;
use std::mem::MaybeUninit;

use httparse::{ParserConfig, Status};

use super::Fault;

/// A head of more bytes is a fault; the buffers of the load generator hold as much.
pub(super) const HEAD_BYTES_MAX: usize = 16 << 10;
const FIELDS_MAX: usize = 64;
/// A larger chunk than 2^60 bytes is a fault.
const CHUNK_DIGITS_MAX: u8 = 15;

/// A response, as far as it has come.
pub(crate) struct Response {
    state: State,
    told: Option<Told>,
    /// The peer lets the connection be used again.
    persists: bool,
}

/// What a head says, where that is wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// 0 before there is a final head.
    pub(crate) status: u16,
    /// How often the proxy has sent the request.
    pub(crate) attempts: Option<usize>,
    /// Why the proxy refuses it.
    pub(crate) refusal: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// Bytes to come, not nothing.
    Length(u64),
    Chunked(Chunk),
    UntilClose,
    Complete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Size {
        bytes: u64,
        digits: u8,
    },
    SizeEnd {
        bytes: u64,
    },
    /// Bytes to come, not nothing.
    Data(u64),
    DataEnd,
    DataEndLf,
    LastEnd,
    LastEndLf,
}

const CHUNK_START: Chunk = Chunk::Size {
    bytes: 0,
    digits: 0,
};

impl Default for Response {
    fn default() -> Self {
        Self {
            state: State::Head,
            told: None,
            persists: true,
        }
    }
}

impl Response {
    /// A response that may have any final status and says what its head says.
    pub(crate) fn of_any_status() -> Self {
        let told = Some(Told::default());
        Self {
            told,
            ..Self::default()
        }
    }

    pub(crate) fn told(&self) -> Told {
        self.told.clone().unwrap_or_default()
    }

    /// Takes what arrived and gives the content in it to `content`, piece by piece. Returns how many
    /// bytes were taken: all, but for a head that is not complete yet and is to be given again.
    pub(crate) fn take(
        &mut self,
        bytes: &[u8],
        content: &mut impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<usize, Fault> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let taken = match self.state {
                State::Head => match self.head(rest)? {
                    0 => return Ok(at),
                    taken => taken,
                },
                State::Length(left) => {
                    let piece = &rest[..shorter(rest, left)];
                    content(piece)?;
                    self.state = match left - piece.len() as u64 {
                        0 => State::Complete,
                        left => State::Length(left),
                    };
                    piece.len()
                }
                State::Chunked(Chunk::Data(left)) => {
                    let piece = &rest[..shorter(rest, left)];
                    content(piece)?;
                    self.state = State::Chunked(match left - piece.len() as u64 {
                        0 => Chunk::DataEnd,
                        left => Chunk::Data(left),
                    });
                    piece.len()
                }
                State::Chunked(chunk) => {
                    self.state = frame(chunk, rest)?;
                    1
                }
                State::UntilClose => {
                    content(rest)?;
                    rest.len()
                }
                State::Complete => return Err(surplus(rest)),
            };
            at += taken;
        }
        Ok(at)
    }

    /// The peer has closed its side.
    pub(crate) fn end(&mut self, head_begun: bool) -> Result<(), Fault> {
        self.persists = false;
        match self.state {
            State::Complete | State::UntilClose => {
                self.state = State::Complete;
                Ok(())
            }
            State::Head if head_begun => Err(Fault::Error("closed within the head".to_owned())),
            State::Head => Err(Fault::Error("closed before a response".to_owned())),
            state => Err(Fault::Wrong(format!(
                "closed within the content: {state:?}"
            ))),
        }
    }

    /// The connection broke: a fault of its own before the content, a truncation after.
    pub(crate) fn broken(&self, error: &io::Error) -> Fault {
        match self.state {
            State::Head => Fault::Error(format!("read: {error}")),
            state => Fault::Wrong(format!("broken within the content: {error}: {state:?}")),
        }
    }

    pub(crate) fn has_head(&self) -> bool {
        self.state != State::Head
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    pub(crate) fn persists(&self) -> bool {
        self.persists
    }

    /// The length of the head at the front of `bytes`, 0 where it is not complete. An interim
    /// response is passed over.
    fn head(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut []);
        let parsed = ParserConfig::default().parse_response_with_uninit_headers(
            &mut head,
            bytes,
            &mut fields,
        );
        let head_bytes = match parsed {
            Ok(Status::Complete(head_bytes)) => head_bytes,
            Ok(Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(0),
            Ok(Status::Partial) => return Err(Fault::Error("endless head".to_owned())),
            Err(error) => {
                let found = quoted(bytes);
                return Err(Fault::Wrong(format!("no response: {error}: {found}")));
            }
        };
        match head.code {
            Some(100 | 102..=199) => return Ok(head_bytes),
            Some(status @ 200..) if self.told.is_some() => {
                let of = |name: &str| {
                    let mut fields = head.headers.iter();
                    let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
                    std::str::from_utf8(field.value).ok()
                };
                self.told = Some(Told {
                    status,
                    attempts: of("x-codex-reset-proxy-attempts").and_then(|n| n.parse().ok()),
                    refusal: of("x-codex-reset-proxy-error").map(str::to_owned),
                });
            }
            Some(200) => {}
            status => {
                let reason = head.reason.unwrap_or_default();
                return Err(Fault::Error(format!(
                    "status {} {reason}",
                    status.unwrap_or_default()
                )));
            }
        }
        self.persists = head.version == Some(1);
        let (mut length, mut chunked) = (None, false);
        for field in head.headers.iter() {
            if field.name.eq_ignore_ascii_case("content-length") {
                let value = std::str::from_utf8(field.value).ok();
                let value = value.and_then(|digits| digits.parse().ok());
                if value.is_none() || length.is_some() {
                    return Err(Fault::Wrong("bad or second Content-Length".to_owned()));
                }
                length = value;
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                if chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Wrong("bad or second Transfer-Encoding".to_owned()));
                }
                chunked = true;
            } else if field.name.eq_ignore_ascii_case("connection") {
                for option in field.value.split(|&byte| byte == b',') {
                    let option = option.trim_ascii();
                    self.persists &= !option.eq_ignore_ascii_case(b"close");
                    self.persists |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
        }
        self.state = match (length, chunked) {
            (Some(_), true) => return Err(Fault::Wrong("two kinds of framing".to_owned())),
            (None, true) => State::Chunked(CHUNK_START),
            (Some(0), false) => State::Complete,
            (Some(length), false) => State::Length(length),
            (None, false) => State::UntilClose,
        };
        Ok(head_bytes)
    }
}

fn shorter(bytes: &[u8], left: u64) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

/// The state after one byte of chunk framing, the first of `bytes`.
fn frame(chunk: Chunk, bytes: &[u8]) -> Result<State, Fault> {
    let next = match (chunk, bytes[0]) {
        (Chunk::Size { bytes, digits }, digit)
            if digit.is_ascii_hexdigit() && digits < CHUNK_DIGITS_MAX =>
        {
            let value = (digit as char).to_digit(16).unwrap_or_default();
            Chunk::Size {
                bytes: bytes << 4 | u64::from(value),
                digits: digits + 1,
            }
        }
        (Chunk::Size { bytes, digits: 1.. }, b'\r') => Chunk::SizeEnd { bytes },
        (Chunk::SizeEnd { bytes: 0 }, b'\n') => Chunk::LastEnd,
        (Chunk::SizeEnd { bytes }, b'\n') => Chunk::Data(bytes),
        (Chunk::DataEnd, b'\r') => Chunk::DataEndLf,
        (Chunk::DataEndLf, b'\n') => CHUNK_START,
        (Chunk::LastEnd, b'\r') => Chunk::LastEndLf,
        (Chunk::LastEndLf, b'\n') => return Ok(State::Complete),
        (chunk, _) => {
            let found = quoted(bytes);
            return Err(Fault::Wrong(format!("bad chunk: {chunk:?}, then {found}")));
        }
    };
    Ok(State::Chunked(next))
}

fn surplus(bytes: &[u8]) -> Fault {
    Fault::Wrong(if bytes.starts_with(b"HTTP/1.") {
        "a second response".to_owned()
    } else {
        format!("surplus bytes after a response: {}", quoted(bytes))
    })
}

/// The beginning of `bytes`, for a sample in words.
fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes[..bytes.len().min(40)].escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of `wire` when it arrives in two parts and the peer closes then.
    fn received(wire: &[u8], split: usize) -> Result<(Vec<u8>, bool), Fault> {
        let mut response = Response::default();
        let mut content = Vec::new();
        let mut held = Vec::new();
        for part in [&wire[..split], &wire[split..]] {
            held.extend_from_slice(part);
            let taken = response.take(&held, &mut |piece| {
                content.extend_from_slice(piece);
                Ok(())
            })?;
            held.drain(..taken);
        }
        let persists = response.is_complete() && response.persists();
        response.end(!held.is_empty())?;
        Ok((content, persists))
    }

    fn at_every_split(wire: &str, check: impl Fn(Result<(Vec<u8>, bool), Fault>)) {
        for split in 0..=wire.len() {
            check(received(wire.as_bytes(), split));
        }
    }

    #[test]
    fn right_responses_yield_their_content() {
        for (wire, persists) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true),
            ("HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", false),
            (
                "HTTP/1.1 200 \r\nConnection: x, close\r\nContent-Length: 5\r\n\r\nhello",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n03\r\nllo\r\n0\r\n\r\n",
                true,
            ),
            (
                "HTTP/1.1 103 Hint\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                true,
            ),
            ("HTTP/1.1 200 OK\r\n\r\nhello", false),
        ] {
            at_every_split(wire, |outcome| {
                assert_eq!(
                    outcome.expect(wire),
                    (b"hello".to_vec(), persists),
                    "{wire}"
                );
            });
        }
    }

    #[test]
    fn surplus_truncated_and_badly_framed_bytes_are_wrong() {
        for wire in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhel\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\r\n",
            "hello",
        ] {
            at_every_split(wire, |outcome| {
                assert!(
                    matches!(outcome, Err(Fault::Wrong(_))),
                    "{wire}: {outcome:?}"
                );
            });
        }
    }

    #[test]
    fn no_proper_200_is_an_error() {
        for wire in [
            "",
            "HTTP/1.1 200 OK\r\nA",
            "HTTP/1.1 502 Bad Gateway\r\n\r\n",
        ] {
            at_every_split(wire, |outcome| {
                assert!(
                    matches!(outcome, Err(Fault::Error(_))),
                    "{wire}: {outcome:?}"
                );
            });
        }
        let endless = ["HTTP/1.1 200 OK\r\nA: ", &"b".repeat(HEAD_BYTES_MAX)].concat();
        let outcome = received(endless.as_bytes(), 20);
        assert!(matches!(outcome, Err(Fault::Error(_))), "{outcome:?}");
    }
}
