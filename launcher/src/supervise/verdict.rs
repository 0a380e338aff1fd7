//! What a job comes to: which failure was the first.
//!
//! [`Verdict`] is fed every end of a rank and every other failure in the order in which the head learns of them.
//! The first failure decides, once; whatever fails after it is an echo, counted and not told. Exits that the
//! launcher itself caused never count. Pure: no clock, no I/O.

use std::collections::BTreeSet;
use std::time::Duration;

use efarun_wire::message::{RankExit, RankStatus};
use efarun_wire::{NodeId, Rank};

/// The failure that ended a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A rank returned a code other than 0, or a signal ended it.
    Rank(RankExit),
    /// A rank could not be started.
    NotStarted {
        /// The rank.
        rank: Rank,
        /// The step that failed.
        call: String,
        /// What it was about.
        subject: String,
        /// The error number.
        errno: i32,
    },
    /// A rank asked for the end of the job.
    Aborted {
        /// The rank.
        rank: Rank,
        /// The code that it asked for.
        code: i32,
        /// Why.
        reason: String,
    },
    /// A rank's MPI library asks for what cannot be served.
    Unserved {
        /// The rank.
        rank: Rank,
        /// The library.
        library: String,
        /// What was tried.
        tried: String,
    },
    /// A rank did not do its part in what others wait for.
    Broke {
        /// The rank.
        rank: Rank,
        /// What it did, as a fragment that fits "rank 3 …".
        how: String,
    },
    /// A node was lost: its agent, its keeper or the way there.
    NodeLost {
        /// The node.
        node: NodeId,
        /// What the head saw.
        cause: String,
    },
    /// `--timeout` ran out.
    TimedOut {
        /// How long the job was allowed to take.
        limit: Duration,
    },
    /// Ranks were not all running in time.
    NotStartedInTime {
        /// What was waited for.
        waiting_for: String,
        /// `--start-timeout`.
        limit: Duration,
    },
    /// A signal to the launcher.
    Interrupted {
        /// The signal's number.
        number: i32,
    },
}

/// Collects the ends of a job's ranks, and its first failure.
#[derive(Debug)]
pub struct Verdict {
    exits: Vec<Option<RankExit>>,
    /// Ranks that never started, or whose node was lost before their end was known.
    without_end: BTreeSet<Rank>,
    first: Option<Failure>,
    echoes: u32,
    deserter: Option<Rank>,
    /// The first failure has not been told, and may be replaced by its cause.
    is_weighed: bool,
}

impl Verdict {
    /// A verdict on a world of this size, none of whose ranks has ended.
    pub fn new(world_size: u32) -> Self {
        Verdict {
            exits: vec![None; world_size as usize],
            without_end: BTreeSet::new(),
            first: None,
            echoes: 0,
            deserter: None,
            is_weighed: false,
        }
    }

    /// Takes in so many more ranks, whose numbers follow those that there are.
    pub fn admit(&mut self, count: u32) {
        self.exits.resize(self.exits.len() + count as usize, None);
    }

    /// Whether a rank has ended, never started, or is lost.
    pub fn has_ended(&self, rank: Rank) -> bool {
        self.without_end.contains(&rank) || self.exits.get(rank.index()).is_some_and(Option::is_some)
    }

    /// Records the end of a rank. Says whether this is the failure that ends the job, so far.
    pub fn rank_ended(&mut self, exit: RankExit) -> bool {
        let Some(slot) = self.exits.get_mut(exit.rank.index()) else { return false };
        if slot.replace(exit).is_some() || exit.status == RankStatus::Code(0) || exit.ended_by_launcher {
            return false;
        }
        if self.is_weighed && self.first.as_ref().is_some_and(|first| may_have_caused(&exit, first)) {
            self.echoes += 1;
            self.first = Some(Failure::Rank(exit));
            return true;
        }
        self.failed(Failure::Rank(exit))
    }

    /// Lets a rank's end that is told from now on take the place of the first failure, where that may be its effect; until
    /// [`Verdict::decide`]. Says whether any end could.
    pub fn weigh(&mut self) -> bool {
        self.is_weighed = true;
        self.first.as_ref().is_some_and(may_be_an_effect)
    }

    /// Leaves the first failure as it is; gives it if it was being weighed.
    pub fn decide(&mut self) -> Option<&Failure> {
        std::mem::take(&mut self.is_weighed).then_some(self.first.as_ref()).flatten()
    }

