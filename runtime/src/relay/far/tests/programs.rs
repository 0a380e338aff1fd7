//! The programs of ranks that pass messages as NCCL allows: who sends and receives in one call does both at the same time, and
//! others may do it one behind the other.
use super::End::{From, To};
use super::{Program, SLICE_BYTES};

/// More than all places of a message's channels take.
const LONG: usize = 40 * SLICE_BYTES + 777;
const LENS: [usize; 7] = [LONG, 3 * SLICE_BYTES, 60_000, 4097, 4096, 300, 8];

pub(super) fn one_call_meets_two(check: &dyn Fn(&[Program])) {
    let both = |there, back| vec![vec![To(1, there), From(1, back)]];
    let receives_first = |there, back| vec![vec![From(0, there)], vec![To(0, back)]];
    let sends_first = |there, back| vec![vec![To(0, back)], vec![From(0, there)]];
    for (there, back) in
        [LONG, 60_000, 300].into_iter().flat_map(|there| [LONG, 4097, 8].map(|back| (there, back)))
    {
        check(&[both(there, back), receives_first(there, back)]);
        check(&[both(there, back), sends_first(there, back)]);
    }
}

/// Several messages of the pair, cut into calls one way here and another there.
pub(super) fn several_messages_of_a_pair(check: &dyn Fn(&[Program])) {
    for lens in [[LONG, 50_001, LONG], [60_000, 777, LONG], [9, 4097, 8], [1, 4096, 200]] {
        let [a, b, c] = lens;
        let one_by_one =
            |peer| vec![vec![From(peer, a)], vec![To(peer, b)], vec![To(peer, a)], vec![From(peer, b)]];
        let together = |peer| vec![vec![To(peer, a), From(peer, b), To(peer, b), From(peer, a)]];
        check(&[together(1), one_by_one(0)]);
        let here = vec![
            vec![To(1, a), From(1, a)],
            vec![To(1, b), To(1, c)],
            vec![From(1, b), From(1, c), To(1, a)],
            vec![From(1, a)],
        ];
        let there = vec![
            vec![From(0, a)],
            vec![To(0, a), From(0, b), To(0, b), From(0, c)],
            vec![To(0, c), From(0, a)],
            vec![To(0, a)],
        ];
        check(&[here, there]);
    }
}

/// Rank 0 has one of rank 1's messages early, and while it waits for rank 2 gets to see the next.
pub(super) fn what_came_early_goes_first(check: &dyn Fn(&[Program])) {
    for len in [777, 8, 100_000] {
        check(&[
            vec![vec![To(1, 60_000)], vec![From(2, 8)], vec![From(1, len)], vec![From(1, len)]],
            vec![vec![From(0, 60_000), To(0, len)], vec![To(0, len)], vec![To(2, 8)]],
            vec![vec![From(1, 8)], vec![To(0, 8)]],
        ]);
    }
}

/// Rank 0 receives of two at the same time, or sends to two, of which the one waits for the other's call that comes behind its own
/// with rank 0.
pub(super) fn nobody_waits_in_a_circle(check: &dyn Fn(&[Program])) {
    for len in [LONG, 60_000, 777] {
        check(&[
            vec![vec![From(1, len), From(2, len)]],
            vec![vec![To(0, len)], vec![To(2, len)]],
            vec![vec![From(1, len)], vec![To(0, len)]],
        ]);
        check(&[
            vec![vec![To(1, len), To(2, len)]],
            vec![vec![From(2, len)], vec![From(0, len)]],
            vec![vec![From(0, len)], vec![To(1, len)]],
        ]);
        // What goes round comes back to who began it.
        check(&[
            vec![vec![To(1, len), From(2, len)]],
            vec![vec![From(0, len)], vec![To(2, len)]],
            vec![vec![From(1, len)], vec![To(0, len)]],
        ]);
    }
}

/// Messages have an order; every rank makes its calls in it, cut as it likes.
pub(super) fn whatever_is_in_one_order(check: &dyn Fn(&[Program]), seeds: u64) {
    let ranks = 4;
    for seed in 0..seeds {
        let mut drawn = Drawn(seed);
        let mut programs = vec![Program::new(); ranks];
        for _ in 0..40 {
            let from = drawn.below(ranks);
            let to = (from + 1 + drawn.below(ranks - 1)) % ranks;
            let len = LENS[drawn.below(LENS.len())];
            for (rank, end) in [(from, To(to, len)), (to, From(from, len))] {
                let program = &mut programs[rank];
                match program.last_mut() {
                    Some(call) if drawn.below(3) > 0 && call.len() < 8 => call.push(end),
                    _ => program.push(vec![end]),
                }
            }
        }
        check(&programs);
    }
}

/// Who only sends is far ahead of its lanes, and its kernels of those who receive.
pub(super) fn many_calls_one_behind_the_other(check: &dyn Fn(&[Program])) {
    let lens = || (0..60).map(|at| LENS[1..][at % 6]);
    check(&[lens().map(|len| vec![To(1, len)]).collect(), lens().map(|len| vec![From(0, len)]).collect()]);
}

pub(super) fn all(check: &dyn Fn(&[Program]), seeds: u64) {
    one_call_meets_two(check);
    several_messages_of_a_pair(check);
    what_came_early_goes_first(check);
    nobody_waits_in_a_circle(check);
    many_calls_one_behind_the_other(check);
    whatever_is_in_one_order(check, seeds);
}

/// Numbers that follow from a seed.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}
