//! Ends: a process that is killed leaves nothing behind and holds nobody up.

use efarun_tests::{Need, require};

use crate::support::{Guest, LIMIT, SoftEfa, is_unresponsive, succeeded};

#[test]
fn killed_receiver_is_told_to_its_sender_and_leaves_nothing() {
    require!(Need::SoftEfa);
    for medium in ["any", "tcp"] {
        let devices = SoftEfa::new(&["--medium", medium, "--manners", "all"]);
        let (target, mut initiator) = devices.start_as(["wait", "send-until-failure"], &[]);
        initiator.wait_for_line("sending");
        target.kill();
        let said = succeeded("the initiator", &initiator.finish(LIMIT));
        assert!(is_unresponsive(&said), "{medium}: {said}");
        // The initiator was the last, unless the kernel was not through with the target yet: it is told of the end when
        // the target's sockets close, and what both look at is held a little longer. Then it is left to who comes next.
        target.end();
        come_next();
        assert_eq!(left_behind(&devices), [] as [std::path::PathBuf; 0]);
    }
}

#[test]
fn killed_sender_holds_up_nobody_else() {
    require!(Need::SoftEfa);
    let devices = SoftEfa::new(&["--manners", "all"]);
    for _ in 0..3 {
        let (mut target, initiator) = devices.start_as(["wait", "send-until-failure"], &[]);
        target.wait_for_line("receiving");
        initiator.kill();
        // On the same devices, with the killed one's frames perhaps half written.
        devices.run("tagged", &["--rounds", "1"]);
        drop(target);
    }
}

#[test]
fn last_process_is_followed_by_nothing() {
    require!(Need::SoftEfa);
    let devices = SoftEfa::new(&[]);
    let (target, mut initiator) = devices.start_as(["wait", "send-until-failure"], &[]);
    initiator.wait_for_line("sending");
    assert_eq!(left_behind(&devices).len(), 1, "what both look at while they run");
    // Nobody is left to clear up, but whoever comes next.
    initiator.kill();
    target.kill();
    target.end();
    initiator.end();
    come_next();
    assert_eq!(left_behind(&devices), [] as [std::path::PathBuf; 0]);
}

/// A process that clears up what nobody holds any more.
fn come_next() {
    succeeded("fi_info", &Guest::start(SoftEfa::new(&[]).command("fi_info")).finish(LIMIT));
}

/// What devices have under /tmp and /dev/shm.
fn left_behind(devices: &SoftEfa) -> Vec<std::path::PathBuf> {
    let fabric = devices.fabric();
    let own = std::env::temp_dir().join(format!("soft-efa-{}", nix::unistd::getuid()));
    let entries = [own, "/dev/shm".into()].into_iter().flat_map(std::fs::read_dir).flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().contains(&format!("{fabric}-")))
        .collect()
}
