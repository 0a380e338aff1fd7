use std::collections::{BTreeMap, BTreeSet};

use super::error::{OobError, check_size};
use super::event::EventSequencer;
use super::gather::{Blobs, check_blob, check_key};
use super::{MAX_OPEN_GATHERS, MAX_OPEN_REQUESTS, MAX_REQUEST_BYTES};
use crate::ids::Rank;
use crate::message::{Event, EventKind, GatherKey, OobDown, OobUp, Participants, Target};

/// A rank's end of the out-of-band primitives. Its owner sends each message that it gives, in order, and hands in
/// each that arrives.
#[derive(Debug)]
pub struct Client {
    rank: Rank,
    world_size: u32,
    epochs: BTreeMap<(String, Participants), u32>,
    gathers: BTreeSet<GatherKey>,
    requests: BTreeSet<u64>,
    next_token: u64,
    sequencer: EventSequencer,
    lost: BTreeMap<Rank, String>,
}

/// What a rank learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// An allgather is complete.
    Gathered {
        /// What [`Client::gather`] gave.
        key: GatherKey,
        /// One blob per participant, ascending.
        blobs: Vec<(Rank, Vec<u8>)>,
    },
    /// An allgather will never be complete.
    GatherFailed {
        /// What [`Client::gather`] gave.
        key: GatherKey,
        /// The participant that is lost.
        lost: Rank,
        /// How it was lost, as a lowercase fragment.
        cause: String,
    },
    /// Somebody asks this rank; it answers by [`Client::reply`].
    Requested {
        /// Who asks.
        from: Target,
        /// Theirs; goes into the reply.
        token: u64,
        /// The question.
        body: Vec<u8>,
    },
    /// The answer to a request of this rank.
    Replied {
        /// What [`Client::request`] gave.
        token: u64,
        /// The answer, or why there is none.
        body: Result<Vec<u8>, String>,
    },
    /// What everybody learns, in order and without gaps.
    Happened(Event),
}

impl Client {
    /// The client of this rank in a world of this size.
    pub fn new(rank: Rank, world_size: u32) -> Client {
        Client {
            rank,
            world_size,
            epochs: BTreeMap::new(),
            gathers: BTreeSet::new(),
            requests: BTreeSet::new(),
            next_token: 1,
            sequencer: EventSequencer::new(),
            lost: BTreeMap::new(),
        }
    }

    /// This rank.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// Contributes to an allgather. The n-th call with an id and participants on one rank meets the n-th call with
    /// the same on each of the others. It ends in [`ClientEvent::Gathered`] or [`ClientEvent::GatherFailed`].
    ///
    /// # Errors
    ///
    /// [`OobError`] when the call cannot be made: a participant is lost, this rank is not one, the participants are
    /// not ascending ranks of the world, something is too large, or too many allgathers are open. The call then
    /// does not count.
    pub fn gather(
        &mut self,
        id: &str,
        participants: Participants,
        blob: Vec<u8>,
    ) -> Result<(GatherKey, OobUp), OobError> {
        let name = (id.to_owned(), participants.clone());
        let epoch = self.epochs.get(&name).copied().unwrap_or(0);
        let key = GatherKey { id: id.to_owned(), epoch, participants };
        check_key(&key, self.world_size)?;
        check_blob(&key, self.rank, &blob, self.world_size)?;
        if let Some(rank) = self.lost.keys().find(|rank| key.participants.contains(**rank, self.world_size)) {
            return Err(OobError::ParticipantLost { rank: *rank, id: key.id });
        }
        if self.gathers.len() >= MAX_OPEN_GATHERS {
            return Err(OobError::TooManyOpenGathers { rank: self.rank, limit: MAX_OPEN_GATHERS });
        }
        self.epochs.insert(name, epoch.wrapping_add(1));
        self.gathers.insert(key.clone());
        let blobs = vec![(self.rank, blob)];
        Ok((key.clone(), OobUp::Gather { key, blobs }))
    }

    /// Asks somebody. It ends in one [`ClientEvent::Replied`] with the token given here, an error if nobody is there
    /// to answer.
    ///
    /// # Errors
    ///
    /// [`OobError::TooLarge`] or [`OobError::TooManyOpenRequests`].
    pub fn request(&mut self, to: Target, body: Vec<u8>) -> Result<(u64, OobUp), OobError> {
        check_size("a request", body.len(), MAX_REQUEST_BYTES)?;
        let from = Target::Rank(self.rank);
        if self.requests.len() >= MAX_OPEN_REQUESTS {
            return Err(OobError::TooManyOpenRequests { asker: from, limit: MAX_OPEN_REQUESTS });
        }
        let token = self.next_token;
        self.next_token += 1;
        self.requests.insert(token);
        Ok((token, OobUp::Request { from, to, token, body }))
    }

    /// Answers a [`ClientEvent::Requested`].
    ///
    /// # Errors
    ///
    /// [`OobError::TooLarge`].
    pub fn reply(&self, to: Target, token: u64, body: Result<Vec<u8>, String>) -> Result<OobUp, OobError> {
        check_size("a reply", body.as_ref().map_or_else(String::len, Vec::len), MAX_REQUEST_BYTES)?;
        Ok(OobUp::Reply { to, token, body })
    }

    /// Gives up for everybody, with the exit code that the job should have.
    pub fn abort(&self, code: i32, reason: &str) -> OobUp {
        OobUp::Abort { rank: self.rank, code, reason: reason.to_owned() }
    }

    /// How a rank was lost, if it was.
    pub fn lost(&self, rank: Rank) -> Option<&str> {
        self.lost.get(&rank).map(String::as_str)
    }

    /// Handles what the hub sent. Results of allgathers and replies that nobody waits for vanish.
    ///
    /// # Errors
    ///
    /// [`OobError::EventsMissing`] when the hub is broken.
    pub fn receive(&mut self, message: OobDown) -> Result<Vec<ClientEvent>, OobError> {
        Ok(match message {
            OobDown::Gathered { key, blobs } => self.gathered(key, blobs).into_iter().collect(),
            OobDown::Request { from, token, body, .. } => vec![ClientEvent::Requested { from, token, body }],
            OobDown::Reply { token, body, .. } => {
                let awaited = self.requests.remove(&token);
                awaited.then_some(ClientEvent::Replied { token, body }).into_iter().collect()
            }
            OobDown::Event(event) => {
                let events = self.sequencer.receive(event)?;
                events.into_iter().flat_map(|event| self.happened(event)).collect()
            }
        })
    }

    fn gathered(&mut self, key: GatherKey, blobs: Blobs) -> Option<ClientEvent> {
        self.gathers.remove(&key).then_some(ClientEvent::Gathered { key, blobs })
    }

    fn happened(&mut self, event: Event) -> Vec<ClientEvent> {
        let mut learned = vec![ClientEvent::Happened(event.clone())];
        if let EventKind::RankLost { rank, cause } = event.kind {
            let (failed, open) = std::mem::take(&mut self.gathers)
                .into_iter()
                .partition::<BTreeSet<_>, _>(|key| key.participants.contains(rank, self.world_size));
            self.gathers = open;
            let fail = |key| ClientEvent::GatherFailed { key, lost: rank, cause: cause.clone() };
            learned.extend(failed.into_iter().map(fail));
            self.lost.insert(rank, cause);
        }
        learned
    }
}
