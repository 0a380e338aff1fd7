//! The sockets between the agent and its ranks, around the out-of-band hub.
//!
//! What a rank sends is untrusted: whatever does not follow the protocol closes that rank's socket, and the user
//! gets one note about it. The rank itself is not ended: its runtime will fail by itself, and a program that plays
//! with descriptor 3 and never uses the runtime goes on.

use std::collections::{BTreeMap, BTreeSet};

use tokio::net::UnixStream;
use tokio::sync::mpsc;

use efarun_wire::message::{AgentMessage, LaunchPlan, OobDown, OobUp, RankMessage, RankReply};
use efarun_wire::oob::{Action, Hub, Member, OobError, RelayHub};
use efarun_wire::position::Question;
use efarun_wire::{JobId, PROTOCOL_VERSION, Rank};

use super::positions::Pages;
use crate::exchange::Family;
use crate::link_io::{self, LinkEnd, LinkReceiver, LinkSender};

/// What arrived on a rank's socket, or how it ended.
pub(super) type RankEvent = (Rank, Result<RankMessage, LinkEnd>);

/// All sockets of the node's ranks.
#[derive(Debug)]
pub(super) struct RankLinks {
    job: JobId,
    world_size: u32,
    hub: RelayHub,
    pages: Pages,
    links: BTreeMap<Rank, LinkSender<RankReply>>,
    /// Those that have joined and not left since.
    within_world: BTreeSet<Rank>,
    head: LinkSender<AgentMessage>,
    events: mpsc::Sender<RankEvent>,
}

impl RankLinks {
    /// No sockets yet. What they bring goes to `events`, and from there to [`RankLinks::handle`].
    pub(super) fn new(
        job: JobId,
        plan: &LaunchPlan,
        head: LinkSender<AgentMessage>,
        events: mpsc::Sender<RankEvent>,
    ) -> RankLinks {
        let ranks = plan.ranks.iter().map(|rank| rank.rank);
        RankLinks {
            job,
            world_size: plan.world_size,
            hub: Hub::for_agent(plan.node, ranks.clone(), plan.world_size),
            pages: Pages::new(ranks),
            links: BTreeMap::new(),
            within_world: BTreeSet::new(),
            head,
            events,
        }
    }

    /// Takes a rank's socket over.
    pub(super) fn add(&mut self, rank: Rank, socket: UnixStream) {
        let (source, sink) = socket.into_split();
        let (sender, receiver) = link_io::open_to_rank(Box::new(source), Box::new(sink));
        self.links.insert(rank, sender);
        tokio::spawn(listen(rank, receiver, self.head.clone(), self.events.clone()));
    }

    /// Handles what a rank said, or the end of its socket.
    pub(super) fn handle(&mut self, (rank, event): RankEvent) {
        if !self.links.contains_key(&rank) {
            // It was refused before, or has left; what was on its way is of no use.
            return;
        }
        match event {
            Ok(RankMessage::Join { protocol, rank: claimed, world_size }) => {
                self.join(rank, protocol, claimed, world_size);
            }
            Ok(RankMessage::Oob(up)) => self.said(rank, up),
            // The socket stays open: the process may make another World.
            Ok(RankMessage::Leave) => drop(self.within_world.remove(&rank)),
            Ok(RankMessage::Page(offer)) => self.pages.offered(rank, offer),
            Err(LinkEnd::Malformed(error)) => {
                self.note(rank, &format!("sent {error}"));
                self.close(rank, "broke its connection to the agent");
            }
            Err(_) => self.close(rank, "closed its connection to the agent"),
        }
    }

    /// Handles what the head said.
    ///
    /// # Errors
    ///
    /// When the head does not follow the protocol.
    pub(super) fn receive_down(&mut self, down: OobDown) -> Result<(), OobError> {
        let actions = self.hub.receive_down(down)?;
        self.act(actions);
        Ok(())
    }

    /// Whether a rank's socket is there and neither it nor the agent has closed it.
    pub(super) fn is_open(&self, rank: Rank) -> bool {
        self.links.contains_key(&rank)
    }

