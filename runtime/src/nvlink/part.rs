//! Which part a rank has in a collective, for each leaf.
//!
//! Pure. What a collective means is [`DeviceCollective`]; a leaf's exchanges are described in its kernel. Here stands who sends
//! what to whom in which of them, as masks and strides.

use super::call::DeviceCollective;
use super::layout::{DIRECT_BYTES, RING_CHANNELS, RING_DATA_BYTES, RING_SLOTS, SLICE_UNIT_BYTES};
use super::parameters::{Part, Route};
use super::room::Room;

/// A native implementation on GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leaf {
    /// One exchange of cells that hold data and number.
    OneShot,
    /// Two exchanges of lines that hold data and number.
    TwoShot,
    /// Reading and writing the ranks' own buffers.
    Direct,
    /// Slices that go from each rank to the next.
    Ring,
    /// Slices that go from each rank to those it has something for.
    Slots,
}

impl Leaf {
    /// Its kernels' name, and `explain`'s.
    pub fn name(self) -> &'static str {
        match self {
            Leaf::OneShot => "one-shot",
            Leaf::TwoShot => "two-shot",
            Leaf::Direct => "direct",
            Leaf::Ring => "ring",
            Leaf::Slots => "slots",
        }
    }
}

/// One call, as all ranks agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) collective: DeviceCollective,
    /// Bytes of what the collective counts: the vector, or one rank's block.
    pub(super) count_bytes: usize,
    pub(super) ranks: u32,
    pub(super) room: Room,
}

impl Shape {
    /// What one rank is responsible for, where the work is shared. Whole packs of the kernels, so that what is aligned stays
    /// so.
    pub(super) fn block_bytes(self) -> usize {
        match self.collective {
            DeviceCollective::AllGather | DeviceCollective::ReduceScatter => self.count_bytes,
            collective if collective.moves_blocks() => self.count_bytes,
            _ => self.count_bytes.div_ceil(self.ranks as usize).next_multiple_of(DIRECT_BYTES),
        }
    }

    /// The same by the two-shot leaf, where a root may have no block of a broadcast's or reduce's vector: it would give that to
    /// every other rank besides, or get it from each. Two ranks have nothing to gain, as one of them would do all the work.
    pub(super) fn two_shot_block_bytes(self) -> usize {
        if !self.is_root_without_block() {
            return self.block_bytes();
        }
        self.count_bytes.div_ceil(self.ranks as usize - 1).next_multiple_of(DIRECT_BYTES)
    }

    fn is_root_without_block(self) -> bool {
        let is_worth_it = match self.collective {
            DeviceCollective::Reduce { .. } => self.count_bytes >= REDUCE_WITHOUT_BLOCK_BYTES_MIN,
            _ => true,
        };
        self.is_chain() && self.ranks > 2 && is_worth_it
    }

    /// What a rank sends each peer at most in the first exchange of the one-shot leaf.
    pub(super) fn one_shot_bytes(self) -> usize {
        self.count_bytes
    }

    /// Whether elements are reduced.
    pub(super) fn is_reduction(self) -> bool {
        self.collective.reduces()
    }

    fn root(self) -> u32 {
        self.collective.root().map_or(0, |root| root.0)
    }

    /// A rank's part by the one-shot leaf.
    pub(super) fn one_shot(self, rank: u32) -> Part {
        let Masks { me, all, others, root, none } = self.masks(rank);
        let is_root = me == root;
        let bytes = self.count_bytes as u64;
        let part =
            Part { block_bytes: bytes, total_bytes: bytes, rank, ranks: self.ranks, ..Part::default() };
        match self.collective {
            DeviceCollective::AllReduce => Part { send: others, receive: all, keep: 1, ..part },
            DeviceCollective::ReduceScatter => {
                Part { input_stride: bytes, send: others, receive: all, keep: 1, ..part }
            }
            DeviceCollective::AllGather => {
                Part { output_stride: bytes, send: others, receive: all, keep: 1, ..part }
            }
            DeviceCollective::Broadcast { .. } => {
                Part { send: if is_root { others } else { none }, receive: root, keep: 1, ..part }
            }
            DeviceCollective::Reduce { .. } => Part {
                send: root & others,
                receive: if is_root { all } else { none },
                keep: u32::from(is_root),
                ..part
            },
            DeviceCollective::AllToAll => Part {
                input_stride: bytes,
                output_stride: bytes,
                send: others,
                receive: all,
                keep: 1,
                ..part
            },
            DeviceCollective::Gather { .. } => Part {
                output_stride: bytes,
                send: root & others,
                receive: if is_root { all } else { none },
                keep: 1,
                ..part
            },
            DeviceCollective::Scatter { .. } => Part {
                input_stride: bytes,
                send: if is_root { others } else { none },
                receive: root,
                keep: 1,
                ..part
            },
            DeviceCollective::Barrier => part,
        }
    }

