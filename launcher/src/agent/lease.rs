//! The agent's side of the lease: how long the head may be silent.

use std::time::Duration;

use tokio::time::Instant;

use efarun_wire::heartbeat::Heartbeat;
use efarun_wire::message::AgentOrder;

/// Runs from the launch, or the head's first ping, on: before that the head may be busy with other nodes, and the end
/// of the channel is all that ends an agent. Ranks never run without a lease.
#[derive(Debug)]
pub(super) struct Lease {
    start: Instant,
    heard: Instant,
    suspended: bool,
    heartbeat: Heartbeat,
}

impl Lease {
    /// Starts now.
    pub(super) fn new(order: &AgentOrder, now: Instant) -> Lease {
        let [interval, lease] =
            [order.heartbeat_ms, order.lease_ms].map(|ms| Duration::from_millis(ms.into()));
        Lease {
            start: now,
            heard: now,
            suspended: false,
            heartbeat: Heartbeat::new(interval, lease, Duration::ZERO),
        }
    }

    /// From now on until [`Lease::resume`] the head may be silent: it has said that it stops itself.
    pub(super) fn suspend(&mut self) {
        self.suspended = true;
    }

    /// The head goes on. It has a whole lease from now on.
    pub(super) fn resume(&mut self, now: Instant) {
        self.suspended = false;
        self.heartbeat.on_heard(now - self.start);
    }

    /// When to look again.
    pub(super) fn due_at(&self, now: Instant) -> Instant {
        now + self.heartbeat.due_in(now - self.start)
    }

    /// Says whether the head is lost, and after how long a silence. `heard` is when bytes last arrived.
    pub(super) fn lost_after(&mut self, now: Instant, heard: Instant) -> Option<Duration> {
        if heard > self.heard {
            self.heard = heard;
            self.heartbeat.on_heard(heard - self.start);
        }
        if self.suspended {
            self.heartbeat.on_heard(now - self.start);
        }
        // The head pings and the agent answers: an interval that is over is only an occasion to look.
        self.heartbeat.ping_due(now - self.start);
        self.heartbeat.is_lost(now - self.start)
    }
}

#[cfg(test)]
mod tests {
    use efarun_wire::secure::LinkKey;
    use efarun_wire::{BuildId, JobId, NodeId, PROTOCOL_VERSION};

    use super::*;

    fn lease(start: Instant) -> Lease {
        let order = AgentOrder {
            protocol: PROTOCOL_VERSION,
            job: JobId([1; 8]),
            node: NodeId(0),
            build: BuildId([0; 16]),
            key: LinkKey::well_known(),
            heartbeat_ms: 100,
            lease_ms: 500,
            host: "here".to_owned(),
        };
        Lease::new(&order, start)
    }

    /// Lets the time pass in which nothing is heard but by `heard`, for two seconds or until the head is lost.
    fn lost_after(heard: impl Fn(Instant, Instant) -> Instant) -> Option<Duration> {
        let start = Instant::now();
        let mut lease = lease(start);
        let mut now = start;
        while now < start + Duration::from_secs(2) {
            now = lease.due_at(now).max(now + Duration::from_micros(1));
            if lease.lost_after(now, heard(start, now)).is_some() {
                return Some(now - start);
            }
        }
        None
    }

    #[test]
    fn a_head_that_goes_on_talking_keeps_the_lease() {
        assert_eq!(lost_after(|_, now| now), None);
    }

    #[test]
    fn a_head_that_stopped_itself_may_be_silent_until_it_goes_on() {
        let start = Instant::now();
        let mut lease = lease(start);
        lease.suspend();
        let at = |ms| start + Duration::from_millis(ms);
        assert!((1..600).all(|turn| lease.lost_after(at(turn * 100), start).is_none()));
        lease.resume(at(60_000));
        let lost = (1..20).find(|turn| lease.lost_after(at(60_000 + turn * 100), start).is_some());
        assert!(lost.is_some_and(|turn| (5..8).contains(&turn)), "{lost:?}");
    }

    #[test]
    fn silence_ends_the_lease_in_time() {
        let lost_after = lost_after(|start, _| start).expect("silence is noticed");
        assert!((500..700).contains(&lost_after.as_millis()), "{lost_after:?}");
    }
}
