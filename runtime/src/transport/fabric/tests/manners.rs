//! One manner of EFA's at a time, much of it, on both kinds of card: what each would break, were it ignored, stays right.
//!
//! What is sent differs in every byte from message to message, so that bytes of another message, of an earlier one in the
//! same slot, or of none yet, are seen; and it is written over as soon as its send is over. The cards count how often they
//! had a manner, so that none is survived because it was never met.
//!
//! # What each test was seen to fail for
//!
//! A test that nothing makes fail shows nothing. So each manner was ignored on purpose, by one of these four changes, under which
//! both kinds of card still get everything right where they have no manners:
//!
//! - *looks*: `Direct::arrived`, and on a p4d `ReceiveEnd::message`, also show a message when its header and its last bytes are
//!   in the slot, before any notice or completion said so (which then counts for nothing);
//! - *last*: on a p4d `ReceiveSlot::whole` takes a message to be whole when the last of its pieces is here;
//! - *early*: the engine's next poll gives out the token of a send that was only posted;
//! - *reuse*: `SendEnd::free_slot` takes a slot whose credit has come, though its last send is not over.
//!
//! What the test failed for in each of eight runs or more (*reuse* on a p5 in nine of ten, the tenth on a busy machine; where cards
//! read, in eight of ten):
//!
//! | manner | test | p4d, by messages over four cards | p4d with one card, which reads | p5, by writes |
//! |---|---|---|---|---|
//! | `unordered` | `messages_overtake_each_other` | looks, last | looks | looks |
//! | `completions` | `completions_overtake_each_other` | looks, last | looks | reuse |
//! | `pieces` | `pieces_of_an_operation_land_in_any_order` | looks | looks | looks |
//! | `repeat` | `payloads_land_twice` | looks, last; see below | looks | looks |
//! | `not-ready` | `receivers_are_not_ready` | early | reuse; see below | early |
//! | `late` | `arrivals_are_late` | looks | looks, reuse | looks |
//!
//! Where a p4d's messages are short, the second landing of `repeat` itself can be ignored by nobody but the provider: packets land
//! in buffers of its own, and it copies one when it has its completion. What is left of the manner is that this comes later, and so
//! after others', which is what its test sees. Messages of 1 MiB and more the provider has the card read, straight to where they
//! are received, as a p5's are written. Our pieces are that long where a rank has one card, and never where it has
//! several; `counts` looks at both. What is read is written over when its send is over, so that *early* is wrong there without
//! any manner; and no read finds a receiver not ready. What does is the word that it was read, which then comes
//! behind the credit for the next message.

use super::soft_efa::{close_both, efa, efa_direct, pair, rails, rails_of_p5, run_body};
use super::*;
use crate::transport::kept::KeptBuffer;

/// A test per manner and kind of card.
macro_rules! under {
    ($($manner:ident: $options:literal;)*) => {
        mod p4d {
            $(#[test]
            fn $manner() {
                // Over several cards, as what the provider does with a manner on one is not ours to ignore.
                super::run("p4d", 4, "numbered_messages_both_ways", $options);
            })*
        }
        mod p4d_that_reads {
            $(#[test]
            fn $manner() {
                super::run("p4d", 1, "numbered_messages_that_are_read", $options);
            })*
        }
        mod p5 {
            $(#[test]
            fn $manner() {
                super::run("p5", 1, "numbered_messages_both_ways", $options);
            })*
        }
    };
}

under! {
    messages_overtake_each_other: "unordered=100:3000";
    completions_overtake_each_other: "completions=100:3000";
    pieces_of_an_operation_land_in_any_order: "pieces,unordered=50:300";
    payloads_land_twice: "repeat=100:2000";
    receivers_are_not_ready: "not-ready=60";
    arrivals_are_late: "late=20:20000";
}

mod bodies {
    #[test]
    fn numbered_messages_both_ways() {
        if super::support::body_runs_on().is_some() {
            super::numbered_messages_both_ways();
        }
    }

