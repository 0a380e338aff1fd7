//! Who is at a meeting, and when it is complete.
//!
//! Given what nodes say when they come and go, [`Meeting`] decides who is let in, which number each gets, and which lines
//! differ. Pure: no sockets, no clock. What a node says is believed only as far as its key goes: it holds the job's key, and
//! may still be another version of efarun with another line.

use std::fmt;

use efarun_wire::message::AgentOrder;
use efarun_wire::{BuildId, PROTOCOL_VERSION};
use serde::{Deserialize, Serialize};

use crate::job::JobSpec;
use crate::torchrun::NodeRange;

/// What a node says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of its launcher.
    pub protocol: u16,
    /// Its launcher.
    pub build: BuildId,
    /// What it calls itself.
    pub hostname: String,
    /// `--node-rank`.
    pub node_rank: Option<u32>,
    /// Its line.
    pub line: LineOfNode,
}

/// What a node that came is told.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is in. What follows on the link is what a head says to an agent.
    Welcome {
        /// The agent's order.
        order: Box<AgentOrder>,
        /// How many nodes there are.
        nodes: u32,
    },
    /// It is not, and why.
    Refused(String),
}

/// What must be the same on every node, option by option in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineOfNode {
    parts: Vec<(String, String)>,
}

impl LineOfNode {
    /// Returns what must be the same as in this job's line.
    pub fn of(spec: &JobSpec) -> LineOfNode {
        let mut parts = Vec::new();
        if let Some(torchrun) = &spec.torchrun {
            let NodeRange { least, most } = torchrun.nodes;
            let nodes = if least == most { least.to_string() } else { format!("{least}:{most}") };
            parts.push(("--nnodes".to_owned(), nodes));
            let run_id = torchrun.run_id.clone().unwrap_or_default();
            parts.push(("--nproc-per-node".to_owned(), torchrun.per_node.to_string()));
            parts.push(("--rdzv-id".to_owned(), run_id));
            parts.push(("--max-restarts".to_owned(), torchrun.max_restarts.to_string()));
            parts.push(("--role".to_owned(), torchrun.role.clone()));
        }
        for app in &spec.apps {
            let words = std::iter::once(&app.program).chain(&app.args);
            let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
            parts.push(("the script".to_owned(), words.join(" ")));
        }
        LineOfNode { parts }
    }

    /// Returns the first part that is not the same: what it is, here and there.
    fn difference(&self, other: &LineOfNode) -> Option<(String, String, String)> {
        let none = (String::new(), String::new());
        let count = self.parts.len().max(other.parts.len());
        (0..count).find_map(|index| {
            let (own, theirs) = (self.parts.get(index), other.parts.get(index));
            (own != theirs).then(|| {
                let (own, theirs) = (own.unwrap_or(&none), theirs.unwrap_or(&none));
                let name = if own.0.is_empty() { &theirs.0 } else { &own.0 };
                (cut(name), cut(&own.1), cut(&theirs.1))
            })
        })
    }
}

/// Words of a line as they are shown; they may be as long as a kernel takes them, and come from another node.
fn cut(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// A node that came, by the number under which its link is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Its link's number.
    pub link: u64,
    /// Where it came from.
    pub from: String,
    /// What it calls itself.
    pub hostname: String,
    /// The node's number that it asked for.
    pub node_rank: Option<u32>,
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", cut(&self.hostname), self.from)
    }
}

/// What becomes of a node that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reception {
    /// It is in.
    Welcome,
    /// It is sent away, and the others go on waiting.
    Refused(String),
    /// Its line is another: it is sent away with the first text, and the head ends with the second.
    OtherLine {
        /// For the node.
        there: String,
        /// For the head.
        here: String,
    },
}

/// The nodes that have come to node 0.
#[derive(Debug)]
pub struct Meeting {
    own: Hello,
    nodes: NodeRange,
    guests: Vec<Guest>,
}

