// Long messages between two ranks: in slices, whole stores into slots of the receiver's window.
//
// A block serves one peer in one channel or in several, one behind the other, in both directions, of which each has a crew of its
// own, so that neither waits for the other. Most of a crew's warps only move. One more waits, ahead of those that move, for slices or
// for free slots, and another says behind them what they have moved, as in the ring (ring.cuh), and in words of the block as there.
// Where a block has nothing in one direction, all the warps that move serve the other.
//
// How many channels there are both ends say alike; how many blocks serve them, each may decide for itself. Both take messages
// in their order and each one's channels from the lowest on: at the first that is not done both ends' blocks are, and it goes on. All
// blocks of a launch must be there at once for that, as a message is taken when all of its channels are.
//
// Of each peer a channel has a few slots. The sender says how many it has filled (`filled`, in the receiver's window), the receiver
// how many it has read (`freed`, in the sender's); both are counted from launch to launch. Who says so has seen the words of all that
// moved: what these wrote is released with it, and what they read has been used.
//
// A message's slices are taken by its channels in turn. With a slot goes what its sender takes the message's length to be: a
// receiver that expects another says so. What a rank sends itself is copied.
//
// Where the messages are a collective's, the first block greets the other ranks as every leaf does, so that who calls
// something else is named, and the call does not end before all have begun it.
#pragma once
#include "direct.cuh"
#include "messages.cuh"

// A slice is so much, or a multiple: what a block's threads move at once.
constexpr u64 SLICE_UNIT_BYTES = (u64)THREADS * 16;

// One direction of a block's channels: what is left of this launch's messages.
struct Flow {
    // The peer's messages, and the one behind that which the flow is at.
    u32 first;
    u32 end;
    u32 next;
    // From one of the block's channels to the next, and the one that the flow is at.
    u32 step;
    u32 channel;
    Message message;
    u64 slice_bytes;
    // Where in the message the next slice is, and whether it is the channel's first of it.
    u64 at;
    bool begins;
    // Where it stands how many slices have gone by the first channel since the windows were made; and how many by this one.
    u64 counts;
    u64 count;
};

// Of how many units a message is, and of how many its slices are: both ends cut it by its length alone. In 32 bits, of which a
// division takes a fraction of the time.
DEVICE u32 units_of(u64 bytes) { return (u32)((bytes + SLICE_UNIT_BYTES - 1) / SLICE_UNIT_BYTES); }
DEVICE u32 slice_units_of(const PairParameters& p, u64 bytes) {
    u32 slices = p.slot_channels * p.slices_per_channel, units = (units_of(bytes) + slices - 1) / slices;
    u32 most = p.slot_bytes / (u32)SLICE_UNIT_BYTES;
    return units < most ? units : most;
}

// What has gone by a channel before this launch. Stays as it is until all of a block's crew are done with it.
DEVICE u64 count_word(const Flow& flow, u32 channel) { return flow.counts + (u64)channel * RANKS_MAX * 16; }

// How many slices go by a channel of the messages from `first` on to `end`.
CALLED u64 slices_of(const PairParameters& p, u32 first, u32 end, u32 channel) {
    u64 slices = 0;
    for (u32 i = first; i < end; i++) {
        u32 units = units_of(p.messages[i].bytes), slice = slice_units_of(p, p.messages[i].bytes);
        if (channel * slice < units) slices += (units - channel * slice - 1) / (p.slot_channels * slice) + 1;
    }
    return slices;
}

// Goes on, where a channel has nothing left of a message, to the block's next channel, and behind the last one to the next message: who
// takes messages one by one has all of one before any of the next. False where nothing is left.
DEVICE bool has_slice(const PairCall& call, Flow& flow) {
    const PairParameters& p = call.p;
    while (flow.at >= flow.message.bytes) {
        flow.channel += flow.step;
        if (flow.channel >= p.slot_channels) {
            flow.channel = p.slot_channels;
            if (flow.next == flow.end) return false;
            flow.message = p.messages[flow.next++];
            flow.slice_bytes = slice_units_of(p, flow.message.bytes) * SLICE_UNIT_BYTES;
            flow.channel = call.channel;
        }
        flow.at = flow.channel * flow.slice_bytes;
        flow.begins = true;
    }
    if (flow.begins) flow.count = *(const u64*)count_word(flow, flow.channel) + slices_of(p, flow.first, flow.next - 1, flow.channel);
    return true;
}

DEVICE Flow flow_of(const PairCall& call, u32 first, u32 count, u32 step, u64 counts) {
    return Flow{first, first + count, first, step, call.p.slot_channels, {0, 0}, 0, 0, false, counts, 0};
}

DEVICE u64 slice_len(const Flow& flow) {
    u64 left = flow.message.bytes - flow.at;
    return left < flow.slice_bytes ? left : flow.slice_bytes;
}

