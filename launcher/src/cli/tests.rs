use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

mod effects;
mod equivalents;
mod programs;
mod recipes;

use crate::binding::{BindTo, Object};
use crate::job::{DryRun, EventsTo, Export, OnFailure, OutputFolder, OutputSpec, StdinTo};
use crate::mapping::{MapBy, RankBy};

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
        "--grace -1 prog",
        "--grace 3601 prog",
        "--on-failure retry prog",
        "--timeout -1 prog",
        "--timeout 1e9 prog",
        "--timeout inf prog",
        "--start-timeout 99999999999 prog",
        "--tag-output=yes prog",
        "--dry-run=maybe prog",
        "--dry-run --dry-run=offline prog",
        "--bind-to l2cache prog",
        "--bind-to core:loose prog",
        "--map-by board prog",
        "--map-by seq:SPAN prog",
        "--map-by rankfile prog",
        "--map-by node --rankfile ranks prog",
        "--map-by rankfile:FILE=a --rankfile b prog",
        "--map-by ppr:8 prog",
        "--rank-by core prog",
        "--cpus-per-proc 0 prog",
        "--npersocket 4 --bind-to core prog",
        "--launch-agent 'ssh prog",
        "-x =1 prog",
        "-hostflie hosts prog",
        "--hostflie=hosts prog",
        "--nu 4 prog",
        "-z prog",
        "---n prog",
        "-n4x prog",
        "--mca pml",
        "--mca orte_startup_timeout soon prog",
        "--mca orte_tag_output maybe prog",
        "--gmca=x prog",
        "-rf ranks prog",
        "--pernode -N 2 prog",
        "--mca rmaps_base_n_pernode 4 -N 8 prog",
        "--pernode=2 prog",
        "--runtime-options sleep prog",
        "--default-slots 0 prog",
        "--ssh-args 'x prog",
        "translate",
        "translate srun -n 4 prog",
        "translate mpirun --frob",
        "--output-filename=out:later prog",
        "--output-filename= prog",
        "--output file=out prog",
        "--forward-signals SIGNAL prog",
        "--forward-signals KILL prog",
        "--stdin 1,2 prog",
        "--stdin +1 prog",
        "--preload-binary prog",
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
         --start-timeout=9 --wait-for-hosts 90 -tag-output --dry-run=offline --oversubscribe --json -v --allow-run-as-root \
         --prefix /opt/mpi --path /a:/b --default-slots 3 --nolocal --mca btl tcp,self --timestamp-output --stdin 2 \
         --output-filename out:nojobid,nocopy --merge-stderr-to-stdout --bind-to core:overload-allowed --map-by socket:PE=2 --rank-by slot \
         --display-map --report-bindings --grace 2.5 --on-failure continue --events 3 --report r --junit j --fold-output --forward-signals WINCH ./prog -n 3",
    );
    let app = App {
        rank_count: Some(16),
        host_list: ["a:4", "b", "c"].map(str::to_owned).to_vec(),
        exports: vec![Export::Set("A".into(), "b=c".into()), Export::Inherit("D".into())],
        wdir: Some(PathBuf::from("/w")),
        prefix: Some(PathBuf::from("/opt/mpi")),
        search_path: Some(PathBuf::from("/a:/b")),
        program: "./prog".into(),
        args: vec!["-n".into(), "3".into()],
    };
    let expected = JobSpec {
        rankfile: None,
        forwarded: crate::job::ForwardedSignals::Also(vec![libc::SIGWINCH]),
        apps: vec![app],
        ranks_per_node: Some(8),
        hostfile: Some(PathBuf::from("hosts")),
        default_slots: Some(3),
        nolocal: true,
        parameters: vec![("OMPI_MCA_btl".into(), "tcp,self".into())],
        launch_agent: Some(vec!["ssh".into()]),
        timeout: Some(Duration::from_millis(1500)),
        start_timeout: Duration::from_secs(9),
        wait_for_hosts: Some(Duration::from_secs(90)),
        grace: Duration::from_millis(2500),
        on_failure: OnFailure::Continue,
        output: OutputSpec {
            tag: true,
            timestamp: true,
            merge_stderr: true,
            fold: Some(Duration::from_millis(500)),
            folder: Some(OutputFolder { path: "out".into(), by_job: false, copy: false }),
        },
        stdin: StdinTo::Rank(efarun_wire::Rank(2)),
        dry_run: Some(DryRun::Offline),
        oversubscribe: true,
        map_by: MapBy::Object(Object::Socket),
        rank_by: Some(RankBy::Slot),
        bind_to: BindTo::Object(Object::Core),
        overload_allowed: true,
        cpus_per_rank: Some(2),
        display_map: true,
        report_bindings: true,
        json: true,
        events: Some(EventsTo::Descriptor(3)),
        report: Some("r".into()),
        junit: Some("j".into()),
        verbose: true,
        torchrun: None,
        notes: Vec::new(),
    };
    assert_eq!(job, expected);
}

