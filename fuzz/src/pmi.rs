//! A job of two nodes with two ranks each, whose PMI servers are joined by the head's own hub.

use efarun::pmi::{Action, Greeted, Greeting, Ids, Server};
use efarun_wire::message::{OobUp, SpawnedWorld};
use efarun_wire::{JobId, NodeId, Rank};

use crate::head::{Head, map, ranks};

/// The servers, and what they have answered.
#[derive(Debug)]
pub struct PmiJob {
    head: Head,
    servers: [Server; 2],
    /// All that was written to each rank's socket.
    pub answers: [Vec<u8>; 4],
    is_closed: [bool; 4],
}

impl PmiJob {
    /// A job of which no rank has said anything.
    pub fn new() -> PmiJob {
        let map = map();
        let server = |node: u32| {
            Server::new(
                JobId([1; 8]),
                NodeId(node),
                map.clone(),
                ranks(node).into_iter().map(|rank| (rank, 0)),
            )
        };
        PmiJob {
            head: Head::new(),
            servers: [server(0), server(1)],
            answers: Default::default(),
            is_closed: [false; 4],
        }
    }

    /// Lets a rank write these bytes.
    pub fn say(&mut self, rank: u32, bytes: &[u8]) {
        let node = rank as usize / 2;
        let actions = self.servers[node].receive(Rank(rank), bytes);
        self.act(node, actions);
    }

    /// Lets a stranger greet at the port, in these parts of what it says in all: it is known by its whole first line, however
    /// that comes, and by a number that a rank has.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn greet<'a>(&self, said: &[u8], parts: impl Iterator<Item = &'a [u8]>) {
        let mut ids = Ids::default();
        let id = ids.give(Rank(3), || Ok::<_, ()>(ID)).expect("the bits are there");
        let (mut greeting, mut greeted, mut rest) = (Greeting::default(), Greeted::NotYet, Vec::new());
        for part in parts {
            match greeted {
                Greeted::NotYet => greeted = greeting.push(part),
                _ => rest.extend_from_slice(part),
            }
        }
        assert_eq!(greeted, Greeting::default().push(&said[..said.len() - rest.len()]));
        if let Greeted::By(number, behind) = greeted {
            assert_eq!(ids.rank_of(number).is_some(), number == id);
            assert!(said.ends_with(&[behind, rest].concat()));
            let answer = self.servers[1].welcome(Rank(3));
            assert_eq!(answer, b"cmd=initack rc=0\ncmd=set size=4\ncmd=set rank=3\ncmd=set debug=0\n");
        }
    }

    /// Lets a rank end with code 0, or a deadline pass, whichever the number chooses.
    pub fn happen(&mut self, rank: u32, what: u8) {
        let (node, rank) = (rank as usize / 2, Rank(rank));
        let server = &mut self.servers[node];
        let actions = match what % 4 {
            0 => server.ended_well(rank),
            1 => server.closed(rank, 1),
            2 => server.unread(rank, 1),
            _ => {
                let received_bytes = server.stopped_within_message(rank).unwrap_or_default();
                server.stalled(rank, received_bytes, 1)
            }
        };
        self.act(node, actions);
    }

    fn act(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(rank, bytes) => {
                    assert_eq!(rank.index() / 2, node, "an answer for a rank of another node");
                    assert!(!self.is_closed[rank.index()], "an answer for a rank that was refused");
                    self.answers[rank.index()].extend(bytes);
                }
                Action::Up(up) => self.up(node, up),
                Action::Spawn(order) => {
                    assert!(order.by.index() / 2 == node && order.programs.len() <= 64);
                    let size = order.programs.iter().fold(0, |size: u32, own| size.saturating_add(own.count));
                    let outcome = match size {
                        1..=1000 => Ok(SpawnedWorld { world: 1, size }),
                        _ => Err("no; slots are free".to_owned()),
                    };
                    let actions = self.servers[node].spawned(order.token, &outcome);
                    self.act(node, actions);
                }
                Action::Close(rank) => self.is_closed[rank.index()] = true,
                Action::Broke { how, .. } | Action::Note(_, how) => {
                    assert!(how.len() < 1000 && !how.chars().any(char::is_control), "{how:?}");
                }
            }
        }
    }

    fn up(&mut self, node: usize, message: OobUp) {
        for (node, down) in self.head.pass_on(node, message) {
            if let Ok(actions) = self.servers[node].hear(down) {
                self.act(node, actions);
            }
        }
    }
}

/// What rank 3 is told to greet by.
const ID: u32 = 4321;

impl Default for PmiJob {
    fn default() -> PmiJob {
        PmiJob::new()
    }
}
