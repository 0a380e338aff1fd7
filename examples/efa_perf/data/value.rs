//! Single elements: what a rank puts in, so that no step of any order of reduction rounds.
//!
//! Pure. Integers wrap, so that their sums and products are exact as they are. Floats are small multiples of 1/16
//! whose sums fit the type's significand, and powers of two whose products stay within its exponents. Where the world
//! has more ranks than that leaves room for, each element gets a contribution from every so-many-th rank only, and
//! from which depends on the index. Averages are made to come out whole: each rank gives the average, plus a number
//! of its own, less the next rank's; over all ranks these cancel.

use efarun_rt::{Element, ReduceOp};
use half::{bf16, f16};

/// An element type that inputs can be made of.
pub(crate) trait Sample: Element + bytemuck::Pod {
    /// Filled into results before a call, so that an element nobody wrote is found. No expected value equals it often.
    const POISON: Self;

    /// What a rank puts in at a place: exact under `op` with what the others do.
    fn input(op: ReduceOp, spot: Spot, rank: u32) -> Self;

    /// What `op` makes of two elements, stated here a second time so that the library is not checked by itself. Of an
    /// average, this is the sum.
    fn reduced(op: ReduceOp, left: Self, right: Self) -> Self;

    /// What becomes of the reduction over all ranks at the end: only an average is divided.
    fn finished(op: ReduceOp, reduced: Self, world_size: u32) -> Self;
}

/// The place of an element, the same on all ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    /// World size.
    pub(crate) world_size: u32,
    /// Tells calls apart.
    pub(crate) seed: u64,
    /// The element's place in the operation.
    pub(crate) index: usize,
}

impl Spot {
    /// Random bits for one rank's element here: splitmix64 over what identifies it.
    fn bits(self, rank: u32) -> u64 {
        let state =
            self.seed.wrapping_mul(0xd1b5_4a32_d192_ed03) ^ (u64::from(rank) << 32) ^ self.index as u64;
        let mut bits = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Random bits that all ranks have alike.
    fn common_bits(self) -> u64 {
        self.bits(u32::MAX)
    }
}

/// The ranks that contribute to an element: all, or every so-many-th where that would be too many.
#[derive(Clone, Copy, Debug)]
struct Contributors {
    stride: u32,
    first: u32,
    world_size: u32,
}

impl Contributors {
    /// So many that half of a sum's digits are for how many there are, and half for each of them.
    fn of_sum(spot: Spot, digits: u32) -> Self {
        Self::at_most(1 << (digits / 2), spot)
    }

    fn at_most(count: u32, spot: Spot) -> Self {
        let stride = spot.world_size.div_ceil(count);
        let first = (spot.common_bits() >> 32) as u32 % stride;
        Contributors { stride, first, world_size: spot.world_size }
    }

    fn are_all(self) -> bool {
        self.stride == 1
    }

    fn has(self, rank: u32) -> bool {
        rank % self.stride == self.first
    }

    /// The largest whole number of which a sum over all contributors fits `digits` bits.
    fn magnitude(self, digits: u32) -> u64 {
        let count = self.world_size.div_ceil(self.stride);
        let room = digits - count.next_power_of_two().trailing_zeros();
        (1 << room.min(SUMMAND_DIGITS_MAX)) - 1
    }

