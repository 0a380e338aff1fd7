//! How libpmix names ranks: by the name space of their world and their number within it.

use std::sync::{PoisonError, RwLock};

use efarun_wire::Rank;
use efarun_wire::message::JobMap;

use super::abi;
use super::infos::{padded, text_of};

/// A world's name space.
#[derive(Debug)]
struct Named {
    nspace: String,
    first_rank: Rank,
    size: u32,
}

/// libpmix's functions have no argument of ours, and there is one server in a process.
static WORLDS: RwLock<Vec<Named>> = RwLock::new(Vec::new());

/// Names a world, before libpmix hears of it.
pub(super) fn admit(nspace: &str, map: &JobMap) {
    let named = Named { nspace: nspace.to_owned(), first_rank: map.first_rank, size: map.size() };
    WORLDS.write().unwrap_or_else(PoisonError::into_inner).push(named);
}

/// The rank that a process is; none where it is none of the job's, or stands for all of a world.
pub(super) fn rank_of(proc: &abi::Proc) -> Option<Rank> {
    let is_one = proc.rank != abi::RANK_WILDCARD;
    ranks_of(proc).filter(|_| is_one).map(|(rank, _)| rank)
}

/// Whether libpmix means all of the world that the job begins with.
pub(super) fn is_first_world(proc: &abi::Proc) -> bool {
    proc.rank == abi::RANK_WILDCARD && ranks_of(proc).is_some_and(|(first, _)| first == Rank(0))
}

/// The first of the ranks that libpmix means by a process, and how many they are: all of a world, or one.
pub(super) fn ranks_of(proc: &abi::Proc) -> Option<(Rank, u32)> {
    let nspace = text_of(&proc.nspace);
    let worlds = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let Named { first_rank, size, .. } = worlds.iter().find(|named| named.nspace.as_bytes() == nspace)?;
    match proc.rank {
        abi::RANK_WILDCARD => Some((*first_rank, *size)),
        within => (within < *size).then(|| (Rank(first_rank.0 + within), 1)),
    }
}

/// The process that a rank is; one that libpmix does not know for a rank of no world.
pub(super) fn proc_of(rank: Rank) -> abi::Proc {
    let worlds = WORLDS.read().unwrap_or_else(PoisonError::into_inner);
    let within = |named: &Named| rank.0.checked_sub(named.first_rank.0).filter(|within| *within < named.size);
    let found = worlds.iter().find_map(|named| Some((named.nspace.as_bytes(), within(named)?)));
    let (nspace, within) = found.unwrap_or((b"", rank.0));
    abi::Proc { nspace: padded(nspace), rank: within }
}
