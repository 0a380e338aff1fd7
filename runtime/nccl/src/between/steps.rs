//! What a call between nodes is made of.
//!
//! Pure. There are `nodes` nodes of `locals` ranks, numbered node by node. What a rank's node can do it does first or last,
//! over NVLink; between nodes a rank exchanges with those of its own number only, its *rail*, so that every byte leaves its node
//! once and all ranks of a node share the work.
//!
//! What is short is bound by the number of its launches: it goes in one step within the node and one between nodes, which can be one
//! launch, though more bytes move. Short vectors are reduced in the node whole, and then by every rail alike, or each block by the rail
//! that it is for. Short blocks that are gathered everywhere go over every rail for the whole node; those of a root go over its rail
//! alone.
//!
//! A reduction between nodes is of what every node has: two exchanges where that is less, one where it is short or where there
//! are two nodes.

use efarun_rt::cuda::DevicePointer;
use efarun_rt::nvlink::{DeviceCall, DeviceCollective, DeviceMessage, DeviceOp};
use efarun_rt::relay::{Messages as FarMessages, Reduction, Stretch, Transfer};
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

    /// How many ranks other nodes have.
    pub(super) fn far_ranks(&self) -> usize {
        ((self.nodes - 1) * self.locals) as usize
    }

    /// The node of a rank, and its number there.
    pub(super) fn place(&self, rank: Rank) -> (u32, u32) {
        (rank.0 / self.locals, rank.0 % self.locals)
    }

    /// The rank of this one's rail on a node.
    fn on_rail(&self, node: u32) -> Rank {
        Rank(node * self.locals + self.local)
    }

    /// The first rank of a node.
    fn first_of(&self, node: u32) -> Rank {
        Rank(node * self.locals)
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
    /// Messages, all at the same time: between ranks of the node, and with other nodes.
    Messages { near: NearMessages, far: FarMessages },
    /// Something with other nodes.
    Relay(Transfer),
    /// Within this GPU's memory.
    Copy { from: DevicePointer, to: DevicePointer, bytes: usize },
}

/// Messages between ranks of a node, by their numbers there.
#[derive(Clone, Debug, Default)]
pub(crate) struct NearMessages {
    pub(crate) sends: Vec<DeviceMessage>,
    pub(crate) receives: Vec<DeviceMessage>,
}

impl NearMessages {
    pub(crate) fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.receives.is_empty()
    }
}

