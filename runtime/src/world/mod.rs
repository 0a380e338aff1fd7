//! The World: all ranks of a job, as one of them sees it.
//!
//! [`World::init`] finds the other ranks, learns which of them share this node, and opens shared memory to those and
//! libfabric or TCP to the rest; neither is opened where nobody is reached by it. Collectives are methods; every rank calls
//! the same ones in the same order. They block, they borrow their buffers for the call only, and they end: with the
//! result, or within the deadline with an error that names the rank it is about.
//!
//! There are no globals: a process can have several Worlds, as the tests do with a thread per rank
//! ([`Builder::thread_worlds`]). Under efarun they share the process's one socket to its agent, and must be made in
//! the same order on all ranks; standing alone, Worlds that exist at the same time need a meeting point each.

mod builder;
mod elsewhere;
mod gpu;
mod messages;
mod network;
mod on_stream;
mod operations;
mod plans;
mod processors;
mod reads;
mod report;
mod run;
mod setup;
mod shared;
#[cfg(test)]
pub(crate) mod tests;
mod whereabouts;

use std::sync::Arc;
use std::time::Duration;

use efarun_wire::Rank;

use crate::bootstrap::OobConnection;
use crate::coll::executor::Executor;
use crate::coll::nodes::Nodes;
use crate::coll::select::Choice;
use crate::coll::sim::Model;
use crate::config::{Config, LocalTransport};
use crate::error::Error;
use crate::leaf::Leaves;
use crate::topology::Topology;
use crate::transport::Transport;
use crate::transport::fabric::Network;
use crate::warning;

use self::gpu::Gpu;
use self::plans::Plans;
use self::setup::{Limits, Setup};

pub use self::builder::Builder;
pub use self::elsewhere::Elsewhere;
pub use self::on_stream::OnStream;
pub use self::report::{Carrier, TransportLine};
pub use self::shared::SharedBuffer;

/// All ranks of a job, as this one sees it.
///
/// ```no_run
/// use efarun_rt::{ReduceOp, World};
///
/// let mut world = World::init()?;
/// let mut gradient = vec![f32::from(world.rank().0 as u8); 1 << 20];
/// world.all_reduce(&mut gradient, ReduceOp::Sum)?;
/// world.close()?;
/// # Ok::<(), efarun_rt::Error>(())
/// ```
///
/// Dropping a World closes it as [`World::close`] does, but logs what goes wrong, and waits 10 s at most: where a rank
/// returns early because of an error of its own, the others are to learn of it soon. Programs whose ranks end further
/// apart call `close`.
pub struct World {
    rank: Rank,
    topology: Topology,
    config: Config,
    /// None in a world of one rank.
    peers: Option<Peers>,
    report: Vec<TransportLine>,
    /// The EFA cards that reach other nodes, where they do.
    cards: Option<(Network, Vec<String>)>,
    /// Once it has one.
    gpu: Option<Gpu>,
    /// None in a world of one rank that no efarun started. After `peers`, so that it is dropped later: the end
    /// of the link is what tells the others that this rank is gone.
    oob: Option<OobConnection>,
    /// The next operation's number.
    sequence: u32,
    /// The error that broke it, as text.
    broken: Option<String>,
    is_closed: bool,
}

impl World {
    /// Makes this rank's World as the environment says. Blocks until every rank has called it.
    ///
    /// Under efarun nothing needs to be set. Without, rank and world size come from `RANK` and `WORLD_SIZE`, or Open
    /// MPI's, PMI's or Slurm's variables, and the ranks meet at `EFARUN_BOOTSTRAP`; see [`crate::config::SETTINGS`].
    /// Where nothing is set the world has one rank.
    ///
    /// # Errors
    ///
    /// As [`Builder::init`].
    pub fn init() -> Result<World, Error> {
        World::builder().init()
    }

    /// Starts a World with other settings than the environment's.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Makes a world whose ranks are threads of this process, for tests: one World per rank, in order of rank.
    ///
    /// # Errors
    ///
    /// As [`Builder::thread_worlds`].
    pub fn thread_worlds(world_size: u32) -> Result<Vec<World>, Error> {
        World::builder().thread_worlds(world_size)
    }

    /// This rank.
    pub fn rank(&self) -> Rank {
        self.rank
    }

    /// World size.
    pub fn world_size(&self) -> u32 {
        self.topology.world_size()
    }

    /// This rank's number among the ranks of its node.
    pub fn local_rank(&self) -> u32 {
        self.topology.local_rank(self.rank)
    }

    /// How many nodes the ranks are on.
    pub fn node_count(&self) -> u32 {
        self.topology.node_count()
    }

    /// Who is where.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The settings that hold for this World.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Which transports reach the other ranks; none in a world of one.
    pub fn transport_report(&self) -> &[TransportLine] {
        &self.report
    }

