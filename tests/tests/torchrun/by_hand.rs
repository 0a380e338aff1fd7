//! The same line typed on every node, without SSH.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use efarun_tests::{Job, Need, Outcome, Process, Running, Testbed, listening_port, program, require};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Report, words, worker};

/// The launcher on a host of the testbed, with the key that all share.
fn on_node<'a>(testbed: &'a Testbed, host: &'static str) -> Job<'a> {
    Job::on_host(testbed, host, program!("efarun-under-test")).dialect("torchrun").deadline(DEADLINE)
}

/// A key of the testbed's. A launcher that was started before may be reading it: it never sees half of one.
fn key(testbed: &Testbed, name: &str, digits: &str) -> PathBuf {
    let path = testbed.folder().join(name);
    let new = path.with_extension("new");
    std::fs::write(&new, digits.repeat(32)).expect("the folder is the testbed's");
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))
        .expect("the file was just written");
    std::fs::rename(&new, &path).expect("the file was just written");
    path
}

/// Starts the line on h1, which is node 0, or another; `options` go in before the script.
fn start<'a>(testbed: &'a Testbed, host: &'static str, options: &str, args: &str) -> Running<'a> {
    let key = key(testbed, "key", "ab");
    let line = format!("--key-file {} {options}", key.display());
    on_node(testbed, host).options(words(&line)).program(&worker(), words(args)).start()
}

/// Starts the line on two nodes, and waits for both ends.
fn on_both(testbed: &Testbed, options: &str, args: &str) -> [Outcome; 2] {
    let master = &testbed.host("h1").address;
    let line = |rank: u32| {
        format!("--nnodes 2 --node_rank {rank} --master_addr {master} --master_port 29501 {options}")
    };
    let first = start(testbed, "h1", &line(0), args);
    let second = start(testbed, "h2", &line(1), args);
    let second = second.wait();
    [first.wait(), second]
}

/// Waits until the launcher on h1 listens on this port.
#[track_caller]
fn wait_for_port(testbed: &Testbed, first: &Running, port: u16) {
    // The kernel tells nobody that a port was opened.
    while launcher_on(testbed, "h1").is_none_or(|pid| listening_port(pid) != Some(port)) {
        assert!(!first.has_ended(), "nobody listens on {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn number(text: &str) -> usize {
    text.lines().count()
}

#[test]
fn ranks_of_both_nodes_meet_and_each_node_shows_its_own() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let [first, second] = on_both(&testbed, "--nproc_per_node 2", "meet");
    for (outcome, ranks) in [(&first, [0, 1]), (&second, [2, 3])] {
        outcome.assert_code(0);
        for rank in ranks {
            let line = format!("rank {rank} met [0, 1, 2, 3]\n");
            assert!(outcome.stdout().contains(&line), "{}", outcome.shown());
        }
        assert_eq!(number(&outcome.stdout()), 2, "{}", outcome.shown());
    }
}

#[test]
fn each_node_has_its_own_environment_and_the_jobs_names() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let master = testbed.host("h1").address.clone();
    let key = key(&testbed, "key", "ab");
    let node = |host: &'static str, rank: u32| {
        let line =
            format!("--nnodes 2 --node-rank {rank} --master-addr {master} --master-port 29502 --rdzv-id exp");
        on_node(&testbed, host)
            .env("EFARUN_KEY_FILE", &key)
            .env("NCCL_SOCKET_IFNAME", format!("of-{host}"))
            .options(words(&line))
            .program(&worker(), ["report"])
            .start()
    };
    let (first, second) = (node("h1", 0), node("h2", 1));
    for (outcome, host, rank) in [(first.wait(), "h1", "0"), (second.wait(), "h2", "1")] {
        let report = &Report::all(&outcome)[0];
        assert_eq!(
            (report.text("hostname"), report.var("RANK"), report.var("GROUP_RANK")),
            (host, rank, rank)
        );
        assert_eq!(report.var("NCCL_SOCKET_IFNAME"), format!("of-{host}"));
        assert_eq!((report.var("MASTER_ADDR"), report.var("MASTER_PORT")), (&*master, "29502"));
        assert_eq!((report.var("TORCHELASTIC_RUN_ID"), report.var("WORLD_SIZE")), ("exp", "2"));
        assert_eq!(report.get("EFARUN_KEY_FILE"), None, "ranks do not learn where the key is");
    }
}

