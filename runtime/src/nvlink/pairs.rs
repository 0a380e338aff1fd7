//! Messages between ranks: what a kernel is told that passes several of them at once.
//!
//! Pure. Both ends cut a message by its length alone. All messages of one launch are on their way at the same time; those of
//! one pair of ranks go in order.

use super::call::DeviceMessage;
use super::launch::Standing;
use super::layout::{PAIR_CHANNEL_BYTES, PAIR_CHANNELS, RANKS_MAX, THREADS};
use crate::cuda::{DevicePointer, Grid};

/// How many messages a launch can have.
pub(super) const MESSAGES_MAX: usize = 120;

/// The kernel's `PairParameters`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct PairParameters {
    window: [DevicePointer; RANKS_MAX],
    state: DevicePointer,
    status: DevicePointer,
    deadline_ns: u64,
    rank: u32,
    peer_count: u32,
    peers: [u32; RANKS_MAX],
    send_first: [u32; RANKS_MAX],
    send_count: [u32; RANKS_MAX],
    receive_first: [u32; RANKS_MAX],
    receive_count: [u32; RANKS_MAX],
    pub(super) messages: [Span; MESSAGES_MAX],
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

/// Makes a launch of messages to other ranks and from them; none has no length, and they are [`MESSAGES_MAX`] at most.
pub(super) fn launch(standing: &Standing, sends: &[DeviceMessage], receives: &[DeviceMessage]) -> PairLaunch {
    let mut parameters = PairParameters {
        window: standing.windows,
        state: standing.state,
        status: standing.status,
        deadline_ns: standing.deadline_ns,
        rank: standing.rank,
        peer_count: 0,
        peers: [0; RANKS_MAX],
        send_first: [0; RANKS_MAX],
        send_count: [0; RANKS_MAX],
        receive_first: [0; RANKS_MAX],
        receive_count: [0; RANKS_MAX],
        messages: [Span::default(); MESSAGES_MAX],
    };
    let mut next = 0;
    for peer in 0..standing.ranks {
        let index = peer as usize;
        let mut place = |messages: &[DeviceMessage]| {
            let first = next;
            for message in messages.iter().filter(|message| message.peer.0 == peer) {
                parameters.messages[next] = Span { address: message.data.0, bytes: message.bytes as u64 };
                next += 1;
            }
            (first as u32, (next - first) as u32)
        };
        (parameters.send_first[index], parameters.send_count[index]) = place(sends);
        (parameters.receive_first[index], parameters.receive_count[index]) = place(receives);
        if parameters.send_count[index] + parameters.receive_count[index] > 0 {
            parameters.peers[parameters.peer_count as usize] = peer;
            parameters.peer_count += 1;
        }
    }
    let channels = sends.iter().chain(receives).map(|message| channels(message.bytes)).max().unwrap_or(0);
    PairLaunch { parameters, grid: Grid { blocks: channels * parameters.peer_count, threads: THREADS } }
}

/// By how many channels a message goes.
fn channels(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PAIR_CHANNEL_BYTES)).unwrap_or(PAIR_CHANNELS).min(PAIR_CHANNELS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use efarun_wire::Rank;

    #[test]
    fn messages_stand_by_rank_and_in_order() {
        let standing = Standing {
            rank: 1,
            ranks: 4,
            windows: [DevicePointer(0); RANKS_MAX],
            state: DevicePointer(0),
            status: DevicePointer(0),
            deadline_ns: 0,
        };
        let message =
            |peer, data, bytes| DeviceMessage { peer: Rank(peer), data: DevicePointer(data), bytes };
        let sends = [message(3, 10, 5), message(0, 20, 6), message(3, 30, 20_000)];
        let PairLaunch { parameters, grid } = launch(&standing, &sends, &[message(3, 40, 8)]);
        assert_eq!((parameters.peer_count, &parameters.peers[..2]), (2, &[0, 3][..]));
        let of = |first: u32, count: u32| {
            let spans = &parameters.messages[first as usize..(first + count) as usize];
            spans.iter().map(|span| span.address).collect::<Vec<_>>()
        };
        assert_eq!(of(parameters.send_first[3], parameters.send_count[3]), [10, 30]);
        assert_eq!(of(parameters.receive_first[3], parameters.receive_count[3]), [40]);
        assert_eq!(of(parameters.send_first[0], parameters.send_count[0]), [20]);
        assert_eq!(grid.blocks, 2 * 3);
    }
}
