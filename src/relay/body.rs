//! Where in a response body we are, and which of its bytes go on.
use crate::http1::chunked::{Decoder, Run};
use crate::http1::fields::write_trailers;
use crate::http1::framing::Framing;
use crate::http1::head::{RESPONSE_FIELDS_MAX, Scan, with_fields};
use crate::net::buffer::Buffer;

/// From this many bytes on splice(2) costs less than reading and writing.
const SPLICE_BYTES_MIN: u64 = 128 << 10;
/// Largest trailer section.
const TRAILER_BYTES_MAX: usize = 64 << 10;

const MALFORMED_CHUNK: &str = "the chunked body is malformed";
const MALFORMED_TRAILERS: &str = "the trailer section is malformed";

/// A body between its head and its end.
pub struct Body {
    state: State,
    unchunk: bool,
}

enum State {
    Length(u64),
    UntilClose { seen: u64 },
    Chunked(Decoder),
    Trailers { section: Vec<u8>, scan: Scan },
    Ended,
}

/// What some bytes meant.
pub struct Followed {
    /// The message is complete.
    pub ended: bool,
    /// There were bytes beyond its end.
    pub excess: bool,
}

impl Body {
    /// The body behind a head; `unchunk` where only the data of its chunks goes on.
    pub fn new(framing: Framing, unchunk: bool) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Ended,
            Framing::Length(bytes) => State::Length(bytes),
            Framing::Chunked => State::Chunked(Decoder::default()),
            Framing::UntilClose => State::UntilClose { seen: 0 },
        };
        Self {
            state,
            unchunk: unchunk && framing == Framing::Chunked,
        }
    }

    /// Whether the client knows the end of the body by the end of the connection.
    pub fn is_close_delimited(&self) -> bool {
        self.unchunk || matches!(self.state, State::UntilClose { .. })
    }

    /// Takes the bytes received in `buffer` and leaves in it those that go to the client.
    pub fn follow(&mut self, buffer: &mut Buffer) -> Result<Followed, &'static str> {
        let mut excess = false;
        match &mut self.state {
            State::Ended => {
                excess = !buffer.is_empty();
                buffer.clear();
            }
            State::Length(left) => {
                let taken = (*left).min(buffer.len() as u64);
                excess = (buffer.len() as u64) > taken;
                buffer.truncate(taken as usize);
                self.passed(taken);
            }
            State::UntilClose { seen } => *seen += buffer.len() as u64,
            State::Chunked(_) => excess = self.follow_chunks(buffer)?,
            State::Trailers { .. } => {
                let more = buffer.to_vec();
                buffer.clear();
                excess = self.follow_trailers(&more, buffer)?;
            }
        }
        let ended = matches!(self.state, State::Ended);
        Ok(Followed { ended, excess })
    }

    fn follow_chunks(&mut self, buffer: &mut Buffer) -> Result<bool, &'static str> {
        let State::Chunked(decoder) = &mut self.state else {
            return Ok(false);
        };
        let mut data = if self.unchunk {
            Buffer::for_bytes(buffer.len())
        } else {
            Buffer::empty()
        };
        let mut at = 0;
        let mut last = false;
        while at < buffer.len() && !last {
            let (length, run) = decoder.next(&buffer[at..]).map_err(|_| MALFORMED_CHUNK)?;
            if self.unchunk && run == Run::Data {
                data.as_vec().extend_from_slice(&buffer[at..at + length]);
            }
            at += length;
            last = run == Run::LastChunk;
        }
        let behind = if last {
            buffer[at..].to_vec()
        } else {
            Vec::new()
        };
        match self.unchunk {
            true => *buffer = data,
            false => buffer.truncate(at),
        }
        if !last {
            return Ok(false);
        }
        self.state = State::Trailers {
            section: Vec::new(),
            scan: Scan::default(),
        };
        self.follow_trailers(&behind, buffer)
    }

    /// Trailers are held back until they are whole: ours must not be forged there either.
    fn follow_trailers(&mut self, more: &[u8], out: &mut Buffer) -> Result<bool, &'static str> {
        let State::Trailers { section, scan } = &mut self.state else {
            return Ok(false);
        };
        section.extend_from_slice(more);
        let end = scan.head_length(section).map_err(|_| MALFORMED_TRAILERS)?;
        if end.unwrap_or(section.len()) > TRAILER_BYTES_MAX {
            return Err(MALFORMED_TRAILERS);
        }
        let Some(length) = end else {
            return Ok(false);
        };
        if !self.unchunk {
            let write = |fields: &[httparse::Header<'_>]| write_trailers(out.as_vec(), fields);
            let written = with_fields::<_, RESPONSE_FIELDS_MAX>(&section[..length], write);
            written.map_err(|_| MALFORMED_TRAILERS)?;
        }
        let excess = section.len() > length;
        self.state = State::Ended;
        Ok(excess)
    }

    /// How many of the bytes to come may go to the client unseen, where that pays: 0 otherwise.
    /// `bulk`: they come faster than they are read.
    pub fn unseen(&self, bulk: bool) -> u64 {
        let bytes = match &self.state {
            State::Length(left) => *left,
            State::Chunked(decoder) if !self.unchunk => decoder.data_left(),
            State::UntilClose { seen } if bulk && *seen >= SPLICE_BYTES_MIN => u64::MAX,
            _ => 0,
        };
        if bytes < SPLICE_BYTES_MIN { 0 } else { bytes }
    }

    /// Passes over `bytes` that went to the client unseen; whether the body has ended with them.
    pub fn passed(&mut self, bytes: u64) -> bool {
        match &mut self.state {
            State::Length(left) => {
                *left = left.saturating_sub(bytes);
                if *left == 0 {
                    self.state = State::Ended;
                }
            }
            State::Chunked(decoder) => decoder.skip_data(bytes),
            State::UntilClose { seen } => *seen = seen.saturating_add(bytes),
            State::Trailers { .. } | State::Ended => (),
        }
        matches!(self.state, State::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes to the client of `wire` received in pieces, whether it ended, and whether there was
    /// more.
    fn follow(
        framing: Framing,
        unchunk: bool,
        pieces: &[&[u8]],
    ) -> Result<(Vec<u8>, bool, bool), &'static str> {
        let mut body = Body::new(framing, unchunk);
        let (mut sent, mut ended, mut excess) = (Vec::new(), false, false);
        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
            let mut buffer = Buffer::small();
            buffer.as_vec().extend_from_slice(piece);
            let followed = body.follow(&mut buffer)?;
            sent.extend_from_slice(&buffer);
            ended |= followed.ended;
            excess |= followed.excess;
        }
        Ok((sent, ended, excess))
    }

    const CHUNKED: &[u8] = b"5\r\nhello\r\n6;x\r\n world\r\n0\r\n";

    #[test]
    fn every_split_of_a_body_gives_the_same_bytes_and_the_same_end() {
        let plain = [CHUNKED, b"\r\n"].concat();
        let trailers = b"X-T: 1\r\nx-codex-reset-proxy-attempts: 9\r\nContent-Length: 3\r\n\r\n";
        let with_trailers = [CHUNKED, trailers].concat();
        let filtered = [CHUNKED, b"X-T: 1\r\n\r\n"].concat();
        for (framing, unchunk, wire, expected) in [
            (
                Framing::Length(11),
                false,
                &b"hello world"[..],
                &b"hello world"[..],
            ),
            (Framing::Chunked, false, &plain, &plain),
            (Framing::Chunked, false, &with_trailers, &filtered),
            (Framing::Chunked, true, &with_trailers, b"hello world"),
        ] {
            for split in 0..=wire.len() {
                let pieces = [&wire[..split], &wire[split..]];
                let followed = follow(framing, unchunk, &pieces);
                assert_eq!(
                    followed,
                    Ok((expected.to_vec(), true, false)),
                    "{framing:?} {split}"
                );
            }
            let (_, ended, _) =
                follow(framing, unchunk, &[&wire[..wire.len() - 1]]).expect("a prefix is fine");
            assert!(!ended, "no end before the last byte: {framing:?}");
            let more = [wire, b"H"].concat();
            for pieces in [vec![&more[..]], vec![wire, b"H"]] {
                let followed = follow(framing, unchunk, &pieces);
                assert_eq!(followed, Ok((expected.to_vec(), true, true)), "{framing:?}");
            }
        }
    }

    #[test]
    fn a_body_that_is_none_takes_no_byte() {
        for framing in [Framing::None, Framing::Length(0)] {
            assert_eq!(
                follow(framing, false, &[b"x"]),
                Ok((Vec::new(), true, true))
            );
        }
    }

    #[test]
    fn malformed_trailers_are_no_end() {
        let wire = b"0\r\nno field\r\n\r\n";
        assert_eq!(
            follow(Framing::Chunked, false, &[wire]),
            Err(MALFORMED_TRAILERS)
        );
        let long = [b"0\r\nA: ", &vec![b'a'; TRAILER_BYTES_MAX][..]].concat();
        for end in ["", "\r\n\r\n"] {
            let long = [&long, end.as_bytes()].concat();
            let followed = follow(Framing::Chunked, false, &[&long]);
            assert_eq!(followed, Err(MALFORMED_TRAILERS), "{end:?}");
        }
    }

    #[test]
    fn large_runs_may_go_unseen() {
        let mut body = Body::new(Framing::Length(1 << 20), false);
        assert_eq!(body.unseen(false), 1 << 20);
        assert!(!body.passed((1 << 20) - 5));
        assert_eq!(body.unseen(true), 0);
        assert!(body.passed(5));
        let mut body = Body::new(Framing::UntilClose, false);
        assert_eq!(body.unseen(true), 0);
        body.passed(SPLICE_BYTES_MIN);
        assert_eq!((body.unseen(false), body.unseen(true)), (0, u64::MAX));
    }
}
