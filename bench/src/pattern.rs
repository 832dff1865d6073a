//! The bytes of every body, on both sides: what arrives is compared with what must have been sent.
//!
//! Byte `i` of a body is byte `i mod PERIOD` of one block. The period shares no factor with the sizes
//! of buffers, pages and pipes, so a piece that is lost, doubled or out of place does not fit.

/// Length of the repeated block: a prime.
pub const PERIOD: usize = 65_521;

/// The block, twice over, so that any `PERIOD` bytes from any start lie in one piece.
pub struct Pattern(Vec<u8>);

impl Default for Pattern {
    fn default() -> Self {
        // A small linear congruential generator: text-like bytes without structure.
        let mut state = 0x2545_f491_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b' ' + (state >> 24) as u8 % 95
        };
        let block: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
        Self([&block[..], &block[..]].concat())
    }
}

impl Pattern {
    /// The bytes of a body from `offset` on, at most `PERIOD` of them.
    pub fn at(&self, offset: u64, length: usize) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        &self.0[start..start + length.min(PERIOD)]
    }

    /// Whether `bytes` are those of a body from `offset` on.
    pub fn fits(&self, mut offset: u64, bytes: &[u8]) -> bool {
        bytes.chunks(PERIOD).all(|piece| {
            let fits = self.at(offset, piece.len()) == piece;
            offset += piece.len() as u64;
            fits
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_fits_in_place_only() {
        let pattern = Pattern::default();
        let mut body = Vec::new();
        while body.len() < 3 * PERIOD {
            let at = body.len() as u64;
            body.extend_from_slice(pattern.at(at, 10_007));
        }
        assert!(pattern.fits(0, &body));
        assert!(pattern.fits(70_000, &body[70_000..]));
        assert!(!pattern.fits(70_001, &body[70_000..]));
        body.remove(80_000);
        assert!(!pattern.fits(0, &body));
    }
}
