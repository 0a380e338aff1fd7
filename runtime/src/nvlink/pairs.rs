//! Messages between ranks: what a kernel is told that passes several of them at once, and blocks that are moved as such.
//!
//! Pure. Both ends cut a message by its length alone, and send it by lines or by slots. All messages of one launch are on their
//! way at the same time; those of one pair of ranks go in order.

use super::call::DeviceMessage;
use super::launch::{Request, Standing};
use super::layout::{
    MESSAGE_THREADS, PAIR_CHANNEL_BYTES, PAIR_CHANNELS, RANKS_MAX, SLICE_UNIT_BYTES, SLOT_CHANNELS,
    SLOT_DATA, SLOTS,
};
use super::room::Room;
use super::select::SLOTS_BYTES_MIN;
use crate::cuda::{DevicePointer, Grid};
use efarun_wire::Rank;

/// How many messages a launch can have.
pub(super) const MESSAGES_MAX: usize = 120;

/// The kernel's `PairParameters`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct PairParameters {
    window: [DevicePointer; RANKS_MAX],
    state: DevicePointer,
    status: DevicePointer,
    deadline_ns: u64,
    rank: u32,
    ranks: u32,
    signature: u32,
    slot_channels: u32,
    slot_blocks: u32,
    slot_bytes: u32,
    slices_per_channel: u32,
    peer_count: u32,
    long_peer_count: u32,
    padding: u32,
    peers: [u32; RANKS_MAX],
    long_peers: [u32; RANKS_MAX],
    send_first: [u32; RANKS_MAX],
    send_count: [u32; RANKS_MAX],
    send_long_count: [u32; RANKS_MAX],
    receive_first: [u32; RANKS_MAX],
    receive_count: [u32; RANKS_MAX],
    receive_long_count: [u32; RANKS_MAX],
    send_number: [u32; RANKS_MAX],
    receive_number: [u32; RANKS_MAX],
    pub(in crate::nvlink) before: [u8; MESSAGES_MAX],
    pub(in crate::nvlink) messages: [Span; MESSAGES_MAX],
}

/// Where a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Span {
    address: u64,
    bytes: u64,
}

/// What to launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct PairLaunch {
    pub(super) parameters: PairParameters,
    pub(super) grid: Grid,
}

/// Messages within the node that somebody else's launch passes beside its own.
#[derive(Clone, Copy, Debug)]
pub struct NearMessages(PairLaunch);

impl NearMessages {
    /// These, where a GPU has room for so many more blocks beside theirs.
    pub(super) fn beside(launch: PairLaunch, blocks: u32, room: Room) -> Option<NearMessages> {
        (blocks <= room.fitting().saturating_sub(launch.grid.blocks)).then_some(NearMessages(launch))
    }

    /// What the kernel is told of them.
    pub(crate) fn parameters(&self) -> PairParameters {
        self.0.parameters
    }

    /// How many blocks they take, and how many threads each.
    pub(crate) fn grid(&self) -> Grid {
        self.0.grid
    }
}

/// What the next message for each rank is counted as, and the next one from it, from 1 on; 0 where that is not known. Both ends
/// count alike, or one of them does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    sent: [u32; RANKS_MAX],
    received: [u32; RANKS_MAX],
}

impl Numbers {
    /// Of ranks that have exchanged nothing.
    pub(super) fn new() -> Numbers {
        Numbers { sent: [1; RANKS_MAX], received: [1; RANKS_MAX] }
    }

    /// Where launches are run again, or their messages are none of the caller's. It stays so: how often is not known.
    pub(super) fn unknown() -> Numbers {
        Numbers { sent: [0; RANKS_MAX], received: [0; RANKS_MAX] }
    }

    /// Counts the messages of a launch. Numbers never come back: who is through with them goes on without.
    pub(super) fn count(&mut self, sends: &[DeviceMessage], receives: &[DeviceMessage]) {
        for (numbers, messages) in [(&mut self.sent, sends), (&mut self.received, receives)] {
            for message in messages {
                let number = &mut numbers[message.peer.index()];
                // A launch's last number is still one.
                *number = if (1..NUMBER_MAX).contains(number) { *number + 1 } else { 0 };
            }
        }
    }
}

