// Reading from the ranks' inputs and writing to their outputs where they lie, for buffers that all ranks reach.
//
// Between the greetings, which say that a rank's buffers are ready and where they are, and goodbyes, which say that this rank
// is done with everybody's, a thread takes sixteen bytes from each source, in turn from its own rank on, and puts the result
// at each destination. Elements are reduced in that order: it depends on the rank alone whose block it is.
//
// What it must give is what the host's reductions (coll/reduce.rs) give over the ranks in that order; the tests compare bits.
#pragma once
#include "element.cuh"
#include "protocol.cuh"

// Sixteen bytes of memory that is aligned so.
DEVICE Pair load_whole(u64 address) {
#ifdef EMULATED
    return Pair{*(const u64*)aligned(address), *(const u64*)(address + 8)};
#else
    // Said to be global memory: loads of which that is not known take longer.
    Pair data;
    asm volatile("ld.global.v2.u64 {%0, %1}, [%2];" : "=l"(data.lo), "=l"(data.hi) : "l"(address) : "memory");
    return data;
#endif
}
DEVICE void store_whole(u64 address, Pair data) {
#ifdef EMULATED
    *(u64*)aligned(address) = data.lo;
    *(u64*)(address + 8) = data.hi;
#else
    asm volatile("st.global.v2.u64 [%0], {%1, %2};" ::"l"(address), "l"(data.lo), "l"(data.hi) : "memory");
#endif
}

// Up to as many of memory of any alignment.
DEVICE Pair load16(u64 address, i64 left) {
    if (left >= 16 && address % 16 == 0) return load_whole(address);
    return Pair{load8(address, left), load8(address + 8, left - 8)};
}
DEVICE void store16(u64 address, Pair data, i64 left) {
    if (left >= 16 && address % 16 == 0) return store_whole(address, data);
    store8(address, data.lo, left);
    store8(address + 8, data.hi, left - 8);
}

DEVICE Pair pair_of(Quad quad) { return {(u64)quad.y << 32 | quad.x, (u64)quad.w << 32 | quad.z}; }
DEVICE Quad quad_of(Pair pair) { return {(u32)pair.lo, (u32)(pair.lo >> 32), (u32)pair.hi, (u32)(pair.hi >> 32)}; }

// Where a copy comes from or goes: memory of any alignment, of this GPU or of one whose memory is mapped.
struct Plain {
    u64 start;
    DEVICE bool is_aligned() const { return start % 16 == 0; }
    DEVICE Pair load_whole(u64 at) const { return ::load_whole(start + at); }
    DEVICE Pair load(u64 at, i64 left) const { return load16(start + at, left); }
    DEVICE void store_whole(u64 at, Pair data) const { ::store_whole(start + at, data); }
    DEVICE void store(u64 at, Pair data, i64 left) const { store16(start + at, data, left); }
};

// The same: a slot, which begins where sixteen bytes do and ends behind such, and which somebody else looks at.
struct Slot {
    u64 start;
    DEVICE bool is_aligned() const { return true; }
    DEVICE Pair load_whole(u64 at) const { return pair_of(load_quad(start + at)); }
    DEVICE Pair load(u64 at, i64) const { return load_whole(at); }
    DEVICE void store_whole(u64 at, Pair data) const { store_quad(start + at, quad_of(data)); }
    DEVICE void store(u64 at, Pair data, i64) const { store_whole(at, data); }
};

// Copies `len` bytes, of which this thread takes sixteen at `first` and at every `step` behind it. Several loads stand in front of
// their stores, so that they wait for memory at the same time. Of what is aligned, and there whole, that is asked once for all of them.
template <class From, class To> DEVICE void copy(From from, To to, u64 len, u64 first, u64 step) {
    constexpr u32 AT_ONCE = 4;
    u64 whole = from.is_aligned() && to.is_aligned() ? len : 0;
    u64 base = first;
    for (; base + (AT_ONCE - 1) * step + 16 <= whole; base += AT_ONCE * step) {
        Pair found[AT_ONCE];
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) found[i] = from.load_whole(base + i * step);
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) to.store_whole(base + i * step, found[i]);
    }
    for (; base < len; base += AT_ONCE * step) {
        Pair found[AT_ONCE];
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) {
            u64 at = base + i * step;
            if (at < len) found[i] = from.load(at, (i64)(len - at));
        }
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) {
            u64 at = base + i * step;
            if (at < len) to.store(at, found[i], (i64)(len - at));
        }
    }
}

DEVICE u64 place(const Call& call, u32 at, u32 from) {
    return call.p.window[at] + PLACES + (((u64)call.channel * 2 + (call.number & 1)) * RANKS_MAX + from) * 16;
}

// Where a rank's input is, and behind it the output, for all threads of the block to read.
DEVICE u64 found_place(const Call& call, u32 rank) {
    return call.p.state + STATE_PLACES + ((u64)call.channel * RANKS_MAX + rank) * 16;
}

