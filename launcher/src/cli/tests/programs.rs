//! Several programs: `:` and `--app`; and what the environment says.

use std::ffi::OsString;
use std::path::Path;

use super::*;

fn programs(job: &JobSpec) -> Vec<(Option<u32>, String)> {
    let words = |app: &App| {
        let words = std::iter::once(&app.program).chain(&app.args).map(|word| word.to_str().unwrap());
        (app.rank_count, words.collect::<Vec<_>>().join(" "))
    };
    job.apps.iter().map(words).collect()
}

#[test]
fn a_colon_begins_another_program_with_options_of_its_own() {
    let job = job(
        "-tag-output -H a:1 -x CUDA_VISIBLE_DEVICES=0 -np 1 p -v x : -H b:1 -np 2 --wdir /w --hostfile h q : -n3 r",
    );
    let expected = [(Some(1), "p -v x"), (Some(2), "q"), (Some(3), "r")];
    assert_eq!(programs(&job), expected.map(|(count, words)| (count, words.to_owned())));
    assert!(job.output.tag && job.hostfile == Some("h".into()), "what is the job's may stand anywhere");
    assert_eq!(
        (&job.apps[0].host_list[..], &job.apps[1].host_list[..]),
        (&["a:1".to_owned()][..], &["b:1".to_owned()][..])
    );
    assert_eq!((job.apps[0].exports.len(), job.apps[1].exports.len()), (1, 0));
    assert_eq!((job.apps[0].wdir.clone(), job.apps[1].wdir.clone()), (None, Some("/w".into())));
}

#[test]
fn a_colon_behind_two_dashes_is_the_programs() {
    assert_eq!(programs(&job("-n 1 -- p : q")), [(Some(1), "p : q".to_owned())]);
    assert_eq!(programs(&job("-n 1 p a:b :c")), [(Some(1), "p a:b :c".to_owned())]);
}

#[test]
fn programs_that_are_missing_or_lack_their_number_are_refused() {
    let refusal = |line: &str| parse_line(line).unwrap_err().to_string();
    assert_eq!(
        refusal("-n 1 p : q"),
        "program 2 (`q`) has no -n: where there are several, each needs its number of ranks"
    );
    assert!(refusal("-n 1 : -n 1 q").starts_with("no program before the first `:`"));
    assert!(refusal("-n 1 p :").starts_with("no program after the last `:`"));
    assert!(refusal("-n 1 p : -n 1 : -n 1 r").starts_with("no program between two `:`"));
    assert_eq!(refusal("-N 2 -n 1 p : -N 3 -n 1 q"), "`-N 3` contradicts `-N 2`: leave one out");
}

