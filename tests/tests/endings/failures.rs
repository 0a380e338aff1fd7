//! What the failure of a rank means for the others, and what is told of it.

use std::time::Duration;

use efarun_tests::{Need, Testbed, require, wait_until_gone};
use nix::sys::signal::Signal;

use super::{here, on, shell};

#[test]
fn others_go_on_after_a_failure_where_that_is_asked_for() {
    let script = "if [ $EFARUN_RANK = 1 ]; then exit 5; fi; sleep 2; echo done";
    let outcome = shell(here().options(["-n", "3", "--on-failure", "continue"]), script).run();
    outcome.assert_code(5).assert_says(&["rank 1", "exited with code 5", "3/3 ranks reaped"]);
    assert_eq!(outcome.stdout(), "done\n".repeat(2), "{}", outcome.shown());
    assert!(!outcome.stderr().contains("other ranks ended"), "{}", outcome.shown());
}

#[test]
fn others_go_on_without_a_host_that_is_lost_where_that_is_asked_for() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let go = testbed.folder().join("go");
    let script = format!("echo is up; while [ ! -e {} ]; do sleep 0.02; done; echo done", go.display());
    let job = on(&testbed).options(["-H", "h1,h2", "--on-failure", "continue"]);
    let job = shell(job, &script).start();
    job.wait_for_output("is up", 2);
    let guests = testbed.host("h2").guests();
    let agent = guests.iter().find(|guest| guest.command.contains("__agent")).expect("h2 has an agent");
    agent.signal(Signal::SIGKILL);
    wait_until_gone(Duration::from_secs(20), || testbed.host("h2").guests()).expect("h2 ends its part");
    std::fs::write(&go, "").unwrap();
    let outcome = job.wait();
    outcome.assert_code(69).assert_says(&["h2", "1/2 agents gone"]);
    assert_eq!(outcome.stdout(), "is up\nis up\ndone\n", "{}", outcome.shown());
}
