//! What the relay needs of a World whose cards read GPU memory: the cards, and waiting that ends.

use std::time::Instant;

use efarun_wire::Rank;

use super::World;
use super::run::{explain, explain_told};
use crate::coll::executor::ExecError;
use crate::coll::fault::Wait;
use crate::error::{Error, Place};
use crate::transport::TransportError;
use crate::transport::fabric::Network;
use crate::transport::fabric::reads::Reader;

impl World {
    /// The EFA cards that reach other nodes, rail by rail, and how; none where others do.
    pub(crate) fn cards(&self) -> Option<(Network, &[String])> {
        self.cards.as_ref().map(|(network, names)| (*network, &names[..]))
    }

    /// Blocks until all that the Reader has begun is there.
    ///
    /// # Errors
    ///
    /// As [`World::send_receive`].
    pub(crate) fn await_reads(&mut self, reader: &mut Reader) -> Result<(), Error> {
        let begin = Instant::now();
        let mut looks = 0u32;
        loop {
            match reader.poll() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(cause) => return Err(self.reading_failed(cause)),
            }
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(LOOKS) {
                self.check_wait(begin, reader)?;
                std::thread::yield_now();
            }
        }
    }

    /// What a Reader said, as an error of this World, which is broken then.
    pub(crate) fn reading_failed(&mut self, source: TransportError) -> Error {
        let place = self.place_of_reads();
        let error = match &mut self.oob {
            Some(oob) => {
                let place = |step| Place { step, ..place.clone() };
                explain(ExecError::Transport { step: 0, source }, &place, oob, true, &|_| None)
            }
            None => Error::Transport { place, cause: source },
        };
        self.break_by(error)
    }

    /// That a peer has called something else; the World is broken then.
    pub(crate) fn differs(&mut self, peer: Rank, difference: String) -> Error {
        let place = self.place_of_reads();
        self.break_by(Error::Mismatch { place, peer, difference })
    }

    /// Whether there is no use in waiting on.
    fn check_wait(&mut self, begin: Instant, reader: &Reader) -> Result<(), Error> {
        let place = self.place_of_reads();
        if let Some(Err(told)) = self.oob.as_mut().map(|oob| oob.check_events()) {
            let error = explain_told(place, told);
            return Err(self.break_by(error));
        }
        let waited = begin.elapsed();
        if waited < self.config.deadline {
            return Ok(());
        }
        let peer = reader.waits_for().unwrap_or(self.rank);
        let stall =
            Some("a card reads from that rank's GPU memory, and says of no end and of no error".to_owned());
        let error = Error::Timeout { place, peer, wait: Wait::Message { from: peer }, waited, stall };
        Err(self.break_by(error))
    }

    fn place_of_reads(&self) -> Place {
        Place { operation: "send_receive", sequence: self.sequence, rank: self.rank, step: None }
    }

    fn break_by(&mut self, error: Error) -> Error {
        self.broken.get_or_insert_with(|| error.to_string());
        error
    }
}

/// Between two looks at the clock and at what the bootstrap says: some tens of microseconds.
const LOOKS: u32 = 256;
