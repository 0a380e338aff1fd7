//! Between hosts: no way back to the head, clocks that differ, agents that are killed.

use std::fs;
use std::path::Path;

use efarun_tests::{Need, Process, Testbed, program, require};
use nix::sys::signal::Signal;

use super::{NO_ARGS, assert_told, hostnames, on, sorted_lines};

#[test]
fn nodes_that_cannot_dial_the_head_stay_in_their_channels_and_that_is_said_once() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    testbed.wall("h1");
    testbed.wall("h2");
    let told = format!(
        "efarun: h1, h2: cannot dial this machine at {}:… (no answer in 3.0 s): staying in the connection that started the agent\n  hint: a security group that takes all TCP from its own members allows the faster way; ranks that talk to each other over the network need that too",
        testbed.head_address()
    );
    let outcome = hostnames(&testbed, "h1:2,h2:1,h3:1").run();
    assert_told(&outcome, 0, &told);
    assert_eq!(sorted_lines(&outcome), ["h1", "h1", "h2", "h3"]);
}

#[test]
fn ranks_behind_a_wall_to_the_head_reach_each_other() {
    require!(Need::Testbed, Need::Libfabric1);
    let testbed = Testbed::up(2);
    testbed.wall("h1");
    testbed.wall("h2");
    let outcome = on(&testbed)
        .options(["-H", "h1,h2"])
        .program(program!("efa-perf-under-test"), ["all_reduce", "-b", "8", "-e", "64K", "-f", "64"])
        .run();
    outcome.assert_code(0).assert_says(&["h1, h2: cannot dial this machine"]);
}

/// Containers and virtual machines leave bridges with one address everywhere: whoever dials it meets itself.
#[test]
fn bridges_that_every_host_has_alike_are_not_used() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    for host in ["head", "h1", "h2"] {
        for (name, address) in
            [("br-1", "172.17.0.1/16"), ("docker0", "172.18.0.1/16"), ("virbr0", "192.168.122.1/24")]
        {
            testbed.sh(
                host,
                &format!(
                    "ip link add {name} type bridge; ip addr add {address} dev {name}; ip link set {name} up"
                ),
            );
        }
    }
    let script = "echo $EFARUN_NODE_ADDRESS $MASTER_ADDR";
    let outcome = on(&testbed).options(["-H", "h1,h2"]).program(Path::new("/bin/sh"), ["-c", script]).run();
    assert_told(&outcome, 0, "");
    assert_eq!(sorted_lines(&outcome), ["10.88.0.1 10.88.0.1", "10.88.0.2 10.88.0.1"]);
    let outcome = on(&testbed)
        .options(["-H", "h1,h2"])
        .program(program!("efa-perf-under-test"), ["all_reduce", "-b", "8", "-e", "64K", "-f", "64"])
        .run();
    outcome.assert_code(0);
}

/// The job's own links are one thing, what ranks need between them another.
#[test]
fn ranks_that_cannot_reach_each_other_are_told_which_address_and_the_remedy() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    testbed.sh("h1", &format!("ip route add blackhole {}/32", testbed.host("h2").address));
    let outcome = on(&testbed)
        .options(["-H", "h1,h2"])
        .program(program!("efa-perf-under-test"), ["all_reduce", "-b", "8", "-e", "8"])
        .run();
    outcome.assert_code(1).assert_says(&[
        "rank 1 cannot use TCP: rank 0 cannot be reached at 10.88.0.1:",
        "let the nodes' security group allow TCP on all ports from itself",
        "efarun: 2/2 ranks reaped, 2/2 agents gone",
    ]);
    assert!(!outcome.stderr().contains("cannot dial this machine"), "{}", outcome.shown());
}

/// Nothing in efarun's protocols compares clocks of two machines.
#[test]
fn clock_that_is_an_hour_off_makes_no_difference() {
    require!(Need::Testbed, Need::Faketime);
    let testbed = Testbed::up(2);
    let library = efarun_tests::faketime_library().expect("it was asked for");
    for offset in ["-3600", "+3600"] {
        let set = format!(
            "export LD_PRELOAD={} FAKETIME={offset} FAKETIME_DONT_FAKE_MONOTONIC=1",
            library.display()
        );
        testbed.sh("h2", &format!("echo '{set}' >$HOME/.bashrc"));
        let job = on(&testbed).options(["-H", "h1:2,h2:2"]).program(program!("rank_hang"), NO_ARGS).start();
        job.wait_for_output("is up", 4);
        for process in agents(&testbed, "h2") {
            let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap();
            assert!(maps.contains("libfaketime"), "{} has the right time", process.command);
        }
        job.signal(Signal::SIGINT);
        let told = "efarun: SIGINT: ending all ranks (again to kill them at once)\nerror: the job was ended by signal 2 (SIGINT)\nefarun: 4/4 ranks reaped, 2/2 agents gone";
        assert_told(&job.wait(), 130, told);
        let outcome =
            on(&testbed).options(["-H", "h1,h2"]).program(Path::new("/bin/sh"), ["-c", "hostname"]).run();
        assert_told(&outcome, 0, "");
    }
}

#[test]
fn agent_that_is_killed_is_told_as_what_ended_and_by_what() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let killed = |options: &[&str]| {
        let job = on(&testbed)
            .options(["-H", "h1,h2"])
            .options(options)
            .program(program!("rank_hang"), NO_ARGS)
            .start();
        job.wait_for_output("is up", 2);
        let agents = agents(&testbed, "h2");
        let agent =
            agents.iter().find(|process| process.command.contains("__agent")).expect("h2 has an agent");
        agent.signal(Signal::SIGKILL);
        job.wait()
    };
    let rest = "\nefarun: 1/2 ranks reaped, 1/2 agents gone\n  h2 did not acknowledge: its keeper ends the ranks there by itself; process ids that were running: …";
    let told = "error: host h2 was lost: its agent was ended by SIGKILL, which nothing of efarun sends it: was it the out-of-memory killer? `dmesg` there tells";
    assert_told(&killed(&[]), 69, &format!("{told}{rest}"));

    let ssh = format!("ssh -F {}", testbed.folder().join("ssh_config").display());
    let told = "error: host h2 was lost: `ssh h2` ended with code 255: its connection broke, or a signal ended the agent there";
    assert_told(&killed(&["--launch-agent", &ssh]), 69, &format!("{told}{rest}"));
}

/// The agent and the keeper of a host.
fn agents(testbed: &Testbed, host: &str) -> Vec<Process> {
    let mut guests = testbed.host(host).guests();
    guests.retain(|process| process.command.contains("__agent") || process.command.contains("__keeper"));
    assert!(guests.len() >= 2, "{guests:#?}");
    guests
}
