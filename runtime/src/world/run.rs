//! One operation on a World: number it, choose its schedule, run it, and say what went wrong.

use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::plans::{Kept, Key, Plans, Surroundings, Way};
use super::report::Carrier;
use super::whereabouts::whereabouts;
use super::{Options, Peers, World};
use crate::bootstrap::{BootstrapError, OobConnection};
use crate::coll::buffers::Buffers;
use crate::coll::collective::Collective;
use crate::coll::executor::error::difference;
use crate::coll::executor::signature::Signature;
use crate::coll::executor::spin::Spin;
use crate::coll::executor::{Beside, Call, ExecError, Interrupt};
use crate::coll::plan::TakenOver;
use crate::coll::select::{Choice, MessageLimits};
use crate::coll::sim::Model;
use crate::element::ReduceOp;
use crate::error::{Error, Place};
use crate::leaf::Leaves;
use crate::transport::shm::board::Board;
use crate::transport::{Transport, TransportError};

impl World {
    /// Runs this rank's part of a collective. In a world of one rank that is a copy, where the buffers are apart.
    pub(super) fn run(
        &mut self,
        collective: Collective,
        count: usize,
        mut buffers: Buffers<'_>,
        op: ReduceOp,
        options: &Options,
    ) -> Result<(), Error> {
        if let Some(first) = &self.broken {
            return Err(Error::Broken { first: first.clone() });
        }
        let choice = self.choice(collective, options);
        let patience = options.deadline.unwrap_or(self.config.deadline);
        let (rank, world_size) = (self.rank, self.world_size());
        let (Some(peers), Some(oob)) = (&mut self.peers, &mut self.oob) else {
            Plans::check(choice, collective)?;
            self.sequence = self.sequence.wrapping_add(1);
            buffers.copy_through();
            return Ok(());
        };
        let Peers { transport, limits, between, executor, plans, leaves, nodes, model } = peers;
        let key = Key { collective, choice, count, element: buffers.element(), op };
        let nodes = nodes.as_ref();
        let surroundings = Surroundings {
            rank,
            world_size,
            limits: *limits,
            between: *between,
            leaves: leaves.is_some(),
            nodes,
            model,
        };
        let kept = plans.find(key, surroundings)?;
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        // On one node all see it on each other's boards.
        if let (Ok(kept), true) = (&kept, leaves.is_none() || nodes.is_some()) {
            oob.begin(sequence, kept.signature.numbered(sequence).0);
        }
        let call = Call { sequence, op, buffers, patience };
        let mut told = None;
        let mut interrupt = || {
            let error = oob.check_events().err()?;
            let interrupt = interrupt_of(&error);
            told = Some(error);
            Some(interrupt)
        };
        let result = match (kept, &mut *leaves) {
            (Err(fault), _) => Err(ExecError::from(fault)),
            (Ok(Kept { signature, way: Way::Leaf(leaf) }), Some(leaves)) => {
                let signature = signature.numbered(sequence);
                let result = leaves.run(*leaf, collective, signature, call, &mut interrupt);
                // Tells the others that this rank is gone.
                result.inspect_err(|_| transport.close())
            }
            (Ok(Kept { signature, way: Way::Messages(plan) }), Some(leaves)) => {
                let signature = signature.numbered(sequence);
                leaves.enter(sequence, signature);
                let mut beside = BesideLeaves { leaves, interrupt: &mut interrupt, sequence, signature };
                executor.run_beside(plan, call, transport.as_mut(), &mut beside)
            }
            (Ok(Kept { way: Way::Messages(plan), .. }), None) => {
                executor.run(plan, call, transport.as_mut(), &mut interrupt)
            }
            (Ok(Kept { way: Way::Leaf(leaf), .. }), None) => {
                unreachable!("{leaf} was selected where there are no leaves")
            }
        };
        let Err(error) = result else { return Ok(()) };
        let is_efa = self.report.iter().any(|line| line.carrier == Carrier::Efa);
        let place = |step| Place { operation: collective.name(), sequence, rank: self.rank, step };
        let error = match (told, error) {
            (Some(told), error) => with_way(explain_told(place(step_of(&error)), told), &**transport),
            (None, error) => {
                let whereabouts = |oob: &mut _| whereabouts(leaves.as_ref(), oob, &self.topology);
                explain(error, &place, oob, is_efa, &whereabouts)
            }
        };
        self.broken = Some(error.to_string());
        Err(error)
    }

