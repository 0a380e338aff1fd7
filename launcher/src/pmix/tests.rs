use efarun_wire::message::{
    GatherKey, JobMap, MappedNode, OobDown, OobUp, Participants, SpawnProgram, SpawnedWorld, Target,
};
use efarun_wire::{NodeId, Rank};

use super::description::{Info, Value, of_world};
use super::protocol::{Event, Group, Order, Published, Purpose, Report, Start};
use super::relay::{Action, Relay};

/// Ranks 0 and 2 on node 0, rank 1 on node 1.
fn map() -> JobMap {
    let node = |host: &str, ranks: &[u32]| MappedNode {
        host: host.to_owned(),
        ranks: ranks.iter().copied().map(Rank).collect(),
    };
    let nodes = vec![node("h1", &[0, 2]), node("h2", &[1])];
    JobMap { nodes, universe_size: 3, app_sizes: vec![1, 2], ..JobMap::default() }
}

fn relays() -> [Relay; 2] {
    [0, 1].map(|node| Relay::new(NodeId(node), &map()))
}

fn fence(token: u64, participants: Participants, blob: &[u8]) -> Report {
    Report::Fence { token, purpose: Purpose::Fence, participants, blob: blob.to_vec() }
}

/// Carries a question of one relay to another, and the answer back, with what the helpers do.
fn carry(relays: &mut [Relay; 2], from: usize, actions: Vec<Action>, card: &[u8]) -> Vec<Action> {
    let [Action::Up(OobUp::Request { to: Target::Node(node), .. })] = &actions[..] else {
        panic!("{actions:?}")
    };
    let mut answers = relays[node.index()].hear(passed_on(&actions[0])).unwrap();
    if let [Action::Order(Order::FindCard { token, .. })] = &answers[..] {
        let report = Report::Card { token: *token, blob: Some(card.to_vec()) };
        answers = relays[node.index()].reported(report);
    }
    let [answer] = &answers[..] else { panic!("{answers:?}") };
    relays[from].hear(passed_on(answer)).unwrap()
}

/// What the head makes of what a relay says.
fn passed_on(action: &Action) -> OobDown {
    match action.clone() {
        Action::Up(OobUp::Request { from, to, token, body }) => OobDown::Request { from, to, token, body },
        Action::Up(OobUp::Reply { to, token, body }) => OobDown::Reply { to, token, body },
        other => panic!("the head passes no such thing on: {other:?}"),
    }
}

fn gathered(key: &GatherKey, blobs: &[(Rank, Vec<u8>)]) -> OobDown {
    OobDown::Gathered { key: key.clone(), blobs: blobs.to_vec() }
}

