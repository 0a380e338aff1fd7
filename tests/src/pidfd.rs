//! Waiting for the end of processes that are not children, by pidfd: the kernel says when, nobody polls.
//!
//! # Safety
//!
//! One system call without a wrapper in `nix`; it takes and returns numbers.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Opens a process; none when it is gone.
pub(crate) fn open(pid: i32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes a process id and flags and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::pid_t::from(pid), 0) };
    // SAFETY: a result that is not negative is a new descriptor that nothing else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sleeps until one of the processes has ended, or for `timeout`.
pub(crate) fn wait_for_any(processes: &[OwnedFd], timeout: Duration) {
    let mut fds: Vec<PollFd> =
        processes.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)).collect();
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    // An interrupted wait is a wait that ended early; the caller looks again.
    let _ = poll(&mut fds, timeout);
}
