//! The command line: nccl-tests' flags with their meaning and defaults, and our own.
//!
//! Pure: [`Args`] is what clap parsed, and its methods what follows from it. A value that nccl-tests has and we do not
//! is refused by name, never taken for something else; a flag that changes nothing is named.

mod error;
#[cfg(test)]
mod tests;
mod values;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use efarun_rt::Rank;
use efarun_rt::coll::select::{Choice, NoSuchAlgorithm};
use efarun_rt::nvlink::Leaf;

use crate::collective::Collective;
use crate::instances::Instance;
use crate::sweep::{ByteSize, Growth, Sweep};

pub(crate) use self::error::ArgsError;
pub(crate) use self::values::{Average, Ops, Roots, RotationChoice, Types};

/// Measures and checks the collectives of efarun's runtime, and prints nccl-tests' columns.
///
/// Run it under efarun: efarun --hostfile hosts -n 8 -N 2 efa-perf all_reduce -b 8 -e 64M -f 2
///
/// The exit code is 0 when every checked element was right, 1 when one was wrong or the run failed, and 2 when the
/// command line makes no run.
#[derive(Clone, Debug, Parser)]
#[command(name = "efa-perf", version, max_term_width = 100)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_enum, value_name = "COLLECTIVE")]
    pub(crate) target: Target,

    /// Smallest size in bytes; K, M and G are powers of 1024. A size is the larger side of a call: of all_gather
    /// what every rank gets, of reduce_scatter what every rank gives
    #[arg(short = 'b', long = "minbytes", value_name = "SIZE", default_value = "32M", help_heading = SIZES)]
    pub(crate) min: ByteSize,
    /// Largest size in bytes
    #[arg(short = 'e', long = "maxbytes", value_name = "SIZE", default_value = "32M", help_heading = SIZES)]
    pub(crate) max: ByteSize,
    /// Bytes from one size to the next [default: 1M]
    #[arg(short = 'i', long = "stepbytes", value_name = "SIZE", conflicts_with = "factor", help_heading = SIZES)]
    pub(crate) step: Option<ByteSize>,
    /// Factor from one size to the next
    #[arg(short = 'f', long = "stepfactor", value_name = "FACTOR", help_heading = SIZES,
          value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) factor: Option<u64>,

    /// Element type, or all
    #[arg(short = 'd', long = "datatype", value_name = "TYPE", default_value = "float", help_heading = OPERATION,
          value_parser = values::types, long_help = values::types_help())]
    pub(crate) types: Types,
    /// Reduction, or all [default: sum]
    #[arg(short = 'o', long = "op", value_name = "OP", help_heading = OPERATION,
          value_parser = values::ops, long_help = values::ops_help())]
    pub(crate) ops: Option<Ops>,
    /// Root of broadcast and reduce; -1 measures every rank as root in turn [default: 0]
    #[arg(short = 'r', long = "root", value_name = "RANK", allow_negative_numbers = true, help_heading = OPERATION,
          value_parser = values::roots)]
    pub(crate) roots: Option<Roots>,
    /// The algorithm, or one per collective as all_reduce=ring,broadcast=chain; auto leaves it to the runtime
    #[arg(long = "algo", value_name = "NAME", default_value_t = Choice::Auto, help_heading = OPERATION)]
    pub(crate) algo: Choice,

    /// Timed calls per size
    #[arg(short = 'n', long = "iters", value_name = "COUNT", default_value_t = 20, help_heading = CALLS,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) iters: u32,
    /// Calls before the timed ones, at sizes that double from the smallest to the largest
    #[arg(short = 'w', long = "warmup_iters", value_name = "COUNT", default_value_t = 1, help_heading = CALLS)]
    pub(crate) warmup_iters: u32,
    /// Calls per size whose result is checked; 0 checks nothing
    #[arg(short = 'c', long = "check", value_name = "COUNT", default_value_t = 1, help_heading = CALLS)]
    pub(crate) check_iters: u32,
    /// How many buffers the timed calls use in turn: 1 is one hot buffer, auto as many as exceed the last-level
    /// cache twice. Not given, calls move through a buffer of the largest size, as nccl-tests' do
    #[arg(long = "rotate", value_name = "COUNT|auto", help_heading = CALLS, value_parser = values::rotation)]
    pub(crate) rotate: Option<RotationChoice>,
    /// Take buffers that the runtime gives (World::alloc), which ranks of one node reach in each other without a copy
    #[arg(long = "arena", help_heading = CALLS, conflicts_with_all = ["gpus", "explain"])]
    pub(crate) arena: bool,
    /// Which time is reported: 0 that of rank 0, 1 the mean over ranks, 2 the shortest, 3 the longest
    #[arg(short = 'a', long = "average", value_name = "0..3", default_value = "1", help_heading = CALLS,
          value_parser = values::average)]
    pub(crate) average: Average,

    /// Add columns with the p50 and p99 of single calls, in microseconds
    ///
    /// They come from as many calls again, each timed by itself; the ranks' times of a call become one as -a says. The
    /// mean column has a pass of its own, without these clock readings. The p99 of fewer than 100 calls is the slowest
    /// of them: see -n.
    #[arg(long = "percentiles", help_heading = REPORT)]
    pub(crate) percentiles: bool,
    /// Add columns with the time that physics asks for at least, and the fraction of it that was reached
    ///
    /// The bound is one message's latency and the fewest bytes that the busiest link must carry by the link's
    /// bandwidth. The link is measured first, past the runtime: between nodes by plain TCP sockets, on one node by
    /// copies of memory and a cache line sent to and fro. --link-gbps and --link-us give it instead.
    #[arg(long = "bound", help_heading = REPORT)]
    pub(crate) bound: bool,
    /// The link's bandwidth each way in gigabits per second, instead of measuring it: 400 for the four cards of a p4d
    #[arg(long = "link-gbps", value_name = "GBIT", requires = "bound", allow_negative_numbers = true, help_heading = REPORT,
          value_parser = values::positive)]
    pub(crate) link_gbps: Option<f64>,
    /// A message's latency in microseconds, instead of measuring it
    #[arg(long = "link-us", value_name = "US", requires = "bound", allow_negative_numbers = true, help_heading = REPORT,
          value_parser = values::positive)]
    pub(crate) link_us: Option<f64>,
    /// Write the results as JSON to this file, percentiles included; `-` prints them in place of the table
    #[arg(long = "json", value_name = "FILE", help_heading = REPORT)]
    pub(crate) json: Option<PathBuf>,
    /// Write a picture (SVG) of busbw and time against size to this file, with the bound where there is one
    #[arg(long = "plot", value_name = "FILE", help_heading = REPORT)]
    pub(crate) plot: Option<PathBuf>,

    /// Measure on GPU memory, with so many GPUs per process. Under efarun that is 1, a process per GPU; a process by itself
    /// can have several, each a rank in a thread. Not given, buffers are the host's
    #[arg(short = 'g', long = "ngpus", value_name = "GPUS", help_heading = GPU, conflicts_with_all = ["bound", "explain"],
          value_parser = clap::value_parser!(u32).range(1..=8))]
    pub(crate) gpus: Option<u32>,
    /// 1 registers the buffers, so that large calls read and write them where they lie
    #[arg(short = 'R', long = "local_register", value_name = "0|1", default_value_t = 0, help_heading = GPU,
          requires = "gpus", value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(crate) register: u8,
    /// Capture the timed calls of a size into a CUDA graph and launch it so often; 0 enqueues them one by one
    #[arg(short = 'G', long = "cudagraph", value_name = "LAUNCHES", default_value_t = 0, help_heading = GPU,
          requires = "gpus")]
    pub(crate) graph_launches: u32,
    /// How the GPUs do it, whatever the size
    #[arg(long = "leaf", value_name = "LEAF", value_enum, help_heading = GPU, requires = "gpus")]
    pub(crate) leaf: Option<LeafName>,

    /// Say for each size what would run, why, and what it costs on a model; measure nothing
    #[arg(long = "explain", help_heading = EXPLAIN, conflicts_with_all = ["json", "plot", "bound", "percentiles"])]
    pub(crate) explain: bool,
    /// Explain for so many ranks, which need not be there; not given, for those that were started
    #[arg(long = "world", value_name = "RANKS", requires = "explain", help_heading = EXPLAIN,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) world: Option<u32>,
    /// On how many nodes they are, joined by TCP [default: 1]
    #[arg(long = "nodes", value_name = "COUNT", requires = "world", help_heading = EXPLAIN,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) nodes: Option<u32>,
    /// Explain all_reduce for two instances of EC2 with eight GPUs each, by a model whose parameters have sources
    #[arg(long = "on", value_name = "INSTANCE", value_enum, requires = "explain", conflicts_with_all = ["world", "algo"],
          help_heading = EXPLAIN)]
    pub(crate) on: Option<Instance>,

    /// Threads per process; 1 is the only value
    #[arg(short = 't', long = "nthreads", value_name = "1", default_value_t = 1, help_heading = COMPATIBLE,
          value_parser = clap::value_parser!(u32).range(1..=1))]
    pub(crate) threads: u32,
}

