//! Whatever ends, and however: nothing of the job is left.

use std::time::{Duration, Instant};

use efarun_wire::Rank;
use efarun_wire::message::{AgentOrder, HeadMessage, RankStatus};
use nix::sys::signal::Signal;

use crate::head::{ALL_GONE_WITHIN, Head, is_living, order, signal};

/// A shell that waits for a child, beside a daemon with a session of its own whose parent has gone.
const WITH_DAEMON: &str = "sleep 1000 & (setsid sleep 1000 &) ; wait";
/// As [`WITH_DAEMON`], and nothing of it heeds TERM.
const STUBBORN: &str = "trap '' TERM HUP INT; sleep 1000 & (setsid sleep 1000 &) ; while :; do wait; done";
const GRACE: Duration = Duration::from_secs(1);

async fn running(rank_count: u32, script: &str, sleepers_per_rank: usize) -> Head {
    let mut head = Head::start().await;
    head.launch(rank_count, script);
    head.until_spawned(rank_count as usize).await;
    head.until_running("sleep 1000", rank_count as usize * sleepers_per_rank).await;
    head
}

#[tokio::test]
async fn an_ordered_end_reaches_children_and_daemons() {
    let mut head = running(2, WITH_DAEMON, 2).await;
    let start = Instant::now();
    head.end(GRACE).await;
    assert!(start.elapsed() < GRACE, "TERM was enough, and took {:?}", start.elapsed());
    let seen = head.goodbye().await;
    for rank in 0..2 {
        assert_eq!(seen.status(rank), RankStatus::Signal { number: libc::SIGTERM, core: false });
        assert!(seen.exits[&Rank(rank)].ended_by_launcher);
    }
    assert_eq!(seen.reaped, Some((2, 2)), "the two daemons are strays");
}

#[tokio::test]
async fn a_daemon_left_by_ranks_that_ended_is_a_stray() {
    let head = running(1, "(setsid sleep 1000 &)", 1).await;
    let seen = head.finish(1).await;
    assert_eq!(seen.status(0), RankStatus::Code(0));
    assert_eq!(seen.reaped, Some((1, 1)));
}

#[tokio::test]
async fn ranks_that_ignore_term_are_killed_after_the_grace() {
    let mut head = running(2, STUBBORN, 2).await;
    let start = Instant::now();
    head.end(GRACE).await;
    let took = start.elapsed();
    assert!(took >= GRACE && took < ALL_GONE_WITHIN, "took {took:?}");
    let seen = head.goodbye().await;
    assert_eq!(seen.status(1), RankStatus::Signal { number: libc::SIGKILL, core: false });
}

#[tokio::test]
async fn a_second_end_shortens_the_grace() {
    let mut head = running(1, STUBBORN, 2).await;
    head.link.send(&HeadMessage::End { grace_ms: 1_000_000, signal: libc::SIGTERM });
    head.end(Duration::ZERO).await;
}

#[tokio::test]
async fn a_stopped_rank_gets_to_handle_term() {
    let mut head = Head::start().await;
    head.launch(1, "trap 'echo asked; exit 7' TERM; kill -STOP $$; while :; do sleep 0.01; done");
    head.until_spawned(1).await;
    head.until_stopped(head.seen.spawned[&Rank(0)]).await;
    head.end(Duration::from_secs(10)).await;
    let seen = head.goodbye().await;
    assert_eq!((seen.text(0).as_str(), seen.status(0)), ("asked\n", RankStatus::Code(7)));
}

#[tokio::test]
async fn a_signal_reaches_the_ranks_and_ends_nothing() {
    let mut head = Head::start().await;
    head.launch(2, "trap 'echo usr1; exit 3' USR1; echo ready; while :; do sleep 0.01; done");
    head.until("both are ready", |seen| seen.text(0) == "ready\n" && seen.text(1) == "ready\n").await;
    head.link.send(&HeadMessage::Signal { number: libc::SIGUSR1 });
    let seen = head.finish(2).await;
    assert_eq!((seen.status(0), seen.status(1)), (RankStatus::Code(3), RankStatus::Code(3)));
}

#[tokio::test]
async fn a_killed_agent_leaves_nothing() {
    for script in [WITH_DAEMON, STUBBORN] {
        let mut head = running(2, script, 2).await;
        let since = head.kill(head.facts.agent_pid);
        head.expect_all_gone(since).await;
    }
}

#[tokio::test]
async fn a_killed_keeper_leaves_nothing_and_the_head_is_told() {
    for script in [WITH_DAEMON, STUBBORN] {
        let mut head = running(2, script, 2).await;
        let since = head.kill(head.facts.keeper_pid);
        head.until("all is reaped", |seen| seen.reaped.is_some()).await;
        assert_eq!(head.processes(), Vec::<String>::new());
        assert!(head.seen.failed[0].contains("keeper"), "{:?}", head.seen.failed);
        assert_eq!(head.seen.reaped.map(|(ranks, _)| ranks), Some(2));
        head.expect_all_gone(since).await;
    }
}

#[tokio::test]
async fn a_killed_rank_is_reported_and_the_others_go_on() {
    let mut head = running(2, "exec sleep 1000", 1).await;
    head.kill(head.seen.spawned[&Rank(1)]);
    head.until("the rank's end", |seen| seen.exits.len() == 1).await;
    assert_eq!(head.seen.status(1), RankStatus::Signal { number: 9, core: false });
    assert_eq!(head.processes().len(), 1);
    head.end(GRACE).await;
    let seen = head.goodbye().await;
    assert!(!seen.exits[&Rank(1)].ended_by_launcher && seen.exits[&Rank(0)].ended_by_launcher);
}

