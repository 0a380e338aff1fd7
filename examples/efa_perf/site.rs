//! Where the ranks of a World are, as the bound asks for it.

use std::net::{IpAddr, ToSocketAddrs, UdpSocket};

use efarun_rt::{Rank, World};

use crate::bound::{Layout, Site};

/// Reads it from the World and the environment.
pub(crate) fn of(world: &World) -> Site {
    let topology = world.topology();
    let mut first_ranks: Vec<Rank> = Vec::new();
    let mut ranks_per_node: Vec<u32> = Vec::new();
    // Nodes are numbered by their lowest rank, so that they come up in order.
    for rank in (0..topology.world_size()).map(Rank) {
        let node = topology.node_rank(rank) as usize;
        if node == ranks_per_node.len() {
            first_ranks.push(rank);
            ranks_per_node.push(0);
        }
        ranks_per_node[node] += 1;
    }
    let hostnames = first_ranks.iter().map(|rank| topology.hostname(*rank).to_owned()).collect();
    let address = world.config().node_address.or_else(route_to_others);
    Site { layout: Layout::new(ranks_per_node), first_ranks, hostnames, address }
}

/// Without a launcher: the address of this node from which the meeting point is reached.
fn route_to_others() -> Option<IpAddr> {
    let meeting_point = std::env::var("EFARUN_BOOTSTRAP").ok()?.to_socket_addrs().ok()?.next()?;
    let any = if meeting_point.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Connecting a datagram socket sends nothing; it asks the kernel for the route.
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(meeting_point).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
