//! How a World is made.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::bootstrap::identity::{self, Identity};
use crate::bootstrap::{self, OobConnection};
use crate::coll::select::Choice;
use crate::config::{Config, Environment, LocalTransport, Provider};
use crate::error::Error;
use crate::topology::{Place, Topology};
use crate::world::World;
use crate::world::setup::set_up;

/// Makes a World with other settings than the environment's. What is set here wins.
///
/// ```no_run
/// # use std::time::Duration;
/// let world = efarun_rt::World::builder().deadline(Duration::from_secs(10)).init()?;
/// # Ok::<(), efarun_rt::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder makes a World by `init`"]
pub struct Builder {
    identity: Option<Identity>,
    local_transport: Option<LocalTransport>,
    provider: Option<Provider>,
    algorithm: Option<Choice>,
    deadline: Option<Duration>,
    leaves: Option<bool>,
    bootstrap_timeout: Option<Duration>,
    shared_gpus: Option<bool>,
    gpu_blocks: Option<NonZeroU32>,
    ranks_per_node: Option<u32>,
}

impl Builder {
    /// Says who this rank is, instead of the environment.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Chooses the transport between ranks of one node.
    pub fn local_transport(mut self, transport: LocalTransport) -> Self {
        self.local_transport = Some(transport);
        self
    }

    /// Chooses the network between nodes.
    pub fn provider(mut self, provider: Provider) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Chooses the algorithm of collectives that do not name one.
    pub fn algorithm(mut self, algorithm: Choice) -> Self {
        self.algorithm = Some(algorithm);
        self
    }

    /// After how long without progress a collective is an error.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Whether leaves may take the place of messages between ranks of one node.
    pub fn leaves(mut self, may_be_taken: bool) -> Self {
        self.leaves = Some(may_be_taken);
        self
    }

    /// Whether several ranks may share a GPU, to try a job out with fewer of them; the same on every rank.
    pub fn shared_gpus(mut self, are_allowed: bool) -> Self {
        self.shared_gpus = Some(are_allowed);
        self
    }

    /// How many blocks a collective of a node's GPUs has at most, each on a multiprocessor of its own: fewer leave more to what
    /// computes meanwhile. The least that any rank of the node says holds, but for a block for each of them.
    pub fn gpu_blocks(mut self, count: NonZeroU32) -> Self {
        self.gpu_blocks = Some(count);
        self
    }

    /// After how long a world that is not complete is an error.
    pub fn bootstrap_timeout(mut self, timeout: Duration) -> Self {
        self.bootstrap_timeout = Some(timeout);
        self
    }

    /// For [`Builder::thread_worlds`]: takes so many consecutive ranks for a node each, so that the others are reached
    /// by the network.
    pub fn ranks_per_node(mut self, count: u32) -> Self {
        self.ranks_per_node = Some(count);
        self
    }

    /// Makes this rank's World. Blocks until every rank has called it.
    ///
    /// # Errors
    ///
    /// [`Error`] when a setting cannot be meant, a rank is missing at the deadline, or a transport cannot be opened
    /// on some rank.
    pub fn init(self) -> Result<World, Error> {
        let environment = Environment::of_process();
        let config = self.config(&environment)?;
        let identity = match self.identity {
            Some(identity) => identity,
            None => identity::detect(&environment).map_err(bootstrap::BootstrapError::from)?,
        };
        let place = Place::here(environment.number(efarun_wire::env::EFARUN_NODE_RANK)?);
        match bootstrap::connect(&identity, config.bootstrap_timeout)? {
            Some(oob) => assemble(oob, &place, config),
            None => Ok(World::alone(Topology::from_places(&[place]), config)),
        }
    }

    /// Makes a world whose ranks are threads of this process, for tests: one World per rank, in order of rank.
    /// Needs no environment and opens no port.
    ///
    /// # Errors
    ///
    /// As [`Builder::init`]; the lowest rank's error.
    ///
    /// # Panics
    ///
    /// When `world_size` is 0.
    pub fn thread_worlds(self, world_size: u32) -> Result<Vec<World>, Error> {
        assert!(world_size > 0, "a world has at least one rank");
        let config = self.config(&Environment::default())?;
        let ranks_per_node = self.ranks_per_node;
        let connections = bootstrap::connect_threads(world_size, config.bootstrap_timeout)?;
        std::thread::scope(|scope| {
            let start = |oob: OobConnection| {
                let config = config.clone();
                let node_rank = ranks_per_node.map(|count| oob.rank().0 / count.max(1));
                scope.spawn(move || assemble(oob, &Place::here(node_rank), config))
            };
            let threads: Vec<_> = connections.into_iter().map(start).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            threads.into_iter().map(join).collect::<Vec<Result<World, Error>>>().into_iter().collect()
        })
    }

    fn config(&self, environment: &Environment) -> Result<Config, Error> {
        let read = Config::from_environment(environment)?;
        Ok(Config {
            local_transport: self.local_transport.unwrap_or(read.local_transport),
            provider: self.provider.unwrap_or(read.provider),
            node_address: read.node_address,
            algorithm: self.algorithm.unwrap_or(read.algorithm),
            leaves: self.leaves.unwrap_or(read.leaves),
            gpu_direct: read.gpu_direct,
            shared_gpus: self.shared_gpus.unwrap_or(read.shared_gpus),
            gpu_blocks: self.gpu_blocks.or(read.gpu_blocks),
            deadline: self.deadline.unwrap_or(read.deadline),
            bootstrap_timeout: self.bootstrap_timeout.unwrap_or(read.bootstrap_timeout),
        })
    }
}

fn assemble(mut oob: OobConnection, place: &Place, config: Config) -> Result<World, Error> {
    if oob.world_size() == 1 {
        return Ok(World::with_agent(oob, Topology::from_places(std::slice::from_ref(place)), config));
    }
    let setup = set_up(&mut oob, place, &config)?;
    Ok(World::connected(oob, setup, config))
}
