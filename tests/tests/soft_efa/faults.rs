//! What the provider makes of what breaks.

use efarun_tests::{Need, require};

use crate::support::{LIMIT, SoftEfa, succeeded};

#[test]
fn codes_of_the_device_reach_the_program() {
    require!(Need::SoftEfa);
    // On efa-direct nothing is in between; each code, with the error that libfabric makes of it.
    for code in [5, 7, 8, 9, 13, 15] {
        let devices =
            SoftEfa::new(&["--device", "p5", "--manners", "none", "--fault", &format!("fail={code}:send")]);
        let (target, initiator) = devices.start("direct-send", &["--rounds", "1"]);
        let stderr = String::from_utf8(initiator.finish(LIMIT).stderr).unwrap();
        assert!(stderr.contains(&format!("provider's {code}:")), "{code}: {stderr}");
        drop(target);
    }
}

#[test]
fn lost_device_fails_the_operations_on_it() {
    require!(Need::SoftEfa);
    let folder = tempfile::tempdir().unwrap();
    let trigger = folder.path().join("now");
    let devices = SoftEfa::new(&["--fault", &format!("device-lost@{}", trigger.display())]);
    let (target, mut initiator) = devices.start_as(["wait", "send-until-failure"], &[]);
    initiator.wait_for_line("sending");
    std::fs::write(&trigger, "").unwrap();
    let said = succeeded("the initiator", &initiator.finish(LIMIT));
    assert!(said.contains("failed: "), "{said}");
    drop(target);
}

#[test]
fn silence_is_told_after_the_timeout() {
    require!(Need::SoftEfa);
    let folder = tempfile::tempdir().unwrap();
    let trigger = folder.path().join("now");
    let fault = format!("link-down@{}", trigger.display());
    let devices = SoftEfa::new(&["--fault", &fault, "--timeout", "300"]);
    let (target, mut initiator) = devices.start_as(["wait", "send-until-failure"], &[]);
    initiator.wait_for_line("sending");
    std::fs::write(&trigger, "").unwrap();
    let said = succeeded("the initiator", &initiator.finish(LIMIT));
    assert!(said.contains("failed: 103 "), "{said}");
    drop(target);
}

#[test]
fn send_queues_that_claim_to_be_full_are_waited_for() {
    require!(Need::SoftEfa);
    let devices = SoftEfa::new(&["--fault", "queue-full=30"]);
    devices.run("tagged", &["--rounds", "1"]);
    devices.run("direct-write", &["--rounds", "1"]);
}

#[test]
fn limits_are_those_of_the_device() {
    require!(Need::SoftEfa);
    let devices = SoftEfa::new(&["--fault", "limit=queue-pairs:1"]);
    let (target, initiator) = devices.start("tagged", &[]);
    let outputs = [target.finish(LIMIT), initiator.finish(LIMIT)];
    let refused = outputs.iter().filter(|output| !output.status.success()).count();
    assert!(refused > 0, "one queue pair is too few for two: {outputs:?}");
}
