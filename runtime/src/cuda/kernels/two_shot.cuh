// Two exchanges, for what is too much to send to everybody: a rank's block goes to that rank, which makes the result of it
// and passes that on.
//
// A line is 128 bytes: 120 bytes of data and the round's number behind them. Eight lanes of a warp store it at once, and it
// arrives whole, so that a number that is right stands beside data that is right. A warp sends four lines to each peer
// in a round, 480 bytes of each rank's block, and talks with the same warp of the peers and with nobody else; it
// counts its rounds, from call to call.
//
// In every round a warp hears from every peer, in one exchange or the other. Who is in round k therefore knows that the
// peers have begun round k - 1, and are done with the lines of k - 2: two parities are enough. Elements are reduced in
// order of rank.
//
// What it must give is what the host's reductions (coll/reduce.rs) give over the ranks in order; the tests compare bits.
#pragma once
#include "element.cuh"
#include "protocol.cuh"

constexpr u32 ROUND_BYTES = 480;

// A lane's part of a round: sixteen bytes, of which a line's last lane has eight.
struct Lane {
    u64 at;
    bool is_last;
    u64 line;
};

DEVICE u64 line(const Call& call, const Lane& lane, u64 round, u32 exchange, u32 at, u32 from) {
    u32 warp = thread_index() / WARP;
    u64 index = (((u64)call.channel * WARPS + warp) * 2 + exchange) * 2 + (round & 1);
    return call.p.window[at] + TWO_SHOT_LINES + ((index * RANKS_MAX + from) * WARP) * 16 + lane.line;
}

DEVICE Pair load_part(u64 address, const Lane& lane, i64 left) {
    Pair data;
    data.lo = load8(address, left);
    data.hi = lane.is_last ? 0 : load8(address + 8, left - 8);
    return data;
}

DEVICE void store_part(u64 address, const Lane& lane, Pair data, i64 left) {
    store8(address, data.lo, left);
    if (!lane.is_last) store8(address + 8, data.hi, left - 8);
}

DEVICE void send_line(u64 address, const Lane& lane, Pair data, u64 round) {
    store_pair(address, Pair{data.lo, lane.is_last ? round : data.hi});
}

// What all lanes of a warp have from a peer; `found` is a first look.
DEVICE Pair await_line(Call& call, u64 address, Pair found, const Lane& lane, u64 round, u32 peer) {
    Wait wait = {0, 0};
    while (!all_of_warp(!lane.is_last || found.hi == round)) {
        // One lane that gives up takes the warp with it: the others would wait without it.
        if (!all_of_warp(goes_on(wait, call, peer))) {
            call.is_given_up = true;
            break;
        }
        found = load_pair(address);
    }
    return found;
}

// Which block is a rank's. The root may have none: then it sends a vector once, or gets it once, and not its own part of it as
// often as there are others besides.
DEVICE u32 block_of(const Parameters& p, u32 rank) {
    bool is_root_without = p.route == ROUTE_FROM_ROOT || p.route == ROUTE_TO_ROOT;
    return is_root_without && rank > p.root ? rank - 1 : rank;
}

// How much of a rank's block there is behind an offset.
DEVICE i64 left_of(const Parameters& p, u32 rank, u64 at) {
    u64 start = block_of(p, rank) * p.block_bytes;
    if (start >= p.total_bytes) return 0;
    u64 len = p.total_bytes - start < p.block_bytes ? p.total_bytes - start : p.block_bytes;
    return (i64)len - (i64)at;
}

// The rest of a round in which blocks are only moved. Who gets lines from a rank sends it lines, empty ones if need be, so
// that what is said above of parities holds between the two; ranks that exchange none write nothing to each other.
template <u32 RANKS> DEVICE void store_apart(Call& call, const Lane& lane, u64 round, Pair own, const Pair* parts) {
    const Parameters& p = call.p;
    u32 ranks = ranks_of<RANKS>(p);
#pragma unroll
    for (u32 k = 1; k < MOST<RANKS>; k++) {
        if (k >= ranks || !has(p.forward, turn<RANKS>(p, k))) continue;
        send_line(line(call, lane, round, 0, turn<RANKS>(p, k), p.rank), lane, Pair{0, 0}, round);
    }
    if (p.keep) {
        store_part(p.output + p.rank * p.output_stride + lane.at, lane, own, left_of(p, p.rank, lane.at));
    }
#pragma unroll
    for (u32 from = 0; from < MOST<RANKS>; from++) {
        if (from >= ranks || from == p.rank || !has(p.receive, from)) continue;
        Pair data = await_line(call, line(call, lane, round, 0, p.rank, from), parts[from], lane, round, from);
        if (has(p.collect, from)) {
            store_part(p.output + from * p.output_stride + lane.at, lane, data, left_of(p, from, lane.at));
        }
    }
}

