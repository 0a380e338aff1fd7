//! Who this rank is and where it meets the others, from the environment alone.
//!
//! [`detect`] is pure: it opens, resolves and connects nothing.
//!
//! efarun's own variables win. Without them a rank is named by whoever started it; where two launchers name it
//! differently, guessing would give a world with a rank missing and another twice, so that is an error. Two nestings
//! are common and have one reading only: torchrun's ranks inherit the variables of the launcher that started
//! torchrun itself, and every launcher's ranks inherit those of the Slurm task that it runs in.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use efarun_wire::{Rank, env};

use super::invitation::Invitation;
use crate::config::{ConfigError, Environment};

/// How a rank finds its world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The world is this process; there is nobody to find.
    Alone,
    /// efarun started it; the agent of its node is at the other end of a socket.
    Agent {
        /// This rank.
        rank: Rank,
        /// World size.
        world_size: u32,
        /// The socket's descriptor.
        fd: RawFd,
    },
    /// Others like it wait at a meeting point, which rank 0 serves.
    Meeting {
        /// This rank.
        rank: Rank,
        /// World size.
        world_size: u32,
        /// The meeting point: `host:port`.
        address: String,
        /// Who may come.
        admission: Admission,
    },
    /// Others like it were given the same invitation.
    Invited {
        /// This rank.
        rank: Rank,
        /// World size.
        world_size: u32,
        /// Where they meet.
        invitation: Invitation,
    },
}

/// Who may join at a meeting point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Whoever has the key in this file.
    KeyFile(PathBuf),
    /// Whoever is on this machine; a meeting point elsewhere is refused.
    Loopback,
    /// Whoever reaches the port: the user's explicit wish.
    Anybody,
}

/// Why a rank does not know its world.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A variable has a value that cannot be meant.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// One variable of a pair is set, the other is not.
    #[error("{present} is set but {missing} is not: set both, or neither")]
    Half {
        /// The one that is set.
        present: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// Two launchers name the rank differently.
    #[error(
        "{} and {} disagree; set EFARUN_RANK and EFARUN_WORLD_SIZE to what holds (they win), or unset one pair",
        pair_text(.first), pair_text(.second)
    )]
    Disagreement {
        /// What one says.
        first: NamedRank,
        /// What the other says.
        second: NamedRank,
    },
    /// The rank is not one of its world.
    #[error("{} names a rank that is not below the world size", pair_text(.0))]
    OutOfRange(NamedRank),
    /// efarun's socket is announced, but not the rank.
    #[error("EFARUN_AGENT_FD is set but EFARUN_RANK and EFARUN_WORLD_SIZE are not: efarun sets all three")]
    AgentWithoutRank,
    /// A meeting point is named, but not the rank.
    #[error(
        "EFARUN_BOOTSTRAP={0} is set but nothing says which rank this is: set EFARUN_RANK (0, 1, …) and \
         EFARUN_WORLD_SIZE, different and equal on all ranks"
    )]
    MeetingWithoutRank(String),
    /// More than one rank, and no place to meet.
    #[error(
        "rank {rank} of {world_size} does not know where to meet the others: start it under efarun, or set \
         EFARUN_BOOTSTRAP=HOST:PORT on every rank (HOST: the machine of rank 0, PORT: a free port there, not \
         MASTER_PORT) and, unless HOST is 127.0.0.1, EFARUN_KEY_FILE"
    )]
    NoMeetingPoint {
        /// This rank.
        rank: Rank,
        /// World size.
        world_size: u32,
    },
}

/// What a pair of variables says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedRank {
    /// The pair: the rank's variable and the world size's.
    pub variables: (&'static str, &'static str),
    /// The rank.
    pub rank: u32,
    /// World size.
    pub world_size: u32,
}

fn pair_text(named: &NamedRank) -> String {
    let NamedRank { variables: (rank_name, size_name), rank, world_size } = named;
    format!("{rank_name}={rank}, {size_name}={world_size}")
}

/// Says how this rank finds its world.
///
/// # Errors
///
/// [`IdentityError`] when the environment contradicts itself or leaves out what is needed.
pub fn detect(environment: &Environment) -> Result<Identity, IdentityError> {
    let named = named_rank(environment)?;
    if let Some(fd) = environment.number(env::EFARUN_AGENT_FD)? {
        let Some(named) = named.filter(|named| named.variables == EFARUN) else {
            return Err(IdentityError::AgentWithoutRank);
        };
        let fd = RawFd::try_from(fd).map_err(|_| {
            ConfigError::new(env::EFARUN_AGENT_FD, OsString::from(fd.to_string()), "a file descriptor")
        })?;
        return Ok(Identity::Agent { rank: Rank(named.rank), world_size: named.world_size, fd });
    }
    let address = environment.text(env::EFARUN_BOOTSTRAP)?;
    match (named, address) {
        (None, None) => Ok(Identity::Alone),
        (None, Some(address)) => Err(IdentityError::MeetingWithoutRank(address.to_owned())),
        (Some(NamedRank { world_size: 1, .. }), _) => Ok(Identity::Alone),
        (Some(NamedRank { rank, world_size, .. }), None) => {
            Err(IdentityError::NoMeetingPoint { rank: Rank(rank), world_size })
        }
        (Some(NamedRank { rank, world_size, .. }), Some(address)) => Ok(Identity::Meeting {
            rank: Rank(rank),
            world_size,
            address: checked_address(address)?.to_owned(),
            admission: admission(environment)?,
        }),
    }
}

