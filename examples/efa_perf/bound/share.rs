//! One rank's value, told to all.

use efarun_rt::Rank;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::world::Collectives;

/// Gives every rank what `root` has. Every rank calls it, and only the root with a value.
///
/// # Panics
///
/// When the root has none, or one of more than [`ROOM_BYTES`] as JSON.
pub(super) fn share<W: Collectives, V: Serialize + DeserializeOwned>(
    world: &mut W,
    root: Rank,
    value: Option<V>,
) -> Result<V, W::Error> {
    let mut bytes = vec![b' '; ROOM_BYTES];
    if world.rank() == root {
        let json =
            serde_json::to_vec(&value.expect("the root has a value")).expect("numbers and texts are JSON");
        bytes[..json.len()].copy_from_slice(&json);
    }
    world.broadcast(&mut bytes, root)?;
    Ok(serde_json::from_slice(&bytes).expect("what arrives is what was sent"))
}

/// An error's text fits easily.
const ROOM_BYTES: usize = 4096;
