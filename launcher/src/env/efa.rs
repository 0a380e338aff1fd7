//! What libfabric's EFA provider is told, and what it must not be told.
//!
//! The provider is chosen only where every node has an EFA device and the user did not choose. Some variables abort
//! the process that has them; with EFA in use they are refused before any rank starts.

use super::{EnvError, Inputs, Origin, Variables};

/// Adds the variables that EFA needs, where EFA is used.
pub(super) fn add(inputs: &Inputs<'_>, variables: &mut Variables) -> Result<(), EnvError> {
    let with_efa = inputs.facts.iter().filter(|facts| !facts.efa_devices.is_empty()).count();
    let everywhere = with_efa > 0 && with_efa == inputs.facts.len();
    if everywhere {
        variables.set_by_default(PROVIDER, "efa", "every node has an EFA device");
    }
    if variables.value(PROVIDER).is_some_and(names_efa) {
        refuse_fatal(variables)?;
        add_fork_safety(inputs, variables);
        note_doubtful(variables);
    }
    let any_gpu = inputs.facts.iter().any(|facts| !facts.gpus.is_empty());
    if any_gpu {
        variables.set_by_default("CUDA_DEVICE_ORDER", "PCI_BUS_ID", "a GPU's number is its place on the bus");
    }
    Ok(())
}

/// Says whether a value of FI_PROVIDER names EFA. `^tcp` excludes, and so names nothing.
pub(super) fn names_efa(providers: &[u8]) -> bool {
    providers.split(|byte| matches!(byte, b',' | b';')).any(|name| name == b"efa")
}

/// Before Linux 5.13 a fork could hand pages that a card is writing to the child, unless the library marks them.
/// The mark costs huge pages, so newer kernels go without it.
fn add_fork_safety(inputs: &Inputs<'_>, variables: &mut Variables) {
    let old_kernel = inputs.facts.iter().any(|facts| is_older_than_5_13(&facts.kernel));
    if !old_kernel || variables.value(FORK_SAFE).is_some() {
        return;
    }
    if variables.value(HUGE_PAGE).is_some_and(is_true) {
        variables.notes.push(format!(
            "a node's kernel is older than 5.13, where a rank that forks needs {FORK_SAFE}=1; with {HUGE_PAGE}=1 it cannot be had"
        ));
        return;
    }
    variables.set_by_default(FORK_SAFE, "1", "a node's kernel is older than 5.13");
}

fn refuse_fatal(variables: &Variables) -> Result<(), EnvError> {
    let fatal = FATAL
        .iter()
        .find(|fatal| variables.value(fatal.variable).is_some_and(|value| (fatal.applies)(value)));
    if let Some(fatal) = fatal {
        return Err(refusal(variables, fatal.variable, fatal.why, fatal.remedy));
    }
    let is_on = |name: &str| variables.value(name).is_some_and(is_true);
    if is_on(FORK_SAFE) && is_on(HUGE_PAGE) {
        return Err(refusal(
            variables,
            HUGE_PAGE,
            "FI_EFA_FORK_SAFE=1 is set as well, and the two exclude each other",
            "unset one of them",
        ));
    }
    Ok(())
}

fn refusal(variables: &Variables, variable: &str, why: &'static str, remedy: &'static str) -> EnvError {
    let origin = variables.by_name.get(variable.as_bytes()).map(|variable| variable.origin);
    EnvError::AbortsEfa {
        variable: variable.to_owned(),
        origin: if origin == Some(Origin::Export) { "by -x" } else { "in the environment here" },
        why,
        remedy,
    }
}

fn note_doubtful(variables: &mut Variables) {
    for doubtful in DOUBTFUL {
        if variables.value(doubtful.variable).is_some_and(|value| (doubtful.applies)(value)) {
            variables.notes.push(format!("{}: {}", doubtful.variable, doubtful.why));
        }
    }
}

/// A variable that does harm when its value is such.
struct Harm {
    variable: &'static str,
    applies: fn(&[u8]) -> bool,
    why: &'static str,
    remedy: &'static str,
}

