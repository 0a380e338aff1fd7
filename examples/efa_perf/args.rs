//! The command line: nccl-tests' flags with their meaning and defaults, and a few of our own.
//!
//! Pure: [`Args`] is what clap parsed and [`Args::sweep`] what follows from it. A value that nccl-tests has and we do not
//! is refused by name, never taken for something else.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use efarun_rt::coll::select::Choice;
use efarun_rt::{ElementType, ReduceOp};

use crate::sweep::{ByteSize, Growth, Sweep};

/// Measures and checks a collective of efarun's runtime, and prints nccl-tests' columns.
#[derive(Clone, Debug, Parser)]
#[command(name = "efa-perf", version, max_term_width = 100)]
pub(crate) struct Args {
    /// The collective to measure
    #[arg(value_enum)]
    pub(crate) collective: Collective,
    /// Smallest size in bytes; K, M and G are powers of 1024
    #[arg(short = 'b', long = "minbytes", value_name = "SIZE", default_value = "32M")]
    pub(crate) min: ByteSize,
    /// Largest size in bytes
    #[arg(short = 'e', long = "maxbytes", value_name = "SIZE", default_value = "32M")]
    pub(crate) max: ByteSize,
    /// Bytes from one size to the next
    #[arg(
        short = 'i',
        long = "stepbytes",
        value_name = "SIZE",
        default_value = "1M",
        conflicts_with = "factor"
    )]
    pub(crate) step: ByteSize,
    /// Factor from one size to the next
    #[arg(short = 'f', long = "stepfactor", value_name = "FACTOR", value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) factor: Option<u64>,
    /// Timed calls per size
    #[arg(short = 'n', long = "iters", value_name = "COUNT", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) iters: u32,
    /// Calls before the timed ones, at every size
    #[arg(short = 'w', long = "warmup_iters", value_name = "COUNT", default_value_t = 1)]
    pub(crate) warmup_iters: u32,
    /// Calls per size whose result is checked; 0 checks nothing
    #[arg(short = 'c', long = "check", value_name = "COUNT", default_value_t = 1)]
    pub(crate) check_iters: u32,
    /// Element type: uint8, int32, int64, float, double or all
    #[arg(short = 'd', long = "datatype", value_name = "TYPE", default_value = "float", value_parser = parse_types)]
    pub(crate) types: Types,
    /// Reduction: sum, prod, min, max or all
    #[arg(short = 'o', long = "op", value_name = "OP", default_value = "sum", value_parser = parse_ops)]
    pub(crate) ops: Ops,
    /// Root rank, for collectives that have one
    #[arg(short = 'r', long = "root", value_name = "RANK")]
    pub(crate) root: Option<u32>,
    /// Which time is reported: 0 that of rank 0, 1 the mean over ranks, 2 the shortest, 3 the longest
    #[arg(short = 'a', long = "average", value_name = "0..3", default_value = "1", value_parser = parse_average)]
    pub(crate) average: Average,
    /// Devices per process; efarun runs one process per device, so 1 is the only value
    #[arg(short = 'g', long = "ngpus", value_name = "1", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1))]
    pub(crate) devices: u32,
    /// Threads per process; 1 is the only value
    #[arg(short = 't', long = "nthreads", value_name = "1", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1))]
    pub(crate) threads: u32,
    /// The algorithm; auto leaves the choice to the runtime
    #[arg(long = "algo", value_name = "ring|tree|auto", default_value_t = Choice::Auto)]
    pub(crate) algo: Choice,
    /// Write the results as JSON to this file; `-` prints them in place of the table
    #[arg(long = "json", value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Collective {
    /// Every rank gets the reduction over all ranks
    AllReduce,
}

impl Collective {
    /// Its name on the command line and in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Collective::AllReduce => "all_reduce",
        }
    }

    /// What busbw is to algbw in a world of this size: 2(n-1)/n for all_reduce.
    pub(crate) fn bus_factor(self, world_size: u32) -> f64 {
        let n = f64::from(world_size);
        match self {
            Collective::AllReduce => 2.0 * (n - 1.0) / n,
        }
    }
}

/// `-a`: how the ranks' times become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Average {
    /// 0: rank 0's time.
    RankZero,
    /// 1: the mean over ranks.
    Mean,
    /// 2: the shortest.
    Min,
    /// 3: the longest.
    Max,
}

/// The element types of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Types(pub(crate) Vec<ElementType>);

/// The reductions of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ops(pub(crate) Vec<ReduceOp>);

/// Why arguments that parse one by one make no run together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgsError {
    /// `-b` beyond `-e`.
    #[error("the smallest size ({min_bytes} B, -b) is larger than the largest ({max_bytes} B, -e)")]
    EmptySweep {
        /// `-b`.
        min_bytes: u64,
        /// `-e`.
        max_bytes: u64,
    },
    /// A size or step of nothing.
    #[error("{flag} must be at least 1 byte")]
    Zero {
        /// The flag.
        flag: &'static str,
    },
}

