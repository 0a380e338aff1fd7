//! What a rank cannot do to its hub, whatever it sends.

use efarun_wire::frame::{FrameReader, encode};
use efarun_wire::message::{GatherKey, OobUp, Participants, RankMessage, Target};
use efarun_wire::oob::{
    Action, Client, ClientEvent, MAX_BLOB_BYTES, MAX_GATHERED_BYTES, MAX_ID_BYTES, MAX_OPEN_GATHERS,
    MAX_OPEN_REQUESTS, MAX_RANK_BODY_BYTES, MAX_REQUEST_BYTES, Member, OobError, RelayHub, RootHub,
    blob_limit_bytes,
};
use efarun_wire::{NodeId, Rank};
use proptest::prelude::*;

use crate::net::{Net, Topology, echo};

const WORLD_SIZE: u32 = 4;
const ME: Rank = Rank(1);

/// An agent with ranks 1 and 2 of a world of 4, joined.
fn agent() -> RelayHub {
    let mut agent = RelayHub::for_agent(NodeId(0), [ME, Rank(2)], WORLD_SIZE);
    for rank in [ME, Rank(2)] {
        assert_eq!(agent.member_joined(Member::Rank(rank)), Ok(Vec::new()));
    }
    agent
}

fn key(id: &str, participants: Participants) -> GatherKey {
    GatherKey { id: id.to_owned(), epoch: 0, participants }
}

fn contribution(id: &str, participants: Participants, ranks: &[Rank]) -> OobUp {
    let blobs = ranks.iter().map(|rank| (*rank, vec![0])).collect();
    OobUp::Gather { key: key(id, participants), blobs }
}

fn request(from: Target, token: u64) -> OobUp {
    OobUp::Request { from, to: Target::Rank(Rank(3)), token, body: Vec::new() }
}

/// What the agent says to a message of rank 1; it then still serves rank 1.
fn refusal(message: OobUp) -> OobError {
    let mut agent = agent();
    let error = agent.receive_up(Member::Rank(ME), message).expect_err("must be refused");
    assert_still_serves(&mut agent);
    error
}

fn assert_still_serves(agent: &mut RelayHub) {
    let participants = Participants::Ranks(vec![ME, Rank(3)]);
    let (_, message) = Client::new(ME, WORLD_SIZE).gather("after", participants, vec![1]).expect("goes well");
    let actions = agent.receive_up(Member::Rank(ME), message.clone());
    assert_eq!(actions, Ok(vec![Action::ToUpstream(message)]));
}

fn world() -> Participants {
    Participants::World
}

fn ranks(ranks: &[u32]) -> Participants {
    Participants::Ranks(ranks.iter().copied().map(Rank).collect())
}

#[test]
fn nobody_speaks_before_joining_nor_joins_twice() {
    let member = Member::Rank(ME);
    let mut agent = RelayHub::for_agent(NodeId(0), [ME], WORLD_SIZE);
    let message = contribution("x", world(), &[ME]);
    assert_eq!(agent.receive_up(member, message.clone()), Err(OobError::NotJoined(member)));
    let stranger = Member::Rank(Rank(3));
    assert_eq!(agent.receive_up(stranger, message.clone()), Err(OobError::NotAMember(stranger)));
    assert_eq!(agent.member_joined(stranger), Err(OobError::NotAMember(stranger)));
    assert_eq!(agent.member_joined(member), Ok(Vec::new()));
    assert_eq!(agent.member_joined(member), Err(OobError::AlreadyJoined(member)));
    agent.member_gone(member, "left");
    assert_eq!(agent.member_joined(member), Err(OobError::AlreadyJoined(member)));
    assert_eq!(agent.receive_up(member, message), Err(OobError::NotJoined(member)));
}

#[test]
fn nobody_speaks_for_another() {
    let speaks_for = |claimed| OobError::Impersonation { member: Member::Rank(ME), claimed };
    for other in [Rank(2), Rank(3)] {
        let claimed = Target::Rank(other);
        assert_eq!(refusal(contribution("x", world(), &[other])), speaks_for(claimed));
        assert_eq!(refusal(contribution("x", world(), &[ME, other])), speaks_for(claimed));
        assert_eq!(refusal(request(claimed, 1)), speaks_for(claimed));
        let abort = OobUp::Abort { rank: other, code: 0, reason: String::new() };
        assert_eq!(refusal(abort), speaks_for(claimed));
    }
    for claimed in [Target::Head, Target::Node(NodeId(0)), Target::Node(NodeId(1))] {
        assert_eq!(refusal(request(claimed, 1)), speaks_for(claimed));
    }
}

