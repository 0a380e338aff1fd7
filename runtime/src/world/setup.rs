//! Making a World: meet, learn who is where, open the transports.
//!
//! Allgathers, in this order on every rank: `places` tells which ranks share a node and that their settings agree;
//! `network`, where some ranks share none, which network lies between them; `addresses` carries what each transport needs
//! to reach a rank; `ready` tells everybody whether everybody could connect, and what their transports can do. A rank
//! that fails says so in the next one instead of staying away, so that the others learn its reason and not a timeout.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use efarun_wire::Rank;
use efarun_wire::message::Participants;

use crate::bootstrap::OobConnection;
use crate::coll::select::MessageLimits;
use crate::config::{Config, LocalTransport};
use crate::error::Error;
use crate::topology::{Place, Topology};
use crate::transport::fabric::{FabricConfig, FabricTransport, Network};
use crate::transport::mux::Mux;
use crate::transport::shm::board::Board;
use crate::transport::shm::{Arena, Geometry, Offer, ShmTransport};
use crate::transport::tcp::{TcpConfig, TcpTransport};
use crate::transport::{Transport, TransportError};
use crate::world::network::{self, Agreement};
use crate::world::processors;
use crate::world::report::{Carrier, TransportLine};

/// What a World of more than one rank stands on.
pub(super) struct Setup {
    pub(super) topology: Topology,
    pub(super) transport: Box<dyn Transport>,
    pub(super) report: Vec<TransportLine>,
    /// The EFA cards that reach other nodes, where they do.
    pub(super) cards: Option<(Network, Vec<String>)>,
    pub(super) limits: Limits,
    /// What holds for all ranks' transports between nodes; where there is one node, the same.
    pub(super) between: Limits,
    /// Where there are others on this node.
    pub(super) board: Option<Board>,
    /// Whether there is a core for every rank of this node.
    pub(super) has_core: bool,
}

/// What holds for every rank's transports. Schedules are made from it, so it must be the same on all ranks,
/// and their transports need not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// The largest payload of a message.
    pub(super) slot_bytes: u32,
    /// How many messages a pair of ranks can have in flight.
    pub(super) credits: u32,
    /// The length from which on it pays to cut a message.
    pub(super) min_segment_bytes: u32,
    /// The same where nothing is passed on.
    pub(super) min_exchange_bytes: u32,
    /// The length from which on messages go a quicker way; more than any has where there is none.
    pub(super) quick_bytes: u32,
}

impl Limits {
    fn of(transport: &dyn Transport) -> Self {
        let capped = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Limits {
            slot_bytes: capped(transport.slot_bytes()),
            credits: capped(transport.credits()),
            min_segment_bytes: capped(transport.min_segment_bytes()),
            min_exchange_bytes: capped(transport.min_exchange_bytes()),
            quick_bytes: capped(transport.quick_bytes().unwrap_or(usize::MAX)),
        }
    }

    /// As schedules are made from them.
    pub(super) fn messages(self) -> MessageLimits {
        MessageLimits {
            slot_bytes: self.slot_bytes as usize,
            min_segment_bytes: self.min_segment_bytes as usize,
            min_exchange_bytes: self.min_exchange_bytes as usize,
            quick_bytes: (self.quick_bytes <= self.slot_bytes).then_some(self.quick_bytes as usize),
            credits: self.credits as usize,
        }
    }

    /// As [`Limits::to_bytes`] has them.
    const BYTES: usize = 5 * size_of::<u32>();

    fn to_bytes(self) -> Vec<u8> {
        [self.slot_bytes, self.credits, self.min_segment_bytes, self.min_exchange_bytes, self.quick_bytes]
            .map(u32::to_le_bytes)
            .concat()
    }

