//! Messages between ranks on the emulator: every byte arrives where it belongs, whoever is ahead of whom.

use efarun_wire::Rank;

use super::collectives::{Case, Chance, STEPS_MAX};
use super::emulator::{Emulator, Node, Work, pointer_to, slots};
use crate::coll::collective::Collective;
use crate::element::{ElementType, ReduceOp};
use crate::nvlink::call::DeviceMessage;
use crate::nvlink::layout::{PAIR_CHANNEL_BYTES, PAIR_SLOTS, PAIR_WARPS, ROUND_BYTES, SLOTS};
use crate::nvlink::parameters::status;
use crate::nvlink::part::Leaf;
use crate::nvlink::room::Room;

/// A message with memory at both ends.
struct Letter {
    from: u32,
    to: u32,
    data: Vec<u64>,
    space: Vec<u64>,
    skew: usize,
    bytes: usize,
}

impl Letter {
    fn new(chance: &mut Chance, from: u32, to: u32, bytes: usize) -> Letter {
        let skew = if chance.next().is_multiple_of(3) { 5 } else { 0 };
        let words = (bytes + skew).div_ceil(8) + 2;
        let data = (0..words).map(|_| chance.next()).collect();
        Letter { from, to, data, space: vec![GUARD; words], skew, bytes }
    }

    fn sent(&self) -> DeviceMessage {
        DeviceMessage {
            peer: Rank(self.to),
            data: pointer_to(&self.data).offset(self.skew),
            bytes: self.bytes,
        }
    }

    fn received(&self) -> DeviceMessage {
        let data = pointer_to(&self.space).offset(self.skew);
        DeviceMessage { peer: Rank(self.from), data, bytes: self.bytes }
    }

    fn check(&self, what: &str) {
        let mut expected = vec![GUARD; self.space.len()];
        let part = self.skew..self.skew + self.bytes;
        let sent: &[u8] = bytemuck::cast_slice(&self.data);
        bytemuck::cast_slice_mut::<u64, u8>(&mut expected)[part.clone()].copy_from_slice(&sent[part]);
        assert!(self.space == expected, "{what}: {} bytes from {} to {}", self.bytes, self.from, self.to);
    }
}

/// What a rank has in a group of letters.
fn group(rank: u32, letters: &[Letter]) -> Work {
    let sends = letters.iter().filter(|letter| letter.from == rank).map(Letter::sent).collect();
    let receives = letters.iter().filter(|letter| letter.to == rank).map(Letter::received).collect();
    Work::Messages(sends, receives)
}

fn takes_part(rank: u32, letters: &[Letter]) -> bool {
    letters.iter().any(|letter| letter.from == rank || letter.to == rank)
}

fn run(emulator: &Emulator, ranks: u32, works: &[Vec<Work>], seed: u64, node: &Node, what: &str) {
    let ended = emulator.run_all(node, works, seed, STEPS_MAX);
    for rank in 0..ranks as usize {
        assert_eq!(node.status(rank)[0], 0, "{what}: rank {rank} gave up: {:?}", node.status(rank));
    }
    assert!(ended, "{what}: not all ranks ended");
    node.check_guards(what);
}

#[test]
fn messages_of_all_lengths_arrive_between_ranks_that_take_part() {
    let Some(emulator) = Emulator::new("messages_of_all_lengths_arrive_between_ranks_that_take_part") else {
        return;
    };
    for seed in 0..6 {
        pass_groups(&emulator, seed, [2, 3, 4][seed as usize % 3], Room::WHOLE);
    }
}

#[test]
fn messages_of_all_lengths_arrive_between_ranks_that_share_gpus() {
    let Some(emulator) = Emulator::new("messages_of_all_lengths_arrive_between_ranks_that_share_gpus") else {
        return;
    };
    // With room for lines and slots of two channels, of one, and for one way only.
    for (seed, ranks, room) in
        [(0, 4, Room::of(2, 24)), (1, 4, Room::of(4, 24)), (2, 4, Room::of(4, 16)), (3, 8, Room::of(8, 64))]
    {
        pass_groups(&emulator, seed, ranks, room);
    }
}

