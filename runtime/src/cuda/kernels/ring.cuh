// From each rank to the next, for large vectors: every byte crosses as few links as can be, in whole stores, and at any time
// every rank is written to by one.
//
// A channel has a few slots in the next rank's window. A block puts a slice into a slot and then says how many it has put
// (`put`, in the receiver's window); the receiver takes it, and says how many slots it has read (`taken`, in the sender's).
// Both are counted from call to call.
//
// Most warps only move. One more waits for slices and for free slots, ahead of those that move, and another says what they have put and
// taken, behind them: to release what was written takes a way to the next GPU and back, and to hear of others one to the memory,
// and nobody who moves waits for either. Warps tell each other how far they are in words of their block. What a warp wrote is released
// by who has seen its word, and what it read has been used.
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
};

DEVICE u32 next_rank(const Parameters& p) { return turn(p, 1); }
DEVICE u32 previous_rank(const Parameters& p) { return turn(p, p.ranks - 1); }

DEVICE u64 slot(const Call& call, u32 at, u64 number) {
    u64 index = (u64)call.channel * RING_SLOTS + number % RING_SLOTS;
    return call.p.window[at] + RING_DATA + index * call.p.slot_bytes;
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

// How many times sixteen bytes a thread has under way.
constexpr u32 RING_AT_ONCE = 4;
// What the threads that move do at once.
constexpr u64 RING_STEP = (u64)THREADS * 16;

// What this rank adds to a partial result, which is rounded to its type.
template <class T> DEVICE u64 reduced(u64 partial, u64 own, u32 op, u32 ranks) {
    Pack<T> pack = Pack<T>::of(partial);
    pack.reduce(Pack<T>::of(own), op);
    return pack.bytes(op, ranks);
}

template <class T> DEVICE void reduce_by(Pair* own, const Quad* partial, u32 op, u32 ranks) {
#pragma unroll
    for (u32 i = 0; i < RING_AT_ONCE; i++) {
        Pair other = pair_of(partial[i]);
        own[i] = Pair{reduced<T>(other.lo, own[i].lo, op, ranks), reduced<T>(other.hi, own[i].hi, op, ranks)};
    }
}

// The same, which asks for the operation once and not for every element.
template <class T> DEVICE void reduce_all(Pair* own, const Quad* partial, u32 op, u32 ranks) {
    switch (op) {
    case OP_PROD: return reduce_by<T>(own, partial, OP_PROD, ranks);
    case OP_MIN: return reduce_by<T>(own, partial, OP_MIN, ranks);
    case OP_MAX: return reduce_by<T>(own, partial, OP_MAX, ranks);
    case OP_AVG: return reduce_by<T>(own, partial, OP_AVG, ranks);
    default: return reduce_by<T>(own, partial, OP_SUM, ranks);
    }
}

template <class T> DEVICE Pair multiplied_pair(Pair data, u64 factor) {
    return Pair{multiplied<T>(data.lo, factor), multiplied<T>(data.hi, factor)};
}

// Moves whole steps of a slice whose addresses are aligned: what is asked is the same for all threads, and asked once for many bytes.
template <class T> DEVICE void move_whole(const Parameters& p, const Hop& hop, u64 from, u64 to, u64 factor, u32 op, u64 whole) {
    for (u64 base = 0; base < whole; base += RING_AT_ONCE * RING_STEP) {
        u64 at = base + thread_index() * 16;
        u32 count = (u32)((whole - base) / RING_STEP);
        Quad found[RING_AT_ONCE] = {};
        Pair data[RING_AT_ONCE] = {};
        if (hop.receives) {
#pragma unroll
            for (u32 i = 0; i < RING_AT_ONCE; i++) {
                if (i < count) found[i] = load_quad(from + at + i * RING_STEP);
            }
        }
        if (hop.input) {
#pragma unroll
            for (u32 i = 0; i < RING_AT_ONCE; i++) {
                if (i < count) data[i] = load_whole(hop.input + at + i * RING_STEP);
            }
            if (p.op == OP_PRE_MUL_SUM) {
#pragma unroll
                for (u32 i = 0; i < RING_AT_ONCE; i++) data[i] = multiplied_pair<T>(data[i], factor);
            }
            if (hop.receives) reduce_all<T>(data, found, op, p.ranks);
        } else {
#pragma unroll
            for (u32 i = 0; i < RING_AT_ONCE; i++) data[i] = pair_of(found[i]);
        }
        if (hop.sends) {
#pragma unroll
            for (u32 i = 0; i < RING_AT_ONCE; i++) {
                if (i < count) store_quad(to + at + i * RING_STEP, quad_of(data[i]));
            }
        }
        if (hop.output) {
#pragma unroll
            for (u32 i = 0; i < RING_AT_ONCE; i++) {
                if (i < count) store_whole(hop.output + at + i * RING_STEP, data[i]);
            }
        }
    }
}

// Moves what is left of a slice behind so many bytes, of any length and alignment.
template <class T> DEVICE void move_rest(const Parameters& p, const Hop& hop, u64 from, u64 to, u64 factor, u32 op, u64 whole) {
    for (u64 base = whole + thread_index() * 16; base < hop.len; base += RING_AT_ONCE * RING_STEP) {
        Quad found[RING_AT_ONCE];
        Pair own[RING_AT_ONCE];
#pragma unroll
        for (u32 i = 0; i < RING_AT_ONCE; i++) {
            u64 at = base + i * RING_STEP;
            if (hop.receives && at < hop.len) found[i] = load_quad(from + at);
        }
#pragma unroll
        for (u32 i = 0; i < RING_AT_ONCE; i++) {
            u64 at = base + i * RING_STEP;
            if (hop.input && at < hop.len) own[i] = load16(hop.input + at, (i64)hop.len - (i64)at);
        }
#pragma unroll
        for (u32 i = 0; i < RING_AT_ONCE; i++) {
            u64 at = base + i * RING_STEP;
            if (at >= hop.len) continue;
            Pair data = own[i], partial = pair_of(found[i]);
            if (hop.input && p.op == OP_PRE_MUL_SUM) data = multiplied_pair<T>(data, factor);
            if (hop.receives && !hop.input) data = partial;
            if (hop.receives && hop.input) {
                data = Pair{reduced<T>(partial.lo, data.lo, op, p.ranks), reduced<T>(partial.hi, data.hi, op, p.ranks)};
            }
            if (hop.sends) store_quad(to + at, quad_of(data));
            if (hop.output) store16(hop.output + at, data, (i64)hop.len - (i64)at);
        }
    }
}

// Moves a slice, sixteen bytes of it per thread at a time.
template <class T> DEVICE void move_slice(const Parameters& p, const Hop& hop, u64 from, u64 to, u64 factor) {
    // An average is divided where it is complete.
    u32 op = hop.completes || p.op != OP_AVG ? p.op : OP_SUM;
    u64 whole = (hop.input | hop.output) % 16 == 0 ? hop.len / RING_STEP * RING_STEP : 0;
    move_whole<T>(p, hop, from, to, factor, op, whole);
    if (whole < hop.len) move_rest<T>(p, hop, from, to, factor, op, whole);
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

// How many hops each of the warps that move has done, and for how many there are slices and places.
constexpr u32 MOVED = 0;
constexpr u32 READY = WARPS;
static_assert(READY < BLOCK_WORDS, "each has a word");

// Does something at each hop of a channel's slices, until it says no. It is given how many come before. Two slices take their hops in
// turn: while what one of them waits for is on its way, the other is moved. So a rank does its hop i when its neighbours have done
// theirs of i - 2: what it takes was put then, and for what it puts a slot is free that was taken at i - RING_SLOTS + 2.
static_assert(RING_SLOTS > 2, "else every rank would wait for the next one's same hop");
template <class Act> DEVICE void each_hop(const Call& call, Act act) {
    const Parameters& p = call.p;
    u64 step = (u64)block_count() * p.slice_bytes;
    u32 index = 0;
    for (u64 first = (u64)call.channel * p.slice_bytes; first < p.block_bytes; first += 2 * step) {
        for (u32 number = 0; number < p.hops; number++) {
            for (u64 at = first; at <= first + step && at < p.block_bytes; at += step, index++) {
                if (!act(hop_of(p, number, at), index)) return;
            }
        }
    }
}

DEVICE void count(Traffic& traffic, const Hop& hop) {
    traffic.put += hop.sends;
    traffic.taken += hop.receives;
}

// The part of the warps that move.
template <class T> DEVICE void move_slices(const Call& call, Traffic& traffic) {
    const Parameters& p = call.p;
    u64 factor = p.op == OP_PRE_MUL_SUM ? factor_of<T>(p) : 0;
    each_hop(call, [&](const Hop& hop, u32 index) {
        u32 warp = thread_index() / WARP;
        bool is_first = thread_index() % WARP == 0;
        if (!all_of_warp(await_block_word(READY, index) != NEVER)) {
            if (is_first) store_block_word(MOVED + warp, NEVER);
            return false;
        }
        u64 to = slot(call, next_rank(p), traffic.put);
        move_slice<T>(p, hop, slot(call, p.rank, traffic.taken), to, factor);
        count(traffic, hop);
        warp_barrier();
        if (is_first) store_block_word(MOVED + warp, index + 1);
        return true;
    });
}

// The part of the thread that waits: for each hop's slice, and for a place for it.
DEVICE void await_slices(Call& call, Traffic traffic) {
    const Parameters& p = call.p;
    // What the next rank is known to have taken; and whether neighbours are known to be in the same call.
    u64 freed = 0;
    bool has_previous = false, has_next = false;
    each_hop(call, [&](const Hop& hop, u32 index) {
        // Who waits for a neighbour hears first what that calls: of something else nothing would come.
        if (hop.receives) {
            if (!has_previous) await_greeting(call, previous_rank(p));
            has_previous = true;
            Wait wait = {0, 0};
            while (load_acquire(put_word(call, p.rank)) <= traffic.taken) {
                if (!ring_goes_on(wait, call, previous_rank(p))) break;
            }
        }
        if (hop.sends && freed + RING_SLOTS <= traffic.put) {
            if (!has_next) await_greeting(call, next_rank(p));
            has_next = true;
            Wait wait = {0, 0};
            while (freed + RING_SLOTS <= traffic.put) {
                freed = load_acquire(taken_word(call, p.rank));
                if (!ring_goes_on(wait, call, next_rank(p))) break;
            }
        }
        store_block_word(READY, call.is_given_up ? NEVER : index + 1);
        count(traffic, hop);
        return !call.is_given_up;
    });
}

// The part of the warp that tells the neighbours what was moved. Its lanes look at what one of the others has done each.
DEVICE void tell_of_slices(const Call& call, Traffic traffic) {
    const Parameters& p = call.p;
    u32 lane = thread_index() % WARP;
    each_hop(call, [&](const Hop& hop, u32 index) {
        if (!all_of_warp(await_block_word(MOVED + lane % WARPS, index) != NEVER)) return false;
        warp_barrier();
        count(traffic, hop);
        if (lane != 0) return true;
        if (hop.receives) store_word(taken_word(call, previous_rank(p)), traffic.taken);
        if (hop.sends) store_release(put_word(call, next_rank(p)), traffic.put);
        return true;
    });
}

template <class T> DEVICE void ring(const Parameters& p) {
    Call call = {p, 0, 0, false};
    clear_block_words();
    if (!all_of_block(begin(call))) return;
    greet_peers(call);
    u64 counters = p.state + STATE_RINGS + (u64)call.channel * 16;
    Traffic traffic = {*(const u64*)counters, *(const u64*)(counters + 8)};
    u32 warp = thread_index() / WARP;
    if (warp < WARPS) move_slices<T>(call, traffic);
    else if (thread_index() == THREADS) await_slices(call, traffic);
    else if (warp == WARPS + 1) tell_of_slices(call, traffic);
    await_greetings(call);
    block_barrier();
    if (thread_index() == 0) {
        *(u64*)counters = traffic.put;
        *(u64*)(counters + 8) = traffic.taken;
    }
    finish(call);
}
