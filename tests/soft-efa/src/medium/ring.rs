//! Two rings in one piece of shared memory, one for each direction, each with one writer and one reader.
//!
//! The memory is a memfd: it has no name, so that nothing is left behind, whoever is killed. A writer publishes a
//! frame by moving its head past it; one that is killed while it writes has published nothing, and stalls nobody, as
//! no third process waits for it.
//!
//! Positions grow for ever and are taken modulo the ring. A frame lies in one piece: where it would reach beyond the
//! end, a mark says that the ring goes on at its start.
//!
//! # Safety
//!
//! The mapping lives as long as [`Rings`] and is never shorter than it says: the memfd is sealed against shrinking
//! before it is mapped. Bytes between tail and head belong to the reader, the others to the writer; the atomic
//! positions hand them over. What the other process writes is checked before it is used as a length; that it
//! leaves published bytes alone is its promise, as it runs this same code.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{MAX_PAYLOAD_BYTES, Received};
use crate::nic::{Frame, HEADER_BYTES};

/// Both rings of a link, as one of its two ends sees them.
#[derive(Debug)]
pub(super) struct Rings {
    base: NonNull<u8>,
    /// Which ring is written here: 0 for who made them, 1 for the other end.
    written: usize,
}

// SAFETY: the mapping is reached through atomics, and through `&mut self` for what belongs to this end.
unsafe impl Send for Rings {}

