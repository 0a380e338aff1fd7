//! The link that bounds a run: what it carries, how soon, and where that is known from.

use serde::Serialize;

use crate::units;

/// A link's two numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Link {
    /// What it carries.
    pub(crate) bandwidth: Bandwidth,
    /// One way, in microseconds, of the shortest message.
    pub(crate) latency_us: f64,
}

/// What a link carries, in GB/s.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bandwidth {
    /// A network's. A link between virtual machines may carry less each way when it is busy both ways.
    Network {
        /// Each way while it is busy both ways.
        both_ways: f64,
        /// One way while the other is idle.
        one_way: f64,
    },
    /// Memory's, by ascending size; never empty.
    Steps(Vec<Step>),
}

/// The bandwidth of copies of one size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Step {
    /// Bytes of one copy.
    pub(crate) size_bytes: u64,
    /// The fastest rank's, while all copied.
    pub(crate) gb_per_s: f64,
}

/// A link, and for people where its numbers are from, a line each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct KnownLink {
    /// The numbers.
    #[serde(flatten)]
    pub(crate) link: Link,
    /// `bandwidth: …`, `latency: …`.
    pub(crate) sources: Vec<String>,
}

impl KnownLink {
    /// These numbers, from there.
    pub(crate) fn new(bandwidth: Bandwidth, latency_us: f64, sources: Vec<String>) -> Self {
        KnownLink { link: Link { bandwidth, latency_us }, sources }
    }
}

/// What the user said of the link, in the flags' units.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct GivenLink {
    /// `--link-gbps`.
    pub(crate) gbit_per_s: Option<f64>,
    /// `--link-us`.
    pub(crate) latency_us: Option<f64>,
}

impl GivenLink {
    /// The bandwidth and its source.
    pub(crate) fn bandwidth(self) -> Option<(Bandwidth, String)> {
        let gbit_per_s = self.gbit_per_s?;
        let gb_per_s = gbit_per_s / 8.0;
        let source = format!("bandwidth {gb_per_s:.2} GB/s each way ({gbit_per_s} Gb/s), given");
        Some((Bandwidth::Network { both_ways: gb_per_s, one_way: gb_per_s }, source))
    }

    /// The latency and its source.
    pub(crate) fn latency(self) -> Option<(f64, String)> {
        let latency_us = self.latency_us?;
        Some((latency_us, format!("latency {latency_us} us, given")))
    }
}

/// `40.0 at 32 KiB, 12.0 at 2 MiB`.
pub(super) fn describe_steps(steps: &[Step]) -> String {
    let step = |step: &Step| format!("{:.1} at {}", step.gb_per_s, units::bytes(step.size_bytes));
    steps.iter().map(step).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_gigabits_and_said_in_both_units() {
        let given = GivenLink { gbit_per_s: Some(100.0), latency_us: Some(18.5) };
        let (bandwidth, source) = given.bandwidth().unwrap();
        assert_eq!(bandwidth, Bandwidth::Network { both_ways: 12.5, one_way: 12.5 });
        assert_eq!(source, "bandwidth 12.50 GB/s each way (100 Gb/s), given");
        assert_eq!(given.latency(), Some((18.5, "latency 18.5 us, given".to_owned())));
        assert_eq!(GivenLink::default().bandwidth(), None);
    }

    #[test]
    fn memory_is_described_by_size() {
        let steps = [(32 << 10, 40.04), (2 << 20, 12.0)];
        let steps = steps.map(|(size_bytes, gb_per_s)| Step { size_bytes, gb_per_s });
        assert_eq!(describe_steps(&steps), "40.0 at 32 KiB, 12.0 at 2 MiB");
    }
}
