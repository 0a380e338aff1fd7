//! Whoever is killed, the job ends, says so, and nothing of it is left on any host.
//!
//! The victims are a rank, the head, an agent, a keeper and a host's SSH session. The ranks are ones that ignore TERM,
//! ones with a child and with an orphan in a session of its own, and the shell line.

use std::path::Path;
use std::time::Duration;

use efarun_tests::{Job, Need, Outcome, Process, Running, Testbed, program, require};
use nix::sys::signal::Signal;

/// What ranks do while one of the processes around them is killed.
#[derive(Clone, Copy, Debug)]
enum Ranks {
    Hang,
    Deaf,
    Children,
    DeafChildren,
    Shell,
}

const ALL: [Ranks; 5] = [Ranks::Hang, Ranks::Deaf, Ranks::Children, Ranks::DeafChildren, Ranks::Shell];

impl Ranks {
    fn of<'a>(self, job: Job<'a>) -> Job<'a> {
        let hang = program!("rank_hang");
        match self {
            Ranks::Hang => job.program(hang, ["polite"]),
            Ranks::Deaf => job.program(hang, ["deaf"]),
            Ranks::Children => job.program(program!("rank_children"), ["polite"]),
            Ranks::DeafChildren => job.program(program!("rank_children"), ["deaf"]),
            Ranks::Shell => {
                let hang = hang.display();
                // Both are up when the rank has two of them: see `UPS_OF_SHELL`.
                job.program(Path::new("/bin/sh"), ["-c", &format!("{hang} & (setsid {hang} &); wait")])
            }
        }
    }

    /// How often `is up` is said per rank.
    fn ups(self) -> usize {
        match self {
            Ranks::Shell => 2,
            _ => 1,
        }
    }
}

/// Runs four ranks on two hosts with each kind of rank, kills `victim` and hands over what came out.
fn over_ssh(victim: impl Fn(&Running, &Testbed) -> Process, check: impl Fn(&Outcome)) {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    for ranks in ALL {
        let job = Job::on(&testbed, program!("efarun-under-test")).options(["-H", "h1:2,h2:2"]);
        let job = ranks.of(job).start();
        job.wait_for_output("is up", 4 * ranks.ups());
        victim(&job, &testbed).signal(Signal::SIGKILL);
        check(&ended(job));
    }
}

/// The same with two ranks on this machine.
fn here(victim: impl Fn(&Running) -> Process, check: impl Fn(&Outcome)) {
    for ranks in ALL {
        let job = Job::here(program!("efarun-under-test")).options(["--oversubscribe", "-n", "2"]);
        let job = ranks.of(job).start();
        job.wait_for_output("is up", 2 * ranks.ups());
        victim(&job).signal(Signal::SIGKILL);
        check(&ended(job));
    }
}

fn ended(job: Running) -> Outcome {
    let outcome = job.wait();
    assert!(outcome.left_behind.is_empty(), "left behind: {:#?}\n{}", outcome.left_behind, outcome.shown());
    outcome
}

/// The one process whose command line has this word.
fn the(word: &str, processes: Vec<Process>) -> Process {
    let found: Vec<_> = processes.iter().filter(|process| process.command.contains(word)).collect();
    assert!(!found.is_empty(), "no `{word}` among {processes:#?}");
    found[0].clone()
}

/// The process that the launcher started for a rank: the eldest of those that carry its number.
fn first_process_of_rank(job: &Running, rank: u32) -> Process {
    job.rank(rank).into_iter().min_by_key(|process| process.pid).expect("the rank runs")
}

fn assert_failed(outcome: &Outcome) {
    assert!(!outcome.status.success(), "{}", outcome.shown());
}

#[test]
fn killed_rank_ends_the_job_with_137_and_is_named() {
    over_ssh(
        |job, _| first_process_of_rank(job, 2),
        |outcome| {
            outcome.assert_code(137).assert_says(&["rank 2", "h2", "SIGKILL"]);
        },
    );
}

#[test]
fn killed_head_leaves_nothing_on_hosts() {
    over_ssh(head, |outcome| {
        outcome.assert_killed(Signal::SIGKILL);
    });
}

fn head(job: &Running, _: &Testbed) -> Process {
    process(job.pid())
}

#[test]
fn killed_agent_ends_the_job_and_its_host_is_named() {
    over_ssh(
        |_, testbed| the("__agent", testbed.host("h2").guests()),
        |outcome| {
            assert_failed(outcome);
            outcome.assert_says(&["h2"]);
        },
    );
}

#[test]
fn killed_keeper_ends_the_job_and_its_host_is_named() {
    over_ssh(
        |_, testbed| the("__keeper", testbed.host("h2").guests()),
        |outcome| {
            assert_failed(outcome);
            outcome.assert_says(&["h2"]);
        },
    );
}

#[test]
fn killed_ssh_session_ends_the_job_and_its_host_is_named() {
    over_ssh(
        |_, testbed| the("sshd: ", testbed.host("h2").guests()),
        |outcome| {
            assert_failed(outcome);
            outcome.assert_says(&["h2"]);
        },
    );
}

#[test]
fn killed_rank_on_this_machine_ends_the_job_with_137() {
    here(
        |job| first_process_of_rank(job, 1),
        |outcome| {
            outcome.assert_code(137).assert_says(&["rank 1", "SIGKILL"]);
        },
    );
}

#[test]
fn killed_head_leaves_nothing_on_this_machine() {
    here(
        |job| process(job.pid()),
        |outcome| {
            outcome.assert_killed(Signal::SIGKILL);
        },
    );
}

#[test]
fn killed_agent_leaves_nothing_on_this_machine() {
    here(|job| the("__agent", job.processes()), assert_failed);
}

#[test]
fn killed_keeper_leaves_nothing_on_this_machine() {
    here(|job| the("__keeper", job.processes()), assert_failed);
}

#[test]
fn failure_of_one_rank_ends_ranks_that_ignore_term_within_seconds() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let script = format!("[ $EFARUN_RANK = 1 ] && exit 5; exec {} deaf", program!("rank_hang").display());
    let outcome = Job::on(&testbed, program!("efarun-under-test"))
        .options(["-H", "h1:2,h2:2"])
        .program(Path::new("/bin/sh"), ["-c", &script])
        .run();
    outcome.assert_code(5).assert_says(&["rank 1", "h1"]);
    assert!(outcome.duration < Duration::from_secs(12), "{}", outcome.shown());
}

fn process(pid: i32) -> Process {
    Process::all().into_iter().find(|process| process.pid == pid).expect("it runs")
}
