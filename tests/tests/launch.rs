//! Starting ranks: numbers, arguments, environment, output, exit codes, on this machine and over SSH.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use efarun_tests::echo::Echo;
use efarun_tests::{Job, Need, Testbed, program, require};
use nix::sys::signal::Signal;

fn here() -> Job<'static> {
    Job::here(program!("efarun-under-test")).options(["--oversubscribe"])
}

fn on(testbed: &Testbed) -> Job<'_> {
    Job::on(testbed, program!("efarun-under-test"))
}

const NO_ARGS: [&str; 0] = [];

#[test]
fn ranks_on_this_machine_know_their_numbers() {
    let outcome = here().options(["-n", "3"]).program(program!("rank_echo"), NO_ARGS).run();
    outcome.assert_code(0);
    let echoes = Echo::all(&outcome);
    assert_eq!(echoes.len(), 3);
    for (rank, echo) in echoes.iter().enumerate() {
        for name in
            ["EFARUN_RANK", "EFARUN_LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK", "LOCAL_RANK"]
        {
            assert_eq!(echo.text(name), rank.to_string(), "{name}");
        }
        for name in
            ["EFARUN_WORLD_SIZE", "EFARUN_LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "WORLD_SIZE"]
        {
            assert_eq!(echo.text(name), "3", "{name}");
        }
        let foreign = |name: &&String| name.starts_with("PMIX_");
        assert_eq!(echo.names().iter().find(foreign), None, "nothing answers PMIx");
    }
}

#[test]
fn arguments_arrive_byte_for_byte() {
    let args = [
        "plain".as_bytes(),
        b"",
        b"two words",
        b"a'b\"c\\d$HOME`id`;&|*?~#!",
        b"line\nbreak\ttab",
        b"not utf-8: \xff\xfe",
        b"-n",
        b"--timeout",
        b"--",
        b"a=b",
    ];
    let args: Vec<OsString> = args.map(|arg| OsStr::from_bytes(arg).to_owned()).into();
    let outcome = here().options(["-n", "1"]).program(program!("rank_echo"), &args).run();
    outcome.assert_code(0);
    assert_eq!(Echo::all(&outcome)[0].args(), args);
}

#[test]
fn exported_variables_arrive_byte_for_byte() {
    let value = OsStr::from_bytes(b" a=b 'c' \"d\" $e\n\xff ");
    let mut set = OsString::from("SET=");
    set.push(value);
    let outcome = here()
        .env("INHERITED", value)
        .options([
            OsStr::new("-x"),
            OsStr::new("INHERITED"),
            OsStr::new("-x"),
            &set,
            OsStr::new("-x"),
            OsStr::new("EMPTY="),
        ])
        .options(["-n", "1"])
        .program(program!("rank_echo"), NO_ARGS)
        .run();
    outcome.assert_code(0);
    let echo = &Echo::all(&outcome)[0];
    assert_eq!(echo.var("INHERITED"), Some(value));
    assert_eq!(echo.var("SET"), Some(value));
    assert_eq!(echo.var("EMPTY"), Some(OsStr::new("")));
}

#[test]
fn export_of_a_variable_that_is_not_set_is_named() {
    let outcome =
        here().options(["-x", "EFARUN_TEST_UNSET", "-n", "1"]).program(program!("rank_echo"), NO_ARGS).run();
    outcome.assert_code(0).assert_says(&["EFARUN_TEST_UNSET"]);
    assert_eq!(Echo::all(&outcome)[0].var("EFARUN_TEST_UNSET"), None);
}

#[test]
fn wdir_is_where_ranks_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let outcome =
        here().options(["-n", "2", "--wdir"]).options([&path]).program(program!("rank_echo"), NO_ARGS).run();
    outcome.assert_code(0);
    assert!(Echo::all(&outcome).iter().all(|echo| echo.wdir == path.to_string_lossy()));
}

#[test]
fn wdir_that_is_not_there_is_named() {
    let outcome = here()
        .options(["-n", "1", "--wdir", "/no/such/folder"])
        .program(program!("rank_echo"), NO_ARGS)
        .run();
    assert_ne!(outcome.status.code(), Some(0));
    outcome.assert_says(&["/no/such/folder"]);
}

#[test]
fn program_that_is_not_there_is_named() {
    let outcome = here().options(["-n", "2"]).program("./no-such-program".as_ref(), NO_ARGS).run();
    outcome.assert_code(127).assert_says(&["no-such-program"]);
}

#[test]
fn program_that_cannot_be_executed_is_named() {
    let outcome = here().options(["-n", "2"]).program("/etc/passwd".as_ref(), NO_ARGS).run();
    outcome.assert_code(126).assert_says(&["/etc/passwd"]);
}

