//! One node, this machine: environment, interpreter, number of ranks, MASTER_PORT.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use efarun_tests::{Need, program, require};

use super::{Report, here, run, words, worker};

#[test]
fn ranks_have_every_variable_of_torchruns() {
    let options = "--standalone --nproc-per-node 2 --role trainer --max-restarts 3";
    let outcome = run(here(), options, "report --epochs 3");
    let reports = Report::all(&outcome);
    assert_eq!(reports.len(), 2);
    for (rank, report) in reports.iter().enumerate() {
        let number = rank.to_string();
        let expected = [
            ("RANK", number.as_str()),
            ("LOCAL_RANK", &number),
            ("ROLE_RANK", &number),
            ("WORLD_SIZE", "2"),
            ("LOCAL_WORLD_SIZE", "2"),
            ("ROLE_WORLD_SIZE", "2"),
            ("GROUP_RANK", "0"),
            ("GROUP_WORLD_SIZE", "1"),
            ("ROLE_NAME", "trainer"),
            ("MASTER_ADDR", "127.0.0.1"),
            ("TORCHELASTIC_RESTART_COUNT", "0"),
            ("TORCHELASTIC_MAX_RESTARTS", "3"),
            ("TORCHELASTIC_USE_AGENT_STORE", "False"),
            ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
            ("OMP_NUM_THREADS", "1"),
        ];
        for (name, value) in expected {
            assert_eq!(report.var(name), value, "{name}");
        }
        assert_eq!(report.var("MASTER_PORT"), reports[0].var("MASTER_PORT"));
        assert!(report.var("MASTER_PORT").parse::<u16>().is_ok_and(|port| port > 0));
        let (file, run_id) = (report.var("TORCHELASTIC_ERROR_FILE"), report.var("TORCHELASTIC_RUN_ID"));
        assert!(
            file.ends_with(&format!("/attempt_0/{rank}/error.json")) && file.contains(&format!("/{run_id}_")),
            "{file}"
        );
        assert!(!Path::new(file).parent().unwrap().exists(), "the temporary folder goes with the job");
        assert_eq!(report.args(), ["report", "--epochs", "3"]);
        assert_eq!(report.0["unbuffered"], true, "python runs with -u");
    }
    outcome.assert_says(&["OMP_NUM_THREADS is 1, as under torchrun"]);
    let again = Report::all(&run(here(), options, "report"));
    assert_ne!(
        again[0].var("TORCHELASTIC_RUN_ID"),
        reports[0].var("TORCHELASTIC_RUN_ID"),
        "runs have names of their own"
    );
}

#[test]
fn omp_num_threads_is_set_for_several_ranks_only_and_never_over_the_users() {
    let alone = run(here(), "--nproc-per-node 1", "report");
    assert_eq!(
        Report::all(&alone)[0].get("OMP_NUM_THREADS"),
        std::env::var("OMP_NUM_THREADS").ok().as_deref()
    );
    let users = run(here().env("OMP_NUM_THREADS", "7"), "--nproc-per-node 2", "report");
    assert_eq!(Report::all(&users)[1].var("OMP_NUM_THREADS"), "7");
    let exported = run(here(), "--nproc-per-node 2 -x OMP_NUM_THREADS=5", "report");
    assert_eq!(Report::all(&exported)[1].var("OMP_NUM_THREADS"), "5");
    assert!(!users.stderr().contains("OMP_NUM_THREADS") && !exported.stderr().contains("OMP_NUM_THREADS"));
}

#[test]
fn run_ids_are_torchruns_default_or_the_users() {
    assert_eq!(Report::all(&run(here(), "", "report"))[0].var("TORCHELASTIC_RUN_ID"), "none");
    assert_eq!(Report::all(&run(here(), "--rdzv-id job7", "report"))[0].var("TORCHELASTIC_RUN_ID"), "job7");
}

#[test]
fn a_module_is_run_as_python_does_and_a_program_without_python() {
    let folder = worker().parent().unwrap().to_owned();
    let module = here().env("PYTHONPATH", &folder).options(words("-m --nproc_per_node=1"));
    let report = &Report::all(&module.program(Path::new("worker"), ["report", "-m"]).run())[0];
    assert_eq!((report.args(), report.0["unbuffered"].as_bool()), (vec!["report", "-m"], Some(true)));
    let own = here()
        .options(words("--no-python --nproc-per-node 2"))
        .program("/bin/sh".as_ref(), ["-c", "echo $0:$RANK"]);
    let outcome = own.run();
    outcome.assert_code(0);
    let mut lines: Vec<String> = outcome.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["/bin/sh:0", "/bin/sh:1"]);
    let both = run(here(), "--no-python -m", "report");
    both.assert_code(64).assert_says(&["contradicts"]);
}

