//! Cuts of an input, as a socket might deliver it.

/// Cuts `data` into pieces whose lengths follow from `seed`.
pub fn pieces(seed: u8, mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let longest = [1, 7, 64, 1448][usize::from(seed & 3)];
    let mut state = u32::from(seed) | 1;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let length = (1 + (state >> 16) as usize % longest).min(data.len());
        let (piece, rest) = data.split_at(length);
        data = rest;
        (!piece.is_empty()).then_some(piece)
    })
}
