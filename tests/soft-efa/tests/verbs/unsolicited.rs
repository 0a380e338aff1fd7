//! Writes whose immediate data needs no posted receive.

use softefa::abi::IBV_WC_RECV_RDMA_WITH_IMM;

use crate::consumer::{Device, Operation, Pair};

#[test]
fn immediate_data_needs_a_receive_unless_the_queue_pair_takes_it_without() {
    let device = Device::open(0);
    let pd = device.domain();
    let (sender, plain, unsolicited) =
        (device.pair(pd, false), device.pair(pd, false), device.pair(pd, true));
    let ah = Pair::handle(pd, device.gid());
    let bytes = sender.bytes(&[7; 20_000]);
    for target in [&plain, &unsolicited] {
        let (place, spare) = (target.bytes(&[0; 20_000]), target.bytes(&[0; 8]));
        target.receive(spare);
        sender.post(ah, target, bytes, Operation::WriteWith(place, 42));
        let written = target.completion();
        let takes_unsolicited = std::ptr::eq(target, &unsolicited);
        assert_eq!((written.code, written.opcode), (0, IBV_WC_RECV_RDMA_WITH_IMM));
        assert_eq!((written.immediate, written.len), (42, 20_000));
        assert_eq!(written.is_unsolicited, takes_unsolicited);
        assert_eq!(written.id, if takes_unsolicited { 0 } else { spare.address });
        assert_eq!(place.get(), [7; 20_000]);
        assert_eq!(sender.completion().code, 0);
    }
    // The receive that the queue pair did not need is still there for a message.
    sender.post(ah, &unsolicited, bytes.first(8), Operation::Send);
    let message = unsolicited.completion();
    assert_eq!((message.code, message.len, message.is_unsolicited), (0, 8, false));
    // And one that does need a receive has none left.
    assert_eq!(sender.completion().code, 0);
    let place = plain.bytes(&[0; 8]);
    sender.post(ah, &plain, bytes.first(8), Operation::WriteWith(place, 1));
    assert_eq!(sender.completion().code, RECEIVER_NOT_READY);
}

const RECEIVER_NOT_READY: u32 = 10;
