//! Hosts that are not up yet: `--wait-for-hosts`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use efarun_tests::{Job, Need, Running, Testbed, require};
use nix::sys::signal::Signal;

use super::{IN_TIME, NO_ARGS, assert_told, on, sorted_lines};

/// A job of one rank on this host, by port 2222, where nobody listens at first, which waits so many seconds for it.
fn waiting<'a>(testbed: &'a Testbed, wait: &str) -> Job<'a> {
    let hostfile = testbed.hostfile_of("h1 slots=1 port=2222\n".to_owned());
    on(testbed)
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .options(["--wait-for-hosts", wait])
        .program(Path::new("/bin/hostname"), NO_ARGS)
}

/// Waits until the job tells that it has tried a host again, which looks so.
fn wait_until_tried(job: &Running<'_>, looks: &str) {
    job.wait_for_note(&format!(": {looks}, try "));
}

#[test]
fn host_whose_sshd_starts_later_is_waited_for() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let job = waiting(&testbed, "60").start();
    wait_until_tried(&job, "connection refused");
    testbed.sshd("h1", 2222, &[]);
    let outcome = job.wait();
    outcome
        .assert_code(0)
        .assert_says(&["efarun: 0/1 hosts connected after 3 s; waiting for h1 port 2222 ("]);
    assert_eq!(outcome.stdout(), "h1\n");
}

/// What the job waits for is told: first no address, then silence, then a refusal, then no key.
#[test]
fn instance_is_waited_for_through_all_stages_of_its_boot() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let hostfile = testbed.hostfile_of("h2 slots=1\nbooting slots=1 port=2222\n".to_owned());
    testbed.ssh_config("Host booting\n  ConnectTimeout 1\n");
    let job = on(&testbed)
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .options(["--wait-for-hosts", "100", "--start-timeout", "20"])
        .program(Path::new("/bin/hostname"), NO_ARGS)
        .deadline(Duration::from_secs(120))
        .start();
    wait_until_tried(&job, "`booting` has no address");

    // In place: the file is mounted over /etc/hosts.
    let record = fs::read_to_string(testbed.home().join(".ssh/known_hosts")).unwrap();
    let key = record.lines().find_map(|line| line.strip_prefix("h1,10.88.0.1 ")).unwrap();
    fs::write(testbed.home().join(".ssh/known_hosts"), format!("{record}[booting]:2222 {key}\n")).unwrap();
    testbed.sh("h1", &format!("ip route add blackhole {}/32", testbed.head_address()));
    let mut names = fs::OpenOptions::new().append(true).open(testbed.folder().join("hosts")).unwrap();
    names.write_all(b"10.88.0.1 booting\n").unwrap();
    wait_until_tried(&job, "no answer from 10.88.0.1:2222");

    testbed.sh("h1", &format!("ip route del blackhole {}/32", testbed.head_address()));
    wait_until_tried(&job, "connection refused");

    let keys = testbed.folder().join("keys-of-booting");
    testbed.sshd("h1", 2222, &[&format!("AuthorizedKeysFile={}", keys.display()), "StrictModes=no"]);
    wait_until_tried(&job, "root was not let in");
    fs::copy(testbed.home().join(".ssh/id_ed25519.pub"), keys).unwrap();

    let outcome = job.wait();
    outcome.assert_code(0);
    assert_eq!(sorted_lines(&outcome), ["h1", "h2"]);
}

#[test]
fn host_that_never_comes_up_is_named_with_tries_and_time() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let outcome = waiting(&testbed, "2.5").run();
    let told = format!(
        "error: host h1 port 2222 ({}:1): 10.88.0.1:2222 refused the connection\n  hint: is sshd running there, on this port? `port=` in the hostfile, or Port in ~/.ssh/config, names another\n  tried … times in … s (--wait-for-hosts)",
        testbed.folder().join("hostfile").display()
    );
    assert_told(&outcome, 69, &told);
    assert!(outcome.duration >= Duration::from_millis(2500), "{}", outcome.shown());
    // After 0, 0.25, 0.75, 1.75 s, and at the end.
    let stderr = outcome.stderr();
    let tries = stderr.split_once("tried ").and_then(|(_, rest)| rest.split_once(' ')).unwrap().0;
    assert!((2..=5).contains(&tries.parse::<u32>().unwrap()), "{stderr}");
}

#[test]
fn without_wait_for_hosts_a_host_that_is_not_up_is_an_error_at_once() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let hostfile = testbed.hostfile_of("h1 slots=1 port=2222\n".to_owned());
    let outcome = on(&testbed)
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .program(Path::new("/bin/hostname"), NO_ARGS)
        .run();
    outcome.assert_code(69).assert_says(&["refused the connection\n", "`--wait-for-hosts 120`\n"]);
    assert!(outcome.duration < Duration::from_secs(2), "{}", outcome.shown());
}

/// What does not come by itself is not waited for: a host that is up and has no key of ours.
#[test]
fn a_host_that_is_up_and_lets_nobody_in_is_not_waited_for() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    testbed.sshd("h1", 2222, &["AuthorizedKeysFile=none"]);
    let outcome = waiting(&testbed, "60").run();
    outcome.assert_code(77).assert_says(&["root was not let in; "]);
    assert!(outcome.duration < IN_TIME && !outcome.stderr().contains("tried 1 times"), "{}", outcome.shown());
}

#[test]
fn ctrl_c_ends_the_wait_for_hosts_at_once() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    // Answers of the second host go nowhere: the connection is in the kernel's hands.
    testbed.sh("h2", &format!("ip route add blackhole {}/32", testbed.head_address()));
    let hostfile = testbed.hostfile_of("h1 port=2222\nh2\nh11\n".to_owned());
    let job = on(&testbed)
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .options(["--wait-for-hosts", "600"])
        .program(Path::new("/bin/hostname"), NO_ARGS)
        .start();
    wait_until_tried(&job, "connection refused");
    let asked = std::time::Instant::now();
    job.signal(Signal::SIGINT);
    let outcome = job.wait();
    outcome.assert_code(130);
    assert!(asked.elapsed() < Duration::from_secs(3), "{}", outcome.shown());
}

#[test]
fn torchruns_line_waits_for_hosts_too() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let hostfile = testbed.hostfile_of("h1\nh2 port=2222\n".to_owned());
    let job = on(&testbed)
        .dialect("torchrun")
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .options("--wait-for-hosts 60 --nnodes 2 --nproc-per-node 1 --no-python".split(' '))
        .program(Path::new("/bin/hostname"), NO_ARGS)
        .start();
    wait_until_tried(&job, "connection refused");
    testbed.sshd("h2", 2222, &[]);
    let outcome = job.wait();
    outcome.assert_code(0);
    assert_eq!(sorted_lines(&outcome), ["h1", "h2"]);
}
