//! What the primitives do, one promise at a time.

use efarun_wire::message::{Event, EventKind, OobDown, OobUp, Participants, Target};
use efarun_wire::oob::{
    Action, Client, ClientEvent, EventSequencer, MAX_OPEN_GATHERS, MAX_PARKED_REQUESTS, MAX_REASON_BYTES,
    Member, OobError, RelayHub, RootHub,
};
use efarun_wire::{NodeId, Rank};

use crate::net::{Net, Topology, echo};

/// Ranks 0 and 2 on node 0, 1 and 3 on node 1.
fn two_nodes() -> Net {
    Net::joined(Topology::Nodes(vec![0, 1, 0, 1]))
}

fn lost(rank: u32) -> EventKind {
    EventKind::RankLost { rank: Rank(rank), cause: "killed by signal 9".to_owned() }
}

type Blobs = Vec<(Rank, Vec<u8>)>;

/// Epoch and blobs of each allgather that is complete on this rank.
fn results(net: &Net, rank: u32) -> Vec<(u32, Blobs)> {
    let result = |event: &ClientEvent| match event {
        ClientEvent::Gathered { key, blobs } => Some((key.epoch, blobs.clone())),
        _ => None,
    };
    net.learned[rank as usize].iter().filter_map(result).collect()
}

fn replies(net: &Net, rank: u32) -> Vec<(u64, Result<Vec<u8>, String>)> {
    let reply = |event: &ClientEvent| match event {
        ClientEvent::Replied { token, body } => Some((*token, body.clone())),
        _ => None,
    };
    net.learned[rank as usize].iter().filter_map(reply).collect()
}

#[test]
fn an_allgather_ends_with_every_blob_on_every_participant_and_nowhere_else() {
    let mut net = two_nodes();
    let odd_one_out = Participants::Ranks(vec![Rank(0), Rank(1), Rank(2)]);
    for rank in [2, 1, 0] {
        net.gather(Rank(rank), "addresses", &odd_one_out, &[rank as u8]);
    }
    net.deliver_all();
    let expected = vec![(0, vec![(Rank(0), vec![0]), (Rank(1), vec![1]), (Rank(2), vec![2])])];
    for rank in 0..3 {
        assert_eq!(results(&net, rank), expected);
    }
    assert!(net.learned[3].is_empty());
}

#[test]
fn repeated_allgathers_do_not_mix_when_one_rank_runs_ahead() {
    let mut net = two_nodes();
    for round in 0..3 {
        net.gather(Rank(0), "fence", &Participants::World, &[round]);
    }
    net.deliver_all();
    assert!(results(&net, 0).is_empty());
    for rank in 1..4 {
        (10..13).for_each(|round| net.gather(Rank(rank), "fence", &Participants::World, &[round]));
    }
    net.deliver_all();
    let firsts: Vec<_> = results(&net, 3).into_iter().map(|(epoch, blobs)| (epoch, blobs[0].1[0])).collect();
    assert_eq!(firsts, [(0, 0), (1, 1), (2, 2)]);
}

#[test]
fn an_agent_sends_one_message_up_when_its_last_rank_has_contributed() {
    let mut agent = RelayHub::for_agent(NodeId(5), [Rank(4), Rank(7), Rank(9)], 10);
    let participants = Participants::Ranks(vec![Rank(3), Rank(4), Rank(9)]);
    let mut contribute = |rank: u32| {
        agent.member_joined(Member::Rank(Rank(rank))).unwrap();
        let (key, message) =
            Client::new(Rank(rank), 10).gather("x", participants.clone(), vec![rank as u8]).unwrap();
        (key, agent.receive_up(Member::Rank(Rank(rank)), message).unwrap())
    };
    assert_eq!(contribute(9).1, []);
    let (key, actions) = contribute(4);
    let blobs = vec![(Rank(4), vec![4]), (Rank(9), vec![9])];
    assert_eq!(actions, [Action::ToUpstream(OobUp::Gather { key, blobs })]);
}