/// How GPUs of a node do a collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub(crate) enum LeafName {
    /// Everybody sends everything to everybody, in one exchange
    OneShot,
    /// A rank reduces its block and passes it on, in two exchanges
    TwoShot,
    /// A rank reads and writes the others' buffers where they lie, with -R 1; without, as two-shot
    Direct,
    /// Slices go from each rank to the next; what has no such way goes as two-shot
    Ring,
    /// Blocks go in slices to whom they are for; what has no such way goes as two-shot
    Slots,
}

impl LeafName {
    /// As the runtime has it.
    pub(crate) fn in_runtime(self) -> Leaf {
        match self {
            LeafName::OneShot => Leaf::OneShot,
            LeafName::TwoShot => Leaf::TwoShot,
            LeafName::Direct => Leaf::Direct,
            LeafName::Ring => Leaf::Ring,
            LeafName::Slots => Leaf::Slots,
        }
    }
}

/// What the first argument names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Target {
    /// Every rank gets the reduction over all ranks
    AllReduce,
    /// Every rank gets the root's buffer
    Broadcast,
    /// The root gets the reduction over all ranks
    Reduce,
    /// Every rank gets all ranks' chunks
    AllGather,
    /// Every rank gets its chunk of the reduction over all ranks
    ReduceScatter,
    /// Nobody goes on before all have come; it has no sizes
    Barrier,
    /// Each of them in turn, a table each
    All,
}

