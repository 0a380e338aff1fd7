//! Folders on a host that cannot hold the launcher: full, read-only, noexec.

use efarun_tests::{Need, Testbed, require};

use super::{assert_told, hostnames};

/// What is left of a launcher that did not fit, on a host.
fn left_overs(testbed: &Testbed) -> String {
    testbed.sh("h1", "find $HOME /run/efarun-test /tmp/efarun-0 -name 'part-*' 2>/dev/null || true")
}

#[test]
fn full_cache_is_told_with_what_is_free_and_the_next_folder_is_used_once_and_for_all() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    testbed.sh("h1", "mkdir $HOME/.cache; mount -t tmpfs -o size=1m tmpfs $HOME/.cache");
    private_tmp(&testbed, "rw");
    let told = format!(
        "efarun: h1: the launcher was put into /tmp/efarun-0, not into {}/.cache/efarun: … of … bytes arrived, … bytes are free there; …No space left on device",
        testbed.home().display()
    );
    let outcome = hostnames(&testbed, "h1").run();
    assert_told(&outcome, 0, &told);
    assert_eq!(outcome.stdout(), "h1\n");
    assert_eq!(left_overs(&testbed), "");
    assert_eq!(testbed.sh("h1", "ls -A $HOME/.cache/efarun"), "", "the room is free again");
    // It is there now, and nothing is to be said any more.
    assert_told(&hostnames(&testbed, "h1").run(), 0, "");
}

#[test]
fn when_no_folder_has_room_each_is_told_with_what_is_missing() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    testbed.sh("h1", "mkdir $HOME/.cache; mount -t tmpfs -o size=1m tmpfs $HOME/.cache");
    private_tmp(&testbed, "size=1m");
    let told = format!(
        "error: host h1 (-H): the agent did not start: no folder there can hold the launcher:\n    {}/.cache/efarun: … of … bytes arrived, … bytes are free there; …No space left on device\n    /tmp/efarun-0: … of … bytes arrived, … bytes are free there; …No space left on device\n  hint: make room in one of them, or let a start-up file there set XDG_CACHE_HOME to a folder of your own from which programs may be run",
        testbed.home().display()
    );
    assert_told(&hostnames(&testbed, "h1").run(), 69, &told);
    assert_eq!(left_overs(&testbed), "");
    // What the hint says helps.
    testbed.sh("h1", "mkdir -m 700 /run/efarun-test; mount -t tmpfs -o mode=700 tmpfs /run/efarun-test");
    testbed.sh("h1", "echo 'export XDG_CACHE_HOME=/run/efarun-test' >$HOME/.bashrc");
    assert_told(&hostnames(&testbed, "h1").run(), 0, "");
    testbed.sh("h1", "umount /run/efarun-test; rmdir /run/efarun-test");
}

#[test]
fn home_that_is_read_only_is_told_once_and_a_private_folder_is_used() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    private_tmp(&testbed, "rw");
    testbed.sh("h1", "mkdir -m 700 $HOME/run; mount -t tmpfs -o mode=700 tmpfs $HOME/run");
    testbed.sh("h1", "echo \"export XDG_RUNTIME_DIR=$HOME/run\" >$HOME/.bashrc; mount -o remount,ro $HOME");
    let home = testbed.home();
    let told = format!(
        "efarun: h1: the launcher was put into {0}/run/efarun, not into {0}/.cache/efarun: …Read-only file system…",
        home.display()
    );
    assert_told(&hostnames(&testbed, "h1").run(), 0, &told);
    assert_eq!(testbed.sh("h1", "stat -c '%a %u' $HOME/run/efarun $HOME/run/efarun/*"), "700 0\n700 0\n");
    assert_told(&hostnames(&testbed, "h1").run(), 0, "");

    // Somebody else's folder in the place of ours is not used.
    testbed.sh("h1", "rm -r $HOME/run/efarun; mkdir -m 700 $HOME/run/efarun; chown 1234 $HOME/run/efarun");
    let told = format!(
        "efarun: h1: the launcher was put into /tmp/efarun-0, not into {0}/.cache/efarun: …Read-only file system…, nor into {0}/run/efarun: not a folder of mode 0700 that belongs to user 0",
        home.display()
    );
    assert_told(&hostnames(&testbed, "h1").run(), 0, &told);
}

#[test]
fn cache_from_which_programs_may_not_be_run_is_told_and_passed_over() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    private_tmp(&testbed, "rw");
    testbed.sh("h1", "mount -o remount,noexec $HOME");
    let told = format!(
        "efarun: h1: the launcher was put into /tmp/efarun-0, not into {}/.cache/efarun: programs may not be run from it (mounted noexec)",
        testbed.home().display()
    );
    assert_told(&hostnames(&testbed, "h1").run(), 0, &told);
}

/// Gives a host a folder of its own for the last resort: its /tmp is the machine's.
fn private_tmp(testbed: &Testbed, options: &str) {
    let folder = "/tmp/efarun-0";
    testbed.sh(
        "h1",
        &format!("mkdir -p -m 700 {folder} && mount -t tmpfs -o mode=700,{options} tmpfs {folder}"),
    );
}
