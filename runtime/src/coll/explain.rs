//! How a collective is done here, why so, and what that costs.
//!
//! Given what a call has and what its World stands on, [`explain`] selects and builds the schedule as the World does, and
//! counts and simulates it. Nothing is sent. The times are a model's, which is stated beside them: they compare
//! algorithms and show what limits, and are no measurement.

use std::fmt;
use std::sync::Arc;

use efarun_wire::Rank;

use super::collective::Collective;
use super::fault::Fault;
use super::hierarchy::{Hierarchy, Means};
use super::leaf::Leaf;
use super::nodes::Nodes;
use super::schedule::{Schedule, Step};
use super::select::{self, Algorithm, Choice, MessageLimits, NoSuchAlgorithm, Selection, Sizes, Why};
use super::shape::Shape;
use super::sim::{Model, simulate};
use crate::element::ElementType;

/// A call to be explained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Query {
    /// What is called.
    pub collective: Collective,
    /// On elements of this type.
    pub element: ElementType,
    /// How many, as the collective counts them.
    pub count: usize,
    /// World size.
    pub world_size: u32,
    /// The algorithm that was asked for.
    pub choice: Choice,
    /// What messages can be like.
    pub messages: MessageLimits,
    /// Whether all ranks share memory, so that leaves may take the place of messages.
    pub leaves: bool,
    /// What things cost.
    pub model: Model,
}

/// How a call is done, and what it costs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// What was asked.
    pub query: Query,
    /// The algorithm.
    pub algorithm: Algorithm,
    /// What takes the place of its messages; what is said of these then describes its reference.
    pub leaf: Option<Leaf>,
    /// What rank 0 does one after the other, where it is done by node; the algorithm is the one between nodes then.
    pub stages: Vec<String>,
    /// Why this one.
    pub why: Why,
    /// Bytes of the collective's vector.
    pub len_bytes: usize,
    /// The most bytes of a message.
    pub segment_bytes: usize,
    /// Messages that one rank sends at most.
    pub messages: u64,
    /// Bytes that one rank sends at most.
    pub sent_bytes: u64,
    /// Steps that one rank takes at most: sends, receives, waits and what is done in memory.
    pub steps: u64,
    /// What the simulator says; none where that would take too long.
    pub simulated: Option<Simulated>,
    /// What no algorithm goes below.
    pub bound: Bound,
}

/// What the simulator says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Simulated {
    /// From the start of all to the end of the last.
    pub time_s: f64,
    /// Messages one after the other on the longest way to the end, credits that are waited for among them.
    pub rounds: u64,
}

/// What no algorithm goes below.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Messages one after the other: 1 where anything has to move, as a rank may send to all others without waiting
    /// in between.
    pub rounds: u32,
    /// Bytes that some rank must send or receive.
    pub bytes: u64,
    /// The time until the first of the bytes is there, and then for all of them.
    pub time_s: f64,
}

impl Bound {
    fn of(query: &Query, len_bytes: usize) -> Self {
        let ranks = u64::from(query.world_size);
        let len_bytes = len_bytes as u64;
        let all_but_one = (len_bytes * (ranks - 1)).div_ceil(ranks);
        let bytes = match query.collective {
            _ if ranks == 1 => 0,
            Collective::AllReduce => 2 * all_but_one,
            Collective::AllGather | Collective::ReduceScatter => all_but_one,
            Collective::Broadcast { .. } | Collective::Reduce { .. } => len_bytes,
            Collective::Barrier => 0,
        };
        let is_nothing = ranks == 1 || (len_bytes == 0 && query.collective != Collective::Barrier);
        let rounds = if is_nothing { 0 } else { 1 };
        let time_s = f64::from(rounds) * query.model.latency_s + bytes as f64 * query.model.byte_s;
        Bound { rounds, bytes, time_s }
    }
}

