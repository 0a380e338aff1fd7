//! What schedules say is sent, what our transport counts, and what the card does: the same.

use super::soft_efa::{close_both, difference, efa, efa_direct, pair, rails, run_body, stream_of};
use super::*;
use crate::coll::buffers::Buffers;
use crate::coll::collective::Collective;
use crate::coll::executor::{Call, Executor};
use crate::coll::plan::Plan;
use crate::coll::schedule::{Schedule, Step};
use crate::coll::select::{Algorithm, build};
use crate::coll::shape::Shape;
use crate::element::ReduceOp;

#[test]
fn on_a_p5_the_card_writes_what_schedules_send() {
    let options = ["--device", "p5", "--manners", "srd"];
    run_body("2.5.1", "p5-counts", "counts::bodies::a_card_writes_what_schedules_send", &options);
}

#[test]
fn on_a_p4d_the_transport_sends_what_schedules_do() {
    let options = ["--device", "p4d", "--manners", "srd"];
    run_body("2.5.1", "p4d-counts", "counts::bodies::a_transport_sends_what_schedules_do", &options);
}

#[test]
fn on_a_p4d_with_one_card_that_reads_long_messages_and_no_others() {
    let options = ["--device", "p4d", "--manners", "all"];
    run_body("2.5.1", "p4d-reads", "counts::bodies::a_card_reads_long_messages", &options);
}

#[test]
fn on_a_p4d_with_several_cards_none_reads() {
    let options = ["--device", "p4d", "--nics", "2", "--manners", "all"];
    run_body("2.5.1", "p4d-no-reads", "counts::bodies::no_card_of_several_reads", &options);
}

mod bodies {
    #[test]
    fn a_card_reads_long_messages() {
        if super::support::body_runs_on().is_some() {
            super::a_card_reads_long_messages();
        }
    }

    #[test]
    fn no_card_of_several_reads() {
        if super::support::body_runs_on().is_some() {
            super::no_card_of_several_reads();
        }
    }

    #[test]
    fn a_card_writes_what_schedules_send() {
        if super::support::body_runs_on().is_some() {
            super::a_card_writes_what_schedules_send();
        }
    }

    #[test]
    fn a_transport_sends_what_schedules_do() {
        if super::support::body_runs_on().is_some() {
            super::a_transport_sends_what_schedules_do();
        }
    }
}

/// A write per piece and one per header, a credit for each block of slots that a pair has used up, a grant for each pair;
/// and no byte more, and no message by any other way.
fn a_card_writes_what_schedules_send() {
    let mut ranks = world(&efa_direct(WORLD_SIZE));
    let sent = sent_by_all(&mut ranks);
    // Some algorithm has every pair of ranks exchange.
    let (credits, grants) = (sent.credits(), u64::from(WORLD_SIZE * (WORLD_SIZE - 1)));
    let writes = sent.messages + sent.pieces + credits + grants;
    let wanted = [0, writes, sent.payload_bytes + 16 * (sent.messages + credits + grants)];
    let deadline = Instant::now() + DEADLINE;
    loop {
        // Credits may wait for room; counters are shown a little later.
        ranks.iter_mut().for_each(progress);
        let found = at_card(["send_wrs", "rdma_write_wrs", "rdma_write_bytes"]);
        if found == wanted {
            break;
        }
        assert!(Instant::now() < deadline, "the card shows {found:?} instead of {wanted:?}, for {sent:?}");
    }
    assert_eq!(
        ranks.iter().map(|rank| rank.counts().credits).sum::<u64>(),
        credits,
        "our transports count as many"
    );
    ranks.iter_mut().for_each(|rank| rank.try_close().unwrap());
}