#[test]
fn rank_node_and_head_answer_requests() {
    let mut net = two_nodes();
    let targets = [
        Target::Head,
        Target::Node(NodeId(0)),
        Target::Node(NodeId(1)),
        Target::Rank(Rank(0)),
        Target::Rank(Rank(2)),
        Target::Rank(Rank(3)),
    ];
    let tokens = targets.map(|to| (to, net.request(Rank(0), to, b"who")));
    net.deliver_all();
    let answers = replies(&net, 0);
    assert_eq!(answers.len(), targets.len());
    for (to, token) in tokens {
        assert!(answers.contains(&(token, Ok(echo(to, b"who")))), "{to}");
    }
}

#[test]
fn who_is_not_there_is_named_in_the_reply() {
    let mut net = two_nodes();
    net.request(Rank(0), Target::Rank(Rank(4)), b"");
    net.request(Rank(0), Target::Node(NodeId(2)), b"");
    net.deliver_all();
    let expected = [
        (1, Err("rank 4 does not exist in this job".to_owned())),
        (2, Err("node 2 does not exist in this job".to_owned())),
    ];
    assert_eq!(replies(&net, 0), expected);
}

#[test]
fn a_request_to_a_rank_that_ends_before_it_answers_gets_its_end_as_reply() {
    for asker in [1, 2] {
        let mut net = two_nodes();
        net.request(Rank(asker), Target::Rank(Rank(0)), b"are you there");
        // Far enough to be in rank 0's socket, unread.
        let mut steps = 0;
        while net.waiting_for(Rank(0)) == 0 {
            assert!(net.deliver(steps) && steps < 10);
            steps += 1;
        }
        net.end_rank(Rank(0), "exited with code 1");
        net.deliver_all();
        assert_eq!(replies(&net, asker), [(1, Err("rank 0 exited with code 1".to_owned()))]);
        net.request(Rank(asker), Target::Rank(Rank(0)), b"are you there now");
        net.deliver_all();
        assert_eq!(replies(&net, asker)[1], (2, Err("rank 0 exited with code 1".to_owned())));
    }
}

#[test]
fn a_request_to_a_rank_that_is_declared_lost_is_answered_though_its_link_stands() {
    let mut head = RootHub::for_server(2);
    let [asker, asked] = [0, 1].map(|rank| Member::Rank(Rank(rank)));
    for member in [asker, asked] {
        head.member_joined(member).unwrap();
    }
    let (token, request) = Client::new(Rank(0), 2).request(asked.into(), Vec::new()).unwrap();
    head.receive_up(asker, request).unwrap();
    let body = Err("rank 1 is lost: killed by signal 9".to_owned());
    let reply = OobDown::Reply { to: asker.into(), token, body };
    assert_eq!(head.publish(lost(1)).last(), Some(&Action::ToMember(asker, reply)));
    let late = OobUp::Reply { to: asker.into(), token, body: Ok(Vec::new()) };
    assert_eq!(head.receive_up(asked, late), Ok(Vec::new()));
}

#[test]
fn a_reply_that_nobody_asked_for_goes_nowhere() {
    let mut net = two_nodes();
    let token = net.request(Rank(1), Target::Rank(Rank(0)), b"question");
    while net.waiting_for(Rank(0)) == 0 {
        assert!(net.deliver(0));
    }
    // Rank 2 answers in rank 0's place, over the same agent; rank 3 over the asker's.
    for impostor in [2, 3] {
        let body = Ok(b"forged".to_vec());
        net.send(Rank(impostor), OobUp::Reply { to: Target::Rank(Rank(1)), token, body });
    }
    // And rank 0 answers twice.
    let body = Ok(b"first".to_vec());
    net.send(Rank(0), OobUp::Reply { to: Target::Rank(Rank(1)), token, body });
    net.deliver_all();
    assert_eq!(replies(&net, 1), [(token, Ok(b"first".to_vec()))]);
}

#[test]
fn the_head_asks_and_is_answered() {
    for topology in [Topology::Nodes(vec![0, 0]), Topology::Server(2)] {
        let mut net = Net::joined(topology);
        let (token, actions) = net.head.request(Target::Rank(Rank(1)), b"where are you".to_vec()).unwrap();
        net.carry_out(Target::Head, actions);
        net.deliver_all();
        let body = Ok(echo(Target::Rank(Rank(1)), b"where are you"));
        assert_eq!(net.owned, [(Target::Head, Action::ReplyForMe { token, body })]);
    }
}

