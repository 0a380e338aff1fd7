//! A rank that ends with code 0 while others are still in its World: they are told who is missing, and the launcher
//! says why the job failed.

use efarun_tests::{Job, Need, Testbed, program, require};

#[test]
fn a_rank_that_leaves_early_is_named_to_those_who_wait_for_it() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let outcome = Job::on(&testbed, program!("efarun-under-test"))
        .options(["-H", "h1:2,h2:2"])
        .program(program!("rank_desert"), ["2"])
        .run();
    outcome.assert_code(1).assert_says(&["rank 2 ended with code 0 without closing its World"]);
    let stdout = outcome.stdout();
    let told: Vec<(u64, &str)> = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("told after ")?.split_once(" ms: "))
        .map(|(ms, error)| (ms.parse().unwrap(), error))
        .collect();
    assert!(!told.is_empty(), "{}", outcome.shown());
    for (ms, error) in told {
        assert!(ms < 2000 && error.contains("rank 2"), "after {ms} ms: {error}\n{}", outcome.shown());
    }
}

#[test]
fn ranks_that_all_end_without_closing_their_world_are_no_failure() {
    let outcome = Job::here(program!("efarun-under-test"))
        .options(["--oversubscribe", "-n", "4"])
        .program(program!("rank_desert"), ["all"])
        .run();
    outcome.assert_code(0);
    assert!(!outcome.stderr().contains("World"), "{}", outcome.shown());
}