/// Groups of messages one behind the other.
fn pass_groups(emulator: &Emulator, seed: u64, ranks: u32, room: Room) {
    let mut chance = Chance(seed);
    let long = slots(ranks).within(ranks, room).message_bytes_min.max(2);
    let lengths = [1, 119, 480, 3000, PAIR_CHANNEL_BYTES + 1, long - 1, long, 3 * long + 5, 200_003];
    // Groups one behind the other, in which some ranks have nothing, and pairs several messages.
    let mut groups: Vec<Vec<Letter>> = Vec::new();
    for _ in 0..5 {
        let mut letters = Vec::new();
        for _ in 0..=chance.next() % 5 {
            let from = (chance.next() % u64::from(ranks)) as u32;
            let to = (from + 1 + (chance.next() % u64::from(ranks - 1)) as u32) % ranks;
            let bytes = lengths[chance.next() as usize % lengths.len()];
            letters.push(Letter::new(&mut chance, from, to, bytes));
        }
        groups.push(letters);
    }
    if room.is_shared() {
        // All that a launch can have: everybody gives everybody something by lines, and something by slots.
        let pairs = (0..ranks).flat_map(|from| (1..ranks).map(move |k| (from, (from + k) % ranks)));
        let both = pairs.flat_map(|(from, to)| [long - 1, 3 * long + 5].map(|bytes| (from, to, bytes)));
        groups.push(both.map(|(from, to, bytes)| Letter::new(&mut chance, from, to, bytes)).collect());
    }
    let of = |rank: u32| {
        let own = groups.iter().filter(|letters| takes_part(rank, letters));
        own.map(|letters| group(rank, letters)).collect::<Vec<_>>()
    };
    let works: Vec<_> = (0..ranks).map(of).collect();
    let node = Node::new(ranks, u64::MAX).within(room);
    run(emulator, ranks, &works, seed, &node, &format!("seed {seed}"));
    groups.iter().flatten().for_each(|letter| letter.check(&format!("seed {seed}")));
}

#[test]
fn a_sender_is_no_further_ahead_than_there_is_room() {
    let Some(emulator) = Emulator::new("a_sender_is_no_further_ahead_than_there_is_room") else { return };
    // Several times what one channel has room for; the receiver reads first what was sent last, to another rank.
    let room = (PAIR_WARPS * PAIR_SLOTS) as usize * ROUND_BYTES;
    let mut chance = Chance(3);
    let letters: Vec<_> = (0..12).map(|_| Letter::new(&mut chance, 0, 1, PAIR_CHANNEL_BYTES - 7)).collect();
    assert!(12 * PAIR_CHANNEL_BYTES > room + room / 2, "it does not fit at once");
    let one_by_one = |rank| letters.chunks(1).map(|letter| group(rank, letter)).collect::<Vec<_>>();
    let node = Node::new(2, u64::MAX);
    run(&emulator, 2, &[one_by_one(0), one_by_one(1)], 5, &node, "ahead");
    letters.iter().for_each(|letter| letter.check("ahead"));
    // Without a receiver it waits, and says for whom.
    let node = Node::new(2, 1 << 20);
    assert!(emulator.run_all(&node, &[one_by_one(0), Vec::new()], 1, 1 << 28));
    let found = node.status(0);
    assert_eq!((found[status::CAUSE], found[status::PEER]), (status::CAUSE_TIMEOUT, 1));
}

#[test]
fn a_sender_of_long_messages_is_no_further_ahead_than_there_are_slots() {
    let Some(emulator) = Emulator::new("a_sender_of_long_messages_is_no_further_ahead_than_there_are_slots")
    else {
        return;
    };
    // Each message has several times the slices that there are slots, and there are several.
    let room = slots(2).channels as usize * SLOTS * slots(2).bytes;
    for seed in 0..3 {
        let mut chance = Chance(seed);
        let both = [(0, 1), (1, 0), (0, 1), (1, 0)];
        let letters: Vec<_> = both
            .into_iter()
            .map(|(from, to)| Letter::new(&mut chance, from, to, 3 * room - 7 * from as usize))
            .collect();
        // One way first and then the other, and both at once.
        let one_by_one = |rank| letters[..2].chunks(1).map(move |letter| group(rank, letter));
        let works = [0, 1].map(|rank| one_by_one(rank).chain([group(rank, &letters[2..])]).collect());
        let node = Node::new(2, u64::MAX);
        run(&emulator, 2, &works, seed, &node, "long");
        letters.iter().for_each(|letter| letter.check("long"));
    }
    // Without a receiver it waits, and says for whom.
    let letter = Letter::new(&mut Chance(1), 0, 1, 2 * room);
    let node = Node::new(2, 1 << 20);
    let sent = group(0, std::slice::from_ref(&letter));
    assert!(emulator.run_all(&node, &[vec![sent], Vec::new()], 1, 1 << 28));
    let found = node.status(0);
    assert_eq!((found[status::CAUSE], found[status::PEER]), (status::CAUSE_TIMEOUT, 1));
}

