//! Protection domains: what is made in one is nothing in another.

use crate::consumer::{Device, Operation, Pair};

#[test]
fn keys_and_handles_are_those_of_a_domain() {
    let device = Device::open(0);
    let (ours, theirs) = (device.domain(), device.domain());
    let (sender, target) = (device.pair(ours, false), device.pair(theirs, false));
    let stranger = device.pair(theirs, false);
    let (ah, foreign) = (Pair::handle(ours, device.gid()), Pair::handle(theirs, device.gid()));
    let (bytes, place) = (sender.bytes(&[3; 100]), target.bytes(&[0; 100]));

    sender.post(foreign, &target, bytes, Operation::Send);
    assert_eq!(sender.completion().code, INVALID_ADDRESS_HANDLE);

    let of_theirs = target.bytes(&[0; 100]);
    sender.post(ah, &target, of_theirs, Operation::Send);
    assert_eq!(sender.completion().code, INVALID_LOCAL_KEY);

    let of_ours = sender.bytes(&[0; 100]);
    sender.post(ah, &target, bytes, Operation::Write(of_ours));
    assert_eq!(sender.completion().code, REMOTE_BAD_ADDRESS);

    sender.post(ah, &target, bytes, Operation::Write(place));
    assert_eq!(sender.completion().code, 0);
    assert_eq!(place.get(), [3; 100]);

    // Who sends is named by the number that it has in the receiver's domain.
    let (one, two) = (sender.bytes(&[0; 100]), target.bytes(&[0; 100]));
    sender.receive(one);
    target.receive(two);
    stranger.post(foreign, &sender, place, Operation::Send);
    stranger.post(foreign, &target, place, Operation::Send);
    let numbers = [sender.completion().sender, target.completion().sender];
    assert_ne!(numbers[0], numbers[1]);
}

#[test]
fn rdma_needs_a_handle_in_the_domain_of_its_target() {
    let device = Device::open(0);
    let (ours, theirs) = (device.domain(), device.domain());
    let (sender, target) = (device.pair(ours, false), device.pair(theirs, false));
    let ah = Pair::handle(ours, device.gid());
    let (bytes, place) = (sender.bytes(&[3; 100]), target.bytes(&[0; 100]));
    sender.post(ah, &target, bytes, Operation::Read(place));
    assert_eq!(sender.completion().code, UNKNOWN_PEER);
    Pair::handle(theirs, device.gid());
    sender.post(ah, &target, bytes, Operation::Read(place));
    assert_eq!(sender.completion().code, 0);
    assert_eq!(bytes.get(), [0; 100]);
}

const INVALID_ADDRESS_HANDLE: u32 = 4;
const INVALID_LOCAL_KEY: u32 = 5;
const REMOTE_BAD_ADDRESS: u32 = 7;
const UNKNOWN_PEER: u32 = 14;
