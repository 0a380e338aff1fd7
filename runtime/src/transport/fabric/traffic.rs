//! The rails of a rank, the peers that they lead to, and what is in flight on them: what every protocol needs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::FabricConfig;
use super::address::{Address, RailAddress};
use super::credit::Blocks;
use super::diagnosis::{self, Way};
use super::operation::{Contexts, Operation};
use super::rail::Rail;
use super::rails::Rails;
use super::slot::Cut;
use crate::fabric::{Access, FabricAddress, FabricError, Failure, Info, Memory, MemoryRegion};
use crate::transport::{SendToken, TransportError};
use crate::warning;

/// Open rails and everything that is in flight on them.
#[derive(Debug)]
pub(super) struct Traffic {
    // First, so that their endpoints also close first when all this is dropped by a panic.
    pub(super) rails: Vec<Rail>,
    pub(super) contacts: Vec<Contact>,
    pub(super) contexts: Contexts,
    pub(super) me: Rank,
    pub(super) is_efa: bool,
    /// How the slots of a pair are granted.
    pub(super) blocks: Blocks,
    pub(super) cut: Cut,
    /// What is to be posted as soon as the provider takes it.
    pub(super) wanted: VecDeque<Operation>,
    /// Sends that are over and were not told yet.
    pub(super) completed: Vec<SendToken>,
    /// The first failure after which sends can no longer be told complete.
    pub(super) failure: Option<TransportError>,
    pub(super) counts: Counts,
    /// How long a peer may be refused before it counts as lost. None where completions tell of every loss.
    pub(super) patience: Option<Duration>,
}

/// What was sent, and what landed, for comparing with schedules and with what cards count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages.
    pub messages: u64,
    /// Credits, each of which grants its receiver several messages.
    pub credits: u64,
    /// Their payloads' bytes, by rail.
    pub payload_bytes: Vec<u64>,
    /// Regions of callers' memory that were registered.
    pub regions: u64,
    /// Messages that came to where they belong, not into a slot.
    pub landed: u64,
}

/// Where a peer is, and whether it still can be reached.
#[derive(Debug, Default)]
pub(super) struct Contact {
    /// One per rail; none before it is known.
    pub(super) addresses: Vec<FabricAddress>,
    /// Its host and its cards, for people.
    host: String,
    nics: Vec<String>,
    /// Since when the provider has refused what goes to this peer, though there was a connection to it.
    pub(super) refused_since: Option<Instant>,
    /// Why it cannot be reached any more.
    pub(super) lost: Option<String>,
}

impl Traffic {
    /// Opens a rail per info, for pairs of ranks that have up to `per_peer` operations in flight on it, which `contexts`
    /// has room for.
    pub(super) fn open(
        infos: &[Info],
        config: &FabricConfig,
        cut: Cut,
        per_peer: usize,
        contexts: Contexts,
    ) -> Result<Self, FabricError> {
        let world_size = config.world_size as usize;
        let rails: Result<Vec<Rail>, FabricError> =
            infos.iter().map(|info| Rail::open(info, world_size, per_peer, cut.piece_bytes)).collect();
        let is_efa = infos.iter().any(Info::is_efa);
        Ok(Traffic {
            rails: rails?,
            contacts: (0..world_size).map(|_| Contact::default()).collect(),
            contexts,
            me: Rank(0),
            is_efa,
            blocks: Blocks::of(config.slots),
            cut,
            wanted: VecDeque::new(),
            completed: Vec::new(),
            failure: None,
            counts: Counts { payload_bytes: vec![0; infos.len()], ..Counts::default() },
            patience: (!is_efa).then_some(config.patience),
        })
    }

    /// The rails' own addresses.
    pub(super) fn addresses(&self) -> Result<Vec<RailAddress>, FabricError> {
        self.rails.iter().map(Rail::address).collect()
    }

    /// Learns how to reach a peer, which has as many rails.
    pub(super) fn insert(&mut self, peer: Rank, theirs: &Address) -> Result<(), TransportError> {
        let inserted: Result<Vec<_>, FabricError> =
            self.rails.iter().zip(&theirs.rails).map(|(rail, theirs)| rail.insert(&theirs.raw)).collect();
        let inserted = inserted?;
        let contact = self.contacts.get_mut(peer.index()).ok_or(TransportError::NoRoute { peer })?;
        contact.addresses = inserted;
        contact.host = theirs.host.clone();
        contact.nics = theirs.rails.iter().map(|rail| rail.nic.clone()).collect();
        Ok(())
    }

