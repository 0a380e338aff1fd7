//! What efarun does about each variable of libfabric's EFA provider and of what stands around it: one table.
//!
//! [`super::efa`] goes by it when it makes an environment, `efarun variables` prints it, and docs/environment.md is that
//! print. What a variable does was read in libfabric's sources (prov/efa, src/fabric.c, src/hmem.c) and in
//! aws-ofi-nccl's documents; its default is that of libfabric 2.6. A variable that is not listed is passed on where its
//! prefix is ([`super::forward`]).

use std::fmt;

/// A variable, or several that are treated alike.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// The names.
    pub(super) names: &'static [&'static str],
    /// What holds where it is not set.
    pub(super) default: &'static str,
    /// What it does, as a fragment.
    pub(super) about: &'static str,
    /// What efarun does about it; nothing but passing it on where there is no rule.
    pub(super) rules: &'static [Rule],
}

/// What efarun does about a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// Sets it where the user did not.
    Sets {
        /// To this.
        value: &'static str,
        /// Where this is so.
        when: Situation,
    },
    /// Refuses to start ranks: the provider would abort each of them.
    Refuses {
        /// A value like this.
        value: Value,
        /// What the provider does about it.
        why: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// Says something about it, once.
    Notes {
        /// For a value like this.
        value: Value,
        /// What.
        text: &'static str,
    },
}

/// What holds for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Situation {
    /// Every node has an EFA device.
    EfaEverywhere,
    /// EFA is used, and some node's kernel is older than 5.13.
    OldKernel,
    /// Some node has a GPU.
    SomeGpu,
}

/// Values that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// Whatever it is, the empty one too.
    Any,
    /// The empty one.
    Empty,
    /// A switch that is on, as libfabric reads it.
    On,
    /// A switch that is off.
    Off,
    /// A number that is not above 0.
    NotPositive,
    /// A switch that is on, while another is, too.
    OnWith(&'static str),
    /// A list of devices that some node with EFA devices has not.
    DeviceMissing,
    /// A number below that of the ranks on a node.
    FewerThanLocalRanks,
}

impl Situation {
    /// As the reason that ranks have a variable.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Situation::EfaEverywhere => "every node has an EFA device",
            Situation::OldKernel => "a node's kernel is older than 5.13",
            Situation::SomeGpu => "a GPU's number is its place on the bus",
        }
    }
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Situation::EfaEverywhere => "every node has an EFA device",
            Situation::OldKernel => "EFA is used and a node's kernel is older than 5.13",
            Situation::SomeGpu => "a node has a GPU",
        })
    }
}

impl Value {
    /// Says whether a value is such, as far as it says so itself.
    pub(super) fn matches(self, value: &[u8]) -> bool {
        let is_one_of = |words: &[&str]| words.iter().any(|word| value.eq_ignore_ascii_case(word.as_bytes()));
        match self {
            Value::Any | Value::DeviceMissing | Value::FewerThanLocalRanks => true,
            Value::Empty => value.is_empty(),
            Value::On | Value::OnWith(_) => is_one_of(&["1", "true", "yes", "on"]),
            Value::Off => is_one_of(&["0", "false", "no", "off"]),
            Value::NotPositive => number(value).is_some_and(|number| number <= 0),
        }
    }
}

/// A value as a number.
pub(super) fn number(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Any => f.write_str("whatever its value"),
            Value::Empty => f.write_str("where it is empty"),
            Value::On => f.write_str("where it is 1"),
            Value::Off => f.write_str("where it is 0"),
            Value::NotPositive => f.write_str("where it is 0 or less"),
            Value::OnWith(other) => write!(f, "where it is 1 and {other} is, too"),
            Value::DeviceMissing => f.write_str("where a node has no device of that name"),
            Value::FewerThanLocalRanks => f.write_str("where a node has more ranks"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Sets { value, when } => write!(f, "set to `{value}` where {when}, unless you set it"),
            Rule::Refuses { value, why, remedy } => write!(f, "**refused** {value}: {why}; {remedy}"),
            Rule::Notes { value, text } => write!(f, "noted {value}: {text}"),
        }
    }
}

/// Returns the whole table, for people.
pub fn document() -> String {
    let mut text = INTRODUCTION.to_owned();
    for known in KNOWN {
        let names: Vec<String> = known.names.iter().map(|name| format!("`{name}`")).collect();
        let rules: Vec<String> = known.rules.iter().map(Rule::to_string).collect();
        let does = if rules.is_empty() { "passed on".to_owned() } else { rules.join("<br>") };
        text += &format!("| {} | {} | {} | {does} |\n", names.join("<br>"), known.default, known.about);
    }
    text
}

