//! The command line as users type it.

use clap::CommandFactory;
use efarun_rt::{ElementType, ReduceOp};

use super::*;

fn parse(line: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(std::iter::once("efa-perf").chain(line.split_whitespace()))
}

fn refusal(line: &str) -> String {
    parse(line).map(|args| panic!("{args:?}")).unwrap_or_else(|error| error.to_string())
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
    assert_eq!(args.ops(), Ops(vec![ReduceOp::Sum]));
    assert_eq!(args.roots(4), Ok(vec![Rank(0)]));
    assert_eq!(args.average, Average::Mean);
    assert!(!args.percentiles && !args.bound);
}

#[test]
fn a_usual_nccl_tests_line_is_understood() {
    let args = parse("reduce -b 8 -e 1G -f 2 -g 1 -c 1 -n 100 -w 5 -d double -o max -a 3 -r -1").unwrap();
    assert_eq!(args.sweep(), Ok(Sweep { first_bytes: 8, last_bytes: 1 << 30, growth: Growth::Multiply(2) }));
    assert_eq!((args.iters, args.warmup_iters), (100, 5));
    assert_eq!(args.types, Types(vec![ElementType::F64]));
    assert_eq!(args.ops(), Ops(vec![ReduceOp::Max]));
    assert_eq!(args.roots(3), Ok([0, 1, 2].map(Rank).to_vec()));
    assert_eq!(args.average, Average::Max);
}

#[test]
fn every_collective_is_named_and_all_are_all() {
    for collective in Collective::ALL {
        let args = parse(collective.name()).unwrap();
        assert_eq!((args.target.collectives(), args.target.name()), (vec![collective], collective.name()));
    }
    assert_eq!(parse("all").unwrap().target.collectives(), Collective::ALL);
    assert!(refusal("alltoall").contains("all_gather"));
}

#[test]
fn all_names_every_type_and_every_reduction() {
    let args = parse("all_reduce -d all -o all").unwrap();
    assert_eq!(args.types.0, ElementType::ALL);
    assert_eq!(args.ops().0, ReduceOp::ALL);
}

#[test]
fn types_and_reductions_go_by_the_names_that_they_are_printed_with() {
    for element in ElementType::ALL {
        assert_eq!(parse(&format!("all_reduce -d {element}")).unwrap().types, Types(vec![element]));
    }
    for op in ReduceOp::ALL {
        assert_eq!(parse(&format!("all_reduce -o {op}")).unwrap().ops(), Ops(vec![op]));
    }
    assert_eq!(parse("all_reduce -d int").unwrap().types, Types(vec![ElementType::I32]));
}

#[test]
fn what_only_nccl_tests_has_is_refused_by_name() {
    let message = refusal("all_reduce -d fp8_e4m3");
    assert!(message.contains("nccl-tests has it") && message.contains("double"), "{message}");
    let message = refusal("all_reduce -o mulsum");
    assert!(message.contains("nccl-tests has it") && message.contains("prod"), "{message}");
    assert!(refusal("all_reduce -g 9").contains('9'));
}

#[test]
fn words_that_mean_nothing_are_refused_with_what_does() {
    for (line, hint) in [
        ("all_reduce -d floot", "unknown type; there are"),
        ("all_reduce -o add", "unknown reduction; there are sum"),
        ("broadcast -r -2", "-1 for every rank"),
        ("broadcast -r first", "-1 for every rank"),
        ("all_reduce --rotate 0", "from 1 on, or auto"),
        ("all_reduce --rotate some", "from 1 on, or auto"),
        ("all_reduce -a 4", "3 (longest)"),
        ("all_reduce --bound --link-gbps -1", "greater than 0"),
        ("all_reduce --bound --link-us inf", "greater than 0"),
        ("all_reduce --link-us 3", "--bound"),
        ("all_reduce --algo rong", "rong"),
        ("all_reduce -f 1", "1"),
        ("all_reduce -n 0", "0"),
        ("all_reduce --world 4", "--explain"),
        ("all_reduce --explain --nodes 4", "--world"),
        ("all_reduce --explain --bound", "cannot be used with"),
        ("all_reduce -i 1K -f 2", "cannot be used with"),
    ] {
        let message = refusal(line);
        assert!(message.contains(hint), "{line}: {message}");
    }
}

