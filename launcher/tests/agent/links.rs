//! The link over TCP, and the ranks' sockets.

use std::time::{Duration, Instant};

use efarun::link_io::{self, LinkReceiver, LinkSender};
use efarun_wire::frame::{self, FrameReader};
use efarun_wire::message::{
    AgentMessage, DialFailure, GatherKey, HeadMessage, OobUp, Participants, RankMessage, RankReply,
    RankStatus,
};
use efarun_wire::secure::{Responder, Standing};
use efarun_wire::{PROTOCOL_VERSION, Rank};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::head::{Head, OldLink, soon};

async fn accept(listener: TcpListener, head: &Head) -> (LinkSender<HeadMessage>, LinkReceiver<AgentMessage>) {
    let (mut stream, _): (TcpStream, _) = listener.accept().await.unwrap();
    let mut responder = Responder::new(head.order.job);
    let members = |_| Standing::Expected(head.order.key.clone());
    let authenticated = loop {
        let mut buffer = [0; 1 << 10];
        let read_bytes = stream.read(&mut buffer).await.unwrap();
        let mut out = Vec::new();
        let received = responder.receive(&buffer[..read_bytes], &members, &mut out).unwrap();
        stream.write_all(&out).await.unwrap();
        if let Some(authenticated) = received {
            break authenticated;
        }
    };
    assert_eq!(authenticated.member, head.order.node.0);
    let (source, sink) = stream.into_split();
    link_io::open(Box::new(source), Box::new(sink), Some(authenticated), u32::MAX)
}

async fn over_tcp() -> (Head, OldLink) {
    let mut head = Head::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    head.link.send(&HeadMessage::Dial { addresses: vec![address], timeout_ms: 5000 });
    let (link, receiver) = soon("the agent dials", accept(listener, &head)).await;
    head.until("the agent says so", |seen| seen.dialed.is_some()).await;
    assert_eq!(head.seen.dialed, Some(Ok(address)));
    let channel = head.switch(link, receiver);
    (head, channel)
}

#[tokio::test]
async fn the_link_goes_on_over_tcp() {
    let (head, _channel) = over_tcp().await;
    head.launch(2, "seq 1 50000; exit 4");
    let seen = head.finish(2).await;
    assert_eq!(seen.text(1).lines().count(), 50_000);
    assert_eq!(seen.status(1), RankStatus::Code(4));
}

#[tokio::test]
async fn an_agent_that_cannot_dial_stays_in_the_channel() {
    let head = Head::start().await;
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    head.link.send(&HeadMessage::Dial { addresses: vec![refusing], timeout_ms: 5000 });
    head.launch(1, "echo here");
    let seen = head.finish(1).await;
    let reason = "connection refused".to_owned();
    assert_eq!(seen.dialed, Some(Err(DialFailure { address: Some(refusing), reason })));
    assert_eq!(seen.text(0), "here\n");
}

#[tokio::test]
async fn the_end_of_the_channel_ends_the_ranks_also_over_tcp() {
    let (mut head, channel) = over_tcp().await;
    head.launch(1, "trap '' TERM; (setsid sleep 1000 &); while :; do wait; done");
    head.until_spawned(1).await;
    let since = Instant::now();
    drop(channel);
    head.until_closed().await;
    assert!(head.seen.failed[0].contains("channel"), "{:?}", head.seen.failed);
    head.expect_all_gone(since).await;
}

#[tokio::test]
async fn the_end_of_the_tcp_link_ends_the_ranks() {
    let (mut head, channel) = over_tcp().await;
    head.launch(1, "sleep 1000");
    head.until_spawned(1).await;
    let since = Instant::now();
    drop(head.switch_back(channel));
    head.until_closed().await;
    assert!(head.seen.failed[0].contains("TCP"), "{:?}", head.seen.failed);
    head.expect_all_gone(since).await;
}

/// A shell command that says this over the rank's socket.
fn say(message: &RankMessage) -> String {
    let bytes: String = frame::encode(message).iter().map(|byte| format!("\\{byte:03o}")).collect();
    format!("printf '{bytes}' >&3; ")
}

fn join(rank: u32, world_size: u32) -> RankMessage {
    RankMessage::Join { protocol: PROTOCOL_VERSION, rank: Rank(rank), world_size }
}