    /// What holds for all ranks' transports; the limits of a rank that cannot be understood are left out.
    fn of_all(all: &[Vec<u8>]) -> Option<Self> {
        let parse = |blob: &Vec<u8>| {
            let (words, _) = blob.as_chunks::<4>();
            let [slot_bytes, credits, min_segment_bytes, min_exchange_bytes, quick_bytes] =
                *words.first_chunk()?;
            let limits = Limits {
                slot_bytes: u32::from_le_bytes(slot_bytes),
                credits: u32::from_le_bytes(credits),
                min_segment_bytes: u32::from_le_bytes(min_segment_bytes),
                min_exchange_bytes: u32::from_le_bytes(min_exchange_bytes),
                quick_bytes: u32::from_le_bytes(quick_bytes),
            };
            // Nothing could be sent within these.
            (limits.slot_bytes > 0 && limits.credits > 0).then_some(limits)
        };
        let both = |a: Limits, b: Limits| Limits {
            slot_bytes: a.slot_bytes.min(b.slot_bytes),
            credits: a.credits.min(b.credits),
            min_segment_bytes: a.min_segment_bytes.max(b.min_segment_bytes),
            min_exchange_bytes: a.min_exchange_bytes.max(b.min_exchange_bytes),
            quick_bytes: a.quick_bytes.max(b.quick_bytes),
        };
        all.iter().filter_map(parse).reduce(both)
    }
}

/// Sets up this rank's part of the world.
pub(super) fn set_up(oob: &mut OobConnection, place: &Place, config: &Config) -> Result<Setup, Error> {
    let deadline = Instant::now() + config.bootstrap_timeout + SERVERS_HEAD_START;
    let topology = exchange_places(oob, place, config, deadline)?;
    let me = oob.rank();
    let use_shm = config.local_transport != LocalTransport::Network;
    let local_ranks = if use_shm { topology.local_ranks(me).to_vec() } else { vec![me] };

    let needs_network = local_ranks.len() < topology.world_size() as usize;
    let agreement = needs_network.then(|| network::agree(oob, config, &topology, deadline)).transpose()?;
    let cards = agreement.as_ref().and_then(Agreement::cards);
    let parts = Parts::make(me, oob.world_size(), &local_ranks, agreement);
    let (offered, parts) = match parts {
        Ok(parts) => (Contribution::Good(parts.blob()), Ok(parts)),
        Err(error) => (Contribution::Failed(error.to_string()), Err(error)),
    };
    let blobs = exchange(oob, "addresses", offered, deadline);
    // This rank's own error is the one to show.
    let parts = parts?;
    let connected = parts.connect(me, local_ranks, &topology, blobs?, deadline);
    let readiness = match &connected {
        Ok(connected) => {
            let limits = [Limits::of(connected.transport.as_ref()), connected.between];
            Contribution::Good(limits.map(Limits::to_bytes).concat())
        }
        Err(error) => Contribution::Failed(error.to_string()),
    };
    // Who could not connect knows why, and says so before those that wait for its connection give up.
    let patience = if connected.is_ok() { deadline } else { deadline.min(Instant::now() + LAST_WORD) };
    let ready = exchange(oob, "ready", readiness, patience);
    let Connected { transport, between, report, board } = connected?;
    let ready = ready?;
    let half = |blob: &Vec<u8>, index: usize| blob.chunks(Limits::BYTES).nth(index).map(<[u8]>::to_vec);
    let of_all =
        |index: usize| Limits::of_all(&ready.iter().filter_map(|blob| half(blob, index)).collect::<Vec<_>>());
    let limits = of_all(0).unwrap_or_else(|| Limits::of(transport.as_ref()));
    let between = of_all(1).unwrap_or(between);
    let has_core = board.as_ref().is_none_or(processors::suffice);
    Ok(Setup { topology, transport, report, cards, limits, between, board, has_core })
}

