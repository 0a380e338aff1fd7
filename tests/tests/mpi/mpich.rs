//! Jobs of MPICH's programs beside each other and one after the other.

use efarun_tests::{Need, Running, Testbed, require};

use crate::support::{Library, Program, here, on, one_world};

#[test]
fn two_jobs_on_the_same_hosts_do_not_disturb_each_other() {
    require!(Need::Mpich, Need::Testbed);
    let program = Program::of(Library::Mpich);
    let testbed = Testbed::up(2);
    let start = || program.job(on(&testbed, &["-H", "h1:2,h2:2"]), &["2"]).start();
    for outcome in [start(), start()].map(Running::wait) {
        outcome.assert_code(0);
        assert_eq!(outcome.stdout(), one_world(4, 2), "{}", outcome.shown());
    }
}

#[test]
fn one_rank_runs_several_mpich_programs_in_a_row() {
    require!(Need::Mpich);
    let program = Program::of(Library::Mpich);
    let twice = format!("{0} 1 && {0} 1", program.path().display());
    let outcome = Library::Mpich.job(here(&["-n", "2"])).program("sh".as_ref(), ["-c", &twice]).run();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout(), one_world(2, 1).repeat(2), "{}", outcome.shown());
}
