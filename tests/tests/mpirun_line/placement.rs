//! Where ranks run, how they are numbered, and what they are bound to.

use std::collections::BTreeSet;

use efarun_tests::{Job, Need, Outcome, Testbed, program, require};

use super::{NO_ARGS, echoes, here, hosts, on, words};

/// The host of each rank of `options` on hosts h1 to h3 with two slots each.
fn placed(testbed: &Testbed, options: &str) -> Vec<String> {
    let hostfile = testbed.hostfile(2);
    let outcome = on(testbed)
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .options(words(options))
        .program(program!("rank_echo"), NO_ARGS)
        .run();
    hosts(&echoes(&outcome)).into_iter().map(str::to_owned).collect()
}

#[test]
fn ranks_are_dealt_and_numbered_as_asked_for() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    let cases = [
        ("-n 4 --map-by slot", "h1 h1 h2 h2"),
        ("-n 4 --map-by node", "h1 h2 h3 h1"),
        ("-n 4 --bynode --rank-by slot", "h1 h1 h2 h3"),
        ("-n 4 --rank-by node", "h1 h2 h1 h2"),
        ("--map-by ppr:1:node", "h1 h2 h3"),
        ("-pernode -n 2", "h1 h2"),
        ("-n 7 --map-by node:OVERSUBSCRIBE", "h1 h2 h3 h1 h2 h3 h1"),
        ("-n 4 --map-by slot:SPAN", "h1 h1 h2 h3"),
        ("-n 2 --nolocal", "h1 h1"),
    ];
    for (options, expected) in cases {
        assert_eq!(placed(&testbed, options).join(" "), expected, "{options}");
    }
}

#[test]
fn hosts_are_taken_one_by_one_where_a_file_says_so() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let hostfile = testbed.hostfile_of("h2\nh1\nh2\n".to_owned());
    let with_hostfile = || on(&testbed).options(["--hostfile".as_ref(), hostfile.as_os_str()]);
    let placed = |job: Job<'_>| {
        let outcome = job.program(program!("rank_echo"), NO_ARGS).run();
        hosts(&echoes(&outcome)).join(" ")
    };
    assert_eq!(placed(with_hostfile().options(words("--map-by seq"))), "h2 h1 h2");
    assert_eq!(placed(with_hostfile().options(words("--map-by seq -n 2"))), "h2 h1");
    let rankfile = testbed.folder().join("ranks");
    std::fs::write(&rankfile, "rank 1=h1 slot=0\nrank 0=h2 slot=0:*\nrank 2=h1\n").unwrap();
    let rankfile = rankfile.to_str().unwrap();
    for option in [&["-rf", rankfile][..], &["--map-by", &format!("rankfile:FILE={rankfile}")]] {
        assert_eq!(placed(on(&testbed).options(option)), "h2 h1 h1", "{option:?}");
    }
    let script = "echo $EFARUN_RANK $(grep Cpus_allowed_list /proc/self/status | cut -f2)";
    let bound = on(&testbed).options(["--rankfile", rankfile]).program("/bin/sh".as_ref(), ["-c", script]);
    let allowed = allowed(&bound.run());
    assert!(allowed[1].parse::<u32>().is_ok(), "one core: {allowed:?}");
    assert_eq!(allowed[2], everything());
    let missing = on(&testbed).options(["--rankfile", rankfile]).options(words("-n 4"));
    let outcome = missing.program(program!("rank_echo"), NO_ARGS).run();
    outcome.assert_code(64).assert_says(&["4 ranks asked for, and the rankfile names 3 places"]);
}

#[test]
fn max_slots_hold_where_hosts_are_oversubscribed() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let hostfile = testbed.hostfile_of("h1 slots=1 max_slots=2\nh2 slots=1\n".to_owned());
    let options = ["--hostfile".as_ref(), hostfile.as_os_str()];
    let job = on(&testbed).options(options).options(words("-n 6 --oversubscribe"));
    assert_eq!(
        hosts(&echoes(&job.program(program!("rank_echo"), NO_ARGS).run())).join(" "),
        "h1 h1 h2 h2 h2 h2"
    );
}

#[test]
fn ranks_that_alternate_between_hosts_meet_and_know_their_neighbours() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let job =
        |program| on(&testbed).options(words("-H h1:2,h2:2 --map-by node")).program(program, NO_ARGS).run();
    job(program!("rank_barrier")).assert_code(0);
    let echoes = echoes(&job(program!("rank_echo")));
    let numbers: Vec<_> =
        echoes.iter().map(|echo| (echo.text("LOCAL_RANK"), echo.text("GROUP_RANK"))).collect();
    assert_eq!(numbers, [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]);
}

#[test]
fn five_and_three_ranks_on_unequal_hosts_are_one_world() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let hostfile = testbed.hostfile_of("h1 slots=5\nh2 slots=3\n".to_owned());
    let job = || on(&testbed).options(["--hostfile".as_ref(), hostfile.as_os_str()]);
    let echoes = echoes(&job().program(program!("rank_echo"), NO_ARGS).run());
    assert_eq!(hosts(&echoes), [vec!["h1"; 5], vec!["h2"; 3]].concat());
    let of = |name: &str| echoes.iter().map(|echo| echo.text(name).to_owned()).collect::<Vec<_>>();
    assert_eq!(of("LOCAL_WORLD_SIZE"), ["5", "5", "5", "5", "5", "3", "3", "3"]);
    assert_eq!(of("LOCAL_RANK"), ["0", "1", "2", "3", "4", "0", "1", "2"]);
    assert_eq!(of("GROUP_RANK"), ["0", "0", "0", "0", "0", "1", "1", "1"]);
    job().program(program!("rank_barrier"), NO_ARGS).run().assert_code(0);
    let turns = job().options(["--map-by", "node"]).program(program!("rank_echo"), NO_ARGS).run();
    assert_eq!(hosts(&super::echoes(&turns)), ["h1", "h2", "h1", "h2", "h1", "h2", "h1", "h1"]);
    let each = job().options(["-N", "4"]).program(program!("rank_echo"), NO_ARGS).run();
    each.assert_code(64).assert_says(&["h2"]);
}

