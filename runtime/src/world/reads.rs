//! What the relay needs of a World whose cards read GPU memory: the cards, and to say what can be read.

use super::World;
use super::messages::Means;
use crate::coll::executor::talk::Talk;
use crate::error::Error;
use crate::transport::fabric::Network;

impl World {
    /// The EFA cards that reach other nodes, rail by rail, and how; none where others do.
    pub(crate) fn cards(&self) -> Option<(Network, &[String])> {
        self.cards.as_ref().map(|(network, names)| (*network, &names[..]))
    }

    /// Talks to others, and blocks until nothing is waited for and what was said is read.
    ///
    /// # Errors
    ///
    /// As [`World::send_receive`].
    pub(crate) fn talk(&mut self, talk: &mut dyn Talk) -> Result<(), Error> {
        self.beside_calls(|Means { executor, transport, patience, interrupt, .. }| {
            executor.talk(talk, patience, transport, interrupt)
        })
    }

    /// The most that a part of something that is talked carries, the same on all ranks.
    pub(crate) fn part_bytes(&self) -> usize {
        self.peers.as_ref().map_or(usize::MAX, |peers| peers.limits.messages().slot_bytes)
    }
}
