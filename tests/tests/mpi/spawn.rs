//! Ranks that ask for more ranks: `MPI_Comm_spawn` of the real MPICH 5 and Open MPI 5.

use std::time::Duration;

use efarun_tests::{Job, Need, Outcome, Process, Running, Testbed, program, require};
use nix::sys::signal::Signal;

use crate::support::{Library, Program};

/// Whose program it is, and how it is started.
struct Mpi {
    program: Program,
    options: Vec<String>,
}

impl Mpi {
    fn mpich() -> Mpi {
        let program = Program::of_source("spawn.c", Library::Mpich);
        Mpi { program, options: ["-x", "FI_PROVIDER=tcp"].map(str::to_owned).to_vec() }
    }

    fn open_mpi() -> Mpi {
        let folder = Library::OpenMpi5.folder();
        let program = Program::of_source("spawn.c", Library::OpenMpi5);
        Mpi { program, options: vec!["-x".to_owned(), format!("OPAL_PREFIX={}", folder.display())] }
    }

    fn run(&self, testbed: &Testbed, options: &[&str], args: &[&str]) -> Outcome {
        self.start(testbed, options, args).wait()
    }

    fn start<'a>(&'a self, testbed: &'a Testbed, options: &[&str], args: &[&str]) -> Running<'a> {
        let job = Job::on(testbed, program!("efarun-under-test")).options(options).options(&self.options);
        // Ranks spin while they wait, and there are more of them than cores.
        job.program(self.program.path(), args).deadline(Duration::from_secs(240)).start()
    }
}

fn worlds_meet(mpi: &Mpi) {
    let testbed = Testbed::up(2);
    let cases: [(&[&str], &str, &str); 2] = [
        (&["-H", "h1:3", "-n", "1"], "2", "worlds of 1 and 2 ranks, 0 wrong\n"),
        (&["-H", "h1:2,h2:2", "-n", "2", "--map-by", "node"], "2", "worlds of 2 and 2 ranks, 0 wrong\n"),
    ];
    for (options, count, expected) in cases {
        let outcome = mpi.run(&testbed, options, &[count, "meet"]);
        outcome.assert_code(0);
        assert_eq!(outcome.stdout(), expected, "{}", outcome.shown());
    }
    assert_eq!(testbed.guests(), []);
}

fn spawns_that_cannot_be_are_refused(mpi: &Mpi) {
    let testbed = Testbed::up(2);
    let two_hosts = ["-H", "h1:1,h2:2", "-n", "2", "--map-by", "node"];
    let cases: [(&[&str], &str); 3] = [
        (
            &["4", "meet"],
            "rank 0 asked for 4 more ranks (MPI_Comm_spawn), and 1 of the 3 slots of the job's hosts are free",
        ),
        (&["1", "meet", "h7"], "on h7, where the job has no rank: it is on h1, h2"),
        (&["1", "none"], "/no/such/program"),
    ];
    for (args, sentence) in cases {
        let outcome = mpi.run(&testbed, &two_hosts, args);
        outcome.assert_code(0).assert_says(&[sentence]);
        assert_eq!(outcome.stdout(), "refused\n", "{}", outcome.shown());
    }
    assert_eq!(testbed.guests(), []);
}

fn a_childs_end_is_the_jobs(mpi: &Mpi) {
    let testbed = Testbed::up(2);
    let two_hosts = ["-H", "h1:1,h2:3", "-n", "2", "--map-by", "node"];
    let outcome = mpi.run(&testbed, &two_hosts, &["2", "code"]);
    outcome.assert_code(5).assert_says(&["rank 2 on h2 exited with code 5"]);
    let running = mpi.start(&testbed, &two_hosts, &["2", "wait"]);
    running.wait_for_output("outside", 4);
    let is_child =
        |process: &&Process| process.has_env("PMI_SPAWNED", "1") && process.has_env("PMI_RANK", "0");
    running.processes().iter().find(is_child).expect("it waits").signal(Signal::SIGKILL);
    let outcome = running.wait();
    outcome.assert_code(137).assert_says(&["rank 2 on h2 was killed by signal 9 (SIGKILL)"]);
    assert_eq!(testbed.guests(), [], "{}", outcome.shown());
}

#[test]
fn mpich_spawns_ranks_that_meet_their_parents() {
    require!(Need::Mpich, Need::Testbed);
    worlds_meet(&Mpi::mpich());
}

#[test]
fn mpich_is_told_why_there_are_no_more_ranks() {
    require!(Need::Mpich, Need::Testbed);
    spawns_that_cannot_be_are_refused(&Mpi::mpich());
}

#[test]
fn a_child_of_mpichs_that_fails_ends_the_job_as_any_rank_does() {
    require!(Need::Mpich, Need::Testbed);
    a_childs_end_is_the_jobs(&Mpi::mpich());
}

#[test]
fn open_mpi_spawns_ranks_that_meet_their_parents() {
    require!(Need::OpenMpi, Need::Testbed);
    worlds_meet(&Mpi::open_mpi());
}

#[test]
fn open_mpi_is_told_why_there_are_no_more_ranks() {
    require!(Need::OpenMpi, Need::Testbed);
    spawns_that_cannot_be_are_refused(&Mpi::open_mpi());
}

#[test]
fn a_child_of_open_mpis_that_fails_ends_the_job_as_any_rank_does() {
    require!(Need::OpenMpi, Need::Testbed);
    a_childs_end_is_the_jobs(&Mpi::open_mpi());
}
