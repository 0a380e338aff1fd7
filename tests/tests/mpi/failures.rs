//! That programs of each library which fail are told by their cause, and leave nothing on any host.

use efarun_tests::{Need, Testbed, is_full_matrix, require};

use crate::support::{Library, Program, on};

/// Hosts, arguments, the launcher's code and what it says.
type Case = (&'static str, &'static [&'static str], i32, &'static str);

const CASES: [Case; 2] = [
    ("h1:2,h2:1", &["2", "abort", "2", "7"], 7, "rank 2 on h2 aborted the job with code 7: "),
    // Ranks on the other host lose a peer and abort, which is told sooner than the signal may be.
    ("h1:2,h2:1", &["2", "crash", "2"], 139, "rank 2 on h2 was killed by signal 11 (SIGSEGV)"),
];

const MORE: [Case; 3] = [
    ("h1:3", &["1", "crash", "1"], 139, "rank 1 on h1 was killed by signal 11 (SIGSEGV)"),
    ("h1:3", &["1", "abort", "0", "7"], 7, "rank 0 on h1 aborted the job with code 7: "),
    (
        "h1:2,h2:1",
        &["2", "leave", "2"],
        1,
        "rank 2 on h2 ended with code 0 after MPI_Init and without MPI_Finalize",
    ),
];

fn fails_by_its_cause(library: Library) {
    require!(library.need(), Need::Testbed);
    let testbed = Testbed::up(2);
    let program = Program::of(library);
    let more = if is_full_matrix() { &MORE[..] } else { &MORE[..1] };
    for (hosts, args, code, sentence) in CASES.iter().chain(more) {
        let outcome = program.job(on(&testbed, &["-H", hosts]), args).run();
        outcome.assert_code(*code).assert_says(&[sentence]);
        assert_eq!(testbed.guests(), [], "{}", outcome.shown());
        for host in ["h1", "h2"] {
            assert_eq!(testbed.sh(host, "ls /dev/shm"), "", "on {host}: {}", outcome.shown());
        }
    }
}

#[test]
fn mpich_program_fails_by_its_cause_and_leaves_nothing() {
    fails_by_its_cause(Library::Mpich);
}

#[test]
fn intel_mpi_program_fails_by_its_cause_and_leaves_nothing() {
    fails_by_its_cause(Library::Intel);
}

#[test]
fn open_mpi_5_program_fails_by_its_cause_and_leaves_nothing() {
    fails_by_its_cause(Library::OpenMpi5);
}

#[test]
fn open_mpi_4_program_fails_by_its_cause_and_leaves_nothing() {
    fails_by_its_cause(Library::OpenMpi4);
}

#[test]
fn open_mpi_of_the_distribution_fails_by_its_cause_and_leaves_nothing() {
    fails_by_its_cause(Library::SystemOpenMpi);
}

#[test]
fn a_rank_that_others_miss_is_named_from_another_node_too() {
    require!(Need::Mpich, Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(2);
    for library in [Library::Mpich, Library::OpenMpi5] {
        let program = Program::of(library);
        let outcome = program.job(on(&testbed, &["-H", "h1:2,h2:1"]), &["2", "absent", "2"]).run();
        let sentence = "rank 2 on h2 ended with code 0 without MPI_Init or after MPI_Finalize, where rank 0 waits for it";
        outcome.assert_code(1).assert_says(&[sentence]);
        assert_eq!(testbed.guests(), [], "{}", outcome.shown());
    }
}

#[test]
fn a_library_that_a_node_lacks_is_named_with_its_rank_and_node() {
    require!(Need::Mpich, Need::Testbed);
    let testbed = Testbed::up(2);
    // The home folder has one path everywhere, and is another on each host.
    let libraries = testbed.home().join("mpi");
    let program = Program::with_libraries_in(Library::Mpich, &libraries);
    // The whole folder, as the library looks for others beside itself.
    let there = Library::Mpich.folder().join("lib");
    let link = format!("ln -s {} {}", there.display(), libraries.display());
    testbed.sh("h1", &link);
    let outcome = program.job(on(&testbed, &["-H", "h1:1,h2:1"]), &["2"]).run();
    outcome.assert_code(127).assert_says(&["rank 1 on h2 exited with code 127", "libmpi.so.12"]);
    assert_eq!(testbed.guests(), [], "{}", outcome.shown());
}

#[test]
fn another_build_of_the_library_on_a_node_is_named_with_both_nodes() {
    require!(Need::Mpich, Need::Testbed);
    let testbed = Testbed::up(2);
    // The home folder is another on each host.
    let libraries = testbed.home().join("mpi");
    let program = Program::with_libraries_in(Library::Mpich, &libraries);
    let there = Library::Mpich.folder().join("lib");
    testbed.sh("h1", &format!("ln -s {} {}", there.display(), libraries.display()));
    // The same library, longer by what nobody reads.
    let (from, to) = (there.display(), libraries.display());
    testbed.sh("h2", &format!("mkdir {to} && ln -s {from}/* {to} && rm {to}/libmpi.so.12"));
    testbed.sh("h2", &format!("cp {from}/libmpi.so.12 {to}/libmpi.so.12 && echo >>{to}/libmpi.so.12"));
    let outcome = program.job(on(&testbed, &["-H", "h1:1,h2:1"]), &["2"]).run();
    outcome.assert_code(0).assert_says(&[
        "the program's MPI is not the same on ",
        "h1 (",
        "h2 (",
        "libmpi.so.12",
    ]);
}

#[test]
fn a_rank_that_ends_before_or_within_its_world_is_named() {
    require!(Need::Mpich, Need::Testbed);
    let program = Program::of(Library::Mpich);
    let testbed = Testbed::up(2);
    // Who is missed on its own node is missed elsewhere too, and either may be told first.
    let cases: [(&[&str], &str); 2] = [
        (&["2", "leave", "1"], "rank 1 on h1 ended with code 0 after MPI_Init and without MPI_Finalize"),
        (&["2", "absent", "1"], "rank 1 on h1 ended with code 0 without MPI_Init"),
    ];
    for (args, sentence) in cases {
        let outcome = program.job(on(&testbed, &["-H", "h1:2,h2:2"]), args).run();
        outcome.assert_code(1).assert_says(&[sentence]);
        assert_eq!(testbed.guests(), [], "{}", outcome.shown());
    }
}
