//! How long ranks have to end, and what they may use.

use efarun_tests::{Job, Need, Testbed, require};

use super::{here, launcher_after, shell};

/// Rank 1 fails when rank 0 is there to be asked.
fn failing(options: &str) -> Job<'static> {
    let folder = "${TMPDIR:-/tmp}/efarun-grace-$EFARUN_JOB_ID";
    let first = format!("trap 'echo asked; exit 0' TERM; mkdir {folder}; while :; do sleep 0.02; done");
    let second = format!("while ! rmdir {folder} 2>/dev/null; do sleep 0.02; done; exit 5");
    let script = format!("if [ $EFARUN_RANK = 0 ]; then {first}; else {second}; fi");
    shell(here().options(["-n", "2"]).options(options.split_whitespace()), &script)
}

#[test]
fn ranks_are_asked_before_they_are_killed_and_with_no_grace_they_are_not() {
    let outcome = failing("--grace 20").run();
    outcome.assert_code(5);
    assert_eq!(outcome.stdout(), "asked\n");
    let outcome = failing("--grace 0").run();
    outcome.assert_code(5);
    assert_eq!(outcome.stdout(), "");
}

#[test]
fn limits_of_the_head_hold_for_ranks_where_a_host_has_lower_ones() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    // The second host's are higher, and stay so.
    testbed.sh("h1", "prlimit --pid 1 --nofile=256:4096 --core=0:1048576 --memlock=65536:1048576");
    testbed.sh("h2", "prlimit --pid 1 --nofile=2000:4096 --core=1048576:1048576 --memlock=1048576:1048576");
    let launcher = launcher_after(testbed.folder(), "ulimit -S -n 777; ulimit -S -c 512; ulimit -S -l 512");
    let job = Job::on(&testbed, &launcher).options(["-H", "h1,h2", "--tag-output"]);
    let outcome = shell(job, "echo $(ulimit -n) $(ulimit -c) $(ulimit -l)").run();
    outcome.assert_code(0);
    let mut lines: Vec<String> = outcome.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["[1,0]<stdout>:777 512 512", "[1,1]<stdout>:2000 2048 1024"]);
}

#[test]
fn what_the_head_itself_cannot_do_is_its_own_fault() {
    let folder = tempfile::tempdir().unwrap();
    // Enough for its libraries and its terminal, too few for its threads to wake each other.
    let launcher = launcher_after(folder.path(), "ulimit -n 8");
    let outcome = shell(Job::here(&launcher).options(["-n", "1"]), "echo ran").run();
    outcome.assert_code(70).assert_says(&["Too many open files"]);
    assert_eq!(outcome.stdout(), "");
}
