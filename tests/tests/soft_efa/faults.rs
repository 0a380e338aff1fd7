//! What the provider makes of what breaks.

use efarun_tests::{Need, require};

use crate::support::{LIMIT, SoftEfa, is_unresponsive, succeeded};

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
fn lost_device_flushes_what_is_on_it_and_answers_nobody_any_more() {
    require!(Need::SoftEfa);
    let said = sender_after("device-lost", "sender");
    assert!(said.contains(FLUSHED), "{said}");
    let said = sender_after("device-lost", "target");
    assert!(is_unresponsive(&said), "{said}");
}

#[test]
fn port_that_is_down_is_told_after_the_timeout_whoever_it_belongs_to() {
    require!(Need::SoftEfa);
    for loser in ["sender", "target"] {
        let said = sender_after("link-down", loser);
        assert!(is_unresponsive(&said), "the {loser}'s port is down: {said}");
    }
}

/// What a sender says that was sending when a fault began, at its own device or at its target's.
fn sender_after(fault: &str, loser: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let trigger = folder.path().join("now");
    let whole = SoftEfa::new(&["--timeout", "300"]);
    let broken = whole.clone().with("SOFTEFA_FAULT", &format!("{fault}@{}", trigger.display()));
    let (mut target, mut initiator) =
        if loser == "sender" { broken.start_sender_to(&whole) } else { whole.start_sender_to(&broken) };
    initiator.wait_for_line("sending");
    target.wait_for_line("receiving");
    std::fs::write(&trigger, "").unwrap();
    let said = succeeded("the initiator", &initiator.finish(LIMIT));
    drop(target);
    said
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

/// libfabric's code and the provider's: EFA's 1.
const FLUSHED: &str = "failed: 125 1\n";