/// The variable that chooses libfabric's provider.
pub(super) const PROVIDER: &str = "FI_PROVIDER";
/// The one that keeps what a card writes to out of a forked child's hands.
pub(super) const FORK_SAFE: &str = "FI_EFA_FORK_SAFE";
/// Huge pages for the provider's own buffers.
pub(super) const HUGE_PAGE: &str = "FI_EFA_USE_HUGE_PAGE";
/// The provider's shared memory between ranks of a node.
pub(super) const SHM_TRANSFER: &str = "FI_EFA_ENABLE_SHM_TRANSFER";

const INTRODUCTION: &str = "\
# Variables around EFA, and what efarun does about them

Printed by `efarun variables`, from the table that efarun goes by. Refusals and notes are given where FI_PROVIDER names
EFA, before any rank starts; `--dry-run` shows what ranks would get, and why. What is passed on is passed from where efarun
is typed, and by `-x` from anywhere.

| variable | default | what it does | what efarun does |
|---|---|---|---|
";

const REMOVED: Rule = Rule::Refuses {
    value: Value::Any,
    why: "it was removed, and its presence is an error",
    remedy: "unset it: the limit is the device's",
};
const UNREAD: Rule = Rule::Notes { value: Value::Any, text: "libfabric does not read it any more" };

