// What the kernels ask of the machine: thread numbers, barriers, and memory that two GPUs look at at once.
//
// On a GPU these are instructions. With EMULATED defined they are functions of an emulator (../../nvlink/tests), which runs
// the same kernels on the CPU, every thread in turn at an order of its choice.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;

constexpr u32 WARP = 32;
// How many words a block has for itself.
constexpr u32 BLOCK_WORDS = 32;

struct Quad {
    u32 x, y, z, w;
};
struct Pair {
    u64 lo, hi;
};

#ifdef EMULATED
#include <string.h>

#define KERNEL_OF(threads, name, parameters, body) \
    extern "C" void name(parameters) { body; }
#define DEVICE inline
#define CALLED
u32 thread_index();
u32 block_index();
u32 block_count();
void block_barrier();
void warp_barrier();
bool all_of_warp(bool);
bool all_of_block(bool);
void clear_block_words();
u32 await_block_word(u32 which, u32 above);
void store_block_word(u32 which, u32 value);
u64 nanoseconds();
void store_quad(u64 address, Quad value);
Quad load_quad(u64 address);
void store_pair(u64 address, Pair value);
Pair load_pair(u64 address);
u64 aligned(u64 address);
void store_release(u64 address, u64 value);
u64 load_acquire(u64 address);
u32 load_shared_word(u64 address);
void store_shared_word(u64 address, u32 value);
u32 exchange(u64 address, u32 value);
u32 add(u64 address, u32 value);
void store_word(u64 address, u64 value);
u64 load_word(u64 address);
void fence();
float f32_of_f16(u16 bits);
u16 f16_of_f32(float value);
u16 bf16_of_f32(float value);
#else
#define KERNEL_OF(threads, name, parameters, body)                             \
    extern "C" __global__ void __launch_bounds__(threads, 1) name(parameters) { \
        follow_previous_launch();                                              \
        body;                                                                  \
    }
#define DEVICE __device__ __forceinline__
// What is too long to stand at every place where it is used.
#define CALLED __device__ __noinline__
DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 block_index() { return blockIdx.x; }
DEVICE u32 block_count() { return gridDim.x; }
DEVICE void block_barrier() { __syncthreads(); }
// What lanes did before, all of them see behind it, which a vote does not promise.
DEVICE void warp_barrier() { __syncwarp(); }
DEVICE bool all_of_warp(bool mine) { return __all_sync(0xffffffffu, mine); }
// A block barrier that also asks.
DEVICE bool all_of_block(bool mine) { return __syncthreads_and(mine); }
// Words by which warps of a block tell each other how far they are, without a barrier that all of them wait at: a thread waits until one
// is more than it says. Whoever sees what a thread has stored there sees what that thread and those it waited for have done before.
DEVICE u32 block_word(u32 which) {
    __shared__ u32 words[BLOCK_WORDS];
    return (u32)__cvta_generic_to_shared(words + which);
}
// A barrier of the block comes behind it.
DEVICE void clear_block_words() {
    if (threadIdx.x < BLOCK_WORDS) asm volatile("st.shared.u32 [%0], %1;" ::"r"(block_word(threadIdx.x)), "r"(0) : "memory");
}
DEVICE u32 await_block_word(u32 which, u32 above) {
    u32 value;
    do {
        asm volatile("ld.acquire.cta.shared.u32 %0, [%1];" : "=r"(value) : "r"(block_word(which)) : "memory");
    } while (value <= above);
    return value;
}
DEVICE void store_block_word(u32 which, u32 value) {
    asm volatile("st.release.cta.shared.u32 [%0], %1;" ::"r"(block_word(which)), "r"(value) : "memory");
}
DEVICE u64 nanoseconds() {
    u64 now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}
// Every kernel's first act, as it may be launched when the blocks in front of it on its stream have ended, and what they wrote is
// still on its way (cuda/module.rs): waits for that. sm_80 has no such instruction, so that it is a comment in its PTX, of which
// the host makes code for devices that have it and for which there is no machine code. The other half of it, to let the launch
// behind begin while this one runs (griddepcontrol.launch_dependents), would take room from other streams' kernels, and made small
// calls slower: 5.2 us instead of 4.9.
DEVICE void follow_previous_launch() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#else
    asm volatile("//sm_90 griddepcontrol.wait;" ::: "memory");
#endif
}
// 16 bytes at once, past the caches of one multiprocessor. Each half arrives whole; both halves together do not have to.
DEVICE void store_quad(u64 address, Quad value) {
    asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(value.x), "r"(value.y), "r"(value.z),
                 "r"(value.w)
                 : "memory");
}
DEVICE Quad load_quad(u64 address) {
    Quad value;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(address)
                 : "memory");
    return value;
}
// The same for lines of 128 bytes, which eight lanes of a warp store at once: over NVLink such a line arrives whole.
DEVICE void store_pair(u64 address, Pair value) {
    asm volatile("st.volatile.global.v2.u64 [%0], {%1, %2};" ::"l"(address), "l"(value.lo), "l"(value.hi) : "memory");
}
DEVICE Pair load_pair(u64 address) {
    Pair value;
    asm volatile("ld.volatile.global.v2.u64 {%0, %1}, [%2];" : "=l"(value.lo), "=l"(value.hi) : "l"(address) : "memory");
    return value;
}
DEVICE void store_release(u64 address, u64 value) {
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}
DEVICE u64 load_acquire(u64 address) {
    u64 value;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
    return value;
}
DEVICE void store_word(u64 address, u64 value) {
    asm volatile("st.volatile.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}
DEVICE u64 load_word(u64 address) {
    u64 value;
    asm volatile("ld.volatile.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
    return value;
}
// A word that the host, or another block, writes.
DEVICE u32 load_shared_word(u64 address) {
    u32 value;
    asm volatile("ld.volatile.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}
DEVICE void store_shared_word(u64 address, u32 value) {
    asm volatile("st.volatile.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}
DEVICE u32 exchange(u64 address, u32 value) {
    u32 before;
    asm volatile("atom.global.exch.b32 %0, [%1], %2;" : "=r"(before) : "l"(address), "r"(value) : "memory");
    return before;
}
DEVICE u32 add(u64 address, u32 value) {
    u32 before;
    asm volatile("atom.global.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(address), "r"(value) : "memory");
    return before;
}
DEVICE void fence() { asm volatile("fence.acq_rel.sys;" ::: "memory"); }
DEVICE float f32_of_f16(u16 bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
DEVICE u16 f16_of_f32(float value) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
DEVICE u16 bf16_of_f32(float value) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

#define KERNEL(name, parameters, body) KERNEL_OF(THREADS, name, parameters, body)

// Up to eight bytes from memory of any alignment; what is beyond `left` reads as zero.
DEVICE u64 load8(u64 address, i64 left) {
    if (left >= 8 && address % 8 == 0) return *(const u64*)address;
    u64 value = 0;
#pragma unroll 1
    for (u32 i = 0; i < 8 && (i64)i < left; i++) value |= (u64) * (const u8*)(address + i) << (8 * i);
    return value;
}
DEVICE void store8(u64 address, u64 value, i64 left) {
    if (left >= 8 && address % 8 == 0) {
        *(u64*)address = value;
        return;
    }
#pragma unroll 1
    for (u32 i = 0; i < 8 && (i64)i < left; i++) *(u8*)(address + i) = (u8)(value >> (8 * i));
}
