//! What a call between nodes is made of.
//!
//! Pure. There are `nodes` nodes of `locals` ranks, numbered node by node. What a rank's node can do it does first or last,
//! over NVLink; between nodes a rank exchanges with those of its own number only, its *rail*, so that every byte leaves its node
//! once and all ranks of a node share the work. Short vectors are reduced in the node whole, and then by every rail alike.
//!
//! A reduction between nodes is of what every node has: two exchanges where that is less, one where it is short or where there
//! are two nodes.

use efarun_rt::cuda::DevicePointer;
use efarun_rt::nvlink::{DeviceCall, DeviceCollective, DeviceMessage, DeviceOp};
use efarun_rt::relay::{Reduction, Stretch, Transfer};
use efarun_rt::{Rank, ReduceOp};

/// Where a rank stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standpoint {
    pub(crate) nodes: u32,
    /// Ranks of a node.
    pub(crate) locals: u32,
    /// This rank's node.
    pub(crate) node: u32,
    /// Its number there.
    pub(crate) local: u32,
}

impl Standpoint {
    fn ranks(&self) -> u32 {
        self.nodes * self.locals
    }

    /// The node of a rank, and its number there.
    pub(super) fn place(&self, rank: Rank) -> (u32, u32) {
        (rank.0 / self.locals, rank.0 % self.locals)
    }

    /// The rank of this one's rail on a node.
    fn on_rail(&self, node: u32) -> Rank {
        Rank(node * self.locals + self.local)
    }

    fn other_nodes(&self) -> impl Iterator<Item = u32> + use<> {
        let own = self.node;
        (0..self.nodes).filter(move |&node| node != own)
    }
}

/// What is enqueued.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A collective of the node's ranks, by their numbers there.
    Node(DeviceCall),
    /// Messages between ranks of the node, by their numbers there.
    Messages { sends: Vec<DeviceMessage>, receives: Vec<DeviceMessage> },
    /// Something with other nodes.
    Relay(Transfer),
    /// Within this GPU's memory.
    Copy { from: DevicePointer, to: DevicePointer, bytes: usize },
}

/// How much scratch memory a call needs.
pub(crate) fn scratch_bytes(call: &DeviceCall, at: &Standpoint) -> usize {
    let count_bytes = call.count * call.element.size_bytes();
    let blocks = at.nodes as usize * count_bytes;
    match call.collective {
        DeviceCollective::ReduceScatter | DeviceCollective::Gather { .. } if at.locals > 1 => blocks,
        DeviceCollective::Scatter { .. } if at.locals > 1 => blocks,
        DeviceCollective::AllToAll if at.locals > 1 => blocks * at.locals as usize,
        DeviceCollective::Reduce { .. } => count_bytes,
        DeviceCollective::Barrier => 8,
        _ => 0,
    }
}

/// A call, and where it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    pub(crate) call: DeviceCall,
    pub(crate) at: Standpoint,
    /// So much as [`scratch_bytes`] says.
    pub(crate) scratch: DevicePointer,
}

impl Steps {
    /// The call's steps on this rank.
    pub(crate) fn list(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.call.count == 0 && self.call.collective != DeviceCollective::Barrier {
            return steps;
        }
        match self.call.collective {
            DeviceCollective::AllReduce => self.all_reduce(&mut steps),
            DeviceCollective::Broadcast { root } => self.broadcast(root, &mut steps),
            DeviceCollective::Reduce { root } => self.reduce(root, &mut steps),
            DeviceCollective::AllGather => self.all_gather(&mut steps),
            DeviceCollective::ReduceScatter => self.reduce_scatter(&mut steps),
            DeviceCollective::AllToAll => self.all_to_all(&mut steps),
            DeviceCollective::Gather { root } => self.gather(root, &mut steps),
            DeviceCollective::Scatter { root } => self.scatter(root, &mut steps),
            other => unreachable!("the library does not call {}", other.name()),
        }
        steps
    }

