//! Rings between threads: order, credit, sleeping, closing, and peers that write what they should not.

use std::sync::Barrier;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::*;
use crate::transport::conformance::conformance;

/// One transport per rank; each but the first over a mapping of its own, as in separate processes.
fn node(geometry: Geometry) -> Vec<ShmTransport> {
    let ranks: Vec<Rank> = (0..geometry.ranks).map(|index| Rank(10 + index)).collect();
    let arena = Arena::create(geometry).expect("an arena");
    let offer = Offer::from_bytes(&arena.offer().to_bytes()).expect("an offer survives its bytes");
    let opened = ranks[1..].iter().map(|_| Arena::open(&offer, geometry).expect("opens")).collect::<Vec<_>>();
    std::iter::once(arena)
        .chain(opened)
        .zip(&ranks)
        .map(|(arena, &me)| ShmTransport::new(Arc::new(arena), me, ranks.clone()))
        .collect()
}

fn pair() -> (ShmTransport, ShmTransport) {
    let mut both = node(Geometry { ranks: 2, slots: 4, slot_bytes: 4096 });
    let mut receiver = both.pop().expect("two");
    let mut sender = both.pop().expect("two");
    sender.open(&[], &[B]).expect("opens");
    receiver.open(&[A], &[]).expect("opens");
    (sender, receiver)
}

#[expect(unsafe_code, reason = "the contract of try_send")]
fn send(transport: &mut ShmTransport, to: Rank, payload: &[u8]) -> Result<bool, TransportError> {
    let len_bytes = u32::try_from(payload.len()).expect("small");
    let header = Header { signature: 7, sequence: 1, len_bytes };
    // SAFETY: the payload is copied before the call returns.
    unsafe { transport.try_send(to, header, payload, SendToken(1)) }
}

const A: Rank = Rank(10);
const B: Rank = Rank(11);
const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn shared_memory_conforms() {
    conformance(|world_size| {
        let ranks: Vec<Rank> = (0..world_size).map(Rank).collect();
        let arena = Arc::new(Arena::create(Geometry::new(world_size)).expect("an arena"));
        let make =
            |&me| Box::new(ShmTransport::new(Arc::clone(&arena), me, ranks.clone())) as Box<dyn Transport>;
        ranks.iter().map(make).collect()
    });
}

#[test]
fn a_send_waits_until_the_receiver_has_opened() {
    let mut both = node(Geometry::new(2));
    both[0].open(&[], &[B]).expect("opens");
    assert!(!send(&mut both[0], B, b"early").expect("no error"));
    both[1].open(&[A], &[]).expect("opens");
    assert!(send(&mut both[0], B, b"now").expect("no error"));
    let message = both[1].arrived(A).expect("no error").expect("a message");
    assert_eq!(message.payload, b"now");
    assert_eq!(message.header, Header { signature: 7, sequence: 1, len_bytes: 3 });
    assert_eq!(message.payload.as_ptr() as usize % 64, 0);
}

#[test]
fn slots_are_a_credit_that_release_gives_back() {
    let (mut sender, mut receiver) = pair();
    for number in 0..4 {
        assert!(send(&mut sender, B, &[number]).expect("no error"));
    }
    assert!(!send(&mut sender, B, &[4]).expect("no error"));
    let mut completed = Vec::new();
    sender.poll(&mut completed).expect("no error");
    assert_eq!(completed.len(), 4, "a refused send is not completed");
    for number in 0..12 {
        assert_eq!(receiver.arrived(A).expect("no error").expect("a message").payload, [number]);
        receiver.release(A).expect("no error");
        assert!(send(&mut sender, B, &[number + 4]).expect("no error"));
    }
}