/// What the head gathers where each node's ranks report this: the key, which is the same from all, and what all contribute.
fn contributed<'r>(
    relays: impl IntoIterator<Item = &'r mut Relay>,
    reports: impl IntoIterator<Item = Report>,
) -> (GatherKey, Vec<(Rank, Vec<u8>)>) {
    let (mut keys, mut contributions) = (Vec::new(), Vec::new());
    for (relay, report) in relays.into_iter().zip(reports) {
        match &relay.reported(report)[..] {
            [Action::Up(OobUp::Gather { key, blobs })] => {
                contributions.extend(blobs.clone());
                keys.push(key.clone());
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    contributions.sort();
    (keys.swap_remove(0), contributions)
}

#[test]
fn a_fence_gives_every_node_what_all_contributed_in_the_order_of_nodes() {
    let mut relays = relays();
    let reports = [&b"first"[..], b"second"].map(|blob| fence(7, Participants::World, blob));
    let (key, contributions) = contributed(&mut relays, reports);
    for relay in &mut relays {
        let order = Order::Fenced { token: 7, blob: Some(b"firstsecond".to_vec()) };
        assert_eq!(relay.hear(gathered(&key, &contributions)), Ok(vec![Action::Order(order)]));
        assert_eq!(relay.hear(gathered(&key, &contributions)), Ok(vec![]), "it is over");
    }
    // The next one of the same ranks is another.
    match &relays[0].reported(fence(8, Participants::World, b""))[..] {
        [Action::Up(OobUp::Gather { key: next, .. })] => assert_ne!(*next, key),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_fence_of_one_node_does_not_leave_it_and_one_that_cannot_be_is_refused() {
    let mut relay = Relay::new(NodeId(0), &map());
    let own = Participants::Ranks(vec![Rank(0), Rank(2)]);
    let fenced =
        |blob: Option<&[u8]>| [Action::Order(Order::Fenced { token: 1, blob: blob.map(<[u8]>::to_vec) })];
    assert_eq!(relay.reported(fence(1, own, b"own")), fenced(Some(b"own")));
    for ranks in [vec![Rank(1)], vec![Rank(0), Rank(3)]] {
        assert_eq!(relay.reported(fence(1, Participants::Ranks(ranks), b"")), fenced(None));
    }
    assert_eq!(relay.reported(fence(1, Participants::World, &vec![0; 8 << 20])), fenced(None));
}

#[test]
fn a_contribution_beyond_one_ranks_share_is_spread_and_put_together_again() {
    let mut relays = relays();
    let large: Vec<u8> = (0..3 << 19).map(|place: u32| place as u8).collect();
    let [Action::Up(OobUp::Gather { key, blobs })] =
        &relays[0].reported(fence(1, Participants::World, &large))[..]
    else {
        panic!("no allgather");
    };
    assert!(blobs.iter().all(|(_, blob)| blob.len() <= 1 << 20));
    let _ = relays[1].reported(fence(1, Participants::World, b"end"));
    // Rank 1's lies between those of ranks 0 and 2.
    let all = [blobs[0].clone(), (Rank(1), b"end".to_vec()), blobs[1].clone()];
    let [Action::Order(Order::Fenced { blob: Some(blob), .. })] =
        &relays[1].hear(gathered(key, &all)).unwrap()[..]
    else {
        panic!("no result");
    };
    assert!(*blob == [&large[..], b"end"].concat());
}

#[test]
fn a_ranks_card_comes_from_its_node_and_none_from_nowhere() {
    let mut relays = relays();
    let asked = relays[0].reported(Report::WantCard { token: 5, rank: Rank(1) });
    let card = Order::Card { token: 5, blob: Some(b"card".to_vec()) };
    assert_eq!(carry(&mut relays, 0, asked, b"card"), [Action::Order(card)]);
    let none = [Action::Order(Order::Card { token: 6, blob: None })];
    for nobody in [Rank(0), Rank(9)] {
        assert_eq!(relays[0].reported(Report::WantCard { token: 6, rank: nobody }), none);
    }
}

#[test]
fn what_is_published_is_found_from_every_node_until_it_is_taken_back() {
    let mut relays = relays();
    let value = Published { rank: Rank(1), key: b"service".to_vec(), kind: 3, bytes: b"port".to_vec() };
    let keys = vec![b"service".to_vec()];
    let done = |is_done| [Action::Order(Order::Done { token: 1, is_done })];
    // Somebody waits for it already.
    let wait = Report::Lookup { token: 4, keys: keys.clone(), waits: true };
    assert_eq!(relays[0].reported(wait), []);
    let publish = Report::Publish { token: 1, values: vec![value.clone()] };
    let asked = relays[1].reported(publish.clone());
    let [answer, found] = &relays[0].hear(passed_on(&asked[0])).unwrap()[..] else { panic!("two are told") };
    assert_eq!(*found, Action::Order(Order::Found { token: 4, values: vec![value.clone()] }));
    assert_eq!(relays[1].hear(passed_on(answer)).unwrap(), done(true));
    let again = relays[1].reported(publish);
    assert_eq!(carry(&mut relays, 1, again, b""), done(false));
    let look = Report::Lookup { token: 2, keys: keys.clone(), waits: false };
    let asked = relays[1].reported(look.clone());
    let found = |values| [Action::Order(Order::Found { token: 2, values })];
    assert_eq!(carry(&mut relays, 1, asked, b""), found(vec![value]));
    let unpublish = |keys| Report::Unpublish { token: 1, rank: Rank(1), keys };
    assert_eq!(relays[0].reported(unpublish(keys)), done(true));
    assert_eq!(relays[0].reported(look.clone()), found(Vec::new()));
    // All that is a rank's own, and nothing else.
    let publish = |rank: u32| Published { rank: Rank(rank), key: vec![rank as u8], kind: 3, bytes: vec![] };
    let values = vec![publish(1), publish(2)];
    assert_eq!(relays[0].reported(Report::Publish { token: 1, values: values.clone() }), done(true));
    assert_eq!(relays[0].reported(unpublish(Vec::new())), done(true));
    let look = Report::Lookup { token: 2, keys: vec![vec![1], vec![2]], waits: false };
    assert_eq!(relays[0].reported(look), found(values[1..].to_vec()));
}

#[test]
fn ends_and_a_lost_server_break_only_what_is_within() {
    let mut relay = Relay::new(NodeId(0), &map());
    assert_eq!(relay.ended_well(Rank(0)), []);
    assert_eq!(relay.lost("ended"), []);
    let _ = relay.reported(Report::Connected(Rank(0)));
    assert!(relay.has_connected(Rank(0)) && !relay.has_connected(Rank(2)));
    assert!(matches!(&relay.ended_well(Rank(0))[..], [Action::Broke { rank: Rank(0), .. }]));
    assert!(matches!(&relay.lost("ended")[..], [Action::Broke { rank: Rank(0), .. }]));
    let _ = relay.reported(Report::Finalized(Rank(0)));
    assert_eq!(relay.ended_well(Rank(0)), []);
    assert_eq!(relay.lost("ended"), []);
}

#[test]
fn a_server_that_stands_still_is_told_of_by_a_rank_that_may_wait_for_it() {
    let mut relay = Relay::new(NodeId(0), &map());
    let still = || Report::Unresponsive { seconds: 10 };
    let names = |actions: &[Action], named| matches!(actions, [Action::Broke { rank, how }] if *rank == Rank(named) && how.contains("stood still for 10 s"));
    // Whose first words it stands still over has not connected.
    assert!(names(&relay.reported(still()), 0));
    let _ = relay.ended_well(Rank(0));
    assert!(names(&relay.reported(still()), 2));
    for report in [Report::Connected(Rank(2)), Report::Finalized(Rank(2))] {
        let _ = relay.reported(report);
    }
    assert_eq!(relay.reported(still()), []);
}

#[test]
fn what_is_published_is_short() {
    let mut relay = Relay::new(NodeId(0), &map());
    let value = |len| Published { rank: Rank(0), key: b"k".to_vec(), kind: 3, bytes: vec![0; len] };
    let mut publish = |len| relay.reported(Report::Publish { token: 1, values: vec![value(len)] });
    assert_eq!(publish(5000), [Action::Order(Order::Done { token: 1, is_done: false })]);
    assert_eq!(publish(4000), [Action::Order(Order::Done { token: 1, is_done: true })]);
}

#[test]
fn what_another_node_asks_is_answered_whatever_it_is() {
    let mut relay = Relay::new(NodeId(0), &map());
    let own = Target::Node(NodeId(0));
    for body in [&b""[..], b"\xff\xff", &[0, 200, 1]] {
        let (from, token) = (Target::Node(NodeId(1)), 1 << 63 | 9);
        let asked = relay.hear(OobDown::Request { from, to: own, token, body: body.to_vec() }).unwrap();
        assert!(matches!(&asked[..], [Action::Up(OobUp::Reply { to, .. })] if *to == from), "{asked:?}");
    }
    let unasked = OobDown::Reply { to: own, token: 1 << 63, body: Ok(vec![0xff]) };
    assert_eq!(relay.hear(unasked), Ok(vec![]), "nothing was asked");
    let of_pmi = OobDown::Reply { to: own, token: 1, body: Ok(vec![]) };
    assert_eq!(relay.hear(of_pmi.clone()), Err(of_pmi), "it is for another server");
}

#[test]
fn a_job_is_described_with_every_rank_whole() {
    let start = Start {
        libraries: Vec::new(),
        job: "1".to_owned(),
        folder: "/tmp/own".to_owned(),
        memory_bytes: 1 << 30,
        node: NodeId(0),
        map: map(),
    };
    let infos = of_world(&start, &start.map);
    let value = |key: &str| infos.iter().find(|info| info.key == key).map(|info| info.value.clone());
    assert_eq!(value("pmix.nmap"), Some(Value::Nodes("h1,h2".to_owned())));
    assert_eq!(value("pmix.pmap"), Some(Value::RanksOfNodes("0,2;1".to_owned())));
    assert_eq!(value("pmix.lpeers"), Some(Value::Text("0,2".to_owned())));
    assert_eq!(value("pmix.job.size"), Some(Value::Number(3)));
    let ranks: Vec<&Info> = infos.iter().filter(|info| info.key == "pmix.pdata").collect();
    assert_eq!(ranks.len(), 3);
    let Value::List(second) = &ranks[1].value else { panic!("{ranks:?}") };
    let of = |key: &str| second.iter().find(|info| info.key == key).map(|info| info.value.clone());
    assert_eq!((of("pmix.rank"), of("pmix.lrank")), (Some(Value::Rank(2)), Some(Value::Short(1))));
    assert_eq!(
        (of("pmix.appnum"), of("pmix.hname")),
        (Some(Value::Number(1)), Some(Value::Text("h1".to_owned())))
    );
    assert_eq!(of("pmix.apprank"), Some(Value::Rank(1)));
    // Rank 1, which is on the other node.
    let Value::List(elsewhere) = &ranks[2].value else { panic!("{ranks:?}") };
    assert!(elsewhere.contains(&Info { key: "pmix.appnum", value: Value::Number(1) }), "{elsewhere:?}");
    assert_eq!(value("OMPI_APP_SIZES"), Some(Value::Text("1 2".to_owned())));
    assert_eq!(value("OMPI_FIRST_RANKS"), Some(Value::Text("0 1".to_owned())));
}

#[test]
fn a_further_worlds_ranks_are_numbered_within_it_and_its_nodes_are_those_that_have_some() {
    let node = |host: &str, ranks: &[u32]| MappedNode {
        host: host.to_owned(),
        ranks: ranks.iter().copied().map(Rank).collect(),
    };
    let nodes = vec![node("h1", &[]), node("h2", &[3, 5]), node("h3", &[4])];
    let further = JobMap { world: 2, first_rank: Rank(3), nodes, universe_size: 9, app_sizes: vec![3] };
    let start = Start {
        libraries: Vec::new(),
        job: "1".to_owned(),
        folder: "/tmp/own".to_owned(),
        memory_bytes: 1 << 30,
        node: NodeId(2),
        map: further.clone(),
    };
    let infos = of_world(&start, &further);
    let value = |key: &str| infos.iter().find(|info| info.key == key).map(|info| info.value.clone());
    assert_eq!(value("pmix.jobid"), Some(Value::Text("efarun-1-w2".to_owned())));
    assert_eq!(value("pmix.nmap"), Some(Value::Nodes("h2,h3".to_owned())));
    assert_eq!(value("pmix.pmap"), Some(Value::RanksOfNodes("0,2;1".to_owned())));
    assert_eq!(value("pmix.lpeers"), Some(Value::Text("1".to_owned())));
    let elsewhere = of_world(&Start { node: NodeId(0), ..start }, &further);
    assert!(elsewhere.iter().all(|info| info.key != "pmix.lpeers"), "there are none");
    // Ranks of both worlds meet: the fence is over all of their nodes.
    let mut relay = Relay::new(NodeId(1), &map());
    let meeting = |token| fence(token, Participants::Ranks((0..6).map(Rank).collect()), b"x");
    assert_eq!(
        relay.reported(meeting(1)),
        [Action::Order(Order::Fenced { token: 1, blob: None })],
        "there are no such ranks yet"
    );
    relay.admit(&further);
    let [Action::Up(OobUp::Gather { blobs, .. })] = &relay.reported(meeting(2))[..] else {
        panic!("no fence")
    };
    assert_eq!(blobs.iter().map(|(rank, _)| rank.0).collect::<Vec<_>>(), [1, 3, 5]);
}

#[test]
fn a_world_that_is_asked_for_is_ordered_and_answered_once() {
    let mut relay = Relay::new(NodeId(0), &map());
    let programs = vec![SpawnProgram { program: b"child".to_vec(), count: 2, ..SpawnProgram::default() }];
    let asked = relay.reported(Report::Spawn { token: 7, rank: Rank(2), programs: programs.clone() });
    let [Action::Spawn(order)] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((order.by, &order.programs), (Rank(2), &programs));
    let outcome = Ok(SpawnedWorld { world: 1, size: 2 });
    let told = [Action::Order(Order::Spawned { token: 7, world: Some(1) })];
    assert_eq!(relay.spawned(order.token, &outcome), told);
    assert_eq!(relay.spawned(order.token, &outcome), []);
}

#[test]
fn nobody_waits_for_the_card_of_a_rank_that_has_ended() {
    let mut relays = relays();
    let want = |token| Report::WantCard { token, rank: Rank(1) };
    let asked = relays[0].reported(want(5));
    assert!(matches!(&relays[1].hear(passed_on(&asked[0])).unwrap()[..], [Action::Order(_)]));
    // libpmix there still waits for the rank to say it.
    let ended = relays[1].ended_well(Rank(1));
    let none = |token| [Action::Order(Order::Card { token, blob: None })];
    assert_eq!(relays[0].hear(passed_on(&ended[0])).unwrap(), none(5));
    let asked = relays[0].reported(want(6));
    let answer = relays[1].hear(passed_on(&asked[0])).unwrap();
    assert_eq!(relays[0].hear(passed_on(&answer[0])).unwrap(), none(6), "one that asks later");
    // What one has said before its end is still there.
    let _ = relays[1].reported(Report::Connected(Rank(1)));
    let _ = relays[1].reported(Report::Finalized(Rank(1)));
    let asked = relays[0].reported(want(7));
    assert_eq!(
        carry(&mut relays, 0, asked, b"card"),
        [Action::Order(Order::Card { token: 7, blob: Some(b"card".to_vec()) })]
    );
}

#[test]
fn what_is_not_served_is_said_once_and_what_no_rank_may_ask_is_refused() {
    let mut relay = Relay::new(NodeId(0), &map());
    let called = || Report::NotServed { call: "PMIx_Group_construct".to_owned() };
    let note = "a rank called PMIx_Group_construct, which is not served here".to_owned();
    assert_eq!(relay.reported(called()), [Action::Note(note)]);
    assert_eq!(relay.reported(called()), []);
    let aborted = Report::Aborted { rank: Rank(1), code: 7, reason: String::new() };
    assert_eq!(relay.reported(aborted), []);
    let spawn = Report::Spawn { token: 3, rank: Rank(1), programs: Vec::new() };
    assert_eq!(relay.reported(spawn), [Action::Order(Order::Spawned { token: 3, world: None })]);
    // More than the head lets a rank take part in, or in no order.
    let refused = |token| [Action::Order(Order::Fenced { token, blob: None })];
    assert_eq!(relay.reported(fence(1, Participants::Ranks(vec![Rank(1), Rank(0)]), b"")), refused(1));
    let pair = Participants::Ranks(vec![Rank(0), Rank(1)]);
    let fences = (2..20).map(|token| relay.reported(fence(token, pair.clone(), b"")));
    let fences: Vec<_> = fences.collect();
    assert!(fences[..16].iter().all(|actions| matches!(&actions[..], [Action::Up(_)])));
    assert_eq!(fences[16], refused(18));
    let others = Participants::Ranks(vec![Rank(1), Rank(2)]);
    let fence_of_others = relay.reported(fence(20, others, b""));
    assert!(matches!(&fence_of_others[..], [Action::Up(_)]), "{fence_of_others:?}");
}

fn event(source: u32) -> Event {
    Event { code: -3100, source: Rank(source), range: 5, info_count: 1, infos: b"packed".to_vec() }
}

#[test]
fn an_event_goes_to_every_other_node_once_and_is_no_strangers() {
    let mut relays = relays();
    let actions = relays[0].reported(Report::Notify(event(2)));
    let [Action::Up(asked)] = &actions[..] else { panic!("{actions:?}") };
    let heard = relays[1].hear(passed_on(&Action::Up(asked.clone()))).unwrap();
    let [Action::Order(Order::Notify(told)), answer] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(*told, event(2));
    assert_eq!(relays[0].hear(passed_on(answer)), Ok(vec![]), "nobody waits for the answer");
    assert_eq!(relays[0].reported(Report::Notify(event(1))), [], "it is none of this node's ranks");
}

#[test]
fn of_events_that_come_faster_than_they_are_taken_the_first_that_is_lost_is_said() {
    let mut relays = relays();
    let long = || Event { infos: vec![0; 256 << 10], ..event(2) };
    assert!(!long().is_too_long());
    let said: Vec<Action> = (0..400).flat_map(|_| relays[0].reported(Report::Notify(long()))).collect();
    let asked = said.iter().filter(|action| matches!(action, Action::Up(_))).count();
    let notes: Vec<&Action> = said.iter().filter(|action| matches!(action, Action::Note(_))).collect();
    assert!(asked > 0 && asked + notes.len() == said.len());
    let [Action::Note(note)] = notes[..] else { panic!("{notes:?}") };
    assert!(note.starts_with("rank 2 tells of PMIx events faster than they go to node 1"), "{note}");
}

fn group(token: u64, participants: Participants, blob: &[u8]) -> Report {
    Report::Group { token, name: b"name".to_vec(), is_over: false, participants, blob: blob.to_vec() }
}

#[test]
fn a_group_has_the_first_nodes_number_on_all_nodes_and_another_one_the_next_time() {
    let mut relays = relays();
    let mut numbers = Vec::new();
    for round in 0..2 {
        let reports = [&b"first"[..], b"second"].map(|blob| group(round, Participants::World, blob));
        let (key, contributions) = contributed(&mut relays, reports);
        let made = relays.each_mut().map(|relay| relay.hear(gathered(&key, &contributions)).unwrap());
        assert_eq!(made[0], made[1]);
        let [Action::Order(Order::Grouped { token, group: Some(group) })] = &made[0][..] else {
            panic!("{made:?}")
        };
        assert_eq!((*token, &group.blob[..]), (round, &b"firstsecond"[..]));
        numbers.push(group.id);
    }
    assert_ne!(numbers[0], numbers[1]);
    // Of one node's ranks only: nobody else is asked, and no other node has its number.
    let own = [&[0, 2][..], &[1]].map(|ranks| Participants::Ranks(ranks.iter().copied().map(Rank).collect()));
    for (relay, own) in relays.iter_mut().zip(own) {
        match &relay.reported(group(9, own, b"own"))[..] {
            [Action::Order(Order::Grouped { token: 9, group: Some(Group { id, blob }) })] => {
                assert_eq!(blob, b"own");
                numbers.push(*id);
            }
            other => panic!("{other:?}"),
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 4);
}

#[test]
fn a_group_of_ranks_that_are_not_the_jobs_or_with_a_blob_that_is_no_contribution_is_refused() {
    let mut relays = relays();
    let strangers = Participants::Ranks(vec![Rank(0), Rank(7)]);
    let refused = [Action::Order(Order::Grouped { token: 1, group: None })];
    assert_eq!(relays[0].reported(group(1, strangers, b"")), refused);
    let [Action::Up(OobUp::Gather { key, .. })] =
        &relays[0].reported(group(1, Participants::World, b"x"))[..]
    else {
        panic!("no allgather")
    };
    let short: Vec<_> = [0, 1, 2].map(|rank| (Rank(rank), vec![1])).to_vec();
    assert_eq!(relays[0].hear(gathered(key, &short)), Ok(refused.to_vec()));
}
