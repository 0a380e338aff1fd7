//! MPI sessions, which a program opens without MPI_Init, one after the other.

use efarun_tests::{Need, Testbed, require};

use crate::support::{Library, Program, on};

#[test]
fn sessions_of_mpich_make_communicators_of_ranks_on_several_nodes() {
    require!(Need::Mpich, Need::Testbed);
    let testbed = Testbed::up(2);
    let program = Program::of_source("sessions.c", Library::Mpich);
    let outcome = program.job(on(&testbed, &["-H", "h1:2,h2:2", "-n", "4"]), &[]).run();
    outcome.assert_code(0);
    let stdout = outcome.stdout();
    let mut lines: Vec<&str> = stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [0, 1, 2, 3].map(|rank| format!("rank {rank} of 4, 0 wrong")), "{}", outcome.shown());
}
