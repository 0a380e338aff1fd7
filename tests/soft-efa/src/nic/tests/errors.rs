//! Each of EFA's codes, by what causes it.

use std::time::Duration;

use super::super::*;
use super::bench::*;

fn status_of(bench: &mut Bench, operation: Operation, start: usize, len: usize) -> Status {
    let work = bench.work(0, operation, start, len);
    bench.post(0, work);
    bench.pass(Duration::from_millis(100));
    bench.completion(0).status
}

#[test]
fn keys_bounds_and_lengths_are_checked_at_both_ends() {
    let mut bench = Bench::new(Setup::default());
    let key = bench.keys[1];
    let write = |remote_key, address: usize| Operation::Write { remote_key, address: address as u64 };
    let read = |remote_key, address: usize| Operation::Read { remote_key, address: address as u64 };
    for (operation, start, len, wanted) in [
        (Operation::Send, HALF - 5, 10, Status::InvalidLocalKey),
        (Operation::Send, 0, 8929, Status::BadLength),
        (write(key, 2 * HALF - 5), 0, 10, Status::RemoteBadAddress),
        (write(key + 1, HALF), 0, 10, Status::RemoteBadAddress),
        (read(key, HALF - 1), 0, 10, Status::RemoteBadAddress),
        (read(key ^ 0x10000, HALF), 0, 10, Status::RemoteBadAddress),
        (write(key, 2 * HALF - 9000), 0, 20_000, Status::RemoteBadAddress),
    ] {
        assert_eq!(status_of(&mut bench, operation, start, len), wanted, "{operation:?} {start} {len}");
    }
    assert!(bench.completions(1).is_empty());
}

#[test]
fn region_that_is_gone_meanwhile_ends_the_read() {
    let mut bench = Bench::new(Setup::default());
    let read = Operation::Read { remote_key: bench.keys[1], address: HALF as u64 };
    let work = bench.work(0, read, 0, 1 << 20);
    bench.post(0, work);
    for _ in 0..3 {
        bench.step(1);
    }
    let key = bench.keys[1];
    assert!(bench.nics[1].regions().remove(key));
    // What is on the wire already may land; the rest is refused.
    bench.pass(Duration::from_millis(10));
    let status = bench.completion(0).status;
    assert!(matches!(status, Status::RemoteBadAddress | Status::Ok), "{status:?}");
}

#[test]
fn no_receive_is_retried_as_often_as_asked_and_then_told() {
    let mut bench = Bench::new(Setup::default());
    bench.send(0, 0, 10);
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.completion(0).status, Status::ReceiverNotReady);
    assert_eq!(bench.nics[1].counters.read(Counter::RxDrops), 4, "once, and three more times");
}

#[test]
fn late_receive_is_found_by_a_retry() {
    let mut bench = Bench::new(Setup::default());
    bench.send(0, 0, 10);
    bench.settle();
    assert!(bench.completions(0).is_empty());
    bench.receive(1, HALF, 10);
    bench.pass(Duration::from_millis(1));
    assert_eq!((bench.completion(0).status, bench.completion(1).status), (Status::Ok, Status::Ok));
}

#[test]
fn patience_for_ever_outlasts_any_deadline() {
    let mut bench = Bench::new(Setup::default());
    bench.nics[0].modify_pair(bench.now, QPNS[0], None, None, Some(7));
    bench.send(0, 0, 10);
    bench.pass(10 * TIMEOUT);
    assert!(bench.completions(0).is_empty());
    bench.receive(1, HALF, 10);
    bench.pass(Duration::from_millis(10));
    assert_eq!(bench.completion(0).status, Status::Ok);
}

#[test]
fn write_with_immediate_without_a_receive_is_not_ready_though_its_data_landed() {
    let mut bench = Bench::new(Setup::default());
    bench.memory.fill(0, &pattern(100, 3));
    let write = Operation::Write { remote_key: bench.keys[1], address: HALF as u64 };
    let work = Work { immediate: Some(1), ..bench.work(0, write, 0, 100) };
    bench.post(0, work);
    bench.pass(Duration::from_millis(100));
    assert_eq!(bench.completion(0).status, Status::ReceiverNotReady);
    assert_eq!(bench.memory.get(HALF, 100), pattern(100, 3));
}

#[test]
fn short_receive_fails_at_both_ends() {
    let mut bench = Bench::new(Setup::default());
    bench.receive(1, HALF, 9);
    assert_eq!(status_of(&mut bench, Operation::Send, 0, 10), Status::RemoteBadLength);
    assert_eq!(bench.completion(1).status, Status::BadLength);
}

