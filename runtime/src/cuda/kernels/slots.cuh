// Long messages between two ranks: in slices, whole stores into slots of the receiver's window.
//
// A block serves one peer in one channel, in both directions: it sends a slice when a slot is free, and takes one when one is
// there, whichever comes first, so that neither direction waits for the other. Of each peer a channel has a few slots. The
// sender says how many it has filled (`filled`, in the receiver's window), the receiver how many it has read (`freed`, in
// the sender's); both are counted from launch to launch. Who says so is one thread, behind a block barrier: what the
// block's other threads wrote is released with it, and what they read has been used.
//
// A message's slices are taken by its channels in ready. With a slot goes what its sender takes the message's length to be: a
// receiver that expects another says so. What a rank sends itself is copied.
//
// Where the messages are a collective's, the first block greets the other ranks as every leaf does, so that who calls
// something else is named, and the call does not end before all have begun it.
#pragma once
#include "direct.cuh"
#include "messages.cuh"

// A slice is so much, or a multiple: what a block's threads move at once.
constexpr u64 SLICE_UNIT_BYTES = (u64)THREADS * 16;

// One direction of a channel: what is left of this launch's messages, and how many slices have gone since the windows were
// made.
struct Flow {
    u32 next;
    u32 end;
    Message message;
    u64 slice_bytes;
    // Where in the message the channel's next slice is.
    u64 at;
    bool begins;
    u64 count;
};

// Both ends cut a message by its length alone.
DEVICE u64 slice_bytes_of(const PairParameters& p, u64 bytes) {
    u64 slices = (u64)p.slot_channels * p.slices_per_channel;
    u64 units = ((bytes + slices - 1) / slices + SLICE_UNIT_BYTES - 1) / SLICE_UNIT_BYTES;
    return units * SLICE_UNIT_BYTES < p.slot_bytes ? units * SLICE_UNIT_BYTES : p.slot_bytes;
}

// Goes to the next message that has a slice for this channel, where the last one has none left. False where there is none.
DEVICE bool has_slice(const PairCall& call, Flow& flow) {
    while (flow.at >= flow.message.bytes) {
        if (flow.next == flow.end) return false;
        flow.message = call.p.messages[flow.next++];
        flow.slice_bytes = slice_bytes_of(call.p, flow.message.bytes);
        flow.at = call.channel * flow.slice_bytes;
        flow.begins = true;
    }
    return true;
}