// Tells the peers where this rank's buffers are, and learns where theirs are.
DEVICE void exchange_places(Call& call) {
    const Parameters& p = call.p;
    u32 peer = thread_index();
    if (peer < p.ranks && peer != p.rank) {
        store_word(place(call, peer, p.rank), p.input_offset);
        store_word(place(call, peer, p.rank) + 8, p.output_offset);
    }
    tell_peers(call, GREETINGS);
    await_peers(call, GREETINGS);
    if (peer < p.ranks) {
        bool is_own = peer == p.rank;
        u64 input = is_own ? p.input_offset : load_word(place(call, p.rank, peer));
        u64 output = is_own ? p.output_offset : load_word(place(call, p.rank, peer) + 8);
        *(u64*)found_place(call, peer) = p.peer_input[peer] + input;
        *(u64*)(found_place(call, peer) + 8) = p.peer_output[peer] + output;
    }
    block_barrier();
}

// Copies what this thread has put into its own output to the peers' outputs.
DEVICE void pass_on(const Call& call, const u64* outputs, u64 first, u64 step) {
    const Parameters& p = call.p;
    constexpr u32 AT_ONCE = 4;
    for (u64 base = first; base < p.block_bytes; base += AT_ONCE * step) {
        Pair found[AT_ONCE];
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) {
            u64 at = base + i * step;
            if (at < p.block_bytes) found[i] = load16(outputs[0] + at, (i64)p.block_bytes - (i64)at);
        }
#pragma unroll
        for (u32 k = 1; k < RANKS_MAX; k++) {
            if (k >= p.ranks || !has(p.forward, turn(p, k))) continue;
#pragma unroll
            for (u32 i = 0; i < AT_ONCE; i++) {
                u64 at = base + i * step;
                if (at < p.block_bytes) store16(outputs[k] + at, found[i], (i64)p.block_bytes - (i64)at);
            }
        }
    }
}

// Copies a block of this rank's input to each rank that gets one, to one rank after the other, each rank beginning with
// itself: at any time every rank is written to by one.
DEVICE void copy_apart(const Call& call, u64 first, u64 step) {
    const Parameters& p = call.p;
    u64 input = *(const u64*)found_place(call, p.rank);
#pragma unroll 1
    for (u32 k = 0; k < p.ranks; k++) {
        u32 peer = turn(p, k);
        if (!has(p.forward, peer)) continue;
        u64 output = *(const u64*)(found_place(call, peer) + 8);
        copy(Plain{input + peer * p.input_stride}, Plain{output + p.rank * p.output_stride}, p.block_bytes, first, step);
    }
}

template <class T> DEVICE void direct(const Parameters& p) {
    Call call = {p, 0, 0, false};
    if (!begin(call)) return;
    exchange_places(call);
    if (!load_shared_word(p.state + STATE_FAILED)) {
        u64 inputs[RANKS_MAX], outputs[RANKS_MAX];
#pragma unroll
        for (u32 k = 0; k < RANKS_MAX; k++) {
            if (k >= p.ranks) continue;
            inputs[k] = *(const u64*)found_place(call, turn(p, k));
            outputs[k] = *(const u64*)(found_place(call, turn(p, k)) + 8);
        }
        u64 step = (u64)block_count() * THREADS * 16;
        u64 first = ((u64)call.channel * THREADS + thread_index()) * 16;
        bool is_apart = Pack<T>::IS_MOVED_ONLY && p.apart;
        if (is_apart) copy_apart(call, first, step);
        // All ranks reading and writing at the same time is slower than all reading, then all writing: 4 H200 moved 301
        // and 334 GB/s. What is only copied, or goes to one rank, has nothing to gain.
        bool is_shared = has(p.forward, p.rank) && (p.forward & (p.forward - 1)) && (p.receive & (p.receive - 1));
        for (u64 at = first; at < p.block_bytes && !is_apart; at += step) {
            i64 left = (i64)p.block_bytes - (i64)at;
            Pair found[RANKS_MAX];
#pragma unroll
            for (u32 k = 0; k < RANKS_MAX; k++) {
                if (k < p.ranks && has(p.receive, turn(p, k))) found[k] = load16(inputs[k] + at, left);
            }
            Pack<T> lo = Pack<T>::of(0), hi = lo;
            bool is_first = true;
#pragma unroll
            for (u32 k = 0; k < RANKS_MAX; k++) {
                if (k >= p.ranks || !has(p.receive, turn(p, k))) continue;
                if (is_first) {
                    lo = Pack<T>::of(found[k].lo);
                    hi = Pack<T>::of(found[k].hi);
                } else {
                    lo.reduce(Pack<T>::of(found[k].lo), p.op);
                    hi.reduce(Pack<T>::of(found[k].hi), p.op);
                }
                is_first = false;
            }
            Pair result = {lo.bytes(p.op, p.ranks), hi.bytes(p.op, p.ranks)};
#pragma unroll
            for (u32 k = 0; k < RANKS_MAX; k++) {
                bool is_destination = k < p.ranks && has(p.forward, turn(p, k));
                if (is_destination && (k == 0 || !is_shared)) store16(outputs[k] + at, result, left);
            }
        }
        if (is_shared && !is_apart) pass_on(call, outputs, first, step);
    }
    // What each thread wrote comes before its block's goodbye, which releases it with what its own thread wrote.
    block_barrier();
    tell_peers(call, GOODBYES);
    await_peers(call, GOODBYES);
    block_barrier();
    finish(call);
}
