//! What a group of messages between ranks of several nodes is made of.
//!
//! Pure. What goes within the node, over NVLink, and what goes to other nodes is passed by one launch, in which no message waits for
//! another: the other ends may have theirs in groups of their own, and one behind the other, as NCCL allows.
//!
//! What does not fit into one launch goes in rounds: of each pair of ranks the first messages of either direction, then the next, so
//! many that a round fits into one launch, where that can be. What two ranks have in a round is in one launch at both ends. Where other
//! nodes have more ranks than a launch has room for, a round's pairs go in order of rank. So all pairs have one order, first those within
//! nodes and then by round and by both ranks, of which each rank's launches follow its own part: who waits for a rank to come to a
//! launch waits for one that is at an earlier pair, and no ranks wait in a circle.
//!
//! What it cannot do: let a rank come to messages of a later round whose peer waits for them before it comes to an earlier one.

use efarun_rt::Rank;
use efarun_rt::nvlink::DeviceMessage;
use efarun_rt::relay::{FarMessage, LONG_MESSAGES_MAX, Messages, SPANS_MAX, Stretch};

use super::steps::{NearMessages, Standpoint, Step};

/// A message to another node or from one.
struct Far {
    round: usize,
    is_sent: bool,
    message: DeviceMessage,
}

/// The steps of these messages on this rank.
pub(super) fn steps(sends: &[DeviceMessage], receives: &[DeviceMessage], at: &Standpoint) -> Vec<Step> {
    let is_near = |message: &DeviceMessage| at.place(message.peer).0 == at.node;
    let of_node = |messages: &[DeviceMessage]| -> Vec<DeviceMessage> {
        let near = messages.iter().filter(|message| is_near(message) && message.bytes > 0);
        near.map(|message| DeviceMessage { peer: Rank(at.place(message.peer).1), ..*message }).collect()
    };
    let mut near = NearMessages { sends: of_node(sends), receives: of_node(receives) };
    let mut steps = Vec::new();
    if at.locals == 1 {
        for (from, to) in near.sends.iter().zip(&near.receives) {
            steps.push(Step::Copy { from: from.data, to: to.data, bytes: from.bytes.min(to.bytes) });
        }
        near = NearMessages::default();
    }
    let both = [(sends, true), (receives, false)].into_iter();
    let mut far: Vec<Far> = both
        .flat_map(|(messages, is_sent)| messages.iter().map(move |&message| (message, is_sent)))
        .filter(|(message, _)| !is_near(message) && message.bytes > 0)
        .map(|(message, is_sent)| Far { round: 0, is_sent, message })
        .collect();
    let all = launch(&far);
    if all.fit() {
        if !far.is_empty() || !near.is_empty() {
            steps.push(Step::Messages { near, far: all });
        }
        return steps;
    }
    // So many that those of all pairs fit into one launch, where that can be.
    let of_each = |room: usize| (room / at.far_ranks().max(1)).max(1);
    let (at_once, long_at_once) = (of_each(SPANS_MAX), of_each(LONG_MESSAGES_MAX));
    // Both sorts keep the order of what is sent to one rank, and of what comes from it.
    far.sort_by_key(|it| (it.message.peer, it.is_sent));
    for of_peer in far.chunk_by_mut(|a, b| (a.message.peer, a.is_sent) == (b.message.peer, b.is_sent)) {
        let (mut round, mut room, mut long_room) = (0, at_once, long_at_once);
        for it in of_peer {
            let is_long = !FarMessage::from(&*it).is_short();
            if room == 0 || is_long && long_room == 0 {
                (round, room, long_room) = (round + 1, at_once, long_at_once);
            }
            it.round = round;
            room -= 1;
            long_room -= usize::from(is_long);
        }
    }
    far.sort_by_key(|it| (it.round, it.message.peer));
    let rounds = far.chunk_by(|a, b| a.round == b.round).flat_map(launches);
    // What goes within the node goes with the first.
    steps.extend(rounds.map(|far| Step::Messages { near: std::mem::take(&mut near), far }));
    steps
}

/// The launches of a round.
fn launches(round: &[Far]) -> Vec<Messages> {
    let mut launches = vec![Messages::default()];
    for of_peer in round.chunk_by(|a, b| a.message.peer == b.message.peer) {
        let last = launches.last_mut().expect("there is one");
        let mut with = last.clone();
        add(&mut with, of_peer);
        match with.fit() {
            true => *last = with,
            false => launches.push(launch(of_peer)),
        }
    }
    launches
}

fn launch(far: &[Far]) -> Messages {
    let mut messages = Messages::default();
    add(&mut messages, far);
    messages
}

fn add(messages: &mut Messages, far: &[Far]) {
    for it in far {
        let direction = if it.is_sent { &mut messages.sends } else { &mut messages.receives };
        direction.push(FarMessage::from(it));
    }
}

impl From<&Far> for FarMessage {
    fn from(far: &Far) -> FarMessage {
        let DeviceMessage { peer, data, bytes } = far.message;
        FarMessage { peer, stretch: Stretch { pointer: data, bytes } }
    }
}
