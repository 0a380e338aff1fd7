//! Somebody without a key on the head's port: he is shown out, and the job does not notice.
//!
//! The port is open while an agent is awaited, so the last host of the job is held back as long as strangers visit.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use efarun_tests::{Job, Need, Running, Testbed, program, require};

const NO_ARGS: [&str; 0] = [];

/// Four ranks on two hosts, of which the second does not answer yet; the head's port is open.
fn job_that_waits_for_a_host(testbed: &Testbed) -> (Running<'_>, u16) {
    testbed.pause("h2");
    let job = Job::on(testbed, program!("efarun-under-test"))
        .options(["-H", "h1:2,h2:2"])
        .program(program!("rank_barrier"), NO_ARGS)
        .start();
    let port = job.wait_for_port();
    (job, port)
}

fn assert_undisturbed(testbed: &Testbed, job: Running) {
    testbed.heal("h2");
    let outcome = job.wait();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout().matches("is through").count(), 4, "{}", outcome.shown());
}

/// Runs `stranger` on the third host, which has no part in the job; what he was told is returned, in bytes.
fn visit(testbed: &Testbed, port: u16, args: &[&str]) -> usize {
    let address = format!("{}:{port}", testbed.head_address());
    let mut command = testbed.command("h3", program!("stranger"));
    let output = command.arg(args[0]).arg(address).args(&args[1..]).output().expect("a stranger can be sent");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "stranger {args:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a stranger prints a number")
}

#[test]
fn random_bytes_are_not_answered_and_do_not_disturb_the_job() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    let (job, port) = job_that_waits_for_a_host(&testbed);
    for _ in 0..5 {
        assert_eq!(visit(&testbed, port, &["random"]), 0);
    }
    assert_undisturbed(&testbed, job);
}

#[test]
fn silence_is_hung_up_on() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    let (job, port) = job_that_waits_for_a_host(&testbed);
    assert_eq!(visit(&testbed, port, &["silent"]), 0);
    assert_undisturbed(&testbed, job);
}

#[test]
fn a_crowd_of_200_is_shown_out() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    let (job, port) = job_that_waits_for_a_host(&testbed);
    assert_eq!(visit(&testbed, port, &["crowd"]), 0);
    assert_undisturbed(&testbed, job);
}

#[test]
fn a_replayed_hello_gets_no_further_than_the_handshake() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    let hello = testbed.folder().join("hello");
    let mut recorder = testbed.command("h1", program!("stranger"));
    recorder.args(["record", testbed.head_address()]).arg(&hello).stdout(Stdio::piped());
    let mut recorder = recorder.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(recorder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "recording\n");

    let (job, port) = job_that_waits_for_a_host(&testbed);
    assert!(recorder.wait().unwrap().success());
    assert!(std::fs::metadata(&hello).unwrap().len() >= 32, "a hello carries a key at least");
    let told_bytes = visit(&testbed, port, &["replay", hello.to_str().unwrap()]);
    assert!(told_bytes <= HANDSHAKE_BYTES, "the head told a replayer {told_bytes} bytes");
    assert_undisturbed(&testbed, job);
}

/// A handshake's answer with room to spare; the first sealed message would be longer.
const HANDSHAKE_BYTES: usize = 256;