/// What a rank that copies its socket to its standard output was told.
fn replies(head: &Head) -> Vec<RankReply> {
    let mut frames = FrameReader::default();
    frames.push(head.seen.output.get(&(Rank(0), false)).map_or(&[], |bytes| bytes));
    std::iter::from_fn(|| frames.next_message().unwrap()).collect()
}

#[tokio::test]
async fn a_rank_that_joins_is_welcomed_and_its_abort_comes_before_its_end() {
    let mut head = Head::start().await;
    let abort = OobUp::Abort { rank: Rank(0), code: 42, reason: "no more".to_owned() };
    let words = say(&join(0, 1)) + &say(&RankMessage::Oob(abort.clone()));
    let welcome = RankReply::Welcome { protocol: PROTOCOL_VERSION, job: head.order.job, world_size: 1 };
    let len_bytes = frame::encode(&welcome).len();
    head.launch(1, &format!("{words} head -c {len_bytes} <&3; exit 42"));
    head.until("its end", |seen| !seen.exits.is_empty()).await;
    assert_eq!(head.seen.oob, [abort], "the abort came first");
    head.until("its output", |seen| seen.streams_ended == 2).await;
    assert_eq!(replies(&head), [welcome]);
    head.end(Duration::ZERO).await;
    head.goodbye().await;
}

#[tokio::test]
async fn the_end_of_a_rank_says_whether_it_was_within_a_world() {
    let mut head = Head::start().await;
    let joins = |rank| say(&join(rank, 4));
    let leaves = say(&RankMessage::Leave);
    let key = GatherKey { id: "world-1/places".to_owned(), epoch: 0, participants: Participants::World };
    let gather = OobUp::Gather { key, blobs: vec![(Rank(2), Vec::new())] };
    let again = say(&RankMessage::Oob(gather));
    let script = format!(
        "case $EFARUN_RANK in 0) {} ;; 1) {} {leaves} ;; 2) {} {leaves} {again} ;; esac",
        joins(0),
        joins(1),
        joins(2),
    );
    head.launch(4, &script);
    head.until("four ends", |seen| seen.exits.len() == 4).await;
    let within: Vec<bool> = (0..4).map(|rank| head.seen.exits[&Rank(rank)].within_world).collect();
    assert_eq!(within, [true, false, true, false], "joined; left; left and made another; never joined");
    head.end(Duration::ZERO).await;
    head.goodbye().await;
}

#[tokio::test]
async fn a_rank_that_takes_itself_for_another_is_refused() {
    let mut head = Head::start().await;
    head.launch(1, &format!("{} cat <&3", say(&join(1, 1))));
    head.until("its end", |seen| !seen.exits.is_empty() && seen.streams_ended == 2).await;
    assert!(matches!(&replies(&head)[..], [RankReply::Refused(reason)] if reason.contains("rank 1")));
    assert_eq!(head.seen.notes.len(), 1);
    head.end(Duration::ZERO).await;
}

#[tokio::test]
async fn a_malformed_message_costs_the_rank_its_socket_and_nothing_else() {
    let mut head = Head::start().await;
    head.launch(
        2,
        "[ $EFARUN_RANK = 1 ] || printf '\\377\\377\\377\\377junk' >&3; cat <&3; echo closed; sleep 1000",
    );
    head.until("a note", |seen| !seen.notes.is_empty()).await;
    assert!(head.seen.notes[0].starts_with("rank 0 sent a message of"), "{:?}", head.seen.notes);
    head.until_line("closed").await;
    head.until_running("cat", 1).await;
    head.until_running("sleep 1000", 1).await;
    assert_eq!(head.seen.text(1), "");
    head.end(Duration::ZERO).await;
    head.goodbye().await;
}

#[tokio::test]
async fn a_rank_that_announces_more_than_a_rank_may_send_is_not_listened_to() {
    let mut head = Head::start().await;
    // The length of a body of 3 MiB, and nothing of it.
    head.launch(1, "printf '\\000\\000\\060\\000' >&3; cat <&3; echo closed; sleep 1000");
    head.until("a note", |seen| !seen.notes.is_empty()).await;
    assert!(
        head.seen.notes[0].starts_with("rank 0 sent a message of 3145728 bytes"),
        "{:?}",
        head.seen.notes
    );
    head.until_line("closed").await;
    head.end(Duration::ZERO).await;
    head.goodbye().await;
}
