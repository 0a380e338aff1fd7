// Messages of this rank to ranks of other nodes, and of theirs to it, all on their way at the same time.
//
// Nothing of one message waits for another: whoever sends and receives in one call has peers that may do one behind the other, or
// come to one of them only when another has been served. So a long message has blocks of its own, and channels, which are a way
// through the host's memory, or through memory that cards read, with room for some slices. Slice s of a message goes by channel
// s mod so many, of which each belongs to one block, and to one lane of the host. Who sends a slice copies it into a place of its
// channel and posts that; it waits for the answers of the slices that had the place before. Who receives one posts that a place is
// free, some slices ahead, and finds it filled when that is answered. One block more passes what is short, through cells
// (cells.cuh), and calls the lanes that have a part in all this, as often as messages are launched: so lanes learn of launches in
// their order, and by how many rounds of transfers come before, of the order of both.
//
// What two ranks give each other keeps its order: the lanes send the slices of a message behind those of messages before it.
#pragma once
#include "relay.cuh"

// The channels of each direction, and how many slices of each may be on their way.
constexpr u32 FAR_CHANNELS = 64;
constexpr u32 FAR_PLACES = 2;
constexpr u64 FAR_SLICE_BYTES = 64 << 10;
constexpr u32 FAR_LANES = RELAY_LANES;
// How many long messages a launch has of each direction.
constexpr u32 FAR_LONG_SPANS = 8;
// Whose words come one behind the other, and whose counts: the lanes', the channels' of what is put, and of what is got.
constexpr u32 FAR_PUTS = FAR_LANES;
constexpr u32 FAR_GETS = FAR_PUTS + FAR_CHANNELS;
constexpr u32 FAR_DOORS = FAR_GETS + FAR_CHANNELS;
// In the relay's own state, behind those of transfers: how many rounds each has posted, and how many of them are known to be
// answered.
constexpr u64 FAR_COUNTS = RELAY_STATE_BYTES;
constexpr u64 FAR_STATE_BYTES = FAR_COUNTS + FAR_DOORS * 16;

// A launch. The host's `FarParameters` has the same layout (relay/far/parameters.rs), and a test compares the two.
struct FarParameters {
    u64 outbox;
    u64 inbox;
    u64 cells;
    u64 words;
    u64 state;
    u64 status;
    u64 deadline_ns;
    u64 plan;
    // The long ones first.
    u32 put_count;
    u32 get_count;
    u32 long_put_count;
    u32 long_get_count;
    // Of each long one; blocks divide channels.
    u32 put_blocks;
    u32 get_blocks;
    u32 put_channels;
    u32 get_channels;
    // How many lanes have a part in it.
    u32 lanes;
    u32 padding;
    // Of what is got, and behind them of what is put.
    u32 peers[2 * RELAY_SPANS];
    Span puts[RELAY_SPANS];
    Span gets[RELAY_SPANS];
};

typedef CallOf<FarParameters> FarCall;

DEVICE u32 peer_of(const FarParameters& p, u32 span) { return p.peers[span]; }

DEVICE u64 far_words(const FarParameters& p, u32 door) { return p.words + (u64)door * RELAY_WORDS; }
DEVICE u64 far_counts(const FarParameters& p, u32 door) { return p.state + FAR_COUNTS + (u64)door * 16; }

// A long message, as one block of those that it has sees it.
struct LongMessage {
    Span span;
    // Which of the peers it is for or from.
    u32 peer;
    u64 slices;
    // Its channels' first door, how many channels and blocks it has, and which block this is.
    u32 door;
    u32 channels;
    u32 blocks;
    u32 block;
};

DEVICE LongMessage long_message(const Span& span, u32 peer, u32 door, u32 channels, u32 blocks, u32 block) {
    return {span, peer, (span.bytes + FAR_SLICE_BYTES - 1) / FAR_SLICE_BYTES, door, channels, blocks, block};
}

// Where a slice is passed.
struct FarPlace {
    u32 door;
    // The round of its channel, and where its bytes lie, from the first channel's on.
    u64 number;
    u64 at;
};

DEVICE FarPlace place_of(const FarParameters& p, const LongMessage& message, u32 first_door, u64 slice) {
    u32 door = message.door + (u32)(slice % message.channels);
    u64 number = *(const u64*)far_counts(p, door) + slice / message.channels + 1;
    return {door, number, ((u64)(door - first_door) * FAR_PLACES + number % FAR_PLACES) * FAR_SLICE_BYTES};
}

DEVICE u64 slice_length(const LongMessage& message, u64 slice) {
    u64 left = message.span.bytes - slice * FAR_SLICE_BYTES;
    return left < FAR_SLICE_BYTES ? left : FAR_SLICE_BYTES;
}

// Counts what was posted, behind a barrier: nobody of the block asks for the counts any more.
DEVICE void count_slices(const FarParameters& p, const LongMessage& message) {
    u32 channel = thread_index();
    if (channel >= message.channels || channel % message.blocks != message.block || channel >= message.slices) return;
    *(u64*)far_counts(p, message.door + channel) += (message.slices - channel - 1) / message.channels + 1;
}

