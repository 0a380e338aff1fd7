//! The physical bound of a run: what the link could do at best, measured in the same run.
//!
//! [`formula`] says what a collective takes at least on a [`link`]; this file finds the link's numbers. Between nodes
//! they are measured by plain sockets ([`network`]) between the first two nodes' first ranks, on one node by copies of
//! memory and a cache line ([`memory`]): past the runtime, which is what is to be judged. What was given on the command
//! line is not measured. All ranks end with the same numbers.

mod formula;
mod link;
mod memory;
mod network;
mod share;

use std::net::IpAddr;

use efarun_rt::{Rank, ReduceOp};

use self::link::{Bandwidth, Step};
use self::network::{Host, Measured};
use self::share::share;
use crate::collective::Collective;
use crate::world::Collectives;

pub(crate) use self::formula::Layout;
pub(crate) use self::link::{GivenLink, KnownLink};

/// Where the ranks are.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// How many ranks are on each node.
    pub(crate) layout: Layout,
    /// The lowest rank of each node.
    pub(crate) first_ranks: Vec<Rank>,
    /// What the nodes are called.
    pub(crate) hostnames: Vec<String>,
    /// This rank's address, where it knows one that other nodes reach it by.
    pub(crate) address: Option<IpAddr>,
}

/// The bound of every row of a run.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    layout: Layout,
    link: KnownLink,
}

/// The link could not be measured. The same on all ranks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--bound: the link between rank {host} and rank {guest} was not measured: {cause}; let TCP pass between the nodes, \
     or give --link-gbps and --link-us"
)]
pub(crate) struct LinkError {
    host: Rank,
    guest: Rank,
    cause: String,
}

impl Bound {
    /// Measures what is not given. Every rank calls it; a world of one has no link, and no bound.
    ///
    /// `is_cold` says that no buffer of the run stays in a cache.
    ///
    /// # Errors
    ///
    /// The outer one when a call on the World failed, the inner one when the network could not be measured.
    pub(crate) fn find<W: Collectives>(
        world: &mut W,
        site: &Site,
        given: GivenLink,
        is_cold: bool,
    ) -> Result<Result<Option<Bound>, LinkError>, W::Error> {
        if world.world_size() == 1 {
            return Ok(Ok(None));
        }
        let known = match (given.bandwidth(), given.latency()) {
            (Some(bandwidth), Some(latency)) => Ok((bandwidth, latency)),
            (bandwidth, latency) if site.layout.node_count() == 1 => {
                let bandwidth = match bandwidth {
                    Some(bandwidth) => bandwidth,
                    None => measure_copies(world, is_cold)?,
                };
                let latency = match latency {
                    Some(latency) => latency,
                    None => measure_cache_line(world)?,
                };
                Ok((bandwidth, latency))
            }
            (bandwidth, latency) => measure_network(world, site)?.map(|measured| {
                let (measured_bandwidth, measured_latency) = described(measured, site);
                (bandwidth.unwrap_or(measured_bandwidth), latency.unwrap_or(measured_latency))
            }),
        };
        Ok(known.map(|((bandwidth, of_bandwidth), (latency_us, of_latency))| {
            let link = KnownLink::new(bandwidth, latency_us, vec![of_bandwidth, of_latency]);
            Some(Bound { layout: site.layout.clone(), link })
        }))
    }

    /// The least time of a call, in microseconds.
    pub(crate) fn us(&self, collective: Collective, size_bytes: u64) -> f64 {
        formula::bound_us(collective, size_bytes, &self.layout, &self.link.link)
    }

    /// The numbers and where they are from.
    pub(crate) fn link(&self) -> &KnownLink {
        &self.link
    }
}

/// A number of the link, and where it is from.
type Known<T> = (T, String);

fn measure_copies<W: Collectives>(world: &mut W, is_cold: bool) -> Result<Known<Bandwidth>, W::Error> {
    let sizes_bytes = if is_cold { &COPIES_BYTES[COPIES_BYTES.len() - 1..] } else { &COPIES_BYTES };
    world.barrier()?;
    let mine = memory::copy_steps(sizes_bytes);
    let mut fastest: Vec<f64> = mine.iter().map(|step| step.gb_per_s).collect();
    world.all_reduce(&mut fastest, ReduceOp::Max)?;
    let steps: Vec<Step> =
        mine.iter().zip(fastest).map(|(step, gb_per_s)| Step { gb_per_s, ..*step }).collect();
    let source = format!(
        "bandwidth {} (GB/s), by copies of memory on all {} ranks at once",
        link::describe_steps(&steps),
        world.world_size()
    );
    Ok((Bandwidth::Steps(steps), source))
}

fn measure_cache_line<W: Collectives>(world: &mut W) -> Result<Known<f64>, W::Error> {
    let mine = (world.rank() == Rank(0)).then(memory::cache_line_us);
    Ok(match share(world, Rank(0), mine)? {
        Some(us) => (us, format!("latency {us:.3} us, a cache line from core to core")),
        None => (0.0, "latency taken for 0: rank 0 was not given two cores at once to measure it".to_owned()),
    })
}