#[test]
fn sweeps_that_never_end_or_never_start_are_refused() {
    let check = |line: &str| parse(line).unwrap().check();
    assert_eq!(check("all_reduce -b 0 -f 2"), Err(ArgsError::Zero { flag: "-b" }));
    assert_eq!(check("all_reduce -b 8 -i 0"), Err(ArgsError::Zero { flag: "-i" }));
    assert_eq!(
        check("all_reduce -b 2K -e 1K"),
        Err(ArgsError::EmptySweep { min_bytes: 2048, max_bytes: 1024 })
    );
    assert_eq!(check("barrier --plot x.svg"), Err(ArgsError::NothingToPlot));
    assert_eq!(check("all_reduce --explain --on p4d"), Ok(()));
    assert_eq!(check("reduce --explain --on p5"), Err(ArgsError::NotModelled { collective: "reduce" }));
    assert_eq!(check("all --plot x.svg"), Ok(()));
    assert_eq!(
        check("all --explain --world 2 --nodes 3"),
        Err(ArgsError::EmptyNodes { nodes: 3, world_size: 2 })
    );
}

#[test]
fn flags_that_change_nothing_are_named_with_the_reason() {
    let notes = |line: &str| parse(line).unwrap().without_effect();
    assert!(notes("all_reduce -o max").is_empty());
    assert!(notes("all -o max -r 1 --rotate 2").is_empty());
    assert_eq!(notes("all_reduce -r -1"), ["-r -1 changes nothing: all_reduce has no root"]);
    assert_eq!(notes("broadcast -o max -r 0"), ["-o max changes nothing: broadcast reduces nothing"]);
    assert_eq!(notes("barrier --rotate auto"), ["--rotate auto changes nothing: barrier has no buffers"]);
    assert_eq!(notes("barrier --arena"), ["--arena changes nothing: barrier has no buffers"]);
}

#[test]
fn algorithms_that_nothing_measured_has_are_refused_and_others_named() {
    let parsed = |line: &str| parse(line).unwrap();
    let refused = parsed("broadcast --algo ring").check().unwrap_err().to_string();
    assert!(refused.contains("broadcast has no algorithm \"ring\"; it has"), "{refused}");
    assert_eq!(parsed("all --algo doubling").check(), Ok(()));
    let notes = parsed("all --algo doubling").without_effect();
    assert_eq!(notes.len(), 5, "{notes:?}");
    assert_eq!(notes[0], "--algo doubling is not among those of broadcast, which takes auto");
    assert!(parsed("all_reduce --algo all_reduce=ring").without_effect().is_empty());
    assert_eq!(
        parsed("broadcast --algo all_reduce=ring").without_effect(),
        ["--algo all_reduce=ring changes nothing: broadcast is not in it"]
    );
}

#[test]
fn clap_definition_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn help_is_grouped_and_names_every_type_and_reduction() {
    let help = Args::command().render_long_help().to_string();
    for heading in [SIZES, OPERATION, CALLS, REPORT, EXPLAIN, COMPATIBLE] {
        assert!(help.contains(&format!("\n{heading}:\n")), "{heading}");
    }
    let names = ElementType::ALL.map(|element| element.to_string()).into_iter();
    for name in names.chain(ReduceOp::ALL.map(|op| op.to_string())) {
        assert!(help.contains(&name), "{name}");
    }
}

#[test]
fn gpu_flags_need_gpus_and_exclude_what_is_about_the_host() {
    let args = parse("all_reduce -g 4 -R 1 -G 10 --leaf two-shot").unwrap();
    assert_eq!((args.gpus, args.register, args.graph_launches), (Some(4), 1, 10));
    assert_eq!(args.leaf, Some(crate::cli::LeafName::TwoShot));
    assert_eq!(parse("all_reduce").unwrap().gpus, None);
    for flag in ["-R 1", "-G 2", "--leaf direct"] {
        assert!(refusal(&format!("all_reduce {flag}")).contains("--ngpus"), "{flag}");
    }
    for flag in ["--bound", "--explain"] {
        assert!(refusal(&format!("all_reduce -g 1 {flag}")).contains(flag), "{flag}");
    }
}