    /// Records that a rank which ended with code 0 was missed by others. That is no failure: those that cannot go on
    /// without it fail by themselves, and it is why.
    pub fn deserted(&mut self, rank: Rank) {
        if self.first.is_none() {
            self.deserter.get_or_insert(rank);
        }
    }

    /// The first rank that left others behind in its World, where that was before the first failure.
    pub fn deserter(&self) -> Option<Rank> {
        self.deserter
    }

    /// Records any other failure. Says whether this is the one that ends the job.
    pub fn failed(&mut self, failure: Failure) -> bool {
        if let Failure::NotStarted { rank, .. } = failure {
            self.lost(rank);
        }
        if self.first.is_some() {
            self.echoes += 1;
            return false;
        }
        self.first = Some(failure);
        true
    }

    /// Records that a rank has no end that will be known: it never started, or its node is lost.
    pub fn lost(&mut self, rank: Rank) {
        if self.exits.get(rank.index()).is_some_and(Option::is_none) {
            self.without_end.insert(rank);
        }
    }

    /// Whether every rank has ended, never started, or is lost.
    pub fn all_ended(&self) -> bool {
        let ended = self.exits.iter().flatten().count();
        ended + self.without_end.len() >= self.exits.len()
    }

    /// Ranks whose end is known.
    pub fn ended_count(&self) -> u32 {
        self.exits.iter().flatten().count() as u32
    }

    /// The failure that ended the job, if one did.
    pub fn first_failure(&self) -> Option<&Failure> {
        self.first.as_ref()
    }

    /// Failures after the first one.
    pub fn echoes(&self) -> u32 {
        self.echoes
    }

    /// How each rank ended, by rank.
    pub fn exits(&self) -> &[Option<RankExit>] {
        &self.exits
    }
}

/// Whether a failure may be what another rank's end has come to.
fn may_be_an_effect(failure: &Failure) -> bool {
    match failure {
        Failure::Rank(exit) => !is_killing(exit.status),
        Failure::Aborted { .. } | Failure::Broke { .. } => true,
        Failure::NotStarted { .. }
        | Failure::Unserved { .. }
        | Failure::NodeLost { .. }
        | Failure::TimedOut { .. }
        | Failure::NotStartedInTime { .. }
        | Failure::Interrupted { .. } => false,
    }
}

/// Whether a rank's end, which was under way when a failure was told, is its cause.
fn may_have_caused(exit: &RankExit, failure: &Failure) -> bool {
    let failed = match failure {
        Failure::Rank(RankExit { rank, .. })
        | Failure::Aborted { rank, .. }
        | Failure::Broke { rank, .. } => rank,
        _ => return false,
    };
    *failed != exit.rank && is_killing(exit.status) && may_be_an_effect(failure)
}

