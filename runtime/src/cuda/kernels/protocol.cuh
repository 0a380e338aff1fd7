// How GPUs of a node hand each other data: what a launch is told, where things lie, and how a wait ends.
//
// Every rank has a window, memory that all ranks reach. What a rank waits for always lies in its own window; others write
// it there. A block is a channel: block c of one rank talks with block c of the others and with nobody else, so that
// what is counted is counted per channel, and no block waits for another of its own GPU.
//
// A call of a channel begins with a greeting to every peer, which carries the call's number and a signature of what was
// called, and does not end before every peer's greeting is there. So when a rank is in call e, every peer has begun call
// e - 1, and has therefore ended e - 2: cells of two parities, taken in turn, are free when they are written again. That a
// peer called something else shows by its greeting.
//
// A wait gives up when the host says stop, when another block has given up, or at its deadline; it then says why, once.
#pragma once
#include "machine.cuh"

constexpr u32 RANKS_MAX = 8;
constexpr u32 THREADS = 512;
constexpr u32 WARPS = THREADS / WARP;
// Of the ring leaf, whose threads that move are helped by a warp that waits for others and by one that tells them.
constexpr u32 RING_THREADS = THREADS + 2 * WARP;
// Of messages, of which each direction has two such warps. Only long ones have use for them.
constexpr u32 MESSAGE_THREADS = THREADS + 4 * WARP;
// Stands in a block's words, which count slices, where a wait was given up.
constexpr u32 NEVER = 0xffffffff;
constexpr u32 CHANNELS_MAX = 128;
// Of the one-shot leaf, and of the two-shot leaf.
constexpr u32 ONE_SHOT_CHANNELS = 32;
constexpr u32 TWO_SHOT_CHANNELS = 128;
// Of messages between two ranks: half of a block's warps send, half receive, and each has so many places for lines.
constexpr u32 PAIR_CHANNELS = 32;
constexpr u32 PAIR_WARPS = WARPS / 2;
constexpr u32 PAIR_SLOTS = 16;
// For each channel that a message goes by, but for the last.
constexpr u64 PAIR_CHANNEL_BYTES = 8192;
// Of long ones: each channel has so many slots for slices of each peer in its window. How many channels there are, and how much
// a slot takes, the host says.
constexpr u32 SLOT_CHANNELS = 64;
constexpr u32 SLOTS = 4;
// For each channel and peer, what both say of the slots.
constexpr u64 SLOT_WORDS_BYTES = 256;
// Of all messages: of how many, those that a rank began to send last, the receiver keeps how long they are, and how much room
// that takes, with whether the receiver has refused one.
constexpr u32 NOTES = 128;
constexpr u64 NOTES_BYTES = (NOTES + 16) * 8;
// Of the ring leaf: each channel has so many slots for slices in the next rank's window, and all channels' take so much. How many
// there are, and how much a slot takes, the host says.
constexpr u32 RING_SLOTS = 4;
constexpr u64 RING_DATA_BYTES = 16 << 20;

// A launch. The host's `Parameters` has the same layout (parameters.rs), and a test compares the two.
struct Parameters {
    u64 window[RANKS_MAX];
    // Direct leaf: the ranks' registered memory, each from where this rank's part of the work begins in a buffer at its
    // start, and how far into that memory this rank's buffers begin, which it tells the others.
    u64 peer_input[RANKS_MAX];
    u64 peer_output[RANKS_MAX];
    u64 input_offset;
    u64 output_offset;
    u64 input;
    u64 output;
    // This rank's counters, which live from call to call, and what it tells its host.
    u64 state;
    u64 status;
    u64 deadline_ns;
    // A block is what one rank is responsible for; the vector has `total_bytes` of them one behind the other.
    u64 block_bytes;
    u64 total_bytes;
    // From one rank's block to the next one's; 0 where all ranks' are the same place.
    u64 input_stride;
    u64 output_stride;
    u32 rank;
    u32 ranks;
    // Bit r: this rank sends rank r its block; makes its own block of what rank r gives; passes the result on to rank r;
    // gets rank r's result.
    u32 send;
    u32 receive;
    u32 forward;
    u32 collect;
    // Whether this rank's block of the result belongs into its output.
    u32 keep;
    // Whether blocks are only moved, each rank's to a place of its own: then this rank gets the blocks of `collect` in the
    // first exchange, and `forward` says to whom it has nothing to send and sends empty lines, or by the direct leaf to
    // whom it copies.
    u32 apart;
    // By the ring leaf: where slices go, how many hops a block's takes on this rank, how long one is, and who is the root. By
    // the two-shot leaf, a route from or to the root says that the root has no block.
    u32 route;
    u32 hops;
    u32 root;
    u32 slice_bytes;
    // How long a slot is, and so a slice at most: the same in all calls.
    u32 slot_bytes;
    u32 padding;
    u32 op;
    u32 signature;
    // What this rank's input is multiplied by where the operation says so: the element's bytes, or where they are.
    u64 factor;
    u64 factor_at;
};

