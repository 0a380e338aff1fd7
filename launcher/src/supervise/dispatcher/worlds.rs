//! Ranks of MPI programs that are in no world, or not in that of the others.
//!
//! Agents tell of each rank that is linked with an MPI library, or has come to one, ended well, and never asked for its world. Several of those were
//! probably worlds of one, which is told at the end of a job that went well by its exit codes: a program that never calls
//! MPI_Init looks the same, so that it is no failure.
//!
//! A rank that ends well while others wait for it on another node is seen here alone: what its agent would contribute for it
//! never comes.

use std::collections::{BTreeMap, BTreeSet};

use efarun_wire::Rank;

use super::Job;
use crate::exchange::Family;
use crate::supervise::verdict::Failure;

/// What is known of ranks' worlds.
#[derive(Debug, Default)]
pub(super) struct Worlds {
    /// Ranks that ended with code 0 by themselves.
    ended_well: BTreeSet<Rank>,
    /// Those that never asked for a world, with the MPI libraries that they are linked with.
    alone: BTreeMap<Rank, String>,
}

impl Worlds {
    /// Takes note of a rank that ended well without having asked for a world.
    pub(super) fn ended_alone(&mut self, rank: Rank, library: String) {
        self.alone.insert(rank, library);
    }

    /// Takes note of a rank that ended well.
    pub(super) fn ended_well(&mut self, rank: Rank) {
        self.ended_well.insert(rank);
    }

    /// What to tell of ranks that were probably each a world.
    fn note(&self) -> Option<String> {
        let count = self.alone.len();
        let (rank, library) = self.alone.first_key_value().filter(|_| count > 1)?;
        Some(format!(
            "{count} ranks ended without having asked for a world, and have an MPI library (rank {rank}: {library}): if they called \
             MPI_Init, they were {count} worlds of one"
        ))
    }
}

impl Job<'_> {
    /// Ends the job if a rank that has ended is waited for by an MPI library.
    pub(super) fn name_missing(&mut self) {
        if self.worlds.ended_well.is_empty() || self.verdict.first_failure().is_some() {
            return;
        }
        let is_of_mpi =
            |id: &str| [Family::Pmi, Family::Pmix].iter().any(|family| id.starts_with(family.id_prefix()));
        if let Some((rank, waiting)) = self.hub.awaited_in_vain(&self.worlds.ended_well, is_of_mpi) {
            let how = format!(
                "ended with code 0 without MPI_Init or after MPI_Finalize, where rank {waiting} waits for it"
            );
            self.rank_failed(Failure::Broke { rank, how });
        }
    }

    /// Tells of ranks that were probably each a world, where all went well otherwise.
    pub(super) fn note_worlds_of_one(&self) {
        if self.verdict.all_ended()
            && self.verdict.first_failure().is_none()
            && let Some(note) = self.worlds.note()
        {
            self.writer.note(note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_ranks_alone_are_told_and_one_is_not() {
        let mut worlds = Worlds::default();
        worlds.ended_alone(Rank(2), "/opt/libmpi.so.40".to_owned());
        assert_eq!(worlds.note(), None);
        worlds.ended_alone(Rank(1), "/opt/libmpi.so.40".to_owned());
        let note = worlds.note().unwrap();
        assert!(note.starts_with("2 ranks ") && note.ends_with("2 worlds of one"), "{note}");
        assert!(note.contains("(rank 1: /opt/libmpi.so.40)"), "{note}");
    }
}
