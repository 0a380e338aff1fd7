//! PMIx servers of two nodes, whose helpers report anything and whose ranks end at any time: no relay panics, keeps more than
//! its limits, or says to the head what the head refuses, and whatever a helper asks is answered at most once. Input is cut
//! at 0xff; the first byte of each part says what happens, and the rest is a report as a helper writes it.
#![no_main]

use std::collections::BTreeSet;

use efarun::pmix::protocol::{Order, Report};
use efarun::pmix::{Action, Relay};
use efarun_fuzz::head::{Head, map};
use efarun_fuzz::{choice, within_bytes};
use efarun_wire::frame::FrameReader;
use efarun_wire::message::{OobUp, SpawnedWorld};
use efarun_wire::{NodeId, Rank};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    within_bytes(MEMORY_BYTES, || {
        let mut job = Job::new();
        for part in input.split(|byte| *byte == 0xff) {
            let (what, bytes) = choice(part);
            let node = usize::from(what & 1);
            let rank = Rank(u32::from(what >> 1 & 3));
            let actions = match what >> 3 {
                0 => job.relays[node].ended_well(rank),
                1 => job.relays[node].lost("ended"),
                _ => job.report(node, bytes),
            };
            job.act(node, actions);
        }
    });
});

struct Job {
    head: Head,
    relays: [Relay; 2],
    /// What helpers have asked and not been told, by node.
    asked: [BTreeSet<u64>; 2],
}

impl Job {
    fn new() -> Job {
        let map = map();
        let relays = [0, 1].map(|node| Relay::new(NodeId(node), &map));
        Job { head: Head::new(), relays, asked: Default::default() }
    }

    /// Lets a helper report what the bytes are, if they are a report. A helper gives no token twice.
    fn report(&mut self, node: usize, bytes: &[u8]) -> Vec<Action> {
        let mut frames = FrameReader::default();
        let len = u32::try_from(bytes.len()).expect("an input is short");
        frames.push(&len.to_le_bytes());
        frames.push(bytes);
        let Ok(Some(report)) = frames.next_message::<Report>() else { return Vec::new() };
        let token = match &report {
            Report::Fence { token, .. }
            | Report::WantCard { token, .. }
            | Report::Publish { token, .. }
            | Report::Lookup { token, .. }
            | Report::Unpublish { token, .. }
            | Report::Spawn { token, .. }
            | Report::Group { token, .. } => Some(*token),
            _ => None,
        };
        match token {
            Some(token) if !self.asked[node].insert(token) => Vec::new(),
            _ => self.relays[node].reported(report),
        }
    }

    fn act(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Order(order) => self.order(node, order),
                Action::Up(up) => self.up(node, up),
                Action::Spawn(order) => {
                    let outcome = match order.programs.len() {
                        0 => Err("nothing".to_owned()),
                        _ => Ok(SpawnedWorld { world: 1, size: 1 }),
                    };
                    let actions = self.relays[node].spawned(order.token, &outcome);
                    self.act(node, actions);
                }
                Action::Broke { how, .. } | Action::Note(how) => {
                    assert!(how.len() < 1000 && !how.chars().any(char::is_control), "{how:?}");
                }
                Action::HeardOut(_) => {}
            }
        }
    }

    fn order(&mut self, node: usize, order: Order) {
        match order {
            Order::Fenced { token, .. }
            | Order::Card { token, .. }
            | Order::Done { token, .. }
            | Order::Found { token, .. }
            | Order::Spawned { token, .. }
            | Order::Grouped { token, .. } => {
                assert!(self.asked[node].remove(&token), "an answer to what is not asked, or a second one");
            }
            Order::FindCard { token, rank } => {
                let blob = (rank.0 & 1 == 0).then(|| vec![7; 3]);
                let actions = self.relays[node].reported(Report::Card { token, blob });
                self.act(node, actions);
            }
            Order::Notify(_) => {}
            other => panic!("a relay orders {other:?}"),
        }
    }

    fn up(&mut self, node: usize, message: OobUp) {
        for (node, down) in self.head.pass_on(node, message) {
            if let Ok(actions) = self.relays[node].hear(down) {
                self.act(node, actions);
            }
        }
    }
}

const MEMORY_BYTES: usize = 64 << 20;
