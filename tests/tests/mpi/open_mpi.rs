//! What programs of Open MPI's have beside a world: a PMIx server, which may die or not be there.

use std::path::Path;

use efarun_tests::{Need, Running, Testbed, require};

use crate::support::{Library, OF_OPEN_MPI, Program, on, one_world};
use crate::unruly::Gates;

#[test]
fn two_jobs_of_open_mpi_on_the_same_hosts_do_not_disturb_each_other() {
    require!(Need::OpenMpi, Need::Testbed);
    let program = Program::of(Library::OpenMpi5);
    let testbed = Testbed::up(2);
    let start = || program.job(on(&testbed, &["-H", "h1:1,h2:1"]), &["2"]).start();
    for outcome in [start(), start()].map(Running::wait) {
        outcome.assert_code(0);
        assert_eq!(outcome.stdout(), one_world(2, 2), "{}", outcome.shown());
    }
}

#[test]
fn one_job_has_programs_of_mpich_and_of_both_open_mpis_one_after_the_other() {
    require!(Need::OpenMpi, Need::Mpich, Need::Testbed);
    let testbed = Testbed::up(2);
    let [five, four] = OF_OPEN_MPI.map(Program::of);
    let mpich = Program::of(Library::Mpich);
    let programs = [&mpich, &five, &four].map(|program| format!("{} 2", program.path().display()));
    // What a shell comes to cannot be seen.
    let library = Library::OpenMpi5.folder().join("lib/openmpi/libpmix.so.2");
    let library = format!("EFARUN_LIBPMIX={}", library.display());
    let job = Library::Mpich.job(on(&testbed, &["-H", "h1:1,h2:1", "-x", &library]));
    let outcome = job.program(Path::new("sh"), ["-c", &programs.join(" && ")]).run();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout(), one_world(2, 2).repeat(3), "{}", outcome.shown());
}

#[test]
fn a_pmix_server_that_dies_ends_its_job_with_a_sentence() {
    require!(Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(2);
    let program = Program::of(Library::OpenMpi5);
    let running = program.job(on(&testbed, &["-H", "h1:1,h2:1"]), &["2", "wait", "1"]).start();
    running.wait_for_output("world of", 1);
    let kill = "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = efarun-helper ] && kill -KILL ${p#/proc/}; done; true";
    testbed.sh("h2", kill);
    let outcome = running.wait();
    outcome.assert_code(1).assert_says(&[
        "rank 1 on h2 has lost its PMIx server",
        "libpmix.so.2",
        "was killed by signal 9",
    ]);
    assert_eq!(testbed.guests(), [], "{}", outcome.shown());
}

#[test]
fn open_mpi_without_a_libpmix_is_refused_before_it_is_so_many_worlds_of_one() {
    require!(Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(2);
    let program = Program::of(Library::OpenMpi5);
    let nowhere = ["-H", "h1:1,h2:1", "-x", "EFARUN_LIBPMIX=/no/such/libpmix.so.2"];
    let outcome = program.job(on(&testbed, &nowhere), &["2"]).run();
    outcome.assert_code(65).assert_says(&[
        &Library::OpenMpi5.file().display().to_string(),
        "/no/such/libpmix.so.2",
        "2 ranks would be 2 worlds of one",
        "hint: ",
    ]);
    assert_eq!(testbed.guests(), []);
}

#[test]
fn ranks_that_were_each_a_world_are_told_at_the_end() {
    require!(Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(2);
    let program = Program::of(Library::OpenMpi5);
    let nowhere = ["-H", "h1:2,h2:1", "-x", "EFARUN_LIBPMIX=/no/such/libpmix.so.2", "-x", "EFARUN_MPI=any"];
    let outcome = program.job(on(&testbed, &nowhere), &["1"]).run();
    outcome
        .assert_code(0)
        .assert_says(&["they were 3 worlds of one", &Library::OpenMpi5.file().display().to_string()]);
    assert_eq!(outcome.stdout(), one_world(1, 1).repeat(3), "{}", outcome.shown());
}

#[test]
fn ranks_of_a_shell_that_are_each_a_world_are_told_at_once_and_at_the_end() {
    require!(Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(2);
    let program = Program::of_source("unruly.c", Library::OpenMpi5);
    let gates = Gates::new();
    let script = format!("{} gate {}/$EFARUN_RANK; true", program.path().display(), gates.folder().display());
    let nowhere = ["-H", "h1:1,h2:1", "-x", "EFARUN_LIBPMIX=/no/such/libpmix.so.2"];
    let job = Library::OpenMpi5.job(on(&testbed, &nowhere)).program(Path::new("sh"), ["-c", &script]);
    let running = job.start();
    running.wait_for_output("there", 2);
    for rank in [0, 1] {
        running.wait_for_note(&format!("rank {rank} has come to {}", Library::OpenMpi5.file().display()));
    }
    gates.open();
    let outcome = running.wait();
    outcome.assert_code(0).assert_says(&["2 ranks will be 2 worlds of one", "they were 2 worlds of one"]);
    assert_eq!(testbed.guests(), [], "{}", outcome.shown());
}

#[test]
fn every_rank_knows_the_program_of_every_rank_on_all_nodes() {
    require!(Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(2);
    for library in OF_OPEN_MPI {
        let program = Program::of_source("apps.c", library);
        let path = program.path().display().to_string();
        // One rank on h1 runs the first program, one there and two on h2 the second.
        let job = program.job(on(&testbed, &["-H", "h1:2,h2:2", "-n", "1"]), &[":", "-n", "3", &path]);
        let outcome = job.run();
        outcome.assert_code(0);
        let stdout = outcome.stdout();
        let mut said: Vec<&str> = stdout.lines().collect();
        said.sort_unstable();
        let known = "all: 0/0 1/0 1/1 1/2; sizes 1 3; firsts 0 1";
        let expected =
            [(0, 0), (1, 1), (2, 1), (3, 1)].map(|(rank, app)| format!("rank {rank} runs {app}; {known}"));
        assert_eq!(said, expected, "{library:?}: {}", outcome.shown());
    }
}