/// By messages the card also carries headers, credits and the provider's own packets.
fn a_transport_sends_what_schedules_do() {
    let mut ranks = world(&efa(WORLD_SIZE));
    let sent = sent_by_all(&mut ranks);
    let deadline = Instant::now() + DEADLINE;
    loop {
        ranks.iter_mut().for_each(progress);
        let [packets, writes, reads, bytes] =
            at_card(["send_wrs", "rdma_write_wrs", "rdma_read_wrs", "send_bytes"]);
        assert_eq!(
            (writes, reads),
            (0, 0),
            "a p4d does not write, and what is sent here is too short to be read"
        );
        if packets >= sent.messages && bytes >= sent.payload_bytes {
            println!("{sent:?}: {packets} packets, {} bytes of protocol", bytes - sent.payload_bytes);
            assert!(bytes < 2 * sent.payload_bytes, "{bytes} bytes for {sent:?}");
            break;
        }
        assert!(Instant::now() < deadline, "the card shows {packets} packets of {bytes} bytes for {sent:?}");
    }
    let opening =
        u64::from(WORLD_SIZE * (WORLD_SIZE - 1)) * Blocks::of(ranks[0].address.slots as usize).count() as u64;
    let wanted = opening + sent.credits();
    loop {
        let credits = ranks.iter().map(|rank| rank.counts().credits).sum::<u64>();
        if credits == wanted {
            break;
        }
        assert!(Instant::now() < deadline, "{credits} credits instead of {wanted} for {sent:?}");
        ranks.iter_mut().for_each(progress);
    }
    ranks.iter_mut().for_each(|rank| rank.try_close().unwrap());
}

/// Of what is not cut, the card reads every byte out of the memory that it is sent from, with its header; and it reads
/// nothing of what is shorter.
fn a_card_reads_long_messages() {
    let [mut sender, mut receiver] = pair(&efa(2));
    let len = sender.quick_bytes().unwrap();
    assert_eq!(len, sender.slot_bytes(), "a message is one piece on one rail");
    let payload: Vec<u8> = (0..len).map(|index| (index / 5) as u8).collect();
    stream_of(&mut sender, &mut receiver, COUNT_READ, &payload[..len - HEADER_BYTES - 1]);
    stream_of(&mut sender, &mut receiver, COUNT_READ, &payload);
    let wanted = (COUNT_READ * (len + HEADER_BYTES)) as u64;
    let deadline = Instant::now() + DEADLINE;
    loop {
        // Counters are shown a little later.
        progress(&mut receiver);
        let [bytes] = at_card(["rdma_read_bytes"]);
        assert!(bytes <= wanted, "the card has read {bytes} bytes, and {wanted} were long");
        if bytes == wanted {
            break;
        }
        assert!(Instant::now() < deadline, "the card has read {bytes} bytes of {wanted}");
    }
    close_both(sender, receiver);
}

/// What is lost over one of several rails has to be told to its sender, and a card that reads tells the receiver.
fn no_card_of_several_reads() {
    let [mut sender, mut receiver] = pair(&efa(2).over(rails(2)));
    assert_eq!(sender.quick_bytes(), None);
    let payload = vec![7; sender.slot_bytes()];
    stream_of(&mut sender, &mut receiver, COUNT_READ, &payload);
    let deadline = Instant::now() + DEADLINE;
    while at_card(["tx_bytes"])[0] < (COUNT_READ * payload.len() / 2) as u64 {
        assert!(Instant::now() < deadline, "the first card shows {:?}", at_card(["tx_bytes"]));
        progress(&mut sender);
    }
    assert_eq!(at_card(["rdma_read_wrs"]), [0]);
    close_both(sender, receiver);
}

/// What ranks have sent.
#[derive(Clone, Debug, Default)]
struct Sent {
    messages: u64,
    /// The same by sender and receiver.
    of_pairs: HashMap<(Rank, Rank), u64>,
    /// Of messages that are not sent in one.
    pieces: u64,
    payload_bytes: u64,
}

