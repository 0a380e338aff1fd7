//! Whether the other end of a link still lives.
//!
//! A [`Heartbeat`] is told when something was heard and asked what time has brought: whether to say something, and
//! whether the other end has been silent for longer than its lease. Times are those of one monotonic clock, from any
//! origin; the clocks of the two ends never meet.
//!
//! Only silence that this end was awake to hear counts. A process that was stopped, or a machine that slept, finds
//! hours gone by on its clock and the other end's answers unread in its socket: each stretch between two calls
//! counts for two intervals at most, and its owner gets to read before it judges.

use std::time::Duration;

/// Watches one link. Its owner calls [`Heartbeat::ping_due`] and [`Heartbeat::is_lost`] whenever
/// [`Heartbeat::due_in`] has passed, and [`Heartbeat::on_heard`] for every byte that arrives.
#[derive(Debug, Clone)]
pub struct Heartbeat {
    interval: Duration,
    lease: Duration,
    last_ping: Duration,
    last_seen: Duration,
    silence: Duration,
}

impl Heartbeat {
    /// Starts at `now`, as if something had just been heard. A lease below two intervals is taken as two: a single
    /// late ping must not end a link.
    pub fn new(interval: Duration, lease: Duration, now: Duration) -> Heartbeat {
        let lease = lease.max(interval * 2);
        Heartbeat { interval, lease, last_ping: now, last_seen: now, silence: Duration::ZERO }
    }

    /// Takes note that something arrived, whatever it was.
    pub fn on_heard(&mut self, now: Duration) {
        self.last_seen = self.last_seen.max(now);
        self.silence = Duration::ZERO;
    }

    /// Says how long to sleep until there is something to do: a ping, or a verdict.
    pub fn due_in(&self, now: Duration) -> Duration {
        let ping_in = (self.last_ping + self.interval).saturating_sub(now);
        let verdict_in = self.lease.saturating_sub(self.silence_at(now));
        ping_in.min(verdict_in)
    }

    /// Says whether a ping is due, at most once per interval; `true` means that it is being sent now.
    pub fn ping_due(&mut self, now: Duration) -> bool {
        let due = now >= self.last_ping + self.interval;
        if due {
            self.last_ping = now;
        }
        due
    }

    /// Says whether the other end is lost, and after how long a silence.
    pub fn is_lost(&mut self, now: Duration) -> Option<Duration> {
        self.silence = self.silence_at(now);
        self.last_seen = self.last_seen.max(now);
        (self.silence >= self.lease).then_some(self.silence)
    }

    fn silence_at(&self, now: Duration) -> Duration {
        self.silence + now.saturating_sub(self.last_seen).min(self.interval * 2)
    }
}