    fn all_reduce(&self, steps: &mut Vec<Step>) {
        let DeviceCall { count, input, output, .. } = self.call;
        if self.at.locals == 1 {
            return self.reduce_on_rail(input, output, count, steps);
        }
        let (shard, body) = self.shard();
        if shard > 0 {
            let own = output.offset(self.at.local as usize * shard * self.size());
            steps.push(self.on_node(DeviceCollective::ReduceScatter, shard, input, own));
            self.reduce_on_rail(own, own, shard, steps);
            steps.push(self.on_node(DeviceCollective::AllGather, shard, own, output));
        }
        if body < count {
            let (input, output) = (self.behind(input, body), self.behind(output, body));
            steps.push(self.on_node(DeviceCollective::AllReduce, count - body, input, output));
            self.reduce_on_rail(output, output, count - body, steps);
        }
    }

    fn broadcast(&self, root: Rank, steps: &mut Vec<Step>) {
        let DeviceCall { count, input, output, .. } = self.call;
        let (root_node, root_local) = self.at.place(root);
        let is_root = (self.at.node, self.at.local) == (root_node, root_local);
        let in_node = |local| DeviceCollective::Broadcast { root: Rank(local) };
        let (shard, body) = self.shard();
        if shard > 0 {
            let own = output.offset(self.at.local as usize * shard * self.size());
            if self.at.node == root_node {
                let scatter = DeviceCollective::Scatter { root: Rank(root_local) };
                steps.push(self.on_node(scatter, shard, input, own));
            }
            steps.push(self.spread_from(root_node, own, shard));
            steps.push(self.on_node(DeviceCollective::AllGather, shard, own, output));
        }
        if body < count {
            let (input, output) = (self.behind(input, body), self.behind(output, body));
            if self.at.local == root_local {
                let from = if is_root { input } else { output };
                let spread = self.spread_from(root_node, from, count - body);
                steps.push(if is_root { self.copying(spread, input, output, count - body) } else { spread });
            }
            if self.at.locals > 1 {
                steps.push(self.on_node(in_node(root_local), count - body, output, output));
            }
        }
    }

    fn reduce(&self, root: Rank, steps: &mut Vec<Step>) {
        let DeviceCall { count, input, output, .. } = self.call;
        let (root_node, root_local) = self.at.place(root);
        if self.at.locals == 1 {
            let to = if self.at.node == root_node { output } else { self.scratch };
            return steps.push(self.reduce_at(root_node, input, to, count));
        }
        let to_local = |collective: fn(Rank) -> DeviceCollective| collective(Rank(root_local));
        let (shard, body) = self.shard();
        if shard > 0 {
            steps.push(self.on_node(DeviceCollective::ReduceScatter, shard, input, self.scratch));
            steps.push(self.reduce_at(root_node, self.scratch, self.scratch, shard));
            if self.at.node == root_node {
                let gather = to_local(|root| DeviceCollective::Gather { root });
                steps.push(self.on_node(gather, shard, self.scratch, output));
            }
        }
        if body < count {
            let scratch = self.behind(self.scratch, body);
            let reduce = to_local(|root| DeviceCollective::Reduce { root });
            steps.push(self.on_node(reduce, count - body, self.behind(input, body), scratch));
            if self.at.local == root_local {
                let is_root = self.at.node == root_node;
                let to = if is_root { self.behind(output, body) } else { scratch };
                steps.push(self.reduce_at(root_node, scratch, to, count - body));
            }
        }
    }

    fn all_gather(&self, steps: &mut Vec<Step>) {
        let DeviceCall { count, input, output, .. } = self.call;
        let of_rank = |rank: Rank| self.behind(output, rank.0 as usize * count);
        let own = of_rank(self.at.on_rail(self.at.node));
        let gather = self.gather_on_rail(input, count, |node| of_rank(self.at.on_rail(node)));
        steps.push(self.copying(gather, input, own, count));
        if self.at.locals > 1 {
            for node in 0..self.at.nodes {
                let first = of_rank(Rank(node * self.at.locals));
                let block = of_rank(self.at.on_rail(node));
                steps.push(self.on_node(DeviceCollective::AllGather, count, block, first));
            }
        }
    }

    fn reduce_scatter(&self, steps: &mut Vec<Step>) {
        let DeviceCall { count, input, output, .. } = self.call;
        let blocks = if self.at.locals == 1 { input } else { self.scratch };
        if self.at.locals > 1 {
            for node in 0..self.at.nodes {
                let first = self.behind(input, (node * self.at.locals) as usize * count);
                let block = self.behind(self.scratch, node as usize * count);
                steps.push(self.on_node(DeviceCollective::ReduceScatter, count, first, block));
            }
        }
        steps.push(
            self.exchange_and_reduce(output, |node| (self.behind(blocks, node as usize * count), count)),
        );
    }