    #[test]
    fn numbered_messages_that_are_read() {
        if super::support::body_runs_on().is_some() {
            super::numbered_messages_that_are_read();
        }
    }

    #[test]
    fn a_queue_that_the_card_does_not_make() {
        if super::support::body_runs_on().is_some() {
            super::a_queue_that_the_card_does_not_make();
        }
    }
}

fn run(device: &str, nics: usize, body: &str, manners: &str) {
    let options = ["--device", device, "--nics", &nics.to_string(), "--manners", manners];
    run_body("2.5.1", &format!("{device}-{nics}-{manners}"), &format!("manners::bodies::{body}"), &options);
}

/// One of four rails goes down while messages of every size are under way in both directions, and all manners are on.
#[test]
fn a_rail_that_fails_amid_all_manners_is_gone_round() {
    for (device, begin) in [("p4d", 168), ("p4d", 400), ("p5", 400)] {
        let fault = format!("link-down=1@{begin}ops");
        let options =
            ["--device", device, "--nics", "4", "--manners", "all", "--timeout", "2000", "--fault", &fault];
        let body = "manners::bodies::numbered_messages_both_ways";
        run_body("2.5.1", &format!("{device}-rail-{begin}"), body, &options);
    }
}

/// Some sends over a rail fail and others, before and after them, reach the peer's card. There the provider keeps what came
/// after one that failed, and shows it to nobody; the sender was told that it was sent. It learns late what failed, and sends on.
#[test]
fn what_was_sent_after_what_failed_is_gone_round_too() {
    for device in ["p4d", "p5"] {
        let late = "completions=100:3000";
        let options =
            ["--device", device, "--nics", "4", "--manners", late, "--fault", "fail=13:30:nic1@100ops"];
        let body = "manners::bodies::numbered_messages_both_ways";
        run_body("2.5.1", &format!("{device}-behind"), body, &options);
    }
}

/// The card gives as many entries as the runtime asks for, and loses completions that find a queue full. On a p4d the
/// provider sizes the card's queue by itself.
#[test]
fn completions_never_find_a_queue_full() {
    let options = ["--device", "p5", "--manners", "srd", "--fault", "limit=entries:256"];
    run_body("2.5.1", "p5-full", "manners::bodies::numbered_messages_both_ways", &options);
}

#[test]
fn a_queue_that_a_card_does_not_make_is_told_by_card_and_remedy() {
    for device in ["p4d", "p5"] {
        let options = ["--device", device, "--fault", "limit=entries:100"];
        let body = "manners::bodies::a_queue_that_the_card_does_not_make";
        run_body("2.5.1", &format!("{device}-entries"), body, &options);
    }
}

/// Messages of every size that is treated differently.
fn numbered_messages_both_ways() {
    let [one, other] = pair(&config());
    let sizes = sizes(&one);
    exchange(one, other, &sizes, 15 * sizes.len(), false);
}

/// Messages that the receiving card reads, to where they are received, with shorter ones among them.
fn numbered_messages_that_are_read() {
    let [one, other] = pair(&config());
    let long = one.quick_bytes().unwrap();
    exchange(one, other, &[long, long, 1000, long], 160, false);
}

/// Messages of every size that is treated differently.
pub(super) fn sizes(transport: &FabricTransport) -> [usize; 12] {
    [0, 1, 15, 4000, 4080, 4081, 9000, 40_000, 100_000, 8, transport.slot_bytes(), 60_000]
}