/// The table.
pub(super) const KNOWN: &[Known] = &[
    Known {
        names: &[PROVIDER],
        default: "all",
        about: "which of libfabric's providers may be used; without EFA's name in it, programs may silently take TCP",
        rules: &[Rule::Sets { value: "efa", when: Situation::EfaEverywhere }],
    },
    Known {
        names: &["FI_EFA_USE_DEVICE_RDMA"],
        default: "what the card can",
        about: "whether the card's RDMA is used",
        rules: &[
            Rule::Notes {
                value: Value::Off,
                text: "switches RDMA off, and with it GPU memory on older libfabric",
            },
            Rule::Notes {
                value: Value::On,
                text: "aborts every process whose card has no RDMA read; libfabric switches it on by itself where there is any",
            },
        ],
    },
    Known {
        names: &[FORK_SAFE],
        default: "0",
        about: "keeps memory of the card apart from that of a forked child; needed before Linux 5.13 only",
        rules: &[Rule::Sets { value: "1", when: Situation::OldKernel }],
    },
    Known {
        names: &[HUGE_PAGE],
        default: "1 unless fork-safe",
        about: "takes huge pages for the provider's buffers; 0 helps where forking runs out of memory",
        rules: &[Rule::Refuses {
            value: Value::OnWith(FORK_SAFE),
            why: "FI_EFA_FORK_SAFE=1 is set as well, and the two exclude each other",
            remedy: "unset one of them",
        }],
    },
    Known {
        names: &["RDMAV_FORK_SAFE", "IBV_FORK_SAFE"],
        default: "unset",
        about: "libibverbs' own fork safety",
        rules: &[Rule::Notes {
            value: Value::Any,
            text: "not needed since Linux 5.13, and in the way of huge pages; FI_EFA_FORK_SAFE is the one for older kernels",
        }],
    },
    Known {
        names: &["RDMAV_HUGEPAGES_SAFE"],
        default: "unset",
        about: "libibverbs' own care for huge pages",
        rules: &[Rule::Notes {
            value: Value::Any,
            text: "together with fork support no EFA endpoint can be made",
        }],
    },
    Known {
        names: &["FI_EFA_IFACE"],
        default: "all",
        about: "which devices the provider may use, by name, with commas",
        rules: &[
            Rule::Refuses {
                value: Value::Empty,
                why: "it is empty, which names no device",
                remedy: "unset it, or give device names such as rdmap16s27",
            },
            Rule::Notes { value: Value::DeviceMissing, text: "names a device that is not on every node" },
        ],
    },
    Known {
        names: &["FI_EFA_MTU_SIZE", "FI_EFA_TX_IOV_LIMIT", "FI_EFA_RX_IOV_LIMIT"],
        default: "none",
        about: "limits that are the device's by now",
        rules: &[REMOVED],
    },
    Known {
        names: &["FI_EFA_TX_MIN_CREDITS"],
        default: "32",
        about: "packets that a peer may always have under way",
        rules: &[Rule::Refuses {
            value: Value::NotPositive,
            why: "it must be more than 0",
            remedy: "unset it, or give a number above 0",
        }],
    },
    Known {
        names: &["FI_EFA_SET_CUDA_SYNC_MEMOPS", "FI_EFA_SHM_MAX_MEDIUM_SIZE", "FI_EFA_ZCPY_RX_SEED"],
        default: "none",
        about: "nothing any more",
        rules: &[UNREAD],
    },
    Known {
        names: &[SHM_TRANSFER],
        default: "1",
        about: "the provider's shared memory between ranks of a node; efarun's own runtime has another",
        rules: &[],
    },
    Known {
        names: &["FI_EFA_SHM_AV_SIZE"],
        default: "256",
        about: "how many ranks of a node the provider's shared memory reaches",
        rules: &[Rule::Notes {
            value: Value::FewerThanLocalRanks,
            text: "a node has more ranks than the provider's shared memory reaches; FI_EFA_ENABLE_SHM_TRANSFER=0 does without",
        }],
    },
    Known {
        names: &[
            "FI_EFA_INTER_MIN_READ_MESSAGE_SIZE",
            "FI_EFA_INTER_MAX_MEDIUM_MESSAGE_SIZE",
            "FI_EFA_INTER_MIN_READ_WRITE_SIZE",
            "FI_EFA_RUNT_SIZE",
        ],
        default: "by kind of memory",
        about: "from which length on messages take which protocol; alike on all ranks",
        rules: &[],
    },
    Known {
        names: &[
            "FI_EFA_CQ_SIZE",
            "FI_EFA_TX_SIZE",
            "FI_EFA_RX_SIZE",
            "FI_EFA_TX_QUEUE_SIZE",
            "FI_EFA_RECVWIN_SIZE",
            "FI_EFA_IMPLICIT_AV_SIZE",
            "FI_EFA_INTERNAL_RX_REFILL_THRESHOLD",
        ],
        default: "by device",
        about: "sizes of queues and tables",
        rules: &[],
    },
    Known {
        names: &["FI_EFA_MAX_TIMEOUT"],
        default: "1 s",
        about: "the longest pause before a receiver that was not ready is tried again",
        rules: &[],
    },
    Known {
        names: &[
            "FI_EFA_MR_CACHE_ENABLE",
            "FI_EFA_MR_MAX_CACHED_COUNT",
            "FI_EFA_MR_MAX_CACHED_SIZE",
            "FI_EFA_TRACK_MR",
            "FI_MR_CACHE_MONITOR",
            "FI_MR_CUDA_CACHE_MONITOR_ENABLED",
        ],
        default: "by release",
        about: "the provider's cache of registrations, which efarun's own runtime does without",
        rules: &[],
    },
    Known {
        names: &[
            "FI_EFA_USE_ZCPY_RX",
            "FI_EFA_USE_UNSOLICITED_WRITE_RECV",
            "FI_EFA_USE_DATA_PATH_DIRECT",
            "FI_EFA_USE_HW_CNTR",
        ],
        default: "1",
        about: "ways of the provider's; 0 tells whether one of them is at fault. FI_EFA_USE_ZCPY_RX=0 lets releases before and \
                from 1.22 on speak to each other",
        rules: &[],
    },
    Known {
        names: &["FI_HMEM"],
        default: "all",
        about: "which kinds of device memory libfabric looks for",
        rules: &[],
    },
    Known {
        names: &["FI_HMEM_DISABLE_P2P"],
        default: "0",
        about: "keeps cards from GPU memory",
        rules: &[Rule::Notes {
            value: Value::On,
            text: "switches GPUDirect off: GPU memory goes through the host",
        }],
    },
    Known {
        names: &["FI_HMEM_CUDA_USE_DMABUF", "FI_HMEM_CUDA_USE_GDRCOPY", "FI_HMEM_CUDA_ENABLE_ASYNC_COPY"],
        default: "1",
        about: "how GPU memory is registered and copied",
        rules: &[],
    },
    Known {
        names: &["FI_LOG_LEVEL", "FI_LOG_PROV", "FI_LOG_SUBSYS"],
        default: "unset",
        about: "what libfabric logs: `info` tells how RDMA and GPUDirect were decided",
        rules: &[],
    },
    Known {
        names: &[
            "FI_UNIVERSE_SIZE",
            "FI_FORK_UNSAFE",
            "FI_HOOK",
            "FI_OFFLOAD_COLL_PROVIDER",
            "FI_AV_REMOVE_CLEANUP",
        ],
        default: "unset",
        about: "libfabric's own settings",
        rules: &[],
    },
    Known {
        names: &["CUDA_DEVICE_ORDER"],
        default: "FASTEST_FIRST",
        about: "what a GPU's number means",
        rules: &[Rule::Sets { value: "PCI_BUS_ID", when: Situation::SomeGpu }],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_is_what_the_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/environment.md");
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == document(),
            "docs/environment.md is another: `efarun variables >docs/environment.md`"
        );
    }

    #[test]
    fn no_variable_has_two_rows() {
        let mut names: Vec<&str> = KNOWN.iter().flat_map(|known| known.names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn values_are_read_as_libfabric_does() {
        for (value, on, off) in [
            ("1", true, false),
            ("Yes", true, false),
            ("0", false, true),
            ("OFF", false, true),
            ("", false, false),
        ] {
            assert_eq!(
                (Value::On.matches(value.as_bytes()), Value::Off.matches(value.as_bytes())),
                (on, off)
            );
        }
        assert!(Value::Empty.matches(b"") && !Value::Empty.matches(b" ") && Value::Any.matches(b""));
        for (value, not_positive) in [("0", true), ("-3", true), (" 7 ", false), ("many", false)] {
            assert_eq!(Value::NotPositive.matches(value.as_bytes()), not_positive, "{value}");
        }
    }
}
