// How a GPU and its host hand each other what goes between nodes: what a launch is told, where things lie, and who waits for
// whom.
//
// A slice that is posted is a round of its channel, and rounds are counted from call to call, so that a call can be captured and
// run again. A post is two words, each with the round's mark beside what it says, so that they need no order: of whom the host
// finds both it knows the plan and the slice. What lies in the outbox is there when the second word is, and is the host's until
// its answer; who puts nothing there, which goes for short stretches (cells.cuh), may be some rounds ahead of the answers.
#pragma once
#include "direct.cuh"

constexpr u32 RELAY_SPANS = 16;
constexpr u32 RELAY_CHANNELS = 16;
constexpr u32 RELAY_LANES = 4;
// Of a channel, in the outbox and in the inbox.
constexpr u64 RELAY_SLOT_BYTES = 1 << 20;
// How many rounds of a channel the host may have been told of and not answered.
constexpr u64 RELAY_ROUNDS = 8;
// Of a channel, in the words that it has with the host: for each of the last rounds which plan and slice it is; and how many
// are answered.
constexpr u64 RELAY_WORDS = 256;
constexpr u64 RELAY_POSTS = 0;
constexpr u64 RELAY_POST_BYTES = 16;
constexpr u64 RELAY_ANSWERED = 128;
// In the relay's own state, behind whether a call has failed: how many transfers went one way, how many blocks of the one under way are
// done, and how many rounds each channel has posted, and how many of them are known to be answered.
constexpr u64 RELAY_TRANSFERS = 64;
constexpr u64 RELAY_BLOCKS_DONE = 72;
constexpr u64 RELAY_COUNTS = 128;
constexpr u64 RELAY_STATE_BYTES = RELAY_COUNTS + RELAY_CHANNELS * 16;
// A stretch of no more bytes goes through cells. Of each lane's first channel: for each round, and each stretch that is put, and then for
// each that is got.
constexpr u64 RELAY_SHORT_BYTES = 4 << 10;
constexpr u64 RELAY_STRETCH_CELLS = RELAY_SHORT_BYTES / 8;
constexpr u64 RELAY_ROUND_CELLS_BYTES = RELAY_SPANS * RELAY_STRETCH_CELLS * 16;
constexpr u64 RELAY_CELLS_GOT = RELAY_ROUNDS * RELAY_ROUND_CELLS_BYTES;
constexpr u64 RELAY_LANE_CELLS_BYTES = 2 * RELAY_CELLS_GOT;

struct Span {
    u64 address;
    u64 bytes;
};

// A launch. The host's `RelayParameters` has the same layout (relay/parameters.rs), and a test compares the two.
struct RelayParameters {
    u64 outbox;
    u64 inbox;
    u64 cells;
    u64 words;
    u64 state;
    u64 status;
    u64 deadline_ns;
    u64 plan;
    u64 slices;
    u64 slice_bytes;
    // This node's part of a reduction, whose result goes where the first span that is got goes; else 0.
    u64 own;
    u64 factor;
    u64 factor_at;
    u32 put_count;
    u32 get_count;
    // How many nodes come before this one.
    u32 place;
    u32 op;
    // By how many an average is divided.
    u32 ranks;
    // Who is waited for, for messages.
    u32 peer;
    // How many lanes the host has, 1, 2 or 4, which have its channels in turn.
    u32 lanes;
    // Whether each rank only gives or only gets.
    u32 goes_one_way;
    Span puts[RELAY_SPANS];
    Span gets[RELAY_SPANS];
    // What this rank has for itself, and where it goes; none where it has no length.
    Span copied;
    u64 copied_to;
};

typedef CallOf<RelayParameters> RelayCall;

// The channel of a block's slices, and how far it has come.
struct Counts {
    u32 channel;
    u64 number;
    u64 answered;
};

