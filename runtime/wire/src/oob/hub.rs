use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::error::{OobError, check_size};
use super::event::EventSequencer;
use super::gather::{Blobs, Gathers, check_blob, check_key, check_ranks};
use super::membership::{Member, Membership};
use super::request::{Hop, Requests};
use super::{MAX_PARKED_REQUESTS, MAX_REASON_BYTES, MAX_REQUEST_BYTES};
use crate::ids::{NodeId, Rank};
use crate::message::{Event, EventKind, GatherKey, OobDown, OobUp, Target};

/// What the owner of a hub does next, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this to the hub above. A root never asks for it.
    ToUpstream(OobUp),
    /// Send this to a member that has joined.
    ToMember(Member, OobDown),
    /// Somebody asks the owner; it answers by [`Hub::reply`].
    RequestForMe {
        /// Who asks.
        from: Target,
        /// Theirs; goes into the reply.
        token: u64,
        /// The question.
        body: Vec<u8>,
    },
    /// The answer to a request of the owner's, by [`Hub::request`].
    ReplyForMe {
        /// What [`Hub::request`] gave.
        token: u64,
        /// The answer, or why there is none.
        body: Result<Vec<u8>, String>,
    },
    /// A rank gives up for everybody. At the root only; the owner decides, and tells by [`Hub::publish`].
    AbortAsked {
        /// The rank.
        rank: Rank,
        /// The exit code that the job should have.
        code: i32,
        /// Why, one line.
        reason: String,
    },
}

/// Where links meet. `R` is [`Root`] or [`Relay`].
#[derive(Debug)]
pub struct Hub<R> {
    role: R,
    members: Membership,
    gathers: Gathers,
    requests: Requests,
    /// Why ranks are lost, for those who ask them something.
    lost: BTreeMap<Rank, String>,
    /// Every event so far, for those who join later. One per lost rank and one per act of the user: few.
    events: Vec<Event>,
    next_token: u64,
}

/// The hub of the head, or of the rank that serves a bootstrap without a launcher.
pub type RootHub = Hub<Root>;

/// The hub of an agent.
pub type RelayHub = Hub<Relay>;

/// The end of the way up: completes allgathers and numbers events.
#[derive(Debug)]
pub struct Root(());

/// A stop on the way up: merges allgathers and passes on events.
#[derive(Debug)]
pub struct Relay {
    node: NodeId,
    sequencer: EventSequencer,
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Root {}
    impl Sealed for super::Relay {}
}

/// What differs between hubs. Sealed: [`Root`] and [`Relay`].
pub trait Role: sealed::Sealed + fmt::Debug {
    /// Whether there is a hub above.
    const HAS_UPSTREAM: bool;

    /// What the hub's owner is called.
    fn me(&self) -> Target;
}

impl Role for Root {
    const HAS_UPSTREAM: bool = false;

    fn me(&self) -> Target {
        Target::Head
    }
}

impl Role for Relay {
    const HAS_UPSTREAM: bool = true;

    fn me(&self) -> Target {
        Target::Node(self.node)
    }
}

impl Hub<Root> {
    /// Looks among the open allgathers whose ids are meant for one that waits for a rank of these, which have ended: gives that
    /// rank, and one that has contributed.
    pub fn awaited_in_vain(
        &self,
        ended: &BTreeSet<Rank>,
        is_meant: impl Fn(&str) -> bool,
    ) -> Option<(Rank, Rank)> {
        self.gathers.awaited_in_vain(ended, is_meant)
    }

    /// The head's hub: these nodes, with these ranks on each.
    pub fn for_head(nodes: impl IntoIterator<Item = (NodeId, Vec<Rank>)>) -> RootHub {
        let nodes: Vec<_> = nodes.into_iter().map(|(node, ranks)| (Member::Node(node), ranks)).collect();
        let ranks = nodes.iter().flat_map(|(member, ranks)| ranks.iter().map(|rank| (*rank, *member)));
        let world_size =
            u32::try_from(ranks.clone().count()).expect("there are as many rank numbers as ranks");
        Hub::new(Root(()), Membership::new(world_size, nodes.iter().map(|(member, _)| *member), ranks))
    }

