//! Which rank has come how far, as a sentence for the error of a rank that waits in vain.
//!
//! Every rank shows which operation it came to last, however that is done: on its board, where all ranks are on one node,
//! and on a page that its agent reads. So this needs no answer of a rank that is late: it may be in code of its own, stopped,
//! or in an endless loop.

use efarun_wire::Rank;

use super::signature::Signature;

/// What a rank shows: one more than the number of its operation, and the signature. None where that is not known, or
/// changes.
pub(crate) type Calling = Option<(u64, u64)>;

/// Says who is where, `host_of` giving the names of hosts where there are several. Those who are behind come first, and who
/// are most last: they are "the others".
pub(crate) fn text<'h>(calls: &[(Rank, Calling)], host_of: impl Fn(Rank) -> Option<&'h str>) -> String {
    let mut groups: Vec<(Calling, Vec<Rank>)> = Vec::new();
    for &(rank, call) in calls {
        match groups.iter_mut().find(|(known, _)| *known == call) {
            Some((_, ranks)) => ranks.push(rank),
            None => groups.push((call, vec![rank])),
        }
    }
    groups.sort_by_key(|(call, ranks)| (ranks.len(), call.map(|(number, _)| number)));
    let most = groups.last().map_or(0, |(_, ranks)| ranks.len());
    let last = groups.len().saturating_sub(1);
    let parts = groups.iter().enumerate().map(|(index, (call, ranks))| {
        let are_others = index == last && last > 0 && most > 1;
        let who = if are_others { "the others".to_owned() } else { names(ranks, &host_of) };
        let is_one = ranks.len() == 1;
        let has = if is_one { "has" } else { "have" };
        match call {
            None if is_one => format!("{who} does not say where it is"),
            None => format!("{who} do not say where they are"),
            Some((0, _)) => format!("{who} {has} come to no operation yet"),
            Some((number, signature)) => {
                format!("{who} {has} come to operation {}, {}", number - 1, Signature(*signature))
            }
        }
    });
    parts.collect::<Vec<_>>().join("; ")
}

/// `rank 5 (b)`, `ranks 0, 1 and 4`; of many the first few, and how many more.
fn names<'h>(ranks: &[Rank], host_of: &impl Fn(Rank) -> Option<&'h str>) -> String {
    let name =
        |rank: &Rank| host_of(*rank).map_or_else(|| rank.to_string(), |host| format!("{rank} ({host})"));
    let words = |ranks: &[Rank]| ranks.iter().map(name).collect::<Vec<_>>().join(", ");
    match ranks {
        [one] => format!("rank {}", name(one)),
        [first @ .., last] if ranks.len() <= MOST_NAMED => {
            format!("ranks {} and {}", words(first), name(last))
        }
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

    /// What is said of ranks on one host that show this.
    fn said(calls: &[Calling]) -> String {
        let calls: Vec<_> = (0..).map(Rank).zip(calls.iter().copied()).collect();
        text(&calls, |_| None)
    }

    #[test]
    fn who_is_behind_is_named_before_all_others() {
        assert_eq!(
            said(&[at(183), at(183), at(182), at(183)]),
            "rank 2 has come to operation 182, all_reduce of float by sum; \
             the others have come to operation 183, all_reduce of float by sum"
        );
        assert!(said(&[at(7), Some((0, 0))]).starts_with("rank 1 has come to no operation yet; rank 0 has"));
        assert!(said(&[at(7), None, at(7)]).starts_with("rank 1 does not say where it is; the"));
        assert!(said(&[at(7), at(7), at(7)]).starts_with("ranks 0, 1 and 2 have come to operation 7, all_"));
    }

    #[test]
    fn of_many_ranks_the_first_few_are_named() {
        let calls: Vec<Calling> = (0..40).map(|rank| at(rank % 2)).collect();
        let text = said(&calls);
        assert!(
            text.starts_with("ranks 0, 2, 4, 6, 8, 10, 12, 14 and 12 more have come to operation 0"),
            "{text}"
        );
        assert!(text.contains("; the others have come to operation 1, "), "{text}");
    }

    #[test]
    fn of_several_hosts_each_rank_has_its_own() {
        let calls: Vec<_> = (0..).map(Rank).zip([at(7), at(7), at(6), None, None]).collect();
        let host = |rank: Rank| Some(if rank.0 < 2 { "a" } else { "b" });
        assert_eq!(
            text(&calls, host),
            "rank 2 (b) has come to operation 6, all_reduce of float by sum; \
             ranks 3 (b) and 4 (b) do not say where they are; \
             the others have come to operation 7, all_reduce of float by sum"
        );
        assert_eq!(text(&[], host), "");
    }
}
