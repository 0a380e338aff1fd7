//! Where a message's payload is put as it arrives.

use super::lent::Landing;
use super::slots::{Slot, Slots};

/// Room for one payload.
#[derive(Debug)]
pub(super) enum Place {
    /// Memory of the transport.
    Slot(Slot),
    /// Memory of whoever expects the message, exactly as long as it.
    Landing(Landing),
}

/// What the next message is said to be.
#[derive(Debug)]
pub(super) struct Expected {
    /// Its length.
    pub(super) len_bytes: usize,
    /// Where it may go; at least as long.
    pub(super) place: Place,
}

impl Place {
    /// Room for a message: that which was made for it, if it is as long as was said.
    pub(super) fn of(expected: Option<Expected>, len_bytes: usize, slots: &mut Slots) -> Place {
        match expected {
            Some(expected) if expected.len_bytes == len_bytes => return expected.place,
            Some(other) => other.place.give_back(slots),
            None => {}
        }
        Place::Slot(slots.take())
    }

    /// The payload's memory and, in a slot, what is behind it.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Place::Slot(slot) => bytemuck::cast_slice(slot),
            Place::Landing(landing) => landing.bytes(),
        }
    }

    /// As [`Place::bytes`], while the message arrives.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Place::Slot(slot) => bytemuck::cast_slice_mut(slot),
            Place::Landing(landing) => landing.bytes_mut(),
        }
    }

    /// Lets go of it.
    pub(super) fn give_back(self, slots: &mut Slots) {
        if let Place::Slot(slot) = self {
            slots.give_back(slot);
        }
    }
}