impl Target {
    /// The collectives to measure, in order.
    pub(crate) fn collectives(self) -> Vec<Collective> {
        match self {
            Target::AllReduce => vec![Collective::AllReduce],
            Target::Broadcast => vec![Collective::Broadcast],
            Target::Reduce => vec![Collective::Reduce],
            Target::AllGather => vec![Collective::AllGather],
            Target::ReduceScatter => vec![Collective::ReduceScatter],
            Target::Barrier => vec![Collective::Barrier],
            Target::All => Collective::ALL.to_vec(),
        }
    }

    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self.collectives()[..] {
            [collective] => collective.name(),
            _ => "all",
        }
    }
}

impl Args {
    /// The sizes to measure.
    ///
    /// # Errors
    ///
    /// When there are none, or infinitely many.
    pub(crate) fn sweep(&self) -> Result<Sweep, ArgsError> {
        let (ByteSize(min_bytes), ByteSize(max_bytes)) = (self.min, self.max);
        let step_bytes = self.step.map_or(DEFAULT_STEP_BYTES, |ByteSize(bytes)| bytes);
        if min_bytes == 0 {
            return Err(ArgsError::Zero { flag: "-b" });
        }
        if step_bytes == 0 {
            return Err(ArgsError::Zero { flag: "-i" });
        }
        if min_bytes > max_bytes {
            return Err(ArgsError::EmptySweep { min_bytes, max_bytes });
        }
        let growth = self.factor.map_or(Growth::Add(step_bytes), Growth::Multiply);
        Ok(Sweep { first_bytes: min_bytes, last_bytes: max_bytes, growth })
    }

