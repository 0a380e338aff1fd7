//! Messages between single ranks.

use efarun_wire::Rank;

use super::run::{explain, explain_told, interrupt_of, step_of, with_way};
use super::whereabouts::whereabouts;
use super::{Peers, World};
use crate::coll::executor::messages::Messages;
use crate::element::Element;
use crate::error::{Error, Place};
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
        let (Some(peers), Some(oob)) = (&mut self.peers, &mut self.oob) else { return Ok(()) };
        let Peers { transport, limits, executor, leaves, .. } = peers;
        let mut told = None;
        let mut interrupt = || {
            let error = oob.check_events().err()?;
            let interrupt = interrupt_of(&error);
            told = Some(error);
            Some(interrupt)
        };
        let messages = Messages {
            sends: &sends,
            receives: &mut from_others,
            slot_bytes: limits.messages().slot_bytes,
            patience: self.config.deadline,
        };
        let Err(error) = executor.pass_messages(messages, transport.as_mut(), &mut interrupt) else {
            return Ok(());
        };
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

const OPERATION: &str = "send_receive";