    fn all_to_all(&self, steps: &mut Vec<Step>) {
        let DeviceCall { count, input, output, .. } = self.call;
        let locals = self.at.locals as usize;
        let of_node = |memory, node: u32| self.behind(memory, node as usize * locals * count);
        let (own_input, own_output) = (of_node(input, self.at.node), of_node(output, self.at.node));
        if locals > 1 {
            steps.push(self.on_node(DeviceCollective::AllToAll, count, own_input, own_output));
            for node in self.at.other_nodes() {
                let (from, to) = (of_node(input, node), of_node(self.scratch, node));
                steps.push(self.on_node(DeviceCollective::AllToAll, count, from, to));
            }
        }
        let from = if locals == 1 { input } else { self.scratch };
        let others: Vec<u32> = self.at.other_nodes().collect();
        let stretches = |memory: DevicePointer| -> Vec<Stretch> {
            others.iter().map(|&node| self.stretch(of_node(memory, node), locals * count)).collect()
        };
        let exchange = Step::Relay(Transfer {
            puts: stretches(from),
            gets: stretches(output),
            sends: self.with(&others),
            receives: self.with(&others),
            slice_bytes: self.slice_bytes(locals * count),
            ..Transfer::default()
        });
        let is_alone = locals == 1;
        steps.push(if is_alone { self.copying(exchange, own_input, own_output, count) } else { exchange });
    }

    fn gather(&self, root: Rank, steps: &mut Vec<Step>) {
        let DeviceCall { count, input, output, .. } = self.call;
        let (root_node, root_local) = self.at.place(root);
        let locals = self.at.locals as usize;
        let is_at_root = self.at.node == root_node;
        let others: Vec<u32> = self.at.other_nodes().collect();
        let blocks = if locals == 1 { output } else { self.scratch };
        let block = |node: u32| self.behind(blocks, node as usize * count);
        let mut transfer = Transfer { slice_bytes: self.slice_bytes(count), ..Transfer::default() };
        if is_at_root {
            transfer.gets = others.iter().map(|&node| self.stretch(block(node), count)).collect();
            transfer.receives = self.with(&others);
        } else {
            transfer.puts = vec![self.stretch(input, count)];
            transfer.sends = vec![(self.at.on_rail(root_node), 0)];
        }
        let transfer = Step::Relay(transfer);
        if !is_at_root {
            return steps.push(transfer);
        }
        if locals == 1 {
            return steps.push(self.copying(transfer, input, block(root_node), count));
        }
        steps.push(transfer);
        for node in 0..self.at.nodes {
            let from = if node == root_node { input } else { block(node) };
            let to = self.behind(output, node as usize * locals * count);
            let gather = DeviceCollective::Gather { root: Rank(root_local) };
            steps.push(self.on_node(gather, count, from, to));
        }
    }

    fn scatter(&self, root: Rank, steps: &mut Vec<Step>) {
        let DeviceCall { count, input, output, .. } = self.call;
        let (root_node, root_local) = self.at.place(root);
        let locals = self.at.locals as usize;
        let is_at_root = self.at.node == root_node;
        let others: Vec<u32> = self.at.other_nodes().collect();
        let blocks = if locals == 1 { input } else { self.scratch };
        let block = |node: u32| self.behind(blocks, node as usize * count);
        let scatter = DeviceCollective::Scatter { root: Rank(root_local) };
        let of_node = |node: u32| self.behind(input, node as usize * locals * count);
        if is_at_root && locals > 1 {
            for &node in &others {
                steps.push(self.on_node(scatter, count, of_node(node), block(node)));
            }
        }
        let mut transfer = Transfer { slice_bytes: self.slice_bytes(count), ..Transfer::default() };
        if is_at_root {
            transfer.puts = others.iter().map(|&node| self.stretch(block(node), count)).collect();
            transfer.sends = self.with(&others);
        } else {
            transfer.gets = vec![self.stretch(output, count)];
            transfer.receives = vec![(self.at.on_rail(root_node), 0)];
        }
        let transfer = Step::Relay(transfer);
        if is_at_root && locals > 1 {
            steps.push(transfer);
            steps.push(self.on_node(scatter, count, of_node(root_node), output));
        } else if is_at_root {
            steps.push(self.copying(transfer, block(root_node), output, count));
        } else {
            steps.push(transfer);
        }
    }

