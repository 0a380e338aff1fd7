//! The keeper's loop.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use efarun_wire::Rank;
use efarun_wire::message::RankStatus;

use super::agent_socket::AgentSocket;
use super::ending::Ending;
use super::fork::{self, Started, Starting};
use super::protocol::{ForkOrder, KeeperOrder, KeeperReport};
use super::sys::{self, Reaped};

/// The keeper at work. One thread, and nothing in it waits but [`Keeper::wait`].
#[derive(Debug)]
pub(super) struct Keeper {
    agent: AgentSocket,
    signals: SignalFd,
    starting: Vec<Starting>,
    running: BTreeMap<i32, Running>,
    /// Children that have said why they cannot start, and have not been reaped.
    failed: BTreeSet<i32>,
    reaped_ranks: u32,
    ending: Option<Ending>,
    /// An end has been ordered: exits are no failures, and no further rank starts.
    end_ordered: bool,
    has_children: bool,
}

#[derive(Debug)]
struct Running {
    rank: Rank,
    forked_at: Instant,
}

impl Keeper {
    /// Takes over the socket. From here on a child's end wakes the loop.
    ///
    /// # Errors
    ///
    /// What the system refused.
    pub(super) fn new(agent: OwnedFd) -> nix::Result<Keeper> {
        let mut handled = SigSet::empty();
        handled.add(Signal::SIGCHLD);
        handled.thread_block()?;
        let signals = SignalFd::with_flags(&handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Keeper {
            agent: AgentSocket::new(agent),
            signals,
            starting: Vec::new(),
            running: BTreeMap::new(),
            failed: BTreeSet::new(),
            reaped_ranks: 0,
            ending: None,
            end_ordered: false,
            has_children: false,
        })
    }

    /// Works until the agent is gone and every descendant with it.
    pub(super) fn run(mut self) {
        while self.agent.is_open() || self.ending.is_some() {
            self.wait();
            self.agent.send_unsent();
            self.agent.receive();
            while let Some((order, fds)) = self.agent.next_order() {
                self.obey(order, fds);
            }
            // What they say is seen by reaping; reading them makes the descriptor quiet again.
            while let Ok(Some(_)) = self.signals.read_signal() {}
            if !self.agent.is_open() && self.ending.is_none() {
                self.end(AGENT_LOST_GRACE, libc::SIGTERM);
            }
            self.settle_starts();
            self.reap();
            self.go_on_ending();
        }
    }

    fn wait(&self) {
        let agent_events =
            if self.agent.has_unsent() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.starting.iter().map(|starting| PollFd::new(starting.as_fd(), PollFlags::POLLIN)));
        // A socket whose other end is gone is always readable.
        if self.agent.is_open() {
            fds.push(PollFd::new(self.agent.as_fd(), agent_events));
        }
        let timeout = self.ending.as_ref().map_or(PollTimeout::NONE, |ending| {
            let wait = ending.wake_at().saturating_duration_since(Instant::now());
            PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        // An interrupted or failed poll is a turn of the loop in which nothing may be ready.
        let _ = poll(&mut fds, timeout);
    }

    fn obey(&mut self, order: KeeperOrder, fds: Vec<OwnedFd>) {
        match order {
            KeeperOrder::Fork(order) => self.fork(*order, fds),
            KeeperOrder::Signal { number } => {
                for pid in self.leaders() {
                    sys::signal_child(-pid, number);
                }
            }
            KeeperOrder::End { grace_ms, signal } => self.end(Duration::from_millis(grace_ms.into()), signal),
        }
    }

    fn fork(&mut self, order: ForkOrder, fds: Vec<OwnedFd>) {
        let rank = order.rank;
        if self.end_ordered {
            let call = "fork".to_owned();
            let errno = nix::errno::Errno::ECANCELED as i32;
            self.agent.report(&KeeperReport::ForkFailed { rank, call, subject: order.program, errno });
            return;
        }
        match fork::start(order, fds) {
            Ok(starting) => {
                self.has_children = true;
                self.starting.push(starting);
            }
            Err(error) => self.report_failed_start(rank, error),
        }
    }

    fn report_failed_start(&mut self, rank: Rank, error: fork::StartError) {
        let fork::StartError { call, subject, errno } = error;
        self.agent.report(&KeeperReport::ForkFailed { rank, call: call.to_owned(), subject, errno });
    }

    fn end(&mut self, grace: Duration, signal: i32) {
        // What has ended by itself is reported as such, and needs no signal.
        self.settle_starts();
        self.reap();
        self.end_ordered = true;
        let now = Instant::now();
        let leaders = self.leaders();
        match &mut self.ending {
            Some(ending) => ending.shorten(now, grace),
            None if self.has_children => self.ending = Some(Ending::begin(now, grace, signal, &leaders)),
            // Descendants without children there are none, as this process inherits them. After a job that ended
            // well that spares a walk over /proc, which takes 10 microseconds for each process of the machine.
            None => self.ending = Some(Ending::of_nobody(now)),
        }
    }

    /// The children that lead a process group and have not been reaped.
    fn leaders(&self) -> Vec<i32> {
        let starting = self.starting.iter().map(|starting| &starting.pid);
        self.running.keys().chain(&self.failed).chain(starting).copied().collect()
    }

    fn settle_starts(&mut self) {
        for index in (0..self.starting.len()).rev() {
            let Some(started) = self.starting[index].outcome() else { continue };
            let Starting { rank, pid, forked_at, .. } = self.starting.swap_remove(index);
            match started {
                Started::Running { other_wdir } => {
                    self.running.insert(pid, Running { rank, forked_at });
                    self.agent.report(&KeeperReport::Forked { rank, pid, other_wdir });
                }
                Started::Failed(error) => {
                    self.failed.insert(pid);
                    self.report_failed_start(rank, error);
                }
            }
        }
    }

    fn reap(&mut self) {
        loop {
            match sys::reap_one() {
                Reaped::Child(pid, status) => self.reaped(pid, status),
                Reaped::NoneEnded => return,
                Reaped::NoChildren => {
                    self.has_children = false;
                    return;
                }
            }
        }
    }

    fn reaped(&mut self, pid: i32, status: RankStatus) {
        // A program may have started and ended since its start was last looked at.
        self.settle_starts();
        self.failed.remove(&pid);
        let Some(Running { rank, forked_at }) = self.running.remove(&pid) else { return };
        self.reaped_ranks += 1;
        self.agent.report(&KeeperReport::Exited {
            rank,
            status,
            ran_ms: u64::try_from(forked_at.elapsed().as_millis()).unwrap_or(u64::MAX),
            ended_by_launcher: self.end_ordered,
        });
    }

    fn go_on_ending(&mut self) {
        let leaders = self.leaders();
        let Some(ending) = &mut self.ending else { return };
        if !self.has_children {
            let strays = ending.strays();
            self.ending = None;
            self.agent.report(&KeeperReport::Reaped { ranks: self.reaped_ranks, strays });
            return;
        }
        let Some(survivors) = ending.advance(Instant::now(), &leaders) else { return };
        self.agent.report(&KeeperReport::Stuck { survivors });
        if !self.agent.is_open() {
            // Nobody is left to be told; init inherits what the kernel will end one day.
            self.ending = None;
        }
    }
}

/// Between TERM and KILL when the agent is gone.
const AGENT_LOST_GRACE: Duration = Duration::from_millis(500);