fn exchange_places(
    oob: &mut OobConnection,
    place: &Place,
    config: &Config,
    deadline: Instant,
) -> Result<Topology, Error> {
    let settings = settings_that_agree(config);
    let mut blob = place.to_bytes();
    for (name, value) in &settings {
        blob.extend_from_slice(format!("\n{name}={value}").as_bytes());
    }
    let blobs = exchange(oob, "places", Contribution::Good(blob), deadline)?;
    let mut places = Vec::with_capacity(blobs.len());
    for (rank, blob) in (0..).map(Rank).zip(&blobs) {
        let text = String::from_utf8_lossy(blob);
        let mut lines = text.lines();
        let place = [lines.next(), lines.next()].map(Option::unwrap_or_default).join("\n");
        places.push(Place::from_bytes(place.as_bytes()).unwrap_or_else(|| place_of_nobody(rank)));
        for ((name, value), line) in settings.iter().zip(lines) {
            let (_, other_value) = line.split_once('=').unwrap_or(("", line));
            if other_value != value {
                return Err(Error::Settings {
                    rank: oob.rank(),
                    setting: (*name).to_owned(),
                    value: value.clone(),
                    other: rank,
                    other_value: other_value.to_owned(),
                });
            }
        }
    }
    let topology = Topology::from_places(&places);
    let me = oob.rank();
    if config.local_transport == LocalTransport::Shm
        && let Some(other) = topology.estranged(me).next()
    {
        let hostname = topology.hostname(me).to_owned();
        let reason = difference(&places[me.index()].key, &places[other.index()].key);
        return Err(Error::NotLocal { rank: me, other, hostname, reason });
    }
    Ok(topology)
}

/// Settings by which ranks decide alone what all must decide alike.
fn settings_that_agree(config: &Config) -> Vec<(&'static str, String)> {
    vec![
        ("the runtime's version", env!("CARGO_PKG_VERSION").to_owned()),
        (efarun_wire::env::EFARUN_LOCAL_TRANSPORT, config.local_transport.to_string()),
        (efarun_wire::env::EFARUN_ALGORITHM, config.algorithm.to_string()),
        (efarun_wire::env::EFARUN_LEAVES, if config.leaves { "auto" } else { "off" }.to_owned()),
        (efarun_wire::env::EFARUN_PROVIDER, config.provider.to_string()),
        (efarun_wire::env::EFARUN_GPUDIRECT, config.gpu_direct.to_string()),
        (efarun_wire::env::EFARUN_SHARED_GPUS, u8::from(config.shared_gpus).to_string()),
    ]
}

/// A rank whose description cannot be read shares a node with nobody.
fn place_of_nobody(rank: Rank) -> Place {
    Place { hostname: "unknown".to_owned(), key: format!("unreadable, rank {rank}") }
}

fn difference(mine: &str, theirs: &str) -> String {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (mine, theirs) = (words(mine), words(theirs));
    let pairs = mine.chunks(2).zip(theirs.chunks(2)).filter(|(mine, theirs)| mine != theirs);
    let names: Vec<_> = pairs.filter_map(|(mine, _)| mine.first().cloned()).collect();
    format!("different {}", names.join(", "))
}

/// What a rank opened before it knows how to reach the others.
struct Parts {
    /// On the lowest rank of a node with others.
    arena: Option<Arena>,
    remote: Option<Remote>,
}

/// What leads to other nodes, before it is connected.
struct Remote {
    network: RemoteTransport,
    /// What the other ranks need to reach it.
    address: Vec<u8>,
    reason: String,
}

enum RemoteTransport {
    Fabric(FabricTransport),
    Sockets(TcpTransport),
}

impl Remote {
    fn make(me: Rank, world_size: u32, agreement: Agreement) -> Result<Self, Error> {
        let network = agreement.fabric();
        let Agreement { local_address, devices, reason, .. } = agreement;
        let (network, address) = match network {
            Some(network) => {
                let config = FabricConfig::new(world_size, network).over(devices);
                let config = FabricConfig { local_address, ..config };
                let made = FabricTransport::new(&config).map_err(|error| failed(me, LIBFABRIC, &error))?;
                (RemoteTransport::Fabric(made.0), made.1)
            }
            None => {
                let made = TcpTransport::new(&TcpConfig::new(local_address))
                    .map_err(|error| failed(me, TCP, &error))?;
                (RemoteTransport::Sockets(made.0), made.1)
            }
        };
        Ok(Remote { network, address, reason })
    }

    fn connect(
        self,
        me: Rank,
        addresses: &[(Rank, Vec<u8>)],
        deadline: Instant,
    ) -> Result<(Box<dyn Transport>, TransportLine), Error> {
        let peers = addresses.len();
        let line =
            |carrier, description: String| TransportLine::network(peers, carrier, &description, &self.reason);
        let fail = |name| move |error: TransportError| failed(me, name, &error);
        match self.network {
            RemoteTransport::Fabric(mut fabric) => {
                let carrier = if fabric.is_efa() { Carrier::Efa } else { Carrier::Fabric };
                fabric.connect(me, addresses).map_err(fail(LIBFABRIC))?;
                let line = line(carrier, fabric.description());
                Ok((Box::new(fabric), line))
            }
            RemoteTransport::Sockets(mut tcp) => {
                tcp.connect(me, addresses, deadline).map_err(fail(TCP))?;
                let line = line(Carrier::Sockets, tcp.description());
                Ok((Box::new(tcp), line))
            }
        }
    }
}

