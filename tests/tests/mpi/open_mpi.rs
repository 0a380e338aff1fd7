//! The real Open MPI 5 and 4 of PyPI, which ask for PMIx.

use std::path::Path;
use std::time::Duration;

use efarun_tests::{
    Job, Need, OPEN_MPI_RELEASES, Running, Testbed, is_full_matrix, open_mpi_folder, program, require,
};

use crate::support::{Program, as_on_one_network};

/// What is left of the patience of a job whose ranks spin, beside whatever else the machine has to do.
const PATIENCE: Duration = Duration::from_secs(240);

fn world<'a>(job: Job<'a>, release: &str, program: &Program, args: &[&str]) -> Job<'a> {
    let prefix = format!("OPAL_PREFIX={}", open_mpi_folder(release).display());
    let job = job.options(["--oversubscribe", "-x", &prefix]).deadline(PATIENCE);
    job.program(program.path(), args)
}

fn on<'a>(testbed: &'a Testbed, options: &[&str]) -> Job<'a> {
    Job::on(testbed, program!("efarun-under-test")).options(options)
}

#[test]
fn open_mpi_forms_one_world_on_this_machine() {
    require!(Need::OpenMpi);
    for release in OPEN_MPI_RELEASES {
        let program = Program::of_open_mpi(release);
        let job = Job::here(program!("efarun-under-test")).options(["-n", "3"]);
        let outcome = world(job, release, &program, &["1", "names"]).run();
        outcome.assert_code(0);
        assert_eq!(outcome.stdout(), "world of 3 ranks on 1 nodes, 0 wrong\n", "{}", outcome.shown());
    }
}

#[test]
fn open_mpi_forms_one_world_on_several_hosts_however_ranks_are_placed() {
    require!(Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(4);
    let placements: [(&[&str], u32, u32); 5] = [
        (&["-H", "h1:1,h2:2"], 3, 2),
        (&["-H", "h1:1,h2:1,h3:1,h4:1"], 4, 4),
        (&["-H", "h1:2,h2:1", "-x", "OMPI_MCA_pmix_base_async_modex=1"], 3, 2),
        (&["-H", "h1:5,h2:3"], 8, 2),
        (&["-H", "h1:2,h2:2,h3:2,h4:2", "--map-by", "node"], 8, 4),
    ];
    // Its ranks spin while they wait, which takes long where there are more of them than cores.
    let tried = if is_full_matrix() { placements.len() } else { 2 };
    for release in OPEN_MPI_RELEASES {
        let program = Program::of_open_mpi(release);
        for (options, ranks, nodes) in placements.into_iter().take(tried) {
            let outcome =
                world(on(&testbed, options), release, &program, &[&nodes.to_string(), "names"]).run();
            outcome.assert_code(0);
            let expected = format!("world of {ranks} ranks on {nodes} nodes, 0 wrong\n");
            assert_eq!(outcome.stdout(), expected, "{}", outcome.shown());
        }
    }
    assert_eq!(testbed.guests(), []);
}

#[test]
fn open_mpi_programs_that_fail_are_told_and_leave_nothing() {
    require!(Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(2);
    // Ranks on another host than one that is killed abort at once: which of them is the first is not said here.
    let cases: [(&str, &[&str], i32, &str); 3] = [
        ("h1:2,h2:1", &["2", "abort", "2", "7"], 7, "rank 2 on h2 aborted the job with code 7: "),
        ("h1:3", &["1", "crash", "1"], 139, "rank 1 on h1 was killed by signal 11 (SIGSEGV)"),
        (
            "h1:2,h2:1",
            &["2", "leave", "2"],
            1,
            "rank 2 on h2 ended with code 0 after MPI_Init and without MPI_Finalize",
        ),
    ];
    for release in OPEN_MPI_RELEASES {
        let program = Program::of_open_mpi(release);
        for (hosts, args, code, sentence) in cases {
            let outcome = world(on(&testbed, &["-H", hosts]), release, &program, args).run();
            outcome.assert_code(code).assert_says(&[sentence]);
            assert_eq!(testbed.guests(), [], "{}", outcome.shown());
            // The PMIx inside Open MPI 4 does not remove all of what a job has left that was aborted.
            for host in ["h1", "h2"].into_iter().filter(|_| release != "4.1.8") {
                assert_eq!(testbed.sh(host, "ls /dev/shm"), "", "{}", outcome.shown());
            }
        }
    }
}

#[test]
fn two_jobs_of_open_mpi_on_the_same_hosts_do_not_disturb_each_other() {
    require!(Need::OpenMpi, Need::Testbed);
    let program = Program::of_open_mpi("5.0.11");
    let testbed = Testbed::up(2);
    let job = || world(on(&testbed, &["-H", "h1:1,h2:1"]), "5.0.11", &program, &["2"]).start();
    for outcome in [job(), job()].map(Running::wait) {
        outcome.assert_code(0);
        assert_eq!(outcome.stdout(), "world of 2 ranks on 2 nodes, 0 wrong\n", "{}", outcome.shown());
    }
}

#[test]
fn one_job_has_programs_of_mpich_and_of_both_open_mpis_one_after_the_other() {
    require!(Need::OpenMpi, Need::Mpich, Need::Testbed);
    let testbed = Testbed::up(2);
    let [five, four] = OPEN_MPI_RELEASES.map(Program::of_open_mpi);
    let mpich = Program::world();
    let programs = [&mpich, &five, &four].map(|program| format!("{} 2", program.path().display()));
    // What a shell comes to cannot be seen.
    let library = open_mpi_folder("5.0.11").join("lib/openmpi/libpmix.so.2");
    let library = format!("EFARUN_LIBPMIX={}", library.display());
    let job = on(&testbed, &["-H", "h1:1,h2:1", "-x", &library]).deadline(PATIENCE);
    let outcome = as_on_one_network(job).program(Path::new("sh"), ["-c", &programs.join(" && ")]).run();
    outcome.assert_code(0);
    let expected = "world of 2 ranks on 2 nodes, 0 wrong\n".repeat(3);
    assert_eq!(outcome.stdout(), expected, "{}", outcome.shown());
}

#[test]
fn a_pmix_server_that_dies_ends_its_job_with_a_sentence() {
    require!(Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(2);
    let program = Program::of_open_mpi("5.0.11");
    let running = world(on(&testbed, &["-H", "h1:1,h2:1"]), "5.0.11", &program, &["2", "wait", "1"]).start();
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
    let program = Program::of_open_mpi("5.0.11");
    let nowhere = ["-H", "h1:1,h2:1", "-x", "EFARUN_LIBPMIX=/no/such/libpmix.so.2"];
    let outcome = world(on(&testbed, &nowhere), "5.0.11", &program, &["2"]).run();
    let library = open_mpi_folder("5.0.11").join("lib/libmpi.so.40").display().to_string();
    outcome.assert_code(65).assert_says(&[
        &library,
        "/no/such/libpmix.so.2",
        "2 ranks would be 2 worlds of one",
        "hint: ",
    ]);
    assert_eq!(testbed.guests(), []);
}
