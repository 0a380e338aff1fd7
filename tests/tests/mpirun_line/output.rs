//! What becomes of what ranks write, and who reads what is typed.

use std::path::Path;

use efarun_tests::{Job, Need, Testbed, program, require};

use super::{NO_ARGS, here, on, words};

const SHELL: &str = "/bin/sh";

fn script(options: &str, script: &str) -> Job<'static> {
    here().options(words(options)).program(SHELL.as_ref(), ["-c", script])
}

fn text(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

#[test]
fn timestamps_are_ctimes_in_the_local_time_and_the_tag_follows_them() {
    let outcome = script("-n 1 --timestamp-output --tag-output", "echo out").env("TZ", "EAST-14").run();
    outcome.assert_code(0);
    let stdout = outcome.stdout();
    let (time, rest) = stdout.split_at(24);
    assert_eq!(rest, "[1,0]<stdout>:out\n", "{stdout}");
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert!(shape[10..].ends_with(" 00:00:00 0000") && shape.as_bytes()[3] == b' ', "{time}");
    let behind = script("-n 1 --timestamp-output", "echo out").env("TZ", "WEST10").run().stdout();
    assert!(behind[24..].starts_with("<stdout>:out"), "{behind}");
    assert_ne!(time[..19], behind[..19], "the time zones are a day apart");
}

#[test]
fn merged_streams_keep_the_order_in_which_they_were_written() {
    let both = "echo 1; echo 2 >&2; echo 3; echo 4 >&2";
    let outcome = script("-n 1 --merge-stderr-to-stdout --tag-output", both).run();
    outcome.assert_code(0);
    let lines: String = (1..=4).map(|line| format!("[1,0]<stdout>:{line}\n")).collect();
    assert_eq!((outcome.stdout(), outcome.stderr()), (lines, String::new()));
}

#[test]
fn last_words_are_told_of_merged_streams_too() {
    let outcome = script("-n 1 --merge-stderr-to-stdout", "echo farewell >&2; exit 3").run();
    outcome.assert_code(3).assert_says(&["last stderr: farewell"]);
}

#[test]
fn files_of_ranks_hold_what_they_wrote_and_the_terminal_gets_it_too() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/out");
    let script = |options: &str, what: &str| {
        let option = format!("{}{options}", out.display());
        here().options(["-n", "2", "--output-filename", &option]).program(SHELL.as_ref(), ["-c", what]).run()
    };
    let outcome = script("", "echo out $EFARUN_RANK; printf err >&2");
    outcome.assert_code(0);
    assert!(outcome.stdout().contains("out 0\n") && outcome.stdout().contains("out 1\n"));
    for rank in 0..2 {
        assert_eq!(text(out.join(format!("1/rank.{rank}/stdout"))), format!("out {rank}\n"));
        assert_eq!(text(out.join(format!("1/rank.{rank}/stderr"))), "err");
    }
    let outcome = script(":nojobid,nocopy", "echo again");
    outcome.assert_code(0);
    assert_eq!((outcome.stdout(), text(out.join("rank.1/stdout"))), (String::new(), "again\n".to_owned()));
    script("", "true").assert_code(0);
    assert_eq!(text(out.join("1/rank.0/stdout")), "", "files are emptied");
}

#[test]
fn files_hold_tags_and_a_merged_stream_has_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_str().unwrap();
    let outcome = here()
        .options(["-n", "1", "--tag-output", "--merge-stderr-to-stdout", "--output-filename", out])
        .program(SHELL.as_ref(), ["-c", "echo a; echo b >&2"])
        .run();
    outcome.assert_code(0);
    let rank = folder.path().join("1/rank.0");
    assert_eq!(text(rank.join("stdout")), "[1,0]<stdout>:a\n[1,0]<stdout>:b\n");
    assert!(!rank.join("stderr").exists());
}

#[test]
fn folder_that_cannot_be_made_is_named_before_anything_runs() {
    let outcome = here()
        .options(["-n", "1", "--output-filename", "/proc/no/such"])
        .program(program!("rank_hang"), NO_ARGS)
        .run();
    outcome.assert_code(65).assert_says(&["--output-filename: /proc/no"]);
    assert_eq!(outcome.stdout(), "");
}

