//! The agent's end of the socket to its keeper.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use efarun_wire::frame::{self, FrameReader};

use crate::agent::setup::KeeperProcess;
use crate::keeper::protocol::{ForkOrder, KeeperOrder, KeeperReport, RANK_FDS};

/// Orders out, reports in. A keeper that takes no orders counts as dead.
#[derive(Debug)]
pub(super) struct KeeperLink {
    pub(super) pid: i32,
    socket: UnixStream,
    frames: FrameReader,
}

impl KeeperLink {
    /// Takes the socket over. To be called within the runtime.
    pub(super) fn new(keeper: KeeperProcess) -> io::Result<KeeperLink> {
        keeper.socket.set_nonblocking(true)?;
        let socket = UnixStream::from_std(keeper.socket)?;
        Ok(KeeperLink { pid: keeper.pid, socket, frames: FrameReader::default() })
    }

    /// Orders a rank, with its descriptors in the order of their numbers there.
    pub(super) async fn fork(&self, order: ForkOrder, fds: [OwnedFd; RANK_FDS]) -> io::Result<()> {
        let fds = fds.each_ref().map(OwnedFd::as_raw_fd);
        self.send(&KeeperOrder::Fork(Box::new(order)), &fds).await
    }

    /// Orders something that comes without descriptors.
    pub(super) async fn order(&self, order: &KeeperOrder) -> io::Result<()> {
        self.send(order, &[]).await
    }

    /// Says that no orders will come: the keeper ends everything, and itself. Reports are still heard.
    pub(super) async fn close(&mut self) {
        // Fails when the keeper is dead already.
        let _ = self.socket.shutdown().await;
    }

    /// Waits until the keeper's process has ended; it is still to be reaped then.
    pub(super) async fn ended(&self) {
        let Ok(mut ends) = signal(SignalKind::child()) else { return };
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        while waitid(Id::Pid(Pid::from_raw(self.pid)), flags) == Ok(WaitStatus::StillAlive) {
            ends.recv().await;
        }
    }

    async fn send(&self, order: &KeeperOrder, fds: &[RawFd]) -> io::Result<()> {
        // It takes orders in at once unless it is dead or stopped.
        let sent = timeout(KEEPER_PATIENCE, self.send_whole(order, fds)).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn send_whole(&self, order: &KeeperOrder, fds: &[RawFd]) -> io::Result<()> {
        let frame = frame::encode(order);
        let mut unsent = &frame[..];
        let mut rights = &[ControlMessage::ScmRights(fds)][..if fds.is_empty() { 0 } else { 1 }];
        while !unsent.is_empty() {
            let sent_bytes = self
                .socket
                .async_io(Interest::WRITABLE, || {
                    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
                    let slices = [IoSlice::new(unsent)];
                    Ok(sendmsg::<()>(self.socket.as_raw_fd(), &slices, rights, flags, None)?)
                })
                .await?;
            // The descriptors went with the first byte.
            rights = &[];
            unsent = &unsent[sent_bytes..];
        }
        Ok(())
    }

    /// Gives the next report. Cancelling it loses nothing. `None`: the keeper is dead.
    pub(super) async fn report(&mut self) -> Option<KeeperReport> {
        loop {
            // A keeper whose reports do not parse is as good as dead: closing the socket ends it.
            if let Some(report) = self.frames.next_message().ok()? {
                return Some(report);
            }
            self.socket.readable().await.ok()?;
            let mut buffer = [0; 4 << 10];
            match self.socket.try_read(&mut buffer) {
                Ok(0) => return None,
                Ok(read_bytes) => self.frames.push(&buffer[..read_bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }
}

const KEEPER_PATIENCE: Duration = Duration::from_secs(2);
