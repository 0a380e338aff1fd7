//! A door for the fuzz targets: what the ranks of a node say of their memory, without a GPU.
//!
//! Nothing of the runtime uses this module.

use super::window;

/// Reads what ranks offer, in order of rank, and gives each as it would be written again, and how many blocks a launch of such
/// ranks can have; or what is wrong.
///
/// # Errors
///
/// A sentence with the rank whose offer cannot be read, or does not go with the others, or with the GPU that too many share.
pub fn read_offers(offers: &[Vec<u8>], may_share: bool) -> Result<(Vec<Vec<u8>>, u32), String> {
    let (read, room) = window::read(offers, may_share).map_err(|error| error.to_string())?;
    Ok((read.iter().map(window::Offer::to_bytes).collect(), room.blocks()))
}
