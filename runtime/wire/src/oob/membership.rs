//! Who is linked to a hub, and where a message for somebody goes next.

use std::collections::BTreeMap;
use std::fmt;

use super::error::OobError;
use crate::ids::{NodeId, Rank};
use crate::message::{OobDown, Participants, Target};

/// A direct neighbour of a hub, away from the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// A rank, at an agent or at the server of a bootstrap without a launcher.
    Rank(Rank),
    /// A node's agent, at the head.
    Node(NodeId),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Target::from(*self).fmt(f)
    }
}

impl From<Member> for Target {
    fn from(member: Member) -> Target {
        match member {
            Member::Rank(rank) => Target::Rank(rank),
            Member::Node(node) => Target::Node(node),
        }
    }
}

#[derive(Debug)]
enum Presence {
    /// It will join, and then be given these.
    Awaited { parked: Vec<OobDown> },
    /// It is linked.
    Joined,
    /// Its link has ended.
    Gone { cause: String },
}

/// The members of a hub and the ranks behind them.
#[derive(Debug)]
pub(super) struct Membership {
    /// How many ranks [`Participants::World`] is.
    pub(super) world_size: u32,
    /// How many ranks there are, with those that were admitted later.
    pub(super) rank_count: u32,
    presence: BTreeMap<Member, Presence>,
    member_of: BTreeMap<Rank, Member>,
}

impl Membership {
    pub(super) fn new(
        world_size: u32,
        members: impl IntoIterator<Item = Member>,
        ranks: impl IntoIterator<Item = (Rank, Member)>,
    ) -> Membership {
        let awaited = |member| (member, Presence::Awaited { parked: Vec::new() });
        Membership {
            world_size,
            rank_count: world_size,
            presence: members.into_iter().map(awaited).collect(),
            member_of: ranks.into_iter().collect(),
        }
    }

    /// Takes ranks in that came behind a member later. They are not of [`Participants::World`].
    pub(super) fn admit(&mut self, member: Member, ranks: impl IntoIterator<Item = Rank>) {
        for rank in ranks {
            self.rank_count = self.rank_count.max(rank.0.saturating_add(1));
            self.member_of.insert(rank, member);
        }
    }

    /// The member that a rank is, or sits behind.
    pub(super) fn of_rank(&self, rank: Rank) -> Option<Member> {
        self.member_of.get(&rank).copied()
    }

    /// Those of the ranks behind all members that take part, ascending.
    pub(super) fn taking_part(&self, participants: &Participants) -> impl Iterator<Item = Rank> {
        let world_size = self.world_size;
        self.member_of.keys().copied().filter(move |rank| participants.contains(*rank, world_size))
    }

    /// The member that a message for this target goes to, if it goes to one.
    pub(super) fn towards(&self, target: Target) -> Option<Member> {
        match target {
            Target::Rank(rank) => self.of_rank(rank),
            Target::Node(node) => {
                Some(Member::Node(node)).filter(|member| self.presence.contains_key(member))
            }
            Target::Head => None,
        }
    }

    /// Takes a member in, and gives what was parked for it.
    pub(super) fn join(&mut self, member: Member) -> Result<Vec<OobDown>, OobError> {
        let presence = self.presence.get_mut(&member).ok_or(OobError::NotAMember(member))?;
        let Presence::Awaited { parked } = presence else { return Err(OobError::AlreadyJoined(member)) };
        let parked = std::mem::take(parked);
        *presence = Presence::Joined;
        Ok(parked)
    }

    /// Takes note that a member is gone; the first cause stays.
    pub(super) fn leave(&mut self, member: Member, cause: &str) {
        if let Some(presence @ (Presence::Awaited { .. } | Presence::Joined)) = self.presence.get_mut(&member)
        {
            *presence = Presence::Gone { cause: cause.to_owned() };
        }
    }

    /// How a member's link ended, if it did.
    pub(super) fn gone(&self, member: Member) -> Option<&str> {
        match self.presence.get(&member) {
            Some(Presence::Gone { cause }) => Some(cause),
            _ => None,
        }
    }

    /// How many messages wait for a member to join.
    pub(super) fn parked_count(&self, member: Member) -> usize {
        match self.presence.get(&member) {
            Some(Presence::Awaited { parked }) => parked.len(),
            _ => 0,
        }
    }

    /// Gives the message back to be sent, or keeps it until the member joins. For one that is gone it vanishes.
    pub(super) fn send_or_park(&mut self, member: Member, message: OobDown) -> Option<OobDown> {
        match self.presence.get_mut(&member) {
            Some(Presence::Joined) => Some(message),
            Some(Presence::Awaited { parked }) => {
                parked.push(message);
                None
            }
            _ => None,
        }
    }

    pub(super) fn has_joined(&self, member: Member) -> bool {
        matches!(self.presence.get(&member), Some(Presence::Joined))
    }

    /// The members that are linked, in order.
    pub(super) fn joined(&self) -> impl Iterator<Item = Member> {
        let linked = |(member, presence): (&Member, &Presence)| {
            matches!(presence, Presence::Joined).then_some(*member)
        };
        self.presence.iter().filter_map(linked)
    }

    /// Refuses a member that speaks without having joined.
    pub(super) fn check_joined(&self, member: Member) -> Result<(), OobError> {
        match self.presence.get(&member) {
            None => Err(OobError::NotAMember(member)),
            Some(Presence::Joined) => Ok(()),
            Some(_) => Err(OobError::NotJoined(member)),
        }
    }

    /// Refuses a member that speaks for somebody who is not behind it.
    pub(super) fn check_speaks_for(&self, member: Member, claimed: Target) -> Result<(), OobError> {
        if self.towards(claimed) == Some(member) {
            Ok(())
        } else {
            Err(OobError::Impersonation { member, claimed })
        }
    }
}
