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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(500);
    const LEASE: Duration = Duration::from_millis(2500);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Calls a heartbeat when it wants to be called, until it is lost or `end`. Gives the times of its pings.
    fn run(heartbeat: &mut Heartbeat, mut now: Duration, end: Duration) -> (Vec<Duration>, Option<Duration>) {
        let mut pings = Vec::new();
        while now < end {
            if heartbeat.is_lost(now).is_some() {
                return (pings, Some(now));
            }
            if heartbeat.ping_due(now) {
                pings.push(now);
            }
            let due_in = heartbeat.due_in(now);
            assert!(due_in > Duration::ZERO, "called again at {now:?} with nothing to do");
            now += due_in;
        }
        (pings, None)
    }

    #[test]
    fn silence_of_a_lease_means_lost_and_pings_go_out_until_then() {
        let start = ms(10_000);
        let mut heartbeat = Heartbeat::new(INTERVAL, LEASE, start);
        let (pings, lost_at) = run(&mut heartbeat, start, ms(60_000));
        assert_eq!(lost_at, Some(start + LEASE));
        assert_eq!(pings, [1, 2, 3, 4].map(|count| start + INTERVAL * count));
        assert_eq!(heartbeat.is_lost(start + LEASE), Some(LEASE));
    }

    #[test]
    fn whatever_is_heard_renews_the_lease() {
        let mut heartbeat = Heartbeat::new(INTERVAL, LEASE, ms(0));
        let mut now = ms(0);
        for _ in 0..10 {
            let next = now + LEASE - ms(1);
            assert_eq!(run(&mut heartbeat, now, next).1, None);
            assert_eq!(heartbeat.is_lost(next), None);
            heartbeat.on_heard(next);
            now = next;
        }
        assert_eq!(run(&mut heartbeat, now, ms(60_000)).1, Some(now + LEASE));
    }

    #[test]
    fn an_end_that_slept_does_not_take_its_own_silence_for_the_others() {
        let mut heartbeat = Heartbeat::new(INTERVAL, LEASE, ms(0));
        let an_hour = ms(3_600_000);
        assert_eq!(heartbeat.is_lost(an_hour), None);
        // From then on the other end has what is left of its lease.
        let lost_at = run(&mut heartbeat, an_hour, an_hour * 2).1;
        assert_eq!(lost_at, Some(an_hour + LEASE - INTERVAL * 2));
    }

    #[test]
    fn a_lease_lasts_two_intervals_at_least() {
        let mut heartbeat = Heartbeat::new(INTERVAL, ms(1), ms(0));
        assert_eq!(run(&mut heartbeat, ms(0), ms(60_000)).1, Some(INTERVAL * 2));
    }

    proptest! {
        /// Two ends on clocks with origins of their own, joined by a network with a delay.
        #[test]
        fn two_living_ends_never_lose_each_other(
            origin_ms in any::<u32>(),
            delay_ms in 0u64..1400,
            late_ms in proptest::collection::vec(0u64..200, 1..20),
        ) {
            let origin = ms(origin_ms.into());
            let mut ours = Heartbeat::new(INTERVAL, LEASE, ms(0));
            let mut theirs = Heartbeat::new(INTERVAL, LEASE, origin);
            let mut arrivals = std::collections::VecDeque::new();
            let mut lateness = late_ms.iter().cycle();
            let mut wake = ms(0);
            for now in (0..20_000).map(ms) {
                while arrivals.front().is_some_and(|at| *at <= now) {
                    arrivals.pop_front();
                    theirs.on_heard(origin + now);
                }
                if now >= wake {
                    if ours.ping_due(now) {
                        arrivals.push_back(now + ms(delay_ms));
                    }
                    wake = now + ours.due_in(now).min(INTERVAL) + ms(*lateness.next().expect("a cycle"));
                }
                prop_assert_eq!(theirs.is_lost(origin + now), None);
            }
        }
    }
}