/// Whether a rank ended by a signal that comes of its own doing, or of the kernel's. Those that libraries raise when they
/// lose a peer, and those by which one process asks another to end, may be effects themselves.
fn is_killing(status: RankStatus) -> bool {
    const MAY_BE_EFFECTS: [i32; 6] =
        [libc::SIGABRT, libc::SIGPIPE, libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT];
    matches!(status, RankStatus::Signal { number, .. } if !MAY_BE_EFFECTS.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(rank: u32, status: RankStatus) -> RankExit {
        RankExit { rank: Rank(rank), status, ran_ms: 10, ended_by_launcher: false, within_world: false }
    }

    #[test]
    fn the_first_failing_rank_decides_and_later_ones_are_echoes() {
        let mut verdict = Verdict::new(3);
        assert!(!verdict.rank_ended(exit(0, RankStatus::Code(0))));
        assert!(verdict.rank_ended(exit(2, RankStatus::Signal { number: 11, core: false })));
        assert!(!verdict.rank_ended(exit(1, RankStatus::Code(3))));
        assert!(matches!(verdict.first_failure(), Some(Failure::Rank(exit)) if exit.rank == Rank(2)));
        assert_eq!(verdict.echoes(), 1);
        assert!(verdict.all_ended());
    }

    fn segfault(rank: u32) -> RankExit {
        exit(rank, RankStatus::Signal { number: libc::SIGSEGV, core: false })
    }

    fn abort(rank: u32) -> Failure {
        Failure::Aborted { rank: Rank(rank), code: 14, reason: String::new() }
    }

    #[test]
    fn the_end_of_a_killed_rank_takes_the_place_of_its_effect_while_that_is_weighed() {
        let broke = Failure::Broke { rank: Rank(0), how: String::new() };
        let left = Failure::Rank(exit(0, RankStatus::Code(1)));
        for effect in [abort(0), broke, left] {
            let mut verdict = Verdict::new(3);
            assert!(verdict.failed(effect) && verdict.weigh());
            assert!(verdict.rank_ended(segfault(2)));
            assert!(!verdict.weigh(), "a cause has none");
            assert_eq!(verdict.decide(), Some(&Failure::Rank(segfault(2))));
            assert_eq!(verdict.decide(), None, "it is told once");
            assert_eq!(verdict.echoes(), 1);
        }
    }

    #[test]
    fn an_end_that_explains_nothing_is_an_echo_of_what_is_weighed() {
        let by = |number| exit(2, RankStatus::Signal { number, core: false });
        let ended = RankExit { ended_by_launcher: true, ..segfault(2) };
        for echo in [by(libc::SIGABRT), by(libc::SIGPIPE), by(libc::SIGTERM), segfault(0), ended] {
            let mut verdict = Verdict::new(3);
            assert!(verdict.failed(abort(0)) && verdict.weigh());
            assert!(!verdict.rank_ended(echo), "{echo:?}");
            assert_eq!(verdict.decide(), Some(&abort(0)));
        }
        let mut verdict = Verdict::new(3);
        assert!(verdict.failed(abort(0)) && verdict.weigh());
        verdict.decide();
        assert!(!verdict.rank_ended(segfault(2)), "it is decided");
    }

    #[test]
    fn a_rank_that_the_launcher_ended_is_no_failure() {
        let mut verdict = Verdict::new(1);
        let killed =
            RankExit { ended_by_launcher: true, ..exit(0, RankStatus::Signal { number: 9, core: false }) };
        assert!(!verdict.rank_ended(killed));
        assert_eq!(verdict.first_failure(), None);
    }

    #[test]
    fn a_rank_that_left_others_behind_is_no_failure_and_is_named_only_before_one() {
        let mut verdict = Verdict::new(3);
        verdict.deserted(Rank(2));
        assert_eq!((verdict.first_failure(), verdict.deserter()), (None, Some(Rank(2))));
        verdict.rank_ended(exit(0, RankStatus::Code(1)));
        verdict.deserted(Rank(1));
        assert_eq!(verdict.deserter(), Some(Rank(2)));
        let mut verdict = Verdict::new(3);
        verdict.rank_ended(exit(0, RankStatus::Code(1)));
        verdict.deserted(Rank(1));
        assert_eq!(verdict.deserter(), None, "it left because of the failure");
    }

    #[test]
    fn lost_ranks_are_not_waited_for_and_have_no_end() {
        let mut verdict = Verdict::new(3);
        verdict.rank_ended(exit(0, RankStatus::Code(0)));
        [0, 1, 1, 7].into_iter().for_each(|rank| verdict.lost(Rank(rank)));
        assert!(!verdict.all_ended());
        verdict.rank_ended(exit(2, RankStatus::Code(0)));
        assert!(verdict.all_ended());
        assert_eq!((verdict.ended_count(), verdict.first_failure()), (2, None));
    }

    #[test]
    fn ranks_that_come_later_are_waited_for_as_those_that_were_there() {
        let mut verdict = Verdict::new(1);
        verdict.admit(2);
        verdict.rank_ended(exit(0, RankStatus::Code(0)));
        assert!(verdict.has_ended(Rank(0)) && !verdict.has_ended(Rank(2)) && !verdict.all_ended());
        verdict.lost(Rank(1));
        assert!(verdict.rank_ended(exit(2, RankStatus::Code(3))) && verdict.all_ended());
    }

    #[test]
    fn a_second_exit_of_the_same_rank_changes_nothing() {
        let mut verdict = Verdict::new(1);
        verdict.rank_ended(exit(0, RankStatus::Code(0)));
        assert!(!verdict.rank_ended(exit(0, RankStatus::Code(7))));
        assert_eq!(verdict.first_failure(), None);
    }

    #[test]
    fn an_exit_of_a_rank_outside_the_world_is_ignored() {
        let mut verdict = Verdict::new(1);
        assert!(!verdict.rank_ended(exit(5, RankStatus::Code(7))));
        assert!(!verdict.all_ended());
    }
}