#[test]
fn wrong_queue_pair_and_wrong_key_find_nobody() {
    let mut bench = Bench::new(Setup::default());
    bench.receive(1, HALF, 10);
    let mut work = bench.work(0, Operation::Send, 0, 10);
    work.qkey += 1;
    bench.post(0, work.clone());
    bench.settle();
    assert_eq!(bench.completion(0).status, Status::RemoteBadQueuePair);
    work.target = work.target.map(|target| Endpoint { qpn: Qpn(99), ..target });
    bench.post(0, work);
    bench.settle();
    assert_eq!(bench.completion(0).status, Status::RemoteBadQueuePair);
}

#[test]
fn rdma_wants_to_be_known_to_the_target() {
    let mut bench = Bench::new(Setup::default());
    let own = bench.nics[0].gid();
    bench.nics[1].handles().remove(1, own);
    bench.nics[1].handles().add(2, own).expect("another domain's handle is none of this one's");
    bench.receive(1, HALF, 10);
    let key = bench.keys[1];
    for operation in [
        Operation::Read { remote_key: key, address: HALF as u64 },
        Operation::Write { remote_key: key, address: HALF as u64 },
    ] {
        assert_eq!(status_of(&mut bench, operation, 0, 10), Status::UnknownPeer);
    }
    assert_eq!(status_of(&mut bench, Operation::Send, 0, 10), Status::Ok, "anybody may send");
}

#[test]
fn peer_that_never_answers_is_unreachable_and_one_that_did_unresponsive() {
    let mut bench = Bench::new(Setup::default());
    bench.is_heard[1] = false;
    bench.receive(1, HALF, 10);
    bench.send(0, 0, 10);
    bench.pass(TIMEOUT / 2);
    assert!(bench.completions(0).is_empty());
    bench.pass(TIMEOUT);
    assert_eq!(bench.completion(0).status, Status::Unreachable);
    assert_eq!(bench.completion(1).status, Status::Ok, "one-way silence: the message itself got through");

    bench.is_heard[1] = true;
    bench.receive(1, HALF, 10);
    assert_eq!(status_of(&mut bench, Operation::Send, 0, 10), Status::Ok, "a new link is opened");
    bench.completions(1);
    bench.is_heard[0] = false;
    bench.send(0, 0, 10);
    bench.pass(2 * TIMEOUT);
    assert_eq!(bench.completion(0).status, Status::Unresponsive);
    assert!(bench.completions(1).is_empty());
}

#[test]
fn peer_is_not_given_up_for_what_was_said_while_nobody_listened() {
    let mut bench = Bench::new(Setup::default());
    bench.receive(1, HALF, 10);
    bench.send(0, 0, 10);
    bench.settle();
    bench.completions(0);
    bench.is_heard[1] = false;
    bench.receive(1, HALF, 10);
    bench.send(0, 0, 10);
    bench.pass(TIMEOUT / 2);
    for _ in 0..3 {
        // The process does not get to run.
        bench.now += 2 * TIMEOUT;
        bench.settle();
        assert!(bench.completions(0).is_empty(), "it was silent for half of the time that somebody listened");
    }
    bench.pass(TIMEOUT);
    assert_eq!(bench.completion(0).status, Status::Unresponsive);
}

#[test]
fn killed_peer_ends_what_waits_for_it_and_its_receivers_hear_nothing() {
    let mut bench = Bench::new(Setup::default());
    bench.receive(1, HALF, 10);
    assert_eq!(status_of(&mut bench, Operation::Send, 0, 10), Status::Ok);
    bench.receive(0, 0, 10);
    bench.send(0, 0, 10);
    bench.settle();
    bench.kill(1);
    assert_eq!(bench.completion(0).status, Status::Unresponsive);
    bench.send(0, 0, 10);
    bench.settle();
    assert_eq!(bench.completion(0).status, Status::Unresponsive, "nobody is there any more");
}

#[test]
fn closed_queue_pair_says_farewell() {
    let mut bench = Bench::new(Setup::default());
    bench.nics[0].modify_pair(bench.now, QPNS[0], None, None, Some(7));
    bench.send(0, 0, 10);
    bench.settle();
    bench.nics[1].destroy_pair(QPNS[1]);
    bench.pass(Duration::from_millis(10));
    assert_eq!(bench.completion(0).status, Status::RemoteBadQueuePair);
}

#[test]
fn failed_queue_pair_flushes_everything() {
    let mut bench = Bench::new(Setup::default());
    bench.receive(0, 0, 10);
    bench.send(0, 0, 10);
    bench.nics[0].modify_pair(bench.now, QPNS[0], Some(PairState::Failed), None, None);
    bench.receive(0, 0, 10);
    let all = bench.completions(0);
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|completion| completion.status == Status::Flushed), "{all:?}");
}