    /// A rank's part by the two-shot leaf.
    pub(super) fn two_shot(self, rank: u32) -> Part {
        let Masks { me, all, others, root, none } = self.masks(rank);
        let is_root = me == root;
        let block = self.two_shot_block_bytes() as u64;
        let vector = Part {
            block_bytes: block,
            total_bytes: self.count_bytes as u64,
            input_stride: block,
            output_stride: block,
            rank,
            ranks: self.ranks,
            keep: 1,
            ..Part::default()
        };
        let blocks = Part { total_bytes: block * u64::from(self.ranks), ..vector };
        match self.collective {
            DeviceCollective::AllReduce => {
                Part { send: others, receive: all, forward: others, collect: others, ..vector }
            }
            DeviceCollective::ReduceScatter => {
                Part { output_stride: 0, send: others, receive: all, ..blocks }
            }
            DeviceCollective::AllGather => {
                Part { input_stride: 0, receive: me, forward: others, collect: others, ..blocks }
            }
            // Everybody passes its block to the root too, which has it: so that the root hears from everybody.
            DeviceCollective::Broadcast { .. } if self.is_root_without_block() => Part {
                send: if is_root { others } else { none },
                receive: if is_root { none } else { root },
                forward: if is_root { none } else { others },
                collect: others & !root,
                keep: u32::from(!is_root),
                route: Route::FromRoot,
                root: self.root(),
                ..vector
            },
            DeviceCollective::Reduce { .. } if self.is_root_without_block() => Part {
                send: others & !root,
                receive: if is_root { none } else { all },
                forward: root & others,
                collect: if is_root { others } else { none },
                keep: 0,
                route: Route::ToRoot,
                root: self.root(),
                ..vector
            },
            DeviceCollective::Broadcast { .. } => Part {
                send: if is_root { others } else { none },
                receive: root,
                forward: others,
                collect: others,
                ..vector
            },
            DeviceCollective::Reduce { .. } => Part {
                send: others,
                receive: all,
                forward: root & others,
                collect: if is_root { others } else { none },
                keep: u32::from(is_root),
                ..vector
            },
            DeviceCollective::AllToAll => {
                Part { apart: 1, send: others, receive: all, collect: others, ..blocks }
            }
            // Who gets a line sends one back, an empty one, so that both know when places are free again.
            DeviceCollective::Gather { .. } => Part {
                apart: 1,
                input_stride: 0,
                send: root & others,
                receive: if is_root { all } else { root },
                collect: if is_root { others } else { none },
                forward: if is_root { others } else { none },
                keep: u32::from(is_root),
                ..blocks
            },
            DeviceCollective::Scatter { .. } => Part {
                apart: 1,
                output_stride: 0,
                send: if is_root { others } else { none },
                receive: if is_root { all } else { root },
                collect: root & others,
                forward: root & others,
                keep: u32::from(is_root),
                ..blocks
            },
            DeviceCollective::Barrier => vector,
        }
    }

    /// A rank's part by the direct leaf, and where in every rank's input and output it begins.
    pub(super) fn direct(self, rank: u32) -> Direct {
        let Masks { me, all, root, .. } = self.masks(rank);
        let is_root = me == root;
        let block = self.block_bytes();
        let start = block * rank as usize;
        let len = self.count_bytes.saturating_sub(start).min(block);
        let part = |block_bytes: usize, receive, forward| Part {
            block_bytes: block_bytes as u64,
            total_bytes: block_bytes as u64,
            rank,
            ranks: self.ranks,
            receive,
            forward,
            keep: 1,
            ..Part::default()
        };
        match self.collective {
            DeviceCollective::AllReduce => Direct { part: part(len, all, all), input: start, output: start },
            DeviceCollective::Reduce { .. } => {
                Direct { part: part(len, all, root), input: start, output: start }
            }
            DeviceCollective::ReduceScatter => Direct { part: part(block, all, me), input: start, output: 0 },
            DeviceCollective::AllGather => Direct { part: part(block, me, all), input: 0, output: start },
            // The root copies for itself; each other rank takes a piece from it, and passes it to the others.
            DeviceCollective::Broadcast { .. } if is_root => {
                Direct { part: part(self.count_bytes, root, root), input: 0, output: 0 }
            }
            DeviceCollective::Broadcast { .. } => {
                let pieces = self.ranks as usize - 1;
                let piece = self.count_bytes.div_ceil(pieces).next_multiple_of(DIRECT_BYTES);
                let start = piece * (rank - u32::from(rank > self.root())) as usize;
                let len = self.count_bytes.saturating_sub(start).min(piece);
                Direct { part: part(len, root, all & !root), input: start, output: start }
            }
            DeviceCollective::AllToAll
            | DeviceCollective::Gather { .. }
            | DeviceCollective::Scatter { .. } => {
                let stride = |is_used| if is_used { block as u64 } else { 0 };
                let part = Part {
                    apart: 1,
                    input_stride: stride(!matches!(self.collective, DeviceCollective::Gather { .. })),
                    output_stride: stride(!matches!(self.collective, DeviceCollective::Scatter { .. })),
                    ..part(block, 0, self.destinations(rank))
                };
                Direct { part, input: 0, output: 0 }
            }
            DeviceCollective::Barrier => Direct { part: part(0, 0, 0), input: 0, output: 0 },
        }
    }

