//! What an all_reduce between two EC2 instances would take, on a model whose every parameter says where it is from.
//!
//! Given the instance and a size, [`Pair::all_reduce`] says the time of the hierarchical schedule and of NCCL's. Nothing of
//! it was measured on EFA hardware. The same model, given NCCL's schedule, must come near what was published of NCCL on
//! that instance; where it does not, [`Pair::trust`] refuses, and no figure is to be printed. It knows all_reduce only,
//! two instances only, and a network that is otherwise idle.

mod parameters;
mod time;

use std::fmt;

use clap::ValueEnum;

use self::parameters::{Anchor, Parameters};
use self::time::{hierarchical_s, nccl_s};
use crate::units::bytes;

/// An instance of EC2 with EFA cards and eight GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "lowercase")]
pub(crate) enum Instance {
    /// p4d.24xlarge: A100, four cards of 100 Gb/s
    P4d,
    /// p5.48xlarge: H100, 32 cards of 100 Gb/s
    P5,
}

/// Two instances of a kind, all their GPUs in one world.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    instance: Instance,
    parameters: &'static Parameters,
}

/// The times of one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    /// Of the hierarchical schedule, where cards read and write GPU memory.
    pub(crate) ours_s: f64,
    /// Of NCCL's.
    pub(crate) nccl_s: f64,
}

/// What the model says of a published figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trust {
    anchor: &'static Anchor,
    /// NCCL's time by the model.
    modelled_s: f64,
}

impl Pair {
    /// Two of this instance.
    pub(crate) fn of(instance: Instance) -> Self {
        let parameters = match instance {
            Instance::P4d => &parameters::P4D,
            Instance::P5 => &parameters::P5,
        };
        Pair { instance, parameters }
    }

    /// An all_reduce of so many bytes.
    pub(crate) fn all_reduce(self, len_bytes: u64) -> Estimate {
        Estimate {
            ours_s: hierarchical_s(self.parameters, len_bytes),
            nccl_s: nccl_s(self.parameters, len_bytes),
        }
    }

    /// How near the model comes to what was published of NCCL.
    pub(crate) fn trust(self) -> Trust {
        let anchor = &self.parameters.anchor;
        Trust { anchor, modelled_s: nccl_s(self.parameters, anchor.len_bytes) }
    }

    /// The bus bandwidth, as nccl-tests has it, of so many bytes in such a time, in GB/s.
    fn busbw(len_bytes: u64, time_s: f64) -> f64 {
        let ranks = f64::from(2 * parameters::GPUS);
        len_bytes as f64 / time_s * 2.0 * (ranks - 1.0) / ranks / 1e9
    }

    /// What is to be printed of these sizes.
    pub(crate) fn describe(self, sizes_bytes: impl Iterator<Item = u64>) -> String {
        let mut text = format!("{self}\n");
        let trust = self.trust();
        for parameter in self.parameters.all() {
            text += &format!("  {parameter}\n");
        }
        text += &format!("  check: {trust}\n");
        if !trust.is_earned() {
            return text + "  so no times are printed: the model lacks something that matters here\n";
        }
        text +=
            &format!("{:>12}{:>14}{:>14}{:>14}{:>14}\n", "size", "us", "busbw GB/s", "NCCL us", "busbw GB/s");
        for len_bytes in sizes_bytes {
            let Estimate { ours_s, nccl_s } = self.all_reduce(len_bytes);
            text += &format!(
                "{:>12}{:>14.1}{:>14.1}{:>14.1}{:>14.1}\n",
                bytes(len_bytes),
                ours_s * 1e6,
                Pair::busbw(len_bytes, ours_s),
                nccl_s * 1e6,
                Pair::busbw(len_bytes, nccl_s)
            );
        }
        text
    }
}

impl Trust {
    /// Whether the model is near enough that its times may be printed.
    pub(crate) fn is_earned(self) -> bool {
        self.error().abs() <= MOST_ERROR
    }

    /// How much longer NCCL takes by the model than was published, as a fraction.
    fn error(self) -> f64 {
        self.modelled_s / self.anchor.time_s - 1.0
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.instance {
            Instance::P4d => "p4d.24xlarge",
            Instance::P5 => "p5.48xlarge",
        };
        write!(
            f,
            "all_reduce between two {name}, {} GPUs each, by a model; nothing was measured on EFA hardware, and cards are \
             taken to read and write GPU memory",
            parameters::GPUS
        )
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Anchor { len_bytes, time_s, source } = *self.anchor;
        write!(
            f,
            "NCCL took {:.1} us at {} ({source}); on this model its schedule takes {:.1} us, {:+.0}%",
            time_s * 1e6,
            bytes(len_bytes),
            self.modelled_s * 1e6,
            self.error() * 100.0
        )
    }
}

/// What a model may be off by, of a figure that it was not made from.
const MOST_ERROR: f64 = 0.25;

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Instance; 2] = [Instance::P4d, Instance::P5];

    #[test]
    fn the_model_comes_near_what_was_published_of_nccl() {
        for instance in BOTH {
            let trust = Pair::of(instance).trust();
            assert!(trust.is_earned(), "{trust}");
        }
    }

    #[test]
    fn a_model_that_is_off_prints_no_times() {
        // Cards that are said to give all of their line rate make NCCL faster than it was seen to be.
        let mut off = parameters::P4D;
        off.share.value = 1.0;
        let pair = Pair { instance: Instance::P4d, parameters: Box::leak(Box::new(off)) };
        let text = pair.describe([8, 1 << 30].into_iter());
        assert!(!pair.trust().is_earned() && text.contains("no times are printed"), "{text}");
        assert!(!text.contains("NCCL us"), "{text}");
    }

    #[test]
    fn every_parameter_is_printed_with_its_source() {
        for instance in BOTH {
            let pair = Pair::of(instance);
            let text = pair.describe([8, 1 << 20].into_iter());
            for parameter in pair.parameters.all() {
                assert!(!parameter.source.is_empty() && text.contains(parameter.source), "{text}");
            }
            assert!(text.lines().last().unwrap().trim_start().starts_with("1 MiB"), "{text}");
        }
    }

    #[test]
    fn times_grow_with_the_size_and_end_at_a_link() {
        for instance in BOTH {
            let pair = Pair::of(instance);
            let sizes = (3..=34).map(|power| 1_u64 << power);
            let times: Vec<f64> = sizes.map(|size| pair.all_reduce(size).ours_s).collect();
            assert!(times.is_sorted(), "{times:?}");
            let parameters = pair.parameters;
            let cards = parameters.between_bytes_per_s();
            let slowest = cards.min(parameters.nvlink.value * 1e9 / 1.75);
            let reached = (1_u64 << 34) as f64 / times.last().unwrap() / slowest;
            assert!((0.95..=1.0).contains(&reached), "{reached} of the slowest link, {instance:?}");
        }
    }
}
