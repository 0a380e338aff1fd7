//! Ends: a process that is killed leaves nothing behind and holds nobody up.

use std::collections::BTreeSet;

use efarun_tests::{Need, require};

use crate::support::{LIMIT, SoftEfa, succeeded};

#[test]
fn killed_receiver_is_told_to_its_sender_and_leaves_nothing() {
    require!(Need::SoftEfa);
    for medium in ["any", "tcp"] {
        let before = shared_memory();
        let devices = SoftEfa::new(&["--medium", medium, "--manners", "all"]);
        let (target, mut initiator) = devices.start_as(["wait", "send-until-failure"], &[]);
        initiator.wait_for_line("sending");
        target.kill();
        let said = succeeded("the initiator", &initiator.finish(LIMIT));
        assert!(said.contains("failed: 103 ") || said.contains("failed: 107 "), "{medium}: {said}");
        drop(target);
        assert_eq!(before, shared_memory());
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

/// Names under /dev/shm and soft-efa's abstract sockets of this network namespace.
fn shared_memory() -> BTreeSet<String> {
    let files = std::fs::read_dir("/dev/shm").into_iter().flatten().flatten();
    files
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("efa"))
        .collect()
}