    /// Whether it is known how to reach a peer.
    pub(super) fn reachable(&self, peer: Rank) -> Result<(), TransportError> {
        match self.contacts.get(peer.index()) {
            Some(contact) if !contact.addresses.is_empty() => Ok(()),
            _ => Err(TransportError::NoRoute { peer }),
        }
    }

    /// Room in every rail's queue for one end of a pair.
    pub(super) fn reserve(&mut self, operations: usize) -> Result<(), TransportError> {
        self.rails.iter_mut().try_for_each(|rail| rail.reserve(operations))
    }

    /// Regions of memory of ours, one per rail.
    ///
    /// # Safety
    ///
    /// The memory stays allocated until the regions were dropped.
    #[expect(unsafe_code, reason = "the caller's promise, passed on")]
    pub(super) unsafe fn register(
        &self,
        memory: &Memory,
        access: Access,
    ) -> Result<Vec<MemoryRegion>, FabricError> {
        // SAFETY: the caller's promise.
        self.rails.iter().map(|rail| unsafe { rail.register(memory.whole(), access) }).collect()
    }

    /// The first failure after which sends can no longer be told complete.
    pub(super) fn check(&self) -> Result<(), TransportError> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    pub(super) fn fail(&mut self, error: TransportError) {
        self.failure.get_or_insert(error);
    }

    /// What goes to this peer or comes from it never ends.
    pub(super) fn lose(&mut self, peer: Rank, cause: String) {
        self.contacts[peer.index()].lost.get_or_insert(cause);
    }

    /// A send to this peer never ends: an error for whoever waits for any.
    pub(super) fn lose_send(&mut self, peer: Rank, cause: String) -> TransportError {
        let error = TransportError::PeerLost { peer, cause: cause.clone() };
        self.lose(peer, cause);
        self.fail(error.clone());
        error
    }

    /// Notes that the provider refused something for this peer. After a while the peer is lost, which is told: tcp
    /// providers never say that a connection is gone, they make new ones for ever.
    pub(super) fn lost_by_refusal(&mut self, peer: Rank) -> Option<String> {
        let patience = self.patience?;
        let contact = &mut self.contacts[peer.index()];
        let since = *contact.refused_since.get_or_insert_with(Instant::now);
        if contact.lost.is_none() && since.elapsed() > patience {
            contact.lost = Some(format!("its connection is gone, and no new one was made in {patience:?}"));
        }
        contact.lost.clone()
    }

    /// Leaves out, on the way to a peer, the rail on which an operation failed, and says so once. Not where the failure is
    /// not of the way, or no other rail is left.
    pub(super) fn leave_rail(&self, avoided: &mut Rails, failure: &Failure, peer: Rank, rail: usize) -> bool {
        let without = avoided.with(rail);
        let left = without.left(self.rails.len());
        if !diagnosis::is_of_the_way(failure) || left == 0 {
            return false;
        }
        if without != *avoided {
            *avoided = without;
            let cause = self.explain(failure, peer, rail);
            let rails = if left == 1 { "rail" } else { "rails" };
            let text =
                format_args!("goes on to rank {peer} over {left} {rails}, without one that failed: {cause}");
            warning::tell(&format!("fabric: without rail {rail}"), text);
        }
        true
    }

    /// What a failed operation on a rail means.
    pub(super) fn explain(&self, failure: &Failure, peer: Rank, rail: usize) -> String {
        diagnosis::explain(failure, self.way(peer, rail), self.is_efa)
    }

    /// What is known of why so many operations for a peer do not end; nothing where completions do not tell of every loss.
    pub(super) fn explain_stall(&self, under_way: usize, peer: Rank) -> Option<String> {
        (self.is_efa && under_way > 0).then(|| diagnosis::explain_stall(under_way, self.way(peer, 0)))
    }

    fn way(&self, peer: Rank, rail: usize) -> Way<'_> {
        let contact = &self.contacts[peer.index()];
        let peer_nic = contact.nics.get(rail).map_or("", String::as_str);
        Way { nic: &self.rails[rail].nic, peer_nic, peer_host: &contact.host }
    }
}