/// Explains a call in a World of these nodes, between which messages are `between` and whose ranks have cores of their own or
/// not; by node where the World would do it so.
///
/// # Errors
///
/// As [`explain`].
///
/// # Panics
///
/// As [`explain`].
pub fn explain_on(
    query: &Query,
    nodes: &Arc<Nodes>,
    between: MessageLimits,
) -> Result<Explanation, ExplainError> {
    let Query { collective, element, count, choice, messages, ref model, .. } = *query;
    let element_bytes = element.size_bytes();
    if choice.of(collective).is_some() || !Hierarchy::pays(collective, count, element_bytes, nodes) {
        return explain(query);
    }
    let means = Means { element_bytes, within: messages, between, model };
    let hierarchy = Hierarchy::new(collective, count, Arc::clone(nodes), means);
    let stages = hierarchy.stages(Rank(0)).map(|stage| stage.to_string()).collect();
    let algorithm = hierarchy.stages(Rank(0)).find(|stage| !stage.is_local);
    let algorithm = algorithm.and_then(|stage| stage.schedule.name().parse().ok());
    let selection =
        Selection { algorithm: algorithm.unwrap_or(Algorithm::Direct), leaf: None, why: Why::ByNode };
    Ok(Explanation { stages, ..of_schedule(query, &hierarchy, selection)? })
}

/// Explains a call.
///
/// # Errors
///
/// [`ExplainError`] when the collective does not have the algorithm that was asked for.
///
/// # Panics
///
/// When world size or credits are 0, a slot does not hold an element, or a root is not in the world.
pub fn explain(query: &Query) -> Result<Explanation, ExplainError> {
    let Query { collective, element, count, world_size, choice, messages, leaves, model } = *query;
    let (element_bytes, credits) = (element.size_bytes(), messages.credits);
    let sizes = Sizes { collective, world_size, count, element_bytes, messages, leaves };
    let selection = select::select(choice, &sizes, &model)?;
    let segment_len =
        select::segment_len(selection.algorithm, collective, world_size, count, element_bytes, messages);
    let shape = Shape { collective, world_size, count, segment_len, credits };
    of_schedule(query, &*select::build(selection.algorithm, shape), selection)
}

fn of_schedule(
    query: &Query,
    schedule: &dyn Schedule,
    selection: Selection,
) -> Result<Explanation, ExplainError> {
    let Query { collective, element, count, world_size, messages, model, .. } = *query;
    let (element_bytes, credits) = (element.size_bytes(), messages.credits);
    let len_bytes = collective.vector_len(world_size, count).saturating_mul(element_bytes);
    let most = most_of(schedule, element_bytes);
    let is_quick = most.steps.saturating_mul(u64::from(world_size)) <= MAX_SIMULATED_STEPS;
    let time_s = |model| simulate(schedule, element_bytes, credits, &model).map(|report| report.time_s);
    let hops = Model { latency_s: 1.0, message_s: 0.0, byte_s: 0.0, memory_byte_s: 0.0 };
    let simulated = if is_quick {
        Some(Simulated { time_s: time_s(model)?, rounds: time_s(hops)?.round() as u64 })
    } else {
        None
    };
    Ok(Explanation {
        query: *query,
        algorithm: selection.algorithm,
        leaf: selection.leaf,
        stages: Vec::new(),
        why: selection.why,
        len_bytes,
        segment_bytes: most.segment_len * element_bytes,
        messages: most.messages,
        sent_bytes: most.bytes,
        steps: most.steps,
        simulated,
        bound: Bound::of(query, len_bytes),
    })
}