#[test]
fn a_late_rank_is_told_what_it_missed_and_then_asked() {
    let mut net = Net::new(Topology::Nodes(vec![0, 1]));
    net.join(Rank(0));
    net.request(Rank(0), Target::Rank(Rank(1)), b"are you up");
    net.publish(EventKind::Dump);
    net.publish(EventKind::Stop);
    net.deliver_all();
    assert!(net.learned[1].is_empty());
    net.join(Rank(1));
    net.deliver_all();
    let event = |sequence, kind| ClientEvent::Happened(Event { sequence, kind });
    let from = Target::Rank(Rank(0));
    let asked = ClientEvent::Requested { from, token: 1, body: b"are you up".to_vec() };
    assert_eq!(net.learned[1], [event(1, EventKind::Dump), event(2, EventKind::Stop), asked]);
    assert_eq!(replies(&net, 0), [(1, Ok(echo(Target::Rank(Rank(1)), b"are you up")))]);
}

#[test]
fn a_late_agent_is_told_what_its_node_missed() {
    let mut head = RootHub::for_head([(NodeId(0), vec![Rank(0)])]);
    assert_eq!(head.publish(EventKind::Dump), []);
    let missed = OobDown::Event(Event { sequence: 1, kind: EventKind::Dump });
    let node = Member::Node(NodeId(0));
    assert_eq!(head.member_joined(node), Ok(vec![Action::ToMember(node, missed)]));
}

#[test]
fn more_requests_than_a_hub_keeps_for_an_absent_rank_are_answered_by_an_error() {
    let mut net = Net::new(Topology::Nodes(vec![0, 1]));
    net.join(Rank(0));
    for _ in 0..=MAX_PARKED_REQUESTS {
        net.request(Rank(0), Target::Rank(Rank(1)), b"hello");
    }
    net.deliver_all();
    let early = replies(&net, 0);
    assert_eq!(early.len(), 1);
    assert!(early[0].1.as_ref().is_err_and(|reason| reason.starts_with("rank 1 has not joined yet")));
    net.join(Rank(1));
    net.deliver_all();
    assert_eq!(replies(&net, 0).len(), MAX_PARKED_REQUESTS + 1);
}

#[test]
fn a_rank_that_ends_before_it_joined_answers_nothing_that_waited_for_it() {
    let mut net = Net::new(Topology::Nodes(vec![0, 1]));
    net.join(Rank(0));
    net.request(Rank(0), Target::Rank(Rank(1)), b"hello");
    net.deliver_all();
    net.end_rank(Rank(1), "could not be started");
    net.deliver_all();
    assert_eq!(replies(&net, 0), [(1, Err("rank 1 could not be started".to_owned()))]);
}

#[test]
fn a_lost_rank_fails_its_allgathers_and_no_others() {
    let mut net = two_nodes();
    let without_0 = Participants::Ranks(vec![Rank(1), Rank(2), Rank(3)]);
    for rank in [1, 2] {
        net.gather(Rank(rank), "all", &Participants::World, b"");
        net.gather(Rank(rank), "some", &without_0, b"");
    }
    net.deliver_all();
    net.end_rank(Rank(0), "was killed");
    net.publish(lost(0));
    // Rank 3 has not heard of it when it contributes.
    net.gather(Rank(3), "all", &Participants::World, b"");
    net.gather(Rank(3), "some", &without_0, b"");
    net.deliver_all();
    for rank in 1..4 {
        let failed = net.learned[rank].iter().filter(|event| {
            matches!(event, ClientEvent::GatherFailed { key, lost: Rank(0), cause }
                if key.id == "all" && cause == "killed by signal 9")
        });
        assert_eq!(failed.count(), 1, "rank {rank}");
        assert_eq!(results(&net, rank as u32).len(), 1, "rank {rank}");
        let again = net.clients[rank].gather("all", Participants::World, Vec::new());
        assert_eq!(again.unwrap_err(), OobError::ParticipantLost { rank: Rank(0), id: "all".to_owned() });
        assert_eq!(net.clients[rank].lost(Rank(0)), Some("killed by signal 9"));
    }
}

