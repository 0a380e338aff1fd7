//! What a group of messages between ranks of several nodes is made of.
//!
//! Pure. What goes within the node goes first, over NVLink, and then what goes to other nodes, in rounds: of each pair of ranks
//! the first messages of either direction, then the next, so many that a round fits into one transfer, where that can be. What two
//! ranks have in a round is in one transfer at both ends, whatever else they send, so that their hosts say the same things in the
//! same order.
//!
//! The other end may have its messages in groups of their own, as NCCL allows. So what takes more than a slice has a round to itself:
//! slices of several messages would take turns, where the other end has one message behind the other.
//!
//! What it cannot do: let a rank send more than 256 KiB, a slice for each lane, in a group in which it also receives from a peer that
//! sends only behind having received. A slice's exchange waits for what it gets, and the next slice's for it.
//!
//! Where other nodes have more ranks than a transfer has room for, a round's pairs go in order of rank. So all pairs have one order,
//! by round and by both ranks, of which each rank's transfers follow its own part: who waits for a rank to come to a transfer waits for
//! one that is at an earlier pair, and no ranks wait in a circle.

use efarun_rt::Rank;
use efarun_rt::nvlink::DeviceMessage;
use efarun_rt::relay::{SPANS_MAX, Stretch, Transfer};

use super::steps::{Standpoint, Step};

/// A message to another node or from one.
struct Far {
    round: usize,
    is_sent: bool,
    message: DeviceMessage,
}

/// The steps of these messages on this rank.
pub(super) fn steps(sends: &[DeviceMessage], receives: &[DeviceMessage], at: &Standpoint) -> Vec<Step> {
    let is_near = |message: &DeviceMessage| at.place(message.peer).0 == at.node;
    let near = |messages: &[DeviceMessage]| -> Vec<DeviceMessage> {
        let near = messages.iter().filter(|message| is_near(message) && message.bytes > 0);
        near.map(|message| DeviceMessage { peer: Rank(at.place(message.peer).1), ..*message }).collect()
    };
    let (near_sends, near_receives) = (near(sends), near(receives));
    let mut steps = Vec::new();
    if at.locals == 1 {
        for (from, to) in near_sends.iter().zip(&near_receives) {
            steps.push(Step::Copy { from: from.data, to: to.data, bytes: from.bytes.min(to.bytes) });
        }
    } else if !near_sends.is_empty() || !near_receives.is_empty() {
        steps.push(Step::Messages { sends: near_sends, receives: near_receives });
    }
    let both = [(sends, true), (receives, false)].into_iter();
    let mut far: Vec<Far> = both
        .flat_map(|(messages, is_sent)| messages.iter().map(move |&message| (message, is_sent)))
        .filter(|(message, _)| !is_near(message) && message.bytes > 0)
        .map(|(message, is_sent)| Far { round: 0, is_sent, message })
        .collect();
    // So many that those of all pairs fit into one transfer, where that can be.
    let at_once = (SPANS_MAX / at.far_ranks().max(1)).max(1);
    // Both sorts keep the order of what is sent to one rank, and of what comes from it.
    far.sort_by_key(|it| (it.message.peer, it.is_sent));
    let slice_bytes = slice_bytes();
    for of_peer in far.chunk_by_mut(|a, b| (a.message.peer, a.is_sent) == (b.message.peer, b.is_sent)) {
        let (mut round, mut room) = (0, at_once);
        for it in of_peer {
            let is_alone = it.message.bytes > slice_bytes;
            if room == 0 || is_alone && room < at_once {
                (round, room) = (round + 1, at_once);
            }
            it.round = round;
            room = if is_alone { 0 } else { room - 1 };
        }
    }
    far.sort_by_key(|it| (it.round, it.message.peer));
    for round in far.chunk_by(|a, b| a.round == b.round) {
        transfers(round, &mut steps);
    }
    steps
}

/// The transfers of a round.
fn transfers(round: &[Far], steps: &mut Vec<Step>) {
    let slice_bytes = slice_bytes();
    let mut transfer = Transfer { slice_bytes, ..Transfer::default() };
    for of_peer in round.chunk_by(|a, b| a.message.peer == b.message.peer) {
        let sent = of_peer.iter().filter(|it| it.is_sent).count();
        let received = of_peer.len() - sent;
        if transfer.puts.len() + sent > SPANS_MAX || transfer.gets.len() + received > SPANS_MAX {
            let full = std::mem::replace(&mut transfer, Transfer { slice_bytes, ..Transfer::default() });
            steps.push(Step::Relay(full));
        }
        for Far { is_sent, message, .. } in of_peer {
            let Transfer { puts, gets, sends, receives, .. } = &mut transfer;
            let (stretches, peers) = if *is_sent { (puts, sends) } else { (gets, receives) };
            peers.push((message.peer, stretches.len()));
            stretches.push(Stretch { pointer: message.data, bytes: message.bytes });
        }
    }
    steps.push(Step::Relay(transfer));
}

/// Both ends cut a message alike, whatever else they have.
fn slice_bytes() -> usize {
    Transfer::slice_bytes(usize::MAX / 2, SPANS_MAX)
}
