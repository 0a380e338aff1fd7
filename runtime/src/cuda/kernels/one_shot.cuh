// One exchange, for small blocks: every rank sends to each that needs its block, and each makes its result alone.
//
// A cell is 16 bytes: twice four bytes of data with four bytes of the call's number behind them. Eight bytes arrive whole,
// so that a number that is right stands beside data that is right, and nothing else needs to be waited for. A thread has
// one cell per peer and parity. Elements are reduced in order of rank.
//
// What it must give is what the host's reductions (coll/reduce.rs) give over the ranks in order; the tests compare bits.
#pragma once
#include "element.cuh"
#include "protocol.cuh"

// Numbers repeat after 2^32 calls of a channel. So that no cell still has the number of back then, cells are cleared every
// so many calls, in one call of each parity.
constexpr u32 CLEAR_EVERY = 1 << 20;

DEVICE u64 cell(const Call& call, u32 at, u32 from) {
    u64 index = (((u64)call.channel * 2 + (call.number & 1)) * RANKS_MAX + from) * THREADS + thread_index();
    return call.p.window[at] + ONE_SHOT_CELLS + index * 16;
}

// What a peer has sent; `found` is a first look at its cell.
DEVICE u64 await_cell(Call& call, u32 peer, Quad found) {
    Wait wait = {0, 0};
    while (found.y != call.number || found.w != call.number) {
        if (!goes_on(wait, call, peer)) break;
        found = load_quad(cell(call, call.p.rank, peer));
    }
    return (u64)found.z << 32 | found.x;
}

// The whole of a call that has begun.
template <class T, u32 RANKS> DEVICE void exchange_once_among(Call& call, bool is_reduction) {
    const Parameters& p = call.p;
    u32 ranks = ranks_of<RANKS>(p);
    greet_peers(call);
    u64 at = ((u64)call.channel * THREADS + thread_index()) * 8;
    i64 left = (i64)p.block_bytes - (i64)at;
    if (left > 0) {
        // Loads stand together in front of what needs them, so that they wait for memory at the same time.
        // Who neither sends nor needs its own input may have none.
        bool has_own = p.send || has(p.receive, p.rank);
        u64 own = has_own ? load8(p.input + p.rank * p.input_stride + at, left) : 0;
        u64 given[MOST<RANKS>];
#pragma unroll
        for (u32 k = 1; k < MOST<RANKS>; k++) {
            given[k] = own;
            if (k < ranks && p.input_stride && has(p.send, turn<RANKS>(p, k))) {
                given[k] = load8(p.input + turn<RANKS>(p, k) * p.input_stride + at, left);
            }
        }
        if (p.op == OP_PRE_MUL_SUM) {
            u64 factor = factor_of<T>(p);
            own = multiplied<T>(own, factor);
#pragma unroll
            for (u32 k = 1; k < MOST<RANKS>; k++) given[k] = p.input_stride ? multiplied<T>(given[k], factor) : own;
        }
#pragma unroll
        for (u32 k = 1; k < MOST<RANKS>; k++) {
            if (k >= ranks || !has(p.send, turn<RANKS>(p, k))) continue;
            Quad data = {(u32)given[k], call.number, (u32)(given[k] >> 32), call.number};
            store_quad(cell(call, turn<RANKS>(p, k), p.rank), data);
        }
        Quad found[MOST<RANKS>];
#pragma unroll
        for (u32 from = 0; from < MOST<RANKS>; from++) {
            if (from < ranks && from != p.rank && has(p.receive, from)) {
                found[from] = load_quad(cell(call, p.rank, from));
            }
        }
        Pack<T> result = Pack<T>::of(0);
        bool is_first = true;
#pragma unroll
        for (u32 from = 0; from < MOST<RANKS>; from++) {
            if (from >= ranks || !has(p.receive, from)) continue;
            u64 data = from == p.rank ? own : await_cell(call, from, found[from]);
            if (is_reduction) {
                if (is_first) result = Pack<T>::of(data);
                else result.reduce(Pack<T>::of(data), p.op);
                is_first = false;
            } else {
                store8(p.output + from * p.output_stride + at, data, left);
            }
        }
        if (is_reduction && p.keep) store8(p.output + at, result.bytes(p.op, ranks), left);
    }
    await_greetings(call);
    // Peers write this parity's cells again when they have heard of this rank's next call.
    if (call.number % CLEAR_EVERY <= 1) {
        for (u32 from = 0; from < p.ranks; from++) store_quad(cell(call, p.rank, from), Quad{0, 0, 0, 0});
        fence();
    }
    block_barrier();
    finish(call);
}

template <class T, bool HAS_OWN> DEVICE void exchange_once(Call& call, bool is_reduction) {
    if constexpr (HAS_OWN) {
        if (call.p.ranks == 2) return exchange_once_among<T, 2>(call, is_reduction);
        if (call.p.ranks == 4) return exchange_once_among<T, 4>(call, is_reduction);
        if (call.p.ranks == 8) return exchange_once_among<T, 8>(call, is_reduction);
    }
    exchange_once_among<T, 0>(call, is_reduction);
}

template <class T> DEVICE void one_shot(const Parameters& p, bool is_reduction) {
    Call call = {p, 0, 0, false};
    if (begin(call)) exchange_once<T, true>(call, is_reduction);
}
