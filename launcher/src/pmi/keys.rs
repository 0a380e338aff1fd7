//! The keys of one generation, as one node knows them.

use std::collections::BTreeMap;

use super::request::Address;

/// Keys and values.
pub(super) type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What ranks of one generation have made known.
#[derive(Debug, Default)]
pub(super) struct KeySpace {
    pairs: Pairs,
    on_node: Pairs,
    bytes: usize,
    /// Who waits for which key of the node.
    waiting: Vec<(Address, Vec<u8>)>,
}

impl KeySpace {
    /// The value of a key.
    pub(super) fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.pairs.get(key).map(Vec::as_slice)
    }

    /// The value of a key of the node.
    pub(super) fn value_on_node(&self, key: &[u8]) -> Option<&[u8]> {
        self.on_node.get(key).map(Vec::as_slice)
    }

    /// Takes a key for all, or says why not.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        check(key, value)?;
        insert(&mut self.pairs, &mut self.bytes, key, value)
    }

    /// Takes a key for the node, and gives those who waited for it.
    pub(super) fn put_on_node(&mut self, key: &[u8], value: &[u8]) -> Result<Vec<Address>, &'static str> {
        check(key, value)?;
        insert(&mut self.on_node, &mut self.bytes, key, value)?;
        let is_served = |(_, wanted): &(Address, Vec<u8>)| wanted == key;
        let (served, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(is_served);
        self.waiting = waiting;
        Ok(served.into_iter().map(|(address, _)| address).collect())
    }

    /// Lets a rank wait for a key of the node. `false` where too many wait.
    pub(super) fn wait_on_node(&mut self, address: Address, key: Vec<u8>) -> bool {
        let waits = self.waiting.iter().filter(|(waiting, _)| waiting.rank == address.rank);
        let has_room = waits.count() < MAX_WAITS;
        if has_room {
            self.waiting.push((address, key));
        }
        has_room
    }
}

/// How a rank's own puts are kept until a barrier takes them along.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    pairs: Pairs,
    bytes: usize,
}

impl Unsent {
    /// Whether so many bytes more would still fit a blob of the allgather.
    pub(super) fn has_room_for(&self, key: &[u8], value: &[u8], limit_bytes: usize) -> bool {
        self.bytes + cost(key, value) <= limit_bytes
    }

    /// Takes a key. A value that is put again replaces the earlier one.
    pub(super) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.bytes += cost(&key, &value);
        if let Some(before) = self.pairs.insert(key.clone(), value) {
            self.bytes -= cost(&key, &before);
        }
    }

    /// What a barrier takes along.
    pub(super) fn pairs(&self) -> &Pairs {
        &self.pairs
    }
}

fn insert(pairs: &mut Pairs, bytes: &mut usize, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
    let before = pairs.get(key).map_or(0, |before| cost(key, before));
    let after = *bytes - before + cost(key, value);
    if after > MAX_SPACE_BYTES {
        return Err("no_room");
    }
    *bytes = after;
    pairs.insert(key.to_vec(), value.to_vec());
    Ok(())
}

fn check(key: &[u8], value: &[u8]) -> Result<(), &'static str> {
    match () {
        () if key.is_empty() || key.len() > MAX_KEY_BYTES => Err("bad_key_length"),
        () if value.len() > MAX_VALUE_BYTES => Err("value_too_long"),
        () => Ok(()),
    }
}

/// What a pair takes in a blob, lengths included.
fn cost(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + 6
}

/// Hydra's numbers, which libraries were tested with; they make lines of at most 1024 bytes of them by themselves.
pub(super) const MAX_NAME_BYTES: usize = 256;
pub(super) const MAX_KEY_BYTES: usize = 64;
pub(super) const MAX_VALUE_BYTES: usize = 1024;

/// What a generation may make a node remember. A rank has about a kilobyte.
const MAX_SPACE_BYTES: usize = 64 << 20;
/// How many keys of the node a rank's threads may wait for.
const MAX_WAITS: usize = 64;