#[tokio::test]
async fn an_end_that_is_under_way_is_told_before_it_is_said_that_all_are() {
    let mut head = running(2, "exec sleep 1000", 1).await;
    head.link.send(&HeadMessage::TellEnds);
    head.until("that no rank is ending", |seen| seen.ends_told == 1).await;
    assert!(head.seen.exits.is_empty());

    // Whoever tells of it takes a while.
    signal(head.facts.keeper_pid, Signal::SIGSTOP);
    let pid = head.seen.spawned[&Rank(1)];
    let since = head.kill(pid);
    while is_living(pid) {
        assert!(since.elapsed() < ALL_GONE_WITHIN, "KILL has not ended it");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    head.link.send(&HeadMessage::TellEnds);
    head.link.send(&HeadMessage::Ping { number: 1 });
    head.until("a pong", |seen| seen.pongs == 1).await;
    assert_eq!(head.seen.ends_told, 1, "the end of rank 1 is not told yet");
    signal(head.facts.keeper_pid, Signal::SIGCONT);
    head.until("that the ends are told", |seen| seen.ends_told == 2).await;
    assert_eq!(head.seen.status(1), RankStatus::Signal { number: 9, core: false });
    head.end(GRACE).await;
    head.goodbye().await;
}

#[tokio::test]
async fn a_closed_channel_ends_everything() {
    for script in [WITH_DAEMON, STUBBORN] {
        let head = running(2, script, 2).await;
        let since = Instant::now();
        head.close_channel(since).await;
    }
}

#[tokio::test]
async fn a_stopped_keeper_does_not_save_the_ranks() {
    let head = running(1, STUBBORN, 2).await;
    signal(head.facts.keeper_pid, Signal::SIGSTOP);
    let since = Instant::now();
    head.close_channel(since).await;
}

#[tokio::test]
async fn ranks_end_with_their_keeper_also_while_the_agent_is_stopped() {
    let head = running(2, "exec sleep 1000", 1).await;
    signal(head.facts.agent_pid, Signal::SIGSTOP);
    head.kill(head.facts.keeper_pid);
    head.until_running("sleep 1000", 0).await;
}

#[tokio::test]
async fn a_head_that_says_nothing_after_the_launch_is_lost_when_its_lease_is_over() {
    let mut head = Head::start_by(AgentOrder { lease_ms: 600, ..order() }).await;
    head.launch(1, STUBBORN);
    // What comes behind the lease is the end of the ranks.
    head.until_closed().await;
    assert!(head.seen.failed[0].contains("no sign of life"), "{:?}", head.seen.failed);
    head.expect_all_gone(Instant::now()).await;
}

#[tokio::test]
async fn a_head_that_stops_itself_is_waited_for_and_its_ranks_are_stopped() {
    let mut head = Head::start_by(AgentOrder { lease_ms: 5000, ..order() }).await;
    // Without a child: a shell that has just forked one waits for it, stopped, and is not itself shown as stopped.
    head.launch(1, "exec sleep 1000");
    head.until_spawned(1).await;
    head.link.send(&HeadMessage::Suspend);
    head.until("the word that ranks are stopped", |seen| seen.suspended).await;
    let pid = head.seen.spawned[&Rank(0)];
    head.until_stopped(pid).await;
    // As long as this the head says nothing; what passes is what is tested.
    tokio::time::sleep(Duration::from_secs(7)).await;
    head.link.send(&HeadMessage::Signal { number: libc::SIGCONT });
    head.until_going_on(pid).await;
    head.end(Duration::ZERO).await;
    head.goodbye().await;
}

#[tokio::test]
async fn an_agent_asked_by_term_ends_its_ranks_and_says_so() {
    let mut head = running(2, WITH_DAEMON, 2).await;
    for ignored in [Signal::SIGINT, Signal::SIGHUP] {
        signal(head.facts.agent_pid, ignored);
        signal(head.facts.keeper_pid, ignored);
    }
    signal(head.facts.keeper_pid, Signal::SIGTERM);
    head.link.send(&HeadMessage::Oob(stop()));
    head.until_running("sleep 1000", 4).await;
    signal(head.facts.agent_pid, Signal::SIGTERM);
    let since = Instant::now();
    head.until_closed().await;
    assert!(head.seen.failed[0].contains("SIGTERM"), "{:?}", head.seen.failed);
    assert_eq!((head.seen.exits.len(), head.seen.reaped.map(|(ranks, _)| ranks)), (2, Some(2)));
    head.expect_all_gone(since).await;
}

fn stop() -> efarun_wire::message::OobDown {
    use efarun_wire::message::{Event, EventKind, OobDown};
    OobDown::Event(Event { sequence: 1, kind: EventKind::Stop })
}

#[tokio::test]
async fn a_pipe_that_a_stranger_holds_does_not_hold_up_the_end() {
    let mut head = Head::start().await;
    head.launch(1, "echo $$; sleep 1000");
    head.until("its id", |seen| seen.text(0).ends_with('\n')).await;
    // This test is the stranger: it opens the rank's own standard output.
    let pid: i32 = head.seen.text(0).trim().parse().unwrap();
    let held = std::fs::File::options().write(true).open(format!("/proc/{pid}/fd/1")).unwrap();
    head.end(Duration::ZERO).await;
    head.until("the streams end", |seen| seen.streams_ended == 2).await;
    drop(held);
    head.goodbye().await;
}
