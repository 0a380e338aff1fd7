//! What a group of messages between ranks of several nodes is made of.
//!
//! Pure. What goes within the node goes first, over NVLink, and then what goes to other nodes. Of each pair of ranks one message
//! goes at a time, so that both ends have the same order whatever else is sent.

use efarun_rt::Rank;
use efarun_rt::nvlink::DeviceMessage;
use efarun_rt::relay::{SPANS_MAX, Stretch, Transfer};

use super::steps::{Standpoint, Step};

/// The steps of these messages on this rank.
pub(super) fn steps(sends: &[DeviceMessage], receives: &[DeviceMessage], at: &Standpoint) -> Vec<Step> {
    let has_length = |message: &&DeviceMessage| message.bytes > 0;
    let is_near = |message: &DeviceMessage| at.place(message.peer).0 == at.node;
    let (near_sends, far_sends): (Vec<DeviceMessage>, Vec<_>) =
        sends.iter().filter(has_length).copied().partition(is_near);
    let (near_receives, far_receives): (Vec<DeviceMessage>, Vec<_>) =
        receives.iter().filter(has_length).copied().partition(is_near);
    let mut steps = Vec::new();
    if at.locals == 1 {
        for (from, to) in near_sends.iter().zip(&near_receives) {
            steps.push(Step::Copy { from: from.data, to: to.data, bytes: from.bytes.min(to.bytes) });
        }
    } else if !near_sends.is_empty() || !near_receives.is_empty() {
        let local =
            |message: DeviceMessage| DeviceMessage { peer: Rank(at.place(message.peer).1), ..message };
        steps.push(Step::Messages {
            sends: near_sends.into_iter().map(local).collect(),
            receives: near_receives.into_iter().map(local).collect(),
        });
    }
    let (mut sends, mut receives) = (far_sends, far_receives);
    while !sends.is_empty() || !receives.is_empty() {
        let (now_sent, later_sent) = one_per_peer(sends);
        let (now_received, later_received) = one_per_peer(receives);
        let stretches = |messages: &[DeviceMessage]| {
            messages.iter().map(|it| Stretch { pointer: it.data, bytes: it.bytes }).collect()
        };
        let peers = |messages: &[DeviceMessage]| {
            messages.iter().enumerate().map(|(index, message)| (message.peer, index)).collect()
        };
        steps.push(Step::Relay(Transfer {
            puts: stretches(&now_sent),
            gets: stretches(&now_received),
            sends: peers(&now_sent),
            receives: peers(&now_received),
            // Both ends cut a message alike, whatever else they have.
            slice_bytes: Transfer::slice_bytes(usize::MAX / 2, SPANS_MAX),
            ..Transfer::default()
        }));
        (sends, receives) = (later_sent, later_received);
    }
    steps
}

/// The first message of each peer, as many as a transfer can have, and the others.
fn one_per_peer(messages: Vec<DeviceMessage>) -> (Vec<DeviceMessage>, Vec<DeviceMessage>) {
    let (mut first, mut later): (Vec<DeviceMessage>, Vec<DeviceMessage>) = (Vec::new(), Vec::new());
    for message in messages {
        let is_first = first.len() < SPANS_MAX && first.iter().all(|other| other.peer != message.peer);
        if is_first { first.push(message) } else { later.push(message) }
    }
    (first, later)
}
