//! Bodies that betray a lost, doubled or displaced byte.
use std::sync::OnceLock;

/// A prime, so that no block size of a program under test divides it.
const PERIOD: usize = 1_000_003;

/// An endless body that repeats only after a prime number of bytes.
#[derive(Clone, Copy)]
pub struct Pattern(&'static [u8]);

pub fn pattern() -> Pattern {
    static TWO_PERIODS: OnceLock<Vec<u8>> = OnceLock::new();
    Pattern(TWO_PERIODS.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        bytes.extend_from_within(..);
        bytes
    }))
}

impl Pattern {
    /// The bytes from `offset` on, `length` of them or up to a period.
    pub fn at(self, offset: usize, length: usize) -> &'static [u8] {
        let start = offset % PERIOD;
        &self.0[start..start + length.min(PERIOD)]
    }

    /// The first `length` bytes.
    pub fn bytes(self, length: usize) -> Vec<u8> {
        self.bytes_from(0, length)
    }

    /// `length` bytes from `offset` on.
    pub fn bytes_from(self, offset: usize, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            bytes.extend_from_slice(self.at(offset + bytes.len(), length - bytes.len()));
        }
        bytes
    }

    /// Fails unless `piece` is what stands at `offset`.
    pub fn check(self, offset: usize, piece: &[u8]) {
        let mut done = 0;
        while done < piece.len() {
            let expected = self.at(offset + done, piece.len() - done);
            let same = piece[done..done + expected.len()] == *expected;
            assert!(same, "the body differs near byte {}", offset + done);
            done += expected.len();
        }
    }
}

/// `body` in chunks of `size` bytes, the last chunk and the end included.
pub fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut framed = Vec::with_capacity(body.len() + body.len() / size * 12 + 32);
    for piece in body.chunks(size) {
        framed.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        framed.extend_from_slice(piece);
        framed.extend_from_slice(b"\r\n");
    }
    framed.extend_from_slice(b"0\r\n\r\n");
    framed
}
