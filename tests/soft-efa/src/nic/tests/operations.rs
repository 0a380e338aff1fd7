//! What operations do when nothing is in their way.

use super::super::*;
use super::bench::*;
use crate::profile::{P4D, P5};

#[test]
fn message_lands_in_the_posted_receive_and_both_sides_hear_of_it() {
    let mut bench = Bench::new(Setup::default());
    bench.memory.fill(0, &pattern(8928, 1));
    bench.receive(1, HALF, 9000);
    let work = Work { immediate: Some(77), ..bench.work(0, Operation::Send, 0, 8928) };
    bench.post(0, work);
    bench.settle();
    let (sent, received) = (bench.completion(0), bench.completion(1));
    assert_eq!((sent.what, sent.status, sent.len_bytes), (Completed::Send, Status::Ok, 8928));
    assert_eq!((received.what, received.status, received.len_bytes), (Completed::Receive, Status::Ok, 8928));
    assert_eq!((received.id, received.immediate), (HALF as u64, Some(77)));
    assert_eq!(received.source, Some(Endpoint { gid: bench.nics[0].gid(), qpn: QPNS[0] }));
    assert_eq!(bench.memory.get(HALF, 8928), pattern(8928, 1));
}

#[test]
fn inline_bytes_are_those_of_the_posting() {
    let mut bench = Bench::new(Setup::default());
    bench.receive(1, HALF, 100);
    let work =
        Work { payload: Payload::Inline(b"as it was".to_vec()), ..bench.work(0, Operation::Send, 0, 0) };
    bench.post(0, work);
    bench.settle();
    assert_eq!(bench.completion(1).len_bytes, 9);
    assert_eq!(bench.memory.get(HALF, 9), b"as it was");
}

#[test]
fn datagram_leaves_room_in_front_and_is_never_refused() {
    let mut bench = Bench::new(Setup { kind: PairKind::Datagram, ..Setup::default() });
    bench.memory.fill(0, b"hello");
    bench.send(0, 0, 5);
    bench.settle();
    assert_eq!(bench.completion(0).status, Status::Ok, "nobody has to be ready for a datagram");
    bench.receive(1, HALF, 100);
    bench.send(0, 0, 5);
    bench.settle();
    assert_eq!(bench.completion(1).len_bytes, 45);
    assert_eq!(bench.memory.get(HALF + 40, 5), b"hello");
}

#[test]
fn read_and_write_move_what_they_say() {
    let len = 3 * 8928 + 17;
    let mut bench = Bench::new(Setup::default());
    bench.memory.fill(HALF, &pattern(len, 2));
    let read = Operation::Read { remote_key: bench.keys[1], address: HALF as u64 };
    let work = bench.work(0, read, 100, len);
    bench.post(0, work);
    bench.settle();
    assert_eq!((bench.completion(0).what, bench.completions(1).len()), (Completed::Read, 0));
    assert_eq!(bench.memory.get(100, len), pattern(len, 2));

    let write = Operation::Write { remote_key: bench.keys[1], address: (HALF + 50_000) as u64 };
    let work = bench.work(0, write, 100, len);
    bench.post(0, work);
    bench.settle();
    assert_eq!((bench.completion(0).what, bench.completions(1).len()), (Completed::Write, 0));
    assert_eq!(bench.memory.get(HALF + 50_000, len), pattern(len, 2));
}

#[test]
fn write_with_immediate_takes_a_receive_unless_none_is_needed() {
    for takes_unsolicited in [false, true] {
        let mut bench = Bench::new(Setup { takes_unsolicited, ..Setup::default() });
        bench.receive(1, HALF, 1);
        let write = Operation::Write { remote_key: bench.keys[1], address: HALF as u64 };
        let work = Work { immediate: Some(5), ..bench.work(0, write, 0, 20_000) };
        bench.post(0, work);
        bench.settle();
        let received = bench.completion(1);
        assert_eq!(
            (received.what, received.immediate, received.len_bytes),
            (Completed::ReceiveWrite, Some(5), 20_000)
        );
        assert_eq!(received.is_unsolicited, takes_unsolicited);
        assert_eq!(received.id, if takes_unsolicited { 0 } else { HALF as u64 });
    }
}

#[test]
fn p4d_reads_but_does_not_write() {
    for (profile, ended) in [(P4D, Status::Unsupported), (P5, Status::Ok)] {
        let mut bench = Bench::new(Setup { profile, ..Setup::default() });
        let key = bench.keys[1];
        let work = bench.work(0, Operation::Read { remote_key: key, address: HALF as u64 }, 0, 10);
        bench.post(0, work);
        bench.settle();
        assert_eq!(bench.completion(0).status, Status::Ok);
        let work = bench.work(0, Operation::Write { remote_key: key, address: HALF as u64 }, 0, 10);
        bench.post(0, work);
        bench.settle();
        assert_eq!(bench.completion(0).status, ended, "{}", profile.name);
    }
}

#[test]
fn operations_without_bytes_complete() {
    let mut bench = Bench::new(Setup::default());
    bench.receive(1, HALF, 0);
    bench.send(0, 0, 0);
    for operation in [
        Operation::Read { remote_key: bench.keys[1], address: HALF as u64 },
        Operation::Write { remote_key: bench.keys[1], address: HALF as u64 },
    ] {
        let work = bench.work(0, operation, 0, 0);
        bench.post(0, work);
    }
    bench.settle();
    let all = bench.completions(0);
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|completion| completion.status == Status::Ok), "{all:?}");
}

#[test]
fn full_send_queue_refuses_until_completions_were_read() {
    let mut bench = Bench::new(Setup::default());
    for _ in 0..16 {
        bench.receive(1, HALF, 10);
        bench.send(0, 0, 1);
    }
    let work = bench.work(0, Operation::Send, 0, 1);
    assert!(bench.nics[0].post_send(bench.now, QPNS[0], vec![work.clone()]).is_err());
    bench.settle();
    assert!(
        bench.nics[0].post_send(bench.now, QPNS[0], vec![work.clone()]).is_err(),
        "completions are unread"
    );
    assert_eq!(bench.completions(0).len(), 16);
    assert!(bench.nics[0].post_send(bench.now, QPNS[0], vec![work]).is_ok());
}

#[test]
fn counters_count_what_moved() {
    let mut bench = Bench::new(Setup::default());
    bench.receive(1, HALF, 100);
    bench.send(0, 0, 100);
    let read = Operation::Read { remote_key: bench.keys[1], address: HALF as u64 };
    let work = bench.work(0, read, 0, 10_000);
    bench.post(0, work);
    bench.settle();
    let (a, b) = (bench.nics[0].counters, bench.nics[1].counters);
    assert_eq!((a.read(Counter::SendWrs), a.read(Counter::SendBytes)), (1, 100));
    assert_eq!((b.read(Counter::RecvWrs), b.read(Counter::RecvBytes)), (1, 100));
    assert_eq!((a.read(Counter::RdmaReadWrs), a.read(Counter::RdmaReadBytes)), (1, 10_000));
    assert_eq!((b.read(Counter::RdmaReadRespBytes), b.read(Counter::RdmaReadWrs)), (10_000, 0));
}
