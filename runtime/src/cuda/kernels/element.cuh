// Elements, and what is done with them: the host's reductions (coll/reduce.rs), to the bit.
//
// Integers wrap. Minima and maxima of floats are NaN if an operand is, and the right operand where both are equal. Halves
// are computed in f32 and rounded once. An average is the sum, divided where it is complete.
#pragma once
#include "machine.cuh"

constexpr u32 OP_SUM = 0;
constexpr u32 OP_PROD = 1;
constexpr u32 OP_MIN = 2;
constexpr u32 OP_MAX = 3;
constexpr u32 OP_AVG = 4;

// Of the element types only their distinction counts where halves are `u16` too.
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};

DEVICE u32 float_bits(float value) {
    u32 bits;
    memcpy(&bits, &value, 4);
    return bits;
}
DEVICE float float_of(u32 bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// What a type is computed in.
template <class T> struct Computed {
    typedef T Type;
    static DEVICE T from(T value) { return value; }
    static DEVICE T to(T value) { return value; }
};
template <> struct Computed<f16> {
    typedef float Type;
    static DEVICE float from(f16 value) { return f32_of_f16(value.bits); }
    static DEVICE f16 to(float value) { return f16{f16_of_f32(value)}; }
};
template <> struct Computed<bf16> {
    typedef float Type;
    static DEVICE float from(bf16 value) { return float_of((u32)value.bits << 16); }
    static DEVICE bf16 to(float value) { return bf16{bf16_of_f32(value)}; }
};

template <class T> DEVICE T sum(T a, T b) { return (T)(a + b); }
template <class T> DEVICE T prod(T a, T b) { return (T)(a * b); }
// Signed integers wrap as unsigned ones do; in C they must not overflow.
template <> DEVICE i32 sum(i32 a, i32 b) { return (i32)((u32)a + (u32)b); }
template <> DEVICE i32 prod(i32 a, i32 b) { return (i32)((u32)a * (u32)b); }
template <> DEVICE i64 sum(i64 a, i64 b) { return (i64)((u64)a + (u64)b); }
template <> DEVICE i64 prod(i64 a, i64 b) { return (i64)((u64)a * (u64)b); }
template <> DEVICE u16 prod(u16 a, u16 b) { return (u16)((u32)a * (u32)b); }

// A NaN is not equal to itself; of integers all are.
template <class T> DEVICE T smaller(T a, T b) { return a < b || a != a ? a : b; }
template <class T> DEVICE T larger(T a, T b) { return a > b || a != a ? a : b; }

// Toward zero. The divisor fits every type that is as wide, and the quotient fits the type.
template <class T> DEVICE T over(T value, u32 divisor) { return (T)((i64)value / (i64)divisor); }
template <> DEVICE u64 over(u64 value, u32 divisor) { return value / divisor; }
template <> DEVICE float over(float value, u32 divisor) { return value / (float)divisor; }
template <> DEVICE double over(double value, u32 divisor) { return value / (double)divisor; }

// Eight bytes of elements while they are being reduced.
template <class T> struct Pack {
    typedef typename Computed<T>::Type Wide;
    static constexpr u32 LEN = 8 / sizeof(T);
    Wide values[LEN];

    static DEVICE Pack of(u64 bytes) {
        T elements[LEN];
        memcpy(elements, &bytes, 8);
        Pack pack;
#pragma unroll
        for (u32 i = 0; i < LEN; i++) pack.values[i] = Computed<T>::from(elements[i]);
        return pack;
    }

    DEVICE void reduce(const Pack& other, u32 op) {
        switch (op) {
        case OP_PROD:
#pragma unroll
            for (u32 i = 0; i < LEN; i++) values[i] = prod(values[i], other.values[i]);
            break;
        case OP_MIN:
#pragma unroll
            for (u32 i = 0; i < LEN; i++) values[i] = smaller(values[i], other.values[i]);
            break;
        case OP_MAX:
#pragma unroll
            for (u32 i = 0; i < LEN; i++) values[i] = larger(values[i], other.values[i]);
            break;
        default:
#pragma unroll
            for (u32 i = 0; i < LEN; i++) values[i] = sum(values[i], other.values[i]);
        }
    }

    DEVICE u64 bytes(u32 op, u32 ranks) const {
        T elements[LEN];
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            elements[i] = Computed<T>::to(op == OP_AVG ? over(values[i], ranks) : values[i]);
        }
        u64 bytes;
        memcpy(&bytes, elements, 8);
        return bytes;
    }
};

// Where nothing is reduced, one rank gives a block, and its bytes are the result.
struct Bytes {};
template <> struct Pack<Bytes> {
    u64 value;
    static DEVICE Pack of(u64 bytes) { return Pack{bytes}; }
    DEVICE void reduce(const Pack&, u32) {}
    DEVICE u64 bytes(u32, u32) const { return value; }
};

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
