//! What every transport must do, as one suite over all of them.
//!
//! [`conformance`] is given a factory: for a number of ranks it makes that many transports, rank 0 first, connected
//! but not opened. Each case gets transports of its own and runs one thread per rank; nothing in it sleeps to wait,
//! and everything has a deadline.
#![expect(unsafe_code, reason = "try_send borrows payloads; `Peer` keeps them until their tokens come back")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use efarun_wire::Rank;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use super::{Header, SendToken, Transport, TransportError};

/// Runs every case on transports of the factory.
pub(crate) fn conformance(mut make: impl FnMut(u32) -> Vec<Box<dyn Transport>>) {
    messages_arrive_whole_and_in_order_of_their_numbers(make(2));
    every_size_up_to_a_slot_arrives(make(2));
    an_expected_message_comes_as_any_other(make(2));
    a_held_message_stays_until_it_is_released(make(2));
    credit_runs_out_and_comes_back(make(2));
    sends_to_a_peer_that_has_not_opened_are_refused(make(2));
    opening_twice_changes_nothing(make(2));
    both_directions_flow_at_once(make(2));
    three_ranks_exchange_all_to_all(make(3));
    waiting_ends_when_a_message_arrives(make(2));
    an_idle_rank_sleeps(make(2));
    eight_ranks_on_few_cores_exchange_all_to_all(make(8));
    closing_ends_sends_in_flight(make(2));
    a_pair_that_was_not_opened_has_no_route(make(2));
}

fn messages_arrive_whole_and_in_order_of_their_numbers(transports: Vec<Box<dyn Transport>>) {
    run(transports, |peer| {
        if peer.rank == Rank(0) {
            peer.open(&[], &[Rank(1)]);
            for number in 0..300 {
                peer.send(Rank(1), number, 1000);
            }
        } else {
            peer.open(&[Rank(0)], &[]);
            for number in 0..300 {
                peer.receive(Rank(0), number, 1000);
            }
        }
    });
}

fn every_size_up_to_a_slot_arrives(transports: Vec<Box<dyn Transport>>) {
    run(transports, |peer| {
        let slot = peer.transport.slot_bytes();
        let sizes = [0, 1, 15, 16, 17, 255, 4096, slot / 2 + 1, slot - 1, slot, 1, slot];
        for (number, len) in (0..).zip(sizes) {
            if peer.rank == Rank(0) {
                peer.open(&[], &[Rank(1)]);
                peer.send(Rank(1), number, len);
            } else {
                peer.open(&[Rank(0)], &[]);
                peer.receive(Rank(0), number, len);
            }
        }
    });
}

fn an_expected_message_comes_as_any_other(transports: Vec<Box<dyn Transport>>) {
    run(transports, |peer| {
        let slot = peer.transport.slot_bytes();
        let sizes = [1, 16, 2047, 4096, 5000, slot / 2 + 1, slot, 8, slot];
        let other = Rank(1 - peer.rank.0);
        peer.open(&[other], &[other]);
        let mut landing = vec![0; slot];
        // Both ways at once, so that credits come where messages are expected; and expected as it is, as something
        // else, or not at all.
        for number in 0..200 {
            let len = sizes[number as usize % sizes.len()];
            let said = if number % 5 == 3 { len / 2 } else { len };
            let lands = (number % 3 != 2).then(|| &raw mut landing[..said]);
            if number % 7 != 6 {
                // SAFETY: `landing` is not used before the message is released, and outlives it; where the case panics
                // nothing is called any more but `close`.
                unsafe { peer.transport.expect(other, said, lands) };
            }
            peer.send(other, number, len);
            peer.receive(other, number, len);
        }
    });
}

fn a_held_message_stays_until_it_is_released(transports: Vec<Box<dyn Transport>>) {
    run(transports, |peer| {
        if peer.rank == Rank(0) {
            peer.open(&[], &[Rank(1)]);
            peer.send(Rank(1), 0, 100);
            peer.send(Rank(1), 1, 200);
        } else {
            peer.open(&[Rank(0)], &[]);
            peer.expect_message(Rank(0), 0, 100);
            peer.poll();
            peer.expect_message(Rank(0), 0, 100);
            peer.release(Rank(0));
            peer.receive(Rank(0), 1, 200);
        }
    });
}