DEVICE void go_on(const PairCall& call, Flow& flow) {
    flow.at += call.p.slot_channels * flow.slice_bytes;
    flow.begins = false;
    flow.count++;
}

// Where `at` keeps what `from` and itself say of the slots for what `from` sends: how many were filled, and behind it how long
// the message of each is; a line further, how many slots of `from`'s were read, which `from` says.
DEVICE u64 slot_words(const PairCall& call, const Flow& flow, u32 at, u32 from) {
    return call.p.window[at] + SLOT_WORDS + ((u64)flow.channel * RANKS_MAX + from) * SLOT_WORDS_BYTES;
}
DEVICE u64 filled_word(const PairCall& call, const Flow& flow, u32 at, u32 from) { return slot_words(call, flow, at, from); }
DEVICE u64 length_word(const PairCall& call, const Flow& flow, u32 at, u32 from) {
    return slot_words(call, flow, at, from) + 8 + flow.count % SLOTS * 8;
}
DEVICE u64 freed_word(const PairCall& call, const Flow& flow, u32 at, u32 from) { return slot_words(call, flow, at, from) + 128; }

// The slot of a flow's next slice.
DEVICE u64 slot_of(const PairCall& call, const Flow& flow, u32 at, u32 from) {
    u32 place = from < at ? from : from - 1;
    u64 index = ((u64)place * call.p.slot_channels + flow.channel) * SLOTS + flow.count % SLOTS;
    return call.p.window[at] + SLOT_DATA + index * call.p.slot_bytes;
}

// What a rank has for itself: the n-th that it sends is the n-th that it receives.
DEVICE void copy_own(const PairCall& call, u32 blocks) {
    const PairParameters& p = call.p;
    if (thread_index() >= THREADS) return;
    u64 first = call.channel * SLICE_UNIT_BYTES + thread_index() * 16, step = blocks * SLICE_UNIT_BYTES;
    for (u32 i = 0; i < p.send_long_count[p.rank]; i++) {
        const Message& from = p.messages[p.send_first[p.rank] + i];
        copy(Plain{from.address}, Plain{p.messages[p.receive_first[p.rank] + i].address}, from.bytes, first, step);
    }
}

// Who serves one direction of a channel: so many of the warps that move, from `first` on, and two that help them. Those that move say in
// words of their number how many slices they have moved; for how many there are slices or slots stands in the word `ready`. Where a
// wait was given up, they say `NEVER`.
struct Crew {
    u32 first;
    u32 warps;
    u32 ready;
};
// The words behind those of the warps that move; and the numbers of the warps that help.
constexpr u32 READY_TO_FILL = WARPS, READY_TO_READ = WARPS + 1;
constexpr u32 AWAITS_FREE = WARPS, TELLS_FILLED = WARPS + 1, AWAITS_FILLED = WARPS + 2, TELLS_FREED = WARPS + 3;
static_assert(READY_TO_READ < BLOCK_WORDS && MESSAGE_THREADS == (TELLS_FREED + 1) * WARP, "each has a word, or is there");

// Moves a direction's slices as they become ready, by one of the crew's warps; `move` is given the flow, where its slice is in the
// message, and what of that is this thread's.
template <class Move> DEVICE void move_slices(const PairCall& call, Flow flow, const Crew& crew, Move move) {
    u32 warp = thread_index() / WARP;
    bool is_first = thread_index() % WARP == 0;
    u64 first = (thread_index() - crew.first * WARP) * 16, step = (u64)crew.warps * WARP * 16;
    for (u32 index = 0; has_slice(call, flow); index++) {
        if (!all_of_warp(await_block_word(crew.ready, index) != NEVER)) {
            if (is_first) store_block_word(warp, NEVER);
            return;
        }
        move(flow, flow.message.address + flow.at, first, step);
        go_on(call, flow);
        warp_barrier();
        if (is_first) store_block_word(warp, index + 1);
    }
}

// Says of each slice, behind those that move it, that it was moved; by a warp, whose lanes look at one of the others each. When it
// has said so of the last one, nobody looks at the counts any more: each lane has those of some channels ready by then.
template <class Tell> DEVICE void tell_of_slices(const PairCall& call, Flow flow, const Crew& crew, Tell tell) {
    u32 lane = thread_index() % WARP;
    constexpr u32 EACH = SLOT_CHANNELS / WARP;
    u64 counts[EACH];
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
        u32 channel = call.channel + (i * WARP + lane) * flow.step;
        if (channel < call.p.slot_channels) {
            counts[i] = *(const u64*)count_word(flow, channel) + slices_of(call.p, flow.first, flow.end, channel);
        }
    }
    for (u32 index = 0; has_slice(call, flow); index++) {
        if (!all_of_warp(await_block_word(crew.first + lane % crew.warps, index) != NEVER)) return;
        warp_barrier();
        if (lane == 0) tell(flow);
        go_on(call, flow);
    }
