//! In which order a leaf reduces: that of its reference.
//!
//! A [`Merge`] is one reduction of two operands, each the content of a rank or what an earlier merge has left. A list of
//! them makes of all ranks' contents one result, in the association of the reference, and rounds where it does: a message
//! there is a partial result here.

/// An operand of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// What a rank gives.
    Rank(usize),
    /// A partial result.
    Partial(usize),
}

/// `into = left op right`, where `into` is the partial result of this number; 0 is the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    pub(super) into: usize,
    pub(super) left: Operand,
    pub(super) right: Operand,
    /// Whether the result has every rank's content in it.
    pub(super) completes: bool,
}

/// The order of [`crate::coll::doubling`].
pub(super) fn doubling(world_size: usize) -> Vec<Merge> {
    let active = 1 << world_size.max(1).ilog2();
    let passive = world_size - active;
    let (mut merges, mut stack): (Vec<Merge>, Vec<Operand>) = (Vec::new(), Vec::new());
    let mut merge = |stack: &mut Vec<Operand>, left, right| {
        let into = stack.len();
        merges.push(Merge { into, left, right, completes: false });
        stack.push(Operand::Partial(into));
    };
    for number in 0..active {
        if number < passive {
            merge(&mut stack, Operand::Rank(2 * number), Operand::Rank(2 * number + 1));
        } else {
            stack.push(Operand::Rank(number + passive));
        }
        // In round k those whose numbers differ in bit k only: both are complete up to it when the upper one is.
        for _ in 0..number.trailing_ones() {
            let (right, left) = (stack.pop(), stack.pop());
            let operands = left.zip(right).expect("a number's trailing ones are as many operands below it");
            merge(&mut stack, operands.0, operands.1);
        }
    }
    if let Some(last) = merges.last_mut() {
        last.completes = true;
    }
    merges
}

/// The order of a reduce along a [`crate::coll::rooted`] chain: from its end to the root. Partial results are number 1,
/// as the result may lie where the root's content does.
pub(super) fn chain(world_size: usize, root: usize) -> impl Iterator<Item = Merge> {
    let rank_of = move |number: usize| Operand::Rank((root + number) % world_size);
    (0..world_size - 1).rev().map(move |number| {
        let is_first = number + 2 == world_size;
        let right = if is_first { rank_of(number + 1) } else { Operand::Partial(1) };
        let completes = number == 0;
        Merge { into: usize::from(!completes), left: rank_of(number), right, completes }
    })
}

/// How many partial results besides number 0 a list needs memory for.
pub(super) fn partials(merges: impl IntoIterator<Item = Merge>) -> usize {
    merges.into_iter().map(|merge| merge.into).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result as a formula.
    fn formula(merges: Vec<Merge>) -> String {
        let mut partials = vec![String::new(); 2 + partials(merges.clone())];
        for merge in &merges {
            let text = |operand| match operand {
                Operand::Rank(rank) => rank.to_string(),
                Operand::Partial(number) => partials[number].clone(),
            };
            partials[merge.into] = format!("({} {})", text(merge.left), text(merge.right));
        }
        assert!(merges.iter().rev().map(|merge| merge.completes).eq((0..merges.len()).map(|at| at == 0)));
        partials.swap_remove(0)
    }

    #[test]
    fn doubling_reduces_neighbouring_ranges() {
        assert_eq!(formula(doubling(2)), "(0 1)");
        assert_eq!(formula(doubling(3)), "((0 1) 2)");
        assert_eq!(formula(doubling(4)), "((0 1) (2 3))");
        assert_eq!(formula(doubling(6)), "(((0 1) (2 3)) (4 5))");
        assert_eq!(formula(doubling(7)), "(((0 1) (2 3)) ((4 5) 6))");
        assert_eq!(partials(doubling(8)), 2);
    }

    #[test]
    fn a_chain_reduces_from_its_end_to_the_root() {
        assert_eq!(formula(chain(2, 1).collect()), "(1 0)");
        assert_eq!(formula(chain(4, 2).collect()), "(2 (3 (0 1)))");
        assert_eq!(partials(chain(4, 2)), 1);
    }
}
