//! What a launch of messages is told, and where things lie, as the kernel has it (`cuda/kernels/far_messages.cuh`).

use super::messages::Messages;
use crate::cuda::DevicePointer;
use crate::nvlink::PairParameters;
use crate::relay::parameters::{SPANS_MAX, STATE_BYTES, Span, Standing};

/// The channels of each direction.
pub(crate) const CHANNELS: usize = 64;
/// How many slices of a channel may be on their way.
pub(crate) const PLACES: usize = 2;
/// Of every message's slices but the last, on every rank.
pub(crate) const SLICE_BYTES: usize = 64 << 10;
/// How many lanes there can be. Each has the channels that are its number modulo their count.
pub(crate) const LANES_MAX: usize = 4;
/// How many long messages a launch has of each direction.
pub const LONG_MAX: usize = 8;
/// How many blocks a launch has at most, more than any other of the relay: of what is put, of what is got, and one that passes what is
/// short.
pub const BLOCKS_MAX: u32 = 2 * LONG_MAX as u32 + 1;
/// Whose words come one behind the other, and whose counts: first the lanes'.
pub(crate) const PUT_DOORS: usize = LANES_MAX;
pub(crate) const GET_DOORS: usize = PUT_DOORS + CHANNELS;
pub(crate) const DOORS: usize = GET_DOORS + CHANNELS;
/// The relay's own state on the device, with that of transfers.
pub(crate) const FAR_STATE_BYTES: usize = STATE_BYTES + DOORS * 16;
/// What the places of one direction take.
pub(crate) const BOX_BYTES: usize = CHANNELS * PLACES * SLICE_BYTES;

/// The kernel's `FarParameters`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct FarParameters {
    pub(crate) outbox: DevicePointer,
    pub(crate) inbox: DevicePointer,
    pub(crate) cells: DevicePointer,
    pub(crate) words: DevicePointer,
    pub(crate) state: DevicePointer,
    pub(crate) status: DevicePointer,
    pub(crate) deadline_ns: u64,
    pub(crate) plan: u64,
    pub(crate) put_count: u32,
    pub(crate) get_count: u32,
    pub(crate) long_put_count: u32,
    pub(crate) long_get_count: u32,
    pub(crate) put_blocks: u32,
    pub(crate) get_blocks: u32,
    pub(crate) put_channels: u32,
    pub(crate) get_channels: u32,
    pub(crate) lanes: u32,
    pub(crate) padding: u32,
    pub(crate) peers: [u32; 2 * SPANS_MAX],
    pub(crate) puts: [Span; SPANS_MAX],
    pub(crate) gets: [Span; SPANS_MAX],
}

/// The `AllParameters` of the kernel that passes messages within the node beside these.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct AllParameters {
    pub(crate) far: FarParameters,
    pub(crate) near: PairParameters,
}

impl Standing {
    /// What the kernel is told of messages whose plan has this number, where there are so many lanes.
    ///
    /// # Panics
    ///
    /// When they do not fit into a launch ([`Messages::fit`]).
    pub(crate) fn told_of_messages(&self, messages: &Messages, plan: u32, lanes: usize) -> FarParameters {
        assert!(messages.fit(), "{messages:?}");
        let (puts, gets) = (messages.puts(), messages.gets());
        let mut peers = [0; 2 * SPANS_MAX];
        let mut spans = [[Span::default(); SPANS_MAX]; 2];
        for (index, direction) in [&gets, &puts].into_iter().enumerate() {
            for (at, message) in direction.kernel_order().enumerate() {
                peers[index * SPANS_MAX + at] = message.peer.0;
                let stretch = message.stretch;
                spans[index][at] = Span { address: stretch.pointer.0, bytes: stretch.bytes as u64 };
            }
        }
        let [gets_told, puts_told] = spans;
        FarParameters {
            outbox: self.outbox,
            inbox: self.inbox,
            cells: self.cells,
            words: self.words,
            state: self.state,
            status: self.status,
            deadline_ns: self.deadline_ns,
            plan: u64::from(plan),
            put_count: puts.count() as u32,
            get_count: gets.count() as u32,
            long_put_count: puts.long_count() as u32,
            long_get_count: gets.long_count() as u32,
            put_blocks: puts.blocks() as u32,
            get_blocks: gets.blocks() as u32,
            put_channels: puts.channels() as u32,
            get_channels: gets.channels() as u32,
            lanes: messages.lanes(lanes) as u32,
            padding: 0,
            peers,
            puts: puts_told,
            gets: gets_told,
        }
    }
}

