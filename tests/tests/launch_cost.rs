//! What a launch costs its hosts, counted and not timed: processes, threads, and whether a program is loaded once more.

use std::path::Path;

use efarun_tests::{Job, Need, Testbed, program, require};
use nix::sys::signal::Signal;

const NO_ARGS: [&str; 0] = [];

/// How often each is counted: sshd may be asked twice, where this machine has much to do.
const COUNTS: usize = 5;

#[test]
fn a_launch_starts_five_processes_and_threads_on_a_host_beyond_those_of_a_bare_session() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let floor = program!("ssh_floor").display().to_string();
    let session = fewest(&testbed, || drop(testbed.sh("head", &format!("{floor} h1 h2"))));
    let launch = fewest(&testbed, || {
        let job = Job::on(&testbed, program!("efarun-under-test")).options(["-H", "h1:2,h2:2"]);
        job.program(Path::new("true"), NO_ARGS).run().assert_code(0);
    });
    // `ls`, the keeper, a thread that looks at the program, two ranks. The agent is the session's own shell by then.
    let beyond = launch.checked_sub(session);
    assert!(beyond.is_some_and(|beyond| beyond <= 5), "{launch} for a launch, {session} for a session");
}

#[test]
fn the_keeper_is_the_agents_program_and_not_loaded_again() {
    let job = Job::here(program!("efarun-under-test")).options(["-n", "1"]);
    let running = job.program(program!("rank_hang"), NO_ARGS).start();
    running.wait_for_output("is up", 1);
    // The kernel draws another place in memory for each program that it loads.
    let place_of = |word: &str| {
        let process = running.processes().into_iter().find(|process| process.command.contains(word));
        let pid = process.unwrap_or_else(|| panic!("no process has {word} in its command line")).pid;
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs, and is ours");
        maps.lines().find(|line| line.contains("efarun")).expect("it runs the launcher").to_owned()
    };
    assert_eq!(place_of("__keeper"), place_of("__agent"));
    running.signal(Signal::SIGTERM);
    running.wait();
}

/// How many process and thread ids of h1 are used up by this, after a first time that may push the launcher.
fn fewest(testbed: &Testbed, run: impl Fn()) -> u64 {
    let last_id = || -> u64 {
        let said = testbed.sh("h1", "read -r _ _ _ _ last </proc/loadavg; echo $last");
        said.trim().parse().expect("the kernel says which id it gave out last")
    };
    run();
    let counts = (0..COUNTS).filter_map(|_| {
        let first = last_id();
        let own = last_id() - first;
        run();
        (last_id() - first).checked_sub(2 * own)
    });
    counts.min().expect("it was counted")
}