/// The slots that each two ranks have for each other; the same on all ranks, but for how many blocks serve them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) channels: u32,
    pub(super) bytes: usize,
    /// In how many slices a channel's part of a message goes at least, where it is long enough.
    pub(super) slices_per_channel: usize,
    /// How long a message is that goes by them.
    pub(super) message_bytes_min: usize,
    /// How many blocks a launch has for long messages, where it has more channels: a block then serves several, one behind the
    /// other. One for each peer at least.
    pub(super) blocks: u32,
}

impl Slots {
    /// Those of a node of so many ranks.
    pub(super) fn of(ranks: u32, room: Room) -> Slots {
        // Who has several peers has fewer channels at a time for each, and to go from one to the next takes a microsecond.
        let channels = if ranks > 2 { SLOT_CHANNELS / 2 } else { SLOT_CHANNELS };
        let slots = Slots {
            channels,
            bytes: PEER_CHANNELS_BYTES / channels as usize,
            slices_per_channel: SLICES_PER_CHANNEL,
            message_bytes_min: SLOTS_BYTES_MIN,
            blocks: SLOT_BLOCKS,
        };
        slots.within(ranks, room)
    }

    /// The same, so that all blocks of a launch have room on the GPU at once. By how many channels a message goes in lines follows
    /// from its length: what is too long for lines then goes by slots, or all of it, where there is no room for both. Ranks that share
    /// a GPU leave room for another launch.
    ///
    /// Where there are more and it is only not allowed to have them, a launch of both kinds, which few are, may have one more for each
    /// peer.
    pub(super) fn within(self, ranks: u32, room: Room) -> Slots {
        let blocks = room.blocks();
        let (lines_peers, blocks_alone) = match room.is_shared() {
            true => (2 * ranks.saturating_sub(1).max(1), (blocks / 2).max(1)),
            false => (ranks, blocks),
        };
        let lines_bytes_max = match blocks / lines_peers {
            0 => 0,
            channels => channels as usize * PAIR_CHANNEL_BYTES + 1,
        };
        Slots {
            // So many that half as many blocks serve two each.
            channels: (self.channels.min(blocks_alone) & !1).max(1),
            message_bytes_min: self.message_bytes_min.min(lines_bytes_max),
            blocks: self.blocks.min(blocks_alone),
            ..self
        }
    }

    /// How long a window is in which each of the other ranks has its slots.
    pub(super) fn window_bytes(&self, ranks: u32) -> usize {
        let peers = ranks.saturating_sub(1) as usize;
        SLOT_DATA + peers * self.channels as usize * SLOTS * self.bytes
    }

    /// By how many channels a message goes.
    fn channels(&self, bytes: usize) -> u32 {
        let share = bytes.div_ceil(self.channels as usize * self.slices_per_channel);
        let slice = share.next_multiple_of(SLICE_UNIT_BYTES).clamp(SLICE_UNIT_BYTES, self.bytes);
        u32::try_from(bytes.div_ceil(slice)).unwrap_or(u32::MAX).min(self.channels)
    }

    /// By how many channels a rank copies what it has for itself: these take it in turn, however it would be cut for another.
    fn channels_of_copy(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(SLICE_UNIT_BYTES)).unwrap_or(u32::MAX).min(self.channels)
    }
}