#[cfg(test)]
mod tests {
    use efarun_wire::Rank;

    use super::super::messages::FarMessage;
    use super::*;
    use crate::relay::parameters::SHORT_BYTES;
    use crate::relay::transfer::Stretch;

    fn standing() -> Standing {
        let [outbox, inbox, cells, words, state, status] =
            [1, 2, 3, 4, 5, 6].map(|at| DevicePointer(at << 32));
        Standing { outbox, inbox, cells, words, state, status, deadline_ns: 7 }
    }

    fn message(peer: u32, at: u64, bytes: usize) -> FarMessage {
        FarMessage { peer: Rank(peer), stretch: Stretch { pointer: DevicePointer(at), bytes } }
    }

    #[test]
    fn what_is_told_has_the_long_ones_first_each_with_its_own_peer() {
        let long = 3 * SLICE_BYTES;
        let messages = Messages {
            sends: vec![message(4, 100, 1), message(5, 200, long), message(6, 300, SHORT_BYTES)],
            receives: vec![
                message(7, 400, SHORT_BYTES + 1),
                message(8, 500, 2),
                message(4, 600, SLICE_BYTES),
            ],
        };
        let told = standing().told_of_messages(&messages, 9, 4);
        let of = |spans: &[Span], peers: &[u32], count: u32| -> Vec<_> {
            let count = count as usize;
            assert!(spans[count..].iter().all(|span| *span == Span::default()));
            spans[..count]
                .iter()
                .zip(peers)
                .map(|(span, &peer)| (peer, span.address, span.bytes as usize))
                .collect()
        };
        let (got, put) = told.peers.split_at(SPANS_MAX);
        let puts = of(&told.puts, put, told.put_count);
        assert_eq!(puts, [(5, 200, long), (4, 100, 1), (6, 300, SHORT_BYTES)]);
        let gets = of(&told.gets, got, told.get_count);
        assert_eq!(gets, [(7, 400, SHORT_BYTES + 1), (4, 600, SLICE_BYTES), (8, 500, 2)]);
        assert_eq!((told.long_put_count, told.long_get_count), (1, 2));
        assert_eq!((told.put_blocks, told.get_blocks), (8, 4));
        assert_eq!((told.put_channels, told.get_channels), (16, 16));
        assert_eq!((told.plan, told.lanes, told.deadline_ns), (9, 3, 7));
    }

    #[test]
    #[should_panic(expected = "sends: [")]
    fn what_does_not_fit_is_told_to_nobody() {
        let sends = (0..=LONG_MAX as u32).map(|peer| message(peer, 0, SLICE_BYTES)).collect();
        standing().told_of_messages(&Messages { sends, receives: Vec::new() }, 1, 1);
    }

    #[test]
    fn state_boxes_and_doors_lie_one_behind_the_other() {
        assert_eq!((PUT_DOORS, GET_DOORS - PUT_DOORS, DOORS - GET_DOORS), (LANES_MAX, CHANNELS, CHANNELS));
        assert!(FAR_STATE_BYTES >= STATE_BYTES + DOORS * 16 && STATE_BYTES.is_multiple_of(16));
        // A place has room for a slice's last sixteen bytes, of which the kernel moves all.
        assert!(SLICE_BYTES.is_multiple_of(16) && BOX_BYTES == CHANNELS * PLACES * SLICE_BYTES);
    }
}
