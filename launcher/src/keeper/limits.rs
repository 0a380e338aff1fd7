//! What a rank may use: limits of the head's, raised where the node's are lower, and never lowered.
//!
//! Who starts a job where `ulimit -c unlimited` holds wants cores of the ranks; sshd gives its sessions limits of their
//! own. Lowering is left alone on purpose: a head that is a small machine would take away the locked memory that the
//! nodes' administrators gave to network cards. Only system calls here: a forked child comes by.

use efarun_wire::message::{LimitedResource, ResourceLimit};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Raises the limits of this process as far as the node lets it.
pub(super) fn raise(limits: &[ResourceLimit]) {
    for limit in limits {
        let resource = resource(limit.resource);
        let Ok((soft, hard)) = getrlimit(resource) else { continue };
        // Beyond the hard limit only with privilege; without it the hard limit is what there is.
        if soft < limit.soft && setrlimit(resource, limit.soft, hard.max(limit.soft)).is_err() {
            let _ = setrlimit(resource, limit.soft.min(hard), hard);
        }
    }
}

/// Says which of these limits the node's processes cannot have, a sentence each.
pub(crate) fn shortfalls(limits: &[ResourceLimit]) -> Vec<String> {
    let shortfall = |limit: &ResourceLimit| {
        let (soft, hard) = getrlimit(resource(limit.resource)).ok()?;
        // The attempt is the question: a container's root may lack the privilege.
        let is_granted = hard >= limit.soft || setrlimit(resource(limit.resource), soft, limit.soft).is_ok();
        (!is_granted).then(|| sentence(limit, hard))
    };
    limits.iter().filter_map(shortfall).collect()
}

/// Reads this process's own soft limits.
pub(crate) fn own() -> Vec<ResourceLimit> {
    let all = [LimitedResource::LockedMemory, LimitedResource::OpenFiles, LimitedResource::CoreSize];
    let own = |limited| {
        let (soft, _) = getrlimit(resource(limited)).ok()?;
        Some(ResourceLimit { resource: limited, soft })
    };
    all.into_iter().filter_map(own).collect()
}

fn sentence(limit: &ResourceLimit, hard: u64) -> String {
    let (what, flag) = match limit.resource {
        LimitedResource::LockedMemory => ("locked memory", 'l'),
        LimitedResource::OpenFiles => ("open files", 'n'),
        LimitedResource::CoreSize => ("core files", 'c'),
    };
    let amount = |limit: u64| if limit == RLIM_INFINITY { "unlimited".to_owned() } else { limit.to_string() };
    format!(
        "ranks have {} of {what} (ulimit -{flag}), not {} as where efarun was started: the hard limit here, which \
         /etc/security/limits.conf sets, is lower",
        amount(hard),
        amount(limit.soft)
    )
}

fn resource(limited: LimitedResource) -> Resource {
    match limited {
        LimitedResource::LockedMemory => Resource::RLIMIT_MEMLOCK,
        LimitedResource::OpenFiles => Resource::RLIMIT_NOFILE,
        LimitedResource::CoreSize => Resource::RLIMIT_CORE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortfall_is_told_with_both_limits() {
        let limit = ResourceLimit { resource: LimitedResource::LockedMemory, soft: RLIM_INFINITY };
        let said = sentence(&limit, 65536);
        assert!(
            said.starts_with("ranks have 65536 of locked memory (ulimit -l), not unlimited as where"),
            "{said}"
        );
    }

    #[test]
    fn what_this_process_has_is_no_shortfall() {
        assert_eq!(own().len(), 3);
        assert_eq!(shortfalls(&own()), Vec::<String>::new());
    }
}
