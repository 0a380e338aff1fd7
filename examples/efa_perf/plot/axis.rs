//! A logarithmic axis: where a number lies, and which numbers are written beside it.

use crate::units;

/// From numbers to places.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    start: f64,
    end: f64,
    unit: Unit,
}

/// How numbers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Powers of 2: `64 KiB`.
    Bytes,
    /// Powers of 10: `20 us`, `1 ms`.
    Microseconds,
    /// Powers of 10: `0.1`.
    Plain,
}

/// A number on the axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    /// The number.
    pub(super) value: f64,
    /// How it is written.
    pub(super) label: String,
}

impl Axis {
    /// Covers these positive values, from `start` to `end` in the picture.
    pub(super) fn new(values: impl Iterator<Item = f64>, start: f64, end: f64, unit: Unit) -> Self {
        let none = (f64::INFINITY, f64::NEG_INFINITY);
        let (low, high) = values.fold(none, |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if low > high { (1.0, 1.0) } else { (low, high) };
        // A single value lies in the middle of something, and none on the frame.
        let (low, high) = match unit {
            Unit::Bytes if low < high => (low, high),
            Unit::Bytes => (low / 2.0, high * 2.0),
            _ if low * 1.01 < high => (low / 1.25, high * 1.25),
            _ => (low / 3.0, high * 3.0),
        };
        Axis { low, high, start, end, unit }
    }

    /// Where a value lies.
    pub(super) fn place(&self, value: f64) -> f64 {
        let fraction = (value / self.low).ln() / (self.high / self.low).ln();
        self.start + fraction * (self.end - self.start)
    }

    /// Round numbers within the axis, as many as `max` allows.
    pub(super) fn ticks(&self, max: usize) -> Vec<Tick> {
        let finest_first: &[&[f64]] = match self.unit {
            Unit::Bytes => &[&[1.0]],
            _ => &[&[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]],
        };
        let base: f64 = if self.unit == Unit::Bytes { 2.0 } else { 10.0 };
        let of = |multiples: &[f64], stride: i32| -> Vec<Tick> {
            let exponent = |value: f64| value.log(base).floor() as i32;
            let first = exponent(self.low).div_euclid(stride) * stride;
            (first..=exponent(self.high) + 1)
                .step_by(stride as usize)
                .flat_map(|power| multiples.iter().map(move |multiple| multiple * base.powi(power)))
                .filter(|value| (self.low * 0.999..=self.high * 1.001).contains(value))
                .map(|value| Tick { value, label: self.label(value) })
                .collect()
        };
        let candidates = finest_first.iter().map(|multiples| of(multiples, 1));
        let coarser = (2..=64).map(|stride| of(&[1.0], stride));
        candidates.chain(coarser).find(|ticks| ticks.len() <= max).unwrap_or_default()
    }

    fn label(&self, value: f64) -> String {
        match self.unit {
            Unit::Bytes => units::bytes(value.round() as u64),
            Unit::Plain => plain(value),
            Unit::Microseconds if value < 999.0 => format!("{} us", plain(value)),
            Unit::Microseconds if value < 999e3 => format!("{} ms", plain(value / 1e3)),
            Unit::Microseconds => format!("{} s", plain(value / 1e6)),
        }
    }
}

/// Without the noise of binary fractions: `0.2`, `1e-5`.
fn plain(value: f64) -> String {
    if value < 1e-4 {
        return format!("{value:.0e}");
    }
    let decimals = (-value.log10().floor()).max(0.0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: [f64; 2], unit: Unit, max: usize) -> Vec<String> {
        Axis::new(values.into_iter(), 0.0, 1.0, unit).ticks(max).into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn equal_ratios_are_equal_distances() {
        let axis = Axis::new([8.0, 8.0 * 1024.0].into_iter(), 100.0, 200.0, Unit::Bytes);
        assert_eq!((axis.place(8.0), axis.place(8192.0)), (100.0, 200.0));
        assert!((axis.place(256.0) - 150.0).abs() < 1e-9);
    }

    #[test]
    fn sizes_are_labelled_in_powers_of_two_as_many_as_fit() {
        assert_eq!(labels([8.0, 64.0], Unit::Bytes, 9), ["8 B", "16 B", "32 B", "64 B"]);
        let long = labels([8.0, f64::from(1 << 26)], Unit::Bytes, 9);
        assert!(long.len() <= 9 && long.len() >= 4 && long.contains(&"4 KiB".to_owned()), "{long:?}");
    }

    #[test]
    fn times_change_their_unit_and_bandwidths_have_no_noise() {
        assert_eq!(
            labels([8.0, 2e6], Unit::Microseconds, 8),
            ["10 us", "100 us", "1 ms", "10 ms", "100 ms", "1 s"]
        );
        assert_eq!(labels([0.1, 1.0], Unit::Plain, 8), ["0.1", "0.2", "0.5", "1"]);
        assert_eq!(labels([1e-6, 1e-5], Unit::Plain, 3), ["1e-6", "3e-6", "1e-5"]);
    }

    #[test]
    fn a_single_value_or_none_still_makes_an_axis() {
        let axis = Axis::new([5.0].into_iter(), 0.0, 1.0, Unit::Plain);
        assert!((axis.place(5.0) - 0.5).abs() < 1e-9);
        assert!(!axis.ticks(8).is_empty());
        assert!(Axis::new(std::iter::empty(), 0.0, 1.0, Unit::Bytes).place(1.0).is_finite());
    }
}