/// Why a call cannot be explained.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ExplainError {
    /// The collective does not have the algorithm.
    #[error(transparent)]
    NoSuchAlgorithm(#[from] NoSuchAlgorithm),
    /// The schedule is wrong.
    #[error("the schedule is wrong: {0}; this is a fault of efarun, please report it")]
    Fault(#[from] Fault),
}

/// The most that one rank does.
#[derive(Debug, Default)]
struct Most {
    messages: u64,
    bytes: u64,
    steps: u64,
    segment_len: usize,
}

/// Counts the steps of some ranks, among which those with most are: the first, the last, the middle and their
/// neighbours, where a tree has its root and a remainder its owners.
fn most_of(schedule: &dyn Schedule, element_bytes: usize) -> Most {
    let world_size = schedule.world_size();
    let mut most = Most::default();
    let top = 1 << world_size.ilog2();
    let places = [0, 1, 2, 3, world_size / 2, top - 1, top / 2, world_size - 1, world_size.saturating_sub(2)];
    let root = schedule.collective().root();
    let counted = (0..world_size).take(MAX_COUNTED_RANKS).chain(places).map(Rank).chain(root);
    for rank in counted.filter(|rank| rank.0 < world_size) {
        let (mut messages, mut bytes, mut steps) = (0, 0, 0);
        for step in schedule.steps(rank) {
            steps += 1;
            if let Step::Send { span, .. } = step {
                messages += 1;
                bytes += (span.len * element_bytes) as u64;
                most.segment_len = most.segment_len.max(span.len);
            }
        }
        most.messages = most.messages.max(messages);
        most.bytes = most.bytes.max(bytes);
        most.steps = most.steps.max(steps);
    }
    most
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Query { collective, element, count, world_size, messages, model, .. } = self.query;
        let credits = messages.credits;
        let unit = if collective.has_blocks() { "elements per rank" } else { "elements" };
        match collective {
            Collective::Barrier => write!(f, "{collective} of {world_size} ranks")?,
            _ => write!(
                f,
                "{collective} of {count} {element} {unit} ({}) over {world_size} ranks",
                Bytes(self.len_bytes as u64)
            )?,
        }
        if let Some(root) = collective.root() {
            write!(f, ", root {root}")?;
        }
        writeln!(f, "\n  algorithm  {}: {}", self.algorithm, self.why)?;
        for stage in self.stages.iter().take(MAX_STAGES) {
            writeln!(f, "  stage      {stage}")?;
        }
        if let Some(more) = self.stages.len().checked_sub(MAX_STAGES).filter(|&more| more > 0) {
            writeln!(f, "  stage      and so on for {more} more")?;
        }
        if let Some(leaf) = self.leaf {
            writeln!(f, "  leaf       {leaf}, in shared memory; what follows is its reference by messages")?;
        }
        let segment = Bytes(self.segment_bytes as u64);
        let sent = Bytes(self.sent_bytes);
        writeln!(
            f,
            "  messages   {} of up to {segment} and {sent} in all from the rank that sends most; {credits} in \
             flight per pair",
            self.messages
        )?;
        if let Some(Simulated { time_s, rounds }) = self.simulated {
            writeln!(f, "  path       {rounds} messages and credits one after the other")?;
            writeln!(f, "  model      {:.1} us, with {model}", time_s * 1e6)?;
        } else {
            writeln!(f, "  model      not simulated: too many steps")?;
        }
        let Bound { rounds, bytes, time_s } = self.bound;
        let message = if rounds == 1 { "message" } else { "messages" };
        let bytes = Bytes(bytes);
        write!(f, "  bound      {rounds} {message}, {bytes} from or to some rank, {:.1} us", time_s * 1e6)
    }
}

/// A number of bytes for people: `8 B`, `64 KiB`, `1.5 MiB`.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            0..0x400 => return write!(f, "{} B", self.0),
            0x400..0x10_0000 => (1 << 10, "KiB"),
            0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
            _ => (1 << 30, "GiB"),
        };
        let value = format!("{:.1}", self.0 as f64 / f64::from(unit));
        write!(f, "{} {name}", value.strip_suffix(".0").unwrap_or(&value))
    }
}

