// What GPUs of several nodes give each other, through memory of their hosts.
//
// A call moves spans: what is put is passed to the host, what is got comes from it. Both are cut into slices, which channels
// take in turn. A block copies its slice of every span into its channel's part of the outbox, which is the host's memory,
// and posts that it is there, with the number of the host's plan; the host does what the plan says with the other hosts, and
// answers when the channel's part of the inbox has what is got. While it does so for one channel, the others copy. Who only
// puts does not wait for the answer: who posts the next time does, as the channel's words and its part of the outbox are the
// host's until then. What is posted and answered is counted from call to call, so that a call can be captured and run again.
//
// Where the spans that are got are other nodes' parts of a reduction, they are reduced with this node's own, in order of
// node, and rounded once.
#pragma once
#include "direct.cuh"

constexpr u32 RELAY_SPANS = 16;
constexpr u32 RELAY_CHANNELS = 16;
// Of a channel, in the outbox and in the inbox.
constexpr u64 RELAY_SLOT_BYTES = 1 << 20;
// Of a channel, in the words that it has with the host: what it posted, of which plan and slice, and what was answered.
constexpr u64 RELAY_WORDS = 128;
constexpr u64 RELAY_POSTED = 0;
constexpr u64 RELAY_PLAN = 8;
constexpr u64 RELAY_SLICE = 16;
constexpr u64 RELAY_ANSWERED = 64;
// In the relay's own state, behind whether a call has failed: how much each channel has posted, and how much of it is known
// to be answered.
constexpr u64 RELAY_COUNTS = 128;
constexpr u64 RELAY_STATE_BYTES = RELAY_COUNTS + RELAY_CHANNELS * 16;

struct Span {
    u64 address;
    u64 bytes;
};

// A launch. The host's `RelayParameters` has the same layout (relay/parameters.rs), and a test compares the two.
struct RelayParameters {
    u64 outbox;
    u64 inbox;
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
    Span puts[RELAY_SPANS];
    Span gets[RELAY_SPANS];
    // What this rank has for itself, and where it goes; none where it has no length.
    Span copied;
    u64 copied_to;
};

typedef CallOf<RelayParameters> RelayCall;

// Sixteen bytes of this node's input, times its factor where the operation has one.
template <class T> DEVICE Pair load_input(const RelayParameters& p, u64 address, i64 left) {
    Pair data = load16(address, left);
    if (p.op != OP_PRE_MUL_SUM) return data;
    u64 factor = p.factor_at ? load8(p.factor_at, sizeof(T)) : p.factor;
    return Pair{multiplied<T>(data.lo, factor), multiplied<T>(data.hi, factor)};
}

// How much of a span is in a slice.
DEVICE u64 part_of(const RelayParameters& p, const Span& span, u64 at) {
    if (at >= span.bytes) return 0;
    return span.bytes - at < p.slice_bytes ? span.bytes - at : p.slice_bytes;
}

// What a block's threads move at once.
constexpr u64 RELAY_STEP = (u64)THREADS * 16;

// Copies a slice of a span to the host's memory.
template <class T> DEVICE void put_part(const RelayParameters& p, u64 from, u64 to, u64 len) {
    copy(
        len, thread_index() * 16, RELAY_STEP, [&](u64 at, i64 left) { return load_input<T>(p, from + at, left); },
        [=](u64 at, Pair data, i64) { store_quad(to + at, quad_of(data)); });
}

// Copies a slice of a span from the host's memory.
DEVICE void get_part(u64 from, u64 to, u64 len) {
    copy(
        len, thread_index() * 16, RELAY_STEP, [=](u64 at, i64) { return pair_of(load_quad(from + at)); },
        [=](u64 at, Pair data, i64 left) { store16(to + at, data, left); });
}

// Copies a slice within this GPU's memory.
DEVICE void copy_part(u64 from, u64 to, u64 len) { copy_plainly(from, to, len, thread_index() * 16, RELAY_STEP); }

// Reduces a slice of what the nodes gave, this one's among it.
template <class T> DEVICE void reduce_parts(const RelayParameters& p, u64 inbox, u64 at, u64 len) {
    for (u64 base = thread_index() * 16; base < len; base += RELAY_STEP) {
        Pack<T> lo = Pack<T>::of(0), hi = lo;
        for (u32 k = 0; k <= p.get_count; k++) {
            u32 other = k < p.place ? k : k - 1;
            Pair next = k == p.place ? load_input<T>(p, p.own + at + base, (i64)(len - base))
                                     : pair_of(load_quad(inbox + other * p.slice_bytes + base));
            if (k == 0) {
                lo = Pack<T>::of(next.lo);
                hi = Pack<T>::of(next.hi);
            } else {
                lo.reduce(Pack<T>::of(next.lo), p.op);
                hi.reduce(Pack<T>::of(next.hi), p.op);
            }
        }
        Pair result = {lo.bytes(p.op, p.ranks), hi.bytes(p.op, p.ranks)};
        store16(p.gets[0].address + at + base, result, (i64)(len - base));
    }
}

// Waits until the host has answered so many of a channel's posts. All threads of the block agree on whether it has.
DEVICE bool await_answer(RelayCall& call, u64 words, u64 number) {
    if (thread_index() == 0) {
        Wait wait = {0, 0};
        while (load_acquire(words + RELAY_ANSWERED) < number) {
            if (!goes_on(wait, call, call.p.peer)) break;
        }
    }
    return all_of_block(!call.is_given_up);
}

template <class T> DEVICE void relay(const RelayParameters& p) {
    RelayCall call = {p, block_index(), 0, false};
    u64 counters = p.state + RELAY_COUNTS + (u64)call.channel * 16;
    u64 number = *(const u64*)counters, answered = *(const u64*)(counters + 8);
    bool goes_well = all_of_block(!load_shared_word(p.state + STATE_FAILED));
    u64 words = p.words + (u64)call.channel * RELAY_WORDS;
    u64 outbox = p.outbox + (u64)call.channel * RELAY_SLOT_BYTES, inbox = p.inbox + (u64)call.channel * RELAY_SLOT_BYTES;
    for (u64 slice = call.channel; slice < p.slices && goes_well; slice += block_count()) {
        if (answered < number) goes_well = await_answer(call, words, number);
        if (!goes_well) break;
        answered = number;
        u64 at = slice * p.slice_bytes;
        for (u32 i = 0; i < p.put_count; i++) {
            put_part<T>(p, p.puts[i].address + at, outbox + i * p.slice_bytes, part_of(p, p.puts[i], at));
        }
        number++;
        block_barrier();
        if (thread_index() == 0) {
            store_word(words + RELAY_PLAN, p.plan);
            store_word(words + RELAY_SLICE, slice);
            store_release(words + RELAY_POSTED, number);
        }
        // While the host does its part.
        if (at < p.copied.bytes) copy_part(p.copied.address + at, p.copied_to + at, part_of(p, p.copied, at));
        if (!p.get_count) continue;
        goes_well = await_answer(call, words, number);
        if (!goes_well) break;
        answered = number;
        if (p.own) {
            reduce_parts<T>(p, inbox, at, part_of(p, p.gets[0], at));
            continue;
        }
        for (u32 i = 0; i < p.get_count; i++) {
            get_part(inbox + i * p.slice_bytes, p.gets[i].address + at, part_of(p, p.gets[i], at));
        }
    }
    block_barrier();
    if (thread_index() == 0) {
        *(u64*)counters = number;
        *(u64*)(counters + 8) = answered;
    }
}
