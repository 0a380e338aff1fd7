//! What happens to a device: it is lost, its port goes down or comes up.
//!
//! Each open device has a descriptor of its own for that (`async_fd`), which a program may poll.

use std::ffi::c_int;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::{OK, device_number, guard, host};
use crate::abi::*;

/// Gives a device that is being opened its descriptor.
///
/// # Errors
///
/// What the kernel says.
pub(super) fn open(context: *mut ibv_context) -> Result<(), Errno> {
    let (reader, writer) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the caller's new context.
    let number = unsafe {
        (*context).async_fd = reader.into_raw_fd();
        device_number(context)
    };
    host().engine().device(number).add_listener(context as u64, writer);
    Ok(())
}

/// Takes it back.
pub(super) fn close(context: *mut ibv_context) {
    // SAFETY: the caller's context, whose descriptor is its own.
    let (number, reader) = unsafe { (device_number(context), OwnedFd::from_raw_fd((*context).async_fd)) };
    host().engine().device(number).remove_listener(context as u64);
    drop(reader);
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_get_async_event(
    context: *mut ibv_context,
    event: *mut ibv_async_event,
) -> c_int {
    guard(-1, || {
        // Who waits does not poll.
        host().start_thread();
        let mut kind = [0; 4];
        // SAFETY: an open device. Its program decides whether reading waits; no lock is held meanwhile.
        let fd = unsafe { BorrowedFd::borrow_raw((*context).async_fd) };
        match nix::unistd::read(fd, &mut kind) {
            Ok(4) => {}
            Ok(_) => {
                Errno::EIO.set();
                return -1;
            }
            // It has set errno.
            Err(_) => return -1,
        }
        // The port, for events of ports; other events of ours are about the device.
        let element = ibv_async_element { port_num: 1 };
        // SAFETY: the caller's.
        unsafe { event.write(ibv_async_event { element, event_type: u32::from_ne_bytes(kind) }) };
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ibv_ack_async_event(_event: *mut ibv_async_event) {}
