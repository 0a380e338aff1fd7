//! Which rails are left out on the way to a peer, and which are taken instead.
//!
//! Pure. Both protocols give what belongs to a rail that is left out to the next one that is not.

/// A set of rails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rails(u32);

impl Rails {
    pub(super) fn has(self, rail: usize) -> bool {
        self.0 >> rail & 1 == 1
    }

    pub(super) fn with(self, rail: usize) -> Self {
        Rails(self.0 | 1 << rail)
    }

    /// How many of so many rails are not in it.
    pub(super) fn left(self, rails: usize) -> usize {
        rails - self.0.count_ones() as usize
    }

    /// This rail, or where it is left out the next of so many that is not; this one where all are.
    pub(super) fn way_round(self, rail: usize, rails: usize) -> usize {
        (0..rails).map(|step| (rail + step) % rails).find(|other| !self.has(*other)).unwrap_or(rail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_goes_over_the_next_rail_that_is_not() {
        let out = Rails::default().with(1).with(2);
        assert_eq!([0, 1, 2, 3].map(|rail| out.way_round(rail, 4)), [0, 3, 3, 3]);
        assert_eq!((out.left(4), out.has(2), out.has(3)), (2, true, false));
        assert_eq!(out.with(3).way_round(2, 4), 0);
        assert_eq!(out.with(0).way_round(1, 3), 1, "none is left");
        assert_eq!(out.with(2), out);
    }
}
