//! What the model of two instances stands on: numbers of others, or measured elsewhere, each with its source.

use std::fmt;

/// A number, and who says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Parameter {
    pub(super) what: &'static str,
    pub(super) value: f64,
    pub(super) unit: &'static str,
    pub(super) source: &'static str,
}

/// A published time of NCCL's, which no parameter was taken from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Anchor {
    pub(super) len_bytes: u64,
    pub(super) time_s: f64,
    pub(super) source: &'static str,
}

/// What a pair of instances is like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Parameters {
    /// Cards of an instance.
    pub(super) cards: Parameter,
    /// What a card moves each way, in GB/s.
    pub(super) card: Parameter,
    /// The share of that which was seen to be reached.
    pub(super) share: Parameter,
    /// From one instance's card to the other's, in us.
    pub(super) network: Parameter,
    /// What a GPU sends over NVLink, in GB/s.
    pub(super) nvlink: Parameter,
    /// A short exchange within an instance by our kernels, in us.
    pub(super) exchange: Parameter,
    /// Handing a short message from GPU to network and back, in us.
    pub(super) hand_over: Parameter,
    /// NCCL's own model of its trees: what starts one, a hop over NVLink and one over the network besides the network's
    /// own time, in us; for short messages and for large ones.
    pub(super) nccl_short: [Parameter; 3],
    pub(super) nccl_large: [Parameter; 3],
    pub(super) anchor: Anchor,
}

impl Parameters {
    pub(super) fn all(&self) -> impl Iterator<Item = &Parameter> {
        [&self.cards, &self.card, &self.share, &self.network, &self.nvlink, &self.exchange, &self.hand_over]
            .into_iter()
            .chain(&self.nccl_short)
            .chain(&self.nccl_large)
    }

    /// What goes out of an instance, and into it at the same time.
    pub(super) fn between_bytes_per_s(&self) -> f64 {
        self.cards.value * self.card.value * self.share.value * 1e9
    }
}

impl fmt::Display for Parameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parameter { what, value, unit, source } = self;
        let space = if unit.is_empty() { "" } else { " " };
        write!(f, "{what}: {value}{space}{unit} ({source})")
    }
}

/// GPUs of an instance.
pub(super) const GPUS: u32 = 8;

/// p4d.24xlarge. The share is what a ring of three and four nodes reached of the cards' line rate (31.8 and 29.6 of
/// 50 GB/s), from the same runs as the anchor, which had two nodes: it is not what the anchor says.
pub(super) const P4D: Parameters = of_instance(Instance {
    cards: 4.0,
    share: (0.614, "NCCL's ring over 3 and 4 nodes, github.com/NVIDIA/nccl/issues/527"),
    network: (18.0, "aws-ofi-nccl's tuner, for the p5en; none is known for the p4d"),
    nvlink: (235.0, "busbw within one p4d, github.com/NVIDIA/nccl/issues/527"),
    anchor: Anchor {
        len_bytes: 1 << 30,
        time_s: 35.2e-3,
        source: "57.2 GB/s of busbw, github.com/NVIDIA/nccl/issues/527",
    },
});

/// p5.48xlarge.
pub(super) const P5: Parameters = of_instance(Instance {
    cards: 32.0,
    share: (0.97, "3,108 of 3,200 Gb/s by raw EFA writes, le.qun.ch"),
    network: (20.0, "aws-ofi-nccl's tuner, for the p5"),
    nvlink: (370.0, "an H100's fourth generation, github.com/NVIDIA/nccl-tests/issues/212"),
    anchor: Anchor { len_bytes: 8, time_s: 69e-6, source: "github.com/aws/aws-k8s-tester/issues/585" },
});

/// What sets a kind of instance apart: values, each with its source where that is not AWS.
struct Instance {
    cards: f64,
    share: (f64, &'static str),
    network: (f64, &'static str),
    nvlink: (f64, &'static str),
    anchor: Anchor,
}

const fn of_instance(instance: Instance) -> Parameters {
    const fn parameter(what: &'static str, unit: &'static str, own: (f64, &'static str)) -> Parameter {
        let (value, source) = own;
        Parameter { what, value, unit, source }
    }
    Parameters {
        cards: parameter("cards", "", (instance.cards, "AWS")),
        card: CARD,
        share: parameter("share of the cards' line rate that is reached", "", instance.share),
        network: parameter("one way between cards", "us", instance.network),
        nvlink: parameter("NVLink, what a GPU sends", "GB/s", instance.nvlink),
        exchange: EXCHANGE,
        hand_over: HAND_OVER,
        nccl_short: NCCL_SHORT,
        nccl_large: NCCL_LARGE,
        anchor: instance.anchor,
    }
}

const CARD: Parameter =
    Parameter { what: "a card each way", value: 12.5, unit: "GB/s", source: "AWS, 100 Gb/s" };
const EXCHANGE: Parameter = Parameter {
    what: "short exchange between GPUs of an instance",
    value: 4.8,
    unit: "us",
    source: "all_reduce of 8 B by 4 H200, BENCHMARKING.md",
};
const HAND_OVER: Parameter = Parameter {
    what: "GPU to network and back",
    value: 15.2,
    unit: "us",
    source: "at most: all_reduce of 8 B by two emulated nodes, TCP and all, BENCHMARKING.md",
};
const NCCL_SHORT: [Parameter; 3] = [
    Parameter { what: "NCCL's tree, LL", value: 6.8, unit: "us", source: TUNING },
    Parameter { what: "its hop over NVLink", value: 0.6, unit: "us", source: TUNING },
    Parameter { what: "its hop over the network, besides", value: 5.0, unit: "us", source: TUNING },
];
const NCCL_LARGE: [Parameter; 3] = [
    Parameter { what: "NCCL's tree, Simple", value: 8.4, unit: "us", source: TUNING },
    Parameter { what: "its hop over NVLink", value: 4.0, unit: "us", source: TUNING },
    Parameter { what: "its hop over the network, besides", value: 14.0, unit: "us", source: TUNING },
];
const TUNING: &str = "NCCL's src/graph/tuning.cc";