fn measure_network<W: Collectives>(
    world: &mut W,
    site: &Site,
) -> Result<Result<Measured, LinkError>, W::Error> {
    let (host, guest) = (site.first_ranks[0], site.first_ranks[1]);
    let rank = world.rank();
    let fail = |cause| LinkError { host, guest, cause };
    let mut listening = None;
    let invitation = (rank == host).then(|| {
        let address = site.address.ok_or("EFARUN_NODE_ADDRESS does not say the node's address")?;
        let (host, invitation) = Host::invite(address).map_err(|error| error.to_string())?;
        listening = Some(host);
        Ok::<_, String>(invitation)
    });
    let invitation = match share(world, host, invitation)? {
        Ok(invitation) => invitation,
        Err(cause) => return Ok(Err(fail(cause))),
    };
    let by_host = listening.map(|host| host.measure().map_err(|error| error.to_string()));
    let by_guest = (rank == guest).then(|| network::visit(&invitation).map_err(|error| error.to_string()));
    // The guest knows better why it could not come than the host why nobody came.
    let by_guest = share(world, guest, by_guest)?;
    let by_host = share(world, host, by_host)?;
    Ok(by_guest.and(by_host).map_err(fail))
}

fn described(measured: Measured, site: &Site) -> (Known<Bandwidth>, Known<f64>) {
    let Measured { latency_us, one_way, both_ways } = measured;
    let between = format!(
        "TCP sockets between {} (rank {}) and {} (rank {})",
        site.hostnames[0], site.first_ranks[0], site.hostnames[1], site.first_ranks[1]
    );
    let bandwidth =
        format!("bandwidth {both_ways:.2} GB/s each way at once, {one_way:.2} one way, by {between}");
    let latency = format!("latency {latency_us:.2} us, by the same");
    ((Bandwidth::Network { both_ways, one_way }, bandwidth), (latency_us, latency))
}

/// What lies in each cache of today's processors, and the last in memory when every rank has two of them.
const COPIES_BYTES: [u64; 5] = [4 << 10, 32 << 10, 256 << 10, 2 << 20, 32 << 20];

#[cfg(test)]
mod tests {
    use std::thread;

    use efarun_rt::World;

    use super::*;

    fn on_every_rank<R: Send>(world_size: u32, call: impl Fn(&mut World) -> R + Sync) -> Vec<R> {
        let worlds = World::thread_worlds(world_size).unwrap();
        thread::scope(|scope| {
            let call = &call;
            let threads: Vec<_> =
                worlds.into_iter().map(|mut world| scope.spawn(move || call(&mut world))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn site(ranks_per_node: &[u32]) -> Site {
        let first = |node: usize| Rank(ranks_per_node[..node].iter().sum());
        Site {
            layout: Layout::new(ranks_per_node.to_vec()),
            first_ranks: (0..ranks_per_node.len()).map(first).collect(),
            hostnames: (0..ranks_per_node.len()).map(|node| format!("h{node}")).collect(),
            address: Some([127, 0, 0, 1].into()),
        }
    }

    fn find(site: &Site, given: GivenLink) -> Vec<Result<Option<Bound>, LinkError>> {
        on_every_rank(site.layout.world_size(), |world| Bound::find(world, site, given, false).unwrap())
    }

    #[test]
    fn all_ranks_find_the_same_link_between_nodes() {
        let found = find(&site(&[2, 1]), GivenLink::default());
        let links: Vec<_> =
            found.iter().map(|bound| bound.as_ref().unwrap().as_ref().unwrap().link()).collect();
        assert!(links.iter().all(|link| *link == links[0]), "{links:?}");
        assert!(links[0].sources[0].contains("h0 (rank 0) and h1 (rank 2)"), "{links:?}");
        assert!(links[0].link.latency_us > 0.0);
    }

    #[test]
    fn on_one_node_memory_is_measured_unless_given() {
        let found = find(&site(&[2]), GivenLink { gbit_per_s: None, latency_us: Some(0.5) });
        let bound = found[1].as_ref().unwrap().as_ref().unwrap();
        assert!(
            matches!(&bound.link().link.bandwidth, Bandwidth::Steps(steps) if steps.len() == COPIES_BYTES.len())
        );
        assert_eq!(bound.us(Collective::Barrier, 0), 0.5);
        assert!(bound.us(Collective::AllReduce, 1 << 20) > 0.5);
    }

    #[test]
    fn what_is_given_is_not_measured() {
        let nowhere = Site { address: None, ..site(&[1, 1]) };
        let found = find(&nowhere, GivenLink { gbit_per_s: Some(8.0), latency_us: Some(1.0) });
        let bound = found[0].as_ref().unwrap().as_ref().unwrap();
        assert!((bound.us(Collective::AllReduce, 1_000_000) - 1001.0).abs() < 1e-9);
    }

    #[test]
    fn link_that_cannot_be_measured_fails_on_every_rank_alike_and_says_what_to_do() {
        // TEST-NET-1 is nobody's address.
        let nowhere = Site { address: Some([192, 0, 2, 1].into()), ..site(&[1, 1, 1]) };
        let found = find(&nowhere, GivenLink::default());
        let texts: Vec<String> = found.into_iter().map(|found| found.unwrap_err().to_string()).collect();
        assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
        assert!(texts[0].contains("192.0.2.1") && texts[0].contains("--link-gbps"), "{texts:?}");
    }

    #[test]
    fn a_world_of_one_has_no_bound() {
        let found = find(&site(&[1]), GivenLink::default());
        assert!(matches!(found[..], [Ok(None)]));
    }
}