    /// The hub of a bootstrap without a launcher: every rank is a member.
    pub fn for_server(world_size: u32) -> RootHub {
        let ranks = (0..world_size).map(Rank);
        let members = ranks.clone().map(Member::Rank);
        Hub::new(Root(()), Membership::new(world_size, members, ranks.map(|rank| (rank, Member::Rank(rank)))))
    }

    /// Takes ranks in that have come to a member later: they take part in allgathers that name them, and not in those of
    /// [`Participants::World`](crate::message::Participants::World), which stays what it was.
    pub fn admit(&mut self, member: Member, ranks: impl IntoIterator<Item = Rank>) {
        self.members.admit(member, ranks);
    }

    /// Numbers an event and tells every member. A rank is lost once; saying it again does nothing.
    pub fn publish(&mut self, kind: EventKind) -> Vec<Action> {
        if matches!(&kind, EventKind::RankLost { rank, .. } if self.lost.contains_key(rank)) {
            return Vec::new();
        }
        let sequence = self.events.len() as u64 + 1;
        self.happen(Event { sequence, kind })
    }
}

impl Hub<Relay> {
    /// The hub of this node's agent, with these ranks.
    pub fn for_agent(node: NodeId, ranks: impl IntoIterator<Item = Rank>, world_size: u32) -> RelayHub {
        let ranks: BTreeSet<Rank> = ranks.into_iter().collect();
        let role = Relay { node, sequencer: EventSequencer::new() };
        let members = ranks.iter().copied().map(Member::Rank);
        let members_of = ranks.iter().map(|rank| (*rank, Member::Rank(*rank)));
        Hub::new(role, Membership::new(world_size, members, members_of))
    }

    /// Handles what the hub above sent.
    ///
    /// # Errors
    ///
    /// [`OobError`] when the hub above is broken: it is trusted, so that little is checked.
    pub fn receive_down(&mut self, message: OobDown) -> Result<Vec<Action>, OobError> {
        match message {
            OobDown::Gathered { key, blobs } => Ok(self.gathered(key, blobs)),
            OobDown::Request { from, to, token, body } => match self.hop(to) {
                Ok(Hop::Upstream) => Ok(self.answer(from, token, Err(format!("{to} is not on this node")))),
                Ok(hop) => self.ask(from, to, token, body, hop),
                Err(reason) => Ok(self.answer(from, token, Err(reason))),
            },
            OobDown::Reply { to, token, body } => Ok(self.answered(Hop::Upstream, to, token, body)),
            OobDown::Event(event) => {
                let events = self.role.sequencer.receive(event)?;
                Ok(events.into_iter().flat_map(|event| self.happen(event)).collect())
            }
        }
    }
}

impl<R: Role> Hub<R> {
    fn new(role: R, members: Membership) -> Hub<R> {
        Hub {
            role,
            gathers: Gathers::new(members.world_size),
            members,
            requests: Requests::default(),
            lost: BTreeMap::new(),
            events: Vec::new(),
            next_token: 1,
        }
    }

    /// Takes a member in: from now on it may speak and is spoken to. It is told the events that it missed, then
    /// asked what others have asked it.
    ///
    /// # Errors
    ///
    /// When there is no such member, or when it joined before: nobody joins twice.
    pub fn member_joined(&mut self, member: Member) -> Result<Vec<Action>, OobError> {
        let parked = self.members.join(member)?;
        let missed = self.events.iter().cloned().map(OobDown::Event);
        Ok(missed.chain(parked).map(|message| Action::ToMember(member, message)).collect())
    }

    /// Takes note that a member's link has ended, and how, as a lowercase fragment (`left`, `exited with code 1`).
    /// Whoever waits for its reply gets an error instead. Whether its ranks are *lost* is the root's to say.
    pub fn member_gone(&mut self, member: Member, cause: &str) -> Vec<Action> {
        self.members.leave(member, cause);
        let unanswered = self.requests.close_to(|_, hop| hop == Hop::Member(member));
        self.fail(unanswered, &format!("{member} {cause}"))
    }

