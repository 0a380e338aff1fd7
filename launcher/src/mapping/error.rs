//! Why ranks could not be placed, with the arithmetic.

use super::{HostWithSlots, MAX_RANKS, Request, SlotsOrigin};

/// Why there is no placement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// There is nowhere to place anything.
    #[error("no host to place ranks on")]
    NoHosts,
    /// More ranks than there are slots.
    #[error("{asked} ranks asked for, {room} slots there{}:{}\n  hint: {hint}", taken_text(*.taken), lines(.hosts))]
    TooFewSlots {
        /// How many ranks.
        asked: u32,
        /// How many slots the programs before this one have taken.
        taken: u64,
        /// How many the hosts take.
        room: u64,
        /// One line per host: its name, slots, and where the number came from.
        hosts: Vec<String>,
        /// What would allow it.
        hint: String,
    },
    /// `-N` limits the hosts to fewer ranks than `-n` asks for.
    #[error("{asked} ranks asked for, but {} with at most {per_node} each (-N {per_node}) take {room}:{}\n  hint: {hint}", hosts_text(*.host_count), lines(.hosts))]
    PerNodeTooSmall {
        /// How many ranks.
        asked: u32,
        /// How many hosts.
        host_count: usize,
        /// `-N`.
        per_node: u32,
        /// How many the hosts take.
        room: u64,
        /// One line per host.
        hosts: Vec<String>,
        /// What would allow it.
        hint: String,
    },
    /// Not one rank has room.
    #[error("no host has room for a rank: --map-by counts what none of them has:{}", lines(.hosts))]
    NoRoom {
        /// One line per host.
        hosts: Vec<String>,
    },
    /// More ranks than hosts may have even if they are oversubscribed.
    #[error("{asked} ranks asked for, and max_slots lets the hosts have {room}:{}\n  hint: add hosts, raise max_slots, or ask for -n {room}", lines(.hosts))]
    BeyondMaxSlots {
        /// How many ranks.
        asked: u32,
        /// How many the hosts may have.
        room: u32,
        /// One line per host.
        hosts: Vec<String>,
    },
    /// More ranks than places are named one by one.
    #[error(
        "{asked} ranks asked for, and {source_of_places} names {places} places\n  hint: ask for -n {places}, or name more"
    )]
    TooFewPlaces {
        /// How many ranks.
        asked: u64,
        /// How many places.
        places: usize,
        /// What names them.
        source_of_places: String,
    },
    /// `-N` alone asks every host for more than it was given.
    #[error(
        "-N {per_node} asks for {per_node} ranks on every host, but {slots}\n  hint: raise its slots, lower -N, or add --oversubscribe"
    )]
    TooFewSlotsForPerNode {
        /// The first such host.
        host: String,
        /// `-N`.
        per_node: u32,
        /// The host, its slots, and where the number came from.
        slots: String,
    },
    /// More ranks than efarun can number.
    #[error("{asked} ranks asked for; the most that a job can have is {MAX_RANKS}")]
    TooManyRanks {
        /// How many.
        asked: u64,
    },
    /// Hosts that were not contacted would decide it.
    #[error("where ranks go depends on the GPUs or cores of {}, which nobody has asked yet\n  hint: give their slots (`slots=8` in the hostfile, `-H {}:8`), or leave out `=offline`", .hosts.join(", "), .hosts.first().map_or("host", String::as_str))]
    SlotsUnknown {
        /// Those hosts, at most eight.
        hosts: Vec<String>,
    },
}

impl MapError {
    pub(super) fn too_few_slots(
        request: &Request,
        asked: u32,
        room: u64,
        taken: u64,
        hosts: &[HostWithSlots],
    ) -> MapError {
        let listed = describe_all(hosts);
        let host_count = hosts.len();
        let cannot_help = |per_node: u32| u64::from(per_node) * host_count as u64;
        match request.per_node {
            None => MapError::TooFewSlots {
                asked,
                taken,
                room,
                hosts: listed,
                hint: format!("add hosts, give more slots, ask for -n {room}, or add --oversubscribe"),
            },
            Some(per_node) if cannot_help(per_node) >= u64::from(asked) => MapError::TooFewSlots {
                asked,
                taken,
                room,
                hosts: listed,
                hint: format!(
                    "add hosts, give more slots, ask for -n {room}, or add --oversubscribe (up to -N {per_node} per host)"
                ),
            },
            Some(per_node) => MapError::PerNodeTooSmall {
                asked,
                host_count,
                per_node,
                room,
                hosts: listed,
                hint: format!(
                    "add hosts, ask for -n {room}, or raise -N to {}",
                    u64::from(asked).div_ceil(host_count as u64)
                ),
            },
        }
    }

    pub(super) fn slots_unknown(hosts: &[HostWithSlots]) -> MapError {
        let unknown = hosts.iter().filter(|host| host.slots.is_none());
        MapError::SlotsUnknown { hosts: unknown.take(8).map(|host| host.host.name.clone()).collect() }
    }
}

impl HostWithSlots {
    /// Returns one line: the host, its slots, and where that number came from.
    pub fn describe(&self) -> String {
        match self.slots {
            None => format!("{}: slots not known until it is asked", self.host),
            Some(slots) => {
                let plural = if slots == 1 { "" } else { "s" };
                let origin = self.origin.describe(slots, &self.host.origin);
                let most = self.host.max_slots.map_or(String::new(), |most| format!(", at most {most}"));
                format!("{}: {slots} slot{plural}{most} ({origin})", self.host)
            }
        }
    }
}

impl SlotsOrigin {
    /// Returns where a number of slots came from, for a person: `hosts:3`, `8 GPUs`, …
    pub fn describe(self, slots: u32, host_origin: &str) -> String {
        match self {
            SlotsOrigin::Given => host_origin.to_owned(),
            SlotsOrigin::HostListDefault => "-H without `:N` is one slot".to_owned(),
            SlotsOrigin::Gpus if slots == 1 => "1 GPU seen".to_owned(),
            SlotsOrigin::Gpus => format!("{slots} GPUs seen"),
            SlotsOrigin::Cores if slots == 1 => "no GPU, 1 core seen".to_owned(),
            SlotsOrigin::Cores => format!("no GPU, {slots} cores seen"),
            SlotsOrigin::Unknown => "not asked".to_owned(),
        }
    }

    /// Returns the name that JSON uses.
    pub fn name(self) -> &'static str {
        match self {
            SlotsOrigin::Given => "given",
            SlotsOrigin::HostListDefault => "host-list-default",
            SlotsOrigin::Gpus => "gpus",
            SlotsOrigin::Cores => "cores",
            SlotsOrigin::Unknown => "unknown",
        }
    }
}

pub(super) fn describe_all(hosts: &[HostWithSlots]) -> Vec<String> {
    let mut lines: Vec<String> = hosts.iter().take(LISTED_HOSTS).map(HostWithSlots::describe).collect();
    if hosts.len() > LISTED_HOSTS {
        lines.push(format!("… and {} more hosts", hosts.len() - LISTED_HOSTS));
    }
    lines
}

fn taken_text(taken: u64) -> String {
    if taken == 0 { String::new() } else { format!(" after the {taken} that programs before it take") }
}

fn hosts_text(count: usize) -> String {
    if count == 1 { "1 host".to_owned() } else { format!("{count} hosts") }
}

fn lines(hosts: &[String]) -> String {
    hosts.iter().map(|line| format!("\n  {line}")).collect()
}

/// How many hosts an error lists before it is cut.
const LISTED_HOSTS: usize = 16;
