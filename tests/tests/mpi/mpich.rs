//! The real MPICH 5 of PyPI.

use efarun_tests::{Job, Need, Testbed, program, require};

use crate::support::{Program, as_on_one_network};

fn world<'a>(job: Job<'a>, program: &Program, args: &[&str]) -> Job<'a> {
    as_on_one_network(job).program(program.path(), args)
}

#[test]
fn mpich_forms_one_world_on_this_machine() {
    require!(Need::Mpich);
    let program = Program::world();
    let outcome =
        world(Job::here(program!("efarun-under-test")).options(["-n", "4"]), &program, &["1", "names"]).run();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout(), "world of 4 ranks on 1 nodes, 0 wrong\n", "{}", outcome.shown());
}

#[test]
fn mpich_forms_one_world_on_several_hosts_however_ranks_are_placed() {
    require!(Need::Mpich, Need::Testbed);
    let program = Program::world();
    let testbed = Testbed::up(4);
    let placements: [(&[&str], u32, u32); 4] = [
        (&["-H", "h1:2,h2:2"], 4, 2),
        (&["-H", "h1:5,h2:3"], 8, 2),
        (&["-H", "h1:2,h2:2,h3:2,h4:2", "--map-by", "node"], 8, 4),
        (&["-H", "h1:1,h2:3,h3:2,h4:1"], 7, 4),
    ];
    for (options, ranks, nodes) in placements {
        let job = Job::on(&testbed, program!("efarun-under-test")).options(options);
        let outcome = world(job, &program, &[&nodes.to_string(), "names"]).run();
        outcome.assert_code(0);
        let expected = format!("world of {ranks} ranks on {nodes} nodes, 0 wrong\n");
        assert_eq!(outcome.stdout(), expected, "{}", outcome.shown());
    }
    assert_eq!(testbed.guests(), []);
}

#[test]
fn mpich_programs_that_fail_are_told_and_leave_nothing() {
    require!(Need::Mpich, Need::Testbed);
    let program = Program::world();
    let testbed = Testbed::up(2);
    let cases: [(&[&str], i32, &str); 4] = [
        (&["2", "abort", "3", "7"], 7, "rank 3 on h2 aborted the job with code 7: "),
        (&["2", "crash", "2"], 139, "rank 2 on h2 was killed by signal 11 (SIGSEGV)"),
        (&["2", "leave", "1"], 1, "rank 1 on h1 ended with code 0 after MPI_Init and without MPI_Finalize"),
        (
            &["2", "absent", "1"],
            1,
            "rank 1 on h1 ended with code 0 without MPI_Init, where rank 0 waits for it",
        ),
    ];
    for (args, code, sentence) in cases {
        let job = Job::on(&testbed, program!("efarun-under-test")).options(["-H", "h1:2,h2:2"]);
        let outcome = world(job, &program, args).run();
        outcome.assert_code(code).assert_says(&[sentence]);
        assert_eq!(testbed.guests(), [], "{}", outcome.shown());
    }
}

#[test]
fn two_jobs_on_the_same_hosts_do_not_disturb_each_other() {
    require!(Need::Mpich, Need::Testbed);
    let program = Program::world();
    let testbed = Testbed::up(2);
    let job = || {
        world(Job::on(&testbed, program!("efarun-under-test")).options(["-H", "h1:2,h2:2"]), &program, &["2"])
    };
    let running = [job().start(), job().start()];
    for outcome in running.map(efarun_tests::Running::wait) {
        outcome.assert_code(0);
        assert_eq!(outcome.stdout(), "world of 4 ranks on 2 nodes, 0 wrong\n", "{}", outcome.shown());
    }
}

#[test]
fn one_rank_runs_several_mpich_programs_in_a_row() {
    require!(Need::Mpich);
    let program = Program::world();
    let twice = format!("{0} 1 && {0} 1", program.path().display());
    let job = Job::here(program!("efarun-under-test")).options(["-n", "2"]);
    let outcome = as_on_one_network(job).program("sh".as_ref(), ["-c", &twice]).run();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout(), "world of 2 ranks on 1 nodes, 0 wrong\n".repeat(2), "{}", outcome.shown());
}