// The whole of a call that has begun.
template <class T, u32 RANKS> DEVICE void exchange_twice_among(Call& call) {
    const Parameters& p = call.p;
    u32 ranks = ranks_of<RANKS>(p);
    greet_peers(call);
    u32 warp = thread_index() / WARP, index = thread_index() % WARP;
    Lane lane = {0, index % 8 == 7, index * 16};
    u64 counter = p.state + STATE_ROUNDS + ((u64)call.channel * WARPS + warp) * 8;
    u64 round = *(const u64*)counter;
    u64 step = (u64)block_count() * WARPS * ROUND_BYTES;
    u64 first = ((u64)call.channel * WARPS + warp) * ROUND_BYTES;
    for (u64 base = first; base < p.block_bytes; base += step) {
        round++;
        lane.at = base + index / 8 * 120 + index % 8 * 16;
        i64 left = left_of(p, p.rank, lane.at);
        // Loads stand together in front of what needs them, so that they wait for memory at the same time.
        Pair parts[MOST<RANKS>];
        Pair own = {0, 0};
        if (has(p.receive, p.rank)) own = load_part(p.input + block_of(p, p.rank) * p.input_stride + lane.at, lane, left);
#pragma unroll
        for (u32 k = 1; k < MOST<RANKS>; k++) {
            if (k >= ranks || !has(p.send, turn<RANKS>(p, k))) continue;
            u32 peer = turn<RANKS>(p, k);
            parts[k] = load_part(p.input + block_of(p, peer) * p.input_stride + lane.at, lane, left_of(p, peer, lane.at));
        }
        if (p.op == OP_PRE_MUL_SUM) {
            u64 factor = factor_of<T>(p);
            own = Pair{multiplied<T>(own.lo, factor), multiplied<T>(own.hi, factor)};
#pragma unroll
            for (u32 k = 1; k < MOST<RANKS>; k++) {
                if (k >= ranks || !has(p.send, turn<RANKS>(p, k))) continue;
                parts[k] = Pair{multiplied<T>(parts[k].lo, factor), multiplied<T>(parts[k].hi, factor)};
            }
        }
#pragma unroll
        for (u32 k = 1; k < MOST<RANKS>; k++) {
            if (k >= ranks || !has(p.send, turn<RANKS>(p, k))) continue;
            send_line(line(call, lane, round, 0, turn<RANKS>(p, k), p.rank), lane, parts[k], round);
        }
#pragma unroll
        for (u32 from = 0; from < MOST<RANKS>; from++) {
            if (from >= ranks || from == p.rank || !has(p.receive, from)) continue;
            parts[from] = load_pair(line(call, lane, round, 0, p.rank, from));
        }
        if (Pack<T>::IS_MOVED_ONLY && p.apart) {
            store_apart<RANKS>(call, lane, round, own, parts);
            if (!all_of_warp(!call.is_given_up)) break;
            continue;
        }
        Pack<T> lo = Pack<T>::of(0), hi = lo;
        bool is_first = true;
#pragma unroll
        for (u32 from = 0; from < MOST<RANKS>; from++) {
            if (from >= ranks || !has(p.receive, from)) continue;
            Pair next = own;
            if (from != p.rank) {
                next = await_line(call, line(call, lane, round, 0, p.rank, from), parts[from], lane, round, from);
            }
            if (is_first) {
                lo = Pack<T>::of(next.lo);
                hi = Pack<T>::of(next.hi);
            } else {
                lo.reduce(Pack<T>::of(next.lo), p.op);
                hi.reduce(Pack<T>::of(next.hi), p.op);
            }
            is_first = false;
        }
        Pair result = {lo.bytes(p.op, ranks), hi.bytes(p.op, ranks)};
#pragma unroll
        for (u32 k = 1; k < MOST<RANKS>; k++) {
            if (k >= ranks || !has(p.forward, turn<RANKS>(p, k))) continue;
            send_line(line(call, lane, round, 1, turn<RANKS>(p, k), p.rank), lane, result, round);
        }
        if (p.keep) store_part(p.output + block_of(p, p.rank) * p.output_stride + lane.at, lane, result, left);
#pragma unroll
        for (u32 k = 1; k < MOST<RANKS>; k++) {
            if (k >= ranks || !has(p.collect, turn<RANKS>(p, k))) continue;
            parts[k] = load_pair(line(call, lane, round, 1, p.rank, turn<RANKS>(p, k)));
        }
#pragma unroll
        for (u32 k = 1; k < MOST<RANKS>; k++) {
            if (k >= ranks || !has(p.collect, turn<RANKS>(p, k))) continue;
            u32 peer = turn<RANKS>(p, k);
            Pair data = await_line(call, line(call, lane, round, 1, p.rank, peer), parts[k], lane, round, peer);
            store_part(p.output + block_of(p, peer) * p.output_stride + lane.at, lane, data, left_of(p, peer, lane.at));
        }
        if (!all_of_warp(!call.is_given_up)) break;
    }
    if (index == 0 && first < p.block_bytes) *(u64*)counter = round;
    await_greetings(call);
    block_barrier();
    finish(call);
}

template <class T> DEVICE void two_shot(const Parameters& p) {
    Call call = {p, 0, 0, false};
    if (!begin(call)) return;
    if constexpr (IS_COMMON<T>) {
        if (p.ranks == 2) return exchange_twice_among<T, 2>(call);
        if (p.ranks == 4) return exchange_twice_among<T, 4>(call);
        if (p.ranks == 8) return exchange_twice_among<T, 8>(call);
    }
    exchange_twice_among<T, 0>(call);
}
