//! Several nodes over SSH, from one head.

use std::collections::BTreeSet;
use std::path::PathBuf;

use efarun_tests::{Need, Testbed, require};

use super::{Report, on, run, words, worker};

#[test]
fn ranks_of_two_hosts_meet_at_the_address_of_the_first() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let outcome = run(on(&testbed), "-H h1,h2 --nnodes 2 --nproc-per-node 2", "meet");
    outcome.assert_code(0);
    assert_eq!(outcome.stdout().matches("met [0, 1, 2, 3]").count(), 4, "{}", outcome.shown());
    let reports = Report::all(&run(on(&testbed), "-H h1,h2 --nnodes 2 --nproc-per-node 2", "report"));
    let of = |name: &str| reports.iter().map(|report| report.var(name)).collect::<Vec<_>>();
    assert_eq!(of("GROUP_RANK"), ["0", "0", "1", "1"]);
    assert_eq!(of("LOCAL_RANK"), ["0", "1", "0", "1"]);
    assert_eq!(of("GROUP_WORLD_SIZE"), ["2"; 4]);
    assert_eq!(of("LOCAL_WORLD_SIZE"), ["2"; 4]);
    assert_eq!(of("MASTER_ADDR"), [&*testbed.host("h1").address; 4]);
    assert_eq!(of("MASTER_PORT").into_iter().collect::<BTreeSet<_>>().len(), 1);
}

#[test]
fn torch_reduces_over_gloo_between_hosts() {
    require!(Need::Testbed);
    require!(Need::Torch);
    let testbed = Testbed::up(2);
    let script = worker().with_file_name("reduce.py");
    let job = on(&testbed).options(words("-H h1,h2 --nnodes 2 --nproc-per-node 2")).program(&script, [""; 0]);
    let outcome = job.run();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout().matches("sum [10.0, 10.0]\n").count(), 4, "{}", outcome.shown());
}

#[test]
fn as_many_hosts_as_nodes_take_part_and_too_few_are_an_error() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    let hostfile = testbed.hostfile_of("h1\nh2 slots=1\nh3\n".to_owned());
    let hosts = |nodes: &str| {
        let options = format!("--hostfile {} --nnodes {nodes} --nproc-per-node 2", hostfile.display());
        let outcome = run(on(&testbed), &options, "report");
        Report::all(&outcome).iter().map(|report| report.text("hostname").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(hosts("2"), ["h1", "h1", "h2", "h2"], "slots do not limit --nproc-per-node");
    assert_eq!(hosts("1"), ["h1", "h1"]);
    assert_eq!(hosts("2:5").len(), 6);
    let few = run(on(&testbed), &format!("--hostfile {} --nnodes 4", hostfile.display()), "report");
    few.assert_code(64).assert_says(&["--nnodes asks for 4 nodes, and 3 hosts are named"]);
    let second = run(on(&testbed), "-H h1,h2 --nnodes 2 --node-rank 1", "report");
    second.assert_code(64).assert_says(&["contradicts"]);
}

#[test]
fn hosts_of_the_environment_are_for_several_nodes_only() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let job = || on(&testbed).env("SLURM_JOB_NODELIST", "h[1-2]");
    let outcome = run(job(), "--nnodes 2 --nproc-per-node 1", "report");
    assert_eq!(Report::all(&outcome).len(), 2);
    outcome.assert_says(&["the hosts are those of SLURM_JOB_NODELIST"]);
    let here = Report::all(&run(job(), "--nproc-per-node 1", "report"));
    assert_eq!(here[0].text("hostname"), "head", "one node is this machine");
}

#[test]
fn each_node_writes_logs_into_a_folder_of_its_own() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    // The hosts of a testbed share the machine's files, as nodes share a file server's.
    let folder = testbed.folder().join("logs");
    let options = format!("-H h1,h2 --nnodes 2 --nproc-per-node 2 --tee 3 --log-dir {}", folder.display());
    let outcome = run(on(&testbed), &options, "streams");
    outcome.assert_code(0);
    assert_eq!(outcome.stdout().matches("[default0]:out").count(), 2, "{}", outcome.shown());
    let runs: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(runs.len(), 2, "{runs:?}");
    let mut outs: Vec<String> = runs
        .iter()
        .flat_map(|run| (0..2).map(move |rank| run.join(format!("attempt_0/{rank}/stdout.log"))))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    outs.sort();
    assert_eq!(outs, ["out 0\n", "out 1\n", "out 2\n", "out 3\n"]);
}

#[test]
fn a_group_on_two_hosts_is_started_again_as_a_whole() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let outcome =
        run(on(&testbed), "-H h1,h2 --nnodes 2 --nproc-per-node 1 --max-restarts 1", "fail-until 1");
    outcome
        .assert_code(0)
        .assert_says(&["rank 1 on h2 exited with code 3", "exception: ValueError: bad batch"]);
    let stdout = outcome.stdout();
    assert!(stdout.contains("rank 0 of attempt 1\n") && stdout.contains("rank 1 of attempt 1\n"), "{stdout}");
}

#[test]
fn the_environment_of_the_head_that_torch_reads_reaches_every_node() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let job = on(&testbed)
        .env("TORCH_LOGS", "dynamo")
        .env("GLOO_SOCKET_IFNAME", "eth0")
        .env("TORCHELASTIC_RUN_ID", "outer")
        .env("MASTER_ADDR", "192.0.2.1");
    let report = &Report::all(&run(job, "-H h1 --rdzv-id own", "report"))[0];
    assert_eq!((report.var("TORCH_LOGS"), report.var("GLOO_SOCKET_IFNAME")), ("dynamo", "eth0"));
    assert_eq!(report.var("TORCHELASTIC_RUN_ID"), "own");
    assert_ne!(report.var("MASTER_ADDR"), "192.0.2.1");
}

#[test]
fn an_address_that_means_the_first_node_gives_way_to_the_one_that_was_proved() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let master = |address: &str| {
        let options = format!("-H h1,h2 --nnodes 2 --master-addr {address} --master-port 29501");
        let outcome = run(on(&testbed), &options, "report");
        let reports = Report::all(&outcome);
        assert_eq!(reports[1].var("MASTER_PORT"), "29501");
        (reports[1].var("MASTER_ADDR").to_owned(), outcome)
    };
    for address in ["h1", "127.0.0.1", &testbed.host("h1").address.clone()] {
        assert_eq!(master(address).0, testbed.host("h1").address, "{address}");
    }
    let (other, outcome) = master("192.0.2.7");
    assert_eq!(other, "192.0.2.7", "what the user insists on");
    outcome.assert_says(&["MASTER_ADDR is 192.0.2.7 (--master-addr); the address of h1 that was reached is"]);
}
