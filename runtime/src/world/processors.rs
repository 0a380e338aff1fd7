//! Whether the ranks of a node have a processor each.
//!
//! A rank that spins where it has none keeps the one it waits for from running. What one process may run on says little:
//! ranks that are bound to a processor each have one, though each of them sees no other. So ranks that share memory tell
//! each other, and look at the union.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::transport::shm::board::{Board, PROCESSOR_WORDS};

/// How many processors this process may run on.
fn count() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Tells the others on which processors this rank may run.
pub(super) fn tell(board: &Board) {
    board.tell_processors(own());
}

/// Whether there are as many processors as ranks. Every rank must have told, and be known to have.
pub(super) fn suffice(board: &Board) -> bool {
    let ranks = board.ranks();
    let sets = (0..ranks).map(|rank| board.processors(rank));
    // Who could not say counts as one that may run anywhere.
    let union = sets.reduce(|one, other| std::array::from_fn(|index| one[index] | other[index]));
    let known = union.map_or(0, |set| set.iter().map(|word| word.count_ones() as usize).sum());
    ranks <= if known == 0 { count() } else { known }
}

/// As a set of bits; empty where it cannot be known. Processors beyond the set are left out.
fn own() -> [u64; PROCESSOR_WORDS] {
    let mut set = [0; PROCESSOR_WORDS];
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else { return set };
    for cpu in 0..CpuSet::count().min(64 * PROCESSOR_WORDS) {
        if allowed.is_set(cpu) == Ok(true) {
            set[cpu / 64] |= 1 << (cpu % 64);
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_may_run_on_as_many_processors_as_it_counts() {
        let own: u32 = own().iter().map(|word| word.count_ones()).sum();
        // A limit on time counts too, in `count`.
        assert!(own as usize >= count(), "{own} of {}", count());
    }
}