#pragma unroll
    for (u32 i = 0; i < EACH; i++) {
        u32 channel = call.channel + (i * WARP + lane) * flow.step;
        if (channel < call.p.slot_channels) *(u64*)count_word(flow, channel) = counts[i];
    }
}

// Waits for a place for each slice that is sent; by one thread.
DEVICE void await_free_slots(PairCall& call, u32 peer, Flow flow) {
    u64 freed = 0;
    for (u32 index = 0; has_slice(call, flow); index++) {
        if (flow.begins && flow.channel == 0) note(call, peer, flow.next - 1);
        if (flow.begins) freed = 0;
        Wait wait = {0, 0};
        // What is known to be free is not asked for.
        while (freed + SLOTS <= flow.count) {
            freed = load_acquire(freed_word(call, flow, call.p.rank, peer));
            if (freed + SLOTS <= flow.count && !goes_on_with(wait, call, peer, false, 0)) break;
        }
        store_block_word(READY_TO_FILL, call.is_given_up ? NEVER : index + 1);
        if (call.is_given_up) return;
        go_on(call, flow);
    }
}

// Waits for each slice that is received, and looks at the message's length where one begins.
DEVICE void await_filled_slots(PairCall& call, u32 peer, Flow flow) {
    u64 filled = 0;
    for (u32 index = 0; has_slice(call, flow); index++) {
        if (flow.begins) filled = 0;
        Wait wait = {0, 0};
        while (filled <= flow.count) {
            filled = load_acquire(filled_word(call, flow, call.p.rank, peer));
            if (filled <= flow.count && !goes_on_with(wait, call, peer, true, flow.next - 1)) break;
        }
        if (flow.begins && !call.is_given_up) {
            u64 length = load_word(length_word(call, flow, call.p.rank, peer));
            if (length != flow.message.bytes) refuse(call, peer, flow.next - 1, (u32)length);
        }
        store_block_word(READY_TO_READ, call.is_given_up ? NEVER : index + 1);
        if (call.is_given_up) return;
        go_on(call, flow);
    }
}

DEVICE void exchange_slices(PairCall& call, u32 peer, u32 blocks) {
    const PairParameters& p = call.p;
    u64 counts = p.state + STATE_SLOTS + (u64)peer * 16;
    Flow sent = flow_of(call, p.send_first[peer] + p.send_count[peer], p.send_long_count[peer], blocks, counts);
    Flow received = flow_of(call, p.receive_first[peer] + p.receive_count[peer], p.receive_long_count[peer], blocks, counts + 8);
    bool sends = has_slice(call, sent), receives = has_slice(call, received);
    u32 fill = !sends ? 0 : receives ? WARPS / 2 : WARPS;
    Crew fills = {0, fill, READY_TO_FILL}, reads = {fill, WARPS - fill, READY_TO_READ};
    u32 warp = thread_index() / WARP;
    bool is_first = thread_index() % WARP == 0;
    if (warp < fill) {
        move_slices(call, sent, fills, [&](const Flow& flow, u64 from, u64 first, u64 step) {
            copy(Plain{from}, Slot{slot_of(call, flow, peer, p.rank)}, slice_len(flow), first, step);
        });
    } else if (warp < WARPS) {
        move_slices(call, received, reads, [&](const Flow& flow, u64 to, u64 first, u64 step) {
            copy(Slot{slot_of(call, flow, p.rank, peer)}, Plain{to}, slice_len(flow), first, step);
        });
    } else if (warp == AWAITS_FREE) {
        if (is_first) await_free_slots(call, peer, sent);
    } else if (warp == AWAITS_FILLED) {
        if (is_first) await_filled_slots(call, peer, received);
    } else if (warp == TELLS_FILLED) {
        tell_of_slices(call, sent, fills, [&](const Flow& flow) {
            store_word(length_word(call, flow, peer, p.rank), flow.message.bytes);
            store_release(filled_word(call, flow, peer, p.rank), flow.count + 1);
        });
    } else {
        tell_of_slices(call, received, reads, [&](const Flow& flow) {
            store_word(freed_word(call, flow, peer, p.rank), flow.count + 1);
        });
    }
}

// The first block of a collective. Whether all ranks have begun the same.
DEVICE bool greet(PairCall& call) {
    if (!begin(call)) return false;
    greet_peers(call);
    await_greetings(call);
    bool goes_well = all_of_block(!call.is_given_up);
    finish(call);
    return goes_well;
}

// By one of so many blocks that the peer has.
DEVICE void pass_long(PairCall& call, u32 peer, u32 blocks) {
    const PairParameters& p = call.p;
    if (call.channel >= blocks) return;
    clear_block_words();
    if (!all_of_block(!load_shared_word(p.state + STATE_FAILED))) return;
    if (p.signature && block_index() == 0 && !greet(call)) return;
    if (peer == p.rank) copy_own(call, blocks);
    else exchange_slices(call, peer, blocks);
}