#[test]
fn nodes_have_the_numbers_that_their_lines_say() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    let master = &testbed.host("h1").address;
    let line =
        |rank: u32| format!("--nnodes 3 --node-rank {rank} --master-addr {master} --master-port 29503");
    // In another order than that of their numbers.
    let nodes =
        [("h2", 2), ("h3", 1), ("h1", 0)].map(|(host, rank)| start(&testbed, host, &line(rank), "report"));
    for (node, (host, rank)) in nodes.into_iter().zip([("h2", "2"), ("h3", "1"), ("h1", "0")]) {
        let report = &Report::all(&node.wait())[0];
        assert_eq!(
            (report.text("hostname"), report.var("GROUP_RANK"), report.var("RANK")),
            (host, rank, rank)
        );
    }
}

#[test]
fn nodes_without_numbers_are_numbered_as_they_come() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    let line = format!("--nnodes 3 --rdzv-backend c10d --rdzv-endpoint {}:29400", testbed.host("h1").address);
    // Node 0 comes last: the others wait for it.
    let others: Vec<Running> = ["h3", "h2"].map(|host| start(&testbed, host, &line, "report")).into();
    let first = start(&testbed, "h1", &line, "report");
    let mut ranks: Vec<String> =
        others.into_iter().map(|node| Report::all(&node.wait())[0].var("RANK").to_owned()).collect();
    let report = &Report::all(&first.wait())[0];
    assert_eq!(report.var("RANK"), "0", "the endpoint's node is node 0");
    assert_ne!(report.var("MASTER_PORT"), "29400", "the port is one of the job's own");
    ranks.sort();
    assert_eq!(ranks, ["1", "2"]);
}

#[test]
fn fewer_nodes_than_the_most_go_on_after_the_last_call() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let line = format!(
        "--nnodes 1:3 --rdzv-backend c10d --rdzv-endpoint {}:29400 --rdzv-conf last_call_timeout=15,join_timeout=600",
        testbed.host("h1").address
    );
    // It is at the door before the last call begins, however busy the machine is.
    let second = start(&testbed, "h2", &line, "report");
    second.wait_for_note("waiting for node 0");
    let first = start(&testbed, "h1", &line, "report");
    // They meet where the line says.
    wait_for_port(&testbed, &first, 29400);
    for outcome in [first.wait(), second.wait()] {
        assert_eq!(Report::all(&outcome)[0].var("WORLD_SIZE"), "2");
    }
}

#[test]
fn a_node_that_never_comes_is_named_at_the_deadline() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let line = |rank: u32, seconds: u32| {
        let master = &testbed.host("h1").address;
        format!("--nnodes 3 --node-rank {rank} --master-addr {master} --start-timeout {seconds}")
    };
    let (first, third) =
        (start(&testbed, "h1", &line(0, 12), "report"), start(&testbed, "h2", &line(2, 60), "report"));
    first.wait().assert_code(69).assert_says(&["2 of 3 nodes came in 12 s", "missing: node 1"]);
    third.wait().assert_code(64).assert_says(&["node 0 has given up", "missing: node 1"]);
    let line = line(1, 2).replace("--start-timeout 2", "--rdzv-conf join_timeout=2");
    let alone = start(&testbed, "h2", &line, "report").wait();
    alone.assert_code(69).assert_says(&[
        "did not reach node 0",
        "in 2 s: connection refused",
        "--node-rank 0",
    ]);
}

#[test]
fn another_key_is_told_on_both_nodes_and_lets_nobody_in() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let other = key(&testbed, "other", "cd");
    let master = testbed.host("h1").address.clone();
    let first = start(
        &testbed,
        "h1",
        &format!("--nnodes 2 --node-rank 0 --master-addr {master} --start-timeout 15"),
        "report",
    );
    let line = format!(
        "--nnodes 2 --node-rank 1 --master-addr {master} --start-timeout 30 --key-file {}",
        other.display()
    );
    let second = on_node(&testbed, "h2").options(words(&line)).program(&worker(), ["report"]).run();
    second.assert_code(77).assert_says(&["does not take this node in", "must be the same on every node"]);
    let address = testbed.host("h2").address.clone();
    first.wait().assert_code(69).assert_says(&[&format!("{address} was turned away"), "1 of 2 nodes came"]);
}

#[test]
fn a_key_that_is_missing_or_open_to_others_is_refused_before_anything_listens() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let line = || words("--nnodes 2 --node-rank 0 --master-addr 10.88.0.1");
    let without = on_node(&testbed, "h1").options(line()).program(&worker(), ["report"]).run();
    without.assert_code(64).assert_says(&["need a key", "openssl rand -hex 32"]);
    let open = key(&testbed, "open", "ab");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = on_node(&testbed, "h1")
        .env("EFARUN_KEY_FILE", &open)
        .options(line())
        .program(&worker(), ["report"])
        .run();
    open.assert_code(77).assert_says(&["its mode is 0644"]);
}