/// As libfabric reads a switch.
fn is_true(value: &[u8]) -> bool {
    [&b"1"[..], b"true", b"yes", b"on"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

fn is_false(value: &[u8]) -> bool {
    [&b"0"[..], b"false", b"no", b"off"].iter().any(|word| value.eq_ignore_ascii_case(word))
}

fn is_not_positive(value: &[u8]) -> bool {
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.trim().parse::<i64>().ok())
        .is_some_and(|number| number <= 0)
}

/// An unreadable release counts as new: the fork-safe mode is not free.
fn is_older_than_5_13(release: &str) -> bool {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) < (5, 13),
        _ => false,
    }
}

/// The variable that chooses libfabric's provider.
pub(super) const PROVIDER: &str = "FI_PROVIDER";
const FORK_SAFE: &str = "FI_EFA_FORK_SAFE";
const HUGE_PAGE: &str = "FI_EFA_USE_HUGE_PAGE";

/// Read in libfabric's prov/efa/src/efa_env.c and the files beside it.
const FATAL: &[Harm] = &[
    Harm {
        variable: "FI_EFA_MTU_SIZE",
        applies: |_| true,
        why: "it was removed, and its presence is an error",
        remedy: "unset it: the MTU is the device's",
    },
    Harm {
        variable: "FI_EFA_TX_IOV_LIMIT",
        applies: |_| true,
        why: "it was removed, and its presence is an error",
        remedy: "unset it: the limit is the device's",
    },
    Harm {
        variable: "FI_EFA_RX_IOV_LIMIT",
        applies: |_| true,
        why: "it was removed, and its presence is an error",
        remedy: "unset it: the limit is the device's",
    },
    Harm {
        variable: "FI_EFA_IFACE",
        applies: |value| value.is_empty(),
        why: "it is empty, which names no device",
        remedy: "unset it, or give device names such as rdmap16s27",
    },
    Harm {
        variable: "FI_EFA_TX_MIN_CREDITS",
        applies: is_not_positive,
        why: "it must be more than 0",
        remedy: "unset it, or give a number above 0",
    },
];

const DOUBTFUL: &[Harm] = &[
    Harm {
        variable: "RDMAV_FORK_SAFE",
        applies: |_| true,
        why: "not needed since Linux 5.13, and in the way of huge pages; FI_EFA_FORK_SAFE is the one for older kernels",
        remedy: "",
    },
    Harm {
        variable: "RDMAV_HUGEPAGES_SAFE",
        applies: |_| true,
        why: "together with fork support no EFA endpoint can be made",
        remedy: "",
    },
    Harm {
        variable: "FI_EFA_USE_DEVICE_RDMA",
        applies: is_false,
        why: "switches RDMA off, and with it GPU memory on older libfabric",
        remedy: "",
    },
    Harm {
        variable: "FI_HMEM_DISABLE_P2P",
        applies: is_true,
        why: "switches GPUDirect off: GPU memory goes through the host",
        remedy: "",
    },
    Harm { variable: "FI_EFA_SET_CUDA_SYNC_MEMOPS", applies: |_| true, why: IGNORED, remedy: "" },
    Harm { variable: "FI_EFA_SHM_MAX_MEDIUM_SIZE", applies: |_| true, why: IGNORED, remedy: "" },
    Harm { variable: "FI_EFA_ZCPY_RX_SEED", applies: |_| true, why: IGNORED, remedy: "" },
];

const IGNORED: &str = "libfabric does not read it any more";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_compared_by_number() {
        assert!(is_older_than_5_13("5.10.227-219.884.amzn2.x86_64"));
        assert!(is_older_than_5_13("4.19.0"));
        assert!(!is_older_than_5_13("5.13.0-rc1"));
        assert!(!is_older_than_5_13("6.8.0-1017-aws"));
        assert!(!is_older_than_5_13("unknown"));
    }
}