/// The rank and world size that the environment names, if it does.
fn named_rank(environment: &Environment) -> Result<Option<NamedRank>, IdentityError> {
    if let Some(named) = read_pair(environment, EFARUN)? {
        return Ok(Some(named));
    }
    let torch = read_pair(environment, TORCH)?;
    if torch.is_some() && environment.bytes(TORCHRUN_MARK).is_some() {
        return Ok(torch);
    }
    let mut named = torch;
    for pair in [OPEN_MPI, PMI] {
        let Some(second) = read_pair(environment, pair)? else { continue };
        match named {
            Some(first) if (first.rank, first.world_size) != (second.rank, second.world_size) => {
                return Err(IdentityError::Disagreement { first, second });
            }
            Some(_) => {}
            None => named = Some(second),
        }
    }
    match named {
        Some(named) => Ok(Some(named)),
        // A batch script has SLURM_PROCID, and SLURM_NTASKS only if it asked for tasks: half a pair is no error.
        None if environment.bytes(SLURM.0).is_some() && environment.bytes(SLURM.1).is_some() => {
            read_pair(environment, SLURM)
        }
        None => Ok(None),
    }
}

fn read_pair(
    environment: &Environment,
    variables: (&'static str, &'static str),
) -> Result<Option<NamedRank>, IdentityError> {
    let (rank_name, size_name) = variables;
    let named = match (environment.number(rank_name)?, environment.number(size_name)?) {
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(IdentityError::Half { present: rank_name, missing: size_name }),
        (None, Some(_)) => return Err(IdentityError::Half { present: size_name, missing: rank_name }),
        (Some(rank), Some(world_size)) => NamedRank { variables, rank, world_size },
    };
    if named.rank < named.world_size { Ok(Some(named)) } else { Err(IdentityError::OutOfRange(named)) }
}

fn checked_address(address: &str) -> Result<&str, ConfigError> {
    let port =
        address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(port)) if port != 0 => Ok(address),
        _ => Err(ConfigError::new(
            env::EFARUN_BOOTSTRAP,
            address,
            "host:port, with a port that all ranks know",
        )),
    }
}

fn admission(environment: &Environment) -> Result<Admission, ConfigError> {
    let insecure = match environment.text(env::EFARUN_INSECURE)? {
        None | Some("0") => false,
        Some("1") => true,
        Some(value) => return Err(ConfigError::new(env::EFARUN_INSECURE, value, "0 or 1")),
    };
    Ok(match environment.bytes(env::EFARUN_KEY_FILE) {
        Some(path) => Admission::KeyFile(PathBuf::from(path)),
        None if insecure => Admission::Anybody,
        None => Admission::Loopback,
    })
}

const EFARUN: (&str, &str) = (env::EFARUN_RANK, env::EFARUN_WORLD_SIZE);
const TORCH: (&str, &str) = ("RANK", "WORLD_SIZE");
const OPEN_MPI: (&str, &str) = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
const PMI: (&str, &str) = ("PMI_RANK", "PMI_SIZE");
const SLURM: (&str, &str) = ("SLURM_PROCID", "SLURM_NTASKS");
/// Set by torchrun in every worker: RANK is its own then, whatever else is inherited.
const TORCHRUN_MARK: &str = "TORCHELASTIC_RUN_ID";

#[cfg(test)]
mod tests {
    use super::*;

    /// `detect` on "A=1 B=2".
    fn detect_in(variables: &str) -> Result<Identity, IdentityError> {
        let pairs = variables.split_whitespace().map(|pair| pair.split_once('=').expect("NAME=VALUE"));
        detect(&pairs.collect())
    }

    fn meeting(rank: u32, world_size: u32, admission: Admission) -> Identity {
        Identity::Meeting { rank: Rank(rank), world_size, address: "10.0.0.1:7000".into(), admission }
    }

    #[test]
    fn nothing_or_a_world_of_one_stands_alone() {
        for variables in
            ["", "HOME=/root RANK=", "RANK=0 WORLD_SIZE=1", "PMI_RANK=0 PMI_SIZE=1 EFARUN_BOOTSTRAP=h:1"]
        {
            assert_eq!(detect_in(variables), Ok(Identity::Alone), "{variables}");
        }
    }

    #[test]
    fn efarun_names_rank_and_socket_whatever_else_is_set() {
        let identity = detect_in("EFARUN_AGENT_FD=5 EFARUN_RANK=3 EFARUN_WORLD_SIZE=4 RANK=0 WORLD_SIZE=9");
        assert_eq!(identity, Ok(Identity::Agent { rank: Rank(3), world_size: 4, fd: 5 }));
        assert_eq!(detect_in("EFARUN_AGENT_FD=5"), Err(IdentityError::AgentWithoutRank));
        assert_eq!(detect_in("EFARUN_AGENT_FD=5 RANK=0 WORLD_SIZE=2"), Err(IdentityError::AgentWithoutRank));
        assert!(detect_in("EFARUN_AGENT_FD=x EFARUN_RANK=0 EFARUN_WORLD_SIZE=2").is_err());
    }

