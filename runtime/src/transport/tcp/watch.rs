//! What a rank sleeps on: the sockets of its connections, kept in one set from sleep to sleep.
//!
//! A sleep costs the same for one peer and for a thousand, and no memory. Peers are told apart by their rank; a socket
//! leaves the set when it is closed.

use std::os::fd::{AsFd, BorrowedFd};

use efarun_wire::Rank;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::transport::TransportError;

/// The sockets of a transport.
#[derive(Debug)]
pub(super) struct Watch {
    epoll: Epoll,
}

impl Watch {
    /// An empty set.
    pub(super) fn new() -> Result<Self, TransportError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|errno| TransportError::Call {
            call: "epoll_create1",
            code: errno as i32,
            cause: errno.desc().to_owned(),
        })?;
        Ok(Watch { epoll })
    }

    /// Takes a peer's socket in: it is awaited until there is something to read.
    pub(super) fn add(&self, rank: Rank, socket: impl AsFd) -> Result<(), Errno> {
        self.epoll.add(socket, event(rank, false))
    }

    /// Says whether a peer's socket is also awaited until it takes more.
    pub(super) fn await_room(&self, rank: Rank, socket: impl AsFd, awaits_room: bool) -> Result<(), Errno> {
        self.epoll.modify(socket, &mut event(rank, awaits_room))
    }

    /// The ranks that there is something to read from, or that are lost; some of them, where they are many.
    pub(super) fn readable(&self) -> impl Iterator<Item = Rank> + use<> {
        let mut events = [EpollEvent::empty(); AT_ONCE];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let has_news = |event: &EpollEvent| event.events().intersects(NEWS);
        events.into_iter().take(count).filter(has_news).map(|event| Rank((event.data() & RANK_BITS) as u32))
    }
}

/// Readable while one of the sockets has what it is awaited for.
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

fn event(rank: Rank, awaits_room: bool) -> EpollEvent {
    let room = if awaits_room { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
    EpollEvent::new(EpollFlags::EPOLLIN | room, u64::from(rank.0))
}

const RANK_BITS: u64 = u32::MAX as u64;
const NEWS: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLERR).union(EpollFlags::EPOLLHUP);
/// What a sleep that found more leaves for the next.
const AT_ONCE: usize = 16;
