// Runs the GPU kernels on the CPU: every thread of every block of every rank is a fiber, and who runs next is drawn from a
// seed. What a rank writes into another's memory arrives later and in another order, each half of a 16-byte cell by
// itself; only what a release or a fence orders comes in order, and what one warp stores at once as a line comes as one.
//
// Of some launches blocks begin late, one behind the other. For a while one rank runs ahead of the others, or of each rank some
// warps of those beside them. What a block has for itself holds anything at first. An access of sixteen bytes that is not aligned
// ends the run, as on a GPU.
//
// It finds what is wrong with indices, masks, tails, types, parities and epochs under any order of events. It cannot find a
// fence that a GPU needs and this does not.
#define EMULATED
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <setjmp.h>
#include <ucontext.h>
#include <vector>

#include "../../cuda/kernels/machine.cuh"

#define ELEMENT i8
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT u8
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT i16
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT u16
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT i32
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT u32
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT i64
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT u64
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT f16
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT bf16
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT f32
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT f64
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT f8e4m3
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#define ELEMENT f8e5m2
#include "../../cuda/kernels/reduce.cu"
#undef ELEMENT
#undef NAME
#undef PARAMETERS
#undef RELAY_PARAMETERS
#undef SHORT_STEPS_PARAMETERS
#include "../../cuda/kernels/copy.cu"

// What a kernel is told it takes by reference, as one of two types.
typedef void (*KernelFunction)(const void*);

// As in the Rust that calls this. Without a kernel it is a pause, of so many thousand steps as it has blocks.
struct Launch {
    KernelFunction kernel;
    const void* parameters;
    u32 blocks;
    u32 threads;
};

namespace {

constexpr size_t STACK_BYTES = 32 << 10;
// How many steps there are to one of the host's.
constexpr u64 HOST_ONE_IN = 32;
// How many stores of a rank may be on their way, and for how many steps one is while memory is slow.
constexpr size_t STORES_MAX = 48;
constexpr u64 SLOW_STEPS = 64;
// Of how many launches one begins with its first block alone, and in about how many turns of its rank at most all others have begun.
constexpr u64 LATE_ONE_IN = 3;
constexpr u64 LATE_TURNS_MAX = 1 << 17;
// For how many steps the same ones run ahead, and how often another is drawn instead of one that does not.
constexpr u64 AHEAD_STEPS = 4096;
constexpr int AHEAD_DRAWS = 3;

struct Block;

// A fiber is entered by its context, and left and taken up again by jumps, which make no system call as contexts do.
struct Fiber {
    ucontext_t context;
    jmp_buf place;
    bool has_begun;
    std::unique_ptr<char[]> stack;
    Block* block;
    u32 index;
    bool is_done;
    // Why it does not run: 0 it may, 1 the block's barrier, 2 its warp, 3 a word of the block.
    int waits;
};

struct Warp {
    u32 arrived, alive;
    bool all;
    bool result;
    Pair pairs[WARP];
    u64 addresses[WARP];
};

struct Block {
    u32 rank, index;
    const Launch* launch;
    std::vector<Fiber*> fibers;
    std::vector<Warp> warps;
    u32 at_barrier, alive;
    bool all, result;
    u32 words[BLOCK_WORDS];
};

// What is on its way into another rank's memory.
struct Store {
    u64 address;
    u64 value;
};

struct Rank {
    const Launch* launches;
    size_t count, next;
    u32 blocks_left;
    // Of the launch under way, how many blocks have begun, and of how many turns one begins another.
    u32 blocks_begun;
    u64 begun_one_in;
    // When its pause ends; 0 without one.
    u64 pause_end;
    std::deque<Store> stores;
};

// Who runs ahead as far as the others let it.
struct Ahead {
    bool is_of_warps;
    u32 rank;
    // Of the numbers of warps, a bit, and which of its values each rank's have.
    u32 bit;
    u32 values;