impl Sent {
    /// How many blocks of slots were used up, each of which is granted again.
    fn credits(&self) -> u64 {
        let blocks = Blocks::of(efa(WORLD_SIZE).slots);
        let of_block = (blocks.slots() / blocks.count()) as u64;
        self.of_pairs.values().map(|messages| messages / of_block).sum()
    }
}

/// Runs every collective by each of its algorithms; what all ranks sent, which each rank's transport has counted.
fn sent_by_all(ranks: &mut [FabricTransport]) -> Sent {
    let mut all = Sent::default();
    for collective in Collective::ALL {
        for &algorithm in Algorithm::of(collective) {
            let count = if collective == Collective::Barrier { 0 } else { COUNT };
            let segment_len = SEGMENT_BYTES / size_of::<u64>();
            let shape =
                Shape { collective, world_size: WORLD_SIZE, count, segment_len, credits: ranks[0].credits() };
            let schedule = build(algorithm, shape);
            let of_ranks: Vec<Sent> = std::thread::scope(|scope| {
                let run = |(rank, transport)| {
                    let schedule = build(algorithm, shape);
                    scope.spawn(move || run_rank(schedule, Rank(rank), transport))
                };
                let threads: Vec<_> = (0..).zip(ranks.iter_mut()).map(run).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for (rank, sent) in (0..).map(Rank).zip(of_ranks) {
                let spans = schedule.steps(rank).filter_map(|step| match step {
                    Step::Send { span, .. } => Some((span.len * size_of::<u64>()) as u64),
                    _ => None,
                });
                let (messages, bytes) = spans.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
                let what = format!("{collective:?} by {algorithm} on rank {rank}");
                assert_eq!((sent.messages, sent.payload_bytes), (messages, bytes), "{what}");
                for step in schedule.steps(rank) {
                    if let Step::Send { to, .. } = step {
                        *all.of_pairs.entry((rank, to)).or_default() += 1;
                    }
                }
                all.messages += sent.messages;
                all.pieces += sent.pieces;
                all.payload_bytes += sent.payload_bytes;
            }
        }
    }
    all
}

fn run_rank(schedule: Box<dyn Schedule>, rank: Rank, transport: &mut FabricTransport) -> Sent {
    let (collective, world_size, count) = (schedule.collective(), schedule.world_size(), schedule.count());
    let is_long = |step: &Step| matches!(step, Step::Send { span, .. } if span.len * size_of::<u64>() > slot::STAGED_BYTES);
    let pieces = schedule.steps(rank).filter(is_long).count() as u64;
    let input = vec![u64::from(rank.0); collective.input(rank, world_size, count).len()];
    let mut output = vec![0; collective.output(rank, world_size, count).len()];
    let plan = Plan::new(schedule, rank).unwrap();
    let before = transport.counts();
    let buffers = Buffers::out_of_place(&input, &mut output);
    let call = Call { sequence: 1, op: ReduceOp::Sum, buffers, patience: DEADLINE };
    Executor::new(Duration::ZERO).run(&plan, call, transport, &mut || None).unwrap();
    let after = transport.counts();
    Sent {
        messages: after.messages - before.messages,
        of_pairs: HashMap::new(),
        pieces,
        payload_bytes: difference(&after.payload_bytes, &before.payload_bytes).iter().sum(),
    }
}

/// What the card of all ranks has counted.
fn at_card<const N: usize>(counters: [&str; N]) -> [u64; N] {
    let folder = affinity::sysfs().join("class/infiniband");
    let card = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let read = |counter: &str| {
        let text = std::fs::read_to_string(card.join("ports/1/hw_counters").join(counter)).unwrap();
        text.trim().parse::<u64>().unwrap()
    };
    counters.map(read)
}

const WORLD_SIZE: u32 = 3;
/// Cut into several messages, of which some are too long to be sent in one.
const COUNT: usize = 30_011;
const SEGMENT_BYTES: usize = 128 << 10;
const COUNT_READ: usize = 20;
const HEADER_BYTES: usize = 16;