    /// Whether a rank is in a World that it has not closed, or was when it ended.
    pub(super) fn is_within_world(&self, rank: Rank) -> bool {
        self.within_world.contains(&rank)
    }

    fn join(&mut self, rank: Rank, protocol: u16, claimed: Rank, world_size: u32) {
        let refusal = if protocol != PROTOCOL_VERSION {
            Some(format!("the runtime library has protocol {protocol}, the launcher has {PROTOCOL_VERSION}"))
        } else if claimed != rank {
            Some(format!("it takes itself for rank {claimed} and is rank {rank}"))
        } else if world_size != self.world_size {
            Some(format!("it takes the world size for {world_size}, which is {}", self.world_size))
        } else {
            None
        };
        let joined = match refusal {
            None => self.hub.member_joined(Member::Rank(rank)).map_err(|error| error.to_string()),
            Some(reason) => Err(reason),
        };
        match joined {
            Ok(actions) => {
                self.within_world.insert(rank);
                let (protocol, job, world_size) = (PROTOCOL_VERSION, self.job, self.world_size);
                self.reply(rank, &RankReply::Welcome { protocol, job, world_size });
                self.act(actions);
            }
            Err(reason) => {
                self.note(rank, &format!("was refused: {reason}"));
                self.reply(rank, &RankReply::Refused(reason));
                self.close(rank, "was refused by the agent");
            }
        }
    }

    fn said(&mut self, rank: Rank, up: OobUp) {
        let is_ours =
            |id: &str| [Family::Pmi, Family::Pmix].iter().any(|family| id.starts_with(family.id_prefix()));
        if matches!(&up, OobUp::Gather { key, .. } if is_ours(&key.id)) {
            self.note(rank, "contributed to an allgather that is not for ranks");
            return self.close(rank, "was refused by the agent");
        }
        match self.hub.receive_up(Member::Rank(rank), up) {
            Ok(actions) => {
                self.within_world.insert(rank);
                self.act(actions);
            }
            Err(error) => {
                self.note(rank, &format!("does not follow the protocol: {error}"));
                self.close(rank, "was refused by the agent");
            }
        }
    }

    /// Ends a rank's socket after what is queued for it. What it still says is not heard.
    fn close(&mut self, rank: Rank, cause: &str) {
        self.links.remove(&rank);
        let actions = self.hub.member_gone(Member::Rank(rank), cause);
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::ToUpstream(up) => self.head.send(&AgentMessage::Oob(up)),
                Action::ToMember(Member::Rank(rank), down) => self.reply(rank, &RankReply::Oob(down)),
                Action::RequestForMe { from, token, body } => {
                    let answer = match Question::from_bytes(&body) {
                        Some(Question::Positions { world }) => Ok(self.pages.positions(world).to_bytes()),
                        None => Err("the agent does not know this question".to_owned()),
                    };
                    let actions = self.hub.reply(from, token, answer);
                    self.act(actions);
                }
                // A relay's members are ranks, it asks nothing, and aborts are the root's.
                Action::ToMember(Member::Node(_), _)
                | Action::ReplyForMe { .. }
                | Action::AbortAsked { .. } => {}
            }
        }
    }

    fn reply(&mut self, rank: Rank, reply: &RankReply) {
        let Some(link) = self.links.get(&rank) else { return };
        if link.control_is_full() {
            self.note(rank, "does not read what it is sent");
            self.close(rank, "does not read what it is sent");
            return;
        }
        link.send(reply);
    }

    fn note(&self, rank: Rank, what: &str) {
        let note = format!("rank {rank} {what}: its connection to the agent is closed");
        self.head.send(&AgentMessage::Note(note));
    }
}

/// Reads a rank's socket as fast as the head takes what comes of it.
async fn listen(
    rank: Rank,
    mut receiver: LinkReceiver<RankMessage>,
    head: LinkSender<AgentMessage>,
    events: mpsc::Sender<RankEvent>,
) {
    loop {
        head.control_space().await;
        let event = receiver.receive().await;
        let over = event.is_err();
        if events.send((rank, event)).await.is_err() || over {
            return;
        }
    }
}