#[test]
fn a_receiver_of_another_length_names_the_sender() {
    let Some(emulator) = Emulator::new("a_receiver_of_another_length_names_the_sender") else { return };
    for bytes in [1000, 100_000] {
        let mut letter = Letter::new(&mut Chance(1), 0, 1, bytes);
        let sent = group(0, std::slice::from_ref(&letter));
        letter.bytes = bytes - 1;
        let received = group(1, std::slice::from_ref(&letter));
        let node = Node::new(2, 1 << 24);
        assert!(emulator.run_all(&node, &[vec![sent], vec![received]], 1, 1 << 28));
        let found = node.status(1);
        assert_eq!((found[status::CAUSE], found[status::PEER]), (status::CAUSE_MISMATCH, 0), "{bytes}");
    }
}

/// What both ends take a message's length to be.
fn of_two_lengths(seed: u64, sent: usize, received: usize) -> (Letter, Letter) {
    let letter = |bytes| Letter::new(&mut Chance(seed), 0, 1, bytes);
    (letter(sent), letter(received))
}

#[test]
fn ranks_that_take_a_message_to_be_long_and_short_are_told_of_each_other() {
    let Some(emulator) =
        Emulator::new("ranks_that_take_a_message_to_be_long_and_short_are_told_of_each_other")
    else {
        return;
    };
    let room = slots(2).channels as usize * SLOTS * slots(2).bytes;
    // A long one that is gone before anybody takes it, one for which there are not enough slots, and a short one, each behind
    // a short and a long one on which both agree.
    for (seed, (sent, received)) in [(40_000, 900), (3 * room, 900), (900, 40_000)].into_iter().enumerate() {
        let (of_sender, of_receiver) = of_two_lengths(seed as u64, sent, received);
        let before = [Letter::new(&mut Chance(7), 0, 1, 500), Letter::new(&mut Chance(8), 0, 1, 35_000)];
        let (sends, receives) = ([of_sender], [of_receiver]);
        let node = Node::new(2, u64::MAX);
        let works = [vec![group(0, &before), group(0, &sends)], vec![group(1, &before), group(1, &receives)]];
        assert!(emulator.run_all(&node, &works, seed as u64, STEPS_MAX), "{sent} for {received}: it ends");
        before.iter().for_each(|letter| letter.check("before"));
        let told = |rank: usize| {
            let words = node.status(rank);
            (words[status::CAUSE], words[status::PEER], words[status::SIGNATURE] as usize)
        };
        assert_eq!(told(1), (status::CAUSE_MISMATCH, 0, sent), "{sent} for {received}");
        // Who has sent all is through with it, and is told when it waits for that rank the next time.
        if sent > room {
            assert_eq!(told(0), (status::CAUSE_MISMATCH, 1, received), "{sent} for {received}");
        } else {
            assert_eq!(node.status(0)[status::STOP], 0, "{sent} for {received}");
            let answer = Letter::new(&mut Chance(3), 1, 0, 600);
            let waits = group(0, std::slice::from_ref(&answer));
            assert!(emulator.run_all(&node, &[vec![waits], Vec::new()], 1, STEPS_MAX));
            assert_eq!(told(0), (status::CAUSE_MISMATCH, 1, received), "{sent} for {received}");
        }
    }
}

/// Both ends of a message behind others, in one group with them.
fn behind(rank: u32, before: &[Letter], last: &Letter) -> Work {
    let (mut sends, mut receives) = (Vec::new(), Vec::new());
    for letters in [before, std::slice::from_ref(last)] {
        let Work::Messages(sent, received) = group(rank, letters) else { unreachable!("a group") };
        sends.extend(sent);
        receives.extend(received);
    }
    Work::Messages(sends, receives)
}

#[test]
fn ranks_that_do_not_agree_on_a_message_within_a_group_are_told_of_that_one() {
    let Some(emulator) =
        Emulator::new("ranks_that_do_not_agree_on_a_message_within_a_group_are_told_of_that_one")
    else {
        return;
    };
    let room = slots(2).channels as usize * SLOTS * slots(2).bytes;
    for (seed, (sent, received)) in [(40_000, 900), (3 * room, 900), (900, 40_000)].into_iter().enumerate() {
        let (of_sender, of_receiver) = of_two_lengths(seed as u64, sent, received);
        let before = [Letter::new(&mut Chance(7), 0, 1, 500), Letter::new(&mut Chance(8), 0, 1, 35_000)];
        let node = Node::new(2, u64::MAX);
        let works = [vec![behind(0, &before, &of_sender)], vec![behind(1, &before, &of_receiver)]];
        assert!(emulator.run_all(&node, &works, seed as u64, STEPS_MAX), "{sent} for {received}: it ends");
        let words = node.status(1);
        let told = (words[status::CAUSE], words[status::PEER], words[status::SIGNATURE] as usize);
        assert_eq!(told, (status::CAUSE_MISMATCH, 0, sent), "{sent} for {received}");
    }
}