/// Makes a launch of messages to other ranks and from them; none has no length, and they are [`MESSAGES_MAX`] at most.
pub(super) fn launch(
    standing: &Standing,
    slots: Slots,
    numbers: Numbers,
    sends: &[DeviceMessage],
    receives: &[DeviceMessage],
) -> PairLaunch {
    let mut parameters = PairParameters {
        window: standing.windows,
        state: standing.state,
        status: standing.status,
        deadline_ns: standing.deadline_ns,
        rank: standing.rank,
        ranks: standing.ranks,
        signature: 0,
        slot_channels: slots.channels,
        slot_blocks: 0,
        slot_bytes: slots.bytes as u32,
        slices_per_channel: slots.slices_per_channel as u32,
        peer_count: 0,
        long_peer_count: 0,
        padding: 0,
        peers: [0; RANKS_MAX],
        long_peers: [0; RANKS_MAX],
        send_first: [0; RANKS_MAX],
        send_count: [0; RANKS_MAX],
        send_long_count: [0; RANKS_MAX],
        receive_first: [0; RANKS_MAX],
        receive_count: [0; RANKS_MAX],
        receive_long_count: [0; RANKS_MAX],
        send_number: numbers.sent,
        receive_number: numbers.received,
        before: [0; MESSAGES_MAX],
        messages: [Span::default(); MESSAGES_MAX],
    };
    let mut next = 0;
    let is_long = |message: &DeviceMessage| message.bytes >= slots.message_bytes_min;
    for peer in 0..standing.ranks {
        let index = peer as usize;
        let mut place = |messages: &[DeviceMessage]| {
            let first = next;
            let mut put = |wants_long: bool| {
                let before = next;
                let of_pair = messages.iter().filter(|it| it.peer.0 == peer).enumerate();
                for (place, message) in of_pair.filter(|(_, it)| is_long(it) == wants_long) {
                    parameters.before[next] = place as u8;
                    parameters.messages[next] = Span { address: message.data.0, bytes: message.bytes as u64 };
                    next += 1;
                }
                (next - before) as u32
            };
            let (short, long) = (put(false), put(true));
            (first as u32, short, long)
        };
        let (first, short_sent, long_sent) = place(sends);
        parameters.send_first[index] = first;
        (parameters.send_count[index], parameters.send_long_count[index]) = (short_sent, long_sent);
        let (first, short_received, long_received) = place(receives);
        parameters.receive_first[index] = first;
        (parameters.receive_count[index], parameters.receive_long_count[index]) =
            (short_received, long_received);
        if short_sent + short_received > 0 {
            parameters.peers[parameters.peer_count as usize] = peer;
            parameters.peer_count += 1;
        }
        if long_sent + long_received > 0 {
            parameters.long_peers[parameters.long_peer_count as usize] = peer;
            parameters.long_peer_count += 1;
        }
    }
    let (mut by_lines, mut by_slots) = (0, 0);
    for message in sends.iter().chain(receives) {
        match is_long(message) {
            true if message.peer.0 == standing.rank => {
                by_slots = by_slots.max(slots.channels_of_copy(message.bytes))
            }
            true => by_slots = by_slots.max(slots.channels(message.bytes)),
            false => by_lines = by_lines.max(channels(message.bytes)),
        }
    }
    let peers = parameters.peer_count + parameters.long_peer_count;
    // Blocks that a peer has for the other kind of messages end at once, where the two differ.
    let left = standing.room.blocks().saturating_sub(by_lines * parameters.peer_count);
    let blocks = (slots.blocks / peers.max(1)).min(left / parameters.long_peer_count.max(1)).max(1);
    // No more than make the busiest of them serve fewer channels.
    parameters.slot_blocks = by_slots.div_ceil(by_slots.div_ceil(blocks).max(1));
    let blocks = by_lines.max(parameters.slot_blocks) * peers;
    PairLaunch { parameters, grid: Grid { blocks, threads: MESSAGE_THREADS } }
}