    bool has(const Fiber& fiber) const {
        if (!is_of_warps) return fiber.block->rank == rank;
        return (fiber.index / WARP >> bit & 1) == (values >> fiber.block->rank & 1);
    }
};

std::mt19937_64 chance;
ucontext_t scheduler;
jmp_buf scheduler_place;
Fiber* current;
std::vector<Rank> ranks;
std::vector<Fiber*> runnable, spare;
std::vector<std::unique_ptr<Fiber>> all_fibers;
std::vector<std::unique_ptr<Block>> blocks;
u64 steps;
// Whether stores stay on their way for long, as those to hosts do: past barriers of a block, which take some hundred steps.
bool memory_is_slow;

u64 draw(u64 below) { return chance() % below; }

void yield() {
    if (!_setjmp(current->place)) _longjmp(scheduler_place, 1);
}

// Runs the current fiber until it yields or ends.
void resume() {
    if (_setjmp(scheduler_place)) return;
    if (current->has_begun) _longjmp(current->place, 1);
    current->has_begun = true;
    setcontext(&current->context);
}

void maybe_yield(u64 one_in) {
    if (draw(one_in) == 0) yield();
}

// Delivers one store; of those for one address the first.
void deliver(Rank& rank, size_t at) {
    for (size_t i = 0; i < at; i++) {
        if (rank.stores[i].address == rank.stores[at].address) at = i;
    }
    *(u64*)rank.stores[at].address = rank.stores[at].value;
    rank.stores.erase(rank.stores.begin() + at);
}

void deliver_all(Rank& rank) {
    while (!rank.stores.empty()) deliver(rank, 0);
}

void put(u64 address, u64 value) {
    Rank& rank = ranks[current->block->rank];
    rank.stores.push_back({address, value});
    auto is_due = [&] { return !memory_is_slow && !rank.stores.empty() && draw(3) == 0; };
    while (rank.stores.size() > STORES_MAX || is_due()) deliver(rank, draw(rank.stores.size()));
}

Warp& warp_of(Fiber* fiber) { return fiber->block->warps[fiber->index / WARP]; }

// Lets a fiber of a block run, if it waits for this. One that has ended may be another block's by now.
void wake(Block* block, Fiber* fiber, int reason) {
    if (fiber->block != block || fiber->is_done || fiber->waits != reason) return;
    fiber->waits = 0;
    runnable.push_back(fiber);
}

void release_warp(Block* block, u32 warp) {
    for (u32 i = warp * WARP; i < (warp + 1) * WARP && i < block->fibers.size(); i++) wake(block, block->fibers[i], 2);
}

void release_block(Block* block) {
    block->result = block->all;
    block->all = true;
    block->at_barrier = 0;
    for (Fiber* fiber : block->fibers) wake(block, fiber, 1);
}

// Waits until all lanes of the warp are here; the last one does `act` for all.
template <class Act> void with_warp(Act act) {
    Warp& warp = warp_of(current);
    if (++warp.arrived == warp.alive) {
        warp.arrived = 0;
        act(warp);
        release_warp(current->block, current->index / WARP);
    } else {
        current->waits = 2;
        yield();
    }
}

void run_fiber() {
    current->block->launch->kernel(current->block->launch->parameters);
    current->is_done = true;
    _longjmp(scheduler_place, 1);
}

void start_block(u32 rank, const Launch& launch, u32 index) {
    auto block = std::make_unique<Block>();
    block->rank = rank;
    block->index = index;
    block->launch = &launch;
    block->at_barrier = 0;
    block->all = true;
    block->alive = launch.threads;
    for (u32& word : block->words) word = (u32)chance();
    block->warps.resize((launch.threads + WARP - 1) / WARP);
    for (Warp& warp : block->warps) warp.arrived = 0, warp.alive = WARP;
    for (u32 i = 0; i < launch.threads; i++) {
        Fiber* fiber;
        if (spare.empty()) {
            all_fibers.push_back(std::make_unique<Fiber>());
            fiber = all_fibers.back().get();
            fiber->stack.reset(new char[STACK_BYTES]);
        } else {
            fiber = spare.back();
            spare.pop_back();
        }
        fiber->block = block.get();
        fiber->index = i;
        fiber->is_done = false;
        fiber->has_begun = false;
        fiber->waits = 0;
        getcontext(&fiber->context);
        fiber->context.uc_stack.ss_sp = fiber->stack.get();
        fiber->context.uc_stack.ss_size = STACK_BYTES;
        fiber->context.uc_link = &scheduler;
        makecontext(&fiber->context, run_fiber, 0);
        block->fibers.push_back(fiber);
        runnable.push_back(fiber);
    }
    blocks.push_back(std::move(block));
}

void start_next(u32 rank) {
    Rank& of = ranks[rank];
    if (of.next == of.count) return;
    const Launch& launch = of.launches[of.next++];
    if (!launch.kernel) {
        of.pause_end = steps + launch.blocks * 1000ull;
        return;
    }
    of.blocks_left = launch.blocks;
    of.blocks_begun = draw(LATE_ONE_IN) == 0 ? 1 : launch.blocks;
    of.begun_one_in = draw(LATE_TURNS_MAX) / launch.blocks + 1;
    for (u32 i = 0; i < of.blocks_begun; i++) start_block(rank, launch, i);
}

// Starts a block that is late. A GPU's others run on meanwhile, and may be done before.
void start_late_block(u32 rank) {
    Rank& of = ranks[rank];
    if (of.next == 0 || !of.blocks_left) return;
    const Launch& launch = of.launches[of.next - 1];
    if (of.blocks_begun < launch.blocks) start_block(rank, launch, of.blocks_begun++);
}

void end_pause(u32 rank, bool at_once) {
    Rank& of = ranks[rank];
    if (!of.pause_end || (!at_once && steps < of.pause_end)) return;
    of.pause_end = 0;
    start_next(rank);
}

// Whether anything is left to run. Where all pause, or blocks are late, nobody waits for that to end.
bool has_work() {
    for (u32 i = 0; i < ranks.size() && runnable.empty(); i++) {
        end_pause(i, true);
        start_late_block(i);
    }
    return !runnable.empty();
}

void ended(Fiber* fiber) {
    Block* block = fiber->block;
    Warp& warp = warp_of(fiber);
    warp.alive--;
    block->alive--;
    spare.push_back(fiber);
    if (block->alive && block->at_barrier == block->alive) release_block(block);
    if (block->alive) return;
    Rank& rank = ranks[block->rank];
    if (--rank.blocks_left == 0) {
        // What a kernel wrote is there when the next one of its stream begins.
        deliver_all(rank);
        start_next(block->rank);
    }
}

} // namespace

