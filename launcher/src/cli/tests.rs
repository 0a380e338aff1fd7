use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::job::{DryRun, Export};

#[test]
fn help_lists_every_option_in_its_section() {
    insta::assert_snapshot!("help_short", printed("-h"));
    insta::assert_snapshot!("help_long", printed("--help"));
    assert_eq!(printed("-help"), printed("--help"));
    assert_eq!(printed("--version"), format!("efarun {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn refusals_name_the_word_and_what_would_be_right() {
    let lines = [
        "",
        "-n 4",
        "-n 4 --",
        "-n",
        "-np -- prog",
        "-n 0 prog",
        "-n -3 prog",
        "-n four prog",
        "-n 4.5 prog",
        "-n 1048577 prog",
        "-n 99999999999999999999 prog",
        "-N 0 prog",
        "-n 4 -np 5 prog",
        "--timeout 0 prog",
        "--timeout -1 prog",
        "--timeout 1e9 prog",
        "--timeout inf prog",
        "--start-timeout 99999999999 prog",
        "--tag-output=yes prog",
        "--dry-run=maybe prog",
        "--dry-run --dry-run=offline prog",
        "--bind-to core prog",
        "--launch-agent 'ssh prog",
        "-x =1 prog",
        "-hostflie hosts prog",
        "--hostflie=hosts prog",
        "--nu 4 prog",
        "-z prog",
        "---n prog",
        "-n4x prog",
        "--mca pml ^cm prog",
        "-mca plm_rsh_agent ssh_helper -np 2 prog",
        "--map-by ppr:8:node prog",
        "-rf ranks prog",
        "--prefix /opt/amazon/openmpi prog",
        "--pernode prog",
        "-npersocket 4 prog",
        "--merge-stderr-to-stdout prog",
        "--output-filename=out prog",
    ];
    let mut refusals = String::new();
    for line in lines {
        let refusal = parse_line(line).unwrap_err();
        assert_eq!(refusal.exit_cause().code(), 64);
        refusals.push_str(&format!("efarun {line}\nerror: {refusal}\n\n"));
    }
    insta::assert_snapshot!("refusals", refusals);
}

#[test]
fn everything_that_can_be_asked_for_is_in_the_job() {
    let job = job(
        "-np 16 -N 8 -hostfile hosts -H a:4,b -H c -x A=b=c -x D --wd /w --launch-agent ssh --timeout 1.5 \
         --start-timeout=9 -tag-output --dry-run=offline --oversubscribe --json -v --allow-run-as-root \
         --bind-to none ./prog -n 3",
    );
    let expected = JobSpec {
        rank_count: Some(16),
        ranks_per_node: Some(8),
        hostfile: Some(PathBuf::from("hosts")),
        host_list: ["a:4", "b", "c"].map(str::to_owned).to_vec(),
        exports: vec![Export::Set("A".into(), "b=c".into()), Export::Inherit("D".into())],
        wdir: Some(PathBuf::from("/w")),
        launch_agent: Some(vec!["ssh".into()]),
        timeout: Some(Duration::from_millis(1500)),
        start_timeout: Duration::from_secs(9),
        tag_output: true,
        dry_run: Some(DryRun::Offline),
        oversubscribe: true,
        json: true,
        verbose: true,
        program: "./prog".into(),
        args: vec!["-n".into(), "3".into()],
    };
    assert_eq!(job, expected);
}

#[test]
fn nothing_but_a_program_asks_for_nothing() {
    let job = job("prog");
    assert_eq!((job.rank_count, job.ranks_per_node, job.dry_run, job.timeout), (None, None, None, None));
    assert_eq!(job.start_timeout, Duration::from_secs(60));
    assert!(!job.tag_output && !job.oversubscribe && !job.json && !job.verbose);
}

#[test]
fn mpiruns_spellings_mean_the_same() {
    for line in [
        "-n 4 p",
        "-np 4 p",
        "--np 4 p",
        "--n 4 p",
        "-c 4 p",
        "-n4 p",
        "-np=4 p",
        "--np=4 p",
        "-n=4 p",
        "-n 4 -np 4 p",
    ] {
        assert_eq!(job(line).rank_count, Some(4), "{line}");
    }
    for line in ["-hostfile h p", "--hostfile h p", "-machinefile h p", "--machinefile=h p"] {
        assert_eq!(job(line).hostfile, Some(PathBuf::from("h")), "{line}");
    }
    for line in ["-host a:2 p", "--host a:2 p", "-H a:2 p", "-H=a:2 p"] {
        assert_eq!(job(line).host_list, ["a:2"], "{line}");
    }
    for line in ["-N 8 p", "-npernode 8 p", "--npernode 8 p", "-N8 p"] {
        assert_eq!(job(line).ranks_per_node, Some(8), "{line}");
    }
    for line in ["-wdir /w p", "-wd /w p", "--wdir=/w p"] {
        assert_eq!(job(line).wdir, Some(PathBuf::from("/w")), "{line}");
    }
}

#[test]
fn lines_from_guides_run_with_the_name_changed() {
    let eks = job(
        "--allow-run-as-root --tag-output -np 16 -N 8 --bind-to none -x PATH -x LD_LIBRARY_PATH -x FI_PROVIDER=efa \
         -x NCCL_DEBUG=INFO /opt/all_reduce_perf -b 8 -e 1G -f 2 -g 1",
    );
    assert_eq!((eks.rank_count, eks.ranks_per_node, eks.exports.len()), (Some(16), Some(8), 4));
    assert_eq!(eks.args.len(), 8);
    let script = job("-bind-to none -np 8 -npernode 4 --hostfile hosts -- prog --verbose");
    assert_eq!((script.program, script.args), ("prog".into(), vec![OsString::from("--verbose")]));
    let shell = job("-N 1 --oversubscribe sh -c x");
    assert_eq!((shell.program, shell.args.len()), ("sh".into(), 2));
}

#[test]
fn launch_agent_is_cut_as_a_shell_would() {
    let words = ["--launch-agent", "ssh -F 'my config' -o A=\\ b", "prog"].map(OsString::from);
    let Command::Run(job) = parse(words).unwrap() else { panic!("not a job") };
    assert_eq!(job.launch_agent.unwrap(), ["ssh", "-F", "my config", "-o", "A= b"]);
}

#[test]
fn bytes_that_are_no_text_arrive_unchanged_or_are_refused() {
    let odd = OsString::from_vec(b"\xff\xfe=\x80".to_vec());
    let words = ["-x".into(), odd.clone(), "--wdir".into(), odd.clone(), odd.clone(), odd.clone()];
    let Command::Run(job) = parse(words).unwrap() else { panic!("not a job") };
    let (name, value) = (OsString::from_vec(b"\xff\xfe".to_vec()), OsString::from_vec(b"\x80".to_vec()));
    assert_eq!(job.exports, [Export::Set(name, value)]);
    assert_eq!((job.wdir, job.program, job.args), (Some(odd.clone().into()), odd.clone(), vec![odd.clone()]));
    let refusal = parse(["-H".into(), odd.clone(), "prog".into()]).unwrap_err();
    assert!(matches!(&refusal, CliExit::BadValue { option, .. } if option == "-H"), "{refusal}");
    let mut option = OsString::from("--");
    option.push(odd);
    assert!(matches!(parse([option]), Err(CliExit::UnknownOption { .. })));
}

proptest! {
    #[test]
    fn any_words_give_a_command_or_an_error(words in prop::collection::vec(prop::collection::vec(1u8.., 0..12), 0..6)) {
        let _ = parse(words.into_iter().map(OsString::from_vec));
    }

    #[test]
    fn likely_words_give_a_command_or_an_error(words in prop::collection::vec(word(), 0..8)) {
        let _ = parse(words.into_iter().map(OsString::from));
    }

    #[test]
    fn from_program_on_every_byte_is_the_programs(
        options in prop::sample::subsequence(vec!["-n4", "-tag-output", "-N=2", "--oversubscribe", "--dry-run"], 0..5),
        dashes: bool,
        program in "[a-z./]{1,9}",
        args in prop::collection::vec(prop_oneof![word().prop_map(String::into_bytes), prop::collection::vec(1u8.., 0..9)], 0..9),
    ) {
        let args: Vec<OsString> = args.into_iter().map(OsString::from_vec).collect();
        let options = options.into_iter().chain(dashes.then_some("--")).map(OsString::from);
        let words = options.chain([OsString::from(&program)]).chain(args.clone());
        let Command::Run(job) = parse(words).unwrap() else { panic!("not a job") };
        prop_assert_eq!(job.program, OsString::from(program));
        prop_assert_eq!(job.args, args);
    }
}

/// Words that mean something, or nearly.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "-n",
            "-np",
            "--np=3",
            "-H",
            "a:2,b",
            "-x",
            "A=1",
            "--",
            "-",
            "--hostfile",
            "--mca",
            "-dry-run",
            "prog",
            "=",
            "-n=",
            "--=",
            "-=",
            "--dry-run=",
            "-h4",
            "-V",
            ":",
            "",
        ])
        .prop_map(str::to_owned),
        "-{0,3}[a-zA-Z]{0,9}=?[0-9]{0,3}",
    ]
}

fn parse_line(line: &str) -> Result<Command, CliExit> {
    parse(line.split_whitespace().map(OsString::from))
}

fn job(line: &str) -> JobSpec {
    match parse_line(line).unwrap() {
        Command::Run(job) => *job,
        Command::Print(text) => panic!("{line} prints {text}"),
    }
}

fn printed(line: &str) -> String {
    match parse_line(line).unwrap() {
        Command::Print(text) => text,
        Command::Run(job) => panic!("{line} runs {job:?}"),
    }
}