    /// Refuses what can be seen to make no run before the other ranks are known.
    ///
    /// # Errors
    ///
    /// The first such fault.
    pub(crate) fn check(&self) -> Result<(), ArgsError> {
        self.sweep()?;
        if self.plot.is_some() && self.target == Target::Barrier {
            return Err(ArgsError::NothingToPlot);
        }
        if self.on.is_some() && self.target != Target::AllReduce {
            return Err(ArgsError::NotModelled { collective: self.target.name() });
        }
        if let (Some(nodes), Some(world_size)) = (self.nodes, self.world)
            && nodes > world_size
        {
            return Err(ArgsError::EmptyNodes { nodes, world_size });
        }
        let collectives = self.target.collectives();
        match self.algo {
            Choice::Fixed(algorithm) if !collectives.iter().any(|collective| collective.has(algorithm)) => {
                let collective = collectives[0].in_runtime(Rank(0));
                Err(NoSuchAlgorithm { collective, algorithm }.into())
            }
            _ => Ok(()),
        }
    }

    /// The reductions to measure.
    pub(crate) fn ops(&self) -> Ops {
        self.ops.clone().unwrap_or_default()
    }

    /// The roots to measure.
    ///
    /// # Errors
    ///
    /// When the world has no such rank.
    pub(crate) fn roots(&self, world_size: u32) -> Result<Vec<Rank>, ArgsError> {
        match self.roots.unwrap_or_default() {
            Roots::One(root) if root.0 >= world_size => Err(ArgsError::NoSuchRoot { root, world_size }),
            Roots::One(root) => Ok(vec![root]),
            Roots::Every => Ok((0..world_size).map(Rank).collect()),
        }
    }

    /// Flags that were given and change nothing for what is measured, each with its reason.
    pub(crate) fn without_effect(&self) -> Vec<String> {
        let collectives = self.target.collectives();
        let none = |has: fn(Collective) -> bool| !collectives.iter().copied().any(has);
        let name = self.target.name();
        let mut notes = Vec::new();
        if let (Some(roots), true) = (self.roots, none(Collective::has_root)) {
            notes.push(format!("-r {roots} changes nothing: {name} has no root"));
        }
        if let (Some(ops), true) = (&self.ops, none(Collective::has_reduction)) {
            notes.push(format!("-o {ops} changes nothing: {name} reduces nothing"));
        }
        let chosen = |collective: &Collective| self.algo.of(collective.in_runtime(Rank(0)));
        let lacks =
            |collective: &&Collective| chosen(collective).is_some_and(|algorithm| !collective.has(algorithm));
        for lacking in collectives.iter().filter(lacks) {
            notes.push(format!(
                "--algo {} is not among those of {}, which takes auto",
                self.algo,
                lacking.name()
            ));
        }
        if self.algo != Choice::Auto && collectives.iter().all(|collective| chosen(collective).is_none()) {
            notes.push(format!("--algo {} changes nothing: {name} is not in it", self.algo));
        }
        if let (Some(rotate), true) = (self.rotate, none(Collective::has_data)) {
            notes.push(format!("--rotate {rotate} changes nothing: {name} has no buffers"));
        }
        if self.arena && none(Collective::has_data) {
            notes.push(format!("--arena changes nothing: {name} has no buffers"));
        }
        notes
    }
}

/// nccl-tests' `-i`.
const DEFAULT_STEP_BYTES: u64 = 1 << 20;

const SIZES: &str = "Sizes";
const OPERATION: &str = "Operation";
const CALLS: &str = "Calls";
const REPORT: &str = "Report";
const GPU: &str = "GPU memory";
const EXPLAIN: &str = "Explain";
const COMPATIBLE: &str = "Accepted for nccl-tests' sake";