fn credit_runs_out_and_comes_back(transports: Vec<Box<dyn Transport>>) {
    let (accepted_tx, accepted_rx) = mpsc::channel();
    let accepted_rx = Mutex::new(accepted_rx);
    run(transports, move |peer| {
        if peer.rank == Rank(0) {
            peer.open(&[Rank(1)], &[Rank(1)]);
            // A full exchange first: what is refused from here on is refused for lack of credit, and a few refusals
            // with progress in between tell it from a full queue.
            peer.send(Rank(1), 0, 8);
            peer.receive(Rank(1), 0, 8);
            let (mut accepted, mut refused) = (1, 0);
            while refused < 50 {
                assert!(accepted < 10_000, "10,000 messages were accepted that nobody took");
                if peer.try_send(Rank(1), accepted, 8) {
                    (accepted, refused) = (accepted + 1, 0);
                } else {
                    refused += 1;
                    peer.poll_and_wait();
                }
            }
            assert!(accepted > 1, "no message is in flight before the first was released");
            accepted_tx.send(accepted).unwrap();
            for number in accepted..accepted * 2 {
                peer.send(Rank(1), number, 8);
            }
        } else {
            peer.open(&[Rank(0)], &[Rank(0)]);
            peer.receive(Rank(0), 0, 8);
            peer.send(Rank(0), 0, 8);
            let accepted = peer.wait_for_word(&accepted_rx.lock().unwrap());
            for number in 1..accepted * 2 {
                peer.receive(Rank(0), number, 8);
            }
        }
    });
}

fn sends_to_a_peer_that_has_not_opened_are_refused(transports: Vec<Box<dyn Transport>>) {
    let (refused_tx, refused_rx) = mpsc::channel();
    let refused_rx = Mutex::new(refused_rx);
    run(transports, move |peer| {
        if peer.rank == Rank(0) {
            peer.open(&[], &[Rank(1)]);
            for _ in 0..50 {
                assert!(!peer.try_send(Rank(1), 0, 8), "a message was accepted that has no slot");
                peer.poll_and_wait();
            }
            refused_tx.send(()).unwrap();
            peer.send(Rank(1), 0, 8);
        } else {
            peer.wait_for_word(&refused_rx.lock().unwrap());
            peer.open(&[Rank(0)], &[]);
            peer.receive(Rank(0), 0, 8);
        }
    });
}

fn opening_twice_changes_nothing(transports: Vec<Box<dyn Transport>>) {
    run(transports, |peer| {
        for number in 0..20 {
            if peer.rank == Rank(0) {
                peer.open(&[], &[Rank(1)]);
                peer.send(Rank(1), number, 64);
            } else {
                peer.open(&[Rank(0)], &[]);
                peer.receive(Rank(0), number, 64);
            }
        }
    });
}

fn both_directions_flow_at_once(transports: Vec<Box<dyn Transport>>) {
    run(transports, |peer| {
        let other = Rank(1 - peer.rank.0);
        let len = peer.transport.slot_bytes();
        peer.open(&[other], &[other]);
        peer.exchange(&[other], 100, len);
    });
}

fn three_ranks_exchange_all_to_all(transports: Vec<Box<dyn Transport>>) {
    run(transports, |peer| exchange_with_all(peer, 3, 200, 3000));
}

fn eight_ranks_on_few_cores_exchange_all_to_all(transports: Vec<Box<dyn Transport>>) {
    run(transports, |peer| exchange_with_all(peer, 8, 20, 3000));
}

fn exchange_with_all(peer: &mut Peer, world_size: u32, count: u32, len: usize) {
    let others: Vec<Rank> = (0..world_size).map(Rank).filter(|&rank| rank != peer.rank).collect();
    peer.open(&others, &others);
    peer.exchange(&others, count, len);
}

fn an_idle_rank_sleeps(transports: Vec<Box<dyn Transport>>) {
    run(transports, |peer| {
        let other = Rank(1 - peer.rank.0);
        peer.open(&[other], &[other]);
        peer.exchange(&[other], 1, 8);
        peer.complete_sends();
        if peer.rank == Rank(1) {
            let before = processor_time();
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(300) {
                peer.transport.wait(Duration::from_millis(300));
                peer.poll();
            }
            let used = processor_time() - before;
            assert!(used < Duration::from_millis(100), "{used:?} of processor time in 300 ms of waiting");
        }
    });
}

/// Of the calling thread.
fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let micros = [usage.user_time(), usage.system_time()].map(|time| time.num_microseconds());
    Duration::from_micros(micros.iter().sum::<i64>().unsigned_abs())
}

fn waiting_ends_when_a_message_arrives(transports: Vec<Box<dyn Transport>>) {
    let (waiting_tx, waiting_rx) = mpsc::channel();
    let waiting_rx = Mutex::new(waiting_rx);
    run(transports, move |peer| {
        if peer.rank == Rank(0) {
            peer.open(&[], &[Rank(1)]);
            for number in 0..5 {
                peer.wait_for_word(&waiting_rx.lock().unwrap());
                peer.send(Rank(1), number, 8);
                peer.complete_sends();
            }
        } else {
            peer.open(&[Rank(0)], &[]);
            for number in 0..5 {
                waiting_tx.send(()).unwrap();
                let start = Instant::now();
                while peer.transport.arrived(Rank(0)).unwrap().is_none() {
                    peer.transport.wait(2 * DEADLINE);
                    peer.poll();
                    assert!(start.elapsed() < DEADLINE, "the wait outlasted the arrival of message {number}");
                }
                peer.receive(Rank(0), number, 8);
            }
        }
    });
}

