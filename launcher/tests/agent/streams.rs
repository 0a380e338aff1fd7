//! What ranks write and read.

use std::time::Duration;

use efarun_wire::Rank;
use efarun_wire::message::{AgentMessage, HeadMessage, RankStatus, STDIN_CREDIT_BYTES};

use crate::head::Head;

/// Resident memory of a process, in bytes.
fn resident_bytes(pid: i32) -> usize {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn output_keeps_its_order_and_none_is_lost() {
    let head = Head::start().await;
    head.launch(2, "seq 1 200000; seq 1 200000 >&2");
    let seen = head.finish(2).await;
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    for rank in 0..2 {
        assert!(seen.text(rank) == expected, "rank {rank}'s standard output");
        assert!(seen.errors(rank) == expected, "rank {rank}'s standard error");
    }
}

#[tokio::test]
async fn a_flood_waits_for_credit_and_delays_no_end() {
    let mut head = Head::start().await;
    let credit_bytes = 100 << 10;
    let mut plan = head.plan(4, "exec cat /dev/zero");
    plan.output_credit = credit_bytes;
    head.link.send(&HeadMessage::Launch(Box::new(plan)));
    let mut output_bytes = 0;
    // The agent is at rest when a ping is answered and nothing else has come for a while.
    while let Ok(message) = tokio::time::timeout(Duration::from_millis(500), head.receive()).await {
        if let AgentMessage::Output { bytes, .. } = message {
            output_bytes += bytes.len();
        }
    }
    assert!(output_bytes <= credit_bytes as usize, "{output_bytes} bytes came on {credit_bytes} of credit");
    assert!(
        output_bytes > credit_bytes as usize / 2,
        "{output_bytes} bytes came on {credit_bytes} of credit"
    );
    let resident_bytes = resident_bytes(head.facts.agent_pid);
    assert!(resident_bytes < 64 << 20, "the agent has grown to {resident_bytes} bytes");

    head.end(Duration::ZERO).await;
    let seen = &head.seen;
    assert_eq!((seen.exits.len(), seen.reaped.map(|(ranks, _)| ranks)), (4, Some(4)));
}

#[tokio::test]
async fn what_was_written_before_the_end_arrives_however_slow_the_head_is() {
    let mut head = Head::start().await;
    let mut plan = head.plan(1, "head -c 60000 /dev/zero");
    plan.output_credit = 0;
    head.link.send(&HeadMessage::Launch(Box::new(plan)));
    head.until("the rank ends", |seen| seen.exits.len() == 1).await;
    head.end(Duration::ZERO).await;
    assert_eq!(head.seen.output.len(), 0, "without credit nothing may come");
    head.link.send(&HeadMessage::Goodbye);
    head.link.send(&HeadMessage::OutputCredit { bytes: 60_000 });
    head.until("the streams end", |seen| seen.streams_ended == 2).await;
    assert_eq!(head.seen.text(0).len(), 60_000);
}

#[tokio::test]
async fn standard_input_reaches_one_rank_and_its_credit_comes_back() {
    let mut head = Head::start().await;
    let mut plan = head.plan(2, "cat");
    plan.stdin_ranks = vec![Rank(1)];
    head.link.send(&HeadMessage::Launch(Box::new(plan)));
    let chunk: Vec<u8> = (0..32 << 10).map(|byte| byte as u8).collect();
    let chunks = 40;
    for number in 1..=chunks {
        head.link.send(&HeadMessage::Stdin { rank: Rank(1), bytes: chunk.clone() });
        // Never more on its way than the credit allows.
        let returned = (number * chunk.len()).saturating_sub(STDIN_CREDIT_BYTES as usize) as u64;
        head.until("credit comes back", |seen| seen.stdin_credit >= returned).await;
    }
    head.link.send(&HeadMessage::Stdin { rank: Rank(1), bytes: Vec::new() });
    let seen = head.finish(2).await;
    assert_eq!(seen.text(0), "", "the other rank reads /dev/null");
    assert!(seen.output[&(Rank(1), false)] == chunk.repeat(chunks), "the input comes back as it was");
    assert_eq!(seen.status(1), RankStatus::Code(0));
}

#[tokio::test]
async fn a_rank_that_does_not_read_is_not_written_to_without_bound() {
    let mut head = Head::start().await;
    let mut plan = head.plan(1, "echo started; sleep 1000");
    plan.stdin_ranks = vec![Rank(0)];
    head.link.send(&HeadMessage::Launch(Box::new(plan)));
    for _ in 0..STDIN_CREDIT_BYTES as usize / (32 << 10) {
        head.link.send(&HeadMessage::Stdin { rank: Rank(0), bytes: vec![0; 32 << 10] });
    }
    head.until_line("started").await;
    head.link.send(&HeadMessage::Ping { number: 1 });
    head.until("a pong", |seen| seen.pongs == 1).await;
    assert!(head.seen.stdin_credit <= 64 << 10, "credit for what a pipe holds at most");
    head.end(Duration::ZERO).await;
    head.until("all credit", |seen| seen.stdin_credit == u64::from(STDIN_CREDIT_BYTES)).await;
}