#[test]
fn standard_input_goes_to_rank_0_alone() {
    let bytes = [b"first\n".as_slice(), &[0, 255, 10], &vec![b'x'; 300_000]].concat();
    let outcome = here().options(["-n", "2"]).stdin(&bytes).program(program!("rank_echo"), NO_ARGS).run();
    outcome.assert_code(0);
    let echoes = Echo::all(&outcome);
    assert!(echoes[0].stdin == bytes, "rank 0 read {} of {} bytes", echoes[0].stdin.len(), bytes.len());
    assert!(echoes[1].stdin.is_empty());
}

#[test]
fn tagged_lines_look_as_open_mpi_writes_them() {
    let script = "echo out $EFARUN_RANK; echo err $EFARUN_RANK >&2; printf 'no end'";
    let outcome =
        here().options(["-n", "2", "--tag-output"]).program("/bin/sh".as_ref(), ["-c", script]).run();
    outcome.assert_code(0);
    let mut lines: Vec<String> = outcome.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(
        lines,
        ["[1,0]<stdout>:no end", "[1,0]<stdout>:out 0", "[1,1]<stdout>:no end", "[1,1]<stdout>:out 1"]
    );
    outcome.assert_says(&["[1,0]<stderr>:err 0\n", "[1,1]<stderr>:err 1\n"]);
}

#[test]
fn a_flood_of_output_arrives_whole_and_line_by_line() {
    const LINES: usize = 50_000;
    let outcome = here().options(["-n", "2"]).program(program!("rank_flood"), [LINES.to_string()]).run();
    outcome.assert_code(0);
    let stdout = outcome.stdout();
    let mut next = BTreeMap::from([(0, 0), (1, 0)]);
    for line in stdout.lines() {
        assert_eq!(line.len(), 63, "a line is broken: {line:?}");
        let mut words = line.split_whitespace().map(|word| word.parse::<usize>());
        let (Some(Ok(rank)), Some(Ok(number))) = (words.next(), words.next()) else {
            panic!("broken: {line:?}")
        };
        let expected = next.get_mut(&rank).expect("rank 0 or 1");
        assert_eq!(number, *expected, "lines of rank {rank} are out of order");
        *expected += 1;
    }
    assert_eq!(next, BTreeMap::from([(0, LINES), (1, LINES)]));
}

#[test]
fn first_failing_rank_decides_the_exit_code_and_is_named() {
    let outcome = here().options(["-n", "3"]).program(program!("rank_exit"), ["1", "7"]).run();
    outcome.assert_code(7).assert_says(&["rank 1", "7", "last words of rank 1"]);
    assert!(outcome.duration < Duration::from_secs(10), "{}", outcome.shown());
}

#[test]
fn rank_killed_by_a_signal_gives_128_plus_the_signal() {
    let outcome = here().options(["-n", "2"]).program(program!("rank_segv"), ["1"]).run();
    outcome.assert_code(139).assert_says(&["rank 1", "SIGSEGV"]);
}

#[test]
fn timeout_gives_110() {
    let outcome = here().options(["-n", "2", "--timeout", "1"]).program(program!("rank_hang"), NO_ARGS).run();
    outcome.assert_code(110);
    assert!(outcome.duration >= Duration::from_secs(1), "{}", outcome.shown());
}

#[test]
fn interrupt_gives_130() {
    let job = here().options(["-n", "2"]).program(program!("rank_hang"), NO_ARGS).start();
    job.wait_for_output("is up", 2);
    job.signal(Signal::SIGINT);
    job.wait().assert_code(130);
}

#[test]
fn second_interrupt_ends_ranks_that_ignore_the_first() {
    let job = here().options(["-n", "2"]).program(program!("rank_hang"), ["deaf"]).start();
    job.wait_for_output("is up", 2);
    job.signal(Signal::SIGINT);
    job.signal(Signal::SIGINT);
    job.wait().assert_code(130);
}

#[test]
fn dry_run_shows_the_placement_and_starts_nothing() {
    let outcome = here().options(["-n", "2", "--dry-run"]).program(program!("rank_hang"), NO_ARGS).run();
    outcome.assert_code(0);
    let stdout = outcome.stdout();
    assert!(!stdout.contains("is up") && stdout.contains("rank"), "{}", outcome.shown());
}

#[test]
fn more_ranks_than_slots_is_an_error_with_the_arithmetic() {
    let outcome = Job::here(program!("efarun-under-test"))
        .options(["-n", "5", "-H", "localhost:2"])
        .program(program!("rank_echo"), NO_ARGS)
        .run();
    outcome.assert_code(64).assert_says(&["5", "2", "localhost"]);
}

/// Which host each rank ran on.
fn hosts_by_rank(echoes: &[Echo]) -> Vec<&str> {
    echoes.iter().map(|echo| echo.hostname.as_str()).collect()
}

