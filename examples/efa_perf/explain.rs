//! What would run: for each size the algorithm, why it is taken, and what it costs on a model. Nothing is measured.
//!
//! The runtime explains; this file asks for every call of the command line, of the World that was started or of one that
//! is only thought of.

use efarun_rt::coll::collective::Collective as RuntimeCollective;
use efarun_rt::coll::explain::{ExplainError, Explanation};
use efarun_rt::{ElementType, Elsewhere, Options, Rank};

use crate::cli::{Args, ArgsError};
use crate::complain;
use crate::instances::Pair;
use crate::output::Output;
use crate::plan::Plan;
use crate::run::{Outcome, PerfError, give_up, join};
use crate::sweep::Sweep;

/// Explains what the command line asks for.
///
/// # Errors
///
/// When the World fails, or the text cannot be written.
pub(crate) fn run(args: &Args) -> Result<Outcome, PerfError> {
    match (args.on, args.world) {
        (Some(instance), _) => of_instances(args, Pair::of(instance)),
        (None, Some(world_size)) => of_thought(args, world_size),
        (None, None) => of_world(args),
    }
}

fn of_instances(args: &Args, pair: Pair) -> Result<Outcome, PerfError> {
    match args.sweep() {
        Ok(sweep) => {
            Output::new(None, None, true)?.text(&pair.describe(sweep.sizes_bytes()))?;
            Ok(Outcome::Right)
        }
        Err(refusal) => {
            complain(&format!("error: {refusal}"));
            Ok(Outcome::Refused)
        }
    }
}

fn of_thought(args: &Args, world_size: u32) -> Result<Outcome, PerfError> {
    let elsewhere = Elsewhere { world_size, node_count: args.nodes.unwrap_or(1) };
    let explain = |collective: RuntimeCollective, element, count| {
        elsewhere.explain(collective, element, count, args.algo.where_it_exists(collective))
    };
    match explained(args, world_size, explain) {
        Ok(explained) => {
            say(&explained)?;
            Ok(Outcome::Right)
        }
        Err(refusal) => {
            complain(&format!("error: {refusal}"));
            Ok(Outcome::Refused)
        }
    }
}

fn of_world(args: &Args) -> Result<Outcome, PerfError> {
    let world = join(args)?;
    let explain = |collective, element, count| world.explain(collective, element, count, &Options::default());
    match explained(args, world.world_size(), explain) {
        Ok(explained) if world.rank() == Rank(0) => say(&explained)?,
        Ok(_) => {}
        Err(refusal) => return give_up(world, &refusal, Outcome::Refused),
    }
    world.close()?;
    Ok(Outcome::Right)
}

fn say(explained: &Explained) -> Result<(), PerfError> {
    explained.notes.iter().for_each(|note| complain(&format!("note: {note}")));
    Ok(Output::new(None, None, true)?.text(&(explained.calls.join("\n\n") + "\n"))?)
}

/// What is said of a command line.
#[derive(Clone, Debug, PartialEq)]
struct Explained {
    notes: Vec<String>,
    /// One per size, type and root.
    calls: Vec<String>,
}

/// Asks for every call. A reduction changes nothing about how it is done, so that each is explained once for all.
fn explained(
    args: &Args,
    world_size: u32,
    explain: impl Fn(RuntimeCollective, ElementType, usize) -> Result<Explanation, ExplainError>,
) -> Result<Explained, ArgsError> {
    let plan = Plan::new(args, world_size)?;
    let roots = args.roots(world_size)?;
    let mut calls = Vec::new();
    for part in plan.parts {
        let (collective, element) = (part.collective, part.element);
        let roots = if collective.has_root() { &roots[..] } else { &[Rank(0)] };
        for &root in roots {
            for count in counts(args.sweep()?, collective, element, world_size) {
                let explanation = explain(collective.in_runtime(root), element, count);
                // A fault of the runtime's is told in the place of what it would have done.
                calls.push(explanation.map_or_else(|error| error.to_string(), |it| it.to_string()));
            }
        }
    }
    Ok(Explained { notes: plan.notes, calls })
}

fn counts(
    sweep: Sweep,
    collective: crate::collective::Collective,
    element: ElementType,
    world_size: u32,
) -> impl Iterator<Item = usize> {
    let sizes = sweep.sizes_bytes().take(if collective.has_data() { usize::MAX } else { 1 });
    let lens = move |size_bytes| collective.lens(size_bytes, element.size_bytes(), world_size);
    sizes.filter_map(lens).map(|lens| lens.count)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn calls(line: &str) -> Vec<String> {
        let args = std::iter::once("efa-perf").chain(line.split_whitespace());
        let args = Args::try_parse_from(args).unwrap();
        let world_size = args.world.unwrap();
        let elsewhere = Elsewhere { world_size, node_count: args.nodes.unwrap_or(1) };
        let explain = |collective: RuntimeCollective, element, count| {
            elsewhere.explain(collective, element, count, args.algo.where_it_exists(collective))
        };
        explained(&args, world_size, explain).unwrap().calls
    }

    #[test]
    fn every_size_is_explained_by_its_algorithm_and_reason() {
        let calls = calls("all_reduce --explain --world 8 --nodes 4 -b 8 -e 8M -f 1024");
        assert_eq!(calls.len(), 3);
        for (call, size) in calls.iter().zip(["8 B", "8 KiB", "8 MiB"]) {
            assert!(
                call.starts_with("all_reduce of ") && call.contains(&format!("({size}) over 8 ranks")),
                "{call}"
            );
            assert!(call.contains("\n  algorithm "), "{call}");
        }
    }

    #[test]
    fn an_algorithm_that_was_asked_for_is_explained_where_it_exists() {
        let calls = calls("all --explain --world 4 -b 1M -e 1M --algo tree");
        assert_eq!(calls.len(), 6);
        let by_tree = calls.iter().filter(|call| call.contains("algorithm  tree: asked for")).count();
        assert_eq!(by_tree, 3, "{calls:#?}");
    }

    #[test]
    fn roots_and_types_are_explained_each_and_reductions_once() {
        assert_eq!(calls("reduce --explain --world 3 -b 1M -e 1M -r -1 -o all -d all").len(), 3 * 12);
    }
}
