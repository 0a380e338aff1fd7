//! What stands on a terminal while one waits.

use efarun_tests::{Job, Need, Testbed, program, require};

use super::{executable, shell};

/// A launcher on a terminal of its own, which `script` makes; what is shown there is its standard output.
fn on_a_terminal(folder: &std::path::Path) -> std::path::PathBuf {
    let launcher = program!("efarun-under-test").display();
    let text = format!(
        "#!/bin/bash\nprintf -v line '%q ' '{launcher}' \"$@\"\nexec script -qec \"$line\" /dev/null\n"
    );
    executable(&folder.join("on_a_terminal"), &text)
}

#[test]
fn end_that_takes_its_time_says_who_is_waited_for_and_leaves_no_line() {
    let folder = tempfile::tempdir().unwrap();
    // Rank 1 fails when rank 0 no longer ends at once.
    let ready = folder.path().join("ready");
    let script = format!(
        "if [ $EFARUN_RANK = 1 ]; then while [ ! -e {ready} ]; do sleep 0.02; done; exit 5; fi; \
         trap '' TERM; : >{ready}; while :; do sleep 0.02; done",
        ready = ready.display()
    );
    let job =
        Job::here(&on_a_terminal(folder.path())).options(["--oversubscribe", "-n", "2", "--grace", "3"]);
    let outcome = shell(job, &script).run();
    outcome.assert_code(5);
    let shown = outcome.stdout();
    assert!(shown.contains("ending: 1/2 ranks ended; waiting for localhost"), "{}", outcome.shown());
    let last = shown.rsplit("waiting for localhost").next().unwrap();
    assert!(last.contains("\u{1b}[2K") && last.contains("rank 1 on localhost"), "{last:?}");
}

#[test]
fn host_that_takes_its_time_is_named() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let ssh =
        format!("#!/bin/sh\nsleep 3\nexec ssh -F {} \"$@\"\n", testbed.folder().join("ssh_config").display());
    let ssh = executable(&testbed.folder().join("slow_ssh"), &ssh);
    let job = Job::on(&testbed, &on_a_terminal(testbed.folder()))
        .options(["-H", "h1", "--launch-agent"])
        .options([&ssh]);
    let outcome = shell(job, "echo it runs").run();
    outcome.assert_code(0);
    assert!(outcome.stdout().contains("connecting: 0/1 hosts; waiting for h1"), "{}", outcome.shown());
    assert!(outcome.stdout().contains("it runs"), "{}", outcome.shown());
}
