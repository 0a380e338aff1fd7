//! Signals to the launcher.

use std::time::{Duration, Instant};

use efarun_tests::{Job, Need, Running, Testbed, program, require, wait_until_gone};
use nix::sys::signal::Signal;

use super::{here, launcher_after, on, shell};

/// Waits for nothing but signals.
const WAIT: &str = "echo is up; while :; do sleep 0.02; done";

#[test]
fn whoever_ends_the_launcher_by_a_signal_has_ranks_asked_by_the_same_one() {
    for (name, signal, code) in [
        ("INT", Signal::SIGINT, 130),
        ("TERM", Signal::SIGTERM, 143),
        ("HUP", Signal::SIGHUP, 129),
        ("QUIT", Signal::SIGQUIT, 131),
    ] {
        let script = format!("trap 'echo asked by {name}; exit 0' {name}; {WAIT}");
        let job = shell(here().options(["-n", "2", "--grace", "20"]), &script).start();
        job.wait_for_output("is up", 2);
        job.signal(signal);
        let outcome = job.wait();
        outcome.assert_code(code);
        let asked = outcome.stdout().matches(&format!("asked by {name}")).count();
        assert_eq!(asked, 2, "{}", outcome.shown());
    }
}

#[test]
fn rank_that_ignores_the_first_signal_is_asked_by_term_in_time() {
    let script = format!("trap '' INT; trap 'echo asked by TERM; exit 0' TERM; {WAIT}");
    let job = shell(here().options(["-n", "1", "--grace", "8"]), &script).start();
    job.wait_for_output("is up", 1);
    job.signal(Signal::SIGINT);
    let outcome = job.wait();
    outcome.assert_code(130);
    assert!(outcome.stdout().contains("asked by TERM"), "{}", outcome.shown());
}

#[test]
fn signals_for_the_program_are_passed_on_and_end_nothing() {
    let traps: String =
        ["USR1", "USR2", "ALRM"].map(|name| format!("trap 'echo got {name}' {name}; ")).concat();
    let job = shell(here().options(["-n", "2"]), &format!("{traps}{WAIT}")).start();
    job.wait_for_output("is up", 2);
    for (name, signal) in [("USR1", Signal::SIGUSR1), ("USR2", Signal::SIGUSR2), ("ALRM", Signal::SIGALRM)] {
        job.signal(signal);
        job.wait_for_output(&format!("got {name}"), 2);
    }
    job.signal(Signal::SIGTERM);
    job.wait().assert_code(143);
}

#[test]
fn signals_that_are_listed_are_passed_on_too_and_none_means_none() {
    // A shell acts on what has come in the order of the signals' numbers: TERM's would follow USR1's.
    let traps = "trap 'echo got WINCH' WINCH; trap 'echo got USR1' USR1; trap 'exit 0' TERM; ";
    let start = |list: &str| {
        let job = shell(
            here().options(["-n", "1", "--grace", "20", "--forward-signals", list]),
            &format!("{traps}{WAIT}"),
        );
        let job = job.start();
        job.wait_for_output("is up", 1);
        job
    };
    let job = start("sigurg,WINCH");
    job.signal(Signal::SIGWINCH);
    job.wait_for_output("got WINCH", 1);
    job.signal(Signal::SIGUSR1);
    job.wait_for_output("got USR1", 1);
    job.signal(Signal::SIGTERM);
    job.wait().assert_code(143);
    let job = start("none");
    job.signal(Signal::SIGUSR1);
    job.signal(Signal::SIGTERM);
    let outcome = job.wait();
    outcome.assert_code(143);
    assert!(!outcome.stdout().contains("got USR1"), "{}", outcome.shown());
}

#[test]
fn ctrl_z_stops_ranks_on_all_hosts_and_the_launcher_and_cont_lets_them_go_on() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let job = on(&testbed).options(["-H", "h1,h2"]).program(program!("rank_hang"), ["polite"]).start();
    job.wait_for_output("is up", 2);
    let ranks = [0, 1].map(|rank| job.rank(rank).first().expect("the rank runs").pid);
    job.signal(Signal::SIGTSTP);
    for pid in ranks.into_iter().chain([job.pid()]) {
        wait_for_state(&job, pid, 'T');
    }
    job.signal(Signal::SIGCONT);
    ranks.into_iter().for_each(|pid| wait_for_state(&job, pid, 'S'));
    job.signal(Signal::SIGINT);
    job.wait().assert_code(130);
}

#[test]
fn second_ctrl_c_kills_ranks_on_all_hosts_at_once() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let job =
        on(&testbed).options(["-H", "h1:2,h2:2", "--grace", "600"]).program(program!("rank_hang"), ["deaf"]);
    let job = job.start();
    job.wait_for_output("is up", 4);
    job.signal(Signal::SIGINT);
    job.wait_for_note("again to kill");
    job.signal(Signal::SIGINT);
    job.wait().assert_code(130).assert_says(&["4/4 ranks reaped, 2/2 agents gone"]);
}