#[test]
fn lost_device_flushes_and_its_peer_gives_it_up() {
    let mut bench = Bench::new(Setup::default());
    bench.receive(1, HALF, 10);
    assert_eq!(status_of(&mut bench, Operation::Send, 0, 10), Status::Ok);
    bench.receive(0, 0, 10);
    bench.nics[0].lose_device(bench.now);
    assert_eq!(bench.completion(0).status, Status::Flushed);
    assert_eq!(status_of(&mut bench, Operation::Send, 0, 10), Status::Flushed);
}

#[test]
fn faults_end_operations_with_the_code_they_name() {
    for code in 1..16 {
        let faults: &'static str = Box::leak(format!("fail={code}:send").into_boxed_str());
        let mut bench = Bench::new(Setup { faults, ..Setup::default() });
        bench.receive(1, HALF, 10);
        assert_eq!(status_of(&mut bench, Operation::Send, 0, 10) as u8, code);
        let read = Operation::Read { remote_key: bench.keys[1], address: HALF as u64 };
        assert_eq!(status_of(&mut bench, read, 0, 10), Status::Ok);
    }
}

#[test]
fn registration_keeps_to_the_limits() {
    let bench = Setup {
        faults: "limit=regions:2,limit=region-bytes:100000,limit=writable-pages:10",
        ..Setup::default()
    };
    let profile = bench.profile;
    let mut nic = {
        let faults = crate::fault::Fault::parse(bench.faults).unwrap();
        let character = Character {
            gid: Gid::new([10, 0, 0, 1].into(), 0),
            capabilities: profile.capabilities,
            limits: Faults::limits(&faults, profile.limits),
            manners: bench.manners,
            faults: Faults::of_device(&faults, 0),
            choices: Choices::new(1),
            timeout: TIMEOUT,
        };
        Nic::new(character, Box::leak(Box::default()))
    };
    let region = |len_bytes, access: Access| Region {
        domain: 1,
        address: 0,
        memory: 0,
        len_bytes,
        access,
        kind: RegionKind::Host,
    };
    assert!(nic.register(region(100_001, Access::LOCAL_WRITE)).is_err());
    assert!(nic.register(region(0, Access::LOCAL_WRITE)).is_err());
    assert!(nic.register(region(40_961, Access::REMOTE_WRITE)).is_err());
    assert!(nic.register(region(40_960, Access::REMOTE_WRITE)).is_ok());
    assert!(nic.register(region(40_961, Access::LOCAL_WRITE)).is_ok());
    assert!(nic.register(region(1, Access::LOCAL_WRITE)).is_err(), "two are all");
}

#[test]
fn memory_that_was_freed_while_it_was_registered_is_told_to_whoever_needed_it() {
    let freed = || {
        let bench = Bench::new(Setup { memory: RegionKind::Cuda, ..Setup::default() });
        bench.memory.free();
        bench
    };
    let mut bench = freed();
    bench.receive(1, HALF, 10);
    assert_eq!(status_of(&mut bench, Operation::Send, 0, 10), Status::InvalidLocalKey);
    assert_eq!(bench.completions(1), [], "nothing went out");

    let mut bench = freed();
    let inline = Work { payload: Payload::Inline(vec![1; 10]), ..bench.work(0, Operation::Send, 0, 0) };
    bench.receive(1, HALF, 10);
    bench.post(0, inline);
    bench.settle();
    assert_eq!(bench.completion(0).status, Status::RemoteAbort);
    assert_eq!(bench.completion(1).status, Status::InvalidLocalKey);

    let mut bench = freed();
    let read = Operation::Read { remote_key: bench.keys[1], address: HALF as u64 };
    assert_eq!(status_of(&mut bench, read, 0, 10), Status::RemoteBadAddress);
}

#[test]
fn memory_of_cuda_devices_is_refused_without_gpudirect_and_other_memory_is_not() {
    for (faults, refused) in [("", Ok(())), ("no-gpudirect", Err(nix::errno::Errno::EFAULT))] {
        let mut bench = Bench::new(Setup { faults, ..Setup::default() });
        let region = |kind| Region {
            domain: 1,
            address: 0,
            memory: 0,
            len_bytes: 100,
            access: Access::LOCAL_WRITE,
            kind,
        };
        assert_eq!(bench.nics[0].register(region(RegionKind::Cuda)).map(drop), refused);
        assert!(bench.nics[0].register(region(RegionKind::Host)).is_ok());
    }
}