impl Args {
    /// The sizes to measure.
    ///
    /// # Errors
    ///
    /// When there are none, or infinitely many.
    pub(crate) fn sweep(&self) -> Result<Sweep, ArgsError> {
        let (ByteSize(min_bytes), ByteSize(max_bytes), ByteSize(step_bytes)) =
            (self.min, self.max, self.step);
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

    /// Flags that were given and change nothing for this collective, each with its reason.
    pub(crate) fn without_effect(&self) -> Vec<String> {
        let root = self.root.map(|root| format!("-r {root}: {} has no root", self.collective.name()));
        root.into_iter().collect()
    }
}

fn parse_types(text: &str) -> Result<Types, String> {
    if text == "all" {
        return Ok(Types(TYPES.to_vec()));
    }
    let name = match text {
        "int" => "int32",
        "float32" => "float",
        "float64" => "double",
        other => other,
    };
    let found = TYPES.into_iter().find(|element| element.to_string() == name);
    found.map(|element| Types(vec![element])).ok_or_else(|| {
        let hint = if OTHER_NCCL_TYPES.contains(&text) {
            "nccl-tests has it, efa-perf does not"
        } else {
            "unknown type"
        };
        format!("{hint}; there are {} and all", names(&TYPES))
    })
}

fn parse_ops(text: &str) -> Result<Ops, String> {
    if text == "all" {
        return Ok(Ops(OPS.to_vec()));
    }
    let found = OPS.into_iter().find(|op| op.to_string() == text);
    found.map(|op| Ops(vec![op])).ok_or_else(|| {
        let hint = if OTHER_NCCL_OPS.contains(&text) {
            "nccl-tests has it, efa-perf does not"
        } else {
            "unknown reduction"
        };
        format!("{hint}; there are {} and all", names(&OPS))
    })
}

fn parse_average(text: &str) -> Result<Average, String> {
    match text {
        "0" => Ok(Average::RankZero),
        "1" => Ok(Average::Mean),
        "2" => Ok(Average::Min),
        "3" => Ok(Average::Max),
        _ => Err("0 (rank 0), 1 (mean), 2 (shortest) or 3 (longest)".to_owned()),
    }
}

fn names<T: ToString>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// The types that inputs are made of.
const TYPES: [ElementType; 5] =
    [ElementType::U8, ElementType::I32, ElementType::I64, ElementType::F32, ElementType::F64];

/// The reductions that inputs are made for.
pub(crate) const OPS: [ReduceOp; 4] = [ReduceOp::Sum, ReduceOp::Prod, ReduceOp::Min, ReduceOp::Max];

/// What nccl-tests' `-d` knows beyond ours.
const OTHER_NCCL_TYPES: [&str; 7] = ["int8", "uint32", "uint64", "half", "bfloat16", "fp8_e4m3", "fp8_e5m2"];

/// What nccl-tests' `-o` knows beyond ours.
const OTHER_NCCL_OPS: [&str; 2] = ["avg", "mulsum"];

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("efa-perf").chain(line.split_whitespace()))
    }

    #[test]
    fn defaults_are_those_of_nccl_tests() {
        let args = parse("all_reduce").unwrap();
        assert_eq!(
            args.sweep(),
            Ok(Sweep { first_bytes: 32 << 20, last_bytes: 32 << 20, growth: Growth::Add(1 << 20) })
        );
        assert_eq!((args.iters, args.warmup_iters, args.check_iters), (20, 1, 1));
        assert_eq!(args.types, Types(vec![ElementType::F32]));
        assert_eq!(args.ops, Ops(vec![ReduceOp::Sum]));
        assert_eq!(args.average, Average::Mean);
    }

    #[test]
    fn a_usual_nccl_tests_line_is_understood() {
        let args = parse("all_reduce -b 8 -e 1G -f 2 -g 1 -c 1 -n 100 -w 5 -d double -o max -a 3").unwrap();
        assert_eq!(
            args.sweep(),
            Ok(Sweep { first_bytes: 8, last_bytes: 1 << 30, growth: Growth::Multiply(2) })
        );
        assert_eq!((args.iters, args.warmup_iters), (100, 5));
        assert_eq!(args.types, Types(vec![ElementType::F64]));
        assert_eq!(args.ops, Ops(vec![ReduceOp::Max]));
        assert_eq!(args.average, Average::Max);
    }

    #[test]
    fn all_names_every_type_and_every_reduction() {
        let args = parse("all_reduce -d all -o all").unwrap();
        assert_eq!(args.types.0, TYPES);
        assert_eq!(args.ops.0, OPS);
    }

    #[test]
    fn what_only_nccl_tests_has_is_refused_by_name() {
        for (line, word) in
            [("all_reduce -d half", "half"), ("all_reduce -o avg", "avg"), ("all_reduce -g 8", "8")]
        {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
        let message = parse("all_reduce -d bfloat16").unwrap_err().to_string();
        assert!(message.contains("nccl-tests has it") && message.contains("double"), "{message}");
    }

    #[test]
    fn step_and_factor_together_are_refused() {
        assert!(parse("all_reduce -i 1K -f 2").is_err());
    }

    #[test]
    fn sweeps_that_never_end_or_never_start_are_refused() {
        assert_eq!(parse("all_reduce -b 0 -f 2").unwrap().sweep(), Err(ArgsError::Zero { flag: "-b" }));
        assert_eq!(parse("all_reduce -b 8 -i 0").unwrap().sweep(), Err(ArgsError::Zero { flag: "-i" }));
        assert_eq!(
            parse("all_reduce -b 2K -e 1K").unwrap().sweep(),
            Err(ArgsError::EmptySweep { min_bytes: 2048, max_bytes: 1024 })
        );
        assert!(parse("all_reduce -f 1").is_err());
    }

    #[test]
    fn root_is_named_as_having_no_effect() {
        assert!(parse("all_reduce").unwrap().without_effect().is_empty());
        assert_eq!(parse("all_reduce -r 0").unwrap().without_effect(), ["-r 0: all_reduce has no root"]);
    }

    #[test]
    fn bus_factor_of_all_reduce_is_two_times_n_minus_one_by_n() {
        assert_eq!(Collective::AllReduce.bus_factor(1), 0.0);
        assert_eq!(Collective::AllReduce.bus_factor(2), 1.0);
        assert_eq!(Collective::AllReduce.bus_factor(8), 1.75);
    }

    #[test]
    fn clap_definition_is_sound() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }
}