#[test]
fn a_result_that_was_complete_before_the_loss_stands() {
    let mut net = two_nodes();
    (0..4).for_each(|rank| net.gather(Rank(rank), "all", &Participants::World, b""));
    while net.waiting_for_node(NodeId(0)) == 0 {
        assert!(net.deliver(0));
    }
    net.publish(lost(0));
    net.deliver_all();
    for rank in 1..4 {
        assert_eq!(results(&net, rank).len(), 1, "rank {rank}");
        assert!(!net.learned[rank as usize].iter().any(|e| matches!(e, ClientEvent::GatherFailed { .. })));
    }
}

#[test]
fn allgathers_with_a_lost_rank_take_no_room_at_a_hub() {
    for learns_first in [false, true] {
        let mut head = RootHub::for_server(3);
        let mut client = Client::new(Rank(1), 3);
        let me = Member::Rank(Rank(1));
        head.member_joined(me).unwrap();
        if learns_first {
            head.publish(lost(0));
        }
        for _ in 0..MAX_OPEN_GATHERS {
            let (_, message) = client.gather("all", Participants::World, Vec::new()).unwrap();
            assert_eq!(head.receive_up(me, message), Ok(Vec::new()));
        }
        head.publish(lost(0));
        let alone = Participants::Ranks(vec![Rank(1)]);
        let (_, message) = Client::new(Rank(1), 3).gather("alone", alone, Vec::new()).unwrap();
        assert_eq!(head.receive_up(me, message).map(|actions| actions.len()), Ok(1));
    }
}

#[test]
fn an_agent_sends_back_what_is_for_another_node() {
    let mut agent = RelayHub::for_agent(NodeId(0), [Rank(0)], 2);
    let (from, to) = (Target::Head, Target::Rank(Rank(1)));
    let actions = agent.receive_down(OobDown::Request { from, to, token: 3, body: Vec::new() });
    let body = Err("rank 1 is not on this node".to_owned());
    assert_eq!(actions, Ok(vec![Action::ToUpstream(OobUp::Reply { to: from, token: 3, body })]));
}

#[test]
fn a_rank_is_lost_once() {
    let mut net = two_nodes();
    net.publish(lost(0));
    net.publish(lost(0));
    assert_eq!(net.head.events().len(), 1);
}

#[test]
fn an_abort_reaches_the_owner_of_the_root_with_rank_and_code() {
    for topology in [Topology::Nodes(vec![0, 1]), Topology::Server(2)] {
        let mut net = Net::joined(topology);
        let message = net.clients[1].abort(7, "no memory");
        net.send(Rank(1), message);
        net.deliver_all();
        let asked = Action::AbortAsked { rank: Rank(1), code: 7, reason: "no memory".to_owned() };
        assert_eq!(net.owned, [(Target::Head, asked)]);
    }
}

#[test]
fn an_abort_gets_through_however_long_its_reason() {
    let mut net = two_nodes();
    // One byte, then characters of two, so that the limit falls within one.
    let message = net.clients[0].abort(1, &format!("x{}", "é".repeat(MAX_REASON_BYTES)));
    net.send(Rank(0), message);
    net.deliver_all();
    let [(_, Action::AbortAsked { reason, .. })] = net.owned.as_slice() else { panic!("{:?}", net.owned) };
    assert_eq!(reason.len(), MAX_REASON_BYTES - 1);
}

#[test]
fn events_come_out_in_order_whatever_order_they_arrive_in() {
    let event = |sequence| Event { sequence, kind: EventKind::Dump };
    let mut sequencer = EventSequencer::new();
    let mut receive = |sequence| -> Vec<u64> {
        sequencer.receive(event(sequence)).unwrap().iter().map(|event| event.sequence).collect()
    };
    assert_eq!(receive(2), []);
    assert_eq!(receive(4), []);
    assert_eq!(receive(1), [1, 2]);
    assert_eq!(receive(1), []);
    assert_eq!(receive(2), []);
    assert_eq!(receive(3), [3, 4]);
    assert_eq!(receive(0), []);
    let missing = OobError::EventsMissing { arrived: u64::MAX, next: 5 };
    assert_eq!(sequencer.receive(event(u64::MAX)), Err(missing));
}