impl Meeting {
    /// A meeting at which only node 0 is, which says this of itself.
    pub fn new(own: Hello, nodes: NodeRange) -> Meeting {
        Meeting { own, nodes, guests: Vec::new() }
    }

    /// Receives a node.
    pub fn receive(&mut self, link: u64, from: String, hello: &Hello) -> Reception {
        let guest = Guest { link, from, hostname: cut(&hello.hostname), node_rank: hello.node_rank };
        if hello.protocol != PROTOCOL_VERSION || hello.build != self.own.build {
            return Reception::Refused(format!(
                "its efarun is build {}, that of node 0 is {}: start the same efarun on both",
                hello.build, self.own.build
            ));
        }
        if let Some((what, here, there)) = self.own.line.difference(&hello.line) {
            let host = &self.own.hostname;
            return Reception::OtherLine {
                there: format!("{what} is `{there}` here and `{here}` on node 0 ({host})"),
                here: format!("the lines differ: {what} is `{here}` here and `{there}` on {guest}"),
            };
        }
        if let Some(rank) = hello.node_rank {
            let taken = match rank {
                0 => Some(format!("node 0, {}", self.own.hostname)),
                rank => {
                    self.guests.iter().find(|guest| guest.node_rank == Some(rank)).map(ToString::to_string)
                }
            };
            if let Some(taken) = taken {
                return Reception::Refused(format!("--node-rank {rank} is taken by {taken}"));
            }
        }
        if self.is_full() {
            return Reception::Refused(format!("all {} nodes are there already", self.nodes.most));
        }
        self.guests.push(guest);
        Reception::Welcome
    }

    /// Takes note that a node has left; gives it.
    pub fn left(&mut self, link: u64) -> Option<Guest> {
        let index = self.guests.iter().position(|guest| guest.link == link)?;
        Some(self.guests.remove(index))
    }

    /// Says whether no more nodes are taken.
    pub fn is_full(&self) -> bool {
        self.count() >= self.nodes.most
    }

    /// Says whether as many nodes are there as are needed.
    pub fn is_enough(&self) -> bool {
        self.count() >= self.nodes.least
    }