fn closing_ends_sends_in_flight(transports: Vec<Box<dyn Transport>>) {
    let received = AtomicUsize::new(0);
    run(transports, |peer| {
        let other = Rank(1 - peer.rank.0);
        peer.open(&[other], &[other]);
        peer.send(other, 0, 64);
        peer.receive(other, 0, 64);
        // Closing ends sends in flight: the first message must be there before its sender closes, as the other waits
        // for it.
        received.fetch_add(1, Ordering::SeqCst);
        peer.until("the other's first message", |peer| {
            peer.poll_and_wait();
            received.load(Ordering::SeqCst) == 2
        });
        // The peer may have closed already: then a send says so, and that is as good as having some in flight.
        let len = peer.transport.slot_bytes();
        for number in 1..10 {
            let _ = peer.post(other, number, len);
        }
        peer.transport.close();
        peer.in_flight.values_mut().for_each(|payload| payload.fill(0xEE));
        peer.in_flight.clear();
        let payload = [0_u8; 8];
        // SAFETY: the payload outlives the call, and a closed transport takes no payload.
        let sent =
            unsafe { peer.transport.try_send(other, Header::default(), &raw const payload, SendToken(0)) };
        assert_eq!(sent, Err(TransportError::Closed));
        assert_eq!(peer.transport.poll(&mut Vec::new()), Err(TransportError::Closed));
        assert_eq!(peer.transport.arrived(other).map(|_| ()), Err(TransportError::Closed));
        assert_eq!(peer.transport.release(other), Err(TransportError::Closed));
        assert_eq!(peer.transport.open(&[other], &[]), Err(TransportError::Closed));
        peer.transport.wait(Duration::from_millis(1));
        peer.transport.close();
        peer.closed = true;
    });
}

fn a_pair_that_was_not_opened_has_no_route(transports: Vec<Box<dyn Transport>>) {
    run(transports, |peer| {
        let other = Rank(1 - peer.rank.0);
        let no_route = TransportError::NoRoute { peer: other };
        assert_eq!(peer.post(other, 0, 8), Err(no_route.clone()));
        assert_eq!(peer.transport.arrived(other).map(|_| ()), Err(no_route));
        let nobody = Rank(1000);
        assert_eq!(peer.transport.open(&[nobody], &[]), Err(TransportError::NoRoute { peer: nobody }));
    });
}

/// One thread per rank; a rank that is through goes on making progress until all are, as a World does before it
/// closes.
fn run(transports: Vec<Box<dyn Transport>>, body: impl Fn(&mut Peer) + Sync) {
    let world_size = transports.len();
    let through = AtomicUsize::new(0);
    thread::scope(|scope| {
        for (rank, transport) in (0..).map(Rank).zip(transports) {
            let (body, through) = (&body, &through);
            scope.spawn(move || {
                let mut peer = Peer::new(rank, transport);
                body(&mut peer);
                peer.complete_sends();
                through.fetch_add(1, Ordering::SeqCst);
                peer.until("the other ranks", |peer| {
                    if !peer.closed {
                        peer.poll_and_wait();
                    }
                    through.load(Ordering::SeqCst) == world_size
                });
                peer.transport.quiesced();
            });
        }
    });
}

/// A rank of a case: its transport, and the payloads that the transport may still read.
struct Peer {
    rank: Rank,
    transport: Box<dyn Transport>,
    in_flight: HashMap<SendToken, Vec<u8>>,
    next_token: u64,
    closed: bool,
}

impl Peer {
    fn new(rank: Rank, transport: Box<dyn Transport>) -> Self {
        Peer { rank, transport, in_flight: HashMap::new(), next_token: 0, closed: false }
    }

    fn open(&mut self, receives_from: &[Rank], sends_to: &[Rank]) {
        self.transport.open(receives_from, sends_to).unwrap();
    }

    fn post(&mut self, to: Rank, number: u32, len: usize) -> Result<bool, TransportError> {
        let payload = payload(self.rank, to, number, len);
        let token = SendToken(self.next_token);
        // SAFETY: the payload is kept in `in_flight` until its token came back or the transport was closed; its bytes
        // do not move when the vector does.
        let sent =
            unsafe { self.transport.try_send(to, header(number, len), &raw const payload[..], token) }?;
        if sent {
            self.next_token += 1;
            self.in_flight.insert(token, payload);
        }
        Ok(sent)
    }