    /// A transfer that also copies what this rank has for itself, unless it is where it belongs.
    fn copying(&self, step: Step, from: DevicePointer, to: DevicePointer, count: usize) -> Step {
        match step {
            Step::Relay(transfer) if from != to => {
                Step::Relay(Transfer { copy: Some((self.stretch(from, count), to)), ..transfer })
            }
            other => other,
        }
    }

    /// Reduces what the ranks of the rail have, into each of them.
    fn reduce_on_rail(&self, from: DevicePointer, to: DevicePointer, count: usize, steps: &mut Vec<Step>) {
        let others: Vec<u32> = self.at.other_nodes().collect();
        let nodes = self.at.nodes as usize;
        if nodes == 2 || count * self.size() < TWO_EXCHANGES_BYTES_MIN {
            return steps.push(Step::Relay(Transfer {
                puts: vec![self.stretch(from, count)],
                gets: vec![self.stretch(to, count); others.len()],
                sends: others.iter().map(|&node| (self.at.on_rail(node), 0)).collect(),
                receives: self.with(&others),
                reduction: Some(self.reduction(from)),
                slice_bytes: self.slice_bytes(count),
                ..Transfer::default()
            }));
        }
        let part = count.div_ceil(nodes);
        let part_of = |node: u32| (part * node as usize).min(count)..(part * (node as usize + 1)).min(count);
        let own = part_of(self.at.node);
        steps.push(self.exchange_and_reduce(self.behind(to, own.start), |node| {
            (self.behind(from, part_of(node).start), part_of(node).len())
        }));
        let own = self.stretch(self.behind(to, own.start), own.len());
        let gets = others
            .iter()
            .map(|&node| self.stretch(self.behind(to, part_of(node).start), part_of(node).len()));
        steps.push(Step::Relay(Transfer {
            puts: vec![own],
            gets: gets.collect(),
            sends: others.iter().map(|&node| (self.at.on_rail(node), 0)).collect(),
            receives: self.with(&others),
            slice_bytes: self.slice_bytes(part),
            ..Transfer::default()
        }));
    }

    /// Gives each rank of the rail its part of this one's memory, and reduces what they give of this node's part.
    fn exchange_and_reduce(&self, to: DevicePointer, part: impl Fn(u32) -> (DevicePointer, usize)) -> Step {
        let others: Vec<u32> = self.at.other_nodes().collect();
        let (own, own_len) = part(self.at.node);
        let longest = (0..self.at.nodes).map(|node| part(node).1).max().unwrap_or(0);
        Step::Relay(Transfer {
            puts: others.iter().map(|&node| part(node)).map(|(from, len)| self.stretch(from, len)).collect(),
            gets: vec![self.stretch(to, own_len); others.len()],
            sends: self.with(&others),
            receives: self.with(&others),
            reduction: Some(self.reduction(own)),
            slice_bytes: self.slice_bytes(longest),
            ..Transfer::default()
        })
    }

    fn gather_on_rail(&self, from: DevicePointer, count: usize, to: impl Fn(u32) -> DevicePointer) -> Step {
        let others: Vec<u32> = self.at.other_nodes().collect();
        Step::Relay(Transfer {
            puts: vec![self.stretch(from, count)],
            gets: others.iter().map(|&node| self.stretch(to(node), count)).collect(),
            sends: others.iter().map(|&node| (self.at.on_rail(node), 0)).collect(),
            receives: self.with(&others),
            slice_bytes: self.slice_bytes(count),
            ..Transfer::default()
        })
    }

