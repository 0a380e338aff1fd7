//! What ranks of torchrun's lines have beside what every rank has.

use efarun_wire::env as wire;

use super::{Inputs, Origin, Variables, forward};

/// Adds it, and says what the user may not expect.
pub(super) fn add(inputs: &Inputs<'_>, variables: &mut Variables) {
    let Some(torchrun) = &inputs.spec.torchrun else { return };
    let run_id = torchrun.run_id.clone().unwrap_or_else(|| inputs.job.to_string());
    let fixed = [
        ("ROLE_NAME", torchrun.role.clone()),
        ("TORCHELASTIC_RESTART_COUNT", torchrun.attempt.number.to_string()),
        ("TORCHELASTIC_MAX_RESTARTS", torchrun.max_restarts.to_string()),
        ("TORCHELASTIC_RUN_ID", run_id),
    ];
    for (name, value) in fixed {
        variables.set(name.as_bytes(), value.as_bytes(), Origin::Efarun(TORCHRUN));
    }
    for (name, value) in inputs.head_env {
        let is_torchs = TORCHS_NAMES.iter().any(|prefix| name.starts_with(prefix.as_bytes()));
        let is_unset = !variables.by_name.contains_key(name);
        let is_wanted = is_torchs && is_unset && !inputs.spec.is_by_hand();
        if is_wanted && !forward::is_about_another_process(name) {
            variables.set(name, value, Origin::Head);
        }
    }
    add_master(inputs, variables);
    let is_shared = inputs.placement.nodes.iter().any(|node| node.ranks.len() > 1);
    // A line that is typed on every node finds it in the node's own environment, which is not among the variables yet.
    let is_here = inputs.head_env.iter().any(|(name, _)| name == OMP.as_bytes());
    if is_shared && variables.value(OMP).is_none() && !(is_here && inputs.spec.is_by_hand()) {
        variables.set_by_default(OMP, "1", TORCHRUN);
        variables.notes.push(format!("{OMP} is 1, as under torchrun: set it to let ranks have more threads"));
    }
}

/// `--master-addr` and `--master-port`. A name or a loopback address that means rank 0's node gives way to the address by
/// which the others reach it.
fn add_master(inputs: &Inputs<'_>, variables: &mut Variables) {
    let Some(torchrun) = &inputs.spec.torchrun else { return };
    let is_exported = |variables: &Variables, name: &str| {
        variables.by_name.get(name.as_bytes()).is_some_and(|variable| variable.origin == Origin::Export)
    };
    if let Some(port) = torchrun.master_port.filter(|_| !is_exported(variables, "MASTER_PORT")) {
        variables.set(b"MASTER_PORT", port.to_string().as_bytes(), Origin::Efarun("--master-port"));
    }
    let proved = inputs.addresses.first().copied().flatten();
    let first = inputs.placement.nodes.first();
    // By hand it is the address that all other nodes have dialled.
    let given = torchrun
        .master_address
        .as_deref()
        .filter(|_| !inputs.spec.is_by_hand())
        .filter(|_| !is_exported(variables, "MASTER_ADDR"));
    let (Some(given), Some(first)) = (given, first) else { return };
    let address: Option<std::net::IpAddr> = given.parse().ok();
    let means_first = given == first.host.name
        || given == "localhost"
        || address.is_some_and(|address| address.is_loopback() || address.is_unspecified());
    match proved {
        Some(proved) if means_first || address == Some(proved) => {}
        proved => {
            variables.set(b"MASTER_ADDR", given.as_bytes(), Origin::Efarun("--master-addr"));
            if let Some(proved) = proved {
                variables.notes.push(format!(
                    "MASTER_ADDR is {given} (--master-addr); the address of {} that was reached is {proved}, which ranks have \
                     as {}",
                    first.host, wire::EFARUN_NODE_ADDRESS
                ));
            }
        }
    }
}

/// What the names of variables begin with that torch and its neighbours read.
const TORCHS_NAMES: &[&str] = &["TORCH", "PYTORCH_", "GLOO_", "TRITON_", "LOGLEVEL"];

const OMP: &str = "OMP_NUM_THREADS";
const TORCHRUN: &str = "as under torchrun";
