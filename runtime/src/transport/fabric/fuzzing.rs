//! A door for the fuzz targets: what ranks tell each other about their endpoints, without any.
//!
//! Nothing of the runtime uses this module.

use efarun_wire::Rank;

use super::address::Address;
use super::reads;

/// Reads what a rank says of its endpoints, and gives it as it would be written again; or what is wrong.
///
/// # Errors
///
/// A sentence with the rank.
pub fn read_address(peer: Rank, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let address = Address::parse(peer, bytes).map_err(|error| error.to_string())?;
    address.check(peer, &address).map_err(|error| error.to_string())?;
    Ok(address.to_bytes())
}

/// The same of what cards read.
///
/// # Errors
///
/// A sentence with the rank.
pub fn read_reader_address(peer: Rank, bytes: &[u8]) -> Result<Vec<u8>, String> {
    reads::read_again(peer, bytes).map_err(|error| error.to_string())
}