impl Rings {
    /// Makes the rings, and the descriptor that the other end maps them from.
    ///
    /// # Errors
    ///
    /// What the kernel says when it has no memory or no descriptors.
    pub(super) fn create() -> nix::Result<(Rings, OwnedFd)> {
        let fd = memfd_create(c"soft-efa", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        nix::unistd::ftruncate(&fd, TOTAL_BYTES as i64)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))?;
        Ok((Rings { base: map(&fd)?, written: 0 }, fd))
    }

    /// Maps rings that the other end has made.
    ///
    /// # Errors
    ///
    /// `EINVAL` for memory of the wrong size or that could shrink; what the kernel says to the mapping.
    pub(super) fn open(fd: &OwnedFd) -> nix::Result<Rings> {
        let seals = fcntl(fd, FcntlArg::F_GET_SEALS)?;
        let size = nix::sys::stat::fstat(fd)?.st_size;
        if !SealFlag::from_bits_retain(seals).contains(SealFlag::F_SEAL_SHRINK) || size != TOTAL_BYTES as i64
        {
            return Err(nix::errno::Errno::EINVAL);
        }
        Ok(Rings { base: map(fd)?, written: 1 })
    }

    /// Whether a frame of full size fits.
    pub(super) fn has_room(&self) -> bool {
        // Twice, as the end of the ring may have to be skipped.
        self.has_space(2 * record_bytes(MAX_PAYLOAD_BYTES))
    }

    /// Publishes a frame; there must be room.
    pub(super) fn put(&mut self, frame: &Frame, fill: &mut dyn FnMut(&mut [u8])) {
        let ring = self.written;
        let mut head = self.head(ring).load(Ordering::Relaxed);
        let record = record_bytes(frame.len_bytes as usize);
        let place = head as usize % RING_BYTES;
        if place + record > RING_BYTES {
            // SAFETY: a place inside the ring that is the writer's, at which at least a header fits, as records are
            // multiples of a header's length.
            unsafe { self.data(ring).add(place).write(SKIP) };
            head += (RING_BYTES - place) as u64;
        }
        let place = head as usize % RING_BYTES;
        // SAFETY: the record lies inside the ring, and is the writer's: `has_room` said so to the caller.
        unsafe {
            let start = self.data(ring).add(place);
            let header = frame.encode();
            start.copy_from_nonoverlapping(header.as_ptr(), HEADER_BYTES);
            fill(std::slice::from_raw_parts_mut(start.add(HEADER_BYTES), frame.len_bytes as usize));
        }
        self.head(ring).store(head + record as u64, Ordering::Release);
    }

    /// Gives published frames to `take`. A ring that makes no sense has come to its end.
    pub(super) fn receive(&mut self, budget: usize, take: &mut dyn FnMut(&Frame, &[u8])) -> Received {
        let ring = 1 - self.written;
        let mut tail = self.tail(ring).load(Ordering::Relaxed);
        for count in 0..budget {
            let head = self.head(ring).load(Ordering::Acquire);
            if head == tail {
                return Received::Frames(count);
            }
            let place = tail as usize % RING_BYTES;
            let mut header = [0; HEADER_BYTES];
            // SAFETY: the header lies inside the ring, as records are multiples of its length.
            unsafe { self.data(ring).add(place).copy_to_nonoverlapping(header.as_mut_ptr(), HEADER_BYTES) };
            if header[0] == SKIP {
                tail += (RING_BYTES - place) as u64;
                self.tail(ring).store(tail, Ordering::Release);
                continue;
            }
            let Some(frame) = Frame::decode(&header) else { return Received::End(count) };
            let len = frame.len_bytes as usize;
            let record = record_bytes(len.min(MAX_PAYLOAD_BYTES));
            let fits = len <= MAX_PAYLOAD_BYTES && place + record <= RING_BYTES;
            if !fits || head.wrapping_sub(tail) < record as u64 {
                return Received::End(count);
            }
            // SAFETY: published bytes inside the ring, which the writer leaves alone until the tail has passed.
            let payload =
                unsafe { std::slice::from_raw_parts(self.data(ring).add(place + HEADER_BYTES), len) };
            take(&frame, payload);
            tail += record as u64;
            self.tail(ring).store(tail, Ordering::Release);
        }
        Received::Frames(budget)
    }

    /// Whether there is something to receive.
    pub(super) fn has_frames(&self) -> bool {
        let ring = 1 - self.written;
        self.head(ring).load(Ordering::Acquire) != self.tail(ring).load(Ordering::Relaxed)
    }

    /// Says that the reader at this end is about to sleep, and wants its bell rung for what comes.
    pub(super) fn fall_asleep(&self) {
        self.asleep(1 - self.written).store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Whether the other end's reader sleeps; says so once.
    pub(super) fn wake(&self) -> bool {
        fence(Ordering::SeqCst);
        let asleep = self.asleep(self.written);
        asleep.load(Ordering::Relaxed) != 0 && asleep.swap(0, Ordering::SeqCst) != 0
    }

    fn has_space(&self, len_bytes: usize) -> bool {
        let head = self.head(self.written).load(Ordering::Relaxed);
        let tail = self.tail(self.written).load(Ordering::Acquire);
        (head.wrapping_sub(tail) as usize) + len_bytes <= RING_BYTES
    }

    fn head(&self, ring: usize) -> &AtomicU64 {
        self.position(ring * RING_CONTROL_BYTES)
    }

    fn tail(&self, ring: usize) -> &AtomicU64 {
        self.position(ring * RING_CONTROL_BYTES + LINE_BYTES)
    }

    fn asleep(&self, ring: usize) -> &AtomicU32 {
        // SAFETY: inside the control page, aligned, and only ever reached as this atomic.
        unsafe { &*self.base.as_ptr().add(ring * RING_CONTROL_BYTES + 2 * LINE_BYTES).cast() }
    }

    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: inside the control page, aligned, and only ever reached as this atomic.
        unsafe { &*self.base.as_ptr().add(offset).cast() }
    }

    fn data(&self, ring: usize) -> *mut u8 {
        // SAFETY: both rings lie inside the mapping, behind the control page.
        unsafe { self.base.as_ptr().add(CONTROL_BYTES + ring * RING_BYTES) }
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, unmapped only here; nothing borrowed from it lives on.
        let _ = unsafe { munmap(self.base.cast(), TOTAL_BYTES) };
    }
}