/// Makes a launch of a collective's blocks, which are moved by slots however long they are.
pub(super) fn of_blocks(standing: &Standing, slots: Slots, request: &Request) -> PairLaunch {
    let bytes = request.shape.count_bytes;
    let moves = request.shape.moves(standing.rank);
    let messages = |moves: &[(u32, u32)], base: DevicePointer| -> Vec<DeviceMessage> {
        let message = |&(peer, block): &(u32, u32)| DeviceMessage {
            peer: Rank(peer),
            data: base.offset(block as usize * bytes),
            bytes,
        };
        moves.iter().map(message).collect()
    };
    let (mut sends, mut receives) =
        (messages(&moves.sends, request.input), messages(&moves.receives, request.output));
    let own = |messages: &[DeviceMessage]| messages.iter().position(|it| it.peer.0 == standing.rank);
    // In place, what a rank has for itself is there.
    if let (Some(from), Some(to)) = (own(&sends), own(&receives))
        && sends[from].data == receives[to].data
    {
        sends.remove(from);
        receives.remove(to);
    }
    // Ranks that share a GPU launch nothing beside them.
    let blocks = match standing.room.is_shared() {
        true => SLOT_BLOCKS.min(standing.room.blocks()),
        false => slots.blocks,
    };
    let slots = Slots { message_bytes_min: 0, blocks, ..slots };
    let mut launch = launch(standing, slots, Numbers::unknown(), &sends, &receives);
    launch.parameters.signature = request.signature().max(1);
    launch
}

/// By how many channels a message goes in lines.
fn channels(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PAIR_CHANNEL_BYTES)).unwrap_or(PAIR_CHANNELS).min(PAIR_CHANNELS)
}

