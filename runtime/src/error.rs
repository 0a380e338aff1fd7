//! What can go wrong with a World, by who can act on it.

use std::fmt;
use std::time::Duration;

use efarun_wire::Rank;

use crate::bootstrap::BootstrapError;
use crate::coll::executor::ExecError;
use crate::coll::executor::error::behind;
use crate::coll::fault::Wait;
use crate::coll::select::NoSuchAlgorithm;
use crate::config::ConfigError;
use crate::cuda::CudaError;
use crate::transport::TransportError;

/// Why a World could not be made, or an operation on it failed.
///
/// After any error of an operation the World is broken: the ranks no longer agree on what was done. It then answers
/// every call with [`Error::Broken`], and can only be dropped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting cannot be meant.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The ranks could not meet, or lost each other while they set the World up or closed it.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// Two ranks were started with settings that must agree and do not.
    #[error(
        "rank {rank} has {setting}={value:?}, rank {other} has {other_value:?}: set it alike on all ranks"
    )]
    Settings {
        /// One rank.
        rank: Rank,
        /// The setting.
        setting: String,
        /// Its value there.
        value: String,
        /// Another rank.
        other: Rank,
        /// Its value there.
        other_value: String,
    },
    /// Shared memory was asked for, and ranks of one host cannot share any.
    #[error(
        "EFARUN_LOCAL_TRANSPORT=shm, but ranks {rank} and {other} on {hostname} cannot share memory ({reason}); \
         auto uses the network between them"
    )]
    NotLocal {
        /// This rank.
        rank: Rank,
        /// Another of the same host.
        other: Rank,
        /// The host.
        hostname: String,
        /// What differs.
        reason: String,
    },
    /// This rank's transport could not be set up.
    #[error("rank {rank} cannot use {transport}: {cause}")]
    Setup {
        /// This rank.
        rank: Rank,
        /// `shared memory`, `libfabric`, `TCP`.
        transport: &'static str,
        /// Why, and what to try.
        cause: String,
    },
    /// Another rank could not set itself up, and said why.
    #[error("rank {rank} could not join the world: {cause}")]
    PeerSetup {
        /// That rank; the lowest, where there are several.
        rank: Rank,
        /// What it said.
        cause: String,
    },
    /// The buffers of a call do not fit together. No other rank has learned of the call, and the World is not broken.
    #[error("{operation}: the input has {input_len} elements and the output {output_len}; {rule}")]
    Lengths {
        /// The operation.
        operation: &'static str,
        /// Elements of the input.
        input_len: usize,
        /// Elements of the output.
        output_len: usize,
        /// What the lengths must be to each other.
        rule: String,
    },
    /// A buffer cannot be cut into a block per rank. No other rank has learned of the call, and the World is not broken.
    #[error("{operation}: {len} elements cannot be cut into {world_size} equal blocks, one per rank")]
    Blocks {
        /// The operation.
        operation: &'static str,
        /// Elements of the buffer.
        len: usize,
        /// World size.
        world_size: u32,
    },
    /// The root of a call is no rank. No other rank has learned of the call, and the World is not broken.
    #[error("{operation}: root {root} is not in this world of {world_size} ranks")]
    Root {
        /// The operation.
        operation: &'static str,
        /// The root.
        root: Rank,
        /// World size.
        world_size: u32,
    },
    /// The algorithm of a call is none of its collective's. No other rank has learned of the call, and the World is not
    /// broken.
    #[error(transparent)]
    Algorithm(#[from] NoSuchAlgorithm),
    /// An operation did not get on for as long as its deadline allows.
    #[error("{place}: waited {:.1} s for {wait}{}", waited.as_secs_f64(), behind(stall))]
    Timeout {
        /// Where.
        place: Place,
        /// Whom it waited for.
        peer: Rank,
        /// What it waited for.
        wait: Wait,
        /// How long.
        waited: Duration,
        /// What is known about it: by the transport, and of who has come how far.
        stall: Option<String>,
    },
    /// Two ranks called different operations, or the same in another order or with another type, count or reduction.
    #[error("{place}: rank {peer} called something else: it {difference}")]
    Mismatch {
        /// Where.
        place: Place,
        /// The other rank.
        peer: Rank,
        /// What is known of the difference.
        difference: String,
    },
    /// A rank is gone.
    #[error("{place}: rank {peer} is lost: {cause}")]
    PeerLost {
        /// Where.
        place: Place,
        /// The rank.
        peer: Rank,
        /// How it was lost.
        cause: String,
    },
    /// CUDA failed on this rank.
    #[error("rank {rank}: {cause}")]
    Gpu {
        /// This rank.
        rank: Rank,
        /// The call and the device.
        #[source]
        cause: CudaError,
    },
    /// A call on GPU memory, where the World has no GPU. No other rank has learned of it, and the World is not broken.
    #[error("{operation} on a stream: this World has no GPU: call use_device before, on every rank")]
    NoDevice {
        /// The operation.
        operation: &'static str,
    },
    /// Somebody gave up for everybody.
    #[error("{place}: {} ended the job: {reason}", aborter_text(*.rank))]
    Aborted {
        /// Where.
        place: Place,
        /// The rank that gave up; none if it was the launcher or its user.
        rank: Option<Rank>,
        /// Why.
        reason: String,
    },
    /// A transport failed.
    #[error("{place}: {cause}")]
    Transport {
        /// Where.
        place: Place,
        /// What it said.
        #[source]
        cause: TransportError,
    },
    /// The bootstrap failed while an operation ran: the agent of this node or the meeting point is gone.
    #[error("{place}: {cause}")]
    BootstrapLost {
        /// Where.
        place: Place,
        /// What it said.
        #[source]
        cause: BootstrapError,
    },
    /// This library contradicts itself.
    #[error("{place}: {cause}; this is a fault of efarun, please report it")]
    Internal {
        /// Where.
        place: Place,
        /// The contradiction.
        #[source]
        cause: ExecError,
    },
    /// An earlier operation failed.
    #[error("the World is broken since an earlier error and can only be dropped; the error was: {first}")]
    Broken {
        /// The earlier error, as text.
        first: String,
    },
}