/// How much scratch memory a call needs.
pub(crate) fn scratch_bytes(call: &DeviceCall, at: &Standpoint) -> usize {
    let count_bytes = call.count * call.element.size_bytes();
    let of_all = at.ranks() as usize * count_bytes;
    let (of_rail, of_node) = (at.nodes as usize * count_bytes, at.locals as usize * count_bytes);
    match call.collective {
        DeviceCollective::ReduceScatter if at.locals > 1 => {
            if of_all < SHARED_BYTES_MIN {
                of_all
            } else {
                of_rail
            }
        }
        DeviceCollective::Gather { .. } | DeviceCollective::Scatter { .. } if at.locals > 1 => {
            if of_node <= BY_NODE_BYTES_MAX { of_node } else { of_rail }
        }
        DeviceCollective::AllToAll if at.locals > 1 => of_all,
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
        let of_rank = |rank: Rank| self.behind(output, rank.index() * count);
        let of_node = |node: u32| of_rank(self.at.first_of(node));
        if self.goes_by_node() {
            let own = of_node(self.at.node);
            steps.push(self.on_node(DeviceCollective::AllGather, count, input, own));
            return steps.push(self.gather_on_rail(own, self.of_node(count), of_node));
        }
        let own = of_rank(self.at.on_rail(self.at.node));
        let gather = self.gather_on_rail(input, count, |node| of_rank(self.at.on_rail(node)));
        steps.push(self.copying(gather, input, own, count));
        if self.at.locals > 1 {
            for node in 0..self.at.nodes {
                let block = of_rank(self.at.on_rail(node));
                steps.push(self.on_node(DeviceCollective::AllGather, count, block, of_node(node)));
            }
        }
    }

    fn reduce_scatter(&self, steps: &mut Vec<Step>) {
        let DeviceCall { count, input, output, .. } = self.call;
        let of_all = self.at.ranks() as usize * count;
        let of_rank = |memory, rank: Rank| self.behind(memory, rank.index() * count);
        let of_rail = |node: u32| self.behind(self.scratch, node as usize * count);
        let exchange = if self.at.locals == 1 {
            self.exchange_and_reduce(output, |node| (of_rank(input, self.at.on_rail(node)), count))
        } else if of_all * self.size() < SHARED_BYTES_MIN {
            steps.push(self.on_node(DeviceCollective::AllReduce, of_all, input, self.scratch));
            self.exchange_and_reduce(output, |node| (of_rank(self.scratch, self.at.on_rail(node)), count))
        } else {
            for node in 0..self.at.nodes {
                let first = of_rank(input, self.at.first_of(node));
                steps.push(self.on_node(DeviceCollective::ReduceScatter, count, first, of_rail(node)));
            }
            self.exchange_and_reduce(output, |node| (of_rail(node), count))
        };
        steps.push(exchange);
    }

    /// Short ones as any: one step of messages would bring the node's ranks all nodes' blocks, but what a rank has for its own
    /// rail it would have to copy, by an operation for each node that takes as long as the step which is saved.
    fn all_to_all(&self, steps: &mut Vec<Step>) {
        let DeviceCall { count, input, output, .. } = self.call;
        let of_node = |memory, node: u32| self.behind(memory, self.at.first_of(node).index() * count);
        let (own_input, own_output) = (of_node(input, self.at.node), of_node(output, self.at.node));
        let is_alone = self.at.locals == 1;
        if !is_alone {
            steps.push(self.on_node(DeviceCollective::AllToAll, count, own_input, own_output));
            for node in self.at.other_nodes() {
                let (from, to) = (of_node(input, node), of_node(self.scratch, node));
                steps.push(self.on_node(DeviceCollective::AllToAll, count, from, to));
            }
        }
        let from = if is_alone { input } else { self.scratch };
        let exchange = Step::Relay(Transfer {
            puts: self.of_others(self.of_node(count), |node| of_node(from, node)),
            gets: self.of_others(self.of_node(count), |node| of_node(output, node)),
            sends: self.with_others(),
            receives: self.with_others(),
            slice_bytes: self.slice_bytes(self.of_node(count)),
            ..Transfer::default()
        });
        steps.push(if is_alone { self.copying(exchange, own_input, own_output, count) } else { exchange });
    }

    fn gather(&self, root: Rank, steps: &mut Vec<Step>) {
        let DeviceCall { count, input, output, .. } = self.call;
        let (root_node, root_local) = self.at.place(root);
        let is_at_root = self.at.node == root_node;
        let of_node = |node: u32| self.behind(output, self.at.first_of(node).index() * count);
        let in_node = DeviceCollective::Gather { root: Rank(root_local) };
        if self.goes_by_node() {
            let own = if is_at_root { of_node(root_node) } else { self.scratch };
            steps.push(self.on_node(in_node, count, input, own));
            if self.at.local == root_local {
                steps.push(self.gather_at(root_node, own, self.of_node(count), of_node));
            }
            return;
        }
        let blocks = if self.at.locals == 1 { output } else { self.scratch };
        let block = |node: u32| self.behind(blocks, node as usize * count);
        let transfer = self.gather_at(root_node, input, count, block);
        if !is_at_root {
            return steps.push(transfer);
        }
        if self.at.locals == 1 {
            return steps.push(self.copying(transfer, input, block(root_node), count));
        }
        steps.push(transfer);
        for node in 0..self.at.nodes {
            let from = if node == root_node { input } else { block(node) };
            steps.push(self.on_node(in_node, count, from, of_node(node)));
        }
    }

    fn scatter(&self, root: Rank, steps: &mut Vec<Step>) {
        let DeviceCall { count, input, output, .. } = self.call;
        let (root_node, root_local) = self.at.place(root);
        let is_at_root = self.at.node == root_node;
        let of_node = |node: u32| self.behind(input, self.at.first_of(node).index() * count);
        let in_node = DeviceCollective::Scatter { root: Rank(root_local) };
        if self.goes_by_node() {
            let own = if is_at_root { of_node(root_node) } else { self.scratch };
            if self.at.local == root_local {
                steps.push(self.scatter_from(root_node, own, self.of_node(count), of_node));
            }
            return steps.push(self.on_node(in_node, count, own, output));
        }
        let blocks = if self.at.locals == 1 { input } else { self.scratch };
        let block = |node: u32| self.behind(blocks, node as usize * count);
        if is_at_root && self.at.locals > 1 {
            for node in self.at.other_nodes() {
                steps.push(self.on_node(in_node, count, of_node(node), block(node)));
            }
        }
        let transfer = self.scatter_from(root_node, output, count, block);
        if is_at_root && self.at.locals > 1 {
            steps.push(transfer);
            steps.push(self.on_node(in_node, count, of_node(root_node), output));
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
        let nodes = self.at.nodes as usize;
        if nodes == 2 || count * self.size() < TWO_EXCHANGES_BYTES_MIN {
            return steps.push(Step::Relay(Transfer {
                puts: vec![self.stretch(from, count)],
                gets: vec![self.stretch(to, count); nodes - 1],
                sends: self.others_alike(),
                receives: self.with_others(),
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
        let gets = self
            .at
            .other_nodes()
            .map(|node| self.stretch(self.behind(to, part_of(node).start), part_of(node).len()));
        steps.push(Step::Relay(Transfer {
            puts: vec![own],
            gets: gets.collect(),
            sends: self.others_alike(),
            receives: self.with_others(),
            slice_bytes: self.slice_bytes(part),
            ..Transfer::default()
        }));
    }

    /// Gives each rank of the rail its part of this one's memory, and reduces what they give of this node's part.
    fn exchange_and_reduce(&self, to: DevicePointer, part: impl Fn(u32) -> (DevicePointer, usize)) -> Step {
        let (own, own_len) = part(self.at.node);
        let longest = (0..self.at.nodes).map(|node| part(node).1).max().unwrap_or(0);
        let puts = self.at.other_nodes().map(&part).map(|(from, len)| self.stretch(from, len));
        Step::Relay(Transfer {
            puts: puts.collect(),
            gets: vec![self.stretch(to, own_len); self.at.nodes as usize - 1],
            sends: self.with_others(),
            receives: self.with_others(),
            reduction: Some(self.reduction(own)),
            slice_bytes: self.slice_bytes(longest),
            ..Transfer::default()
        })
    }

    /// Gives all ranks of the rail what this one has, and gets what they have, by node.
    fn gather_on_rail(&self, from: DevicePointer, count: usize, to: impl Fn(u32) -> DevicePointer) -> Step {
        Step::Relay(Transfer {
            puts: vec![self.stretch(from, count)],
            gets: self.of_others(count, to),
            sends: self.others_alike(),
            receives: self.with_others(),
            slice_bytes: self.slice_bytes(count),
            ..Transfer::default()
        })
    }

    /// The same, where only a node's rank of the rail gets anything.
    fn gather_at(
        &self,
        root_node: u32,
        from: DevicePointer,
        count: usize,
        to: impl Fn(u32) -> DevicePointer,
    ) -> Step {
        let slice_bytes = self.slice_bytes(count);
        Step::Relay(if self.at.node == root_node {
            let (gets, receives) = (self.of_others(count, to), self.with_others());
            Transfer { gets, receives, slice_bytes, ..Transfer::default() }
        } else {
            let (puts, sends) = (vec![self.stretch(from, count)], vec![(self.at.on_rail(root_node), 0)]);
            Transfer { puts, sends, slice_bytes, ..Transfer::default() }
        })
    }

    /// Gives every rank of the rail what a node's has for it, into its memory.
    fn scatter_from(
        &self,
        root_node: u32,
        to: DevicePointer,
        count: usize,
        from: impl Fn(u32) -> DevicePointer,
    ) -> Step {
        let slice_bytes = self.slice_bytes(count);
        Step::Relay(if self.at.node == root_node {
            let (puts, sends) = (self.of_others(count, from), self.with_others());
            Transfer { puts, sends, slice_bytes, ..Transfer::default() }
        } else {
            let (gets, receives) = (vec![self.stretch(to, count)], vec![(self.at.on_rail(root_node), 0)]);
            Transfer { gets, receives, slice_bytes, ..Transfer::default() }
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
            gets: vec![self.stretch(to, count); self.at.nodes as usize - 1],
            receives: self.with_others(),
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

    /// Whether blocks of this length go between nodes a whole node's at a time, from a rank to one of each node.
    fn goes_by_node(&self) -> bool {
        self.at.locals > 1 && self.of_node(self.call.count) * self.size() <= BY_NODE_BYTES_MAX
    }

    /// How many elements the ranks of a node have together.
    fn of_node(&self, count: usize) -> usize {
        self.at.locals as usize * count
    }

    fn slice_bytes(&self, count: usize) -> usize {
        Transfer::slice_bytes(count * self.size(), self.at.nodes as usize - 1)
    }

    /// The other ranks of the rail, each with a stretch of its own.
    fn with_others(&self) -> Vec<(Rank, usize)> {
        self.at.other_nodes().enumerate().map(|(index, node)| (self.at.on_rail(node), index)).collect()
    }

    /// The other ranks of the rail, all with the first stretch.
    fn others_alike(&self) -> Vec<(Rank, usize)> {
        self.at.other_nodes().map(|node| (self.at.on_rail(node), 0)).collect()
    }

    /// A stretch for each other rank of the rail.
    fn of_others(&self, count: usize, memory: impl Fn(u32) -> DevicePointer) -> Vec<Stretch> {
        self.at.other_nodes().map(|node| self.stretch(memory(node), count)).collect()
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

/// Below this a node's ranks reduce all of a vector, and every rail does so alike: fewer steps count for more than bytes. In a
/// reduce_scatter a rank then gets blocks that it does not need: of 64 KiB on two nodes of 8 that is 0.8 MB more that it sends over
/// NVLink, 2.5 us at the 316 GB/s of an H200, where the launch that is saved takes 3 to 4, and its host 2.7.
pub(super) const SHARED_BYTES_MIN: usize = 64 << 10;
/// To so many bytes together, the blocks of a node's ranks go between nodes as one stretch, to every rank that wants them. With 8 on a
/// node that is 7 KiB more over a rank's share of the cards: 1.1 us on a p4d (50 GB/s for 8 GPUs), 0.15 on a p5. Each node has that
/// once, and saves a launch for it, of 3 to 4 us on the GPU and 2.7 on its host. Above, a message is more than one packet of EFA.
pub(super) const BY_NODE_BYTES_MAX: usize = 8 << 10;
/// Elements that fill sixteen bytes in every type.
const SHARD_ELEMENTS: usize = 16;
/// From here on more than two nodes exchange parts, and then results: two ways, and fewer bytes.
const TWO_EXCHANGES_BYTES_MIN: usize = 256 << 10;
