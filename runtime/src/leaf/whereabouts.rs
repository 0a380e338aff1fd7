//! Which rank has come how far, for the error of a rank that waits in vain.
//!
//! Every rank shows on its board which operation it came to last, however that is done. So this needs no answer of a rank
//! that is late: it may be in code of its own, stopped, or in an endless loop.

use super::Leaves;
use crate::coll::executor::signature::Signature;

impl Leaves {
    /// Says which rank has come how far, this one included.
    pub(crate) fn whereabouts(&self) -> String {
        let calls: Vec<_> = (0..self.board.ranks()).map(|rank| self.board.calling(rank)).collect();
        text(&calls)
    }
}

/// What a rank shows: one more than the number of its operation, and the signature. None while that changes.
type Calling = Option<(u64, u64)>;

/// Those who are behind first, and who are most last: they are "the others".
fn text(calls: &[Calling]) -> String {
    let mut groups: Vec<(Calling, Vec<usize>)> = Vec::new();
    for (rank, &call) in calls.iter().enumerate() {
        match groups.iter_mut().find(|(known, _)| *known == call) {
            Some((_, ranks)) => ranks.push(rank),
            None => groups.push((call, vec![rank])),
        }
    }
    groups.sort_by_key(|(call, ranks)| (ranks.len(), call.map(|(number, _)| number)));
    let most = groups.last().map_or(0, |(_, ranks)| ranks.len());
    let last = groups.len() - 1;
    let parts = groups.iter().enumerate().map(|(index, (call, ranks))| {
        let are_others = index == last && last > 0 && most > 1;
        let who = if are_others { "the others".to_owned() } else { names(ranks) };
        let has = if ranks.len() == 1 { "has" } else { "have" };
        match call {
            None => format!("{who} {has} just come to another operation"),
            Some((0, _)) => format!("{who} {has} come to no operation yet"),
            Some((number, signature)) => {
                format!("{who} {has} come to operation {}, {}", number - 1, Signature(*signature))
            }
        }
    });
    parts.collect::<Vec<_>>().join("; ")
}

/// `rank 5`, `ranks 0, 1 and 4`; of many the first few, and how many more.
fn names(ranks: &[usize]) -> String {
    let words = |ranks: &[usize]| ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    match ranks {
        [one] => format!("rank {one}"),
        [first @ .., last] if ranks.len() <= MOST_NAMED => format!("ranks {} and {last}", words(first)),
        _ => format!("ranks {} and {} more", words(&ranks[..MOST_NAMED]), ranks.len() - MOST_NAMED),
    }
}

const MOST_NAMED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coll::collective::Collective;
    use crate::coll::select::{Algorithm, build};
    use crate::coll::shape::Shape;
    use crate::element::{ElementType, ReduceOp};

    /// What a rank shows in an operation.
    fn at(number: u64) -> Calling {
        let (collective, world_size, count, segment_len, credits) = (Collective::AllReduce, 4, 8, 8, 2);
        let schedule =
            build(Algorithm::Doubling, Shape { collective, world_size, count, segment_len, credits });
        let signature = Signature::of(&*schedule, ElementType::F32, ReduceOp::Sum, number as u32);
        Some((number + 1, signature.0))
    }

    #[test]
    fn who_is_behind_is_named_before_all_others() {
        assert_eq!(
            text(&[at(183), at(183), at(182), at(183)]),
            "rank 2 has come to operation 182, all_reduce of float by sum; \
             the others have come to operation 183, all_reduce of float by sum"
        );
        assert!(text(&[at(7), Some((0, 0))]).starts_with("rank 1 has come to no operation yet; rank 0 has"));
        assert!(text(&[at(7), None, at(7)]).starts_with("rank 1 has just come to another operation; the"));
        assert!(text(&[at(7), at(7), at(7)]).starts_with("ranks 0, 1 and 2 have come to operation 7, all_"));
    }

    #[test]
    fn of_many_ranks_the_first_few_are_named() {
        let calls: Vec<Calling> = (0..40).map(|rank| at(rank % 2)).collect();
        let text = text(&calls);
        assert!(
            text.starts_with("ranks 0, 2, 4, 6, 8, 10, 12, 14 and 12 more have come to operation 0"),
            "{text}"
        );
        assert!(text.contains("; the others have come to operation 1, "), "{text}");
    }
}