    /// The contributor after this one, round and round.
    fn after(self, rank: u32) -> u32 {
        rank.checked_add(self.stride).filter(|next| *next < self.world_size).unwrap_or(self.first)
    }
}

macro_rules! integer_sample {
    ($($type:ty),*) => {$(
        impl Sample for $type {
            const POISON: Self = 0x5a;

            fn input(op: ReduceOp, spot: Spot, rank: u32) -> Self {
                let bits = spot.bits(rank);
                match op {
                    // An even factor would push every product towards 0, where a missing one does not show.
                    ReduceOp::Prod => bits as $type | 1,
                    ReduceOp::Avg => whole_share_of_average(spot, rank, <$type>::MAX as u64) as $type,
                    _ => bits as $type,
                }
            }

            fn reduced(op: ReduceOp, left: Self, right: Self) -> Self {
                match op {
                    ReduceOp::Sum | ReduceOp::Avg => left.wrapping_add(right),
                    ReduceOp::Prod => left.wrapping_mul(right),
                    ReduceOp::Min => left.min(right),
                    ReduceOp::Max => left.max(right),
                    other => unreachable!("no input is made for {other}"),
                }
            }

            fn finished(op: ReduceOp, reduced: Self, world_size: u32) -> Self {
                if op == ReduceOp::Avg { (reduced as i128 / i128::from(world_size)) as $type } else { reduced }
            }
        }
    )*};
}

/// Floats, by the bits of their significand, how many factors of 2 or 1/2 a product of them may have, and the ways from
/// and to the type in which all of this is computed.
macro_rules! float_sample {
    ($($type:ty: $digits:literal, $factors:literal, $poison:expr, $from:expr, $to:expr;)*) => {$(
        impl Sample for $type {
            const POISON: Self = $poison;

            fn input(op: ReduceOp, spot: Spot, rank: u32) -> Self {
                let bits = spot.bits(rank);
                $from(match op {
                    ReduceOp::Prod => power_of_two(bits, Contributors::at_most($factors, spot).has(rank)),
                    ReduceOp::Sum => summand(spot, rank, $digits),
                    ReduceOp::Avg => share_of_average(spot, rank, $digits),
                    _ => sixteenths(bits, (1 << $digits.min(COMPARED_DIGITS_MAX)) - 1),
                })
            }

            fn reduced(op: ReduceOp, left: Self, right: Self) -> Self {
                let (left, right): (f64, f64) = ($to(left), $to(right));
                $from(match op {
                    ReduceOp::Sum | ReduceOp::Avg => left + right,
                    ReduceOp::Prod => left * right,
                    ReduceOp::Min => left.min(right),
                    ReduceOp::Max => left.max(right),
                    other => unreachable!("no input is made for {other}"),
                })
            }

            fn finished(op: ReduceOp, reduced: Self, world_size: u32) -> Self {
                if op == ReduceOp::Avg { $from($to(reduced) / f64::from(world_size)) } else { reduced }
            }
        }
    )*};
}

integer_sample!(i8, u8, i16, u16, i32, u32, i64, u64);
float_sample! {
    f16: 11u32, 14, f16::from_f32_const(-12288.0), f16::from_f64, f16::to_f64;
    bf16: 8u32, 100, bf16::from_f32_const(-12288.0), bf16::from_f64, bf16::to_f64;
    f32: 24u32, 100, -12288.0, |value: f64| value as f32, f64::from;
    f64: 53u32, 1000, -12288.0, |value: f64| value, |value: f64| value;
}

/// A multiple of 1/16, of which all contributors' add up within `digits` bits, in any order.
fn summand(spot: Spot, rank: u32, digits: u32) -> f64 {
    let contributors = Contributors::of_sum(spot, digits);
    if !contributors.has(rank) {
        return 0.0;
    }
    sixteenths(spot.bits(rank), contributors.magnitude(digits))
}

/// What makes the average over all ranks a multiple of 1/16: that, and a number of the rank's own less its successor's.
/// The sum keeps within `digits` bits in any order. Where only some contribute, the average is 0.
fn share_of_average(spot: Spot, rank: u32, digits: u32) -> f64 {
    let contributors = Contributors::of_sum(spot, digits);
    if !contributors.has(rank) {
        return 0.0;
    }
    let span = contributors.magnitude(digits) / 2 + 1;
    let own = |rank| (spot.bits(rank) % span) as f64;
    let average = if contributors.are_all() { (spot.common_bits() % span) as f64 } else { 0.0 };
    (average + own(rank) - own(contributors.after(rank))) / 16.0
}

/// The same in whole numbers that are not negative and whose sum does not exceed `max`. With more ranks than half of
/// `max` nothing but 0 is left.
fn whole_share_of_average(spot: Spot, rank: u32, max: u64) -> u64 {
    let all = Contributors::at_most(u32::MAX, spot);
    let span = (max / (2 * u64::from(spot.world_size))).min(1 << 40);
    let own = |rank| spot.bits(rank) % (span + 1);
    let average = span + spot.common_bits() % (span + 1);
    average + own(rank) - own(all.after(rank))
}

/// A multiple of 1/16 between plus and minus `magnitude` sixteenths.
fn sixteenths(bits: u64, magnitude: u64) -> f64 {
    let step = (bits % (2 * magnitude + 1)) as f64 - magnitude as f64;
    step / 16.0
}

/// 1/2, 1 or 2 from a contributor, 1 from another, with either sign.
fn power_of_two(bits: u64, contributes: bool) -> f64 {
    let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
    let factor = if contributes { [0.5, 1.0, 2.0][(bits >> 8) as usize % 3] } else { 1.0 };
    sign * factor
}

/// Enough different values that a wrong one is seldom right by chance.
const SUMMAND_DIGITS_MAX: u32 = 11;

/// The same for what is compared.
const COMPARED_DIGITS_MAX: u32 = 20;