fn map(fd: &OwnedFd) -> nix::Result<NonNull<u8>> {
    let length = NonZeroUsize::new(TOTAL_BYTES).expect("rings have a size");
    // SAFETY: a fresh shared mapping of a sealed memfd; it aliases no memory of Rust's.
    let base = unsafe {
        mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd.as_fd(), 0)
    }?;
    Ok(base.cast())
}

fn record_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(HEADER_BYTES)
}

/// In place of a frame's kind: the ring goes on at its start.
const SKIP: u8 = 0xff;
const LINE_BYTES: usize = 128;
const RING_CONTROL_BYTES: usize = 4 * LINE_BYTES;
const CONTROL_BYTES: usize = 4096;
const RING_BYTES: usize = 512 * 1024;
const TOTAL_BYTES: usize = CONTROL_BYTES + 2 * RING_BYTES;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Qpn;
    use crate::nic::frame::Kind;

    fn pair() -> (Rings, Rings) {
        let (ours, fd) = Rings::create().unwrap();
        let theirs = Rings::open(&fd).unwrap();
        (ours, theirs)
    }

    fn put(rings: &mut Rings, number: u64, len: usize) {
        let frame = Frame { len_bytes: len as u32, ..Frame::new(Kind::Send, Qpn(1), Qpn(2), number) };
        rings.put(&frame, &mut |payload| payload.fill(number as u8));
    }

    fn take(rings: &mut Rings, budget: usize) -> (Vec<(u64, usize)>, Received) {
        let mut seen = Vec::new();
        let received = rings.receive(budget, &mut |frame, payload| {
            assert!(payload.iter().all(|byte| *byte == frame.operation as u8));
            seen.push((frame.operation, payload.len()));
        });
        (seen, received)
    }

    #[test]
    fn frames_of_all_sizes_survive_many_rounds() {
        let (mut ours, mut theirs) = pair();
        let (mut sent, mut received) = (0_u64, 0_u64);
        while received < 2000 {
            while ours.has_room() {
                put(&mut ours, sent, (sent as usize * 977) % (MAX_PAYLOAD_BYTES + 1));
                sent += 1;
            }
            for (number, len) in take(&mut theirs, 7).0 {
                assert_eq!((number, len), (received, (received as usize * 977) % (MAX_PAYLOAD_BYTES + 1)));
                received += 1;
            }
        }
        assert!(received > 4 * (RING_BYTES / MAX_PAYLOAD_BYTES) as u64, "the ring went round");
    }

    #[test]
    fn directions_are_apart() {
        let (mut ours, mut theirs) = pair();
        put(&mut ours, 1, 10);
        put(&mut theirs, 2, 20);
        assert_eq!(take(&mut ours, 9), (vec![(2, 20)], Received::Frames(1)));
        assert_eq!(take(&mut theirs, 9), (vec![(1, 10)], Received::Frames(1)));
    }

    #[test]
    fn sleeper_is_woken_once() {
        let (ours, theirs) = pair();
        assert!(!ours.wake());
        theirs.fall_asleep();
        assert!(ours.wake() && !ours.wake());
    }

    #[test]
    fn nonsense_ends_the_ring() {
        let (mut ours, mut theirs) = pair();
        let frame = Frame { len_bytes: 8, ..Frame::new(Kind::Send, Qpn(1), Qpn(2), 3) };
        ours.put(&frame, &mut |_| {});
        // SAFETY: inside the ring, whose only user is this test.
        unsafe { ours.data(0).add(4).cast::<u32>().write(u32::MAX) };
        assert_eq!(take(&mut theirs, 9).1, Received::End(0));
    }

    #[test]
    fn memory_that_could_shrink_is_refused() {
        let fd = memfd_create(c"test", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&fd, TOTAL_BYTES as i64).unwrap();
        assert!(Rings::open(&fd).is_err());
    }
}
