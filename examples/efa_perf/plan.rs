//! What a run measures, in order, and what is said about it beforehand.
//!
//! Pure: from the command line and the world's size to [`Part`]s, a type of a collective each.

use efarun_rt::ElementType;

use crate::cli::{Args, ArgsError};
use crate::collective::{Collective, Operation};
use crate::sweep::Sweep;

/// A collective on one element type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    /// The collective.
    pub(crate) collective: Collective,
    /// The type of its elements.
    pub(crate) element: ElementType,
    /// Its calls.
    pub(crate) operations: Vec<Operation>,
}

/// The parts of a run.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// In the order of measuring; never empty.
    pub(crate) parts: Vec<Part>,
    /// What a user should know before, a line each.
    pub(crate) notes: Vec<String>,
}

impl Plan {
    /// The plan of a run in a world of this size.
    ///
    /// # Errors
    ///
    /// When nothing can be measured.
    pub(crate) fn new(args: &Args, world_size: u32) -> Result<Plan, ArgsError> {
        let sweep = args.sweep()?;
        let (ops, roots) = (args.ops(), args.roots(world_size)?);
        let mut plan = Plan { parts: Vec::new(), notes: args.without_effect() };
        for collective in args.target.collectives() {
            let types = if collective.has_data() { &args.types.0[..] } else { &[ElementType::U8] };
            for &element in types {
                let (is_possible, note) = sizes(collective, element, sweep, world_size);
                plan.notes.extend(note);
                if is_possible {
                    let operations = collective.operations(&ops.0, &roots);
                    plan.parts.push(Part { collective, element, operations });
                }
            }
        }
        match (plan.parts.is_empty(), args.types.0.first()) {
            (true, Some(element)) => Err(ArgsError::NoElements {
                min_bytes: sweep.first_bytes,
                max_bytes: sweep.last_bytes,
                world_size,
                element: element.to_string(),
                needed_bytes: element.size_bytes() as u64 * u64::from(world_size),
            }),
            _ => Ok(plan),
        }
    }
}

/// Whether a size of the sweep gives every rank an element, and what becomes of those that do not fit.
fn sizes(
    collective: Collective,
    element: ElementType,
    sweep: Sweep,
    world_size: u32,
) -> (bool, Option<String>) {
    let element_bytes = element.size_bytes();
    let lens = |&size_bytes: &u64| collective.lens(size_bytes, element_bytes, world_size);
    let Some(smallest) = sweep.sizes_bytes().find(|size| lens(size).is_some()) else {
        return (false, None);
    };
    if !collective.has_data() {
        return (true, None);
    }
    let name = collective.name();
    if smallest > sweep.first_bytes {
        let note =
            format!("{name}: sizes below {smallest} B leave a rank without a {element}, and are left out");
        return (true, Some(note));
    }
    let rounded = sweep.sizes_bytes().find_map(|size_bytes| {
        let measured_bytes = lens(&size_bytes)?.larger() as u64 * element_bytes as u64;
        (measured_bytes < size_bytes).then_some((size_bytes, measured_bytes))
    });
    let note = rounded.map(|(size_bytes, measured_bytes)| {
        format!(
            "{name}: sizes are rounded down to what every rank's share of {element} can be: {size_bytes} B to \
             {measured_bytes} B"
        )
    });
    (true, note)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use efarun_rt::Rank;

    use super::*;

    fn plan(line: &str, world_size: u32) -> Result<Plan, ArgsError> {
        let args = std::iter::once("efa-perf").chain(line.split_whitespace());
        Plan::new(&Args::try_parse_from(args).unwrap(), world_size)
    }

    #[test]
    fn types_come_before_reductions_before_roots() {
        let plan = plan("reduce -b 8 -e 8 -d float -o all -r -1", 2).unwrap();
        let [part] = &plan.parts[..] else { panic!("{plan:?}") };
        let roots: Vec<_> = part.operations.iter().take(3).map(|operation| operation.root()).collect();
        assert_eq!(roots, [Some(Rank(0)), Some(Rank(1)), Some(Rank(0))]);
        assert_eq!(part.operations[0].op(), part.operations[1].op());
        assert!(plan.notes.is_empty());
    }

    #[test]
    fn all_measures_each_collective_and_a_barrier_once() {
        let plan = plan("all -d all", 4).unwrap();
        let count = |collective| plan.parts.iter().filter(|part| part.collective == collective).count();
        assert_eq!(count(Collective::AllReduce), ElementType::ALL.len());
        assert_eq!(count(Collective::Barrier), 1);
    }

    #[test]
    fn sizes_that_are_rounded_or_left_out_are_said_once_with_an_example() {
        assert!(plan("all_reduce -b 8 -e 64 -f 2", 3).unwrap().notes.is_empty());
        assert_eq!(
            plan("all_reduce -b 10 -e 64 -i 1", 3).unwrap().notes,
            ["all_reduce: sizes are rounded down to what every rank's share of float can be: 10 B to 8 B"]
        );
        assert_eq!(
            plan("all_gather -b 8 -e 64 -f 2", 4).unwrap().notes,
            ["all_gather: sizes below 16 B leave a rank without a float, and are left out"]
        );
    }

    #[test]
    fn a_run_without_an_element_is_refused_with_the_size_that_would_do() {
        let error = plan("all_gather -b 8 -e 8 -d double", 4).unwrap_err().to_string();
        assert!(error.contains("4 ranks") && error.contains("-e 32"), "{error}");
    }

    #[test]
    fn root_beyond_the_world_is_refused_with_its_range() {
        let error = plan("broadcast -r 4", 4).unwrap_err().to_string();
        assert_eq!(
            error,
            "-r 4: there is no such rank in a world of 4 (0 to 3); -1 takes every rank in turn"
        );
    }
}
