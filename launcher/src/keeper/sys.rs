//! The system calls of keeper and agent that have no safe wrapper of the right shape.
//!
//! # Safety
//!
//! Nothing here shares memory between threads. Each block hands the kernel plain numbers, or pointers to values that live in the
//! calling function; the fork is for a process with one thread, which its caller states.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use nix::errno::Errno;

use efarun_wire::message::RankStatus;

/// What [`reap_one`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaped {
    /// This child ended and is gone.
    Child(i32, RankStatus),
    /// Children are left, none of them has ended.
    NoneEnded,
    /// There are no children. With a subreaper that means no descendants.
    NoChildren,
}

/// Reaps one child that has ended. Does not wait. Unlike nix's wrapper it knows real-time signals.
pub(crate) fn reap_one() -> Reaped {
    let mut status: c_int = 0;
    loop {
        // SAFETY: `status` outlives the call.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::__WALL) };
        match pid {
            0 => return Reaped::NoneEnded,
            -1 if Errno::last() == Errno::EINTR => continue,
            // ECHILD is the only other error that waitpid has for these arguments.
            -1 => return Reaped::NoChildren,
            pid if libc::WIFEXITED(status) => {
                return Reaped::Child(pid, RankStatus::Code(libc::WEXITSTATUS(status)));
            }
            pid if libc::WIFSIGNALED(status) => {
                let number = libc::WTERMSIG(status);
                return Reaped::Child(pid, RankStatus::Signal { number, core: libc::WCOREDUMP(status) });
            }
            // A traced child that stopped: not an end.
            _ => continue,
        }
    }
}

/// Sends any signal, real-time ones included, to a child of this process that has not been reaped, or with a negative
/// id to the process group that such a child leads. Neither id can have passed to another process.
pub(crate) fn signal_child(pid: i32, number: i32) {
    // SAFETY: takes numbers only. An error means that nobody is there to be signalled, or that the number is none.
    unsafe { libc::kill(pid, number) };
}

/// Opens a process by its id.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).expect("the kernel's file descriptors are ints");
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Signals the process that was opened, and never another one.
pub(crate) fn pidfd_send_signal(pidfd: &OwnedFd, number: i32) -> io::Result<()> {
    let no_info: *const libc::siginfo_t = ptr::null();
    // SAFETY: a null siginfo is allowed and means what `kill` would send.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, no_info, 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes ownership of descriptors that arrived in a message.
pub(crate) fn own_received(fds: Vec<RawFd>) -> Vec<OwnedFd> {
    // SAFETY: the kernel has just installed these descriptors for the message's receiver, and nix leaves them to us.
    fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}

/// Makes `number` another name of the descriptor, open across exec, in place of what it was before. For a forked child
/// that is about to exec: nothing of the process may still own the number.
pub(crate) fn dup_onto(fd: BorrowedFd<'_>, number: RawFd) -> nix::Result<()> {
    // SAFETY: takes numbers only; that nobody owns `number` any more is the caller's promise.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// Forks, runs `child` in the new process and ends that process with 127 should it return or panic. Gives the child's id.
///
/// The caller's process must have one thread: the child inherits whatever locks other threads would hold.
pub(crate) fn fork_running(child: impl FnOnce()) -> nix::Result<i32> {
    // SAFETY: one thread, as the keeper promises at its start; the child has a complete copy of a quiet process.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child.as_raw()),
        nix::unistd::ForkResult::Child => {
            // A panic that went on would make the child do what comes next in its parent.
            let _ = catch_unwind(AssertUnwindSafe(child));
            // SAFETY: ends the process without running anything of the parent's that is registered for its exit.
            unsafe { libc::_exit(127) }
        }
    }
}

/// Shows these words as the command line of this process, where they fit in place of those that it was started with.
pub(crate) fn show_command_line(words: &[&str]) {
    unsafe extern "C" {
        /// The first word that the process was started with, where the kernel has put it.
        static program_invocation_name: *mut c_char;
    }
    let shown: Vec<u8> = words.iter().flat_map(|word| word.bytes().chain([0])).collect();
    // The kernel lays a command line out as one block, each word with its zero.
    let len_bytes: usize = std::env::args_os().map(|word| word.len() + 1).sum();
    if shown.len() > len_bytes {
        return;
    }
    let block = shown.into_iter().chain(std::iter::repeat(0)).take(len_bytes);
    for (offset, byte) in block.enumerate() {
        // SAFETY: the C library has set the pointer before `main` and nobody changes it; the block is this process's own
        // writable memory, as long as was counted, and with one thread nobody reads it meanwhile.
        unsafe { program_invocation_name.cast::<u8>().add(offset).write(byte) };
    }
}

/// Ends the process without running anything that its libraries have registered for its exit, on whatever thread.
pub(crate) fn end_at_once(code: c_int) -> ! {
    // SAFETY: returns to nobody; what the process has is the kernel's to take back.
    unsafe { libc::_exit(code) }
}

/// Gives every signal its default action and lets every signal through, as a fresh program expects it.
pub(crate) fn reset_signals() {
    for number in 1..=LAST_SIGNAL {
        // SAFETY: the default action runs no code of ours. KILL, STOP and the C library's own two refuse it, rightly.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    // The set is empty and valid, so that this cannot fail.
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// Ignores a signal from now on, and in the programs that this process starts.
pub(crate) fn ignore_signal(signal: nix::sys::signal::Signal) {
    // SAFETY: ignoring runs no code of ours. Only KILL and STOP refuse it.
    unsafe { libc::signal(signal as c_int, libc::SIG_IGN) };
}

/// Lets this process and its descendants trace the calling one, also where the kernel grants that to ancestors alone.
pub(crate) fn allow_tracing_by_descendants_of(pid: nix::unistd::Pid) -> nix::Result<()> {
    // SAFETY: takes numbers only.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::c_long::from(pid.as_raw()), 0, 0, 0) })
        .map(drop)
}

/// The version of the C library that this process runs with.
pub(crate) fn c_library() -> String {
    // SAFETY: gives a static string.
    let version = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) };
    format!("glibc {}", version.to_string_lossy())
}

/// Replaces the process's program. Returns only the error.
pub(crate) fn execve(path: &CStr, args: &CStringArray, env: &CStringArray) -> Errno {
    // SAFETY: all three are terminated as execve wants it and outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    Errno::last()
}

/// A null-terminated array of C strings.
#[derive(Debug)]
pub(crate) struct CStringArray {
    // The pointers go into the heap blocks of the strings, which never move.
    pointers: Vec<*const libc::c_char>,
    _strings: Vec<std::ffi::CString>,
}

impl CStringArray {
    pub(crate) fn new(strings: Vec<std::ffi::CString>) -> CStringArray {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        CStringArray { pointers, _strings: strings }
    }
}

/// The last real-time signal of Linux.
const LAST_SIGNAL: c_int = 64;
