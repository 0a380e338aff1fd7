//! Messages between single ranks.

use std::time::Duration;

use efarun_wire::Rank;

use super::run::{explain, explain_told, interrupt_of, step_of, with_way};
use super::setup::Limits;
use super::whereabouts::whereabouts;
use super::{Peers, World};
use crate::coll::executor::messages::Messages;
use crate::coll::executor::{ExecError, Executor, Interrupt};
use crate::element::Element;
use crate::error::{Error, Place};
use crate::transport::Transport;
use crate::world::report::Carrier;

impl World {
    /// Sends to ranks and receives from ranks, all at the same time. Only ranks that send or receive something call it.
    /// Blocks until what is received is there and what is sent may be written again.
    ///
    /// Of two ranks the n-th message that one sends is the n-th that the other receives, and both say the same length. A
    /// rank can be its own peer.
    ///
    /// # Errors
    ///
    /// As [`World::all_reduce`]; [`Error::Root`] for a peer that is no rank, which breaks nothing.
    pub fn send_receive<T: Element + bytemuck::Pod>(
        &mut self,
        sends: &[(Rank, &[T])],
        receives: &mut [(Rank, &mut [T])],
    ) -> Result<(), Error> {
        let (rank, world_size) = (self.rank, self.world_size());
        let peers = sends.iter().map(|(to, _)| *to).chain(receives.iter().map(|(from, _)| *from));
        if let Some(root) = peers.filter(|peer| peer.0 >= world_size).min() {
            return Err(Error::Root { operation: OPERATION, root, world_size });
        }
        if let Some(first) = &self.broken {
            return Err(Error::Broken { first: first.clone() });
        }
        let mut own = sends.iter().filter(|(to, _)| *to == rank);
        let mut from_others = Vec::with_capacity(receives.len());
        for (from, space) in receives.iter_mut() {
            if *from != rank {
                from_others.push((*from, bytemuck::cast_slice_mut::<T, u8>(space)));
            } else if let Some((_, data)) = own.next() {
                let len = data.len().min(space.len());
                space[..len].copy_from_slice(&data[..len]);
            }
        }
        let sends: Vec<(Rank, &[u8])> = sends
            .iter()
            .filter(|(to, _)| *to != rank)
            .map(|(to, data)| (*to, bytemuck::cast_slice::<T, u8>(data)))
            .collect();
        self.beside_calls(|Means { executor, limits, transport, patience, interrupt }| {
            let slot_bytes = limits.messages().slot_bytes;
            let receives = &mut from_others[..];
            let messages = Messages { sends: &sends, receives, slot_bytes, patience };
            executor.pass_messages(messages, transport, interrupt)
        })
    }

    /// Takes in what has come from a rank, without waiting, for whoever receives it next. Whether something has, or nothing is to be
    /// taken in; what goes wrong is told then.
    pub(crate) fn look_ahead(&mut self, from: Rank) -> bool {
        self.peers.as_mut().is_none_or(|peers| peers.transport.look_ahead(from))
    }

    /// Does something with others that is no collective, and says what went wrong of it.
    pub(super) fn beside_calls(
        &mut self,
        pass: impl FnOnce(Means<'_>) -> Result<(), ExecError>,
    ) -> Result<(), Error> {
        if let Some(first) = &self.broken {
            return Err(Error::Broken { first: first.clone() });
        }
        let (Some(peers), Some(oob)) = (&mut self.peers, &mut self.oob) else { return Ok(()) };
        let Peers { transport, limits, executor, leaves, .. } = peers;
        let mut told = None;
        let mut interrupt = || {
            let error = oob.check_events().err()?;
            let interrupt = interrupt_of(&error);
            told = Some(error);
            Some(interrupt)
        };
        let means = Means {
            executor,
            limits: *limits,
            transport: transport.as_mut(),
            patience: self.config.deadline,
            interrupt: &mut interrupt,
        };
        let Err(error) = pass(means) else { return Ok(()) };
        let rank = self.rank;
        let is_efa = self.report.iter().any(|line| line.carrier == Carrier::Efa);
        let sequence = self.sequence;
        let place = |step| Place { operation: OPERATION, sequence, rank, step };
        let error = match told {
            Some(told) => with_way(explain_told(place(step_of(&error)), told), &**transport),
            None => {
                let whereabouts = |oob: &mut _| whereabouts(leaves.as_ref(), oob, &self.topology);
                explain(error, &place, oob, is_efa, &whereabouts)
            }
        };
        self.broken = Some(error.to_string());
        Err(error)
    }
}

/// By what ranks reach each other, and how long they wait.
pub(super) struct Means<'m> {
    pub(super) executor: &'m mut Executor,
    pub(super) limits: Limits,
    pub(super) transport: &'m mut dyn Transport,
    pub(super) patience: Duration,
    pub(super) interrupt: &'m mut dyn FnMut() -> Option<Interrupt>,
}

const OPERATION: &str = "send_receive";