impl Error {
    /// The same error of another operation: of the call that an operation of this World was a part of.
    pub(crate) fn within(mut self, operation: &'static str, sequence: u32) -> Error {
        if let Error::Timeout { place, .. }
        | Error::Mismatch { place, .. }
        | Error::PeerLost { place, .. }
        | Error::Aborted { place, .. }
        | Error::Transport { place, .. }
        | Error::BootstrapLost { place, .. }
        | Error::Internal { place, .. } = &mut self
        {
            *place = Place { operation, sequence, step: None, ..place.clone() };
        }
        self
    }
}

/// Where in an operation a rank was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The operation.
    pub operation: &'static str,
    /// Its number among the World's operations, from 0; [`Place::NONE`] outside of one.
    pub sequence: u32,
    /// The rank that reports.
    pub rank: Rank,
    /// The step of its schedule, where one was reached.
    pub step: Option<usize>,
}

impl Place {
    /// The number of no operation.
    pub const NONE: u32 = u32::MAX;
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { operation, sequence, rank, step } = self;
        if *sequence == Place::NONE {
            return write!(f, "outside of operations on rank {rank}");
        }
        write!(f, "{operation} (operation {sequence} of this World) on rank {rank}")?;
        step.map_or(Ok(()), |step| write!(f, " at step {step}"))
    }
}

fn aborter_text(rank: Option<Rank>) -> String {
    rank.map_or_else(|| "the launcher".to_owned(), |rank| format!("rank {rank}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_between_operations_has_no_number() {
        let place = Place { operation: "nothing", sequence: Place::NONE, rank: Rank(3), step: None };
        assert_eq!(place.to_string(), "outside of operations on rank 3");
        let place = Place { operation: "reduce", sequence: 7, step: Some(2), ..place };
        assert_eq!(place.to_string(), "reduce (operation 7 of this World) on rank 3 at step 2");
    }

    #[test]
    fn what_fails_in_a_part_of_a_call_is_told_of_the_call() {
        let place = Place { operation: "send_receive", sequence: 90, rank: Rank(3), step: Some(2) };
        let lost = Error::PeerLost { place, peer: Rank(1), cause: "it was killed".to_owned() };
        let told = lost.within("all_reduce", 7).to_string();
        assert_eq!(told, "all_reduce (operation 7 of this World) on rank 3: rank 1 is lost: it was killed");
    }
}
