// From each rank to the next, for large vectors: every byte crosses as few links as can be, in whole stores, and at any time
// every rank is written to by one.
//
// A channel has a few slots in the next rank's window. A block puts a slice into a slot and then says how many it has put
// (`put`, in the receiver's window); the receiver takes it, and says how many slots it has read (`taken`, in the sender's).
// Both are counted from call to call. Who says so is one thread, behind a block barrier: what the block's other threads wrote
// is released with it, and what they read has been used.
//
// Of a vector of blocks, a rank's slice of each takes its turn around the ring: first as partial results, which each rank
// adds its own input to, from the owner's successor to the owner; then as result, from the owner on. Along a chain, which is
// a ring that begins or ends at the root, slices of the whole vector go once. So elements are reduced in order of rank from
// the successor of the block's owner, or of the root, and rounded to their type on every hop.
//
// What it must give is what the host's reductions (coll/reduce.rs) give in that order and with that rounding; the tests
// compare bits.
#pragma once
#include "direct.cuh"
#include "two_shot.cuh"

// What a rank does with a slice: what it takes it from, and where it puts it. An address of 0 is none.
struct Hop {
    bool receives;
    bool sends;
    bool completes;
    u64 input;
    u64 output;
    u64 len;
};

// What a channel has put into slots and taken out of them, since the windows were made.
struct Traffic {
    u64 put;
    u64 taken;
    // What the next rank is known to have taken.
    u64 freed;
    // Whether this thread's neighbour is known to be in the same call.
    bool is_greeted;
};

DEVICE u32 next_rank(const Parameters& p) { return turn(p, 1); }
DEVICE u32 previous_rank(const Parameters& p) { return turn(p, p.ranks - 1); }

DEVICE u64 slot(const Call& call, u32 at, u64 number) {
    u64 index = (u64)call.channel * RING_SLOTS + number % RING_SLOTS;
    return call.p.window[at] + RING_DATA + index * RING_SLOT_BYTES;
}

// Where a channel's slots are said to be full, and where they are said to be free.
DEVICE u64 put_word(const Call& call, u32 at) { return call.p.window[at] + RING_WORDS + (u64)call.channel * 256; }
DEVICE u64 taken_word(const Call& call, u32 at) { return put_word(call, at) + 128; }

// The hop of one slice: `at` bytes into each block, or into the vector.
DEVICE Hop hop_of(const Parameters& p, u32 step, u64 at) {
    Hop hop = {step > 0, step + 1 < p.hops, false, 0, 0, 0};
    i64 left;
    if (p.route == ROUTE_FROM_ROOT || p.route == ROUTE_TO_ROOT) {
        // To the root its successor is first, from the root it is last.
        u32 distance = p.rank + p.ranks - p.root - (p.route == ROUTE_TO_ROOT ? 1 : 0);
        if (distance >= p.ranks) distance -= p.ranks;
        bool is_first = distance == 0, is_last = distance == p.ranks - 1;
        hop.receives = !is_first;
        hop.sends = !is_last;
        hop.completes = is_last;
        if (is_first || p.route == ROUTE_TO_ROOT) hop.input = p.input + at;
        if (is_last || p.route == ROUTE_FROM_ROOT) hop.output = p.output + at;
        left = (i64)p.total_bytes - (i64)at;
    } else {
        // How many ranks behind this one the block's owner is.
        u32 behind = p.route == ROUTE_GATHER ? step : step + 1;
        u32 owner = turn(p, (2 * p.ranks - behind) % p.ranks);
        u32 last_reduced = p.route == ROUTE_GATHER ? 0 : p.ranks - 1;
        if (step <= last_reduced) hop.input = p.input + owner * p.input_stride + at;
        if (step >= last_reduced) hop.output = p.output + owner * p.output_stride + at;
        hop.completes = step == last_reduced;
        left = left_of(p, owner, at);
    }
    hop.len = left <= 0 ? 0 : (u64)left < p.slice_bytes ? (u64)left : p.slice_bytes;
    return hop;
}

template <class T> DEVICE u64 reduced8(u64 partial, u64 own, bool completes, const Parameters& p) {
    Pack<T> pack = Pack<T>::of(partial);
    pack.reduce(Pack<T>::of(own), p.op);
    return pack.bytes(completes ? p.op : OP_SUM, p.ranks);
}

// Moves a slice, sixteen bytes of it per thread at a time.
template <class T> DEVICE void move_slice(const Parameters& p, const Hop& hop, u64 from, u64 to, u64 factor) {
    constexpr u32 AT_ONCE = 4;
    u64 step = (u64)THREADS * 16;
    for (u64 base = thread_index() * 16; base < hop.len; base += AT_ONCE * step) {
        Quad found[AT_ONCE];
        Pair own[AT_ONCE];
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) {
            if (hop.receives && base + i * step < hop.len) found[i] = load_quad(from + base + i * step);
        }
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) {
            u64 at = base + i * step;
            if (hop.input && at < hop.len) own[i] = load16(hop.input + at, (i64)hop.len - (i64)at);
        }