#[test]
fn a_flood_arrives_whole_in_files() {
    const LINES: usize = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let option = format!("{}:nocopy", folder.path().display());
    let outcome = here()
        .options(["-n", "2", "--output-filename", &option])
        .program(program!("rank_flood"), [LINES.to_string()])
        .run();
    outcome.assert_code(0);
    for rank in 0..2 {
        let text = text(folder.path().join(format!("1/rank.{rank}/stdout")));
        assert!(text.lines().enumerate().all(|(number, line)| {
            line.split_whitespace().nth(1).and_then(|word| word.parse().ok()) == Some(number)
        }));
        assert_eq!(text.lines().count(), LINES);
    }
}

/// What each rank read, as its number and how many bytes.
fn read(job: Job<'_>, bytes: &[u8]) -> Vec<String> {
    let outcome = job.stdin(bytes).program(SHELL.as_ref(), ["-c", "echo $EFARUN_RANK $(cksum)"]).run();
    outcome.assert_code(0);
    let mut lines: Vec<String> = outcome.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn standard_input_goes_to_whom_it_is_for() {
    let bytes = vec![b'x'; 600_000];
    let read = |options: &str| read(here().options(words("-n 3")).options(words(options)), &bytes);
    let (all, nothing) = ("685471485 600000", "4294967295 0");
    let expected = |read: [&str; 3]| (0..3).map(|rank| format!("{rank} {}", read[rank])).collect::<Vec<_>>();
    assert_eq!(read("--stdin 2"), expected([nothing, nothing, all]));
    assert_eq!(read("--stdin all"), expected([all; 3]));
    assert_eq!(read("--stdin none"), expected([nothing; 3]));
    let outcome = here().options(words("-n 2 --stdin 2")).program(program!("rank_echo"), NO_ARGS).run();
    outcome.assert_code(64).assert_says(&["--stdin 2: the job has 2 ranks"]);
}

/// As in `while read -r line; do mpirun …; done <lines`, which elsewhere runs once.
#[test]
fn standard_input_that_no_rank_reads_is_left_to_others() {
    let launcher = program!("efarun-under-test").display();
    let script = format!("while read -r line; do {launcher} -n 1 --stdin none /bin/echo got $line; done");
    let mut shell = std::process::Command::new(SHELL)
        .args(["-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a shell can be run");
    let mut lines = shell.stdin.take().expect("it is a pipe");
    std::io::Write::write_all(&mut lines, b"1\n2\n3\n").expect("the shell reads");
    drop(lines);
    let output = shell.wait_with_output().expect("the shell ends with its input");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "got 1\ngot 2\ngot 3\n", "{output:?}");
}

#[test]
fn a_rank_that_does_not_read_delays_nobody_else_for_ever() {
    let outcome = here()
        .options(words("-n 2 --stdin all"))
        .stdin(&vec![b'x'; 2_000_000])
        .program(SHELL.as_ref(), ["-c", "test $EFARUN_RANK = 1 || wc -c"])
        .run();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout().trim(), "2000000");
}

#[test]
fn standard_input_reaches_ranks_of_every_host() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let read = read(on(&testbed).options(words("-H h1,h2 --stdin all")), &vec![b'x'; 600_000]);
    assert_eq!(read, ["0 685471485 600000", "1 685471485 600000"]);
}

#[test]
fn with_verbose_what_is_done_is_said() {
    let quiet = here().options(["-n", "1", "--quiet"]).program("/bin/true".as_ref(), NO_ARGS).run();
    quiet.assert_code(0);
    assert_eq!(quiet.stderr(), "");
    let verbose = here().options(["-n", "1", "--quiet", "-v"]).program("/bin/true".as_ref(), NO_ARGS).run();
    verbose.assert_code(0).assert_says(&["`--quiet` changes nothing", "1/1 ranks reaped, 1/1 agents gone"]);
}

#[test]
fn dry_run_offline_contacts_nobody() {
    let outcome = here()
        .options(["-H", "no-such-host.invalid:2", "--dry-run=offline"])
        .program(program!("rank_hang"), NO_ARGS)
        .run();
    outcome.assert_code(0);
    assert!(outcome.stdout().contains("no-such-host.invalid"), "{}", outcome.shown());
    let online = here()
        .options(["-H", "no-such-host.invalid:2", "--dry-run"])
        .program(program!("rank_hang"), NO_ARGS)
        .run();
    online.assert_code(69).assert_says(&["no-such-host.invalid"]);
}
