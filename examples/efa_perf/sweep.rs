//! Sizes: how they are written (`8`, `64K`, `1.5G`) and in which order they are measured.
//!
//! Pure. Sizes are bytes; K, M and G are powers of 1024, as nccl-tests takes them.

use std::str::FromStr;

/// A number of bytes as a flag gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

/// Why text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    /// Not a number followed by at most one suffix.
    #[error("a size is a number with K, M or G behind it or nothing, like 8, 64K or 1.5G; found `{0}`")]
    Malformed(String),
    /// Beyond what a buffer can have.
    #[error("`{0}` is more than any machine's memory")]
    TooLarge(String),
}

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let malformed = || SizeError::Malformed(text.to_owned());
        let (digits, unit) = match text.char_indices().next_back().ok_or_else(malformed)? {
            (at, 'k' | 'K') => (&text[..at], 1u64 << 10),
            (at, 'm' | 'M') => (&text[..at], 1 << 20),
            (at, 'g' | 'G') => (&text[..at], 1 << 30),
            _ => (text, 1),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(malformed());
        }
        let bytes = match digits.parse::<u64>() {
            Ok(whole) => whole.checked_mul(unit),
            Err(_) => {
                let bytes = digits.parse::<f64>().map_err(|_| malformed())? * unit as f64;
                (bytes < LARGEST_BYTES as f64).then_some(bytes as u64)
            }
        };
        bytes
            .filter(|bytes| *bytes <= LARGEST_BYTES)
            .map(ByteSize)
            .ok_or(SizeError::TooLarge(text.to_owned()))
    }
}

/// How one size follows another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Growth {
    /// `-i`: add these bytes; never 0.
    Add(u64),
    /// `-f`: multiply; at least 2.
    Multiply(u64),
}

/// The sizes of a run, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sweep {
    /// `-b`; at least 1.
    pub(crate) first_bytes: u64,
    /// `-e`; the last size is the largest that is reached without going beyond.
    pub(crate) last_bytes: u64,
    /// `-i` or `-f`.
    pub(crate) growth: Growth,
}

impl Sweep {
    /// The sizes, in order.
    pub(crate) fn sizes_bytes(self) -> impl Iterator<Item = u64> {
        std::iter::successors(Some(self.first_bytes), move |size| match self.growth {
            Growth::Add(step) => size.checked_add(step),
            Growth::Multiply(factor) => size.checked_mul(factor),
        })
        .take_while(move |size| *size <= self.last_bytes)
    }

    /// The same span to warm up with: doubling, whatever the growth, as nccl-tests does.
    pub(crate) fn warmup(self) -> Self {
        Sweep { growth: Growth::Multiply(2), ..self }
    }
}

/// 2^48: what an address space holds on today's machines.
const LARGEST_BYTES: u64 = 1 << 48;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> u64 {
        text.parse::<ByteSize>().unwrap().0
    }

    #[test]
    fn suffixes_are_powers_of_1024_in_either_case() {
        assert_eq!(bytes("8"), 8);
        assert_eq!(bytes("64K"), 65536);
        assert_eq!(bytes("64k"), 65536);
        assert_eq!(bytes("16M"), 16 << 20);
        assert_eq!(bytes("2g"), 2 << 30);
        assert_eq!(bytes("1.5G"), 3 << 29);
    }

    #[test]
    fn text_that_is_no_size_is_refused_with_the_text() {
        for text in ["", "K", "-8", "8KB", "8 K", "1e3", "eight", "0x10", "..5"] {
            assert_eq!(text.parse::<ByteSize>(), Err(SizeError::Malformed(text.to_owned())), "{text}");
        }
        for text in ["300000G", "99999999999999999999", "18446744073709551615G"] {
            assert_eq!(text.parse::<ByteSize>(), Err(SizeError::TooLarge(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn factor_multiplies_until_the_last_size_would_be_passed() {
        let sweep = Sweep { first_bytes: 8, last_bytes: 100, growth: Growth::Multiply(3) };
        assert_eq!(sweep.sizes_bytes().collect::<Vec<_>>(), [8, 24, 72]);
        assert_eq!(sweep.warmup().sizes_bytes().collect::<Vec<_>>(), [8, 16, 32, 64]);
    }

    #[test]
    fn step_adds_and_the_last_size_is_included() {
        let sweep = Sweep { first_bytes: 10, last_bytes: 30, growth: Growth::Add(10) };
        assert_eq!(sweep.sizes_bytes().collect::<Vec<_>>(), [10, 20, 30]);
    }

    #[test]
    fn sweep_ends_where_numbers_end() {
        let sweep = Sweep { first_bytes: u64::MAX / 2, last_bytes: u64::MAX, growth: Growth::Multiply(3) };
        assert_eq!(sweep.sizes_bytes().count(), 1);
    }
}