    #[test]
    fn every_launcher_names_a_rank() {
        for (rank, size) in [EFARUN, TORCH, OPEN_MPI, PMI, SLURM] {
            let identity = detect_in(&format!("{rank}=2 {size}=3 EFARUN_BOOTSTRAP=10.0.0.1:7000"));
            assert_eq!(identity, Ok(meeting(2, 3, Admission::Loopback)), "{rank}");
        }
    }

    #[test]
    fn launchers_that_disagree_are_both_named() {
        let variables = "RANK=1 WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=4";
        let text = detect_in(variables).expect_err("they disagree").to_string();
        let said = "RANK=1, WORLD_SIZE=4 and OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=4 disagree";
        assert!(text.starts_with(said) && text.contains("EFARUN_RANK"), "{text}");
        let sizes = "PMI_RANK=1 PMI_SIZE=2 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4";
        assert!(matches!(detect_in(sizes), Err(IdentityError::Disagreement { .. })));
        let settled = format!("{variables} EFARUN_RANK=2 EFARUN_WORLD_SIZE=4 EFARUN_BOOTSTRAP=10.0.0.1:7000");
        assert_eq!(detect_in(&settled), Ok(meeting(2, 4, Admission::Loopback)));
    }

    #[test]
    fn torchrun_is_within_what_started_it_and_slurm_is_around_everything() {
        let torch = "RANK=9 WORLD_SIZE=16 TORCHELASTIC_RUN_ID=none EFARUN_BOOTSTRAP=10.0.0.1:7000";
        for outer in ["OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2", "SLURM_PROCID=1 SLURM_NTASKS=2"] {
            assert_eq!(detect_in(&format!("{torch} {outer}")), Ok(meeting(9, 16, Admission::Loopback)));
        }
        let mpi = "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 SLURM_PROCID=0 SLURM_NTASKS=8";
        let identity = detect_in(&format!("{mpi} EFARUN_BOOTSTRAP=10.0.0.1:7000"));
        assert_eq!(identity, Ok(meeting(3, 4, Admission::Loopback)));
        assert_eq!(detect_in("SLURM_PROCID=0"), Ok(Identity::Alone));
    }

    #[test]
    fn half_a_pair_and_impossible_ranks_are_errors() {
        let half = IdentityError::Half { present: "RANK", missing: "WORLD_SIZE" };
        assert_eq!(detect_in("RANK=0"), Err(half));
        let half = IdentityError::Half { present: "PMI_SIZE", missing: "PMI_RANK" };
        assert_eq!(detect_in("PMI_SIZE=2"), Err(half));
        assert!(matches!(detect_in("RANK=2 WORLD_SIZE=2"), Err(IdentityError::OutOfRange(_))));
        assert!(matches!(detect_in("RANK=0 WORLD_SIZE=0"), Err(IdentityError::OutOfRange(_))));
        assert!(matches!(detect_in("RANK=-1 WORLD_SIZE=2"), Err(IdentityError::Config(_))));
    }

    #[test]
    fn more_than_one_rank_needs_a_meeting_point_and_the_error_says_what_to_set() {
        let text =
            detect_in("RANK=1 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=1").expect_err("refused").to_string();
        for word in ["rank 1 of 2", "EFARUN_BOOTSTRAP=HOST:PORT", "not MASTER_PORT", "EFARUN_KEY_FILE"] {
            assert!(text.contains(word), "{text}");
        }
        let error = detect_in("EFARUN_BOOTSTRAP=10.0.0.1:7000").expect_err("refused");
        assert_eq!(error, IdentityError::MeetingWithoutRank("10.0.0.1:7000".into()));
        for address in ["host", "host:", ":7000", "host:0", "host:70000"] {
            let error =
                detect_in(&format!("RANK=0 WORLD_SIZE=2 EFARUN_BOOTSTRAP={address}")).expect_err("refused");
            assert!(error.to_string().contains(address), "{error}");
        }
    }

    #[test]
    fn a_key_file_wins_over_insecure() {
        let base = "RANK=0 WORLD_SIZE=2 EFARUN_BOOTSTRAP=10.0.0.1:7000";
        let key = Admission::KeyFile("/k".into());
        assert_eq!(
            detect_in(&format!("{base} EFARUN_KEY_FILE=/k EFARUN_INSECURE=1")),
            Ok(meeting(0, 2, key))
        );
        assert_eq!(detect_in(&format!("{base} EFARUN_INSECURE=1")), Ok(meeting(0, 2, Admission::Anybody)));
        assert_eq!(detect_in(&format!("{base} EFARUN_INSECURE=0")), Ok(meeting(0, 2, Admission::Loopback)));
        assert!(detect_in(&format!("{base} EFARUN_INSECURE=yes")).is_err());
    }
}
