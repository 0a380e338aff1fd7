//! Measuring on GPU memory: the same sizes, checks and columns, with calls that are enqueued on a CUDA stream.
//!
//! A rank is a process with one GPU, by its number on the node, or one of several threads with a GPU each
//! ([`run_threads`]); with `EFARUN_SHARED_GPUS=1` ranks go round the GPUs that there are. [`measure`] times and checks; [`buffer`] has memory on both sides.

mod buffer;
mod measure;

use efarun_rt::config::{Config, Environment};
use efarun_rt::cuda::{self, Device, Stream};
use efarun_rt::{ElementType, Error, Rank, World};

use crate::cli::Args;
use crate::plan::Plan;
use crate::run::{Outcome, PerfError, run_in};
use crate::units::counted;

pub(crate) use self::measure::Measurement;

/// This rank's GPU, and how it is to be used.
#[derive(Debug)]
pub(crate) struct Gpu {
    device: Device,
    stream: Stream,
    is_registered: bool,
    graph_launches: u32,
    leaf: Option<efarun_rt::nvlink::Leaf>,
    description: String,
}

impl Gpu {
    /// Opens this rank's GPU and gives it to the World. The inner error is the same on all ranks, as far as it is said.
    ///
    /// # Errors
    ///
    /// When the World fails.
    pub(crate) fn of(args: &Args, world: &mut World, plan: &Plan) -> Result<Result<Gpu, String>, PerfError> {
        let opened = Gpu::open(args, world);
        // All ranks go on, or none does, and then all know whose it was.
        let why = opened.as_ref().err().map_or_else(String::new, |error| reason(error, world));
        let reasons = world.exchange("efa-perf-gpus", None, why.into_bytes())?;
        let first = (0..).map(Rank).zip(&reasons).find(|(_, why)| !why.is_empty());
        let gpu = match (opened, first) {
            (Ok(gpu), None) => gpu,
            (_, first) => return Ok(Err(refusal(world, first))),
        };
        world.use_device(&gpu.device)?;
        let mut elements: Vec<ElementType> = plan.parts.iter().map(|part| part.element).collect();
        elements.dedup();
        world.prepare_device(&elements)?;
        Ok(Ok(gpu))
    }

    fn open(args: &Args, world: &World) -> Result<Gpu, cuda::CudaError> {
        // Ranks beyond the last GPU begin again with the first, where they may share them.
        let gpus = if world.config().shared_gpus { Device::count()?.max(1) } else { u32::MAX };
        let device = Device::open(world.local_rank() % gpus)?;
        let version = cuda::version()?;
        let description = format!(
            "GPU memory ({}, CUDA {}.{}, buffers {}{})",
            device.name()?,
            version / 1000,
            version % 1000 / 10,
            if args.register == 1 { "registered" } else { "not registered" },
            match args.graph_launches {
                0 => String::new(),
                launches => format!(", {} of a graph", counted(launches, "launch")),
            }
        );
        Ok(Gpu {
            stream: Stream::new(&device)?,
            device,
            is_registered: args.register == 1,
            graph_launches: args.graph_launches,
            leaf: args.leaf.map(crate::cli::LeafName::in_runtime),
            description,
        })
    }

    /// For the header, as a transport's line.
    pub(crate) fn description(&self) -> &str {
        &self.description
    }
}

/// Who has no GPU and why, the first such rank.
fn refusal(world: &World, first: Option<(Rank, &Vec<u8>)>) -> String {
    let (rank, why) = first.expect("this rank's own reason is among them");
    let (host, why) = (world.topology().hostname(rank), String::from_utf8_lossy(why));
    format!("rank {rank} on {host}: {why}; without -g buffers are the host's")
}

/// Why this rank has no GPU.
fn reason(error: &cuda::CudaError, world: &World) -> String {
    let are_there = matches!(error, cuda::CudaError::NoSuchDevice { count, .. } if *count > 0);
    let sharing = match are_there && !world.config().shared_gpus {
        true => "; EFARUN_SHARED_GPUS=1 lets ranks share GPUs",
        false => "",
    };
    format!("{error}{sharing}")
}

/// Measures in a world of threads of this process, a GPU each.
///
/// # Errors
///
/// When the World fails on a rank; the lowest one's error.
pub(crate) fn run_threads(args: &Args, count: u32) -> Result<Outcome, PerfError> {
    let environment = Environment::of_process();
    let identity = efarun_rt::bootstrap::identity::detect(&environment);
    if !matches!(identity, Ok(efarun_rt::bootstrap::identity::Identity::Alone)) {
        crate::complain(&format!(
            "error: -g {count}: this process is one of several ranks, and a rank has one GPU: start {count} times as many \
             with -g 1"
        ));
        return Ok(Outcome::Refused);
    }
    let shared_gpus = Config::from_environment(&environment).map_err(Error::from)?.shared_gpus;
    let worlds = World::builder().algorithm(args.algo).shared_gpus(shared_gpus).thread_worlds(count)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            worlds.into_iter().map(|world| scope.spawn(move || run_in(args, world))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Outcome, PerfError>>| match thread.join()
        {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let outcomes: Vec<_> = threads.into_iter().map(join).collect();
        outcomes.into_iter().collect::<Result<Vec<_>, _>>().map(|outcomes| outcomes[0])
    })
}

/// What CUDA says, in terms of the World.
fn failed(world: &World) -> impl Fn(cuda::CudaError) -> Error + use<> {
    let rank = world.rank();
    move |cause| Error::Gpu { rank, cause }
}