/// More are alike.
const MAX_STAGES: usize = 6;
/// A second or two of simulating.
const MAX_SIMULATED_STEPS: u64 = 4_000_000;
/// Every rank of a world that is not huge.
const MAX_COUNTED_RANKS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn query(collective: Collective, count: usize, world_size: u32) -> Query {
        Query {
            collective,
            element: ElementType::F32,
            count,
            world_size,
            choice: Choice::Auto,
            messages: MessageLimits {
                slot_bytes: 256 << 10,
                min_segment_bytes: 32 << 10,
                min_exchange_bytes: 32 << 10,
                quick_bytes: None,
                credits: 4,
            },
            leaves: false,
            model: Model::TCP,
        }
    }

    #[test]
    fn an_exchange_between_two_ranks_is_at_the_bound() {
        for collective in Collective::ALL {
            let explanation = explain(&query(collective, 2, 2)).unwrap();
            assert_eq!(explanation.messages, 1, "{explanation}");
            assert_eq!(explanation.sent_bytes, explanation.bound.bytes, "{explanation}");
            assert_eq!(explanation.simulated.unwrap().rounds, 1, "{explanation}");
        }
    }

    #[test]
    fn a_ring_of_four_sends_the_least_in_six_rounds() {
        let choice = Choice::Fixed(Algorithm::Ring);
        let explanation = explain(&Query { choice, ..query(Collective::AllReduce, 4000, 4) }).unwrap();
        assert_eq!(explanation.algorithm, Algorithm::Ring);
        assert_eq!(explanation.sent_bytes, 24_000);
        assert_eq!(explanation.bound.bytes, 24_000);
        assert_eq!(explanation.simulated.unwrap().rounds, 6);
        assert_eq!(explanation.why, Why::AskedFor);
    }

    #[test]
    fn no_schedule_is_below_its_bound() {
        for collective in Collective::ALL {
            for &algorithm in Algorithm::of(collective) {
                for world_size in [1, 2, 3, 8, 17] {
                    for count in [0, 1, 1000, 100_000] {
                        let choice = Choice::Fixed(algorithm);
                        let explanation = explain(&Query { choice, ..query(collective, count, world_size) });
                        let explanation = explanation.unwrap();
                        let Simulated { time_s, rounds } = explanation.simulated.unwrap();
                        assert!(time_s >= explanation.bound.time_s * 0.999, "{explanation}");
                        assert!(rounds >= u64::from(explanation.bound.rounds), "{explanation}");
                    }
                }
            }
        }
    }

    #[test]
    fn worlds_too_large_to_simulate_are_counted_all_the_same() {
        let choice = Choice::Fixed(Algorithm::Ring);
        let explanation = explain(&Query { choice, ..query(Collective::AllReduce, 10_000, 10_000) }).unwrap();
        assert_eq!(explanation.simulated, None);
        assert_eq!(explanation.messages, 2 * 9_999);
    }

    #[test]
    fn a_call_by_node_says_its_stages() {
        let nodes = Arc::new(Nodes::in_order(4, 2));
        let query = query(Collective::AllReduce, 1 << 20, 4);
        let text = explain_on(&query, &nodes, query.messages).unwrap().to_string();
        let stages: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  stage      ")).collect();
        let expected = [
            "reduce_scatter of 524288 elements per rank among 2 ranks of the node, as direct",
            "all_reduce of 524288 elements among 2 ranks, one of each node, by doubling",
            "all_gather of 524288 elements per rank among 2 ranks of the node, as direct",
        ];
        assert_eq!(stages, expected, "{text}");
        let choice = Choice::Fixed(Algorithm::Ring);
        assert_eq!(explain_on(&Query { choice, ..query }, &nodes, query.messages).unwrap().stages.len(), 0);
    }

    #[test]
    fn it_reads_well() {
        let text = explain(&query(Collective::AllReduce, 1 << 20, 2)).unwrap().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "all_reduce of 1048576 float elements (4 MiB) over 2 ranks");
        assert!(lines[1].starts_with("  algorithm  doubling: estimated at 21"), "{text}");
        let most = "16 of up to 256 KiB and 4 MiB in all from the rank that sends most; 4 in flight per pair";
        assert_eq!(lines[2], format!("  messages   {most}"));
        assert!(lines[3].ends_with(" messages and credits one after the other"), "{text}");
        let model =
            "10 us of latency, 3 us per message and 0.5 ns per byte sent, 0.05 ns per byte reduced or copied";
        assert!(lines[4].ends_with(&format!(" us, with {model}")), "{text}");
        let bound = "1 message, 4 MiB from or to some rank, 2107.2 us";
        assert_eq!(lines[5], format!("  bound      {bound}"));
        assert_eq!(lines.len(), 6);
    }
}
