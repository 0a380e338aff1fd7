//! Ranks that do not follow PMI: shells, which write what they like to descriptor 4.

use std::path::Path;
use std::time::Duration;

use efarun_tests::{Job, Need, Outcome, Testbed, program, require};

/// Runs two ranks on each of two hosts; rank 2 does its own script after init, the others enter two barriers: one that it
/// enters too, before it dies, may be over before its death is seen.
fn run(testbed: &Testbed, script_of_rank_2: &str) -> Outcome {
    let script =
        format!("{INIT}; if [ $PMI_RANK = 2 ]; then {script_of_rank_2}; else {BARRIER}; {BARRIER}; fi");
    Job::on(testbed, program!("efarun-under-test"))
        .options(["-H", "h1:2,h2:2"])
        .program(Path::new("sh"), ["-c", &script])
        .deadline(Duration::from_secs(60))
        .run()
}

const INIT: &str = "echo cmd=init pmi_version=1 pmi_subversion=1 >&4; read answer <&4";
const BARRIER: &str = "echo cmd=barrier_in >&4; read answer <&4";
const FINALIZE: &str = "echo cmd=finalize >&4; read answer <&4";

#[test]
fn a_rank_that_breaks_the_protocol_ends_its_own_job_with_a_sentence() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let cases = [
        ("echo nonsense >&4; sleep 60", "rank 2 on h2 sent `nonsense` where a PMI message belongs"),
        ("yes | tr -d '\\n' >&4; sleep 60", "rank 2 on h2 sent a PMI message of more than 65536 bytes"),
        (
            "printf cmd=barr >&4; sleep 60",
            "rank 2 on h2 sent the beginning of a PMI message and then nothing for 10 s",
        ),
        ("echo cmd=barrier_in >&4; kill -9 $$", "rank 2 on h2 was killed by signal 9 (SIGKILL)"),
        ("exec 4>&-; sleep 60", "rank 2 on h2 closed its PMI socket before MPI_Finalize"),
        (
            "echo cmd=abort exitcode=9 'message=out\\ of\\ luck' >&4; sleep 60",
            "rank 2 on h2 aborted the job with code 9: out of luck",
        ),
    ];
    // Beside them a job that must not notice: it goes on when they are over.
    let folder = tempfile::tempdir().unwrap();
    let gates = ["0", "1"].map(|rank| folder.path().join(rank));
    for gate in &gates {
        nix::unistd::mkfifo(gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let script = format!(
        "{INIT}; {BARRIER}; echo there; read go <{}/$PMI_RANK; {BARRIER}; {FINALIZE}; echo through",
        folder.path().display()
    );
    let bystander = Job::on(&testbed, program!("efarun-under-test"))
        .options(["-H", "h1,h2"])
        .program(Path::new("sh"), ["-c", &script])
        .deadline(Duration::from_secs(120))
        .start();
    bystander.wait_for_output("there", 2);
    for (script, sentence) in cases {
        let outcome = run(&testbed, script);
        outcome.assert_says(&[sentence]);
    }
    for gate in &gates {
        std::fs::write(gate, "go\n").unwrap();
    }
    let outcome = bystander.wait();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout().matches("through").count(), 2, "{}", outcome.shown());
}

#[test]
fn a_rank_that_floods_its_server_and_reads_no_answer_stops_itself() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let script =
        format!("{INIT}; [ $PMI_RANK = 1 ] && yes cmd=get_maxes >&4; {FINALIZE}; echo done; sleep 60");
    let running = Job::on(&testbed, program!("efarun-under-test"))
        .options(["-H", "h1:2"])
        .program(Path::new("sh"), ["-c", &script])
        .start();
    running.wait_for_output("done", 1);
    running.signal(nix::sys::signal::Signal::SIGINT);
    running.wait().assert_code(130);
    assert_eq!(testbed.guests(), []);
}