#[test]
fn a_sender_that_does_not_poll_is_held_back_and_takes_no_memory() {
    let (mut sender, mut receiver) = pair();
    let capacity = sender.completed.capacity();
    for _ in 0..MAX_COMPLETED {
        assert!(send(&mut sender, B, b"x").expect("no error"));
        receiver.arrived(A).expect("no error").expect("a message");
        receiver.release(A).expect("no error");
    }
    assert!(!send(&mut sender, B, b"x").expect("no error"));
    sender.poll(&mut Vec::new()).expect("no error");
    assert!(send(&mut sender, B, b"x").expect("no error"));
    assert_eq!(sender.completed.capacity(), capacity);
}

#[test]
fn a_message_stays_until_it_is_released() {
    let (mut sender, mut receiver) = pair();
    send(&mut sender, B, b"first").expect("sent");
    send(&mut sender, B, b"second").expect("sent");
    for _ in 0..2 {
        assert_eq!(receiver.arrived(A).expect("no error").expect("a message").payload, b"first");
    }
    receiver.release(A).expect("no error");
    assert_eq!(receiver.arrived(A).expect("no error").expect("a message").payload, b"second");
}

#[test]
fn what_was_sent_before_closing_is_delivered_then_the_peer_is_lost() {
    let (mut sender, mut receiver) = pair();
    send(&mut sender, B, b"last").expect("sent");
    sender.close();
    assert_eq!(receiver.arrived(A).expect("no error").expect("a message").payload, b"last");
    receiver.release(A).expect("no error");
    assert_eq!(receiver.arrived(A).expect_err("closed"), closed_by(A));
    assert_eq!(send(&mut sender, B, b"x").expect_err("closed"), TransportError::Closed);
}

#[test]
fn closing_wakes_a_sleeping_peer() {
    let (mut sender, mut receiver) = pair();
    let started = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while receiver.arrived(A).is_ok() {
                receiver.wait(LIMIT);
            }
        });
        sender.close();
    });
    assert!(started.elapsed() < LIMIT);
}

#[test]
fn ranks_of_other_nodes_and_oneself_have_no_route() {
    let (mut sender, _receiver) = pair();
    for peer in [A, Rank(0), Rank(99)] {
        assert_eq!(sender.open(&[], &[peer]), Err(TransportError::NoRoute { peer }));
    }
}

#[test]
fn corrupt_words_are_errors_that_name_the_peer() {
    let geometry = Geometry { ranks: 2, slots: 4, slot_bytes: 4096 };
    let (ring, words) = (geometry.ring_offset(0, 1), geometry.slot_header_offset(0));
    let is_corrupt = |error: TransportError, peer: Rank, word: &str| match error {
        TransportError::PeerLost { peer: named, cause } => {
            assert_eq!(named, peer);
            assert!(cause.contains("corrupt") && cause.contains(word), "{cause}");
        }
        other => panic!("{other}"),
    };

    let (mut sender, mut receiver) = pair();
    send(&mut sender, B, b"x").expect("sent");
    sender.arena.word32(ring + words + 20).store(4097, Ordering::Release);
    is_corrupt(receiver.arrived(A).expect_err("too long"), A, "4097");

    sender.arena.word64(ring + words).store(3, Ordering::Release);
    is_corrupt(receiver.arrived(A).expect_err("a number that cannot be"), A, "number 3");

    sender.arena.word64(ring).store(2, Ordering::Release);
    is_corrupt(send(&mut sender, B, b"y").expect_err("more released than sent"), B, "2 messages of the 1");
}

