//! How all descendants are ended: a signal that asks, a grace, then KILL until none is left.
//!
//! An [`Ending`] is driven by its owner's loop: [`Ending::advance`] when [`Ending::wake_at`] has come or a child has
//! ended. The owner reaps, and is done when it has no children. The keeper ends its ranks this way, and the agent
//! what a keeper that was killed has left behind.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::descendants::{self, Process};
use super::sys::{self, Reaped};

/// One order to end everything, being carried out.
#[derive(Debug)]
pub(crate) struct Ending {
    began_at: Instant,
    kill_at: Instant,
    phase: Phase,
    strays: HashSet<(i32, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// By another signal than TERM: what has been started in the background of a shell ignores INT, and a program may
    /// know TERM alone.
    AskedOtherwise,
    /// By TERM.
    Asked,
    Killing {
        next_at: Instant,
    },
}

impl Ending {
    /// Begins: the groups that `leaders` lead, and all other descendants, are asked to end by this signal, and to go on
    /// should they be stopped. `leaders` are children that have not been reaped.
    pub(crate) fn begin(now: Instant, grace: Duration, signal: i32, leaders: &[i32]) -> Ending {
        let phase = if signal == libc::SIGTERM { Phase::Asked } else { Phase::AskedOtherwise };
        let mut ending = Ending { began_at: now, kill_at: now + grace, phase, strays: HashSet::new() };
        if !grace.is_zero() {
            ending.signal_all(leaders, &[signal, libc::SIGCONT]);
        }
        ending
    }

    /// Begins where nobody is left to end.
    pub(crate) fn of_nobody(now: Instant) -> Ending {
        Ending::begin(now, Duration::ZERO, libc::SIGTERM, &[])
    }

    /// Takes a further order: the shorter grace counts.
    pub(crate) fn shorten(&mut self, now: Instant, grace: Duration) {
        self.kill_at = self.kill_at.min(now + grace);
    }

    /// When [`Ending::advance`] has something to do.
    pub(crate) fn wake_at(&self) -> Instant {
        match self.phase {
            Phase::AskedOtherwise => self.began_at + (self.kill_at - self.began_at) / 2,
            Phase::Asked => self.kill_at,
            Phase::Killing { next_at } => next_at,
        }
    }

    /// Does what is due: asks by TERM where that has not been done; once the grace is over, kills whatever is there now, again and again. Gives the survivors
    /// when [`STUCK_AFTER`] has passed, at every further attempt, and is asked on.
    pub(crate) fn advance(&mut self, now: Instant, leaders: &[i32]) -> Option<Vec<String>> {
        if now < self.wake_at() {
            return None;
        }
        if self.phase == Phase::AskedOtherwise && now < self.kill_at {
            self.phase = Phase::Asked;
            self.signal_all(leaders, &[libc::SIGTERM, libc::SIGCONT]);
            return None;
        }
        self.phase = Phase::Killing { next_at: now + KILL_AGAIN_AFTER };
        let killed = self.signal_all(leaders, &[libc::SIGKILL]);
        (now >= self.kill_at + STUCK_AFTER).then(|| killed.iter().map(Process::to_string).collect())
    }

    /// How many descendants other than the leaders and their groups had to be signalled.
    pub(crate) fn strays(&self) -> u32 {
        u32::try_from(self.strays.len()).unwrap_or(u32::MAX)
    }

    fn signal_all(&mut self, leaders: &[i32], numbers: &[i32]) -> Vec<Process> {
        for leader in leaders {
            for &number in numbers {
                sys::signal_child(-leader, number);
            }
        }
        // Without /proc the groups are all that can be reached, and the owner sees whether children are left.
        let descendants = descendants::all().unwrap_or_default();
        for process in &descendants {
            if leaders.contains(&process.group) {
                continue;
            }
            // A zombie is signalled too: with its first thread gone and others running a process looks like one.
            process.signal(numbers);
            if !process.is_zombie() && !leaders.contains(&process.pid) {
                self.strays.insert((process.pid, process.start_ticks));
            }
        }
        descendants
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({}) in state {}", self.pid, self.name, self.state)
    }
}

/// Reaps the children that have ended, and says whether that were all: then this process, a subreaper, has no descendants.
pub(crate) fn none_is_left() -> bool {
    loop {
        match sys::reap_one() {
            Reaped::Child(..) => {}
            Reaped::NoneEnded => return false,
            Reaped::NoChildren => return true,
        }
    }
}

/// Kills and reaps every descendant of this process; blocks until none is left. Gives their number.
///
/// # Errors
///
/// The survivors, one fragment each, when the kernel keeps some of them for longer than [`STUCK_AFTER`].
pub(crate) fn end_all_descendants() -> Result<u32, Vec<String>> {
    let mut ending = Ending::begin(Instant::now(), Duration::ZERO, libc::SIGTERM, &[]);
    loop {
        match sys::reap_one() {
            Reaped::Child(..) => {}
            Reaped::NoChildren => return Ok(ending.strays()),
            Reaped::NoneEnded => {
                if let Some(survivors) = ending.advance(Instant::now(), &[]) {
                    return Err(survivors);
                }
                std::thread::sleep(KILL_AGAIN_AFTER / 4);
            }
        }
    }
}

/// Between two walks while killing: what was forked during one walk is found by the next.
const KILL_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// After this long KILL counts as not heard: a process waits in the kernel for a device or a file server.
pub(crate) const STUCK_AFTER: Duration = Duration::from_secs(3);
