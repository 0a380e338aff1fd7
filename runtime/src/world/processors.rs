//! Whether the ranks of a machine have a processor each.
//!
//! A rank that spins where it has none keeps the one it waits for from running. What one process may run on says little:
//! ranks that are bound to a processor each have one, though each of them sees no other. So ranks tell each other, those of one
//! node on their boards and those of several by the bootstrap, and look at the union. What counts is the machine, not the
//! node: two containers of one machine may have been given the same processors.

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::transport::shm::board::{Board, PROCESSOR_WORDS};

/// Processors, as bits.
type Set = [u64; PROCESSOR_WORDS];

/// How many processors this process may run on.
pub(super) fn count() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Tells the others on which processors this rank may run.
pub(super) fn tell(board: &Board) {
    board.tell_processors(own());
}

/// Whether the ranks of this node have as many processors, where all of its machine's ranks are on it. Every rank must have
/// told, and be known to have.
pub(super) fn suffice(board: &Board) -> bool {
    // Who could not say counts as one that may run anywhere.
    suffice_for((0..board.ranks()).map(|rank| board.processors(rank)), count())
}

/// What this rank tells ranks of other nodes.
pub(super) fn to_bytes() -> Vec<u8> {
    let mut bytes: Vec<u8> = own().iter().flat_map(|word| word.to_le_bytes()).collect();
    let len = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(len);
    bytes
}

/// Whether every machine's ranks have as many processors as there are ranks, by the machine's number, from what all ranks told
/// and which machine each is on. All ranks come to the same answer; where nobody of a machine could say it is no.
pub(super) fn suffice_on_machines<'a>(told: impl Iterator<Item = (usize, &'a [u8])>) -> Vec<bool> {
    let mut machines: Vec<Vec<Set>> = Vec::new();
    for (machine, bytes) in told {
        machines.resize_with(machines.len().max(machine + 1), Vec::new);
        machines[machine].push(from_bytes(bytes));
    }
    machines.into_iter().map(|sets| suffice_for(sets.into_iter(), 0)).collect()
}

/// Whether so many ranks as there are sets have a processor each, of so many where nobody could say.
fn suffice_for(sets: impl ExactSizeIterator<Item = Set>, otherwise: usize) -> bool {
    let ranks = sets.len();
    let union = sets.reduce(|one, other| std::array::from_fn(|index| one[index] | other[index]));
    let known = union.map_or(0, |set| set.iter().map(|word| word.count_ones() as usize).sum());
    ranks <= if known == 0 { otherwise } else { known }
}

/// What does not fit is left out.
fn from_bytes(bytes: &[u8]) -> Set {
    let mut set = [0; PROCESSOR_WORDS];
    for (index, byte) in bytes.iter().take(8 * PROCESSOR_WORDS).enumerate() {
        set[index / 8] |= u64::from(*byte) << (index % 8 * 8);
    }
    set
}

/// As a set of bits; empty where it cannot be known. Processors beyond the set are left out.
fn own() -> Set {
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
        assert_eq!(from_bytes(&to_bytes()), super::own());
    }

    #[test]
    fn containers_of_one_machine_have_a_processor_per_rank_only_where_theirs_together_suffice() {
        let told = |told: &[(usize, &'static [u8])]| suffice_on_machines(told.iter().copied());
        // Two ranks on the same two processors, then four.
        assert_eq!(told(&[(0, &[0b11]), (0, &[0b11])]), [true]);
        assert_eq!(told(&[(0, &[0b11]), (0, &[0b11]), (0, &[0b11]), (0, &[0b11])]), [false]);
        // Each container has two of its own; beyond the first word, too.
        assert_eq!(told(&[(0, &[0b11]), (0, &[0b11]), (0, &[0b1100]), (0, &[0b1100])]), [true]);
        assert_eq!(told(&[(0, &[1]), (0, &[0, 0, 0, 0, 0, 0, 0, 0, 1])]), [true]);
        // Each machine by itself.
        assert_eq!(told(&[(1, &[1]), (0, &[0b11]), (1, &[1]), (0, &[0b11])]), [true, false]);
        // Longer than a set; and nobody could say.
        assert_eq!(told(&[(0, &[1; 400]), (0, &[1; 400]), (1, &[])]), [true, false]);
    }
}
