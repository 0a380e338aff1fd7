//! Which steps of a call are one launch.
//!
//! Pure. A transfer that is short goes with the collective of the node in front of it or the one behind it, if that is short, too;
//! every other step goes by itself. Each rank decides that for its own, as others cannot tell.

use efarun_rt::nvlink::DeviceCall;
use efarun_rt::relay::Transfer;

use super::steps::Step;

/// What is enqueued at once.
#[derive(Debug)]
pub(super) enum Launch<'s> {
    /// A step by itself.
    One(&'s Step),
    /// A transfer, and what the node does before it or behind it.
    Together { transfer: &'s Transfer, node: &'s DeviceCall, is_node_first: bool },
}

/// A call's steps in their order. `is_short` says of a collective of the node whether one block does it in one exchange.
pub(super) fn launches(steps: &[Step], mut is_short: impl FnMut(&DeviceCall) -> bool) -> Vec<Launch<'_>> {
    let mut launches = Vec::new();
    let mut left = steps;
    while let Some((first, rest)) = left.split_first() {
        let together = match (first, rest.first()) {
            (Step::Node(node), Some(Step::Relay(transfer))) => Some((transfer, node, true)),
            (Step::Relay(transfer), Some(Step::Node(node))) => Some((transfer, node, false)),
            _ => None,
        };
        // Whose kernel reduces its other step may.
        let fits = |(transfer, node, _): &(&Transfer, &DeviceCall, bool)| {
            let is_of_one_kind = node.collective.reduces() || transfer.reduction.is_none();
            transfer.is_short() && is_of_one_kind && is_short(node)
        };
        let (launch, count) = match together.filter(fits) {
            Some((transfer, node, is_node_first)) => (Launch::Together { transfer, node, is_node_first }, 2),
            None => (Launch::One(first), 1),
        };
        launches.push(launch);
        left = &left[count..];
    }
    launches
}

#[cfg(test)]
mod tests {
    use efarun_rt::cuda::DevicePointer;
    use efarun_rt::nvlink::{DeviceCollective, DeviceOp};
    use efarun_rt::relay::{Reduction, Stretch};
    use efarun_rt::{ElementType, Rank, ReduceOp};

    use super::*;

    /// A step of the node, of so many elements.
    fn node(collective: DeviceCollective, count: usize) -> Step {
        let (element, op) = (ElementType::U8.into(), DeviceOp::Of(ReduceOp::Sum));
        let nowhere = DevicePointer(0);
        Step::Node(DeviceCall { collective, element, op, count, input: nowhere, output: nowhere })
    }

    /// A transfer of so many bytes.
    fn transfer(bytes: usize, reduces: bool) -> Step {
        let (element, op) = (ElementType::U8.into(), DeviceOp::Of(ReduceOp::Sum));
        let own = DevicePointer(0);
        let reduction = reduces.then_some(Reduction { own, place: 0, element, op, ranks: 4 });
        let puts = vec![Stretch { pointer: DevicePointer(0), bytes }];
        Step::Relay(Transfer { puts, reduction, slice_bytes: 32 << 10, ..Transfer::default() })
    }

    /// How many steps each launch has, where collectives of up to 1000 elements are short; and that all steps are in them in order.
    fn lengths(steps: &[Step]) -> Vec<usize> {
        let launches = launches(steps, |call| call.count <= 1000);
        let mut left = steps.iter();
        let mut next = || left.next().expect("so many steps");
        let mut of_launch = |launch: &Launch<'_>| match *launch {
            Launch::One(step) => {
                assert!(std::ptr::eq(step, next()));
                1
            }
            Launch::Together { transfer, node, is_node_first } => {
                let (first, second) = (next(), next());
                let (of_node, of_rail) = if is_node_first { (first, second) } else { (second, first) };
                assert!(matches!(of_node, Step::Node(it) if std::ptr::eq(it, node)));
                assert!(matches!(of_rail, Step::Relay(it) if std::ptr::eq(it, transfer)));
                2
            }
        };
        let lengths = launches.iter().map(&mut of_launch).collect();
        assert!(left.next().is_none(), "{launches:?}");
        lengths
    }

    #[test]
    fn a_short_transfer_goes_with_a_short_step_of_the_node_beside_it() {
        use DeviceCollective::{AllGather, AllReduce, AllToAll, ReduceScatter};
        let gather = |count| node(AllGather, count);
        assert_eq!(lengths(&[]), [0; 0]);
        assert_eq!(lengths(&[transfer(8, false)]), [1]);
        assert_eq!(lengths(&[node(AllReduce, 9), transfer(8, true)]), [2]);
        assert_eq!(lengths(&[transfer(8, false), gather(1000), gather(1)]), [2, 1]);
        assert_eq!(lengths(&[node(AllToAll, 8), node(AllToAll, 8), transfer(8, false)]), [1, 2]);
        assert_eq!(lengths(&[gather(9), transfer(8, false), gather(9)]), [2, 1]);
        // What is long goes by itself.
        assert_eq!(lengths(&[gather(1001), transfer(4096, false), gather(9)]), [1, 2]);
        assert_eq!(lengths(&[gather(9), transfer(4097, false), gather(9)]), [1, 1, 1]);
        let both = [node(ReduceScatter, 8), transfer(8, true), transfer(8, true), node(AllReduce, 9)];
        assert_eq!(lengths(&both), [2, 2]);
    }

    #[test]
    fn a_transfer_that_reduces_goes_with_a_step_that_does() {
        let root = Rank(0);
        let (reduce, gather) = (DeviceCollective::ReduceScatter, DeviceCollective::Gather { root });
        assert_eq!(lengths(&[node(reduce, 8), transfer(8, false)]), [2]);
        assert_eq!(lengths(&[node(gather, 8), transfer(8, true), node(gather, 8)]), [1, 1, 1]);
        assert_eq!(lengths(&[node(gather, 8), transfer(8, true), node(reduce, 8)]), [1, 2]);
    }
}