    fn try_send(&mut self, to: Rank, number: u32, len: usize) -> bool {
        self.post(to, number, len).unwrap()
    }

    fn send(&mut self, to: Rank, number: u32, len: usize) {
        self.until(&format!("credit for message {number} to {to}"), |peer| {
            peer.try_send(to, number, len) || {
                peer.poll_and_wait();
                false
            }
        });
    }

    fn receive(&mut self, from: Rank, number: u32, len: usize) {
        self.expect_message(from, number, len);
        self.release(from);
    }

    fn expect_message(&mut self, from: Rank, number: u32, len: usize) {
        self.until(&format!("message {number} from {from}"), |peer| {
            peer.check_message(from, number, len) || {
                peer.poll_and_wait();
                false
            }
        });
    }

    /// Whether a message is here; if so it is the one that is expected.
    fn check_message(&mut self, from: Rank, number: u32, len: usize) -> bool {
        let to = self.rank;
        let Some(message) = self.transport.arrived(from).unwrap() else { return false };
        assert_eq!(message.header, header(number, len), "from {from}");
        assert!(
            message.payload == payload(from, to, number, len),
            "message {number} from {from} is not what was sent"
        );
        let is_aligned = (message.payload.as_ptr() as usize).is_multiple_of(16);
        assert!(is_aligned, "payloads are aligned to 16 bytes");
        true
    }

    fn release(&mut self, from: Rank) {
        self.transport.release(from).unwrap();
    }

    /// Sends `count` messages to each of the others and receives as many, all at once.
    fn exchange(&mut self, others: &[Rank], count: u32, len: usize) {
        let mut sent = vec![0; others.len()];
        let mut received = vec![0; others.len()];
        self.until("the end of the exchange", |peer| {
            let mut moved = false;
            for (index, &other) in others.iter().enumerate() {
                if sent[index] < count && peer.try_send(other, sent[index], len) {
                    sent[index] += 1;
                    moved = true;
                }
                if received[index] < count && peer.check_message(other, received[index], len) {
                    peer.release(other);
                    received[index] += 1;
                    moved = true;
                }
            }
            if moved {
                peer.poll();
            } else {
                peer.poll_and_wait();
            }
            sent.iter().chain(&received).all(|&done| done == count)
        });
    }

    fn complete_sends(&mut self) {
        self.until("the completion of all sends", |peer| {
            peer.in_flight.is_empty() || {
                peer.poll_and_wait();
                false
            }
        });
    }

    /// Waits for a word from another thread and makes progress meanwhile.
    fn wait_for_word<T>(&mut self, words: &mpsc::Receiver<T>) -> T {
        let mut word = None;
        self.until("another rank's word", |peer| {
            word = words.try_recv().ok();
            word.is_some() || {
                peer.poll_and_wait();
                false
            }
        });
        word.expect("the loop ends with a word")
    }

    fn poll(&mut self) {
        let mut completed = Vec::new();
        self.transport.poll(&mut completed).unwrap();
        for token in completed {
            assert!(self.in_flight.remove(&token).is_some(), "{token:?} completed twice, or was never sent");
        }
    }

    fn poll_and_wait(&mut self) {
        self.poll();
        self.transport.wait(Duration::from_millis(1));
        self.poll();
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !done(self) {
            assert!(Instant::now() < deadline, "{} waited {DEADLINE:?} for {what}", self.rank);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Before the payloads go, also when the case panicked.
        self.transport.close();
    }
}

fn header(number: u32, len: usize) -> Header {
    Header { signature: u64::from(number) << 32 | 0x5EED, sequence: number, len_bytes: len as u32 }
}

fn payload(from: Rank, to: Rank, number: u32, len: usize) -> Vec<u8> {
    let seed = from.0.wrapping_mul(31) ^ to.0.wrapping_mul(17) ^ number.wrapping_mul(7);
    (0..len as u32).map(|index| (seed.wrapping_add(index).wrapping_mul(0x9E37_79B1) >> 24) as u8).collect()
}

const DEADLINE: Duration = Duration::from_secs(60);

mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::transport::shm::{Arena, Geometry, ShmTransport};

    #[test]
    fn shared_memory_conforms() {
        conformance(|world_size| {
            let geometry = Geometry::new(world_size);
            let arena = Arena::create(geometry).unwrap();
            let offer = arena.offer();
            let opened = (1..world_size).map(|_| Arena::open(&offer, geometry).unwrap()).collect::<Vec<_>>();
            let ranks: Vec<Rank> = (0..world_size).map(Rank).collect();
            std::iter::once(arena)
                .chain(opened)
                .zip(&ranks)
                .map(|(arena, &me)| Box::new(ShmTransport::new(Arc::new(arena), me, ranks.clone())) as Box<_>)
                .collect()
        });
    }
}