    /// Brings what a node's rank of the rail has to the others, from node to node.
    fn spread_from(&self, root_node: u32, memory: DevicePointer, count: usize) -> Step {
        let nodes = self.at.nodes;
        let distance = (self.at.node + nodes - root_node) % nodes;
        let at_distance = |distance: u32| self.at.on_rail((root_node + distance) % nodes);
        let next = (distance + 1 < nodes).then(|| at_distance(distance + 1));
        let stretch = vec![self.stretch(memory, count)];
        let slice_bytes = self.slice_bytes(count);
        Step::Relay(if distance == 0 {
            let sends = next.map(|rank| (rank, 0)).into_iter().collect();
            Transfer { puts: stretch, sends, slice_bytes, ..Transfer::default() }
        } else {
            let receives = vec![(at_distance(distance - 1), 0)];
            let passes_on = next.into_iter().collect();
            Transfer { gets: stretch, receives, passes_on, slice_bytes, ..Transfer::default() }
        })
    }

    /// Reduces what the ranks of the rail have, into that of a node.
    fn reduce_at(&self, root_node: u32, from: DevicePointer, to: DevicePointer, count: usize) -> Step {
        let others: Vec<u32> = self.at.other_nodes().collect();
        let slice_bytes = self.slice_bytes(count);
        if self.at.node != root_node {
            // What is put is multiplied where the operation says so.
            return Step::Relay(Transfer {
                puts: vec![self.stretch(from, count)],
                sends: vec![(self.at.on_rail(root_node), 0)],
                reduction: self.is_multiplied().then(|| self.reduction(from)),
                slice_bytes,
                ..Transfer::default()
            });
        }
        Step::Relay(Transfer {
            gets: vec![self.stretch(to, count); others.len()],
            receives: self.with(&others),
            reduction: Some(self.reduction(from)),
            slice_bytes,
            ..Transfer::default()
        })
    }

    /// A collective of the node. Averages are divided behind the last exchange.
    fn on_node(
        &self,
        collective: DeviceCollective,
        count: usize,
        input: DevicePointer,
        output: DevicePointer,
    ) -> Step {
        let op = match self.call.op {
            DeviceOp::Of(ReduceOp::Avg) => DeviceOp::Of(ReduceOp::Sum),
            op => op,
        };
        Step::Node(DeviceCall { collective, count, input, output, op, ..self.call })
    }

    /// How the nodes' parts become one. What a node's ranks reduced before is multiplied already.
    fn reduction(&self, own: DevicePointer) -> Reduction {
        let op = match self.call.op {
            DeviceOp::PreMulSum(_) if !self.is_multiplied() => DeviceOp::Of(ReduceOp::Sum),
            op => op,
        };
        Reduction { own, place: self.at.node, element: self.call.element, op, ranks: self.at.ranks() }
    }

    fn is_multiplied(&self) -> bool {
        matches!(self.call.op, DeviceOp::PreMulSum(_)) && self.at.locals == 1
    }

    /// Elements of a long vector of which each rank of the node has as many, and how many that are together.
    fn shard(&self) -> (usize, usize) {
        let locals = self.at.locals as usize;
        let count = self.call.count;
        if locals == 1 || count * self.size() < SHARED_BYTES_MIN {
            return (0, 0);
        }
        // Aligned as whole vectors are, so that sixteen bytes can be moved at a time.
        let shard = count / locals / SHARD_ELEMENTS * SHARD_ELEMENTS;
        (shard, shard * locals)
    }

    fn slice_bytes(&self, count: usize) -> usize {
        Transfer::slice_bytes(count * self.size(), self.at.nodes as usize - 1)
    }

    /// Each of these nodes' rank on the rail, with a stretch of its own.
    fn with(&self, nodes: &[u32]) -> Vec<(Rank, usize)> {
        nodes.iter().enumerate().map(|(index, &node)| (self.at.on_rail(node), index)).collect()
    }

    fn stretch(&self, pointer: DevicePointer, count: usize) -> Stretch {
        Stretch { pointer, bytes: count * self.size() }
    }

    fn behind(&self, memory: DevicePointer, count: usize) -> DevicePointer {
        memory.offset(count * self.size())
    }

    fn size(&self) -> usize {
        self.call.element.size_bytes()
    }
}

/// Below this a node's ranks reduce all of a vector, and every rail does so alike: fewer steps count for more than bytes.
const SHARED_BYTES_MIN: usize = 64 << 10;
/// Elements that fill sixteen bytes in every type.
const SHARD_ELEMENTS: usize = 16;
/// From here on more than two nodes exchange parts, and then results: two ways, and fewer bytes.
const TWO_EXCHANGES_BYTES_MIN: usize = 256 << 10;
