//! Where a message's payload is put as it arrives.

use super::lent::Landing;
use super::room::Room;

/// Where one payload is.
#[derive(Debug)]
pub(super) enum Place {
    /// In the peer's room, from here on.
    Room(usize),
    /// Memory of whoever expects the message, exactly as long as it.
    Landing(Landing),
}

/// What the next message is said to be.
#[derive(Debug)]
pub(super) struct Expected {
    /// Its length.
    pub(super) len_bytes: usize,
    /// Where it may land; as long.
    pub(super) landing: Option<Landing>,
}

impl Expected {
    /// The memory that the message would be put in, as far as there is room.
    pub(super) fn bytes_mut<'b>(&'b mut self, room: &'b mut Room) -> Option<&'b mut [u8]> {
        match &mut self.landing {
            Some(landing) => Some(landing.bytes_mut()),
            None => room.place(self.len_bytes).map(|start| room.bytes_mut(start, self.len_bytes)),
        }
    }
}

impl Place {
    /// A place for a message: where it was said to land, if it is as long as was said. None where there is no room.
    pub(super) fn take(expected: Option<Expected>, len_bytes: usize, room: &mut Room) -> Option<Place> {
        room.make();
        let expected = expected.filter(|expected| expected.len_bytes == len_bytes);
        match expected.and_then(|expected| expected.landing) {
            Some(landing) => Some(Place::Landing(landing)),
            None => room.take(len_bytes).map(Place::Room),
        }
    }

    /// The payload.
    pub(super) fn bytes<'b>(&'b self, room: &'b Room, len_bytes: usize) -> &'b [u8] {
        match self {
            Place::Room(start) => room.bytes(*start, len_bytes),
            Place::Landing(landing) => landing.bytes(),
        }
    }

    /// The payload's memory, while the message arrives.
    pub(super) fn bytes_mut<'b>(&'b mut self, room: &'b mut Room, len_bytes: usize) -> &'b mut [u8] {
        match self {
            Place::Room(start) => room.bytes_mut(*start, len_bytes),
            Place::Landing(landing) => landing.bytes_mut(),
        }
    }

    /// Gives the oldest message's place back.
    pub(super) fn release(self, room: &mut Room, len_bytes: usize) {
        if let Place::Room(start) = self {
            room.release(start, len_bytes);
        }
    }
}