    /// The algorithm that is asked for: the call's, else the World's as far as the collective has it.
    pub(super) fn choice(&self, collective: Collective, options: &Options) -> Choice {
        options.algorithm.unwrap_or_else(|| self.config.algorithm.where_it_exists(collective))
    }

    /// By which algorithms are compared. The same on all ranks, as on one node all share memory, and on several all reach
    /// others by the same network.
    pub(super) fn model(&self) -> Model {
        let carried_by = |carrier| self.transport_report().iter().any(|line| line.carrier == carrier);
        if carried_by(Carrier::Sockets) {
            Model::TCP
        } else if carried_by(Carrier::Efa) || carried_by(Carrier::Fabric) {
            Model::EFA
        } else {
            Model::SHARED_MEMORY
        }
    }

    /// What schedules are made for. In a world of one rank nothing is sent, and no message is too long.
    pub(super) fn messages(&self) -> MessageLimits {
        let none = MessageLimits {
            slot_bytes: usize::MAX,
            min_segment_bytes: 1,
            min_exchange_bytes: 1,
            quick_bytes: None,
            credits: 2,
        };
        self.peers.as_ref().map_or(none, |peers| peers.limits.messages())
    }
}

/// What goes on beside messages on a node with others.
struct BesideLeaves<'a> {
    leaves: &'a mut Leaves,
    interrupt: &'a mut dyn FnMut() -> Option<Interrupt>,
    sequence: u32,
    signature: Signature,
}

impl Beside for BesideLeaves<'_> {
    fn interrupt(&mut self) -> Option<Interrupt> {
        let (sequence, signature) = (self.sequence, self.signature);
        let differing = || differing(self.leaves.differing(sequence, signature)?, sequence, signature);
        (self.interrupt)().or_else(differing)
    }

    fn take_over(
        &mut self,
        stage: &TakenOver,
        signature: Signature,
        call: Call<'_>,
    ) -> Result<(), ExecError> {
        let TakenOver { leaf, collective, .. } = *stage;
        self.leaves.run_part(leaf, collective, signature, call, false, self.interrupt)
    }
}

/// What the executor said, in terms of the World. `whereabouts` says who is where, if that is known.
pub(super) fn explain(
    error: ExecError,
    place: &dyn Fn(Option<usize>) -> Place,
    oob: &mut OobConnection,
    is_efa: bool,
    whereabouts: &dyn Fn(&mut OobConnection) -> Option<String>,
) -> Error {
    let place = place(step_of(&error));
    match error {
        ExecError::Mismatch { peer, sequence, peer_sequence, signature, peer_signature, .. } => {
            let difference = difference((sequence, signature), (peer_sequence, peer_signature));
            Error::Mismatch { place, peer, difference }
        }
        ExecError::MessageLen { peer, expected_bytes, found_bytes, .. } => {
            let difference = format!("sent {found_bytes} bytes where {expected_bytes} belong");
            Error::Mismatch { place, peer, difference }
        }
        ExecError::Interrupted { interrupt: Interrupt::CallsDiffer { rank, difference }, .. } => {
            Error::Mismatch { place, peer: rank, difference }
        }
        ExecError::Timeout { wait, waited, stall, .. } => {
            let known: Vec<String> = stall.into_iter().chain(whereabouts(oob)).collect();
            let stall = (!known.is_empty()).then(|| known.join("; "));
            Error::Timeout { place, peer: wait.peer(), wait, waited, stall }
        }
        ExecError::Transport { source: TransportError::PeerLost { peer, cause }, .. } => {
            // A peer that gave up says why in the bootstrap, and that may be on its way yet.
            match await_reason(oob) {
                // A peer that was cut off may have ended for the same reason as this rank is about to; what the card says
                // leads further than that it did.
                Some(BootstrapError::RankLost { rank, cause: told }) if rank == peer && is_efa => {
                    Error::PeerLost { place, peer, cause: format!("{cause}; and of its process: {told}") }
                }
                Some(told) => explain_told(place, told),
                // It may have given up because it waited in vain, for the same rank as this one.
                None => {
                    let known = whereabouts(oob).map_or_else(String::new, |known| format!("; {known}"));
                    Error::PeerLost { place, peer, cause: cause + &known }
                }
            }
        }
        ExecError::Transport { source, .. } => Error::Transport { place, cause: source },
        error => Error::Internal { place, cause: error },
    }
}