#pragma unroll
        for (u32 i = 0; i < AT_ONCE; i++) {
            u64 at = base + i * step;
            if (at >= hop.len) continue;
            Pair data = own[i];
            if (hop.input && p.op == OP_PRE_MUL_SUM) {
                data = Pair{multiplied<T>(data.lo, factor), multiplied<T>(data.hi, factor)};
            }
            if (hop.receives) {
                Pair partial = {(u64)found[i].y << 32 | found[i].x, (u64)found[i].w << 32 | found[i].z};
                if (hop.input) {
                    data.lo = reduced8<T>(partial.lo, data.lo, hop.completes, p);
                    data.hi = reduced8<T>(partial.hi, data.hi, hop.completes, p);
                } else {
                    data = partial;
                }
            }
            if (hop.sends) {
                Quad quad = {(u32)data.lo, (u32)(data.lo >> 32), (u32)data.hi, (u32)(data.hi >> 32)};
                store_quad(to + at, quad);
            }
            if (hop.output) store16(hop.output + at, data, (i64)hop.len - (i64)at);
        }
    }
}

// Who has not begun this call, and `neighbour` if all have: who waits for a neighbour may wait for another one behind it.
DEVICE u32 missing_peer(const Call& call, u32 neighbour) {
    for (u32 peer = 0; peer < call.p.ranks; peer++) {
        if (peer != call.p.rank && (u32)load_word(notice(call, GREETINGS, call.p.rank, peer)) != call.number) return peer;
    }
    return neighbour;
}

// As `goes_on`, and names who is missing.
DEVICE bool ring_goes_on(Wait& wait, Call& call, u32 neighbour) {
    u32 peer = (wait.polls + 1) % 4096 == 0 ? missing_peer(call, neighbour) : neighbour;
    return goes_on(wait, call, peer);
}

// Waits for the slice that is next, and for a place for it. Whether both are there, for all threads of the block.
DEVICE bool await_turn(Call& call, const Hop& hop, Traffic& traffic) {
    const Parameters& p = call.p;
    // Who waits for a neighbour hears first what that calls: of something else nothing would come.
    if (thread_index() == 0 && hop.receives) {
        if (!traffic.is_greeted) await_greeting(call, previous_rank(p));
        traffic.is_greeted = true;
        Wait wait = {0, 0};
        while (load_acquire(put_word(call, p.rank)) <= traffic.taken) {
            if (!ring_goes_on(wait, call, previous_rank(p))) break;
        }
    }
    // By a thread of another warp, at the same time.
    if (thread_index() == WARP && hop.sends && traffic.freed + RING_SLOTS <= traffic.put) {
        if (!traffic.is_greeted) await_greeting(call, next_rank(p));
        traffic.is_greeted = true;
        Wait wait = {0, 0};
        while (traffic.freed + RING_SLOTS <= traffic.put) {
            traffic.freed = load_acquire(taken_word(call, p.rank));
            if (!ring_goes_on(wait, call, next_rank(p))) break;
        }
    }
    return all_of_block(!call.is_given_up);
}

template <class T> DEVICE void ring(const Parameters& p) {
    Call call = {p, 0, 0, false};
    if (!begin(call)) return;
    greet_peers(call);
    bool goes_well = true;
    u64 counters = p.state + STATE_RINGS + (u64)call.channel * 16;
    Traffic traffic = {*(const u64*)counters, *(const u64*)(counters + 8), 0, false};
    u64 factor = p.op == OP_PRE_MUL_SUM ? factor_of<T>(p) : 0;
    u64 step = (u64)block_count() * p.slice_bytes;
    for (u64 at = (u64)call.channel * p.slice_bytes; at < p.block_bytes && goes_well; at += step) {
        for (u32 number = 0; number < p.hops; number++) {
            Hop hop = hop_of(p, number, at);
            goes_well = await_turn(call, hop, traffic);
            if (!goes_well) break;
            u64 to = slot(call, next_rank(p), traffic.put);
            move_slice<T>(p, hop, slot(call, p.rank, traffic.taken), to, factor);
            block_barrier();
            traffic.put += hop.sends;
            traffic.taken += hop.receives;
            if (thread_index() == 0 && hop.sends) store_release(put_word(call, next_rank(p)), traffic.put);
            if (thread_index() == 0 && hop.receives) store_word(taken_word(call, previous_rank(p)), traffic.taken);
        }
    }
    await_greetings(call);
    block_barrier();
    if (thread_index() == 0) {
        *(u64*)counters = traffic.put;
        *(u64*)(counters + 8) = traffic.taken;
    }
    finish(call);
}
