//! Which allgather is the next one.

use std::collections::BTreeMap;

use efarun_wire::message::{GatherKey, Participants};

/// Counts allgathers by what they are for and whose they are. Whoever takes part counts alike, so that all name one alike.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    counts: BTreeMap<(String, Participants), u32>,
}

impl Rounds {
    /// Names the next one, and counts it.
    pub(crate) fn next(&mut self, id: String, participants: Participants) -> GatherKey {
        let count = self.counts.entry((id.clone(), participants.clone())).or_default();
        let epoch = *count;
        *count += 1;
        GatherKey { id, epoch, participants }
    }

    /// How many kinds have been counted.
    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }

    /// Begins again at none.
    pub(crate) fn clear(&mut self) {
        self.counts.clear();
    }
}
