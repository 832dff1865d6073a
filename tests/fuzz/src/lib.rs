//! What the targets hold the proxy against: RFC 9112 read once more, plainly, slowly and without a
//! line of the proxy's code.
pub mod chunked;
pub mod head;
pub mod target;

/// Cuts `bytes` into pieces, none of them empty: single bytes for seed 0, some other cut for each other
/// seed. Every piece has memory of its own, so that the sanitizer sees a read beyond its end.
pub fn pieces(seed: u8, bytes: &[u8]) -> Vec<Box<[u8]>> {
    let (mut pieces, mut rest, mut state) = (Vec::new(), bytes, u32::from(seed));
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = match seed {
            0 => 1,
            seed => 1 + (state >> 16) as usize % (4 * usize::from(seed)),
        };
        let (piece, after) = rest.split_at(length.min(rest.len()));
        pieces.push(piece.into());
        rest = after;
    }
    pieces
}
