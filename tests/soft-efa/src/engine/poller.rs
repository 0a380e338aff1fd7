//! What the devices wait for: one epoll for all sockets, and a way to wake who waits.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

/// What a socket belongs to: a device, a role, and a number in that role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token(u64);

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The door of the queue pair with this number.
    Door,
    /// A greeting with this number.
    Greeting,
    /// The link with this number.
    Link,
}

impl Token {
    pub(super) fn new(device: usize, role: Role, number: u64) -> Token {
        Token((device as u64) << 56 | (role as u64) << 48 | number & NUMBER)
    }

    pub(super) fn device(self) -> usize {
        (self.0 >> 56) as usize
    }

    pub(super) fn role(self) -> Role {
        match self.0 >> 48 & 0xff {
            0 => Role::Door,
            1 => Role::Greeting,
            _ => Role::Link,
        }
    }

    pub(super) fn number(self) -> u64 {
        self.0 & NUMBER
    }
}

#[derive(Debug)]
pub(super) struct Poller {
    epoll: Epoll,
    bell: EventFd,
}

impl Poller {
    pub(super) fn new() -> nix::Result<Poller> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        Ok(Poller { epoll, bell })
    }

    /// Watches a socket for what comes, and for its end.
    pub(super) fn watch(&self, fd: BorrowedFd<'_>, token: Token) -> nix::Result<()> {
        self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, token.0))
    }

    /// Watches a socket for room too, or no longer.
    pub(super) fn watch_for_room(&self, fd: BorrowedFd<'_>, token: Token, for_room: bool) {
        let mut flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        flags.set(EpollFlags::EPOLLOUT, for_room);
        // A socket that is not watched is one that has ended, which is found out elsewhere.
        let _ = self.epoll.modify(fd, &mut EpollEvent::new(flags, token.0));
    }

    pub(super) fn forget(&self, fd: BorrowedFd<'_>) {
        let _ = self.epoll.delete(fd);
    }

    /// The sockets that have something.
    pub(super) fn ready(&self) -> Vec<Token> {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        // The bell rings on until who waits has heard it, whoever else looks at sockets.
        events[..count].iter().filter(|event| event.data() != BELL).map(|event| Token(event.data())).collect()
    }

    /// Sleeps until a socket has something, somebody wakes, or the time is over.
    pub(super) fn wait(&self, at_most: Option<Duration>) {
        let mut fds = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        // An interrupted wait is a wait that ended early; the caller looks again.
        let _ = ppoll(&mut fds, at_most.map(TimeSpec::from), None);
        let _ = self.bell.read();
    }

    pub(super) fn wake(&self) {
        let _ = self.bell.write(1);
    }
}

const NUMBER: u64 = (1 << 48) - 1;
const BELL: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_bell_is_heard_though_others_look_at_sockets_in_between() {
        let poller = Poller::new().unwrap();
        poller.wake();
        assert!(poller.ready().is_empty());
        let since = Instant::now();
        poller.wait(Some(LONG));
        assert!(since.elapsed() < LONG, "the waker was not heard");
        poller.wait(Some(Duration::from_millis(1)));
        assert!(poller.ready().is_empty());
    }

    const LONG: Duration = Duration::from_secs(20);
}
