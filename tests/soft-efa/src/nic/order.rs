//! In which order the pieces of a transfer go out: at random within a window, so that neither the first byte nor the
//! last says anything about the others.

use crate::manners::Choices;

/// The pieces of a transfer that have not gone out yet.
#[derive(Debug)]
pub(super) struct PieceOrder {
    pieces: u32,
    next: u32,
    window: Vec<u32>,
    shuffled: bool,
}

impl PieceOrder {
    /// All pieces of a transfer; one that is empty is one piece too.
    pub(super) fn new(total_bytes: u32, piece_bytes: u32, shuffled: bool) -> PieceOrder {
        PieceOrder { pieces: total_bytes.div_ceil(piece_bytes).max(1), next: 0, window: Vec::new(), shuffled }
    }

    /// The next piece to go out.
    pub(super) fn take(&mut self, choices: &mut Choices) -> Option<u32> {
        if !self.shuffled {
            let piece = self.next;
            self.next += u32::from(piece < self.pieces);
            return (piece < self.pieces).then_some(piece);
        }
        if self.window.is_empty() {
            let end = self.pieces.min(self.next + WINDOW_PIECES);
            self.window.extend(self.next..end);
            self.next = end;
        }
        let place = choices.below(self.window.len() as u32)?;
        Some(self.window.swap_remove(place as usize))
    }

    /// How many are out.
    pub(super) fn taken(&self) -> u32 {
        self.next - self.window.len() as u32
    }

    /// Whether all are out.
    pub(super) fn is_done(&self) -> bool {
        self.next >= self.pieces && self.window.is_empty()
    }
}

/// About what a card has in flight for one transfer.
const WINDOW_PIECES: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(total_bytes: u32, shuffled: bool, seed: u64) -> Vec<u32> {
        let mut choices = Choices::new(seed);
        let mut order = PieceOrder::new(total_bytes, 10, shuffled);
        let pieces: Vec<u32> = std::iter::from_fn(|| order.take(&mut choices)).collect();
        assert!(order.is_done());
        pieces
    }

    #[test]
    fn every_piece_goes_out_once() {
        for total_bytes in [0, 1, 10, 11, 5000] {
            let mut pieces = drain(total_bytes, true, 7);
            pieces.sort_unstable();
            assert_eq!(pieces, (0..total_bytes.div_ceil(10).max(1)).collect::<Vec<_>>());
            assert_eq!(drain(total_bytes, false, 7), pieces);
        }
    }

    #[test]
    fn order_is_the_seeds() {
        assert_eq!(drain(600, true, 1), drain(600, true, 1));
        assert_ne!(drain(600, true, 1), drain(600, true, 2));
        assert_ne!(drain(600, true, 1), drain(600, false, 1));
    }

    #[test]
    fn last_piece_is_not_always_last() {
        let first_of_last = (0..50).filter(|seed| *drain(50, true, *seed).last().unwrap() != 4).count();
        assert!(first_of_last > 25, "{first_of_last} of 50");
    }
}