#[test]
fn a_node_speaks_for_its_own_ranks_only() {
    let nodes = [(NodeId(0), vec![Rank(0)]), (NodeId(1), vec![Rank(1)])];
    let mut head = RootHub::for_head(nodes);
    let member = Member::Node(NodeId(0));
    head.member_joined(member).unwrap();
    let error = head.receive_up(member, contribution("x", world(), &[Rank(0), Rank(1)]));
    assert_eq!(error, Err(OobError::Impersonation { member, claimed: Target::Rank(Rank(1)) }));
    let error = head.receive_up(member, request(Target::Head, 1));
    assert_eq!(error, Err(OobError::Impersonation { member, claimed: Target::Head }));
}

#[test]
fn a_contribution_to_what_others_gather_is_refused() {
    let refused = refusal(contribution("x", ranks(&[2, 3]), &[ME]));
    assert_eq!(refused, OobError::NotAParticipant { rank: ME, id: "x".to_owned() });
}

#[test]
fn a_second_contribution_is_refused_until_the_result_is_there() {
    let error = OobError::ContributedTwice { rank: ME, id: "x".to_owned(), epoch: 0 };
    for participants in [ranks(&[1, 2]), ranks(&[1, 3])] {
        // The first waits for rank 2 at the agent, the second has been passed on.
        let mut agent = agent();
        let message = contribution("x", participants, &[ME]);
        agent.receive_up(Member::Rank(ME), message.clone()).unwrap();
        assert_eq!(agent.receive_up(Member::Rank(ME), message), Err(error.clone()));
        assert_still_serves(&mut agent);
    }
    let mut head = RootHub::for_server(WORLD_SIZE);
    head.member_joined(Member::Rank(ME)).unwrap();
    let message = contribution("x", world(), &[ME]);
    assert_eq!(head.receive_up(Member::Rank(ME), message.clone()), Ok(Vec::new()));
    assert_eq!(head.receive_up(Member::Rank(ME), message), Err(error));
}

#[test]
fn lists_of_ranks_that_no_client_makes_are_refused() {
    let bad = |what| OobError::BadRanks { what, world_size: WORLD_SIZE };
    for participants in [&[][..], &[1, 1], &[2, 1], &[1, WORLD_SIZE], &[1, u32::MAX]] {
        assert_eq!(refusal(contribution("x", ranks(participants), &[ME])), bad("participants"));
    }
    for contributors in [&[][..], &[ME, ME], &[Rank(2), ME]] {
        assert_eq!(refusal(contribution("x", world(), contributors)), bad("contributions"));
    }
}

#[test]
fn what_is_larger_than_its_limit_is_refused() {
    let too_large = |what, limit_bytes| OobError::TooLarge { what, len_bytes: limit_bytes + 1, limit_bytes };
    let refused = refusal(contribution(&"x".repeat(MAX_ID_BYTES + 1), world(), &[ME]));
    assert_eq!(refused, too_large("an allgather's id", MAX_ID_BYTES));
    let blobs = vec![(ME, vec![0; MAX_BLOB_BYTES + 1])];
    let refused = refusal(OobUp::Gather { key: key("x", world()), blobs });
    assert_eq!(refused, too_large("a blob", MAX_BLOB_BYTES));
    let body = vec![0; MAX_REQUEST_BYTES + 1];
    let (from, to) = (Target::Rank(ME), Target::Head);
    let refused = refusal(OobUp::Request { from, to, token: 1, body: body.clone() });
    assert_eq!(refused, too_large("a request", MAX_REQUEST_BYTES));
    let refused = refusal(OobUp::Reply { to, token: 1, body: Ok(body) });
    assert_eq!(refused, too_large("a reply", MAX_REQUEST_BYTES));
    let body = Err("x".repeat(MAX_REQUEST_BYTES + 1));
    assert_eq!(refusal(OobUp::Reply { to, token: 1, body }), too_large("a reply", MAX_REQUEST_BYTES));
}