u32 thread_index() { return current->index; }
u32 block_index() { return current->block->index; }
u32 block_count() { return current->block->launch->blocks; }
u64 nanoseconds() { return steps; }
void block_barrier() {
    Block* block = current->block;
    if (++block->at_barrier == block->alive) {
        release_block(block);
    } else {
        current->waits = 1;
        yield();
    }
}
bool all_of_block(bool mine) {
    Block* block = current->block;
    block->all = block->all && mine;
    block_barrier();
    return block->result;
}
void clear_block_words() {
    if (current->index < BLOCK_WORDS) current->block->words[current->index] = 0;
}
u32 await_block_word(u32 which, u32 above) {
    maybe_yield(2);
    while (current->block->words[which] <= above) {
        current->waits = 3;
        yield();
    }
    return current->block->words[which];
}
void store_block_word(u32 which, u32 value) {
    current->block->words[which] = value;
    for (Fiber* fiber : current->block->fibers) wake(current->block, fiber, 3);
}
bool all_of_warp(bool mine) {
    Warp& warp = warp_of(current);
    if (warp.arrived == 0) warp.all = true;
    warp.all = warp.all && mine;
    with_warp([](Warp& warp) { warp.result = warp.all; });
    return warp_of(current).result;
}
void warp_barrier() { all_of_warp(true); }
u64 aligned(u64 address) {
    if (address % 16 == 0) return address;
    fprintf(stderr, "emulator: sixteen bytes at once of %#llx, which is not aligned\n", address);
    abort();
}
void store_quad(u64 address, Quad value) {
    put(aligned(address), (u64)value.y << 32 | value.x);
    put(address + 8, (u64)value.w << 32 | value.z);
    maybe_yield(8);
}
Quad load_quad(u64 address) {
    maybe_yield(2);
    u64 lo = *(u64*)aligned(address), hi = *(u64*)(address + 8);
    return {(u32)lo, (u32)(lo >> 32), (u32)hi, (u32)(hi >> 32)};
}
void store_pair(u64 address, Pair value) {
    Warp& warp = warp_of(current);
    u32 lane = current->index % WARP;
    warp.addresses[lane] = aligned(address);
    warp.pairs[lane] = value;
    with_warp([](Warp& warp) {
        // A line's data comes to be before its number, which is the last of its words; other lines in between.
        u32 first = (u32)draw(4);
        for (u32 i = 0; i < 4; i++) {
            u32 line = (first + i) % 4 * 8;
            for (u32 k = 0; k < 8; k++) {
                *(u64*)warp.addresses[line + k] = warp.pairs[line + k].lo;
                *(u64*)(warp.addresses[line + k] + 8) = warp.pairs[line + k].hi;
            }
        }
    });
    maybe_yield(8);
}
Pair load_pair(u64 address) {
    Warp& warp = warp_of(current);
    u32 lane = current->index % WARP;
    maybe_yield(4);
    warp.addresses[lane] = aligned(address);
    with_warp([](Warp& warp) {
        for (u32 k = 0; k < WARP; k++) warp.pairs[k] = {*(u64*)warp.addresses[k], *(u64*)(warp.addresses[k] + 8)};
    });
    return warp_of(current).pairs[lane];
}
void store_release(u64 address, u64 value) {
    deliver_all(ranks[current->block->rank]);
    put(address, value);
    maybe_yield(4);
}
u64 load_acquire(u64 address) {
    maybe_yield(2);
    return *(u64*)address;
}
void store_word(u64 address, u64 value) { put(address, value); }
u64 load_word(u64 address) {
    maybe_yield(2);
    return *(u64*)address;
}
u32 load_shared_word(u64 address) { return *(u32*)address; }
void store_shared_word(u64 address, u32 value) { *(u32*)address = value; }
u32 exchange(u64 address, u32 value) {
    u32 before = *(u32*)address;
    *(u32*)address = value;
    return before;
}
u32 add(u64 address, u32 value) {
    u32 before = *(u32*)address;
    *(u32*)address = before + value;
    return before;
}
void fence() { deliver_all(ranks[current->block->rank]); }
float f32_of_f16(u16 bits) {
    _Float16 value;
    memcpy(&value, &bits, 2);
    return (float)value;
}
u16 f16_of_f32(float value) {
    _Float16 half = (_Float16)value;
    u16 bits;
    memcpy(&bits, &half, 2);
    return bits;
}
u16 bf16_of_f32(float value) {
    u32 bits = float_bits(value);
    if (value != value) return 0x7fff;
    return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// What the host's side must agree with.
extern "C" u64 emulator_constant(u32 which) {
    const u64 constants[] = {sizeof(Parameters), SLOT_DATA, STATE_BYTES, RANKS_MAX, THREADS, CHANNELS_MAX, ONE_SHOT_CHANNELS,
                             TWO_SHOT_CHANNELS, ROUND_BYTES, offsetof(Parameters, status), offsetof(Parameters, rank),
                             offsetof(Parameters, op), offsetof(Parameters, signature), STATE_CALLS, offsetof(Parameters, factor),
                             offsetof(Parameters, apart), sizeof(PairParameters), offsetof(PairParameters, messages),
                             PAIR_CHANNELS, PAIR_WARPS, PAIR_SLOTS, PAIR_CHANNEL_BYTES, MESSAGES_MAX, RING_SLOTS, RING_DATA_BYTES, RING_THREADS, MESSAGE_THREADS,
                             offsetof(Parameters, route), offsetof(Parameters, slice_bytes), offsetof(Parameters, slot_bytes), sizeof(RelayParameters),
                             offsetof(RelayParameters, gets), RELAY_SPANS, RELAY_CHANNELS, RELAY_SLOT_BYTES, RELAY_WORDS,
                             RELAY_POSTS, RELAY_POST_BYTES, RELAY_ROUNDS, RELAY_ANSWERED, RELAY_STATE_BYTES,
                             RELAY_SHORT_BYTES, RELAY_STRETCH_CELLS, RELAY_ROUND_CELLS_BYTES, RELAY_CELLS_GOT, SLOT_CHANNELS,
                             SLOTS, SLICE_UNIT_BYTES, offsetof(PairParameters, before), sizeof(FarParameters),
                             offsetof(FarParameters, lanes), offsetof(FarParameters, peers), offsetof(FarParameters, puts),
                             offsetof(FarParameters, gets), FAR_CHANNELS, FAR_PLACES, FAR_SLICE_BYTES, FAR_LANES, FAR_LONG_SPANS,
                             FAR_PUTS, FAR_GETS, FAR_DOORS, FAR_STATE_BYTES, sizeof(AllParameters),
                             offsetof(AllParameters, near), sizeof(ShortStepsParameters),
                             offsetof(ShortStepsParameters, node), offsetof(ShortStepsParameters, is_node_first)};
    return which < sizeof(constants) / 8 ? constants[which] : ~0ull;
}

// Runs each rank's launches in order, all ranks beside each other, and beside what `host` does whenever it is called. Returns
// the number of steps, or 0 if after `steps_max` of them not all were done.
extern "C" u64 emulate(u32 rank_count, const Launch* const* launches, const u64* counts, u64 seed, u64 steps_max,
                       void (*host)(void*), void* context) {
    chance.seed(seed);
    steps = 1;
    ranks.clear();
    runnable.clear();
    blocks.clear();
    spare.clear();
    for (auto& fiber : all_fibers) spare.push_back(fiber.get());
    ranks.resize(rank_count);
    for (u32 i = 0; i < rank_count; i++) ranks[i].launches = launches[i], ranks[i].count = counts[i];
    for (u32 i = 0; i < rank_count; i++) start_next(i);
    memory_is_slow = false;
    Ahead ahead = {};
    for (; has_work(); steps++) {
        if (steps > steps_max) return 0;
        if (steps % AHEAD_STEPS == 0) {
            ahead = {draw(2) == 0, (u32)draw(rank_count), (u32)draw(5), (u32)chance()};
            memory_is_slow = draw(4) == 0;
        }
        size_t at = draw(runnable.size());
        for (int draws = 0; draws < AHEAD_DRAWS && !ahead.has(*runnable[at]); draws++) at = draw(runnable.size());
        current = runnable[at];
        std::swap(runnable[at], runnable.back());
        runnable.pop_back();
        resume();
        if (current->is_done) ended(current);
        else if (current->waits == 0) runnable.push_back(current);
        u32 other = (u32)draw(rank_count);
        Rank& rank = ranks[other];
        bool is_due = !memory_is_slow || draw(SLOW_STEPS) == 0;
        if (is_due && !rank.stores.empty()) deliver(rank, draw(rank.stores.size()));
        end_pause(other, false);
        if (rank.blocks_left && draw(rank.begun_one_in) == 0) start_late_block(other);
        if (host && draw(HOST_ONE_IN) == 0) host(context);
    }
    for (Rank& rank : ranks) {
        if (rank.next != rank.count || rank.blocks_left) return 0;
    }
    return steps;
}