#[test]
fn nothing_but_a_program_asks_for_nothing() {
    let app = App { program: "prog".into(), ..App::default() };
    assert_eq!(job("prog"), JobSpec { apps: vec![app], ..JobSpec::default() });
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
        assert_eq!(job(line).apps[0].rank_count, Some(4), "{line}");
    }
    for line in ["-hostfile h p", "--hostfile h p", "-machinefile h p", "--machinefile=h p"] {
        assert_eq!(job(line).hostfile, Some(PathBuf::from("h")), "{line}");
    }
    for line in ["-host a:2 p", "--host a:2 p", "-H a:2 p", "-H=a:2 p"] {
        assert_eq!(job(line).apps[0].host_list, ["a:2"], "{line}");
    }
    for line in ["-N 8 p", "-npernode 8 p", "--npernode 8 p", "-N8 p"] {
        assert_eq!(job(line).ranks_per_node, Some(8), "{line}");
    }
    for line in ["-wdir /w p", "-wd /w p", "--wdir=/w p"] {
        assert_eq!(job(line).apps[0].wdir, Some(PathBuf::from("/w")), "{line}");
    }
}

#[test]
fn launch_agent_is_cut_as_a_shell_would() {
    let agent = |words: &[&str]| job_of(words.iter().map(OsString::from)).launch_agent.unwrap();
    let words = ["--launch-agent", "ssh -F 'my config' -o A=\\ b", "prog"];
    assert_eq!(agent(&words), ["ssh", "-F", "my config", "-o", "A= b"]);
    assert_eq!(agent(&["--ssh-args", "-p 12345 -i 'a key'", "prog"]), ["ssh", "-p", "12345", "-i", "a key"]);
    assert_eq!(
        agent(&["--ssh-args=-p 1", "--launch-agent", "my-ssh -q", "prog"]),
        ["my-ssh", "-q", "-p", "1"]
    );
    assert_eq!(agent(&["--mca", "plm_rsh_agent", "ssh : rsh", "prog"]), ["ssh"]);
}

#[test]
fn bytes_that_are_no_text_arrive_unchanged_or_are_refused() {
    let odd = OsString::from_vec(b"\xff\xfe=\x80".to_vec());
    let words = ["-x".into(), odd.clone(), "--wdir".into(), odd.clone(), odd.clone(), odd.clone()];
    let job = job_of(words);
    let (name, value) = (OsString::from_vec(b"\xff\xfe".to_vec()), OsString::from_vec(b"\x80".to_vec()));
    let app = job.apps.into_iter().next().unwrap();
    assert_eq!(app.exports, [Export::Set(name, value)]);
    assert_eq!((app.wdir, app.program, app.args), (Some(odd.clone().into()), odd.clone(), vec![odd.clone()]));
    let refusal = parse_words(["-H".into(), odd.clone(), "prog".into()]).unwrap_err();
    assert!(matches!(&refusal, CliExit::BadValue { option, .. } if option == "-H"), "{refusal}");
    let mut option = OsString::from("--");
    option.push(odd);
    assert!(matches!(parse_words([option]), Err(CliExit::UnknownOption { .. })));
}

proptest! {
    #[test]
    fn any_words_give_a_command_or_an_error(words in prop::collection::vec(prop::collection::vec(1u8.., 0..12), 0..6)) {
        let _ = parse_words(words.into_iter().map(OsString::from_vec));
    }

    #[test]
    fn likely_words_give_a_command_or_an_error(words in prop::collection::vec(word(), 0..8)) {
        let _ = parse_words(words.into_iter().map(OsString::from));
    }

    #[test]
    fn from_program_on_every_byte_is_the_programs(
        options in prop::sample::subsequence(vec!["-n4", "-tag-output", "-N=2", "--oversubscribe", "--dry-run"], 0..5),
        dashes: bool,
        program in "[a-z./]{1,9}",
        args in prop::collection::vec(prop_oneof![word().prop_map(String::into_bytes), prop::collection::vec(1u8.., 0..9)], 0..9),
    ) {
        let mut args: Vec<OsString> = args.into_iter().map(OsString::from_vec).collect();
        if !dashes {
            args.retain(|arg| arg != ":");
        }
        let options = options.into_iter().chain(dashes.then_some("--")).map(OsString::from);
        let words = options.chain([OsString::from(&program)]).chain(args.clone());
        let job = job_of(words);
        prop_assert_eq!(&job.apps[0].program, &OsString::from(program));
        prop_assert_eq!(&job.apps[0].args, &args);
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

fn parse_words(words: impl IntoIterator<Item = OsString>) -> Result<Command, CliExit> {
    parse(words, Surroundings { env: &[], read: &|_| Err(std::io::ErrorKind::NotFound.into()) })
}

fn parse_line(line: &str) -> Result<Command, CliExit> {
    parse_words(line.split_whitespace().map(OsString::from))
}

fn job_of(words: impl IntoIterator<Item = OsString>) -> JobSpec {
    match parse_words(words).unwrap() {
        Command::Run(job) => *job,
        Command::Print(text) => panic!("no job but {text}"),
    }
}

fn job(line: &str) -> JobSpec {
    job_of(line.split_whitespace().map(OsString::from))
}

fn printed(line: &str) -> String {
    match parse_line(line).unwrap() {
        Command::Print(text) => text,
        Command::Run(job) => panic!("{line} runs {job:?}"),
    }
}
