use std::collections::BTreeMap;

use super::error::OobError;
use crate::message::Event;

/// Puts events that arrived into the order in which the head numbered them, each once.
///
/// On one link they arrive in order; after a link was replaced some may come twice, or the first ones last.
#[derive(Debug)]
pub struct EventSequencer {
    next: u64,
    ahead: BTreeMap<u64, Event>,
}

impl EventSequencer {
    /// Starts before the first event.
    pub fn new() -> EventSequencer {
        EventSequencer { next: 1, ahead: BTreeMap::new() }
    }

    /// Takes an event, and gives those that are next now: none if it has been before, or while an earlier one is
    /// missing.
    ///
    /// # Errors
    ///
    /// [`OobError::EventsMissing`] when it is so far ahead that the missing ones will not come.
    pub fn receive(&mut self, event: Event) -> Result<Vec<Event>, OobError> {
        if event.sequence < self.next {
            return Ok(Vec::new());
        }
        if event.sequence - self.next >= MAX_EVENTS_AHEAD {
            return Err(OobError::EventsMissing { arrived: event.sequence, next: self.next });
        }
        self.ahead.entry(event.sequence).or_insert(event);
        let mut in_order = Vec::new();
        while let Some(event) = self.ahead.remove(&self.next) {
            self.next += 1;
            in_order.push(event);
        }
        Ok(in_order)
    }
}

impl Default for EventSequencer {
    fn default() -> EventSequencer {
        EventSequencer::new()
    }
}

/// How far ahead of the next event one may be.
const MAX_EVENTS_AHEAD: u64 = 4096;
