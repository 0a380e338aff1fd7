//! Links within a host: rings in shared memory, and a Unix socket that hands them over, rings the bell and tells the end.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::Received;
use super::hello::{HELLO_BYTES, Hello};
use super::ring::Rings;
use crate::address::Endpoint;
use crate::nic::{Frame, Outlet};

/// Where a queue pair is found within its host.
#[derive(Debug)]
pub struct LocalDoor(UnixListener);

impl LocalDoor {
    /// Takes the door of a queue pair; an error of kind `AddrInUse` says that somebody has it.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn open(fabric: &str, endpoint: Endpoint) -> std::io::Result<LocalDoor> {
        let listener = UnixListener::bind_addr(&name(fabric, endpoint)?)?;
        listener.set_nonblocking(true)?;
        Ok(LocalDoor(listener))
    }

    /// Somebody who wants to talk; none when nobody waits.
    pub fn accept(&self) -> Option<LocalGreeting> {
        let (socket, _) = self.0.accept().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(LocalGreeting(socket))
    }

    /// Readable when somebody waits.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Somebody who has not said hello.
#[derive(Debug)]
pub struct LocalGreeting(UnixStream);

impl LocalGreeting {
    /// Readable when there is a hello.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes the hello, which comes in one piece with the rings. None when it makes no sense.
    pub fn finish(self) -> Option<(Hello, LocalLink)> {
        let mut bytes = [0; HELLO_BYTES];
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let message =
            recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
                .ok()?;
        let len = message.bytes;
        let rings = message.cmsgs().ok()?.find_map(|control| match control {
            ControlMessageOwned::ScmRights(fds) => fds.first().map(|fd| own(*fd)),
            _ => None,
        })?;
        let hello = Hello::decode(&bytes).filter(|_| len == HELLO_BYTES)?;
        let rings = Rings::open(&rings).ok()?;
        Some((hello, LocalLink { socket: self.0, rings, has_ended: false }))
    }
}

/// A link to a process of this host, which may be this very one.
#[derive(Debug)]
pub struct LocalLink {
    socket: UnixStream,
    rings: Rings,
    has_ended: bool,
}

impl LocalLink {
    /// Opens a link.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` when the queue pair has no door on this host, `WouldBlock` when too many wait there.
    pub fn open(hello: &Hello) -> std::io::Result<LocalLink> {
        let address = name(&hello.fabric, hello.to)?;
        let socket = connect(&address)?;
        let (rings, fd) = Rings::create()?;
        let bytes = hello.encode();
        let fds = [fd.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
        Ok(LocalLink { socket, rings, has_ended: false })
    }

    /// Its socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Wakes the other end if it sleeps. A bell that cannot be rung belongs to a process that is gone, or that has
    /// many rings to answer already.
    pub fn ring_bell(&mut self) {
        if self.rings.wake() {
            let _ = self.socket.write(&[1]);
        }
    }

    /// Takes bells away; false at the end of the other process.
    pub fn hear_bell(&mut self) -> bool {
        let mut bells = [0; 64];
        loop {
            match self.socket.read(&mut bells) {
                Ok(0) => self.has_ended = true,
                Ok(_) => continue,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(_) => self.has_ended = true,
            }
            return !self.has_ended;
        }
    }

    /// Says that this end is about to sleep; false when there is something to receive after all.
    pub fn fall_asleep(&self) -> bool {
        self.rings.fall_asleep();
        !self.rings.has_frames()
    }

    pub(super) fn receive(&mut self, budget: usize, take: &mut dyn FnMut(&Frame, &[u8])) -> Received {
        match self.rings.receive(budget, take) {
            Received::Frames(count) if self.has_ended && count < budget => Received::End(count),
            received => received,
        }
    }
}

impl Outlet for LocalLink {
    fn has_room(&self) -> bool {
        self.rings.has_room()
    }

    fn put(&mut self, frame: &Frame, fill: &mut dyn FnMut(&mut [u8])) {
        self.rings.put(frame, fill);
    }
}

fn name(fabric: &str, endpoint: Endpoint) -> std::io::Result<SocketAddr> {
    let gid = u128::from_be_bytes(endpoint.gid.0);
    SocketAddr::from_abstract_name(format!("soft-efa/{fabric}/{gid:032x}/{}", endpoint.qpn.0))
}

/// Without waiting, as the standard library would for a door with a long queue.
fn connect(address: &SocketAddr) -> std::io::Result<UnixStream> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let name = address.as_abstract_name().unwrap_or_default();
    nix::sys::socket::connect(fd.as_raw_fd(), &UnixAddr::new_abstract(name)?)?;
    Ok(UnixStream::from(fd))
}

#[expect(unsafe_code, reason = "a descriptor that the kernel has just made for this process")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: SCM_RIGHTS makes new descriptors, and this is the only place that takes this one.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
