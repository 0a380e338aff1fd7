// What GPUs of several nodes give each other, through memory of their hosts or read by cards.
//
// A call moves spans: what is put is passed to the host, what is got comes from it. Both are cut into slices, which lanes and their
// channels take in turn. A block copies its slice of every span into its channel's part of the outbox, and posts that it is there,
// with the number of the host's plan; the host does what the plan says with the other hosts, and answers when the channel's part of
// the inbox has what is got. While it does so for one channel, the others copy. Who only puts does not wait for the answer: who puts
// into the outbox the next time does. Short spans go through cells instead.
//
// Where the spans that are got are other nodes' parts of a reduction, they are reduced with this node's own, in order of
// node, and rounded once.
#pragma once
#include "short_relay.cuh"

// Sixteen bytes of this node's input, times its factor where the operation has one.
template <class T> DEVICE Pair load_input(const RelayParameters& p, u64 address, i64 left) {
    Pair data = load16(address, left);
    if (p.op != OP_PRE_MUL_SUM) return data;
    u64 factor = p.factor_at ? load8(p.factor_at, sizeof(T)) : p.factor;
    return Pair{multiplied<T>(data.lo, factor), multiplied<T>(data.hi, factor)};
}

// What a block's threads move at once.
constexpr u64 RELAY_STEP = (u64)THREADS * 16;

// A span of this node's input, times its factor.
template <class T> struct MultipliedInput {
    const RelayParameters& p;
    u64 start;
    DEVICE bool is_aligned() const { return false; }
    DEVICE Pair load_whole(u64 at) const { return load(at, 16); }
    DEVICE Pair load(u64 at, i64 left) const { return load_input<T>(p, start + at, left); }
};

// Copies a slice of a span to the host's memory.
template <class T> DEVICE void put_part(const RelayParameters& p, u64 from, u64 to, u64 len) {
    if (Pack<T>::IS_MOVED_ONLY || p.op != OP_PRE_MUL_SUM) copy(Plain{from}, Slot{to}, len, thread_index() * 16, RELAY_STEP);
    else copy(MultipliedInput<T>{p, from}, Slot{to}, len, thread_index() * 16, RELAY_STEP);
}

// Copies a slice of a span from the host's memory.
DEVICE void get_part(u64 from, u64 to, u64 len) {
    copy(Slot{from}, Plain{to}, len, thread_index() * 16, RELAY_STEP);
}

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

template <class T> DEVICE void relay(const RelayParameters& p) {
    RelayStart start = begin_transfer(p);
    RelayCall call = {p, start.counts.channel, 0, false};
    // `told` is what the first thread knows of the answers, and `answered` what all threads do.
    u64 number = start.counts.number, answered = start.counts.answered, told = answered;
    bool goes_well = all_of_block(start.goes_well);
    u64 words = p.words + (u64)call.channel * RELAY_WORDS;
    u64 outbox = p.outbox + (u64)call.channel * RELAY_SLOT_BYTES, inbox = p.inbox + (u64)call.channel * RELAY_SLOT_BYTES;
    for (u64 slice = block_index(); slice < p.slices && goes_well; slice += block_count()) {
        u64 at = slice * p.slice_bytes;
        bool puts_long = has_long(p.puts, p.put_count, at);
        // The outbox is the host's until its last answer, a round's words and cells until that of the round which had them before.
        number++;
        u64 wanted = puts_long ? number - 1 : number < RELAY_ROUNDS ? 0 : number - RELAY_ROUNDS;
        if (answered < wanted) {
            goes_well = await_answer(call, 0, words, wanted, told);
            if (!goes_well) break;
            answered = wanted;
        }
        if (slice == 0) put_cells<T>(call, number);
        for (u32 i = 0; puts_long && i < p.put_count; i++) {
            if (is_short(p.puts[i])) continue;
            put_part<T>(p, p.puts[i].address + at, outbox + i * p.slice_bytes, part_of(p, p.puts[i], at));
        }
        block_barrier();
        if (thread_index() == 0) post(words, number, p.plan, slice, puts_long);
        // While the host does its part.
        if (at < p.copied.bytes) copy_part(p.copied.address + at, p.copied_to + at, part_of(p, p.copied, at));
        if (has_long(p.gets, p.get_count, at)) {
            goes_well = await_answer(call, 0, words, number, told);
            if (!goes_well) break;
            answered = number;
            if (p.own) {
                reduce_parts<T>(p, inbox, at, part_of(p, p.gets[0], at));
                continue;
            }
            for (u32 i = 0; i < p.get_count; i++) {
                if (is_short(p.gets[i])) continue;
                get_part(inbox + i * p.slice_bytes, p.gets[i].address + at, part_of(p, p.gets[i], at));
            }
        }
        if (slice != 0 || !p.get_count) continue;
        if (!p.own) get_cells(call, number);
        else if (is_short(p.gets[0])) reduce_cells<T>(call, number);
        goes_well = all_of_block(!call.is_given_up);
    }
    block_barrier();
    if (thread_index() == 0) {
        u64 own = p.state + RELAY_COUNTS + (u64)call.channel * 16;
        *(u64*)own = number;
        *(u64*)(own + 8) = told;
        // When the last block is done, none of them asks how many there were. To be told so takes a way to the memory and back.
        bool is_last = p.goes_one_way && block_count() == 1;
        if (p.goes_one_way && !is_last && add(p.state + RELAY_BLOCKS_DONE, 1) + 1 == block_count()) {
            store_shared_word(p.state + RELAY_BLOCKS_DONE, 0);
            is_last = true;
        }
        if (is_last) *(u64*)(p.state + RELAY_TRANSFERS) = start.transfers + 1;
    }
}