#[test]
fn lines_that_differ_are_told_on_both_nodes() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let master = testbed.host("h1").address.clone();
    let line = |rank: u32, rest: &str| {
        format!("--nnodes 2 --node-rank {rank} --master-addr {master} --start-timeout 60 {rest}")
    };
    let cases = [
        ("--nproc-per-node 2", "report", "--nproc-per-node is `2`", "`1`"),
        ("", "report --lr 1", "the script is", "report --lr 1"),
    ];
    for (options, args, there, value) in cases {
        let first = start(&testbed, "h1", &line(0, ""), "report");
        let second = start(&testbed, "h2", &line(1, options), args).wait();
        second.assert_code(64).assert_says(&["refused this node", there, value, "on node 0 (h1)"]);
        first.wait().assert_code(64).assert_says(&["the lines differ", value, "on h2"]);
    }
}

#[test]
fn a_second_node_with_the_same_number_is_refused_and_the_job_goes_on() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    let master = testbed.host("h1").address.clone();
    let line = |rank: u32| format!("--nnodes 3 --node-rank {rank} --master-addr {master}");
    let first = start(&testbed, "h1", &line(0), "report");
    // Whichever of them comes second is told.
    let twins = ["h2", "h3"].map(|host| start(&testbed, host, &line(1), "report"));
    let is_refused = |node: &Running| node.has_ended();
    let refused = loop {
        if let Some(index) = twins.iter().position(is_refused) {
            break index;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let third = start(&testbed, if refused == 0 { "h2" } else { "h3" }, &line(2), "report");
    for (index, node) in twins.into_iter().enumerate() {
        let outcome = node.wait();
        if index == refused {
            outcome.assert_code(64).assert_says(&["--node-rank 1 is taken by h"]);
        } else {
            assert_eq!(Report::all(&outcome)[0].var("RANK"), "1");
        }
    }
    assert_eq!(Report::all(&third.wait())[0].var("RANK"), "2");
    assert_eq!(Report::all(&first.wait())[0].var("WORLD_SIZE"), "3");
}

#[test]
fn a_failure_on_one_node_ends_both_with_its_code() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let [first, second] = on_both(&testbed, "--nproc-per-node 1", "fail-until 1");
    first
        .assert_code(3)
        .assert_says(&["rank 1 on h2 exited with code 3", "exception: ValueError: bad batch"]);
    second.assert_code(3).assert_says(&["node 0 at", "rank 1 on h2 exited with code 3"]);
}

#[test]
fn the_group_is_started_again_on_both_nodes() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let [first, second] = on_both(&testbed, "--max-restarts 2", "fail-until 2");
    first.assert_code(0);
    second.assert_code(0).assert_says(&["the group is started again"]);
    assert!(first.stdout().contains("rank 0 of attempt 2\n"), "{}", first.shown());
    assert!(second.stdout().contains("rank 1 of attempt 2\n"), "{}", second.shown());
}

#[test]
fn logs_are_on_each_node_as_its_own_line_says() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let folder = testbed.folder().join("logs");
    let [first, second] = on_both(&testbed, &format!("--tee 1 --log-dir {}", folder.display()), "streams");
    assert!(
        first.stdout().contains("[default0]:out 0") && !first.stdout().contains("out 1"),
        "{}",
        first.shown()
    );
    assert_eq!(second.assert_code(0).stdout(), "[default0]:out 1\n");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
}

/// The process of the launcher itself on a host: the one whose arguments have the word, and which is no agent.
fn launcher_on(testbed: &Testbed, host: &str) -> Option<i32> {
    let guests: Vec<Process> = testbed.host(host).guests();
    let is_launcher = |process: &&Process| {
        let line = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.first().is_some_and(|word| word.ends_with(b"efarun-under-test"))
            && words.get(1) == Some(&&b"torchrun"[..])
    };
    guests.iter().find(is_launcher).map(|process| process.pid)
}

#[test]
fn a_signal_at_either_node_ends_the_job_on_both() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    for signalled in ["h1", "h2"] {
        let master = &testbed.host("h1").address;
        let line =
            |rank: u32| format!("--nnodes 2 --node-rank {rank} --master-addr {master} --max-restarts 2");
        let (first, second) =
            (start(&testbed, "h1", &line(0), "hang"), start(&testbed, "h2", &line(1), "hang"));
        first.wait_for_output("rank 0 hangs", 1);
        second.wait_for_output("rank 1 hangs", 1);
        kill(Pid::from_raw(launcher_on(&testbed, signalled).unwrap()), Signal::SIGINT).unwrap();
        let (first, second) = (first.wait(), second.wait());
        first.assert_code(130);
        second.assert_code(130);
        if signalled == "h2" {
            first.assert_says(&["h2: SIGINT to the launcher there: ending all ranks"]);
        }
        assert!(!first.stderr().contains("starting the group again"), "{}", first.shown());
    }
}