fn with_file(line: &str, file: &[u8]) -> Result<JobSpec, CliExit> {
    let read = |path: &Path| match path.to_str() {
        Some("apps") => Ok(file.to_vec()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    let words = line.split_whitespace().map(OsString::from);
    match parse(words, Surroundings { env: &[], read: &read })? {
        Command::Run(job) => Ok(*job),
        Command::Print(text) => panic!("{text}"),
    }
}

#[test]
fn programs_may_come_from_a_file() {
    let file = b"# two\n-n 2 -x 'A=b c' ./p 'one word'\n\n   -n 1 --tag-output q # behind\n";
    let job = with_file("--app apps -v", file).unwrap();
    assert_eq!(programs(&job), [(Some(2), "./p one word".to_owned()), (Some(1), "q".to_owned())]);
    assert_eq!(job.apps[0].exports, [Export::Set("A".into(), "b c".into())]);
    assert!(job.output.tag && job.verbose);
    let job = with_file("--app apps -x B=1 --wdir /line", b"-n 1 -x A=2 p\n-n 1 --wdir /own q\n").unwrap();
    assert_eq!((job.apps[0].exports.len(), job.apps[1].exports.len()), (2, 1), "the line's hold for each");
    assert_eq!(job.apps[0].wdir, Some("/line".into()));
    assert_eq!(job.apps[1].wdir, Some("/own".into()));
    let refusal = |line: &str, file: &[u8]| with_file(line, file).unwrap_err().to_string();
    assert_eq!(
        refusal("--app apps p", b""),
        "`--app apps` names the programs, and `p` is one more: leave one of them out"
    );
    assert_eq!(refusal("--app apps", b"\n-n 1 p\n-n x q\n"), "`-n x`: it must be a number from 1 to 1048576");
    assert_eq!(
        refusal("--app apps", b"-n 1 p\n--frob q\n").lines().next().unwrap(),
        "apps:2: unknown option `--frob`"
    );
    assert!(refusal("--app apps", b"-n 1 'p\n").starts_with("apps:1: a quote is not closed"));
    assert!(refusal("--app apps", b"-n 1\n").starts_with("apps:1: no program to run"));
    assert!(refusal("--app apps", b"\xff").contains("UTF-8"));
    assert!(refusal("--app apps", b"\n").starts_with("no program to run"));
}

fn with_env(line: &str, env: &[(&str, &str)]) -> JobSpec {
    let env: Vec<(OsString, OsString)> =
        env.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let words = line.split_whitespace().map(OsString::from);
    let around = Surroundings { env: &env, read: &|_| Err(std::io::ErrorKind::NotFound.into()) };
    match parse(words, around).unwrap() {
        Command::Run(job) => *job,
        Command::Print(text) => panic!("{text}"),
    }
}

#[test]
fn the_launchers_parameters_in_the_environment_are_acted_on() {
    let k8s = [
        ("OMPI_MCA_orte_default_hostfile", "/etc/mpi/hostfile"),
        ("OMPI_MCA_plm_rsh_args", "-o ConnectionAttempts=10"),
        ("OMPI_MCA_orte_keep_fqdn_hostnames", "true"),
        ("OMPI_MCA_orte_set_default_slots", "8"),
        ("OMPI_MCA_btl", "tcp,self"),
    ];
    let job = with_env("p", &k8s);
    assert_eq!((job.hostfile, job.default_slots), (Some("/etc/mpi/hostfile".into()), Some(8)));
    assert_eq!(job.launch_agent.unwrap(), ["ssh", "-o", "ConnectionAttempts=10"]);
    assert_eq!(
        job.notes,
        ["the hosts are those of /etc/mpi/hostfile, which OMPI_MCA_orte_default_hostfile names"]
    );
    assert!(job.parameters.is_empty());
}

#[test]
fn the_line_wins_over_the_environment_and_an_outer_jobs_says_nothing() {
    let hostfile = ("PRTE_MCA_prte_default_hostfile", "/their/hosts");
    assert_eq!(with_env("p", &[hostfile]).hostfile, Some("/their/hosts".into()));
    assert_eq!(with_env("--hostfile mine p", &[hostfile]).hostfile, Some("mine".into()));
    assert_eq!(with_env("-H a p", &[hostfile]).hostfile, None, "-H names the hosts");
    let inside = [hostfile, ("OMPI_COMM_WORLD_RANK", "3")];
    assert_eq!(with_env("p", &inside).hostfile, None);
}

#[test]
fn hosts_of_other_launchers_are_found_where_none_are_named() {
    let slurm = [("SLURM_JOB_NODELIST", "n[1-2]"), ("SLURM_TASKS_PER_NODE", "4(x2)")];
    let job = with_env("p", &slurm);
    assert_eq!(job.apps[0].host_list, ["n1:4", "n2:4"]);
    assert_eq!(job.notes, ["the hosts are those of SLURM_JOB_NODELIST"]);
    assert_eq!(with_env("-H a,n[8-9] p", &slurm).apps[0].host_list, ["a", "n[8-9]"]);
    assert_eq!(with_env("--hostfile h p", &slurm).apps[0].host_list, Vec::<String>::new());
    assert_eq!(with_env("p", &[("PBS_NODEFILE", "/pbs")]).hostfile, Some("/pbs".into()));
}

#[test]
fn what_is_not_acted_on_is_said_once_by_name() {
    let notes = |line: &str| job(line).notes;
    assert_eq!(
        notes("--mca plm_rsh_agnet my-ssh p"),
        [
            "`--mca plm_rsh_agnet my-ssh` is not acted on: it looks like a launcher's parameter, and efarun knows none of this name: did you mean `plm_rsh_agent`?"
        ]
    );
    assert_eq!(notes("--debug-devel p").len(), 1);
    assert_eq!(notes("--quiet --mca pml ^cm --noprefix p"), Vec::<String>::new());
    assert_eq!(notes("-v --quiet p"), ["`--quiet` changes nothing: nothing is said unless it matters"]);
    assert_eq!(notes("--mca orte_abort_on_non_zero_status 1 p"), Vec::<String>::new());
    assert_eq!(notes("--mca orte_abort_on_non_zero_status 0 p").len(), 1);
    let twice = job("--mca btl tcp --mca btl self,tcp p");
    assert_eq!(twice.parameters, [("OMPI_MCA_btl".into(), "self,tcp".into())]);
    assert_eq!(twice.notes, ["`--mca btl self,tcp`: `tcp` came before it and is replaced"]);
    assert_eq!(notes("--mca btl tcp --mca btl tcp p"), Vec::<String>::new());
}

#[test]
fn every_parameter_option_takes_two_words() {
    for (option, variable) in [
        ("--mca", "OMPI_MCA_k"),
        ("-mca", "OMPI_MCA_k"),
        ("-gmca", "OMPI_MCA_k"),
        ("--omca", "OMPI_MCA_k"),
        ("--prtemca", "PRTE_MCA_k"),
        ("--pmixmca", "PMIX_MCA_k"),
    ] {
        let job = job(&format!("{option} k -v p x"));
        assert_eq!(job.parameters, [(variable.into(), "-v".into())], "{option}");
        assert_eq!(job.apps[0].program, "p", "{option}");
    }
}
