//! Which sends over a rail are certain to be received.
//!
//! Pure. The card says that a send is over when it lies in the memory of the peer's card. The provider there numbers what comes
//! from a peer over a rail and shows it in the order in which it was sent, whether that was asked for or not (libfabric's
//! prov/efa/src/rdm/efa_rdm_peer.c, `efa_rdm_peer_reorder_msg`): behind one that failed everything waits for ever, though
//! its sender was told that it is sent. So a send is certain when all that went before it over that rail is over too, and
//! is over for its caller then only: what is not certain may have to be sent again, and needs its memory for that.

use std::collections::VecDeque;

use super::super::operation::Operation;

/// What was sent to a peer over a rail and is not certain, in order.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// Each with whether it is over.
    log: VecDeque<(Operation, bool)>,
}

impl Departures {
    /// With room for so many at once.
    pub(super) fn new(at_most: usize) -> Self {
        Departures { log: VecDeque::with_capacity(at_most) }
    }

    /// Notes that an operation was posted.
    pub(super) fn posted(&mut self, operation: Operation) {
        self.log.push_back((operation, false));
    }

    /// Notes that one is over.
    pub(super) fn over(&mut self, operation: Operation) {
        if let Some(entry) = self.log.iter_mut().find(|entry| entry.0 == operation) {
            entry.1 = true;
        }
    }

    /// The next that is certain, once.
    pub(super) fn take_certain(&mut self) -> Option<Operation> {
        let certain = self.log.front().filter(|entry| entry.1)?.0;
        self.log.pop_front();
        Some(certain)
    }

    /// Takes one out that failed, or that is over on a rail on which one failed.
    pub(super) fn remove(&mut self, operation: Operation) {
        self.log.retain(|entry| entry.0 != operation);
    }

    /// Takes out one that is over and will never be certain, as one failed.
    pub(super) fn take_uncertain(&mut self) -> Option<Operation> {
        let place = self.log.iter().position(|entry| entry.1)?;
        self.log.remove(place).map(|entry| entry.0)
    }
}

#[cfg(test)]
mod tests {
    use efarun_wire::Rank;

    use super::super::super::operation::Kind;
    use super::*;

    fn piece(slot: usize) -> Operation {
        Operation { kind: Kind::SendPiece(0), peer: Rank(1), slot }
    }

    fn departed(count: usize) -> Departures {
        let mut departures = Departures::new(count);
        (0..count).for_each(|slot| departures.posted(piece(slot)));
        departures
    }

    #[test]
    fn a_send_is_certain_when_all_before_it_are_over() {
        let mut departures = departed(3);
        departures.over(piece(1));
        assert_eq!(departures.take_certain(), None);
        departures.over(piece(0));
        assert_eq!([(); 3].map(|()| departures.take_certain()), [Some(piece(0)), Some(piece(1)), None]);
        departures.posted(piece(0));
        departures.over(piece(2));
        assert_eq!([(); 2].map(|()| departures.take_certain()), [Some(piece(2)), None]);
    }

    #[test]
    fn what_is_over_behind_one_that_failed_is_not_certain() {
        let mut departures = departed(4);
        departures.over(piece(0));
        assert_eq!(departures.take_certain(), Some(piece(0)));
        departures.over(piece(2));
        departures.remove(piece(1));
        assert_eq!([(); 2].map(|()| departures.take_uncertain()), [Some(piece(2)), None]);
        // Still under way when the first failed.
        departures.remove(piece(3));
        assert_eq!((departures.take_uncertain(), departures.take_certain()), (None, None));
    }
}