DEVICE void put_long(FarCall& call, const LongMessage& message) {
    const FarParameters& p = call.p;
    for (u64 slice = message.block; slice < message.slices; slice += message.blocks) {
        FarPlace place = place_of(p, message, FAR_PUTS, slice);
        u64 words = far_words(p, place.door), known = far_counts(p, place.door) + 8;
        u64 wanted = place.number < FAR_PLACES ? 0 : place.number - FAR_PLACES;
        if (*(const u64*)known < wanted) {
            u64 answered;
            if (!await_answer(call, message.peer, words, wanted, answered)) return;
            if (thread_index() == 0) *(u64*)known = answered;
        }
        u64 from = message.span.address + slice * FAR_SLICE_BYTES, to = p.outbox + place.at;
        copy(Plain{from}, Slot{to}, slice_length(message, slice), thread_index() * 16, RELAY_STEP);
        block_barrier();
        if (thread_index() == 0) post(words, place.number, p.plan, slice, true);
    }
    block_barrier();
    count_slices(p, message);
}

DEVICE void get_long(FarCall& call, const LongMessage& message) {
    const FarParameters& p = call.p;
    u64 ahead = (u64)message.channels * FAR_PLACES;
    for (u64 slice = message.block + (u64)thread_index() * message.blocks; slice < message.slices && slice < ahead;
         slice += (u64)THREADS * message.blocks) {
        FarPlace place = place_of(p, message, FAR_GETS, slice);
        post(far_words(p, place.door), place.number, p.plan, slice, false);
    }
    for (u64 slice = message.block; slice < message.slices; slice += message.blocks) {
        FarPlace place = place_of(p, message, FAR_GETS, slice);
        u64 answered;
        if (!await_answer(call, message.peer, far_words(p, place.door), place.number, answered)) return;
        get_part(p.inbox + place.at, message.span.address + slice * FAR_SLICE_BYTES, slice_length(message, slice));
        if (slice + ahead >= message.slices) continue;
        block_barrier();
        if (thread_index() == 0) post(far_words(p, place.door), place.number + FAR_PLACES, p.plan, slice + ahead, false);
    }
    block_barrier();
    count_slices(p, message);
}

// Calls the lanes, and passes what is short.
DEVICE void pass_short(FarCall& call) {
    const FarParameters& p = call.p;
    u32 lane = thread_index();
    // Cells are of the first lane's rounds.
    u64 number = *(const u64*)far_counts(p, 0) + 1;
    u64 mine = lane < p.lanes ? *(const u64*)far_counts(p, lane) + 1 : 0, answered = 0;
    if (lane < p.lanes) {
        u64 words = far_words(p, lane);
        answered = *(const u64*)(far_counts(p, lane) + 8);
        Wait wait = {0, 0};
        u32 any = p.get_count ? 0 : RELAY_SPANS;
        while (answered + RELAY_ROUNDS < mine && goes_on(wait, call, peer_of(p, any))) answered = load_acquire(words + RELAY_ANSWERED);
        // A transfer that a lane has a part in has a round of the channel of its number.
        u32 before = (u32) * (const u64*)(p.state + RELAY_COUNTS + lane * 16);
        if (!call.is_given_up) post(words, mine, p.plan, before, false);
    }
    // Behind it, cells are free that were put so many rounds before.
    if (!all_of_block(!call.is_given_up)) return;
    ShortSpans all = {p.puts, p.put_count, cells_of(call, number)};
    u32 mark = mark_of(number);
    Cell cell;
    for (u64 index = thread_index(); find_cell(all, index, cell); index += THREADS) {
        const Span& span = p.puts[cell.span];
        u64 data = load8(span.address + cell.byte, (i64)(span.bytes - cell.byte));
        store_quad(cell.at, Quad{(u32)data, mark, (u32)(data >> 32), mark});
    }
    get_cells(call, number);
    if (lane >= p.lanes) return;
    *(u64*)far_counts(p, lane) = mine;
    *(u64*)(far_counts(p, lane) + 8) = answered;
}

// How many blocks a launch has.
DEVICE u32 far_blocks(const FarParameters& p) {
    return 1 + p.long_put_count * p.put_blocks + p.long_get_count * p.get_blocks;
}

DEVICE void pass_far_messages(const FarParameters& p, u32 index) {
    FarCall call = {p, index, 0, false};
    if (!all_of_block(!load_shared_word(p.state + STATE_FAILED))) return;
    // The block that calls the lanes comes first: it needs no other, and nothing of this launch goes on before the lanes know of it.
    if (index == 0) return pass_short(call);
    u32 block = index - 1, puts = p.long_put_count * p.put_blocks;
    if (block < puts) {
        u32 i = block / p.put_blocks;
        u32 door = FAR_PUTS + i * p.put_channels;
        put_long(call, long_message(p.puts[i], RELAY_SPANS + i, door, p.put_channels, p.put_blocks, block % p.put_blocks));
    } else {
        u32 i = (block - puts) / p.get_blocks;
        u32 door = FAR_GETS + i * p.get_channels;
        get_long(call, long_message(p.gets[i], i, door, p.get_channels, p.get_blocks, (block - puts) % p.get_blocks));
    }
}
