//! What is told when the time that a job was given is over.

use std::path::Path;

use efarun_tests::{ExecStall, Need, Testbed, require};

use super::{executable, here, on, shell};

#[test]
fn when_the_time_is_over_ranks_are_asked_where_they_are_and_then_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let gdb = "#!/bin/sh\necho \"Thread 1 (LWP $$ \\\"main\\\"):\"; echo '#0  0x00007f12 in stuck_in_here () from libx.so'";
    executable(&folder.path().join("gdb"), gdb);
    let path = format!("PATH={}:/usr/bin:/bin", folder.path().display());
    let script = "trap 'echo asked; exit 0' TERM; while :; do sleep 1000 & wait; done";
    let job = here().options(["-n", "3", "--timeout", "2", "--grace", "20", "-x", &path]);
    let outcome = shell(job, script).run();
    outcome.assert_code(110).assert_says(&[
        "--timeout is over; where the ranks are:\n[0-2]\n  `/bin/sh -c ",
        "  `sleep 1000`\n    sleep: S (sleeping)",
        "nanosleep",
        "    gdb:\n      thread \"main\"\n        #0 stuck_in_here () from libx.so\n",
        "the job was ended after 2 s (--timeout)",
    ]);
    assert_eq!(outcome.stdout(), "asked\n".repeat(3));
}

#[test]
fn stacks_of_python_come_from_py_spy() {
    let folder = tempfile::tempdir().unwrap();
    let py_spy = "#!/bin/sh\n[ \"$1 $2\" = 'dump --pid' ] || exit 2\n\
                  printf 'Process %s: x\\n\\nThread %s (idle): \"MainThread\"\\n    wait (train.py:9)\\n' $3 $3";
    executable(&folder.path().join("py-spy"), py_spy);
    // What counts is the interpreter's file.
    let python = folder.path().join("python3.11");
    std::fs::copy(std::fs::canonicalize("/bin/sleep").unwrap(), &python).unwrap();
    let path = format!("PATH={}", folder.path().display());
    let outcome = here()
        .options(["-n", "1", "--timeout", "1", "-x", &path])
        .program(Path::new(&python), ["1000"])
        .run();
    outcome
        .assert_code(110)
        .assert_says(&["    py-spy:\n      thread \"MainThread\" idle\n        wait (train.py:9)\n"]);
}

#[test]
fn ranks_whose_program_does_not_start_are_named_when_the_time_to_start_is_over() {
    require!(Need::Testbed, Need::ExecStall);
    let testbed = Testbed::up(2);
    let stalled = testbed.folder().join("stalled");
    std::fs::copy("/bin/true", &stalled).unwrap();
    let _stall = ExecStall::new(&stalled);
    let outcome = on(&testbed)
        .options(["-H", "h1,h2", "--start-timeout", "15", "--grace", "1", "-n", "1", "/bin/sleep", "1000"])
        .options([":", "-n", "1"])
        .program(&stalled, [""; 0])
        .run();
    outcome
        .assert_code(69)
        .assert_says(&["error: not started after 15 s (--start-timeout): h2 to start rank 1"]);
}
