//! How many ranks of each program each host gets.

use super::{AppRequest, HostWithSlots, MAX_RANKS, MapError, Request, SlotsOrigin};

/// Says how many ranks each host gets, program by program.
pub(super) fn ranks_per_host(request: &Request, hosts: &[HostWithSlots]) -> Result<Vec<Vec<u32>>, MapError> {
    if hosts.is_empty() {
        return Err(MapError::NoHosts);
    }
    let asked: u64 = request.apps.iter().filter_map(|app| app.rank_count).map(u64::from).sum();
    if asked > u64::from(MAX_RANKS) {
        return Err(MapError::TooManyRanks { asked });
    }
    let mut taken = vec![0; hosts.len()];
    let mut counts = Vec::with_capacity(request.apps.len());
    for app in &request.apps {
        let of_app = ranks_of_app(request, app, hosts, &taken)?;
        taken.iter_mut().zip(&of_app).for_each(|(taken, count)| *taken += count);
        counts.push(of_app);
    }
    Ok(counts)
}

/// The hosts that a program may run on, in its own order, and how many ranks it may have on each.
pub(super) fn shares(app: &AppRequest, host_count: usize) -> Vec<(usize, u32)> {
    match &app.hosts {
        None => (0..host_count).map(|index| (index, u32::MAX)).collect(),
        Some(chosen) => chosen.iter().map(|host| (host.index, host.slots.unwrap_or(u32::MAX))).collect(),
    }
}

/// The most ranks that a host takes, beside those that it has `taken`, before it would be oversubscribed.
pub(super) fn limit(request: &Request, host: &HostWithSlots, taken: u32) -> Option<u32> {
    let left = host.slots.map(|slots| slots.saturating_sub(taken));
    match (request.per_node, left) {
        (Some(per_node), Some(left)) if host.origin == SlotsOrigin::Given && !request.oversubscribe => {
            Some(per_node.min(left))
        }
        (Some(per_node), _) => Some(per_node),
        (None, left) => left,
    }
}

fn ranks_of_app(
    request: &Request,
    app: &AppRequest,
    hosts: &[HostWithSlots],
    taken: &[u32],
) -> Result<Vec<u32>, MapError> {
    check_per_node(request, app, hosts)?;
    let limits = limits(request, app, hosts, taken)?;
    let room: u64 = limits.iter().map(|(_, limit)| u64::from(*limit)).sum();
    let wanted = app.rank_count.map_or(room, u64::from);
    let Some(wanted) = u32::try_from(wanted).ok().filter(|wanted| *wanted <= MAX_RANKS) else {
        return Err(MapError::TooManyRanks { asked: wanted });
    };
    let mut counts = vec![0; hosts.len()];
    let mut left = wanted;
    for (index, limit) in &limits {
        counts[*index] = left.min(*limit);
        left -= counts[*index];
    }
    if left > 0 {
        if request.per_node.is_some() || !request.oversubscribe {
            let usable: Vec<HostWithSlots> = limits.iter().map(|(index, _)| hosts[*index].clone()).collect();
            let taken_before = limits.iter().map(|(index, _)| u64::from(taken[*index])).sum();
            return Err(MapError::too_few_slots(request, wanted, room, taken_before, &usable));
        }
        share_out(left, &limits, &mut counts);
    }
    Ok(counts)
}

/// `-N Y` alone asks for Y on every host, so a host with fewer slots spelled is a contradiction; with `-n` as well,
/// Y is only a limit.
fn check_per_node(request: &Request, app: &AppRequest, hosts: &[HostWithSlots]) -> Result<(), MapError> {
    let (Some(per_node), None, false) = (request.per_node, app.rank_count, request.oversubscribe) else {
        return Ok(());
    };
    let short = |host: &&HostWithSlots| host.origin == SlotsOrigin::Given && host.slots < Some(per_node);
    match hosts.iter().find(short) {
        None => Ok(()),
        Some(host) => Err(MapError::TooFewSlotsForPerNode {
            host: host.host.to_string(),
            per_node,
            slots: host.describe(),
        }),
    }
}

/// What each of a program's hosts has left for it.
fn limits(
    request: &Request,
    app: &AppRequest,
    hosts: &[HostWithSlots],
    taken: &[u32],
) -> Result<Vec<(usize, u32)>, MapError> {
    // With -n, hosts behind the last one needed may stay unknown: nobody contacted them.
    let mut wanted = app.rank_count.map_or(u64::MAX, u64::from);
    let mut limits = Vec::new();
    for (index, share) in shares(app, hosts.len()) {
        let limit = match limit(request, &hosts[index], taken[index]) {
            Some(limit) => limit.min(share),
            None if wanted == 0 => 0,
            None => return Err(MapError::slots_unknown(hosts)),
        };
        wanted = wanted.saturating_sub(u64::from(limit));
        limits.push((index, limit));
    }
    Ok(limits)
}

fn share_out(left: u32, limits: &[(usize, u32)], counts: &mut [u32]) {
    let hosts = u32::try_from(limits.len()).unwrap_or(u32::MAX);
    let (each, extra) = (left / hosts, left % hosts);
    for ((index, _), turn) in limits.iter().zip(0..) {
        counts[*index] += each + u32::from(turn < extra);
    }
}