/// Both ranks send and receive what is numbered, of these sizes in turn, as fast as credits allow; both also stay away from
/// their queues now and then, so that completions gather there. Where messages are to land, the receivers say so beforehand; the
/// memory is theirs again when a message is released, and nothing comes there any more. Gives how many landed.
pub(super) fn exchange(
    mut one: FabricTransport,
    mut other: FabricTransport,
    sizes: &[usize],
    count: usize,
    are_to_land: bool,
) -> u64 {
    one.open(&[Rank(1)], &[]).unwrap();
    other.open(&[], &[Rank(0)]).unwrap();
    let payload = |from: u32, number: usize| -> Vec<u8> {
        let len = sizes[number % sizes.len()];
        let seed = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(from) << 60;
        (0..len as u64)
            .map(|index| ((seed ^ index).wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 56) as u8)
            .collect()
    };
    let mut ends = [(&mut one, Rank(0), Rank(1)), (&mut other, Rank(1), Rank(0))].map(|(end, me, peer)| {
        let payloads: Vec<Vec<u8>> = (0..count).map(|number| payload(me.0, number)).collect();
        let places =
            are_to_land.then(|| Places::new(end, peer, (0..count).map(|it| sizes[it % sizes.len()])));
        End { transport: end, me, peer, payloads, sent: 0, taken: 0, completed: Vec::new(), places }
    });
    let deadline = Instant::now() + DEADLINE;
    let mut round = 0;
    while ends.iter().any(|end| end.taken < count || end.completed.len() < count) {
        assert!(
            Instant::now() < deadline,
            "{:?} in {DEADLINE:?}: {:#?}",
            ends.each_ref().map(|end| (end.sent, end.taken)),
            ends.each_ref().map(|end| end.transport.engine.as_ref().map(|engine| format!("{engine:?}"))),
        );
        round += 1;
        for end in &mut ends {
            end.send_all();
            // Every other round completions are left to gather.
            if round % 2 == 0 {
                let peer = end.peer;
                end.poll();
                end.take_all(|number| payload(peer.0, number));
            }
        }
    }
    for end in &ends {
        let mut tokens: Vec<u64> = end.completed.iter().map(|token| token.0).collect();
        tokens.sort_unstable();
        assert!(tokens.into_iter().eq(0..count as u64), "each send of rank {} is over once", end.me);
        let is_ours = |places: &Places| places.buffer.bytes().iter().all(|byte| *byte == OURS);
        assert!(end.places.iter().all(is_ours), "something came late to rank {}", end.me);
    }
    let landed = ends.iter().map(|end| end.transport.counts().landed).sum();
    drop(ends);
    assert_met(&manners());
    close_both(one, other);
    landed
}

/// The manners that these devices have, by name.
fn manners() -> Vec<String> {
    let words = std::env::var("SOFTEFA_MANNERS").unwrap_or_default();
    let names = words.split(',').map(|word| word.split('=').next().unwrap_or_default().trim());
    let set = |name: &str| match name {
        "all" => {
            ["pieces", "unordered", "completions", "repeat", "late", "not-ready"].map(str::to_owned).to_vec()
        }
        "srd" => ["pieces", "unordered", "completions"].map(str::to_owned).to_vec(),
        "" | "none" => Vec::new(),
        name => vec![name.to_owned()],
    };
    names.flat_map(set).collect()
}

