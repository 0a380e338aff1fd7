//! A small repeated call on shared memory makes no system call.
//!
//! The kernel counts: each rank's thread has a seccomp filter by which it asks before every system call, and another thread
//! lets all of them pass and counts. A rank that others keep waiting may sleep, so calls are counted a hundred at a time,
//! and some hundred must be free of system calls; where a call makes one, none is.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use efarun_rt::{Rank, ReduceOp, World};

/// What the ranks repeat, by name.
type Repeated = fn(&mut World) -> Result<(), efarun_rt::Error>;

const REPEATED: [(&str, Repeated); 4] = [
    ("barrier", World::barrier),
    ("all_reduce of 8 bytes", |world| world.all_reduce(&mut [1.0f32, 2.0], ReduceOp::Sum)),
    ("all_reduce of 512 bytes", |world| world.all_reduce(&mut [1.0f32; 128], ReduceOp::Max)),
    ("broadcast of 8 bytes", |world| world.broadcast(&mut [1.0f32, 2.0], Rank(0))),
];

#[test]
fn a_small_repeated_call_makes_no_system_call() {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    if cores < 2 {
        println!("SKIPPED: two CPUs: ranks that share one give it to each other by a system call");
        return;
    }
    let worlds = World::thread_worlds(2).expect("a world");
    let is_permitted = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for mut world in worlds {
            let is_permitted = &is_permitted;
            scope.spawn(move || {
                let counter = std::sync::Arc::new(Counter::default());
                let counts = std::sync::Arc::clone(&counter);
                // Before the filter is there, as a thread is made by system calls; and it stays until this one has ended by
                // its last.
                scope.spawn(move || counts.supervise());
                match ask_before_every_call() {
                    Ok(listener) => counter.listener.store(listener as usize + 1, Ordering::Release),
                    Err(error) => {
                        counter.listener.store(usize::MAX, Ordering::Release);
                        is_permitted.store(false, Ordering::Relaxed);
                        println!("SKIPPED: seccomp's notifications: {error}");
                    }
                }
                for (name, call) in REPEATED {
                    assert!(finds_quiet_hundred(&mut world, &counter, call), "{name} makes system calls");
                }
                world.close().expect("all close");
                if is_permitted.load(Ordering::Relaxed) {
                    assert!(
                        counter.calls.load(Ordering::Relaxed) > 0,
                        "closing makes some: they are counted"
                    );
                }
            });
        }
    });
}

/// Repeats a call until every rank has seen a hundred of them without a system call.
fn finds_quiet_hundred(world: &mut World, counter: &Counter, call: Repeated) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut has_found = false;
    loop {
        for _ in 0..20 {
            let before = counter.calls.load(Ordering::Acquire);
            (0..100).for_each(|_| call(world).expect("nobody is lost"));
            has_found |= counter.calls.load(Ordering::Acquire) == before;
        }
        let mut found = [u8::from(has_found), u8::from(Instant::now() < deadline)];
        world.all_reduce(&mut found, ReduceOp::Min).expect("nobody is lost");
        match found {
            [1, _] => return true,
            [_, 0] => return has_found,
            _ => {}
        }
    }
}

/// Counts the system calls of one thread, and lets them pass.
#[derive(Default)]
struct Counter {
    calls: AtomicU64,
    /// One more than the descriptor that the questions come from; `usize::MAX` where there is none.
    listener: AtomicUsize,
}

impl Counter {
    /// Until the thread has ended.
    fn supervise(&self) {
        let listener = loop {
            match self.listener.load(Ordering::Acquire) {
                // The thread cannot wake this one: that would be a system call before anybody answers.
                0 => std::thread::yield_now(),
                usize::MAX => return,
                listener => break (listener - 1) as i32,
            }
        };
        // SAFETY: made for this by `ask_before_every_call`, and owned by nobody else.
        let listener = unsafe { OwnedFd::from_raw_fd(listener) };
        loop {
            let mut question = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one descriptor, which lives through the call.
            let ready = unsafe { libc::poll(&raw mut question, 1, 100) };
            if question.revents & libc::POLLHUP != 0 {
                return;
            }
            if ready == 1 && question.revents & libc::POLLIN != 0 {
                self.calls.fetch_add(1, Ordering::AcqRel);
                answer(&listener);
            }
        }
    }
}

/// Takes one question and lets the call pass.
fn answer(listener: &OwnedFd) {
    // SAFETY: plain numbers, for which zeros are values; the kernel wants the question zeroed.
    let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is a listener; the kernel writes one question, for which there is room.
    if unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV, &raw mut question) } != 0 {
        return;
    }
    let mut pass = libc::seccomp_notif_resp {
        id: question.id,
        val: 0,
        error: 0,
        flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    };
    // SAFETY: as above; the kernel reads one answer. It fails where the thread was interrupted meanwhile, and asks again.
    unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND, &raw mut pass) };
}

/// Has this thread ask before every system call, from now on and for ever; returns where the questions come from.
fn ask_before_every_call() -> io::Result<i32> {
    let mut always = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_USER_NOTIF,
    }];
    let program = libc::sock_fprog { len: 1, filter: always.as_mut_ptr() };
    // SAFETY: takes numbers only; for this thread alone.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the program and its one instruction live through the call, which copies them.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    if listener < 0 { Err(io::Error::last_os_error()) } else { Ok(listener as i32) }
}

/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND`: linux/seccomp.h makes them of the sizes.
const NOTIF_RECV: libc::c_ulong = read_write(0, size_of::<libc::seccomp_notif>());
const NOTIF_SEND: libc::c_ulong = read_write(1, size_of::<libc::seccomp_notif_resp>());

const fn read_write(number: libc::c_ulong, size: usize) -> libc::c_ulong {
    3 << 30 | (size as libc::c_ulong) << 16 | (b'!' as libc::c_ulong) << 8 | number
}