    /// Gives up for all ranks: their operations end in [`Error::Aborted`] with this reason, and efarun ends the job
    /// with `code`. Does not end this process; return from `main` next.
    pub fn abort(mut self, code: i32, reason: &str) {
        if let Some(oob) = &mut self.oob {
            oob.abort(code, reason);
        }
        self.broken.get_or_insert_with(|| format!("this rank aborted: {reason}"));
    }

    /// Waits until every rank is done with the world, then lets go of it. What this rank sent last may still be on
    /// its way when a collective returns, so that endpoints must not be closed before.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] after an earlier error, or [`Error::Bootstrap`] when a rank does not come to close.
    pub fn close(mut self) -> Result<(), Error> {
        self.close_within(self.config.deadline)
    }

    fn close_within(&mut self, patience: Duration) -> Result<(), Error> {
        if std::mem::replace(&mut self.is_closed, true) {
            return Ok(());
        }
        let result = match (&self.broken, &mut self.oob) {
            (Some(first), _) => Err(Error::Broken { first: first.clone() }),
            (None, Some(oob)) => oob.barrier("close", patience).map_err(Error::from),
            (None, None) => Ok(()),
        };
        if let Some(gpu) = self.gpu.take() {
            gpu.close(result.is_err());
        }
        if let Some(peers) = &mut self.peers {
            if result.is_ok() {
                peers.transport.quiesced();
            }
            peers.transport.close();
        }
        // Without goodbye the others learn that this rank is gone, which is what they should after an error.
        if let (Ok(()), Some(oob)) = (&result, &mut self.oob) {
            oob.leave();
        }
        result
    }

    /// A world of one rank that nobody else knows of.
    fn alone(topology: Topology, config: Config) -> World {
        World::new(Rank(0), topology, config)
    }

    /// A world of one rank under efarun.
    fn with_agent(oob: OobConnection, topology: Topology, config: Config) -> World {
        let mut world = World::new(Rank(0), topology, config);
        world.oob = Some(oob);
        world
    }

    fn connected(oob: OobConnection, setup: Setup, config: Config) -> World {
        let mut world = World::new(oob.rank(), setup.topology, config);
        let uses_fabric = setup.report.iter().any(|line| line.carrier == Carrier::Fabric);
        let executor = Executor::new(run::spin_for(uses_fabric));
        let topology = &world.topology;
        let leaves = setup.board.filter(|_| world.config.leaves);
        let node = || topology.local_ranks(world.rank).to_vec();
        let me = topology.local_rank(world.rank) as usize;
        let leaves = leaves.map(|board| run::leaves_of(board, node(), me, setup.has_core));
        let shares_memory = world.config.local_transport != LocalTransport::Network;
        let nodes = Some(topology.nodes()).filter(|nodes| shares_memory && nodes.are_levels()).map(Arc::new);
        let plans = Plans::default();
        world.report = setup.report;
        world.cards = setup.cards;
        let model = world.model();
        let Setup { transport, limits, between, .. } = setup;
        world.peers = Some(Peers { transport, limits, between, executor, plans, leaves, nodes, model });
        world.oob = Some(oob);
        world
    }

    fn new(rank: Rank, topology: Topology, config: Config) -> World {
        World {
            rank,
            topology,
            config,
            peers: None,
            report: Vec::new(),
            cards: None,
            gpu: None,
            oob: None,
            sequence: 0,
            broken: None,
            is_closed: false,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The others are not to wait for this rank, nor it for them.
            self.broken.get_or_insert_with(|| "this rank panicked".to_owned());
        }
        match self.close_within(self.config.deadline.min(DROP_PATIENCE)) {
            Ok(()) => {}
            // The call that broke it has told why.
            Err(error @ Error::Broken { .. }) => {
                log::warn!("rank {} ends its World without the others: {error}", self.rank);
            }
            Err(error) => {
                let text = format_args!("ends its World without the others: {error}");
                warning::tell("world: ended alone", text);
            }
        }
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("rank", &self.rank)
            .field("world_size", &self.world_size())
            .field("transports", &self.report)
            .field("sequence", &self.sequence)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

/// What reaches the other ranks.
struct Peers {
    transport: Box<dyn Transport>,
    limits: Limits,
    /// Of messages between nodes alone.
    between: Limits,
    executor: Executor,
    plans: Plans,
    /// Where there are others on this node, and nobody wants messages.
    leaves: Option<Leaves>,
    /// Where there are several nodes, ranks of which share memory.
    nodes: Option<Arc<Nodes>>,
    /// What the transports' messages cost, about.
    model: Model,
}

/// What one call of a collective has different from its World. The algorithm must be the same on all ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The algorithm, which must be one of the collective's; none is the World's, as far as the collective has it.
    pub algorithm: Option<Choice>,
    /// After how long without progress it is an error; none is the World's.
    pub deadline: Option<Duration>,
}

/// How long a dropped World waits for the others.
const DROP_PATIENCE: Duration = Duration::from_secs(10);
