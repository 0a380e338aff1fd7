//! Programs on the real provider: what lives with EFA's manners works under all of them, what does not fails.

use efarun_tests::{Need, is_full_matrix, require};

use crate::support::SoftEfa;

/// What works on every device.
pub(crate) const EVERYWHERE: [&str; 7] =
    ["tagged", "bandwidth", "rma", "unexpected", "cancel", "multi-recv", "cq-data"];

#[test]
fn reliable_endpoints_keep_their_promises_under_all_manners() {
    require!(Need::SoftEfa);
    for seed in seeds() {
        for device in ["p4d", "p5"] {
            let devices =
                SoftEfa::new(&["--device", device, "--manners", "all", "--seed", &seed.to_string()]);
            for program in EVERYWHERE {
                devices.run(program, &["--rounds", "1"]);
            }
        }
    }
}

#[test]
fn each_manner_alone_is_lived_with() {
    require!(Need::SoftEfa);
    for manner in [
        "none",
        "pieces",
        "unordered=50:300",
        "completions=50:300",
        "repeat=50:300",
        "late=5:3000",
        "not-ready=20",
    ] {
        let devices = SoftEfa::new(&["--device", "p5", "--manners", manner]);
        for program in ["tagged", "direct-send", "direct-write"] {
            devices.run(program, &["--rounds", "1"]);
        }
    }
}

#[test]
fn direct_endpoints_keep_the_few_promises_they_make() {
    require!(Need::SoftEfa);
    for seed in seeds() {
        let seed = seed.to_string();
        let p4d = SoftEfa::new(&["--device", "p4d", "--manners", "all", "--seed", &seed]);
        p4d.run("direct-send", &["--rounds", "2"]);
        let p5 = SoftEfa::new(&["--device", "p5", "--manners", "all", "--seed", &seed]);
        p5.run("direct-send", &["--rounds", "2"]);
        p5.run("direct-write", &["--rounds", "2"]);
    }
}

#[test]
fn p4d_offers_no_direct_rma() {
    require!(Need::SoftEfa);
    let devices = SoftEfa::new(&["--device", "p4d"]);
    let (target, initiator) = devices.try_run("direct-write", &[]);
    for output in [target, initiator] {
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains("no efa-direct endpoint"), "{stderr}");
    }
}

#[test]
fn consumers_that_rely_on_what_efa_does_not_promise_fail() {
    require!(Need::SoftEfa);
    // Each meets what it does not expect by a margin of milliseconds: on a busy machine it may sleep through a shorter one.
    for (program, manners, sign) in [
        ("wrong-last-byte", "all,unordered=100:20000", "wrong: write"),
        ("wrong-order", "all", "should come"),
        ("wrong-reuse", "all,repeat=100:20000", "came again"),
    ] {
        let well_behaved = SoftEfa::new(&["--device", "p5", "--manners", "none"]);
        well_behaved.run(program, &["--rounds", "5"]);
        for seed in seeds() {
            let devices =
                SoftEfa::new(&["--device", "p5", "--manners", manners, "--seed", &seed.to_string()]);
            let (target, _) = devices.try_run(program, &["--rounds", "20"]);
            let stderr = String::from_utf8_lossy(&target.stderr);
            assert!(!target.status.success() && stderr.contains(sign), "{program} {seed}: {stderr}");
        }
    }
    let devices = SoftEfa::new(&["--device", "p5", "--manners", "none"]);
    let (_, initiator) = devices.try_run("wrong-no-receive", &[]);
    let stderr = String::from_utf8_lossy(&initiator.stderr);
    assert!(stderr.contains("Receiver not ready"), "{stderr}");
}

/// Where choices come from, one after the other.
pub(crate) fn seeds() -> std::ops::RangeInclusive<u32> {
    if is_full_matrix() { 1..=50 } else { 1..=1 }
}