#[test]
fn who_waits_long_for_a_message_of_a_group_takes_it_for_no_other_one() {
    let Some(emulator) = Emulator::new("who_waits_long_for_a_message_of_a_group_takes_it_for_no_other_one")
    else {
        return;
    };
    // Long enough for a look at what is noted, thousands of polls into a wait.
    let pause = || Work::Pause(3_000);
    for (seed, lengths) in
        [[700, 900], [700, 31_000], [31_000, 700], [31_000, 33_000]].into_iter().enumerate()
    {
        let mut chance = Chance(seed as u64);
        let letters = lengths.map(|bytes| Letter::new(&mut chance, 0, 1, bytes));
        let (first, second) = letters.split_at(1);
        // Received in one group while the second is long not sent; then sent in one group while the first is long not
        // received, and the second waited for behind it.
        for is_sender_late in [true, false] {
            let (early, late) = if is_sender_late { (1, 0) } else { (0, 1) };
            let mut works = [Vec::new(), Vec::new()];
            works[early] = vec![group(early as u32, &letters)];
            works[late] = vec![group(late as u32, first), pause(), group(late as u32, second)];
            let node = Node::new(2, u64::MAX);
            let what = format!("{lengths:?}, the sender late: {is_sender_late}");
            run(&emulator, 2, &works, seed as u64, &node, &what);
            letters.iter().for_each(|letter| letter.check(&what));
        }
    }
}

#[test]
fn messages_in_one_group_are_taken_one_by_one_and_the_other_way_round() {
    let Some(emulator) = Emulator::new("messages_in_one_group_are_taken_one_by_one_and_the_other_way_round")
    else {
        return;
    };
    // More than there are notes in all, and by both ways, so that one of a later number comes first by the other.
    for (seed, lengths) in [[700, 31_000], [31_000, 700]].into_iter().enumerate() {
        let mut chance = Chance(seed as u64);
        let letters: Vec<_> =
            (0..150).map(|at| Letter::new(&mut chance, 0, 1, lengths[at % 2] + at)).collect();
        let in_parts =
            |rank, len: usize| letters.chunks(len).map(|part| group(rank, part)).collect::<Vec<_>>();
        for (is_counted, (sent, received)) in [(true, (50, 1)), (true, (1, 50)), (false, (50, 1))] {
            let node = Node::new(2, u64::MAX);
            if !is_counted {
                node.count_no_messages(seed % 2);
            }
            let works = [in_parts(0, sent), in_parts(1, received)];
            run(&emulator, 2, &works, seed as u64, &node, &format!("{sent} and {received}"));
            letters.iter().for_each(|letter| letter.check("one by one"));
        }
    }
}

#[test]
fn collectives_and_messages_do_not_disturb_each_other() {
    let Some(emulator) = Emulator::new("collectives_and_messages_do_not_disturb_each_other") else { return };
    let (ranks, mut chance) = (3, Chance(8));
    let node = Node::new(ranks, u64::MAX);
    let case = |leaf, seed| {
        Case::new((Collective::AllReduce, leaf), (ElementType::I32, ReduceOp::Sum), (ranks, 500), seed)
    };
    let cases = [case(Leaf::OneShot, 1), case(Leaf::TwoShot, 3), case(Leaf::OneShot, 5)];
    let letters: Vec<_> = (0..3).map(|from| Letter::new(&mut chance, from, (from + 1) % 3, 5000)).collect();
    let expected: Vec<_> = cases.iter().map(Case::expected).collect();
    let works: Vec<_> = (0..ranks)
        .map(|rank| {
            let mut works = Vec::new();
            for case in &cases {
                works.push(Work::Call(case.request(rank)));
                works.push(group(rank, if works.len() == 1 { &letters } else { &[] }));
            }
            works.retain(|work| !matches!(work, Work::Messages(sends, _) if sends.is_empty()));
            works
        })
        .collect();
    run(&emulator, ranks, &works, 2, &node, "both");
    letters.iter().for_each(|letter| letter.check("both"));
    for (case, expected) in cases.iter().zip(&expected) {
        case.check(expected, "both");
    }
}

const GUARD: u64 = 0x5a5a_5a5a_5a5a_5a5a;
