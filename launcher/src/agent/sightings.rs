//! Which ranks come to an MPI library that nobody could tell of before they ran: those of a shell or an interpreter.
//!
//! Given the ranks that nothing is known of, [`look`] reads what the processes of each have mapped. It is called a moment
//! after they have started and then ever more rarely ([`Pauses`]), so that long jobs are not disturbed; a program that is
//! through before the first time is not seen. Only looking: nothing of a rank is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Duration;

use efarun_wire::Rank;

use crate::keeper::descendants;
use crate::linkage::{MpiKind, kind_of_file};

/// A rank's process has an MPI library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) rank: Rank,
    pub(super) kind: MpiKind,
    /// Its file.
    pub(super) library: String,
}

/// Looks at the ranks with these process groups.
pub(super) fn look(groups: &BTreeMap<Rank, i32>) -> Vec<Sighting> {
    let ranks: BTreeMap<i32, Rank> = groups.iter().map(|(rank, group)| (*group, *rank)).collect();
    let mut seen = BTreeSet::new();
    let mut sightings = Vec::new();
    for process in descendants::all().unwrap_or_default() {
        let Some(rank) = ranks.get(&process.group).copied() else { continue };
        // One that has just ended, or is another user's by now, has no file that may be read.
        let Ok(maps) = File::open(format!("/proc/{}/maps", process.pid)) else { continue };
        if let Some((kind, library)) = mpi_of(BufReader::new(maps))
            && seen.insert(rank)
        {
            sightings.push(Sighting { rank, kind, library });
        }
    }
    sightings
}

/// The first MPI library in a list of mappings as the kernel writes it.
fn mpi_of(maps: impl BufRead) -> Option<(MpiKind, String)> {
    maps.split(b'\n').map_while(Result::ok).find_map(|line| {
        let line = String::from_utf8_lossy(&line);
        let file = &line[line.find('/')?..];
        let name = file.rsplit('/').next()?;
        Some((kind_of_file(name)?, file.to_owned()))
    })
}

/// How long to wait before each look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pauses {
    next: Duration,
}

impl Pauses {
    /// None has been made.
    pub(super) fn new() -> Pauses {
        Pauses { next: FIRST }
    }

    /// The next one.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (2 * pause).min(LONGEST);
        pause
    }
}

/// An interpreter has come to its libraries by then.
const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_mpi_library_is_found_among_mappings() {
        let maps = "\
55d0-55d1 r--p 00000000 fe:00 12 /usr/bin/python3.11\n\
7f00-7f01 rw-p 00000000 00:00 0 \n\
7f01-7f02 r--p 00000000 fe:00 13 /opt/my mpi/lib/libmpi.so.40.30.7\n\
7f02-7f03 rw-p 00000000 00:00 0 [stack]\n";
        let found = Some((MpiKind::OpenMpi, "/opt/my mpi/lib/libmpi.so.40.30.7".to_owned()));
        assert_eq!(mpi_of(maps.as_bytes()), found);
        assert_eq!(mpi_of(&maps.as_bytes()[..60]), None);
    }

    #[test]
    fn looks_become_rarer() {
        let mut pauses = Pauses::new();
        let made: Vec<u64> = (0..10).map(|_| pauses.pause().as_millis() as u64).collect();
        assert_eq!(made, [250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    }
}
