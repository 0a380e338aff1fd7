//! Percentiles of single calls' times.
//!
//! Pure. By nearest rank: the p-th percentile of n times is the smallest that at least p percent of them do not
//! exceed, so that it is a time that was seen. Of fewer than 100 times the p99 is the longest.

/// What is told of many times, in the unit they came in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Percentiles {
    /// Half of the times were not longer.
    pub(crate) p50: f64,
    /// Of 100 times 99 were not longer.
    pub(crate) p99: f64,
}

impl Percentiles {
    /// Of these times; none of no times.
    pub(crate) fn of(times: &[f64]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let nearest =
            |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).checked_sub(1)?).copied();
        Some(Percentiles { p50: nearest(50)?, p99: nearest(99)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: impl IntoIterator<Item = u32>) -> Option<(f64, f64)> {
        let times: Vec<f64> = times.into_iter().map(f64::from).collect();
        Percentiles::of(&times).map(|found| (found.p50, found.p99))
    }

    #[test]
    fn percentiles_are_times_that_were_seen() {
        assert_eq!(of([]), None);
        assert_eq!(of([7]), Some((7.0, 7.0)));
        assert_eq!(of([2, 1]), Some((1.0, 2.0)));
        assert_eq!(of((1..=100).rev()), Some((50.0, 99.0)));
        assert_eq!(of(1..=1000), Some((500.0, 990.0)));
        assert_eq!(of(1..=20), Some((10.0, 20.0)));
    }
}