/// Waits until the cards show that they had each of these manners.
fn assert_met(manners: &[String]) {
    let count = |manner: &String| -> u64 {
        let file = |card: &String| {
            affinity::sysfs().join(format!("class/infiniband/{card}/ports/1/manners/{manner}"))
        };
        let read = |card| std::fs::read_to_string(file(card)).unwrap().trim().parse::<u64>().unwrap();
        config().devices.iter().map(read).sum()
    };
    let deadline = Instant::now() + DEADLINE;
    while let Some(unmet) = manners.iter().find(|manner| count(manner) == 0) {
        assert!(Instant::now() < deadline, "the cards never had the manner `{unmet}`");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A rank under way.
struct End<'t> {
    transport: &'t mut FabricTransport,
    me: Rank,
    peer: Rank,
    payloads: Vec<Vec<u8>>,
    sent: usize,
    taken: usize,
    completed: Vec<SendToken>,
    places: Option<Places>,
}

/// Where a rank's messages are to land.
struct Places {
    buffer: KeptBuffer,
    /// By message.
    ranges: Vec<std::ops::Range<usize>>,
}

impl Places {
    /// Of messages that have these lengths. Of most the transport is told now; of every fifth it never is, and of every fifth only
    /// when it is the next.
    fn new(transport: &mut FabricTransport, peer: Rank, lens: impl Iterator<Item = usize>) -> Self {
        let mut end = 0_usize;
        let ranges: Vec<_> = lens
            .map(|len| {
                let start = end.next_multiple_of(16);
                end = start + len;
                start..end
            })
            .collect();
        let mut buffer = KeptBuffer::new(end);
        buffer.bytes_mut().fill(OURS);
        transport.keep(buffer.kept());
        let mut places = Places { buffer, ranges };
        for number in (0..places.ranges.len()).filter(|number| Places::is_told_early(*number)) {
            places.tell(transport, peer, number, number);
        }
        places
    }

    fn is_told_early(number: usize) -> bool {
        number % 5 > 1
    }

    #[expect(
        unsafe_code,
        reason = "expect_later's contract: the memory is looked at when its message was shown"
    )]
    fn tell(&mut self, transport: &mut FabricTransport, peer: Rank, number: usize, ahead: usize) {
        let memory = &raw mut self.buffer.bytes_mut()[self.ranges[number].clone()];
        // SAFETY: the buffer outlives the exchange, after which all messages were shown.
        unsafe { transport.expect_later(peer, ahead, memory) };
    }
}

/// What fills memory that its owner has back.
const OURS: u8 = 0x5A;

impl End<'_> {
    /// What was sent is written over once its send is over.
    fn poll(&mut self) {
        let before = self.completed.len();
        self.transport.poll(&mut self.completed).unwrap();
        for token in &self.completed[before..] {
            self.payloads[token.0 as usize].fill(0xEE);
        }
    }

    #[expect(unsafe_code, reason = "try_send's contract: the payloads outlive the sends, which all complete")]
    fn send_all(&mut self) {
        while let Some(payload) = self.payloads.get(self.sent) {
            let token = SendToken(self.sent as u64);
            // SAFETY: payloads are dropped when all sends are complete, or with the process.
            let sent =
                unsafe { self.transport.try_send(self.peer, header(payload), &raw const payload[..], token) };
            if !sent.unwrap() {
                break;
            }
            self.sent += 1;
        }
    }

    fn take_all(&mut self, expected: impl Fn(usize) -> Vec<u8>) {
        while let Some(message) = self.transport.arrived(self.peer).unwrap() {
            let (number, expected) = (self.taken, expected(self.taken));
            let wrong = message.payload.iter().zip(&expected).position(|(found, expected)| found != expected);
            assert_eq!(message.payload.len(), expected.len(), "message {number} to rank {}", self.me);
            assert_eq!(wrong, None, "message {number} of {} bytes to rank {}", expected.len(), self.me);
            self.transport.release(self.peer).unwrap();
            self.taken += 1;
            if let Some(places) = &mut self.places {
                let range = places.ranges[number].clone();
                places.buffer.bytes_mut()[range].fill(OURS);
                let next = number + 1;
                if next % 5 == 1 && next < places.ranges.len() {
                    places.tell(self.transport, self.peer, next, 0);
                }
            }
        }
    }
}

fn a_queue_that_the_card_does_not_make() {
    let refused = FabricTransport::new(&config()).map(|_| ()).unwrap_err().to_string();
    println!("{refused}");
    let card = if is_p5() { "rdmap79s0" } else { "rdmap16s27" };
    assert!(refused.contains("fi_cq_open") && refused.contains(card), "{refused}");
    assert!(refused.contains("start fewer ranks per card"), "{refused}");
}

pub(super) fn config() -> FabricConfig {
    let config = if is_p5() { efa_direct(2) } else { efa(2) };
    let count = std::env::var("SOFTEFA_NICS")
        .map_or(1, |count| count.parse().expect("scripts/soft-efa sets a number"));
    config.over(if is_p5() { rails_of_p5(count) } else { rails(count) })
}

fn is_p5() -> bool {
    std::env::var_os("SOFTEFA_DEVICE").is_some_and(|device| device == "p5")
}
