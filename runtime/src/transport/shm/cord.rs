//! What a rank sleeps on that also sleeps on other things: a pipe, at whose other end the ranks pull that ring its bell.
//!
//! The pipe is opened as the arena is, through `/proc/<pid>/fd/<fd>`, by whoever finds its owner asleep on it for the first
//! time. A pull that fails is logged: the owner wakes up by itself, a millisecond later at most. What is in the pipe
//! says nothing, so that a pull too many costs a look.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::pipe2;

use super::arena::Arena;

/// The owner's end.
#[derive(Debug)]
pub(super) struct Cord {
    end: File,
    /// Kept open, so that what is pulled never falls off.
    other_end: OwnedFd,
}

impl Cord {
    /// Makes a cord.
    pub(super) fn new() -> Result<Self, Errno> {
        let (end, other_end) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Cord { end: end.into(), other_end })
    }

    /// Shows the node's other ranks where it is.
    pub(super) fn show(&self, arena: &Arena, me: usize) {
        arena.show_cord(me, std::process::id(), self.other_end.as_raw_fd().unsigned_abs());
    }

    /// Takes in what was pulled.
    pub(super) fn slacken(&mut self) {
        // More than there are ranks to pull it; what is left is taken in the next time.
        let mut pulls = [0; 256];
        let _ = self.end.read(&mut pulls);
    }
}

/// Readable when it was pulled.
impl AsFd for Cord {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.end.as_fd()
    }
}

/// The end at which another rank pulls.
#[derive(Debug, Default)]
pub(super) struct Pull {
    end: Option<File>,
    has_failed: bool,
}

impl Pull {
    /// Wakes the rank whose cord it is.
    pub(super) fn pull(&mut self, arena: &Arena, local_rank: usize) {
        if self.end.is_none() && !self.has_failed {
            match reach(arena, local_rank) {
                Ok(end) => self.end = Some(end),
                Err(errno) => {
                    self.has_failed = true;
                    log::info!("local rank {local_rank} is woken by its clock only: {}", errno.desc());
                }
            }
        }
        let Some(mut end) = self.end.as_ref() else { return };
        match end.write(&[1]) {
            // Full: it was pulled often enough.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => log::debug!("local rank {local_rank} is not woken: {error}"),
        }
    }
}

/// Opens a rank's cord. For reading too: a pipe that nobody reads would end whoever writes to it.
fn reach(arena: &Arena, local_rank: usize) -> Result<File, Errno> {
    let (pid, fd) = arena.cord(local_rank).ok_or(Errno::ENOENT)?;
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let mut path = [0; 40];
    // Without allocating, as this happens in the middle of a call.
    let mut rest = &mut path[..];
    write!(rest, "/proc/{pid}/fd/{fd}").expect("two numbers of 10 digits fit");
    let left = rest.len();
    let end = open(&path[..path.len() - left], flags, Mode::empty())?;
    // What is behind the path is whatever the peer put there.
    let is_pipe = SFlag::from_bits_truncate(fstat(&end)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO;
    if is_pipe { Ok(end.into()) } else { Err(Errno::EINVAL) }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::super::arena::Geometry;
    use super::*;

    fn is_pulled(cord: &Cord) -> bool {
        poll(&mut [PollFd::new(cord.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() > 0
    }

    #[test]
    fn a_cord_is_pulled_through_the_arena_and_slackens() {
        let arena = Arena::create(Geometry::new(2)).unwrap();
        let mut cord = Cord::new().unwrap();
        cord.show(&arena, 1);
        let mut pull = Pull::default();
        for pulls in [1, 3, 200] {
            assert!(!is_pulled(&cord));
            (0..pulls).for_each(|_| pull.pull(&arena, 1));
            assert!(is_pulled(&cord));
            cord.slacken();
        }
        assert!(!is_pulled(&cord));
    }

    #[test]
    fn a_cord_that_is_none_or_no_pipe_is_not_pulled() {
        let arena = Arena::create(Geometry::new(2)).unwrap();
        assert_eq!(reach(&arena, 1).unwrap_err(), Errno::ENOENT);
        let file = tempfile();
        arena.show_cord(1, std::process::id(), file.as_raw_fd().unsigned_abs());
        assert_eq!(reach(&arena, 1).unwrap_err(), Errno::EINVAL);
        Pull::default().pull(&arena, 1);
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    fn tempfile() -> File {
        let fd = nix::sys::memfd::memfd_create(c"no cord", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
        fd.unwrap().into()
    }
}
