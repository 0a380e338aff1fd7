//! How devices reach each other: rings of shared memory within a host, TCP between hosts.
//!
//! A queue pair has a *door* of each kind, and both are found from its address alone: an abstract Unix socket, whose
//! name holds the fabric, GID and number, and which only exists within its network namespace; and a TCP port of the
//! host that the GID tells. Who has the door has the number: binding it is what makes a queue pair's number
//! unique on its host, and the kernel gives it back when the process ends, however it ends.
//!
//! Whoever wants to talk to a queue pair opens a link to its door and introduces itself ([`Hello`]). Frames then go
//! both ways. The end of the socket is the end of the process at the other end.

mod hello;
mod local;
mod ring;
mod tcp;

use std::os::fd::BorrowedFd;

pub use hello::Hello;
pub use local::{LocalDoor, LocalGreeting, LocalLink};
pub use tcp::{Greeted, TcpDoor, TcpGreeting, TcpLink};

use crate::nic::{Frame, Outlet};

/// An open link.
#[derive(Debug)]
pub enum Link {
    /// Within the host.
    Local(LocalLink),
    /// To another.
    Tcp(TcpLink),
}

impl Link {
    /// Its socket, which becomes readable when there may be something new.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Link::Local(link) => link.as_fd(),
            Link::Tcp(link) => link.as_fd(),
        }
    }

    /// Where frames go.
    pub fn outlet(&mut self) -> &mut dyn Outlet {
        match self {
            Link::Local(link) => link,
            Link::Tcp(link) => link,
        }
    }

    /// Hands on what was put into the outlet. Where nobody is there any more, [`Link::receive`] says so.
    pub fn flush(&mut self) {
        match self {
            Link::Local(link) => link.ring_bell(),
            Link::Tcp(link) => link.flush(),
        }
    }

    /// Gives up to `budget` frames to `take`, and says how many there were.
    pub fn receive(&mut self, budget: usize, take: &mut dyn FnMut(&Frame, &[u8])) -> Received {
        match self {
            Link::Local(link) => link.receive(budget, take),
            Link::Tcp(link) => link.receive(budget, take),
        }
    }

    /// The socket is readable: for shared memory a bell, or the end.
    pub fn look(&mut self) -> bool {
        match self {
            Link::Local(link) => link.hear_bell(),
            Link::Tcp(_) => true,
        }
    }
}

/// What came of receiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// So many frames, and no more for now.
    Frames(usize),
    /// So many frames, and then the end: nothing will come any more.
    End(usize),
}

/// The longest payload that a link carries.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024;