// Offsets in a window; `Layout` in layout.rs says the same, and a test compares the two.
constexpr u64 GREETINGS = 0;
constexpr u64 GOODBYES = GREETINGS + (u64)CHANNELS_MAX * 2 * RANKS_MAX * 8;
constexpr u64 PLACES = GOODBYES + (u64)CHANNELS_MAX * 2 * RANKS_MAX * 8;
constexpr u64 ONE_SHOT_CELLS = PLACES + (u64)CHANNELS_MAX * 2 * RANKS_MAX * 16;
constexpr u64 TWO_SHOT_LINES = ONE_SHOT_CELLS + (u64)ONE_SHOT_CHANNELS * 2 * RANKS_MAX * THREADS * 16;
constexpr u64 PAIR_CREDITS = TWO_SHOT_LINES + (u64)TWO_SHOT_CHANNELS * WARPS * 2 * 2 * RANKS_MAX * WARP * 16;
constexpr u64 PAIR_LINES = PAIR_CREDITS + (u64)PAIR_CHANNELS * RANKS_MAX * PAIR_WARPS * 8;
constexpr u64 RING_WORDS = PAIR_LINES + (u64)PAIR_CHANNELS * RANKS_MAX * PAIR_WARPS * PAIR_SLOTS * WARP * 16;
constexpr u64 RING_DATA = RING_WORDS + (u64)CHANNELS_MAX * 256;
constexpr u64 SLOT_WORDS = RING_DATA + RING_DATA_BYTES;
constexpr u64 MESSAGE_NOTES = SLOT_WORDS + (u64)SLOT_CHANNELS * RANKS_MAX * SLOT_WORDS_BYTES;
// To the window's end, which the host makes as long as these slots need.
constexpr u64 SLOT_DATA = MESSAGE_NOTES + RANKS_MAX * NOTES_BYTES;

// In `state`.
constexpr u64 STATE_FAILED = 0;
constexpr u64 STATE_CALLS = 128;
constexpr u64 STATE_ROUNDS = STATE_CALLS + CHANNELS_MAX * 4;
// Of the direct leaf, per channel: where the ranks' inputs and outputs are.
constexpr u64 STATE_PLACES = STATE_ROUNDS + TWO_SHOT_CHANNELS * WARPS * 8;
// Of messages, per channel, peer and warp: how many lines were sent and received.
constexpr u64 STATE_PAIRS = STATE_PLACES + CHANNELS_MAX * RANKS_MAX * 16;
// Of the ring leaf, per channel: how many slices were put into slots and taken out of them.
constexpr u64 STATE_RINGS = STATE_PAIRS + PAIR_CHANNELS * RANKS_MAX * PAIR_WARPS * 16;
// Of long messages, per channel and peer: the same.
constexpr u64 STATE_SLOTS = STATE_RINGS + CHANNELS_MAX * 16;
constexpr u64 STATE_BYTES = STATE_SLOTS + SLOT_CHANNELS * RANKS_MAX * 16;

