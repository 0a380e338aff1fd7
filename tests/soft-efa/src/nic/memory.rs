//! Memory as a device reaches it: this is where the pure part ends.

use super::region::Region;

/// Reads and writes registered memory.
///
/// A device finds the region and checks the bounds before it asks; an implementation only copies. Addresses are those
/// of the memory itself ([`Region::locate`]), not those that operations use.
pub trait Memory {
    /// Copies from the region's memory.
    ///
    /// # Errors
    ///
    /// [`Gone`]; what `into` holds then means nothing.
    fn read(&self, region: &Region, memory: u64, into: &mut [u8]) -> Result<(), Gone>;

    /// Copies into the region's memory.
    ///
    /// # Errors
    ///
    /// [`Gone`]; some of the bytes may have landed.
    fn write(&self, region: &Region, memory: u64, bytes: &[u8]) -> Result<(), Gone>;
}

/// Memory that was registered, and is not there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;