impl Parts {
    fn make(
        me: Rank,
        world_size: u32,
        local_ranks: &[Rank],
        agreement: Option<Agreement>,
    ) -> Result<Self, Error> {
        let makes_arena = local_ranks.len() > 1 && local_ranks.first() == Some(&me);
        let arena = makes_arena.then(|| Arena::create(geometry_for(local_ranks))).transpose();
        let arena = arena.map_err(|error| failed(me, SHARED_MEMORY, &error))?;
        let remote = agreement.map(|agreement| Remote::make(me, world_size, agreement)).transpose()?;
        Ok(Parts { arena, remote })
    }

    /// What the other ranks need: the arena's offer behind its length, then the network's address.
    fn blob(&self) -> Vec<u8> {
        let offer = self.arena.as_ref().map_or_else(Vec::new, |arena| arena.offer().to_bytes());
        let address = self.remote.as_ref().map_or(&[][..], |remote| &remote.address);
        [&[u8::try_from(offer.len()).expect("an offer is small")][..], &offer, address].concat()
    }

    fn connect(
        self,
        me: Rank,
        local_ranks: Vec<Rank>,
        topology: &Topology,
        blobs: Vec<Vec<u8>>,
        deadline: Instant,
    ) -> Result<Connected, Error> {
        let split = |blob: &Vec<u8>| {
            let (&len, rest) = blob.split_first()?;
            rest.split_at_checked(usize::from(len)).map(|(offer, address)| (offer.to_vec(), address.to_vec()))
        };
        let (offers, addresses): (Vec<_>, Vec<_>) =
            blobs.iter().map(|blob| split(blob).unwrap_or_default()).unzip();
        let addresses = (0..).map(Rank).zip(addresses).filter(|(rank, _)| !local_ranks.contains(rank));
        let addresses: Vec<(Rank, Vec<u8>)> = addresses.collect();
        let (mut report, mut board) = (Vec::new(), None);
        let shm = if local_ranks.len() > 1 {
            let lowest = local_ranks[0];
            let arena = match self.arena {
                Some(arena) => Ok(arena),
                None => open_arena(&offers[lowest.index()], &local_ranks),
            };
            let arena = arena.map_err(|cause| failed(me, SHARED_MEMORY, &cause))?;
            report.push(TransportLine::shm(local_ranks.len() - 1, arena.geometry()));
            let arena = Arc::new(arena);
            let made = Board::new(Arc::clone(&arena), topology.local_rank(me) as usize);
            let made = made.map_err(|error| failed(me, SHARED_MEMORY, &error))?;
            processors::tell(&made);
            board = Some(made);
            Some(ShmTransport::new(arena, me, local_ranks.clone()))
        } else {
            None
        };
        let remote = self.remote.map(|remote| remote.connect(me, &addresses, deadline)).transpose()?;
        let remote = remote.map(|(transport, line)| {
            report.push(line);
            transport
        });
        let between = remote.as_deref().map(Limits::of);
        let transport: Box<dyn Transport> = match (shm, remote) {
            (Some(shm), Some(remote)) => {
                let route = |rank| match local_ranks.contains(&rank) {
                    _ if rank == me => None,
                    true => Some(0),
                    false => Some(1),
                };
                let routes = (0..topology.world_size()).map(Rank).map(route).collect();
                Box::new(Mux::new(vec![Box::new(shm), remote], routes))
            }
            (Some(shm), None) => Box::new(shm),
            (None, Some(remote)) => remote,
            (None, None) => unreachable!("a world of more than one rank has local or remote peers"),
        };
        let between = between.unwrap_or_else(|| Limits::of(transport.as_ref()));
        Ok(Connected { transport, between, report, board })
    }
}