// Where the ring leaf's slices go: around the ring and reduced, then around it once more; only reduced; only passed on; from
// the root; to the root.
constexpr u32 ROUTE_REDUCE_AND_GATHER = 0;
constexpr u32 ROUTE_REDUCE = 1;
constexpr u32 ROUTE_GATHER = 2;
constexpr u32 ROUTE_FROM_ROOT = 3;
constexpr u32 ROUTE_TO_ROOT = 4;

// In `status`: 32-bit words.
constexpr u32 STATUS_STOP = 0;
constexpr u32 STATUS_CAUSE = 1;
constexpr u32 STATUS_PEER = 2;
constexpr u32 STATUS_CHANNEL = 3;
constexpr u32 STATUS_CALL = 4;
constexpr u32 STATUS_SIGNATURE = 5;
constexpr u32 CAUSE_TIMEOUT = 1;
constexpr u32 CAUSE_MISMATCH = 2;

// One thread's part in a call, which is told `P`.
template <class P> struct CallOf {
    const P& p;
    u32 channel;
    u32 number;
    bool is_given_up;
};
typedef CallOf<Parameters> Call;

DEVICE bool has(u32 mask, u32 rank) { return (mask >> rank) & 1; }

// The element by which this rank's input is multiplied, where the operation says so.
template <class T> DEVICE u64 factor_of(const Parameters& p) {
    return p.factor_at ? load8(p.factor_at, sizeof(T)) : p.factor;
}

// The leaves that serve every peer have code of their own for 2, 4 and 8 ranks, whose number is then `RANKS`, and code for any number,
// where it is 0. What is for other ranks need not be fetched and stepped over: between two H200 an all_reduce of 8 B takes 2.6 us in a
// graph instead of 3.1, and an all_gather of 4 MiB 11.4 instead of 13.9.
template <u32 RANKS> constexpr u32 MOST = RANKS ? RANKS : RANKS_MAX;
template <u32 RANKS> DEVICE u32 ranks_of(const Parameters& p) { return RANKS ? RANKS : p.ranks; }

// Peers are served from this rank's successor on, so that not all ranks begin with the same one.
template <u32 RANKS = 0> DEVICE u32 turn(const Parameters& p, u32 k) {
    u32 rank = p.rank + k, ranks = ranks_of<RANKS>(p);
    return rank < ranks ? rank : rank - ranks;
}

template <class P> DEVICE u64 status_word(const P& p, u32 word) { return p.status + word * 4; }

// Tells the host why, unless somebody has.
template <class P> DEVICE void give_up(CallOf<P>& call, u32 cause, u32 peer, u32 signature) {
    const P& p = call.p;
    call.is_given_up = true;
    if (exchange(p.state + STATE_FAILED, 1)) return;
    store_shared_word(status_word(p, STATUS_CAUSE), cause);
    store_shared_word(status_word(p, STATUS_PEER), peer);
    store_shared_word(status_word(p, STATUS_CHANNEL), call.channel);
    store_shared_word(status_word(p, STATUS_CALL), call.number);
    store_shared_word(status_word(p, STATUS_SIGNATURE), signature);
    fence();
    store_shared_word(status_word(p, STATUS_STOP), 1);
}

// One wait of a thread for a peer.
struct Wait {
    u32 polls;
    u64 start;
};

// Whether to look again. Looks at the clock and at the host's word now and then, since both are far away.
template <class P> DEVICE bool goes_on(Wait& wait, CallOf<P>& call, u32 peer) {
    if (call.is_given_up) return false;
    if (++wait.polls % 4096 != 0) return true;
    const P& p = call.p;
    if (load_shared_word(status_word(p, STATUS_STOP)) || load_shared_word(p.state + STATE_FAILED)) {
        // Whoever stops by the host's word marks the counters as useless for all calls behind this one.
        exchange(p.state + STATE_FAILED, 1);
        call.is_given_up = true;
        return false;
    }
    u64 now = nanoseconds();
    if (!wait.start) wait.start = now;
    if (now - wait.start < p.deadline_ns) return true;
    give_up(call, CAUSE_TIMEOUT, peer, 0);
    return false;
}