    /// Whether the slots leaf does it.
    pub(super) fn has_slots(self) -> bool {
        self.ranks > 1 && self.collective.moves_blocks()
    }

    /// Which blocks a rank sends whom, and which it gets from whom, itself among them: numbers of the other rank and of the
    /// block in its own buffer.
    pub(super) fn moves(self, rank: u32) -> Moves {
        let mask = |mask: u32| (0..self.ranks).filter(move |other| (mask >> other) & 1 != 0);
        let sources = (0..self.ranks).filter(|&other| (self.destinations(other) >> rank) & 1 != 0);
        let gives_one = matches!(self.collective, DeviceCollective::Gather { .. });
        let gets_one = matches!(self.collective, DeviceCollective::Scatter { .. });
        Moves {
            sends: mask(self.destinations(rank)).map(|to| (to, if gives_one { 0 } else { to })).collect(),
            receives: sources.map(|from| (from, if gets_one { 0 } else { from })).collect(),
        }
    }

    /// The longest of the ranks' buffers.
    pub(super) fn vector_bytes(self) -> usize {
        let (input, output) = self.collective.lengths(self.ranks);
        self.count_bytes.saturating_mul(input.max(output))
    }

    /// Whether the ring leaf does it.
    pub(super) fn has_ring(self) -> bool {
        self.ranks > 1 && self.route().is_some()
    }

    fn route(self) -> Option<Route> {
        match self.collective {
            DeviceCollective::AllReduce => Some(Route::ReduceAndGather),
            DeviceCollective::ReduceScatter => Some(Route::Reduce),
            DeviceCollective::AllGather => Some(Route::Gather),
            DeviceCollective::Broadcast { .. } => Some(Route::FromRoot),
            DeviceCollective::Reduce { .. } => Some(Route::ToRoot),
            DeviceCollective::AllToAll
            | DeviceCollective::Gather { .. }
            | DeviceCollective::Scatter { .. }
            | DeviceCollective::Barrier => None,
        }
    }

    /// What a slice of the ring leaf is cut from: the whole vector along a chain, else a block.
    pub(super) fn ring_bytes(self) -> usize {
        if self.is_chain() { self.count_bytes.next_multiple_of(DIRECT_BYTES) } else { self.block_bytes() }
    }

    /// The most of a block that goes at a time by the ring leaf. A channel has two slices on their way, so that each of its ranks has
    /// something to do while the other slice is where it cannot go on: an even number of them, all as long.
    pub(super) fn slice_bytes(self) -> usize {
        let longest = if self.is_chain() { CHAIN_SLICE_BYTES } else { self.slot_bytes() };
        let share = self.ring_bytes().div_ceil(self.ring_channels() as usize);
        let pairs = share.div_ceil(2 * longest).max(1);
        share.div_ceil(2 * pairs).next_multiple_of(SLICE_UNIT_BYTES).clamp(SLICE_UNIT_BYTES, longest)
    }

    /// How long a slot of the ring leaf is: the same for all calls, as what one has put there the next rank may take when the next
    /// call has begun. Few channels have longer ones, while all of them lie in a part of the GPU's cache (L2): two ranks on one GPU
    /// took 439 us for an all_reduce of 128 MiB with 16 channels of 128 KiB, 493 with 64 KiB and 484 with 256; with 32 channels 310,
    /// 282 and 322.
    pub(super) fn slot_bytes(self) -> usize {
        let channels = RING_CHANNELS.min(self.room.blocks()) as usize;
        let share = RING_CACHED_BYTES / (channels * RING_SLOTS);
        (share / SLICE_UNIT_BYTES * SLICE_UNIT_BYTES).clamp(SLOT_BYTES_MIN, SLOT_BYTES_MAX)
    }

