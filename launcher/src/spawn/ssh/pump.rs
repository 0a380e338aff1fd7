//! The steady state of a session: bytes between the head's socket and the channel, on one thread.
//!
//! Full duplex, without waiting on one direction while the other could move; what one side does not take is not
//! read from the other. The session is in non-blocking mode and poll(2) is the only place that waits. The head's
//! half-close becomes the channel's end of file; the channel's end of file becomes ours towards the head.
//!
//! Two manners of libssh2 shape this loop. A packet that was sent in part can only be completed by the very call that
//! began it, and every other call then reports that it would block, so a write that would block is repeated with the
//! same bytes, and a keep-alive is only sent when the socket has room for all of it. And any read takes everything
//! off the socket into libssh2's own queue, which the window bounds: reading standard error therefore also keeps
//! poll from reporting the socket again and again while the head takes no output.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ssh2::{BlockDirections, Channel, ErrorCode, Session};

use crate::spawn::ChannelEnd;
use crate::spawn::lines::LineSink;

/// Moves bytes until the channel ends.
pub(crate) struct Pump {
    session: Session,
    channel: Channel,
    tcp: TcpStream,
    head: UnixStream,
    stderr: LineSink,
    to_host: Held,
    to_head: Held,
    /// The head may still send something.
    head_sends: bool,
    /// The head still takes something.
    head_takes: bool,
    eof_sent: bool,
    /// When a channel that nobody holds any more is given up.
    abandon_at: Option<Instant>,
}

/// What one round did.
#[derive(PartialEq)]
enum Round {
    Moved,
    Idle,
    Ended(ChannelEnd),
}

impl Pump {
    /// Takes over a channel on which a command runs, and the head's socket.
    pub(crate) fn new(
        session: Session,
        channel: Channel,
        tcp: TcpStream,
        head: UnixStream,
        stderr: LineSink,
    ) -> io::Result<Pump> {
        session.set_blocking(false);
        session.set_keepalive(true, KEEPALIVE_S);
        head.set_nonblocking(true)?;
        Ok(Pump {
            session,
            channel,
            tcp,
            head,
            stderr,
            to_host: Held::new(),
            to_head: Held::new(),
            head_sends: true,
            head_takes: true,
            eof_sent: false,
            abandon_at: None,
        })
    }

    /// Runs until the command has ended, or the connection is lost.
    pub(crate) fn run(mut self) -> ChannelEnd {
        let end = self.run_to_end().unwrap_or_else(|error| ChannelEnd::Lost(error.to_string()));
        if !matches!(end, ChannelEnd::Lost(_)) {
            // A courtesy: sshd need not find out by itself.
            let _ = self.session.disconnect(None, "the agent has ended", None);
        }
        self.stderr.close();
        end
    }

    fn run_to_end(&mut self) -> io::Result<ChannelEnd> {
        // Whether the socket was readable and reading it moved nothing.
        let mut in_vain = false;
        loop {
            match self.round()? {
                Round::Ended(end) => return Ok(end),
                Round::Moved => in_vain = false,
                Round::Idle => {
                    let blocked = self.session.block_directions();
                    let sends = matches!(blocked, BlockDirections::Outbound | BlockDirections::Both);
                    // While a packet is stuck half-way, libssh2 may refuse to read what poll would go on reporting.
                    in_vain = self.wait(sends, !(in_vain && sends))?;
                }
            }
            if self.abandon_at.is_some_and(|at| Instant::now() >= at) {
                return Ok(ChannelEnd::Lost("the agent did not end after its channel was closed".to_owned()));
            }
        }
    }

    fn round(&mut self) -> io::Result<Round> {
        let mut moved = self.take_from_head()?;
        moved |= self.give_to_host()?;
        moved |= self.take_from_host()?;
        moved |= self.give_to_head()?;
        if !moved && self.to_head.is_empty() && self.channel.eof() {
            if self.head_takes {
                // Fails when the head has closed its end, which comes to the same.
                let _ = self.head.shutdown(Shutdown::Write);
                self.head_takes = false;
            }
            // The exit status arrives before the close.
            if done(self.channel.wait_close())? {
                return Ok(Round::Ended(self.end()?));
            }
        }
        Ok(if moved { Round::Moved } else { Round::Idle })
    }

