//! Programs that close while what they posted is under way.

use softefa::abi::IBV_WC_RECV_RDMA_WITH_IMM;

use crate::consumer::{Device, Operation, Pair};

/// More than goes out when it is posted, so that the device has to go on with it after the program's last call but one.
#[test]
fn what_was_posted_before_its_queue_pair_was_taken_away_arrives() {
    let device = Device::open(0);
    let pd = device.domain();
    let (sender, receiver) = (device.pair(pd, false), device.pair(pd, true));
    let ah = Pair::handle(pd, device.gid());
    let sent = vec![5; 4 << 20];
    let (bytes, place) = (sender.bytes(&sent), receiver.bytes(&vec![0; sent.len()]));
    sender.post(ah, &receiver, bytes, Operation::WriteWith(place, 9));
    sender.destroy();
    let written = receiver.completion();
    assert_eq!((written.code, written.opcode, written.immediate), (0, IBV_WC_RECV_RDMA_WITH_IMM, 9));
    assert!(place.get() == sent);
}
