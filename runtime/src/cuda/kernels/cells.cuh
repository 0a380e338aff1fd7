// Short stretches between a GPU and its host.
//
// A cell is 16 bytes of the host's memory: twice four bytes of data with the round's mark behind them, as in the
// one-shot leaf. Eight bytes arrive whole, also over PCIe, so that a mark that is right stands beside data that is right. So the GPU
// puts a stretch without a fence, and finds what it gets where it would look for the answer first: of a call two ways over PCIe
// less. The host takes cells apart and fills them (relay/cells.rs), and clears them before marks are used again. As they take twice
// the memory, long stretches lose by it: between two H200 and their hosts over TCP, a broadcast takes 5.3 us instead of 9.4 at 512 B and
// 6.5 instead of 8.7 at 2 KiB, an all_gather 11 instead of 15 and 13 instead of 15; at 8 KiB both take the same or longer, and at 32 KiB
// twice as long.
#pragma once
#include "element.cuh"
#include "relay_protocol.cuh"

// The cells of a slice's short spans, one span behind the other.
struct ShortSpans {
    const Span* spans;
    u32 count;
    // Where the round's are.
    u64 cells;
};

// One of them.
struct Cell {
    u64 at;
    u32 span;
    // What belongs there, from which byte of the span on.
    u64 byte;
};

// The cell of this number, counted through all short spans; whether there is one.
DEVICE bool find_cell(const ShortSpans& all, u64 index, Cell& found) {
    for (u32 i = 0; i < all.count; i++) {
        const Span& span = all.spans[i];
        if (!is_short(span)) continue;
        u64 cells = (span.bytes + 7) / 8;
        if (index < cells) {
            found = {all.cells + (i * RELAY_STRETCH_CELLS + index) * 16, i, index * 8};
            return true;
        }
        index -= cells;
    }
    return false;
}

// A round's cells, of what is put. Its channel is the first of a lane.
template <class P> DEVICE u64 cells_of(const CallOf<P>& call, u64 number) {
    return call.p.cells + call.channel * RELAY_LANE_CELLS_BYTES + number % RELAY_ROUNDS * RELAY_ROUND_CELLS_BYTES;
}

// Eight bytes of this node's input, times its factor where the operation has one.
template <class T> DEVICE u64 load_word_of_input(const RelayParameters& p, u64 address, i64 left) {
    u64 data = load8(address, left);
    if (p.op != OP_PRE_MUL_SUM) return data;
    return multiplied<T>(data, p.factor_at ? load8(p.factor_at, sizeof(T)) : p.factor);
}

// Puts the short spans, all threads of the block some cells of any of them.
template <class T> DEVICE void put_cells(const RelayCall& call, u64 number) {
    const RelayParameters& p = call.p;
    ShortSpans all = {p.puts, p.put_count, cells_of(call, number)};
    u32 mark = mark_of(number);
    Cell cell;
    for (u64 index = thread_index(); find_cell(all, index, cell); index += THREADS) {
        const Span& span = p.puts[cell.span];
        u64 data = load_word_of_input<T>(p, span.address + cell.byte, (i64)(span.bytes - cell.byte));
        store_quad(cell.at, Quad{(u32)data, mark, (u32)(data >> 32), mark});
    }
}

// What the host has put into a cell; `found` is a first look at it.
template <class P> DEVICE u64 await_mark(CallOf<P>& call, u32 span, u64 at, u32 mark, Quad found) {
    Wait wait = {0, 0};
    while (found.y != mark || found.w != mark) {
        if (!goes_on(wait, call, peer_of(call.p, span))) break;
        found = load_quad(at);
    }
    return (u64)found.z << 32 | found.x;
}

// Gets the short spans. Two cells are looked at at once, as a look takes a way to the host and back.
template <class P> DEVICE void get_cells(CallOf<P>& call, u64 number) {
    const P& p = call.p;
    ShortSpans all = {p.gets, p.get_count, cells_of(call, number) + RELAY_CELLS_GOT};
    Cell cells[2];
    for (u64 index = thread_index(); find_cell(all, index, cells[0]); index += 2 * THREADS) {
        bool are_two = find_cell(all, index + THREADS, cells[1]);
        Quad found[2];
        found[0] = load_quad(cells[0].at);
        if (are_two) found[1] = load_quad(cells[1].at);
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            if (i == 1 && !are_two) break;
            const Span& span = p.gets[cells[i].span];
            u64 data = await_mark(call, cells[i].span, cells[i].at, mark_of(number), found[i]);
            // What has not come belongs nowhere.
            if (call.is_given_up) return;
            store8(span.address + cells[i].byte, data, (i64)(span.bytes - cells[i].byte));
        }
    }
}

// Reduces short parts that the nodes gave, this one's among it, in order of node. Four cells are looked at at once.
template <class T> DEVICE void reduce_cells(RelayCall& call, u64 number) {
    const RelayParameters& p = call.p;
    u64 round = cells_of(call, number) + RELAY_CELLS_GOT, len = p.gets[0].bytes;
    for (u64 at = thread_index() * 8; at < len; at += (u64)THREADS * 8) {
        Pack<T> result = Pack<T>::of(0);
        auto add = [&](u32 node, u64 data) {
            if (node == 0) result = Pack<T>::of(data);
            else result.reduce(Pack<T>::of(data), p.op);
        };
        for (u32 first = 0; first <= p.get_count; first += 4) {
            u64 cells[4];
            Quad found[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                u32 node = first + i, other = node < p.place ? node : node - 1;
                cells[i] = round + (other * RELAY_STRETCH_CELLS + at / 8) * 16;
                if (node <= p.get_count && node != p.place) found[i] = load_quad(cells[i]);
            }
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                u32 node = first + i;
                if (node > p.get_count) break;
                if (node == p.place) add(node, load_word_of_input<T>(p, p.own + at, (i64)(len - at)));
                else add(node, await_mark(call, 0, cells[i], mark_of(number), found[i]));
            }
        }
        if (call.is_given_up) return;
        store8(p.gets[0].address + at, result.bytes(p.op, p.ranks), (i64)(len - at));
    }
}
