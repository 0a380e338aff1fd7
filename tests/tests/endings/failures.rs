//! What the failure of a rank means for the others, and what is told of it.

use std::time::Duration;

use efarun_tests::{Job, MemoryCgroup, Need, Testbed, require, wait_until_gone};
use nix::sys::signal::Signal;

use super::{here, launcher_after, on, shell};

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

#[test]
fn rank_that_the_out_of_memory_killer_ended_is_told_as_such() {
    require!(Need::MemoryCgroup);
    let (cgroup, folder) = (MemoryCgroup::new(256 << 20), tempfile::tempdir().unwrap());
    let launcher = launcher_after(folder.path(), &format!("echo $$ >{}", cgroup.entrance().display()));
    let job = Job::here(&launcher).options(["--oversubscribe", "-n", "2"]);
    // `tail` keeps the last lines, and here is none that ends.
    let outcome = shell(job, "if [ $EFARUN_RANK = 1 ]; then exec tail /dev/zero; fi; exec sleep 1000").run();
    outcome
        .assert_code(137)
        .assert_says(&["rank 1 on localhost was killed by signal 9", "  out of memory: the "]);
}

#[test]
fn exception_that_a_rank_recorded_is_told_without_torchrun() {
    let recorded = r#"{"message": {"message": "RuntimeError: boom", "extraInfo": {"py_callstack": "Traceback:\n  in train", "timestamp": "1"}}}"#;
    let script = format!(
        "if [ $EFARUN_RANK = 1 ]; then printf %s '{recorded}' >$TORCHELASTIC_ERROR_FILE; exit 1; fi; sleep 1000"
    );
    let outcome = shell(here().options(["-n", "2"]), &script).run();
    outcome
        .assert_code(1)
        .assert_says(&["rank 1 on localhost exited with code 1", "  exception: RuntimeError: boom\n"]);
}
