//! One rank, as its node's server knows it.

use efarun_wire::message::{GatherKey, Participants};

use super::framing::{Framing, Inbox};
use super::keys::Unsent;
use super::peers::{Generation, barrier_id};
use super::request::{Asked, Dialect, Fault, Request, SpawnPart};
use super::{pmi1, pmi2};
use crate::exchange::Rounds;

/// A rank's side of the conversation.
#[derive(Debug)]
pub(super) struct Client {
    /// The number of its program among the job's.
    pub(super) app: u32,
    pub(super) inbox: Inbox,
    /// Bytes that it has sent, all in all.
    pub(super) received_bytes: u64,
    pub(super) dialect: Dialect,
    pub(super) phase: Phase,
    /// Its world, and how often it has finalised.
    pub(super) generation: Generation,
    /// It has initialised at least once.
    pub(super) has_initialised: bool,
    /// What it put since its last barrier of the world.
    pub(super) unsent: Unsent,
    /// Barriers so far in this generation, by whom they were over.
    barriers: Rounds,
    /// Barriers that it waits in.
    pub(super) open_barriers: usize,
    /// What it has said so far of a world that it asks for.
    pub(super) spawning: SpawnPart,
    /// Keys that others are asked for on its behalf.
    pub(super) open_asks: usize,
    /// Nothing of it is looked at any more.
    pub(super) is_closed: bool,
    /// Its process has ended by itself with code 0.
    pub(super) has_ended: bool,
}

/// How far a rank is in its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has said nothing, or has finalised.
    Outside,
    /// It has said that it will speak PMI-2, and not who it is.
    Greeted,
    /// Others may wait for it.
    Within,
}

impl Client {
    /// A rank that has said nothing.
    pub(super) fn new(world: u32, app: u32) -> Client {
        Client {
            app,
            inbox: Inbox::new(),
            received_bytes: 0,
            dialect: Dialect::Pmi1,
            phase: Phase::Outside,
            generation: Generation { world, number: 0 },
            has_initialised: false,
            unsent: Unsent::default(),
            barriers: Rounds::default(),
            open_barriers: 0,
            spawning: SpawnPart::default(),
            open_asks: 0,
            is_closed: false,
            has_ended: false,
        }
    }

    /// Gives its next whole message.
    ///
    /// # Errors
    ///
    /// What is no message.
    pub(super) fn next_request(&mut self) -> Result<Option<Asked>, Fault> {
        let Some(message) = self.inbox.next_message()? else { return Ok(None) };
        let request = match self.dialect {
            Dialect::Pmi1 => (pmi1::parse(&message)?, None),
            Dialect::Pmi2 => pmi2::parse(&message)?,
        };
        self.check_place(&request.0)?;
        Ok(Some(request))
    }

    fn check_place(&self, request: &Request) -> Result<(), Fault> {
        let when = match (self.phase, request) {
            (_, Request::Abort { .. }) | (Phase::Outside, Request::Init { .. }) => return Ok(()),
            (Phase::Greeted, Request::FullInit) => return Ok(()),
            // MPICH 5 does for every MPI session after the first, and goes on with the same keys.
            (Phase::Within, Request::Init { version: 1, .. }) if self.dialect == Dialect::Pmi1 => {
                return Ok(());
            }
            (Phase::Within, Request::Init { .. } | Request::FullInit) => "a second time",
            (Phase::Within, _) => return Ok(()),
            (Phase::Greeted, _) => "before fullinit",
            (Phase::Outside, _) if self.has_initialised => "after finalize",
            (Phase::Outside, _) => "before init",
        };
        Err(Fault::OutOfPlace { command: request.name(), when })
    }

    /// Goes on in another dialect.
    pub(super) fn speak(&mut self, dialect: Dialect) {
        self.dialect = dialect;
        self.inbox.set_framing(match dialect {
            Dialect::Pmi1 => Framing::Lines,
            Dialect::Pmi2 => Framing::Counted,
        });
    }

    /// Leaves its generation; the next begins as the first did.
    pub(super) fn finalise(&mut self) {
        self.speak(Dialect::Pmi1);
        self.phase = Phase::Outside;
        self.generation.number += 1;
        self.unsent = Unsent::default();
        self.barriers.clear();
    }

    /// Names the next barrier over these ranks, and counts it.
    pub(super) fn next_barrier(&mut self, participants: Participants, tag: Option<u32>) -> GatherKey {
        self.barriers.next(barrier_id(self.generation, tag), participants)
    }
}