#[test]
fn ranks_fill_hosts_in_order_and_share_one_environment() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let outcome = on(&testbed)
        .options(["--hostfile".as_ref(), testbed.hostfile(4).as_os_str(), "-n".as_ref(), "4".as_ref()])
        .options(["-N", "2", "-x", "LD_LIBRARY_PATH=/opt/one:/opt/two"])
        .env("NCCL_DEBUG", "INFO")
        .program(program!("rank_echo"), ["an argument"])
        .run();
    outcome.assert_code(0);
    let echoes = Echo::all(&outcome);
    assert_eq!(hosts_by_rank(&echoes), ["h1", "h1", "h2", "h2"]);
    for echo in &echoes {
        assert_eq!(echo.args(), ["an argument"]);
        assert_eq!(echo.text("NCCL_DEBUG"), "INFO");
        assert!(
            echo.text("LD_LIBRARY_PATH").starts_with("/opt/one:/opt/two"),
            "{}",
            echo.text("LD_LIBRARY_PATH")
        );
        assert_eq!(echo.text("LD_LIBRARY_PATH"), echoes[0].text("LD_LIBRARY_PATH"));
        assert_eq!(echo.text("EFARUN_LOCAL_RANK"), (echo.rank % 2).to_string());
        assert_eq!(echo.text("EFARUN_NODE_RANK"), (echo.rank / 2).to_string());
        assert_eq!(echo.text("EFARUN_NODE_COUNT"), "2");
    }
}

#[test]
fn host_list_on_the_command_line_gives_slots() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let outcome = on(&testbed).options(["-H", "h2:2,h1"]).program(program!("rank_echo"), NO_ARGS).run();
    outcome.assert_code(0);
    assert_eq!(hosts_by_rank(&Echo::all(&outcome)), ["h2", "h2", "h1"]);
}

#[test]
fn hostfile_dialects_are_understood() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let address = &testbed.host("h2").address;
    for (text, hosts) in [
        (format!("# comment\nh1 slots=1\n\n{address}:2"), vec!["h1", "h2", "h2"]),
        (format!("root@h1 slots=1 port=22\n{address} slots=1 # behind\n"), vec!["h1", "h2"]),
        ("h1\nh2\nh1\nh2".to_owned(), vec!["h1", "h1", "h2", "h2"]),
    ] {
        let hostfile = testbed.hostfile_of(text.clone());
        let count = hosts.len().to_string();
        let outcome = on(&testbed)
            .options(["--hostfile".as_ref(), hostfile.as_os_str()])
            .options(["-n", &count])
            .program(program!("rank_echo"), NO_ARGS)
            .run();
        outcome.assert_code(0);
        assert_eq!(hosts_by_rank(&Echo::all(&outcome)), hosts, "{text}");
    }
}

#[test]
fn host_that_cannot_be_reached_is_named_and_nothing_is_started() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let outcome = on(&testbed).options(["-H", "h1,nowhere"]).program(program!("rank_hang"), NO_ARGS).run();
    outcome.assert_code(69).assert_says(&["nowhere"]);
    assert!(!outcome.stdout().contains("is up"), "{}", outcome.shown());
}

#[test]
fn launch_agent_with_the_shape_of_ssh_reaches_hosts() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let calls = testbed.folder().join("calls");
    let ssh = format!(
        "sh -c 'echo called >>{}; exec ssh -F {} \"$@\"' ssh",
        calls.display(),
        testbed.folder().join("ssh_config").display()
    );
    let outcome = on(&testbed)
        .options(["--launch-agent", &ssh, "-H", "h1:1,h2:1"])
        .program(program!("rank_echo"), ["two words", "$HOME"])
        .run();
    outcome.assert_code(0);
    let echoes = Echo::all(&outcome);
    assert_eq!(hosts_by_rank(&echoes), ["h1", "h2"]);
    assert_eq!(echoes[1].args(), ["two words", "$HOME"]);
    let calls = std::fs::read_to_string(calls).expect("it was called, and not the built-in SSH");
    assert_eq!(calls.lines().count(), 2);
}

#[test]
fn failing_rank_on_another_host_is_named_with_its_host() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let outcome = on(&testbed).options(["-H", "h1:2,h2:2"]).program(program!("rank_exit"), ["3", "9"]).run();
    outcome.assert_code(9).assert_says(&["rank 3", "h2", "9"]);
}

#[test]
fn timeout_and_interrupt_leave_nothing_on_hosts() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let hang = || on(&testbed).options(["-H", "h1:2,h2:2"]).program(program!("rank_hang"), ["deaf"]);
    hang().options(["--timeout", "4"]).run().assert_code(110);
    let job = hang().start();
    job.wait_for_output("is up", 4);
    job.signal(Signal::SIGINT);
    job.wait().assert_code(130);
}