template <class P> DEVICE u64 notice(const CallOf<P>& call, u64 kind, u32 at, u32 from) {
    u64 index = ((u64)call.channel * 2 + (call.number & 1)) * RANKS_MAX + from;
    return call.p.window[at] + kind + index * 8;
}

// What a notice says: the call, and what this rank takes it to be.
template <class P> DEVICE u64 notice_of(const CallOf<P>& call) { return (u64)call.p.signature << 32 | call.number; }

// Which peer a thread of the last warp sees to, of which there are as many; other threads none. Where a call is short that warp has
// nothing else to wait for.
DEVICE u32 greeted_peer() { return thread_index() - (THREADS - RANKS_MAX); }

// One thread per peer tells it that this rank has begun the call, and nothing else: no fence stands in front, which would hold up
// what the warp sends for as long as a write takes to a peer and back (1.6 us of a call of 512 KiB, and 0.6 of one of 8 B, on two
// H200). What was read in earlier calls was there when they ended, and is not read again.
template <class P> DEVICE void greet_peers(const CallOf<P>& call) {
    u32 peer = greeted_peer();
    if (peer >= call.p.ranks || peer == call.p.rank) return;
    store_word(notice(call, GREETINGS, peer, call.p.rank), notice_of(call));
}

// One thread per peer puts a notice into the peer's window. What this GPU wrote before the launch, or before the block
// barrier in front, is seen by whoever sees the notice.
template <class P> DEVICE void tell_peers(CallOf<P>& call, u64 kind) {
    u32 peer = thread_index();
    if (peer >= call.p.ranks || peer == call.p.rank) return;
    store_release(notice(call, kind, peer, call.p.rank), notice_of(call));
}

// Waits for a peer's notice, which `look` reads.
template <class P, class Look> DEVICE void await_notice(CallOf<P>& call, u32 peer, Look look) {
    Wait wait = {0, 0};
    u64 found;
    do {
        found = look();
        if ((u32)found == call.number) {
            if ((u32)(found >> 32) != call.p.signature) give_up(call, CAUSE_MISMATCH, peer, (u32)(found >> 32));
            return;
        }
    } while (goes_on(wait, call, peer));
}

// Waits until a peer has begun the call. Lets nobody see what that wrote.
template <class P> DEVICE void await_greeting(CallOf<P>& call, u32 peer) {
    u64 at = notice(call, GREETINGS, call.p.rank, peer);
    await_notice(call, peer, [=] { return load_word(at); });
}

// The same threads as greet wait for the peers' greetings.
template <class P> DEVICE void await_greetings(CallOf<P>& call) {
    u32 peer = greeted_peer();
    if (peer < call.p.ranks && peer != call.p.rank) await_greeting(call, peer);
}

// The same threads as tell wait for the peers' notices. A block barrier behind it lets all threads see what peers wrote before.
template <class P> DEVICE void await_peers(CallOf<P>& call, u64 kind) {
    u32 peer = thread_index();
    if (peer >= call.p.ranks || peer == call.p.rank) return;
    u64 at = notice(call, kind, call.p.rank, peer);
    await_notice(call, peer, [=] { return load_acquire(at); });
}

// Whether the call takes place: not after an earlier one has failed. All lanes of a warp agree.
template <class P> DEVICE bool begin(CallOf<P>& call) {
    call.channel = block_index();
    call.is_given_up = false;
    u32 failed = load_shared_word(call.p.state + STATE_FAILED);
    // Counted from 1, as windows begin as zeros.
    call.number = load_shared_word(call.p.state + STATE_CALLS + call.channel * 4) + 1;
    return all_of_warp(!failed);
}

// Behind a block barrier, so that every thread has read the number.
template <class P> DEVICE void finish(const CallOf<P>& call) {
    if (thread_index() != 0) return;
    // 0 stands in cells that nobody has written to; the parity goes on.
    u32 done = call.number + 1 == 0 ? 1 : call.number;
    store_shared_word(call.p.state + STATE_CALLS + call.channel * 4, done);
}
