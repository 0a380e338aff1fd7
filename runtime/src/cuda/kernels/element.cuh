// Elements, and what is done with them: the host's reductions (coll/reduce.rs), to the bit.
//
// Integers wrap. Minima and maxima of floats are NaN if an operand is, and the right operand where both are equal. Halves
// and eight-bit floats are computed in f32 and rounded once. An average is the sum, divided where it is complete.
#pragma once
#include "machine.cuh"

constexpr u32 OP_SUM = 0;
constexpr u32 OP_PROD = 1;
constexpr u32 OP_MIN = 2;
constexpr u32 OP_MAX = 3;
constexpr u32 OP_AVG = 4;
// Each rank's input is multiplied by a factor of its own and rounded, and the products are summed.
constexpr u32 OP_PRE_MUL_SUM = 5;

// Of the element types only their distinction counts where halves are `u16` too.
struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};
struct f8e4m3 {
    u8 bits;
};
struct f8e5m2 {
    u8 bits;
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

// An eight-bit float of so many bits of mantissa, of which `LARGEST` is the largest number and `NOT_A_NUMBER` is none.
template <u32 MANTISSA, u32 LARGEST, u32 NOT_A_NUMBER> struct Eighth {
    static constexpr u32 BIAS = (1 << (6 - MANTISSA)) - 1;

    static CALLED float widen(u8 bits) {
        u32 magnitude = bits & 0x7f, sign = (u32)(bits & 0x80) << 24;
        if (magnitude > LARGEST) {
            // Beyond are infinity, where the type has it, and what is no number.
            bool is_infinite = NOT_A_NUMBER > LARGEST + 1 && magnitude == LARGEST + 1;
            return float_of(sign | (is_infinite ? 0x7f800000 : 0x7fc00000));
        }
        if (magnitude >> MANTISSA) return float_of(sign | ((magnitude << (23 - MANTISSA)) + ((127 - BIAS) << 23)));
        float small = (float)magnitude * float_of((128 - BIAS - MANTISSA) << 23);
        return float_of(sign | float_bits(small));
    }

    // To the nearest, of two as near the even one; what is too large becomes the largest number.
    static CALLED u8 narrow(float value) {
        u32 bits = float_bits(value), magnitude = bits & 0x7fffffff;
        u8 sign = (u8)(bits >> 24 & 0x80);
        if (magnitude > 0x7f800000) return sign | NOT_A_NUMBER;
        constexpr u32 DROPPED = 23 - MANTISSA;
        u32 code;
        if (magnitude < (128 - BIAS) << 23) {
            // In units of the smallest number; adding 2^23 rounds to a whole number.
            float units = float_of(magnitude) * float_of((126 + BIAS + MANTISSA) << 23);
            code = float_bits(units + 8388608.0f) - 0x4b000000;
        } else {
            u32 rounded = magnitude + ((1u << (DROPPED - 1)) - 1) + (magnitude >> DROPPED & 1);
            code = (rounded >> DROPPED) - ((127 - BIAS) << MANTISSA);
        }
        return sign | (u8)(code < LARGEST ? code : LARGEST);
    }
};

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

template <> struct Computed<f8e4m3> {
    typedef float Type;
    typedef Eighth<3, 0x7e, 0x7f> Format;
    static DEVICE float from(f8e4m3 value) { return Format::widen(value.bits); }
    static DEVICE f8e4m3 to(float value) { return f8e4m3{Format::narrow(value)}; }
};
template <> struct Computed<f8e5m2> {
    typedef float Type;
    typedef Eighth<2, 0x7b, 0x7f> Format;
    static DEVICE float from(f8e5m2 value) { return Format::widen(value.bits); }
    static DEVICE f8e5m2 to(float value) { return f8e5m2{Format::narrow(value)}; }
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
    static constexpr bool IS_MOVED_ONLY = false;
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

// A rank's input, times its factor where the operation has one.
template <class T> DEVICE u64 multiplied(u64 bytes, u64 factor) {
    Pack<T> pack = Pack<T>::of(bytes);
    T element;
    memcpy(&element, &factor, sizeof(T));
    typename Computed<T>::Type by = Computed<T>::from(element);
#pragma unroll
    for (u32 i = 0; i < Pack<T>::LEN; i++) pack.values[i] = prod(pack.values[i], by);
    return pack.bytes(OP_SUM, 1);
}

// Where nothing is reduced, one rank gives a block, and its bytes are the result.
struct Bytes {};
template <> struct Pack<Bytes> {
    static constexpr bool IS_MOVED_ONLY = true;
    u64 value;
    static DEVICE Pack of(u64 bytes) { return Pack{bytes}; }
    DEVICE void reduce(const Pack&, u32) {}
    DEVICE u64 bytes(u32, u32) const { return value; }
};
template <> DEVICE u64 multiplied<Bytes>(u64 bytes, u64) { return bytes; }

// Whether a type has code of its own for numbers of ranks also where it is long (protocol.cuh): what most bytes are of, as for all types that
// takes the compiler a third longer.
template <class T> constexpr bool IS_COMMON = false;
template <> constexpr bool IS_COMMON<f16> = true;
template <> constexpr bool IS_COMMON<bf16> = true;
template <> constexpr bool IS_COMMON<float> = true;
template <> constexpr bool IS_COMMON<Bytes> = true;
