//! A host that falls silent is lost when its lease is over: the head says so, and the host ends its ranks by itself.

use efarun_tests::{Job, Need, Testbed, program, require};

#[test]
fn host_whose_cable_is_pulled_is_named_and_ends_its_ranks_itself() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let job = Job::on(&testbed, program!("efarun-under-test")).options(["-H", "h1:1,h2:1"]);
    let job = job.program(program!("rank_hang"), ["deaf"]).start();
    job.wait_for_output("is up", 2);
    testbed.cut("h2");
    let outcome = job.wait();
    assert_eq!(outcome.status.code(), Some(69), "{}", outcome.shown());
    outcome.assert_says(&["h2", "no sign of life", "did not acknowledge", "1/2 agents gone"]);
    // The host's own sshd keeps its session until its TCP gives the head up (see ARCHITECTURE.md).
    let ours: Vec<_> = outcome.left_behind.iter().filter(|left| !left.command.starts_with("sshd")).collect();
    assert!(ours.is_empty(), "left behind: {ours:#?}\n{}", outcome.shown());
}