#[test]
fn the_largest_result_of_an_allgather_fits_a_message() {
    assert_eq!(blob_limit_bytes(1), MAX_BLOB_BYTES);
    for count in [1, 2, 33, 1000, 10_000, 100_000] {
        assert!(count * blob_limit_bytes(count) <= MAX_GATHERED_BYTES);
        // A rank and a length take at most five bytes each, a participant in the key five more.
        assert!(MAX_GATHERED_BYTES + count * 15 + MAX_ID_BYTES < efarun_wire::frame::MAX_BODY_BYTES);
    }
}

#[test]
fn the_largest_messages_of_a_client_fit_what_is_accepted_of_a_rank() {
    let world_size = 100_000;
    let me = Rank(world_size - 1);
    let everybody = Participants::Ranks((0..world_size).map(Rank).collect());
    let id = "x".repeat(MAX_ID_BYTES);
    let mut client = Client::new(me, world_size);
    let (_, many) = client.gather(&id, everybody, vec![0; blob_limit_bytes(world_size as usize)]).unwrap();
    let (_, much) = client.gather(&id, Participants::Ranks(vec![me]), vec![0; MAX_BLOB_BYTES]).unwrap();
    let (_, asked) = client.request(Target::Rank(me), vec![0; MAX_REQUEST_BYTES]).unwrap();
    for message in [many, much, asked] {
        let mut reader = FrameReader::new(MAX_RANK_BODY_BYTES);
        reader.push(&encode(&RankMessage::Oob(message.clone())));
        assert_eq!(reader.next_message(), Ok(Some(RankMessage::Oob(message))));
    }
}

#[test]
fn a_rank_opens_no_more_allgathers_than_its_client_would() {
    let mut agent = agent();
    let mut client = Client::new(ME, WORLD_SIZE);
    for _ in 0..MAX_OPEN_GATHERS {
        let (_, message) = client.gather("x", world(), Vec::new()).unwrap();
        agent.receive_up(Member::Rank(ME), message).unwrap();
    }
    let error = OobError::TooManyOpenGathers { rank: ME, limit: MAX_OPEN_GATHERS };
    assert_eq!(client.gather("x", world(), Vec::new()).unwrap_err(), error);
    let refused = agent.receive_up(Member::Rank(ME), contribution("another", world(), &[ME]));
    assert_eq!(refused, Err(error));
    // Rank 2 is not held up by it.
    agent.receive_up(Member::Rank(Rank(2)), contribution("another", world(), &[Rank(2)])).unwrap();
}

#[test]
fn a_rank_opens_no_more_requests_than_its_client_would() {
    let mut agent = agent();
    let mut client = Client::new(ME, WORLD_SIZE);
    for _ in 0..MAX_OPEN_REQUESTS {
        let (_, message) = client.request(Target::Head, Vec::new()).unwrap();
        agent.receive_up(Member::Rank(ME), message).unwrap();
    }
    let asker = Target::Rank(ME);
    let error = OobError::TooManyOpenRequests { asker, limit: MAX_OPEN_REQUESTS };
    assert_eq!(client.request(Target::Head, Vec::new()).unwrap_err(), error);
    assert_eq!(agent.receive_up(Member::Rank(ME), request(asker, u64::MAX)), Err(error));
    agent.receive_up(Member::Rank(Rank(2)), request(Target::Rank(Rank(2)), 1)).unwrap();
}

/// Found by fuzzing.
#[test]
fn a_token_in_use_is_refused_also_where_nobody_could_answer() {
    let mut agent = agent();
    let asker = Target::Rank(ME);
    agent.member_gone(Member::Rank(Rank(2)), "left");
    agent.receive_up(Member::Rank(ME), request(asker, 1)).unwrap();
    let to_nobody = OobUp::Request { from: asker, to: Target::Rank(Rank(2)), token: 1, body: Vec::new() };
    let refused = agent.receive_up(Member::Rank(ME), to_nobody);
    assert_eq!(refused, Err(OobError::TokenInUse { asker, token: 1 }));
}

#[test]
fn a_token_is_refused_while_it_is_in_use() {
    let mut agent = agent();
    let asker = Target::Rank(ME);
    agent.receive_up(Member::Rank(ME), request(asker, 1)).unwrap();
    let refused = agent.receive_up(Member::Rank(ME), request(asker, 1));
    assert_eq!(refused, Err(OobError::TokenInUse { asker, token: 1 }));
}

