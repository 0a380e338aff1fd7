//! The socket to the agent that efarun leaves open in every rank.
//!
//! A process has one, however many Worlds it makes: they share it, through the registry below, and it stays open to
//! the process's end. The first World marks it close-on-exec, so that programs that the rank starts do not get it.
//!
//! # Safety
//! One block: taking an inherited descriptor by its number.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use efarun_wire::Rank;
use efarun_wire::frame::MAX_BODY_BYTES;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockaddrLike, SockaddrStorage, getpeername, getsockopt, sockopt};

use super::connection::Shared;
use super::error::BootstrapError;
use super::link::Link;

/// The connections of this process by descriptor. The descriptor is a number of the whole process, so who owns it
/// can only be known for the whole process.
static CONNECTIONS: LazyLock<Mutex<HashMap<RawFd, Arc<Shared>>>> = LazyLock::new(Mutex::default);

/// Joins through the agent's socket, or takes the connection that an earlier World of this process has joined by.
pub(super) fn connect(
    fd: RawFd,
    rank: Rank,
    world_size: u32,
    deadline: Instant,
) -> Result<Arc<Shared>, BootstrapError> {
    let mut connections = CONNECTIONS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(shared) = connections.get(&fd) {
        return Ok(Arc::clone(shared));
    }
    let stream = take(fd)?;
    let system = |cause| BootstrapError::System { call: "fcntl", cause };
    let link = Link::plain(stream, MAX_BODY_BYTES).map_err(system)?;
    let shared = Shared::join(link, "the agent of this node", rank, world_size, deadline)?;
    shared.offer_page();
    connections.insert(fd, Arc::clone(&shared));
    Ok(shared)
}

/// Takes the descriptor, if it is what it should be.
fn take(fd: RawFd) -> Result<UnixStream, BootstrapError> {
    let refused = |cause: String| BootstrapError::NotAnAgent { fd, cause };
    if fd <= 2 {
        return Err(refused("it is a standard stream".to_owned()));
    }
    if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
        return Err(refused("it is not open".to_owned()));
    }
    // SAFETY: the descriptor is open, and by its name in the environment efarun left it to this library alone; the
    // registry takes it once.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    match check(owned.as_fd()) {
        Ok(()) => Ok(UnixStream::from(owned)),
        Err(cause) => {
            // It is somebody else's, who will close it.
            std::mem::forget(owned);
            Err(refused(cause))
        }
    }
}

fn check(fd: BorrowedFd<'_>) -> Result<(), String> {
    use std::os::fd::AsRawFd;
    let kind =
        getsockopt(&fd, sockopt::SockType).map_err(|errno| format!("it is no socket: {}", errno.desc()))?;
    let peer = getpeername::<SockaddrStorage>(fd.as_raw_fd()).map_err(|errno| errno.desc().to_owned())?;
    let is_unix = peer.family() == Some(nix::sys::socket::AddressFamily::Unix);
    if kind != nix::sys::socket::SockType::Stream || !is_unix {
        return Err("it is no connected unix stream".to_owned());
    }
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|errno| errno.desc().to_owned())?;
    Ok(())
}
