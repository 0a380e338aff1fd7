//! A job of two nodes with two ranks each, as its head has it: the hub that joins the nodes' servers.

use efarun_wire::message::{JobMap, MappedNode, OobDown, OobUp};
use efarun_wire::oob::{Action, Hub, Member, RootHub};
use efarun_wire::{NodeId, Rank};

/// The head.
#[derive(Debug)]
pub struct Head {
    hub: RootHub,
}

impl Head {
    /// A head that both nodes have joined.
    ///
    /// # Panics
    ///
    /// When a new hub does not take its own members in.
    pub fn new() -> Head {
        let mut hub = Hub::for_head([0, 1].map(|node| (NodeId(node), ranks(node))));
        for node in [0, 1] {
            hub.member_joined(Member::Node(NodeId(node))).expect("it is a member and joins once");
        }
        Head { hub }
    }

    /// Takes what a node's server says; gives what the servers of which nodes are told for it.
    ///
    /// # Panics
    ///
    /// When the head refuses it, or would do what servers give no cause for.
    pub fn pass_on(&mut self, node: usize, message: OobUp) -> Vec<(usize, OobDown)> {
        let received = self.hub.receive_up(Member::Node(NodeId(node as u32)), message);
        let actions = received.unwrap_or_else(|error| panic!("the head refuses a server: {error}"));
        let told = |action| match action {
            Action::ToMember(Member::Node(to), down) => Some((to.index(), down)),
            Action::AbortAsked { .. } => None,
            other => panic!("a head asked for {other:?}"),
        };
        actions.into_iter().filter_map(told).collect()
    }
}

impl Default for Head {
    fn default() -> Head {
        Head::new()
    }
}

/// Where the ranks are.
pub fn map() -> JobMap {
    let nodes = [0, 1].map(|node| MappedNode { host: format!("h{node}"), ranks: ranks(node) });
    JobMap { nodes: nodes.to_vec(), universe_size: 4, ..JobMap::default() }
}

/// The ranks of a node.
pub fn ranks(node: u32) -> Vec<Rank> {
    vec![Rank(2 * node), Rank(2 * node + 1)]
}