/// What reaches the other ranks.
struct Connected {
    transport: Box<dyn Transport>,
    /// What holds between nodes.
    between: Limits,
    report: Vec<TransportLine>,
    /// Where there are others on this node. What this rank told of its processors all know when `ready` is over.
    board: Option<Board>,
}

fn open_arena(offer: &[u8], local_ranks: &[Rank]) -> Result<Arena, String> {
    let offer = Offer::from_bytes(offer).ok_or_else(|| format!("rank {} offered none", local_ranks[0]))?;
    Arena::open(&offer, geometry_for(local_ranks)).map_err(|error| error.to_string())
}

fn geometry_for(local_ranks: &[Rank]) -> Geometry {
    Geometry::new(u32::try_from(local_ranks.len()).expect("a node has fewer ranks than the world"))
}

pub(super) fn failed(rank: Rank, transport: &'static str, cause: &dyn Display) -> Error {
    Error::Setup { rank, transport, cause: cause.to_string() }
}

/// What a rank gives to an allgather of the set-up.
pub(super) enum Contribution {
    Good(Vec<u8>),
    Failed(String),
}

/// Gathers contributions in order of rank, or says which rank failed.
pub(super) fn exchange(
    oob: &mut OobConnection,
    id: &str,
    mine: Contribution,
    deadline: Instant,
) -> Result<Vec<Vec<u8>>, Error> {
    let blob = match mine {
        Contribution::Good(bytes) => [&[GOOD][..], &bytes].concat(),
        Contribution::Failed(reason) => [&[FAILED][..], reason.as_bytes()].concat(),
    };
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let all = oob.allgather(id, Participants::World, blob, left)?;
    let sort = |(rank, blob): (Rank, Vec<u8>)| match blob.split_first() {
        Some((&GOOD, bytes)) => Ok(bytes.to_vec()),
        Some((_, reason)) => {
            Err(Error::PeerSetup { rank, cause: String::from_utf8_lossy(reason).into_owned() })
        }
        None => Err(Error::PeerSetup { rank, cause: "it said nothing".to_owned() }),
    };
    all.into_iter().map(sort).collect()
}

/// Who serves a meeting point knows which ranks are missing, and is to say so before ranks give up by themselves.
const SERVERS_HEAD_START: Duration = Duration::from_secs(1);
/// For how long a rank that failed stays for the others to learn its reason in the last allgather.
const LAST_WORD: Duration = Duration::from_secs(1);
const GOOD: u8 = 0;
const FAILED: u8 = 1;
pub(super) const SHARED_MEMORY: &str = "shared memory";
const LIBFABRIC: &str = "libfabric";
const TCP: &str = "TCP";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_all_ranks_hold_for_each_of_them() {
        let limits = |slot_bytes, credits, min_segment_bytes, min_exchange_bytes, quick_bytes| Limits {
            slot_bytes,
            credits,
            min_segment_bytes,
            min_exchange_bytes,
            quick_bytes,
        };
        let all =
            [limits(1 << 18, 4, 1 << 15, 1 << 12, 1 << 14), limits(1 << 16, 8, 1 << 12, 1 << 16, 1 << 15)]
                .map(Limits::to_bytes);
        let both = limits(1 << 16, 4, 1 << 15, 1 << 16, 1 << 15);
        assert_eq!(Limits::of_all(&all), Some(both));
        assert_eq!(both.messages().quick_bytes, Some(1 << 15));
        let short = Limits { quick_bytes: u32::MAX, ..both };
        assert_eq!(short.messages().quick_bytes, None, "longer than any message");
        assert_eq!(Limits::of_all(&[vec![1, 2, 3]]), None);
    }

    #[test]
    fn limits_within_which_nothing_could_be_sent_do_not_count() {
        let limits = |slot_bytes, credits| Limits {
            slot_bytes,
            credits,
            min_segment_bytes: 1,
            min_exchange_bytes: 1,
            quick_bytes: u32::MAX,
        };
        let all = [limits(1 << 16, 0), limits(1 << 12, 4), limits(0, 2)].map(Limits::to_bytes);
        assert_eq!(Limits::of_all(&all), Some(limits(1 << 12, 4)));
    }
}
