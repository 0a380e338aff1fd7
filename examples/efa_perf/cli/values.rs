//! Values of flags: how they are written, and what is said about those that are not known.

use std::fmt;

use efarun_rt::{ElementType, Rank, ReduceOp};

/// The element types of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Types(pub(crate) Vec<ElementType>);

/// The reductions of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ops(pub(crate) Vec<ReduceOp>);

/// `-r`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// This rank.
    One(Rank),
    /// Every rank in turn.
    Every,
}

/// `--rotate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RotationChoice {
    /// So many buffers.
    Count(usize),
    /// As many as exceed the last-level cache twice.
    Auto,
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

impl Default for Ops {
    fn default() -> Self {
        Ops(vec![ReduceOp::Sum])
    }
}

impl Default for Roots {
    fn default() -> Self {
        Roots::One(Rank(0))
    }
}

impl fmt::Display for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [op] => op.fmt(f),
            _ => f.write_str("all"),
        }
    }
}

impl fmt::Display for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Roots::One(rank) => rank.fmt(f),
            Roots::Every => f.write_str("-1"),
        }
    }
}

impl fmt::Display for RotationChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RotationChoice::Count(count) => count.fmt(f),
            RotationChoice::Auto => f.write_str("auto"),
        }
    }
}

impl fmt::Display for Average {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Average::RankZero => "rank 0's",
            Average::Mean => "the mean over ranks",
            Average::Min => "the shortest over ranks",
            Average::Max => "the longest over ranks",
        })
    }
}

pub(super) fn types(text: &str) -> Result<Types, String> {
    if text == "all" {
        return Ok(Types(ElementType::ALL.to_vec()));
    }
    let name = SYNONYMS.iter().find(|(synonym, _)| *synonym == text).map_or(text, |(_, name)| name);
    let found = ElementType::ALL.into_iter().find(|element| element.to_string() == name);
    found.map(|element| Types(vec![element])).ok_or_else(|| {
        let fault = fault(text, &OTHER_NCCL_TYPES, "unknown type");
        format!("{fault}; there are {} and all", names(&ElementType::ALL))
    })
}

pub(super) fn ops(text: &str) -> Result<Ops, String> {
    if text == "all" {
        return Ok(Ops(ReduceOp::ALL.to_vec()));
    }
    let found = ReduceOp::ALL.into_iter().find(|op| op.to_string() == text);
    found.map(|op| Ops(vec![op])).ok_or_else(|| {
        let fault = fault(text, &OTHER_NCCL_OPS, "unknown reduction");
        format!("{fault}; there are {} and all", names(&ReduceOp::ALL))
    })
}

pub(super) fn roots(text: &str) -> Result<Roots, String> {
    if text == "-1" {
        return Ok(Roots::Every);
    }
    let rank = text.parse().map_err(|_| "a rank from 0 on, or -1 for every rank in turn".to_owned())?;
    Ok(Roots::One(Rank(rank)))
}

pub(super) fn rotation(text: &str) -> Result<RotationChoice, String> {
    if text == "auto" {
        return Ok(RotationChoice::Auto);
    }
    match text.parse() {
        Ok(count) if count > 0 => Ok(RotationChoice::Count(count)),
        _ => Err("a number of buffers from 1 on, or auto".to_owned()),
    }
}

pub(super) fn average(text: &str) -> Result<Average, String> {
    match text {
        "0" => Ok(Average::RankZero),
        "1" => Ok(Average::Mean),
        "2" => Ok(Average::Min),
        "3" => Ok(Average::Max),
        _ => Err("0 (rank 0), 1 (mean), 2 (shortest) or 3 (longest)".to_owned()),
    }
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("a number greater than 0".to_owned()),
    }
}

pub(super) fn types_help() -> String {
    format!("Element type: {} or all", names(&ElementType::ALL))
}

pub(super) fn ops_help() -> String {
    format!("Reduction: {} or all [default: sum]", names(&ReduceOp::ALL))
}

fn fault<'a>(text: &str, of_nccl_tests: &[&str], unknown: &'a str) -> &'a str {
    if of_nccl_tests.contains(&text) { "nccl-tests has it, efa-perf does not" } else { unknown }
}

fn names<T: ToString>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

/// What else types are called: C's and Rust's names.
const SYNONYMS: [(&str, &str); 8] = [
    ("int", "int32"),
    ("char", "int8"),
    ("float16", "half"),
    ("fp16", "half"),
    ("bf16", "bfloat16"),
    ("float32", "float"),
    ("float64", "double"),
    ("byte", "uint8"),
];

/// What nccl-tests' `-d` knows beyond ours.
const OTHER_NCCL_TYPES: [&str; 2] = ["fp8_e4m3", "fp8_e5m2"];

/// What nccl-tests' `-o` knows beyond ours.
const OTHER_NCCL_OPS: [&str; 1] = ["mulsum"];
