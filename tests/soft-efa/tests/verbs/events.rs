//! What happens to a device, told to whoever asks for events.
#![allow(unsafe_code)]

use std::os::fd::BorrowedFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use softefa::abi::*;
use softefa::exports::{device, events};

use crate::consumer::{Device, Operation, PATIENCE, Pair, trigger};

#[test]
fn port_that_goes_down_and_comes_up_is_told() {
    let device = Device::open(1);
    let before = Device::open(1);
    assert_eq!(port_state(device), IBV_PORT_ACTIVE);
    std::fs::write(trigger("link-down=1"), "").unwrap();
    assert_eq!(next_event(device), (IBV_EVENT_PORT_ERR, 1));
    assert_eq!(port_state(device), IBV_PORT_DOWN);
    std::fs::remove_file(trigger("link-down=1")).unwrap();
    assert_eq!(next_event(device), (IBV_EVENT_PORT_ACTIVE, 1));
    assert_eq!(port_state(device), IBV_PORT_ACTIVE);
    // Each open device hears it.
    assert_eq!(next_event(before).0, IBV_EVENT_PORT_ERR);
}

#[test]
fn lost_device_is_told_and_flushes_what_is_posted() {
    let device = Device::open(2);
    let pd = device.domain();
    let pair = device.pair(pd, false);
    let ah = Pair::handle(pd, device.gid());
    let (bytes, place) = (pair.bytes(&[1; 8]), pair.bytes(&[0; 8]));
    pair.receive(place);
    std::fs::write(trigger("device-lost=2"), "").unwrap();
    assert_eq!(next_event(device).0, IBV_EVENT_DEVICE_FATAL);
    let flushed = pair.completion();
    assert_eq!((flushed.id, flushed.code, flushed.opcode), (place.address, FLUSHED, IBV_WC_RECV));
    pair.post(ah, &pair, bytes, Operation::Send);
    assert_eq!(pair.completion().code, FLUSHED);
    // It is not there any more for those who come later.
    let mut count = 0;
    // SAFETY: the list is given back as it came.
    unsafe { device::ibv_free_device_list(device::ibv_get_device_list(&raw mut count)) };
    assert_eq!(count, 2);
}

/// The next event and the port that it is about; waited for as programs do, by its descriptor.
fn next_event(device: Device) -> (u32, i32) {
    // SAFETY: an open device's own descriptor, and its event.
    unsafe {
        let fd = BorrowedFd::borrow_raw((*device.0).async_fd);
        let patience = PollTimeout::try_from(PATIENCE).unwrap();
        assert_eq!(poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], patience), Ok(1));
        let mut event = std::mem::zeroed();
        assert_eq!(events::ibv_get_async_event(device.0, &raw mut event), 0);
        events::ibv_ack_async_event(&raw mut event);
        (event.event_type, event.element.port_num)
    }
}

fn port_state(device: Device) -> u32 {
    // SAFETY: integers; an open device.
    unsafe {
        let mut attr: ibv_port_attr = std::mem::zeroed();
        assert_eq!(device::ibv_query_port(device.0, 1, &raw mut attr), 0);
        attr.state
    }
}

const FLUSHED: u32 = 1;