#[test]
fn whichever_launcher_is_killed_no_rank_stays() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    for killed in ["h1", "h2"] {
        let master = &testbed.host("h1").address;
        let line = |rank: u32| format!("--nnodes 2 --node-rank {rank} --master-addr {master}");
        let (first, second) =
            (start(&testbed, "h1", &line(0), "hang"), start(&testbed, "h2", &line(1), "hang"));
        first.wait_for_output("rank 0 hangs", 1);
        second.wait_for_output("rank 1 hangs", 1);
        kill(Pid::from_raw(launcher_on(&testbed, killed).unwrap()), Signal::SIGKILL).unwrap();
        let (first, second) = (first.wait(), second.wait());
        let (survivor, said) = if killed == "h1" { (&second, "node 0 at") } else { (&first, "host h2") };
        survivor.assert_code(69).assert_says(&[said]);
        for outcome in [&first, &second] {
            assert!(outcome.left_behind.is_empty(), "{:#?}", outcome.left_behind);
        }
    }
}

/// Two nodes whose ranks hang; gives both launchers.
fn hanging(testbed: &Testbed) -> (Running<'_>, Running<'_>) {
    let master = &testbed.host("h1").address;
    let line = |rank: u32| format!("--nnodes 2 --node-rank {rank} --master-addr {master}");
    let (first, second) = (start(testbed, "h1", &line(0), "hang"), start(testbed, "h2", &line(1), "hang"));
    first.wait_for_output("rank 0 hangs", 1);
    second.wait_for_output("rank 1 hangs", 1);
    (first, second)
}

#[test]
fn whichever_agent_or_keeper_is_killed_both_nodes_end_and_name_it() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    for (host, word) in [("h1", "__agent"), ("h1", "__keeper"), ("h2", "__agent"), ("h2", "__keeper")] {
        let (first, second) = hanging(&testbed);
        let is_victim = |process: &&Process| process.command.contains(word);
        let guests = testbed.host(host).guests();
        let victim = guests.iter().find(is_victim).unwrap_or_else(|| panic!("no {word} among {guests:#?}"));
        victim.signal(Signal::SIGKILL);
        let (first, second) = (first.wait(), second.wait());
        for outcome in [&first, &second] {
            assert!(!outcome.status.success(), "{host} {word}: {}", outcome.shown());
            assert!(outcome.left_behind.is_empty(), "{host} {word}: {:#?}", outcome.left_behind);
        }
        let told = [first.stderr(), second.stderr()].concat();
        assert!(told.contains(&format!("host {host}")), "{host} {word}: {told}");
    }
}

#[test]
fn a_node_whose_cable_is_pulled_ends_its_ranks_itself_and_is_named() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let (first, second) = hanging(&testbed);
    testbed.cut("h2");
    let (first, second) = (first.wait(), second.wait());
    first.assert_code(69).assert_says(&["host h2", "no sign of life"]);
    second.assert_code(69).assert_says(&["node 0 at"]);
}

#[test]
fn strangers_at_the_door_do_not_disturb_the_meeting() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    let master = testbed.host("h1").address.clone();
    let line =
        |rank: u32| format!("--nnodes 2 --node-rank {rank} --master-addr {master} --master-port 29503");
    let first = start(&testbed, "h1", &line(0), "report");
    wait_for_port(&testbed, &first, 29503);
    let visit = |what: &str| {
        let mut stranger = testbed.command("h3", program!("stranger"));
        let output = stranger.args([what, &format!("{master}:29503")]).output().unwrap();
        assert!(output.status.success(), "{what}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    for what in ["random", "crowd", "silent"] {
        assert_eq!(visit(what), "0", "a stranger is told nothing");
    }
    let second = start(&testbed, "h2", &line(1), "report");
    assert_eq!(Report::all(&second.wait())[0].var("RANK"), "1");
    assert_eq!(Report::all(&first.wait())[0].var("RANK"), "0");
}

const DEADLINE: Duration = Duration::from_secs(100);

#[test]
fn the_address_of_ones_own_is_the_one_that_node_0_sees() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let (master, other) = (testbed.host("h1").address.clone(), "10.88.9.9");
    // The node's second address, on the same card.
    testbed.sh("h2", &format!("ip address add {other}/16 dev eth0"));
    let line = |rank: u32, more: &str| {
        format!("--nnodes 2 --node-rank {rank} --master-addr {master} --master-port 29501 {more}")
    };
    let first = start(&testbed, "h1", &line(0, "-v"), "report");
    let second = start(&testbed, "h2", &line(1, &format!("--local-addr {other}")), "report");
    second.wait().assert_code(0);
    first.wait().assert_code(0).assert_says(&[other]);
}