#[test]
fn run_path_runs_the_script_in_an_interpreter_of_its_own() {
    // Without an interpreter a script that is no program could not start, and --no-python asks for none.
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script.py");
    std::fs::write(&script, "import sys\nprint('in', sys.argv[1:])\n").unwrap();
    let run = |options: &str| here().options(words(options)).program(&script, ["a"]).run();
    for options in ["--run-path", "--run-path --no-python"] {
        let outcome = run(options);
        outcome.assert_code(0);
        assert_eq!(outcome.stdout(), "in ['a']\n", "{options}");
    }
    run("--no-python").assert_code(126);
    run("--run-path -v").assert_code(0).assert_says(&["`--run-path` changes nothing"]);
}

#[test]
fn standalone_is_this_machine_whatever_else_is_said() {
    let options = "--standalone --nnodes 2 --node-rank 1 --master-addr 192.0.2.1 --nproc-per-node 2";
    let reports = Report::all(&run(here(), options, "report"));
    assert_eq!(reports.len(), 2);
    assert_eq!((reports[1].var("GROUP_WORLD_SIZE"), reports[1].var("GROUP_RANK")), ("1", "0"));
}

#[test]
fn numa_binding_without_a_gpu_says_so() {
    let outcome = run(here(), "--numa-binding node", "report");
    outcome.assert_code(64).assert_says(&["localhost has no GPU"]);
}

#[test]
fn torch_reduces_over_gloo() {
    require!(Need::Torch);
    let script = worker().with_file_name("reduce.py");
    let outcome = here().options(words("--standalone --nproc-per-node 2")).program(&script, [""; 0]).run();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout().matches("sum [3.0, 3.0]\n").count(), 2, "{}", outcome.shown());
}

/// An interpreter that leaves its mark, in `FOLDER/bin/python`.
fn marking_interpreter(folder: &Path, mark: &str) -> PathBuf {
    let path = folder.join("bin/python");
    std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("the folder is the test's");
    std::fs::write(&path, format!("#!/bin/sh\nINTERPRETER={mark} exec python3 \"$@\"\n"))
        .expect("the folder is the test's");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .expect("the file was just written");
    path
}

#[test]
fn the_interpreter_is_the_one_that_the_environment_names() {
    let (own, virtual_env) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let own = marking_interpreter(own.path(), "own");
    marking_interpreter(virtual_env.path(), "venv");
    let in_venv = || here().env("VIRTUAL_ENV", virtual_env.path());
    let named = run(in_venv().env("PYTHON_EXEC", &own), "", "report");
    assert_eq!(Report::all(&named)[0].var("INTERPRETER"), "own");
    assert_eq!(Report::all(&run(in_venv(), "", "report"))[0].var("INTERPRETER"), "venv");
    let missing = run(here().env("PYTHON_EXEC", "/no/such/python"), "", "report");
    missing.assert_code(127).assert_says(&["/no/such/python"]);
}

#[test]
fn the_local_rank_is_put_into_arguments() {
    let reports = Report::all(&run(here(), "--nproc-per-node 2", "report --local_rank=${local_rank}"));
    assert_eq!(reports[1].args(), ["report", "--local_rank=1"]);
}

#[test]
fn ranks_per_node_follow_what_the_node_has() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    for word in ["cpu", "auto"] {
        let reports = Report::all(&run(here(), &format!("--nproc-per-node {word}"), "report"));
        assert_eq!(reports.len(), cpus, "{word}, on a machine without GPUs");
    }
    let gpus = run(here(), "--nproc-per-node gpu", "report");
    gpus.assert_code(64).assert_says(&["--nproc-per-node gpu: localhost has no GPU"]);
}

#[test]
fn master_port_is_kept_for_rank_0() {
    let outcome = run(here(), "--nproc-per-node 1", "port");
    outcome.assert_code(0);
    let stdout = outcome.stdout();
    assert!(stdout.starts_with("a stranger did not get it\nthe store got "), "{stdout}");
    run(here(), "--standalone --nproc-per-node 3", "meet").assert_code(0);
}

#[test]
fn master_port_is_the_one_that_is_asked_for_and_one_that_is_taken_is_named() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let options = format!("--nproc-per-node 2 --master-port {port} --master-addr 127.0.0.1");
    let outcome = run(here(), &options, "report");
    outcome.assert_code(69).assert_says(&[&format!("bind port {port}"), "Address already in use", "hint"]);
    drop(taken);
    let outcome = run(here(), &options, "port");
    outcome.assert_code(0);
    let told = format!("the store got {port}\n");
    assert!(outcome.stdout().contains(&told), "{}", outcome.shown());
}

#[test]
fn called_torchrun_the_launcher_takes_torchruns_line() {
    let folder = tempfile::tempdir().unwrap();
    let torchrun = folder.path().join("torchrun");
    std::os::unix::fs::symlink(program!("efarun-under-test"), &torchrun).unwrap();
    let job = efarun_tests::Job::here(&torchrun);
    assert_eq!(Report::all(&run(job, "--nproc_per_node 2", "report")).len(), 2);
}
