//! Allgathers that wait for contributions.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{OobError, check_size};
use super::{MAX_BLOB_BYTES, MAX_GATHERED_BYTES, MAX_ID_BYTES, MAX_OPEN_GATHERS};
use crate::ids::Rank;
use crate::message::{GatherKey, Participants};

/// What the contributors of an allgather gave, ascending by rank.
pub(super) type Blobs = Vec<(Rank, Vec<u8>)>;

/// The most that each of so many participants may contribute to one allgather.
pub fn blob_limit_bytes(participant_count: usize) -> usize {
    MAX_BLOB_BYTES.min(MAX_GATHERED_BYTES / participant_count.max(1))
}

impl Participants {
    /// Whether the rank is one of them, where the world that the job began with has so many.
    pub fn contains(&self, rank: Rank, world_size: u32) -> bool {
        match self {
            Participants::World => rank.0 < world_size,
            Participants::Ranks(ranks) => ranks.binary_search(&rank).is_ok(),
        }
    }

    /// How many they are.
    pub fn count(&self, world_size: u32) -> usize {
        match self {
            Participants::World => world_size as usize,
            Participants::Ranks(ranks) => ranks.len(),
        }
    }
}

/// Refuses a key that nobody makes where there are so many ranks.
pub(super) fn check_key(key: &GatherKey, rank_count: u32) -> Result<(), OobError> {
    check_size("an allgather's id", key.id.len(), MAX_ID_BYTES)?;
    match &key.participants {
        Participants::World => Ok(()),
        Participants::Ranks(ranks) => check_ranks("participants", ranks.iter().copied(), rank_count),
    }
}

/// Refuses a contribution that no client makes to this allgather.
pub(super) fn check_blob(key: &GatherKey, rank: Rank, blob: &[u8], world_size: u32) -> Result<(), OobError> {
    if !key.participants.contains(rank, world_size) {
        return Err(OobError::NotAParticipant { rank, id: key.id.clone() });
    }
    check_size("a blob", blob.len(), blob_limit_bytes(key.participants.count(world_size)))
}

/// Refuses a list of ranks that is empty, beyond the world, or not strictly ascending.
pub(super) fn check_ranks(
    what: &'static str,
    mut ranks: impl Iterator<Item = Rank>,
    world_size: u32,
) -> Result<(), OobError> {
    let bad = OobError::BadRanks { what, world_size };
    let Some(mut last) = ranks.next() else { return Err(bad) };
    for rank in ranks {
        if rank <= last {
            return Err(bad);
        }
        last = rank;
    }
    if last.0 < world_size { Ok(()) } else { Err(bad) }
}

/// The allgathers that are open at one hub.
#[derive(Debug)]
pub(super) struct Gathers {
    world_size: u32,
    open: BTreeMap<GatherKey, Open>,
    lost: BTreeSet<Rank>,
}

#[derive(Debug, Default)]
struct Open {
    contributors: BTreeSet<Rank>,
    blobs: BTreeMap<Rank, Vec<u8>>,
}

impl Gathers {
    /// None are open, where [`Participants::World`] is so many ranks.
    pub(super) fn new(world_size: u32) -> Gathers {
        Gathers { world_size, open: BTreeMap::new(), lost: BTreeSet::new() }
    }

    /// Takes contributions whose ranks have been checked, and gives all of them back once `awaited` ranks have
    /// contributed. Contributions to an allgather with a lost participant vanish: the event that says so is on its
    /// way to the contributors.
    ///
    /// # Errors
    ///
    /// Without having taken any of them.
    pub(super) fn contribute(
        &mut self,
        key: &GatherKey,
        blobs: Blobs,
        awaited: usize,
    ) -> Result<Option<Blobs>, OobError> {
        for (rank, _) in &blobs {
            if self.open.get(key).is_some_and(|open| open.contributors.contains(rank)) {
                let id = key.id.clone();
                return Err(OobError::ContributedTwice { rank: *rank, id, epoch: key.epoch });
            }
            if self.open_count(*rank) >= MAX_OPEN_GATHERS {
                return Err(OobError::TooManyOpenGathers { rank: *rank, limit: MAX_OPEN_GATHERS });
            }
        }
        if self.lost_participant(&key.participants).is_some() {
            return Ok(None);
        }
        let open = self.open.entry(key.clone()).or_default();
        open.contributors.extend(blobs.iter().map(|(rank, _)| *rank));
        open.blobs.extend(blobs);
        let is_complete = open.contributors.len() == awaited;
        Ok(is_complete.then(|| std::mem::take(&mut open.blobs).into_iter().collect()))
    }

    /// Forgets an allgather, and says whether it was open.
    pub(super) fn close(&mut self, key: &GatherKey) -> bool {
        self.open.remove(key).is_some()
    }

    /// Drops the allgathers that a lost rank takes part in, now and from now on.
    pub(super) fn rank_lost(&mut self, rank: Rank) {
        self.lost.insert(rank);
        let world_size = self.world_size;
        self.open.retain(|key, _| !key.participants.contains(rank, world_size));
    }

    /// The lowest lost rank among these.
    pub(super) fn lost_participant(&self, participants: &Participants) -> Option<Rank> {
        self.lost.iter().copied().find(|rank| participants.contains(*rank, self.world_size))
    }

    /// An allgather that waits in vain, among those whose ids are meant, for one of these ranks, which will contribute to
    /// nothing any more: that rank, and one that has contributed.
    pub(super) fn awaited_in_vain(
        &self,
        ended: &BTreeSet<Rank>,
        is_meant: impl Fn(&str) -> bool,
    ) -> Option<(Rank, Rank)> {
        self.open.iter().filter(|(key, _)| is_meant(&key.id)).find_map(|(key, open)| {
            let is_missing = |rank: &&Rank| {
                key.participants.contains(**rank, self.world_size) && !open.contributors.contains(*rank)
            };
            Some((*ended.iter().find(is_missing)?, *open.contributors.first()?))
        })
    }

    fn open_count(&self, rank: Rank) -> usize {
        self.open.values().filter(|open| open.contributors.contains(&rank)).count()
    }
}
