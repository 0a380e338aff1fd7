//! How many ranks of each program each host gets.

use super::error::describe_all;
use super::{AppRequest, HostWithSlots, MAX_RANKS, MapBy, MapError, Request, Resource, SlotsOrigin};
use crate::binding;

/// Says how many ranks each host gets, program by program, where their number alone decides.
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
fn limit(request: &Request, host: &HostWithSlots, taken: u32) -> Option<u32> {
    let left = host.slots.map(|slots| slots.saturating_sub(taken));
    let per_node = match request.map_by {
        MapBy::PerResource { count, resource } => {
            let limit = count.saturating_mul(resources(resource, host)?);
            Some(request.per_node.map_or(limit, |per_node| per_node.min(limit)))
        }
        _ => request.per_node,
    };
    match (per_node, left) {
        (Some(per_node), Some(left)) if host.origin == SlotsOrigin::Given && !request.oversubscribe => {
            Some(per_node.min(left))
        }
        (Some(per_node), _) => Some(per_node.min(most(host, taken))),
        (None, left) => left.map(|left| left.min(most(host, taken))),
    }
}

/// How many ranks a host gets at least, should any be left for it, as far as is known before it is contacted.
pub(super) fn least(request: &Request, host: &HostWithSlots) -> u32 {
    match request.map_by {
        MapBy::Node | MapBy::Span(_) => 1,
        // It may have none of them.
        MapBy::PerResource { resource: Resource::Gpu, .. } => 0,
        _ => limit(request, host, 0).unwrap_or(1),
    }
}

fn resources(resource: Resource, host: &HostWithSlots) -> Option<u32> {
    match resource {
        Resource::Node => Some(1),
        Resource::Object(object) => host.topology.as_ref().map(|topology| binding::count(topology, object)),
        Resource::Gpu => {
            host.topology.as_ref().map(|topology| u32::try_from(topology.gpus.len()).unwrap_or(u32::MAX))
        }
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
    if wanted == 0 {
        return Err(MapError::NoRoom { hosts: describe_all(hosts) });
    }
    let mut counts = vec![0; hosts.len()];
    let left = match request.map_by {
        MapBy::Node => deal(wanted, &limits, &mut counts, |_| 1),
        MapBy::Span(object) => deal(wanted, &limits, &mut counts, |index| objects(object, &hosts[index])),
        _ => fill(wanted, &limits, &mut counts),
    };
    if left > 0 {
        let is_limited = request.per_node.is_some() || matches!(request.map_by, MapBy::PerResource { .. });
        if is_limited || !request.oversubscribe {
            let usable: Vec<HostWithSlots> = limits.iter().map(|(index, _)| hosts[*index].clone()).collect();
            let taken_before = limits.iter().map(|(index, _)| u64::from(taken[*index])).sum();
            return Err(MapError::too_few_slots(request, wanted, room, taken_before, &usable));
        }
        let refused = share_out(left, &limits, &mut counts, |index| most(&hosts[index], taken[index]));
        if refused > 0 {
            let usable: Vec<HostWithSlots> = limits.iter().map(|(index, _)| hosts[*index].clone()).collect();
            return Err(MapError::BeyondMaxSlots {
                asked: wanted,
                room: wanted - refused,
                hosts: describe_all(&usable),
            });
        }
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

/// Fills one host after the other; gives what is left.
fn fill(wanted: u32, limits: &[(usize, u32)], counts: &mut [u32]) -> u32 {
    let mut left = wanted;
    for (index, limit) in limits {
        counts[*index] = left.min(*limit);
        left -= counts[*index];
    }
    left
}

/// Gives each host so many ranks in turn, as long as it takes any; gives what is left.
fn deal(wanted: u32, limits: &[(usize, u32)], counts: &mut [u32], at_a_time: impl Fn(usize) -> u32) -> u32 {
    let mut left = wanted;
    loop {
        let before = left;
        for (index, limit) in limits {
            let more = at_a_time(*index).min(limit - counts[*index]).min(left);
            counts[*index] += more;
            left -= more;
        }
        if left == 0 || left == before {
            return left;
        }
    }
}

/// Shares what is left over evenly, up to what `most` says that a host may have; gives what nobody takes.
fn share_out(left: u32, limits: &[(usize, u32)], counts: &mut [u32], most: impl Fn(usize) -> u32) -> u32 {
    let mut left = left;
    loop {
        let open: Vec<usize> =
            limits.iter().map(|(index, _)| *index).filter(|index| counts[*index] < most(*index)).collect();
        let hosts = u32::try_from(open.len()).unwrap_or(u32::MAX);
        if left == 0 || hosts == 0 {
            return left;
        }
        let (each, extra) = (left / hosts, left % hosts);
        for (index, turn) in open.into_iter().zip(0..) {
            let more = (each + u32::from(turn < extra)).min(most(index) - counts[index]);
            counts[index] += more;
            left -= more;
        }
    }
}

/// The most ranks that a host may have beside those that it has `taken`, oversubscribed or not.
fn most(host: &HostWithSlots, taken: u32) -> u32 {
    host.host.max_slots.unwrap_or(u32::MAX).saturating_sub(taken)
}

/// How many ranks a host gets in a turn.
fn objects(object: Option<binding::Object>, host: &HostWithSlots) -> u32 {
    let count = object.and_then(|object| resources(Resource::Object(object), host));
    count.unwrap_or(1).max(1)
}