    /// Returns how many nodes are there, node 0 included.
    pub fn count(&self) -> u32 {
        u32::try_from(self.guests.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Returns the nodes beside node 0, in the order of their numbers: those that asked for one have it, as far as there
    /// are no gaps, and the others fill what is left in the order in which they came.
    pub fn in_order(&self) -> Vec<Guest> {
        let mut asked: Vec<&Guest> = self.guests.iter().filter(|guest| guest.node_rank.is_some()).collect();
        asked.sort_by_key(|guest| guest.node_rank);
        let mut asked = asked.into_iter().peekable();
        let mut others = self.guests.iter().filter(|guest| guest.node_rank.is_none()).peekable();
        let mut ordered: Vec<Guest> = Vec::with_capacity(self.guests.len());
        while ordered.len() < self.guests.len() {
            let number = u32::try_from(ordered.len() + 1).unwrap_or(u32::MAX);
            let own = asked.next_if(|guest| guest.node_rank == Some(number) || others.peek().is_none());
            ordered.extend(own.or_else(|| others.next()).cloned());
        }
        ordered
    }

    /// Names the nodes that are missing: by number where numbers were asked for.
    pub fn missing(&self) -> String {
        let numbered: Vec<u32> = self.guests.iter().filter_map(|guest| guest.node_rank).collect();
        let wanted = self.nodes.least;
        if self.own.node_rank.is_some() && numbered.len() == self.guests.len() {
            let missing: Vec<String> = (1..wanted)
                .filter(|rank| !numbered.contains(rank))
                .take(NAMED)
                .map(|rank| format!("node {rank}"))
                .collect();
            return missing.join(", ");
        }
        format!("{} nodes", wanted.saturating_sub(self.count()))
    }
}

const SHOWN_CHARACTERS: usize = 200;
const NAMED: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(node_rank: Option<u32>, nproc: &str) -> Hello {
        let parts =
            vec![("--nnodes".to_owned(), "3".to_owned()), ("--nproc-per-node".to_owned(), nproc.to_owned())];
        Hello {
            protocol: PROTOCOL_VERSION,
            build: BuildId([1; 16]),
            hostname: format!("host{}", node_rank.unwrap_or(9)),
            node_rank,
            line: LineOfNode { parts },
        }
    }

    fn meeting(own: Option<u32>) -> Meeting {
        Meeting::new(hello(own, "8"), NodeRange { least: 3, most: 3 })
    }

    fn come(meeting: &mut Meeting, link: u64, rank: Option<u32>) -> Reception {
        meeting.receive(link, format!("10.0.0.{link}"), &hello(rank, "8"))
    }

    #[test]
    fn nodes_have_the_numbers_that_they_ask_for_whatever_order_they_come_in() {
        let mut meeting = meeting(Some(0));
        assert_eq!(come(&mut meeting, 1, Some(2)), Reception::Welcome);
        assert_eq!((meeting.is_enough(), meeting.missing().as_str()), (false, "node 1"));
        assert_eq!(come(&mut meeting, 2, Some(1)), Reception::Welcome);
        assert!(meeting.is_full());
        assert_eq!(meeting.in_order().iter().map(|guest| guest.link).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn nodes_without_numbers_are_numbered_as_they_come_around_those_that_have_one() {
        let mut meeting = Meeting::new(hello(None, "8"), NodeRange { least: 1, most: 4 });
        for (link, rank) in [(1, None), (2, Some(1)), (3, None)] {
            assert_eq!(come(&mut meeting, link, rank), Reception::Welcome);
        }
        assert_eq!(meeting.in_order().iter().map(|guest| guest.link).collect::<Vec<_>>(), [2, 1, 3]);
        assert!(
            matches!(come(&mut meeting, 4, None), Reception::Refused(reason) if reason.contains("all 4 nodes"))
        );
    }

    #[test]
    fn a_number_that_is_taken_and_another_build_are_refused_by_name() {
        let mut meeting = meeting(Some(0));
        come(&mut meeting, 1, Some(1));
        let taken = come(&mut meeting, 2, Some(1));
        assert!(matches!(taken, Reception::Refused(reason) if reason.contains("host1 (10.0.0.1)")));
        assert!(matches!(come(&mut meeting, 2, Some(0)), Reception::Refused(_)));
        let other = Hello { build: BuildId([2; 16]), ..hello(Some(2), "8") };
        assert!(
            matches!(meeting.receive(3, "x".to_owned(), &other), Reception::Refused(reason) if reason.contains("build 0202"))
        );
        assert!(meeting.left(1).is_some() && meeting.left(1).is_none());
        assert_eq!(come(&mut meeting, 4, Some(1)), Reception::Welcome);
    }

    #[test]
    fn lines_that_differ_are_told_to_both_with_what_differs() {
        let mut meeting = meeting(Some(0));
        let reception = meeting.receive(1, "10.0.0.2".to_owned(), &hello(Some(1), "4"));
        let Reception::OtherLine { there, here } = reception else { panic!("{reception:?}") };
        assert_eq!(there, "--nproc-per-node is `4` here and `8` on node 0 (host0)");
        assert_eq!(here, "the lines differ: --nproc-per-node is `8` here and `4` on host1 (10.0.0.2)");
        let mut longer = hello(Some(1), "8");
        longer.line.parts.push(("the script".to_owned(), "x\u{1b}[2J".repeat(1000)));
        let Reception::OtherLine { here, .. } = meeting.receive(1, String::new(), &longer) else { panic!() };
        assert!(here.chars().count() < 400 && !here.contains('\u{1b}'), "{here}");
    }
}