fn any_rank() -> impl Strategy<Value = Rank> {
    (0u32..6).prop_map(Rank)
}

fn any_target() -> impl Strategy<Value = Target> {
    prop_oneof![
        any_rank().prop_map(Target::Rank),
        (0u32..4).prop_map(|node| Target::Node(NodeId(node))),
        Just(Target::Head),
    ]
}

fn any_blob() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        20 => proptest::collection::vec(any::<u8>(), 0..8),
        1 => Just(vec![0; MAX_BLOB_BYTES + 1]),
    ]
}

/// Anything that parses, with numbers small enough to meet.
fn any_message() -> impl Strategy<Value = OobUp> {
    let participants = prop_oneof![
        Just(Participants::World),
        proptest::collection::vec(any_rank(), 0..4).prop_map(Participants::Ranks),
        proptest::collection::btree_set(any_rank(), 1..4)
            .prop_map(|ranks| Participants::Ranks(ranks.into_iter().collect())),
    ];
    let key = (prop_oneof![Just("honest"), Just("other")], 0u32..3, participants)
        .prop_map(|(id, epoch, participants)| GatherKey { id: id.to_owned(), epoch, participants });
    let body = prop_oneof![any_blob().prop_map(Ok), Just(Err("no".to_owned()))];
    prop_oneof![
        4 => (key, proptest::collection::vec((any_rank(), any_blob()), 0..3))
            .prop_map(|(key, blobs)| OobUp::Gather { key, blobs }),
        3 => (any_target(), any_target(), 0u64..6, any_blob())
            .prop_map(|(from, to, token, body)| OobUp::Request { from, to, token, body }),
        3 => (any_target(), 0u64..6, body).prop_map(|(to, token, body)| OobUp::Reply { to, token, body }),
        1 => (any_rank(), any::<i32>(), ".*")
            .prop_map(|(rank, code, reason)| OobUp::Abort { rank, code, reason }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The net panics where a hub refuses an honest member, so that this also shows that an agent passes nothing on
    /// that the head would blame the agent for.
    #[test]
    fn a_hostile_rank_disturbs_nobody_else(
        under_launcher in any::<bool>(),
        messages in proptest::collection::vec((any_message(), 0usize..8), 0..80),
    ) {
        let topology = if under_launcher { Topology::Nodes(vec![0, 0, 1, 2]) } else { Topology::Server(4) };
        let mut net = Net::joined(topology);
        net.hostile = Some(Rank(0));
        let honest = ranks(&[1, 2, 3]);
        let mut requests = Vec::new();
        let mut contributed = 0;
        for (index, (message, deliveries)) in messages.into_iter().enumerate() {
            net.send(Rank(0), message);
            if index % 8 == 0 && contributed < 3 {
                contributed += 1;
                net.gather(Rank(contributed), "honest", &honest, &[contributed as u8]);
                let to = Target::Rank(Rank(contributed % 3 + 1));
                requests.push((Rank(contributed), net.request(Rank(contributed), to, b"?"), echo(to, b"?")));
            }
            for choice in 0..deliveries {
                net.deliver(choice * 7 + index);
            }
        }
        for rank in contributed + 1..=3 {
            net.gather(Rank(rank), "honest", &honest, &[rank as u8]);
        }
        net.deliver_all();
        for rank in 1..=3 {
            let gathered = net.learned[rank].iter().find_map(|event| match event {
                ClientEvent::Gathered { key, blobs } if key.id == "honest" && key.participants == honest => {
                    Some(blobs.clone())
                }
                _ => None,
            });
            let expected = (1..=3).map(|rank: u8| (Rank(rank.into()), vec![rank])).collect();
            prop_assert_eq!(gathered, Some(expected));
        }
        for (asker, token, answer) in requests {
            let reply = ClientEvent::Replied { token, body: Ok(answer) };
            prop_assert!(net.learned[asker.index()].contains(&reply));
        }
        // Whoever asked for an abort was the hostile rank in its own name.
        for (_, action) in &net.owned {
            if let Action::AbortAsked { rank, .. } = action {
                prop_assert_eq!(*rank, Rank(0));
            }
        }
    }
}
