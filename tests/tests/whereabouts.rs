//! A rank that is in code of its own while the others wait for it: past the deadline each of them says who is where, though
//! that rank answers nothing, and though it is on another node.

use std::time::Duration;

use efarun_tests::{Job, Need, Testbed, program, require};
use nix::sys::signal::Signal;

#[test]
fn past_a_deadline_every_ranks_error_says_who_is_where_on_all_nodes() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let job = Job::on(&testbed, program!("efarun-under-test"))
        .options(["-H", "h1:2,h2:2", "-x", "EFARUN_DEADLINE=3"])
        .program(program!("rank_stray"), ["2"])
        .deadline(Duration::from_secs(90))
        .start();
    job.wait_for_output("told: ", 3);
    job.signal(Signal::SIGTERM);
    let outcome = job.wait();
    let stdout = outcome.stdout();
    let told: Vec<&str> = stdout.lines().filter(|line| line.contains("told: ")).collect();
    assert_eq!(told.len(), 3, "{}", outcome.shown());
    let expected = "rank 2 (h2) has come to operation 1, barrier; \
                    the others have come to operation 2, all_reduce of float by sum";
    assert!(told.iter().all(|told| told.contains(expected)), "{}", outcome.shown());
}