    fn take_from_head(&mut self) -> io::Result<bool> {
        if !self.head_sends || !self.to_host.is_empty() {
            return Ok(false);
        }
        match would_block(self.head.read(self.to_host.room())) {
            Ok(None) => Ok(false),
            Ok(Some(0)) => {
                self.head_sends = false;
                Ok(true)
            }
            Ok(Some(len)) => {
                self.to_host.filled(len);
                Ok(true)
            }
            // The head went away with bytes unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                self.head_is_gone();
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn give_to_host(&mut self) -> io::Result<bool> {
        if !self.to_host.is_empty() {
            let sent = would_block(self.channel.write(self.to_host.bytes()))?;
            self.to_host.taken(sent.unwrap_or(0));
            return Ok(sent.is_some_and(|len| len > 0));
        }
        if !self.head_sends && !self.eof_sent {
            self.eof_sent = done(self.channel.send_eof())?;
            return Ok(self.eof_sent);
        }
        Ok(false)
    }

    fn take_from_host(&mut self) -> io::Result<bool> {
        let mut moved = false;
        if self.to_head.is_empty() {
            // Nothing at all is not the end: `eof` says that.
            let len = would_block(self.channel.read(self.to_head.room()))?.unwrap_or(0);
            self.to_head.filled(len);
            moved = len > 0;
        }
        let mut complaint = [0; 4096];
        while let Some(len @ 1..) = would_block(self.channel.stderr().read(&mut complaint))? {
            self.stderr.push(&complaint[..len]);
            moved = true;
        }
        Ok(moved)
    }

    fn give_to_head(&mut self) -> io::Result<bool> {
        if self.to_head.is_empty() {
            return Ok(false);
        }
        if !self.head_takes {
            self.to_head.taken(self.to_head.bytes().len());
            return Ok(true);
        }
        match would_block(self.head.write(self.to_head.bytes())) {
            Ok(sent) => {
                self.to_head.taken(sent.unwrap_or(0));
                Ok(sent.is_some())
            }
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                self.head_is_gone();
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn head_is_gone(&mut self) {
        self.head_sends = false;
        self.head_takes = false;
        self.abandon_at.get_or_insert_with(|| Instant::now() + ABANDON_AFTER);
    }

    /// Waits until something can move; says whether the session's socket is readable.
    fn wait(&mut self, sends: bool, receives: bool) -> io::Result<bool> {
        let mut tcp_events = PollFlags::empty();
        tcp_events.set(PollFlags::POLLIN, receives);
        tcp_events.set(PollFlags::POLLOUT, sends);
        let mut head_events = PollFlags::empty();
        head_events.set(PollFlags::POLLIN, self.head_sends && self.to_host.is_empty());
        head_events.set(PollFlags::POLLOUT, self.head_takes && !self.to_head.is_empty());

        let keepalive = self.keep_alive(sends)?;
        let abandon =
            self.abandon_at.map(|at| at.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let timeout = abandon.map_or(keepalive, |abandon| abandon.min(keepalive));
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);

        let mut fds = vec![PollFd::new(self.tcp.as_fd(), tcp_events)];
        // poll reports a hang-up whether it is asked for or not: once it is known it must not be watched.
        if self.abandon_at.is_none() {
            fds.push(PollFd::new(self.head.as_fd(), head_events));
        }
        poll_uninterrupted(&mut fds, timeout)?;
        let readable = fds[0].any().unwrap_or(false) && receives;
        let hung_up =
            fds.get(1).and_then(PollFd::revents).is_some_and(|events| events.contains(PollFlags::POLLHUP));
        if hung_up {
            // What the head wrote before it closed is still to be read.
            self.head_takes = false;
            self.abandon_at = Some(Instant::now() + ABANDON_AFTER);
        }
        Ok(readable)
    }

    /// Sends a keep-alive when one is due and nothing is stuck; says when the next one is.
    fn keep_alive(&self, sends: bool) -> io::Result<Duration> {
        let interval = Duration::from_secs(KEEPALIVE_S.into());
        if sends || !has_room(self.tcp.as_fd())? {
            return Ok(interval);
        }
        let seconds = self.session.keepalive_send()?;
        Ok(Duration::from_secs(seconds.max(1).into()))
    }

    fn end(&self) -> io::Result<ChannelEnd> {
        if let Some(name) = self.channel.exit_signal()?.exit_signal {
            return Ok(ChannelEnd::Signal(format!("SIG{name}")));
        }
        Ok(ChannelEnd::Code(self.channel.exit_status()?))
    }
}

/// Bytes that one side has given and the other has not taken yet.
struct Held {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Held {
    fn new() -> Held {
        Held { buffer: vec![0; HELD_BYTES].into(), start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// All of the buffer; only when it is empty.
    fn room(&mut self) -> &mut [u8] {
        (self.start, self.end) = (0, 0);
        &mut self.buffer
    }

    fn filled(&mut self, len: usize) {
        self.end = len;
    }

    fn taken(&mut self, len: usize) {
        self.start += len;
    }
}

/// Turns "would block" into nothing.
fn would_block(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(len) => Ok(Some(len)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a call of libssh2 that may have to be repeated is done.
fn done(result: Result<(), ssh2::Error>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.code() == ErrorCode::Session(EAGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn has_room(tcp: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(tcp, PollFlags::POLLOUT)];
    poll_uninterrupted(&mut fds, PollTimeout::ZERO)?;
    Ok(fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT)))
}

fn poll_uninterrupted(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> io::Result<()> {
    match poll(fds, timeout) {
        // Whoever called looks again at what can be done.
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

const HELD_BYTES: usize = 64 << 10;
const KEEPALIVE_S: u32 = 5;

/// How long an agent may take to end after its channel was closed by everybody here.
const ABANDON_AFTER: Duration = Duration::from_secs(10);

/// LIBSSH2_ERROR_EAGAIN.
const EAGAIN: i32 = -37;