#[test]
fn an_offer_of_something_else_is_refused() {
    let geometry = Geometry::new(2);
    let arena = Arena::create(geometry).expect("an arena");
    let other = Arena::create(geometry).expect("an arena");
    let mixed = [&other.offer().to_bytes()[..8], &arena.offer().to_bytes()[8..]].concat();
    let error = Arena::open(&Offer::from_bytes(&mixed).expect("long enough"), geometry).expect_err("refused");
    assert!(error.to_string().contains("another arena"), "{error}");
    let error = Arena::open(&arena.offer(), Geometry::new(3)).expect_err("refused");
    assert!(error.to_string().contains("expected size"), "{error}");

    let file = tempfile::tempfile().expect("a file");
    let len =
        std::fs::metadata(format!("/proc/self/fd/{}", arena.offer().to_bytes()[4])).expect("the arena").len();
    file.set_len(len).expect("sparse");
    let mut bytes = arena.offer().to_bytes();
    bytes[4..8].copy_from_slice(&std::os::fd::AsRawFd::as_raw_fd(&file).to_le_bytes());
    let error = Arena::open(&Offer::from_bytes(&bytes).expect("long enough"), geometry).expect_err("refused");
    assert!(error.to_string().contains("not sealed"), "{error}");
    assert!(error.to_string().contains("EFARUN_LOCAL_TRANSPORT=network"), "{error}");
    assert_eq!(Offer::from_bytes(&bytes[1..]), None);
}

#[test]
fn memory_is_taken_for_opened_rings_only() {
    let geometry = Geometry::new(32);
    let arena = Arena::create(geometry).expect("an arena of half a gigabyte");
    let offer = arena.offer();
    let used_bytes = || {
        let fd = i32::from_le_bytes(offer.to_bytes()[4..8].try_into().expect("4 bytes"));
        512 * std::os::unix::fs::MetadataExt::blocks(
            &std::fs::metadata(format!("/proc/self/fd/{fd}")).expect("it"),
        )
    };
    assert!(used_bytes() < 64 << 10);
    let ranks: Vec<Rank> = (0..32).map(Rank).collect();
    let mut transport = ShmTransport::new(Arc::new(arena), Rank(0), ranks);
    transport.open(&[Rank(5)], &[Rank(6)]).expect("opens");
    let one_ring = geometry.ring_bytes() as u64;
    assert!((one_ring..one_ring + (64 << 10)).contains(&used_bytes()));
}

/// Every rank sends numbered messages of odd lengths to every other and checks what it receives; all sleep when
/// they can do nothing.
#[test]
fn all_pairs_deliver_every_message_whole_and_in_order() {
    let rounds = 300u32;
    let transports = node(Geometry { ranks: 5, slots: 3, slot_bytes: 1024 });
    let ranks: Vec<Rank> = (10..15).map(Rank).collect();
    let started = Instant::now();
    let all_have_read = &Barrier::new(5);
    std::thread::scope(|scope| {
        for (mut transport, &me) in transports.into_iter().zip(&ranks) {
            let peers: Vec<Rank> = ranks.iter().copied().filter(|&rank| rank != me).collect();
            scope.spawn(move || {
                transport.open(&peers, &peers).expect("opens");
                let mut sent = [0; 4];
                let mut received = [0; 4];
                let mut completed = Vec::new();
                while sent.iter().chain(&received).any(|&count| count < rounds) {
                    let mut idle = true;
                    for (index, &peer) in peers.iter().enumerate() {
                        if sent[index] < rounds
                            && send(&mut transport, peer, &pattern(me, sent[index])).expect("no error")
                        {
                            sent[index] += 1;
                            idle = false;
                        }
                        if received[index] < rounds
                            && let Some(message) = transport.arrived(peer).expect("no error")
                        {
                            assert!(
                                message.payload == pattern(peer, received[index]),
                                "{peer}: {}",
                                received[index]
                            );
                            transport.release(peer).expect("no error");
                            received[index] += 1;
                            idle = false;
                        }
                    }
                    transport.poll(&mut completed).expect("no error");
                    if idle {
                        transport.wait(LIMIT);
                    }
                }
                assert_eq!(completed.len(), 4 * rounds as usize);
                all_have_read.wait();
            });
        }
    });
    assert!(started.elapsed() < LIMIT, "a lost wake-up costs a full timeout");
}

fn pattern(from: Rank, number: u32) -> Vec<u8> {
    let len = (number as usize * 37) % 1025;
    (0..len).map(|index| (index as u32 * 31 + number * 7 + from.0) as u8).collect()
}