// On each lane a transfer begins with the lane's first channel. Where ranks only give or only get, it begins on the lane behind that on
// which the last such began: hosts and boxes can then still be busy with one when others are given the next. Where both wait for each
// other nothing would be gained, and the number of transfers asked for in vain, which costs 1 us of 10. It is not waited for before
// the counts are asked for, which are those of all lanes.
DEVICE Counts begin_channel(const RelayParameters& p, u64& transfers) {
    u64 counts = p.state + RELAY_COUNTS;
    transfers = 0;
    if (!p.goes_one_way) {
        u64 own = counts + (u64)block_index() * 16;
        return {block_index(), *(const u64*)own, *(const u64*)(own + 8)};
    }
    u32 first = block_index() & ~(p.lanes - 1);
    transfers = load_word(p.state + RELAY_TRANSFERS);
    Pair of_lanes[RELAY_LANES];
#pragma unroll
    for (u32 lane = 0; lane < RELAY_LANES; lane++) {
        u64 at = counts + (u64)(first + (lane & (p.lanes - 1))) * 16;
        of_lanes[lane] = {load_word(at), load_word(at + 8)};
    }
    u32 lane = ((u32)transfers + block_index()) & (p.lanes - 1);
    Counts found = {first + lane, 0, 0};
#pragma unroll
    for (u32 i = 0; i < RELAY_LANES; i++) {
        if (i == lane) found = {first + i, of_lanes[i].lo, of_lanes[i].hi};
    }
    return found;
}

// What a transfer begins with.
struct RelayStart {
    Counts counts;
    // How many went one way before it.
    u64 transfers;
    // Whether none of those before has failed.
    bool goes_well;
};

DEVICE RelayStart begin_transfer(const RelayParameters& p) {
    RelayStart start;
    start.goes_well = !load_shared_word(p.state + STATE_FAILED);
    start.counts = begin_channel(p, start.transfers);
    return start;
}

// Who is waited for where something is got.
DEVICE u32 peer_of(const RelayParameters& p, u32) { return p.peer; }

// How much of a span is in a slice.
DEVICE u64 part_of(const RelayParameters& p, const Span& span, u64 at) {
    if (at >= span.bytes) return 0;
    return span.bytes - at < p.slice_bytes ? span.bytes - at : p.slice_bytes;
}

// Whether a span goes through cells: in the first slice, and whole.
DEVICE bool is_short(const Span& span) { return span.bytes <= RELAY_SHORT_BYTES; }

// Whether any of these spans has something in a slice that does not go through cells.
DEVICE bool has_long(const Span* spans, u32 count, u64 at) {
    bool has = false;
    for (u32 i = 0; i < count; i++) has |= at < spans[i].bytes && !is_short(spans[i]);
    return has;
}

// What stands beside what belongs to a round. Never 0, as memory begins, and used again after 2^31 rounds.
DEVICE u32 mark_of(u64 number) { return (u32)number | 0x80000000u; }

// Tells the host of a round. One thread, behind a barrier of its block. Where something lies in the outbox the host must see that
// first; else no fence stands in front of the post, for which a write would go to the host and back. That what was got in rounds before
// has been read, and may be written over, needs none: who passed the barrier has used it.
DEVICE void post(u64 words, u64 number, u64 plan, u64 slice, bool is_release) {
    u64 at = words + RELAY_POSTS + number % RELAY_ROUNDS * RELAY_POST_BYTES, mark = (u64)mark_of(number) << 32;
    store_word(at, mark | plan);
    if (is_release) store_release(at + 8, mark | slice);
    else store_word(at + 8, mark | slice);
}

// Waits until the host has answered so many of a channel's rounds. The first thread says how many it has. All threads of the block
// agree on whether it has so many.
template <class P> DEVICE bool await_answer(CallOf<P>& call, u32 span, u64 words, u64 number, u64& answered) {
    if (thread_index() == 0) {
        Wait wait = {0, 0};
        while ((answered = load_acquire(words + RELAY_ANSWERED)) < number) {
            if (!goes_on(wait, call, peer_of(call.p, span))) break;
        }
    }
    return all_of_block(!call.is_given_up);
}