/// What the bootstrap said while the operation waited.
pub(super) fn explain_told(place: Place, told: BootstrapError) -> Error {
    match told {
        BootstrapError::RankLost { rank, cause } => Error::PeerLost { place, peer: rank, cause },
        BootstrapError::Aborted { rank, reason } => Error::Aborted { place, rank, reason },
        told => Error::BootstrapLost { place, cause: told },
    }
}

/// Adds over what a rank that is lost was reached, which how its process ended does not tell.
pub(super) fn with_way(error: Error, transport: &dyn Transport) -> Error {
    match error {
        Error::PeerLost { place, peer, cause } => {
            let way = transport.way(peer).map_or_else(String::new, |way| {
                format!(" (it was reached {way}); what that rank and its host said last tells why")
            });
            Error::PeerLost { place, peer, cause: cause + &way }
        }
        error => error,
    }
}

/// Waits a moment for what the bootstrap has to say about a peer that is gone.
fn await_reason(oob: &mut OobConnection) -> Option<BootstrapError> {
    let deadline = Instant::now() + REASON_PATIENCE;
    loop {
        if let Err(told) = oob.check_events() {
            return Some(told);
        }
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        oob.sleep(left);
    }
}

pub(super) fn interrupt_of(told: &BootstrapError) -> Interrupt {
    match told {
        BootstrapError::RankLost { rank, cause } => Interrupt::RankLost { rank: *rank, cause: cause.clone() },
        BootstrapError::Aborted { rank, reason } => {
            Interrupt::Aborted { rank: *rank, reason: reason.clone() }
        }
        told => Interrupt::LinkLost { cause: told.to_string() },
    }
}

/// A rank that is in another call of the same number.
fn differing((rank, theirs): (Rank, Signature), sequence: u32, signature: Signature) -> Option<Interrupt> {
    let difference = difference((sequence, signature), (sequence, theirs));
    Some(Interrupt::CallsDiffer { rank, difference })
}

pub(super) fn step_of(error: &ExecError) -> Option<usize> {
    match error {
        ExecError::Mismatch { step, .. }
        | ExecError::MessageLen { step, .. }
        | ExecError::Timeout { step, .. }
        | ExecError::Interrupted { step, .. }
        | ExecError::Transport { step, .. } => Some(*step),
        _ => None,
    }
}

/// How long to spin at most before sleeping: not at all where a rank that spins keeps libfabric's tcp provider from moving its
/// bytes. 0.3 ms cover the time between two segments of a long message; at 20
/// microseconds broadcasts of 2 MiB over TCP took 1.4 times as long, since their receiver slept 40 times in each and its
/// sender woke it.
pub(super) fn spin_for(uses_fabric: bool) -> Duration {
    if uses_fabric { Duration::ZERO } else { SPIN }
}

/// What runs leaves on a rank.
pub(super) fn leaves_of(board: Board, node: Vec<Rank>, me: usize, has_core: bool) -> Leaves {
    match has_core {
        true => Leaves::new(board, node, me, Spin::new(SPIN), LOOKS),
        false => Leaves::new(board, node, me, Spin::crowded(OFFERS), 1),
    }
}

const SPIN: Duration = Duration::from_micros(300);
/// For how long a rank offers its core before it sleeps, among ranks of its node that share cores.
const OFFERS: Duration = Duration::from_micros(100);
/// Looks at a board before the time is asked for: some ten microseconds.
const LOOKS: u32 = 500;
/// Long enough for a peer that fails to say so, short beside what a user waits for.
const REASON_PATIENCE: Duration = Duration::from_secs(1);
