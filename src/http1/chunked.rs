//! Follows a chunked body (RFC 9112 7.1) without touching it: says of each run of bytes whether it
//! is framing or data.

/// Most bytes of a chunk extension, its `;` included. Signed uploads use about 90.
const EXTENSION_BYTES_MAX: u16 = 1024;
/// Hex digits of a chunk size: below 2^60, so that no arithmetic on it overflows.
const SIZE_DIGITS_MAX: u8 = 15;

/// What a run of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Chunk sizes, extensions, line ends.
    Framing,
    /// Body bytes.
    Data,
    /// The last chunk's line has ended with this run: a trailer section follows, and with it the
    /// end of the message.
    LastChunk,
}

/// The bytes are not a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

#[derive(Clone, Copy, Debug)]
enum State {
    Size {
        value: u64,
        digits: u8,
    },
    /// White space before an extension or, tolerated, before the line's end.
    Space {
        size: u64,
        bytes: u16,
    },
    Extension {
        size: u64,
        bytes: u16,
    },
    SizeLf {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    Ended,
}

/// Where in a chunked body we are.
#[derive(Debug)]
pub struct Decoder(State);

impl Default for Decoder {
    fn default() -> Self {
        Self(State::Size {
            value: 0,
            digits: 0,
        })
    }
}

impl Decoder {
    /// Takes the longest run of one kind from the start of `input`, which must not be empty.
    /// Not to be called again after [`Run::LastChunk`].
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, Run), Malformed> {
        if let State::Data { left } = self.0 {
            let taken = left.min(input.len() as u64);
            self.0 = match left - taken {
                0 => State::DataCr,
                left => State::Data { left },
            };
            return Ok((taken as usize, Run::Data));
        }
        for (at, byte) in input.iter().enumerate() {
            self.0 = self.0.framing(*byte)?;
            match self.0 {
                State::Data { .. } => return Ok((at + 1, Run::Framing)),
                State::Ended => return Ok((at + 1, Run::LastChunk)),
                _ => (),
            }
        }
        Ok((input.len(), Run::Framing))
    }

    /// Data bytes left of the chunk we are in.
    pub fn data_left(&self) -> u64 {
        match self.0 {
            State::Data { left } => left,
            _ => 0,
        }
    }

    /// Passes over `bytes` data bytes that went another way, at most [`Self::data_left`].
    pub fn skip_data(&mut self, bytes: u64) {
        self.0 = match self.data_left().saturating_sub(bytes) {
            0 => State::DataCr,
            left => State::Data { left },
        };
    }
}

impl State {
    fn framing(self, byte: u8) -> Result<Self, Malformed> {
        Ok(match (self, byte) {
            (Self::Size { value, digits }, byte) if byte.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(Malformed);
                }
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                Self::Size {
                    value: value * 16 + digit,
                    digits: digits + 1,
                }
            }
            (Self::Size { digits: 0, .. }, _) => return Err(Malformed),
            (Self::Size { value, .. } | Self::Space { size: value, .. }, b'\r') => {
                Self::SizeLf { size: value }
            }
            (Self::Size { value, .. }, b' ' | b'\t') => Self::Space {
                size: value,
                bytes: 1,
            },
            (Self::Size { value, .. }, b';') => Self::Extension {
                size: value,
                bytes: 1,
            },
            (Self::Space { size, bytes }, b' ' | b'\t') if bytes < EXTENSION_BYTES_MAX => {
                Self::Space {
                    size,
                    bytes: bytes + 1,
                }
            }
            (Self::Space { size, bytes }, b';') => Self::Extension { size, bytes },
            (Self::Extension { size, .. }, b'\r') => Self::SizeLf { size },
            (Self::Extension { size, bytes }, b'\t' | b' '..=0x7e | 0x80..)
                if bytes < EXTENSION_BYTES_MAX =>
            {
                Self::Extension {
                    size,
                    bytes: bytes + 1,
                }
            }
            (Self::SizeLf { size: 0 }, b'\n') => Self::Ended,
            (Self::SizeLf { size }, b'\n') => Self::Data { left: size },
            (Self::DataCr, b'\r') => Self::DataLf,
            (Self::DataLf, b'\n') => Self::Size {
                value: 0,
                digits: 0,
            },
            _ => return Err(Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of a body fed in pieces, and how many bytes it took up to its last chunk's line.
    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<usize>), Malformed> {
        let (mut decoder, mut data, mut taken) = (Decoder::default(), Vec::new(), 0);
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (length, run) = decoder.next(rest)?;
                taken += length;
                match run {
                    Run::Data => data.extend_from_slice(&rest[..length]),
                    Run::Framing => (),
                    Run::LastChunk => return Ok((data, Some(taken))),
                }
                rest = &rest[length..];
            }
        }
        Ok((data, None))
    }

    const BODY: &[u8] = b"5\r\nhello\r\n6;a=\"b\" \r\n world\r\n1 \t\r\n!\r\n000\r\n";

    #[test]
    fn data_is_found_whatever_the_split() {
        for first in 0..BODY.len() {
            for second in first..BODY.len() {
                let pieces = [&BODY[..first], &BODY[first..second], &BODY[second..]];
                let decoded = decode(&pieces);
                assert_eq!(decoded, Ok((b"hello world!".to_vec(), Some(BODY.len()))));
            }
        }
        for end in 0..BODY.len() {
            let (_, last) = decode(&[&BODY[..end]]).expect("a prefix is not malformed");
            assert_eq!(last, None, "the body ends at its last chunk only: {end}");
        }
        let followed = [BODY, b"\r\nHTTP"].concat();
        assert_eq!(
            decode(&[&followed]).expect("well-formed").1,
            Some(BODY.len())
        );
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for body in [
            "\r\n",
            " 5\r\n",
            ";a\r\n",
            "g\r\n",
            "5\n",
            "5\r5",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "5\r\nhello\r5",
            "-5\r\n",
            "+5\r\n",
            "0x5\r\n",
            "1000000000000000\r\n",
            "5 5\r\n",
            "5;a\n",
            "5;\0\r\n",
            "5;\rx",
        ] {
            assert_eq!(decode(&[body.as_bytes()]), Err(Malformed), "{body:?}");
        }
        let long = format!("5;{}", "a".repeat(usize::from(EXTENSION_BYTES_MAX)));
        assert_eq!(decode(&[long.as_bytes()]), Err(Malformed));
        let spaces = format!("5{}", " ".repeat(usize::from(EXTENSION_BYTES_MAX) + 1));
        assert_eq!(decode(&[spaces.as_bytes()]), Err(Malformed));
    }

    #[test]
    fn data_that_went_another_way_is_passed_over() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.next(b"a\r\n01"), Ok((3, Run::Framing)));
        assert_eq!(decoder.next(b"01"), Ok((2, Run::Data)));
        assert_eq!(decoder.data_left(), 8);
        decoder.skip_data(7);
        assert_eq!(decoder.data_left(), 1);
        decoder.skip_data(1);
        assert_eq!(decoder.next(b"\r\n0\r\n"), Ok((5, Run::LastChunk)));
    }
}