    /// How many channels the ring leaf has at most. A chain that is short has fewer and whole slots: a slice's way costs the
    /// same however short it is, once for each rank that passes it on, of which two ranks have none.
    pub(super) fn ring_channels(self) -> u32 {
        let whole = self.ring_bytes() / (2 * CHAIN_SLICE_BYTES);
        let whole = u32::try_from(whole).unwrap_or(RING_CHANNELS);
        let channels = if whole >= CHAIN_CHANNELS_MIN && self.is_chain() && self.ranks > 2 {
            whole.min(RING_CHANNELS)
        } else {
            RING_CHANNELS
        };
        channels.min(self.room.blocks())
    }

    fn is_chain(self) -> bool {
        matches!(self.route(), Some(Route::FromRoot | Route::ToRoot))
    }

    /// A rank's part by the ring leaf.
    ///
    /// # Panics
    ///
    /// Where [`Shape::has_ring`] says no.
    pub(super) fn ring(self, rank: u32) -> Part {
        let route = self.route().expect("the leaf was chosen for what has a route");
        let (block, ranks) = (self.block_bytes() as u64, self.ranks);
        let whole = Part {
            block_bytes: self.ring_bytes() as u64,
            total_bytes: self.count_bytes as u64,
            rank,
            ranks,
            route,
            hops: 1,
            root: self.root(),
            slice_bytes: self.slice_bytes() as u32,
            slot_bytes: self.slot_bytes() as u32,
            ..Part::default()
        };
        let blocks = Part { total_bytes: block * u64::from(ranks), hops: ranks, ..whole };
        match route {
            Route::ReduceAndGather => {
                Part { input_stride: block, output_stride: block, hops: 2 * ranks - 1, ..whole }
            }
            Route::Reduce => Part { input_stride: block, ..blocks },
            Route::Gather => Part { output_stride: block, ..blocks },
            Route::FromRoot | Route::ToRoot => whole,
        }
    }

    /// To whom a rank gives a block, itself among them, where blocks are moved.
    fn destinations(self, rank: u32) -> u32 {
        let Masks { me, all, root, none, .. } = self.masks(rank);
        match self.collective {
            DeviceCollective::Gather { .. } => root,
            DeviceCollective::Scatter { .. } if me != root => none,
            _ => all,
        }
    }

    fn masks(self, rank: u32) -> Masks {
        let (me, all) = (1 << rank, (1 << self.ranks) - 1);
        Masks { me, all, others: all & !me, root: 1 << self.root(), none: 0 }
    }
}

/// Below it the others' longer blocks cost a reduce more than the root's part of it: on 4 GPUs 15.4 us instead of 14.1 at 2 MiB,
/// while a broadcast takes 14.5 instead of 16.0. The emulator's vectors are shorter, and go both ways.
const REDUCE_WITHOUT_BLOCK_BYTES_MIN: usize = if cfg!(test) { 1 << 10 } else { 3 << 20 };

/// The most of a chain's vector that goes at a time: each rank but the first waits for whole slices.
const CHAIN_SLICE_BYTES: usize = 64 << 10;

/// How much the slots of all channels take where they are longer than they must be, and how long they are at least and at most.
const RING_CACHED_BYTES: usize = 8 << 20;
const SLOT_BYTES_MIN: usize = 64 << 10;
const SLOT_BYTES_MAX: usize = 128 << 10;
const _: () = assert!(RING_CHANNELS as usize * RING_SLOTS * SLOT_BYTES_MIN <= RING_DATA_BYTES);
const _: () = assert!(RING_CACHED_BYTES <= RING_DATA_BYTES && CHAIN_SLICE_BYTES <= SLOT_BYTES_MIN);

/// With fewer channels a chain does not fill a link.
const CHAIN_CHANNELS_MIN: u32 = 32;

/// What a rank does with its blocks where they are only moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moves {
    pub(super) sends: Vec<(u32, u32)>,
    pub(super) receives: Vec<(u32, u32)>,
}

/// A part by the direct leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Direct {
    pub(super) part: Part,
    /// Bytes into every rank's input.
    pub(super) input: usize,
    /// Bytes into every rank's output.
    pub(super) output: usize,
}

struct Masks {
    me: u32,
    all: u32,
    others: u32,
    root: u32,
    none: u32,
}