DEVICE Flow flow_of(u32 first, u32 count, u64 counter) {
    return Flow{first, first + count, {0, 0}, 0, 0, false, *(const u64*)counter};
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
DEVICE u64 slot_words(const PairCall& call, u32 at, u32 from) {
    return call.p.window[at] + SLOT_WORDS + ((u64)call.channel * RANKS_MAX + from) * SLOT_WORDS_BYTES;
}
DEVICE u64 filled_word(const PairCall& call, u32 at, u32 from) { return slot_words(call, at, from); }
DEVICE u64 length_word(const PairCall& call, u32 at, u32 from, u64 number) {
    return slot_words(call, at, from) + 8 + number % SLOTS * 8;
}
DEVICE u64 freed_word(const PairCall& call, u32 at, u32 from) { return slot_words(call, at, from) + 128; }

DEVICE u64 slot_of(const PairCall& call, u32 at, u32 from, u64 number) {
    u32 place = from < at ? from : from - 1;
    u64 index = ((u64)place * call.p.slot_channels + call.channel) * SLOTS + number % SLOTS;
    return call.p.window[at] + SLOT_DATA + index * call.p.slot_bytes;
}

DEVICE void fill_slot(const Flow& flow, u64 to) {
    u64 from = flow.message.address + flow.at;
    copy(Plain{from}, Slot{to}, slice_len(flow), thread_index() * 16, SLICE_UNIT_BYTES);
}

DEVICE void read_slot(const Flow& flow, u64 from) {
    u64 to = flow.message.address + flow.at;
    copy(Slot{from}, Plain{to}, slice_len(flow), thread_index() * 16, SLICE_UNIT_BYTES);
}

// What a rank has for itself: the n-th that it sends is the n-th that it receives.
DEVICE void copy_own(const PairCall& call) {
    const PairParameters& p = call.p;
    u64 first = call.channel * SLICE_UNIT_BYTES + thread_index() * 16, step = p.slot_channels * SLICE_UNIT_BYTES;
    for (u32 i = 0; i < p.send_long_count[p.rank]; i++) {
        const Message& from = p.messages[p.send_first[p.rank] + i];
        copy(Plain{from.address}, Plain{p.messages[p.receive_first[p.rank] + i].address}, from.bytes, first, step);
    }
}

// What a block can do next.
struct Ready {
    bool fills;
    bool reads;
    bool is_given_up;
};

// Waits until there is something to do, for all threads of the block.
DEVICE Ready await_either(PairCall& call, u32 peer, bool sends, u64 sent, bool receives, const Flow& received, u64& freed) {
    const PairParameters& p = call.p;
    Ready ready = {false, false, false};
    if (thread_index() == 0) {
        Wait wait = {0, 0};
        do {
            // What is known to be free is not asked for.
            if (sends && freed + SLOTS <= sent) freed = load_acquire(freed_word(call, p.rank, peer));
            ready.fills = sends && freed + SLOTS > sent;
            ready.reads = receives && load_acquire(filled_word(call, p.rank, peer)) > received.count;
        } while (!ready.fills && !ready.reads && goes_on_with(wait, call, peer, receives, received.next - 1));
        if (ready.reads && received.begins) {
            u64 length = load_word(length_word(call, p.rank, peer, received.count));
            if (length != received.message.bytes) refuse(call, peer, received.next - 1, (u32)length);
        }
    }
    ready.is_given_up = !all_of_block(!call.is_given_up);
    ready.fills = !all_of_block(!ready.fills);
    ready.reads = !all_of_block(!ready.reads);
    return ready;
}

// As `has_slice`, of what is sent.
DEVICE bool has_slice_for(const PairCall& call, u32 peer, Flow& sent) {
    bool sends = has_slice(call, sent);
    if (sends && sent.begins && call.channel == 0 && thread_index() == 0) note(call, peer, sent.next - 1);
    return sends;
}

DEVICE void exchange_slices(PairCall& call, u32 peer) {
    const PairParameters& p = call.p;
    u64 counters = p.state + STATE_SLOTS + ((u64)call.channel * RANKS_MAX + peer) * 16;
    Flow sent = flow_of(p.send_first[peer] + p.send_count[peer], p.send_long_count[peer], counters);
    Flow received = flow_of(p.receive_first[peer] + p.receive_count[peer], p.receive_long_count[peer], counters + 8);
    u64 freed = 0;
    bool sends = has_slice_for(call, peer, sent), receives = has_slice(call, received);
    while (sends || receives) {
        Ready ready = await_either(call, peer, sends, sent.count, receives, received, freed);
        if (ready.is_given_up) break;
        if (ready.fills) fill_slot(sent, slot_of(call, peer, p.rank, sent.count));
        if (ready.reads) read_slot(received, slot_of(call, p.rank, peer, received.count));
        block_barrier();
        if (ready.fills) {
            if (thread_index() == 0) {
                store_word(length_word(call, peer, p.rank, sent.count), sent.message.bytes);
                store_release(filled_word(call, peer, p.rank), sent.count + 1);
            }
            go_on(call, sent);
            sends = has_slice_for(call, peer, sent);
        }
        if (ready.reads) {
            if (thread_index() == 0) store_word(freed_word(call, peer, p.rank), received.count + 1);
            go_on(call, received);
            receives = has_slice(call, received);
        }
    }
    // Nobody changes the counters before all have read them.
    block_barrier();
    if (thread_index() == 0) {
        *(u64*)counters = sent.count;
        *(u64*)(counters + 8) = received.count;
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

DEVICE void pass_long(PairCall& call, u32 peer) {
    const PairParameters& p = call.p;
    if (call.channel >= p.slot_channels) return;
    if (!all_of_block(!load_shared_word(p.state + STATE_FAILED))) return;
    if (p.signature && block_index() == 0 && !greet(call)) return;
    if (peer == p.rank) copy_own(call);
    else exchange_slices(call, peer);
}