    /// Handles what a member sent.
    ///
    /// # Errors
    ///
    /// [`OobError`] when the member does not follow the protocol. Nothing of the message has had an effect.
    pub fn receive_up(&mut self, from: Member, message: OobUp) -> Result<Vec<Action>, OobError> {
        self.members.check_joined(from)?;
        match message {
            OobUp::Gather { key, blobs } => self.contributed(from, key, blobs),
            OobUp::Request { from: asker, to, token, body } => {
                self.members.check_speaks_for(from, asker)?;
                check_size("a request", body.len(), MAX_REQUEST_BYTES)?;
                self.asked(asker, to, token, body)
            }
            OobUp::Reply { to, token, body } => {
                let len_bytes = body.as_ref().map_or_else(String::len, Vec::len);
                check_size("a reply", len_bytes, MAX_REQUEST_BYTES)?;
                Ok(self.answered(Hop::Member(from), to, token, body))
            }
            OobUp::Abort { rank, code, mut reason } => {
                self.members.check_speaks_for(from, Target::Rank(rank))?;
                // An abort gets through whatever it says.
                cut_to(&mut reason, MAX_REASON_BYTES);
                Ok(vec![if R::HAS_UPSTREAM {
                    Action::ToUpstream(OobUp::Abort { rank, code, reason })
                } else {
                    Action::AbortAsked { rank, code, reason }
                }])
            }
        }
    }

    /// Asks somebody in the owner's name. The answer is an [`Action::ReplyForMe`] with the token given here, among
    /// these actions or later ones.
    ///
    /// # Errors
    ///
    /// [`OobError::TooManyOpenRequests`] or [`OobError::TooLarge`].
    pub fn request(&mut self, to: Target, body: Vec<u8>) -> Result<(u64, Vec<Action>), OobError> {
        check_size("a request", body.len(), MAX_REQUEST_BYTES)?;
        let token = self.next_token;
        let actions = self.asked(self.role.me(), to, token, body)?;
        self.next_token += 1;
        Ok((token, actions))
    }

    /// Answers an [`Action::RequestForMe`]. Answering twice, or what was not asked, does nothing.
    pub fn reply(&mut self, to: Target, token: u64, body: Result<Vec<u8>, String>) -> Vec<Action> {
        self.answered(Hop::Me, to, token, body)
    }