/// What each rank may run on, by rank, as the kernel lists it.
fn allowed(outcome: &Outcome) -> Vec<String> {
    outcome.assert_code(0);
    let mut lines: Vec<String> = outcome.stdout().lines().map(str::to_owned).collect();
    lines.sort();
    lines.into_iter().map(|line| line.split_once(' ').expect("RANK CPUS").1.to_owned()).collect()
}

fn bound(options: &str) -> Job<'static> {
    let script = "echo $EFARUN_RANK $(grep Cpus_allowed_list /proc/self/status | cut -f2)";
    here().options(words(options)).program("/bin/sh".as_ref(), ["-c", script])
}

/// What this machine lets this process, and so every rank, run on.
fn everything() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("every Linux has it");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .expect("the kernel says what it allows");
    line.trim().to_owned()
}

#[test]
fn ranks_are_not_bound_unless_asked_for() {
    let everything = everything();
    for options in ["-n 2", "-n 2 --bind-to none", "-n 2 --map-by core", "-n 1 -N 1"] {
        assert!(allowed(&bound(options).run()).iter().all(|cpus| *cpus == everything), "{options}");
    }
}

#[test]
fn ranks_bound_to_cores_have_each_its_own() {
    require!(Need::TwoCores);
    for options in ["--bind-to core", "--bind-to hwthread", "-mca hwloc_base_binding_policy core"] {
        let cpus = allowed(&bound(&format!("-n 2 {options}")).run());
        assert_eq!(cpus.iter().collect::<BTreeSet<_>>().len(), 2, "{options}: {cpus:?}");
        assert!(cpus.iter().all(|cpus| *cpus != everything()), "{options}: {cpus:?}");
    }
    let both = allowed(&bound("-n 1 --bind-to core --map-by slot:PE=2").run());
    let alone = allowed(&bound("-n 1 --bind-to core").run());
    assert_ne!(both, alone, "PE=2 gives a second core");
    assert_eq!(allowed(&bound("-n 1 --bind-to core --cpus-per-proc 2").run()), both);
}

#[test]
fn ranks_bound_to_a_socket_may_use_all_of_it() {
    let outcome = bound("-n 2 --bind-to socket --report-bindings").run();
    let cpus = allowed(&outcome);
    outcome.assert_says(&[
        "efarun: rank 0 on localhost: bound to CPU",
        "efarun: rank 1 on localhost: bound to CPU",
    ]);
    let cpus_text = if cpus[0].contains(['-', ',']) { "CPUs" } else { "CPU" };
    outcome.assert_says(&[&format!("rank 0 on localhost: bound to {cpus_text} {}", cpus[0])]);
}

#[test]
fn more_ranks_than_cores_are_bound_only_where_they_may_share() {
    let outcome = bound("-n 600 -H localhost:600 --bind-to core").run();
    outcome.assert_code(64).assert_says(&["600 ranks need 600 cores, and localhost has"]);
    let shared = allowed(&bound("-n 3 --bind-to core:overload-allowed --cpus-per-rank 1").run());
    assert_eq!(shared.len(), 3);
    let outcome = bound("-n 1 --bind-to gpu").run();
    outcome.assert_code(64).assert_says(&["--bind-to gpu: localhost has no GPU"]);
}

#[test]
fn the_map_is_shown_before_ranks_start() {
    let outcome = here()
        .options(words("-n 2 -H localhost:2 --display-map"))
        .program("/bin/echo".as_ref(), ["ran"])
        .run();
    outcome.assert_code(0);
    let stdout = outcome.stdout();
    let (map, rest) = stdout.split_at(stdout.find("ran\n").expect("it ran"));
    assert!(
        map.starts_with("2 ranks on 1 node\n") && map.contains("localhost") && map.contains("0-1"),
        "{map}"
    );
    assert_eq!(rest, "ran\nran\n");
}

#[test]
fn dry_run_tells_bindings_and_starts_nothing() {
    let dry = |options: &str| here().options(words(options)).program(program!("rank_hang"), NO_ARGS).run();
    let outcome = dry("-n 1 --bind-to core --dry-run");
    outcome.assert_code(0);
    assert!(outcome.stdout().contains("rank 0: bound to CPU"), "{}", outcome.stdout());
    let outcome = dry("-n 1 --bind-to core --dry-run --json");
    outcome.assert_code(0);
    let json: serde_json::Value = serde_json::from_str(&outcome.stdout()).unwrap();
    assert!(json["bindings"][0]["cpus"].as_array().is_some_and(|cpus| !cpus.is_empty()), "{json}");
    assert_eq!(dry("-n 1 --do-not-launch").assert_code(0).stdout().matches("is up").count(), 0);
}