#[test]
fn third_ctrl_c_leaves_and_lists_who_did_not_confirm() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let job = on(&testbed).options(["-H", "h1,h2"]).program(program!("rank_hang"), ["deaf"]).start();
    job.wait_for_output("is up", 2);
    testbed.pause("h2");
    let launcher = job.pid();
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            // Once the launcher is gone the host may go on, and sees that it is.
            let left = || {
                let all = efarun_tests::Process::all();
                all.into_iter().filter(|process| process.pid == launcher).collect()
            };
            let gone = wait_until_gone(Duration::from_secs(25), left);
            testbed.heal("h2");
            gone.expect("the launcher leaves");
        });
        job.signal(Signal::SIGINT);
        job.wait_for_note("again to kill");
        job.signal(Signal::SIGINT);
        job.wait_for_note("again to leave");
        let confirmed = wait_until_gone(Duration::from_secs(20), || testbed.host("h1").guests());
        confirmed.expect("h1 ends its part");
        job.signal(Signal::SIGINT);
        job.wait()
    });
    outcome.assert_code(130).assert_says(&[
        "1/2 agents gone",
        "h2 did not acknowledge",
        "process ids that were running: ",
    ]);
}

#[test]
fn launcher_under_nohup_outlives_its_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let launcher = launcher_after(folder.path(), "trap '' HUP");
    let job = Job::here(&launcher).options(["--oversubscribe", "-n", "1"]);
    let job = shell(job, &format!("trap 'echo still here' USR1; {WAIT}")).start();
    job.wait_for_output("is up", 1);
    job.signal(Signal::SIGHUP);
    job.signal(Signal::SIGUSR1);
    job.wait_for_output("still here", 1);
    job.signal(Signal::SIGTERM);
    job.wait().assert_code(143);
}

/// Waits until a process is in this state. The kernel tells nobody when.
fn wait_for_state(job: &Running, pid: i32, wanted: char) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while state(pid) != Some(wanted) {
        assert!(Instant::now() < deadline, "{pid} is in state {:?}, not {wanted}\n{job:?}", state(pid));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Reading from the terminal would stop it, and its flags are those of whoever has the terminal, too.
#[test]
fn job_in_the_background_of_a_terminal_is_not_stopped_and_leaves_it_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    // A shell that takes commands from a file gives those in the background neither the terminal nor a group.
    let group = "import os, sys; os.setpgid(0, 0); os.execv(sys.argv[1], sys.argv[1:])";
    let inner = format!(
        "#!/bin/sh\npython3 -c '{group}' '{}' \"$@\" </dev/tty & wait $!\necho \"ended with $?\"\n\
         for fd in 0 1 2; do grep flags: /proc/$$/fdinfo/$fd; done\n",
        program!("efarun-under-test").display()
    );
    let inner = super::executable(&folder.path().join("inner"), &inner);
    let outer = format!(
        "#!/bin/bash\nprintf -v line '%q ' '{}' \"$@\"\nexec script -qec \"$line\" /dev/null\n",
        inner.display()
    );
    let on_a_terminal = super::executable(&folder.path().join("on_a_terminal"), &outer);
    let outcome = shell(Job::here(&on_a_terminal).options(["-n", "1"]), "echo it runs").run();
    outcome.assert_code(0);
    let shown = outcome.stdout();
    assert!(shown.contains("it runs") && shown.contains("ended with 0"), "{}", outcome.shown());
    let flags: Vec<u32> = shown
        .lines()
        .filter_map(|line| u32::from_str_radix(line.trim().strip_prefix("flags:")?.trim(), 8).ok())
        .collect();
    assert!(flags.len() == 3 && flags.iter().all(|flags| flags & O_NONBLOCK == 0), "{}", outcome.shown());
}

/// As `bg` and `fg` do it: from the background the launcher neither reads nor is stopped, and what is typed once it is back is the
/// rank's.
#[test]
fn job_that_is_moved_into_the_background_goes_on_and_reads_again_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let outer = format!(
        "#!/bin/sh\nexec python3 -B '{}/tests/endings/shell_with_a_job.py' '{}' \"$@\"\n",
        env!("CARGO_MANIFEST_DIR"),
        program!("efarun-under-test").display()
    );
    let in_a_shell = super::executable(&folder.path().join("in_a_shell"), &outer);
    // It says so when it has been stopped and goes on.
    let rank = "trap 'goes=on' CONT; echo is up; while [ -z \"$goes\" ]; do sleep 0.05; done; echo it goes $goes; \
                read line; echo \"it reads $line\"";
    let outcome = shell(Job::here(&in_a_shell).options(["-n", "1"]), rank).run();
    outcome.assert_code(0);
    let shown = outcome.stdout();
    assert!(shown.contains("stopped by signal ") && shown.contains("it reads hello"), "{}", outcome.shown());
}

#[test]
fn ending_one_job_leaves_another_on_the_same_hosts_alone() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let start = || {
        let job = on(&testbed).beside_others().options(["-H", "h1,h2"]);
        let job = job.program(program!("rank_hang"), ["polite"]).start();
        job.wait_for_output("is up", 2);
        job
    };
    let (ended, left) = (start(), start());
    ended.signal(Signal::SIGINT);
    ended.wait().assert_code(130).assert_says(&["2/2 ranks reaped, 2/2 agents gone"]);
    assert!(!left.has_ended() && [0, 1].iter().all(|rank| left.rank(*rank).len() == 1), "{left:?}");
    left.signal(Signal::SIGTERM);
    left.wait().assert_code(143).assert_says(&["2/2 ranks reaped, 2/2 agents gone"]);
}

/// As /proc writes it.
const O_NONBLOCK: u32 = 0o4000;