    /// Events so far, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    fn contributed(&mut self, from: Member, key: GatherKey, blobs: Blobs) -> Result<Vec<Action>, OobError> {
        let (world_size, rank_count) = (self.members.world_size, self.members.rank_count);
        check_key(&key, rank_count)?;
        check_ranks("contributions", blobs.iter().map(|(rank, _)| *rank), rank_count)?;
        for (rank, blob) in &blobs {
            self.members.check_speaks_for(from, Target::Rank(*rank))?;
            check_blob(&key, *rank, blob, world_size)?;
        }
        let awaited = self.members.taking_part(&key.participants).count();
        Ok(match self.gathers.contribute(&key, blobs, awaited)? {
            None => Vec::new(),
            // It stays open until the result comes back, so that a second contribution is noticed here.
            Some(blobs) if R::HAS_UPSTREAM => vec![Action::ToUpstream(OobUp::Gather { key, blobs })],
            Some(blobs) => self.gathered(key, blobs),
        })
    }

    /// Sends a result to every member that has participants.
    fn gathered(&mut self, key: GatherKey, blobs: Blobs) -> Vec<Action> {
        if !self.gathers.close(&key) {
            return Vec::new();
        }
        let participants = self.members.taking_part(&key.participants);
        let members: BTreeSet<Member> = participants.filter_map(|rank| self.members.of_rank(rank)).collect();
        let linked = members.into_iter().filter(|member| self.members.has_joined(*member));
        let result = OobDown::Gathered { key, blobs };
        linked.map(|member| Action::ToMember(member, result.clone())).collect()
    }

    fn asked(
        &mut self,
        asker: Target,
        to: Target,
        token: u64,
        body: Vec<u8>,
    ) -> Result<Vec<Action>, OobError> {
        // Also where it is answered at once: two answers to one token could not be told apart.
        self.requests.check_free(asker, token)?;
        match self.hop(to) {
            Ok(hop) => self.ask(asker, to, token, body, hop),
            Err(reason) => Ok(self.answer(asker, token, Err(reason))),
        }
    }

    fn ask(
        &mut self,
        from: Target,
        to: Target,
        token: u64,
        body: Vec<u8>,
        hop: Hop,
    ) -> Result<Vec<Action>, OobError> {
        if let Hop::Member(member) = hop
            && self.members.parked_count(member) >= MAX_PARKED_REQUESTS
        {
            let reason = format!("{to} has not joined yet, and {MAX_PARKED_REQUESTS} requests wait for it");
            return Ok(self.answer(from, token, Err(reason)));
        }
        self.requests.open(from, token, to, hop)?;
        let action = match hop {
            Hop::Me => Some(Action::RequestForMe { from, token, body }),
            Hop::Upstream => Some(Action::ToUpstream(OobUp::Request { from, to, token, body })),
            Hop::Member(member) => {
                let linked = self.members.send_or_park(member, OobDown::Request { from, to, token, body });
                linked.map(|request| Action::ToMember(member, request))
            }
        };
        Ok(action.into_iter().collect())
    }

    fn answered(&mut self, by: Hop, to: Target, token: u64, body: Result<Vec<u8>, String>) -> Vec<Action> {
        if self.requests.close(to, token, by) { self.answer(to, token, body) } else { Vec::new() }
    }

    /// Sends an answer on its way to the asker; it vanishes if the asker is gone.
    fn answer(&self, to: Target, token: u64, body: Result<Vec<u8>, String>) -> Vec<Action> {
        if to == self.role.me() {
            return vec![Action::ReplyForMe { token, body }];
        }
        match self.members.towards(to) {
            Some(member) if self.members.has_joined(member) => {
                vec![Action::ToMember(member, OobDown::Reply { to, token, body })]
            }
            None if R::HAS_UPSTREAM => vec![Action::ToUpstream(OobUp::Reply { to, token, body })],
            _ => Vec::new(),
        }
    }

    fn fail(&self, unanswered: Vec<(Target, u64)>, reason: &str) -> Vec<Action> {
        let failed = |(asker, token)| self.answer(asker, token, Err(reason.to_owned()));
        unanswered.into_iter().flat_map(failed).collect()
    }

    fn hop(&self, to: Target) -> Result<Hop, String> {
        if to == self.role.me() {
            return Ok(Hop::Me);
        }
        if let Target::Rank(rank) = to
            && let Some(cause) = self.lost.get(&rank)
        {
            return Err(format!("rank {rank} is lost: {cause}"));
        }
        match self.members.towards(to) {
            Some(member) => match self.members.gone(member) {
                Some(cause) => Err(format!("{member} {cause}")),
                None => Ok(Hop::Member(member)),
            },
            None if R::HAS_UPSTREAM => Ok(Hop::Upstream),
            None => Err(format!("{to} does not exist in this job")),
        }
    }

    /// Lets an event take effect here, and passes it on.
    fn happen(&mut self, event: Event) -> Vec<Action> {
        let tell = |member| Action::ToMember(member, OobDown::Event(event.clone()));
        let mut actions: Vec<Action> = self.members.joined().map(tell).collect();
        if let EventKind::RankLost { rank, cause } = &event.kind {
            let (rank, reason) = (*rank, format!("rank {rank} is lost: {cause}"));
            self.lost.insert(rank, cause.clone());
            self.gathers.rank_lost(rank);
            // What went upstream is answered from there: the root learned of the loss before this hub.
            let unanswered =
                self.requests.close_to(|to, hop| to == Target::Rank(rank) && hop != Hop::Upstream);
            actions.extend(self.fail(unanswered, &reason));
        }
        self.events.push(event);
        actions
    }
}

/// Cuts a text to so many bytes, or a few less where that would cut a character.
fn cut_to(text: &mut String, limit_bytes: usize) {
    let end = (0..=limit_bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
}
