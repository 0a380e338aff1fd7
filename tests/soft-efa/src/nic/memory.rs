//! Memory as a device reaches it: this is where the pure part ends.

use super::region::Region;

/// Reads and writes registered memory.
///
/// A device finds the region and checks the bounds before it asks; an implementation only copies. Addresses are those
/// of the memory itself ([`Region::locate`]), not those that operations use.
pub trait Memory {
    /// Copies from the region's memory.
    fn read(&self, region: &Region, memory: u64, into: &mut [u8]);

    /// Copies into the region's memory.
    fn write(&self, region: &Region, memory: u64, bytes: &[u8]);
}