/// Beyond, a launch's messages might have no numbers of their own.
const NUMBER_MAX: u32 = u32::MAX - MESSAGES_MAX as u32;
/// How many blocks serve long messages. A block stores 41 GB/s, of what it sends and of what it receives (BENCHMARKING.md), so that
/// these move three times what a GPU's links do; and leave half of a GPU to others.
const SLOT_BLOCKS: u32 = 64;
/// More, of which one is sent while another is taken, cost more than they gain.
const SLICES_PER_CHANNEL: usize = 1;
/// What the channels of a peer have together for one slot each: of 64 channels 64 KiB, of 32 channels 128 KiB. With twice as much, two
/// ranks on one GPU take 300 us for 128 MiB to each other instead of 260.
const PEER_CHANNELS_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::{ElementType, ReduceOp};
    use crate::nvlink::call::DeviceCollective;
    use crate::nvlink::part::{Leaf, Shape};

    fn standing_of(rank: u32, ranks: u32, room: Room) -> Standing {
        let nowhere = DevicePointer(0);
        Standing {
            rank,
            ranks,
            room,
            windows: [nowhere; RANKS_MAX],
            state: nowhere,
            status: nowhere,
            deadline_ns: 0,
        }
    }

    #[test]
    fn messages_stand_by_rank_and_in_order() {
        let standing = standing_of(1, 4, Room::WHOLE);
        let message =
            |peer, data, bytes| DeviceMessage { peer: Rank(peer), data: DevicePointer(data), bytes };
        let sends = [message(3, 10, 5), message(0, 20, 6), message(3, 30, 20_000)];
        let PairLaunch { parameters, grid } =
            launch(&standing, Slots::of(4, Room::WHOLE), Numbers::new(), &sends, &[message(3, 40, 8)]);
        assert_eq!((parameters.peer_count, &parameters.peers[..2]), (2, &[0, 3][..]));
        let of = |first: u32, count: u32| {
            let spans = &parameters.messages[first as usize..(first + count) as usize];
            spans.iter().map(|span| span.address).collect::<Vec<_>>()
        };
        assert_eq!(of(parameters.send_first[3], parameters.send_count[3]), [10, 30]);
        assert_eq!(of(parameters.receive_first[3], parameters.receive_count[3]), [40]);
        assert_eq!(of(parameters.send_first[0], parameters.send_count[0]), [20]);
        assert_eq!(grid.blocks, 2 * 3);
        assert_eq!((&parameters.before[..4], parameters.send_number[3]), (&[0, 0, 1, 0][..], 1));
    }

    #[test]
    fn a_peer_has_as_much_of_a_window_however_many_there_are() {
        for ranks in 1..=RANKS_MAX as u32 {
            let slots = Slots::of(ranks, Room::WHOLE);
            assert!(slots.bytes.is_multiple_of(SLICE_UNIT_BYTES) && slots.channels <= SLOT_CHANNELS);
            assert_eq!(
                slots.window_bytes(ranks) - SLOT_DATA,
                (ranks as usize - 1) * (16 << 20),
                "{ranks} ranks"
            );
        }
    }

    #[test]
    fn messages_of_ranks_that_share_a_gpu_fit_on_it_whatever_their_lengths() {
        let lengths = [1, 8192, 8193, 40_000, 300_000, SLOTS_BYTES_MIN - 1, SLOTS_BYTES_MIN, 1 << 30];
        for (sharing, multiprocessors) in [(2, 132), (4, 132), (8, 132), (4, 72), (7, 108), (8, 108), (8, 64)]
        {
            let room = Room::of(sharing, multiprocessors);
            for ranks in sharing..=RANKS_MAX as u32 {
                let (slots, whole) = (Slots::of(ranks, room), Slots::of(ranks, Room::WHOLE));
                assert!(slots.window_bytes(ranks) <= whole.window_bytes(ranks), "windows are made before");
                let standing = standing_of(0, ranks, room);
                let message =
                    |(peer, bytes)| DeviceMessage { peer: Rank(peer), data: DevicePointer(0), bytes };
                let all = (1..ranks).flat_map(|peer| lengths.map(|bytes| (peer, bytes))).map(message);
                let all: Vec<_> = all.collect();
                let launch = launch(&standing, slots, Numbers::unknown(), &all, &all);
                assert!(
                    sharing * launch.grid.blocks <= multiprocessors,
                    "{ranks} ranks, {room:?}: {slots:?}"
                );
                // Both ends reckon by the length how many channels take part: by lines, all of them must be there.
                let PairParameters { peer_count, long_peer_count, .. } = launch.parameters;
                let there = launch.grid.blocks / (peer_count + long_peer_count);
                for bytes in lengths {
                    // By slots, a block serves as many as there are.
                    let is_long = bytes >= slots.message_bytes_min;
                    let needed = if is_long { 1 } else { channels(bytes) };
                    assert!(needed <= there, "{bytes} bytes, {ranks} ranks, {room:?}: {slots:?}");
                }
                let collective = DeviceCollective::AllToAll;
                for count_bytes in lengths {
                    let shape = Shape { collective, count_bytes, ranks, room };
                    let request = Request {
                        shape,
                        leaf: Leaf::Slots,
                        element: ElementType::U8.into(),
                        op: ReduceOp::Sum.into(),
                        input: DevicePointer(0),
                        output: DevicePointer(1),
                        reached: None,
                    };
                    let blocks = of_blocks(&standing, slots, &request).grid.blocks;
                    assert!(sharing * blocks <= multiprocessors, "{shape:?}: {slots:?}");
                }
            }
        }
    }

    /// How many blocks have something to do in a launch that sends and receives such messages, one of each with each other rank.
    fn busy_blocks(ranks: u32, room: Room, lengths: &[usize]) -> u32 {
        let standing = standing_of(0, ranks, room);
        let message = |(peer, &bytes)| DeviceMessage { peer: Rank(peer), data: DevicePointer(0), bytes };
        let all: Vec<_> =
            (1..ranks).flat_map(|peer| lengths.iter().map(move |bytes| (peer, bytes))).map(message).collect();
        let slots = Slots::of(ranks, room);
        assert!(slots.window_bytes(ranks) <= Slots::of(ranks, Room::WHOLE).window_bytes(ranks));
        let PairParameters { peer_count, long_peer_count, slot_blocks, .. } =
            launch(&standing, slots, Numbers::unknown(), &all, &all).parameters;
        let by_lines =
            all.iter().filter(|it| it.bytes < slots.message_bytes_min).map(|it| channels(it.bytes));
        by_lines.max().unwrap_or(0) * peer_count + slot_blocks * long_peer_count
    }

    /// Short ones, such as go by lines or by slots, and long ones; two of a kind, and of both.
    const LENGTHS: [[usize; 2]; 5] = [
        [8, 8192],
        [300_000, SLOTS_BYTES_MIN],
        [1 << 28, 1 << 30],
        [SLOTS_BYTES_MIN - 1, 1 << 30],
        [100_000, 1 << 20],
    ];

    #[test]
    fn messages_have_no_more_blocks_than_are_allowed_but_for_those_of_both_kinds() {
        for ranks in 2..=RANKS_MAX as u32 {
            for allowed in [1, ranks, 16, 24, 32, 100] {
                let room = Room::WHOLE.within(allowed, ranks as usize);
                let most = allowed.max(ranks);
                for lengths in LENGTHS {
                    let single = lengths.map(|bytes| busy_blocks(ranks, room, &[bytes]));
                    assert!(single.iter().all(|&it| it <= most), "{ranks} ranks, {allowed}: {single:?}");
                    assert!(busy_blocks(ranks, room, &lengths) < most + ranks);
                }
            }
        }
        let long =
            |ranks, allowed| busy_blocks(ranks, Room::WHOLE.within(allowed, ranks as usize), &[1 << 30]);
        assert_eq!((long(2, 24), long(8, 24)), (24, 21));
        assert_eq!([2, 3, 4, 5, 6, 7, 8].map(|ranks| long(ranks, u32::MAX)), [64, 64, 48, 64, 55, 48, 56]);
    }

    #[test]
    fn all_blocks_of_messages_have_room_on_a_gpu_at_once() {
        // An A100, an H100 of PCIe and an H200. Who takes messages one by one waits for all channels of each.
        for multiprocessors in [108, 114, 132] {
            for ranks in 2..=RANKS_MAX as u32 {
                let room = Room::of(1, multiprocessors);
                for lengths in LENGTHS {
                    let blocks = busy_blocks(ranks, room, &lengths);
                    assert!(blocks <= room.blocks(), "{ranks} ranks, {lengths:?}: {blocks} blocks, {room:?}");
                }
            }
        }
    }

    #[test]
    fn messages_go_beside_others_where_a_gpu_has_room_for_all_their_blocks() {
        let at = |room| standing_of(0, 2, room);
        let shared = Room::of(2, 66);
        let slots = Slots::of(2, shared);
        let message = [DeviceMessage { peer: Rank(1), data: DevicePointer(0), bytes: 1 << 20 }];
        let near = launch(&at(shared), slots, Numbers::unknown(), &message, &message);
        let left = shared.blocks() - near.grid.blocks;
        assert!(left > 0, "{near:?}");
        let beside = |blocks, room| NearMessages::beside(near, blocks, room).map(|near| near.grid().blocks);
        assert_eq!(beside(left, shared), Some(near.grid.blocks));
        assert_eq!(beside(left + 1, shared), None);
        // Who has a GPU to itself begins with what there is room for.
        assert_eq!(beside(1000, Room::WHOLE), Some(near.grid.blocks));
    }

    #[test]
    fn messages_are_counted_between_two_ranks_until_numbers_end() {
        let message = |peer| DeviceMessage { peer: Rank(peer), data: DevicePointer(0), bytes: 8 };
        let mut numbers = Numbers::new();
        numbers.count(&[message(1), message(2), message(1)], &[message(2)]);
        assert_eq!(
            (numbers.sent[..3].to_vec(), numbers.received[..3].to_vec()),
            (vec![1, 3, 2], vec![1, 1, 2])
        );
        numbers.sent[1] = NUMBER_MAX - 1;
        numbers.count(&[message(1)], &[]);
        assert_eq!(numbers.sent[1], NUMBER_MAX);
        numbers.count(&[message(1)], &[]);
        assert_eq!(numbers.sent[1], 0);
        numbers.count(&[message(1)], &[]);
        assert_eq!((numbers.sent[1], numbers.sent[2]), (0, 2));
        let mut unknown = Numbers::unknown();
        unknown.count(&[message(1)], &[message(1)]);
        assert_eq!(unknown, Numbers::unknown());
    }
}
