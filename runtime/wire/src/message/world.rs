//! Where the ranks of a world are, and what asks for a further one.

use serde::{Deserialize, Serialize};

use super::Participants;
use crate::ids::Rank;

/// Where a world's ranks are: what MPI libraries ask their launcher about.
///
/// A job begins with one world, and a rank may ask for more while it runs. Ranks are numbered through over all of a job's
/// worlds; what a library takes for its rank is the number within its world.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobMap {
    /// The world's number: 0 is the one that the job begins with.
    pub world: u32,
    /// The world's first rank. The others follow it without gaps.
    pub first_rank: Rank,
    /// The job's nodes, by number. Some may have no rank of this world.
    pub nodes: Vec<MappedNode>,
    /// How many ranks the job's hosts have slots for; the ranks of the first world at least.
    pub universe_size: u32,
    /// How many ranks each of the world's programs has. They follow each other in this order.
    pub app_sizes: Vec<u32>,
}

impl JobMap {
    /// How many ranks the world has.
    pub fn size(&self) -> u32 {
        self.nodes.iter().map(|node| node.ranks.len() as u32).sum()
    }

    /// The number of a rank within the world; none for one of another world.
    pub fn within(&self, rank: Rank) -> Option<u32> {
        rank.0.checked_sub(self.first_rank.0).filter(|within| *within < self.size())
    }

    /// The rank with this number in the world, where there is one.
    pub fn rank(&self, within: u32) -> Option<Rank> {
        (within < self.size()).then(|| Rank(self.first_rank.0 + within))
    }

    /// The program of the rank with this number in the world, as its place in `app_sizes`, and the rank's number among
    /// those of that program.
    pub fn app(&self, within: u32) -> Option<(u32, u32)> {
        let mut first = 0;
        for (app, size) in (0..).zip(&self.app_sizes) {
            if within - first < *size {
                return Some((app, within - first));
            }
            first += size;
        }
        None
    }

    /// All ranks of the world, as allgathers name them.
    pub fn everybody(&self) -> Participants {
        match self.world {
            0 => Participants::World,
            _ => Participants::Ranks((0..self.size()).filter_map(|within| self.rank(within)).collect()),
        }
    }
}

/// A node of a [`JobMap`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedNode {
    /// The host as the user wrote it.
    pub host: String,
    /// Its ranks, in order of local rank.
    pub ranks: Vec<Rank>,
}

/// What a rank asks to be started: a further world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnOrder {
    /// The rank that asks.
    pub by: Rank,
    /// Chosen by its agent, returned in the answer.
    pub token: u64,
    /// The programs, whose ranks follow each other in this order.
    pub programs: Vec<SpawnProgram>,
    /// What the ranks are to find among their keys.
    pub keys: Vec<(Vec<u8>, Vec<u8>)>,
}

/// One program of a [`SpawnOrder`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnProgram {
    /// A path, or a name to be looked for.
    pub program: Vec<u8>,
    /// Its arguments, without the program itself.
    pub args: Vec<Vec<u8>>,
    /// How many ranks run it.
    pub count: u32,
    /// What its ranks have in their environment beside what the rank has that asks.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// The folder that they start in; empty means that of the rank that asks.
    pub wdir: Vec<u8>,
    /// Folders, with `:` between, in which a name is looked for first.
    pub search_path: Vec<u8>,
    /// The hosts that they may be on; none means all.
    pub hosts: Vec<String>,
    /// What else was asked for and makes no difference here.
    pub unknown: Vec<String>,
}

/// A world that a rank has asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnedWorld {
    /// Its number.
    pub world: u32,
    /// How many ranks it has.
    pub size: u32,
}
