//! Programs that live with whatever EFA permits.

mod direct;
mod peer;
mod receives;
mod rma;
mod tagged;

pub(crate) use direct::{direct_send, direct_write};
pub(crate) use peer::{send_until_failure, wait};
pub(crate) use receives::{cancel, multi_recv, unexpected};
pub(crate) use rma::{cq_data, rma};
pub(crate) use tagged::{bandwidth, tagged};

use libfabric_sys as sys;

use crate::endpoint::Wanted;
use crate::error::Failure;

/// The provider's reliable protocol: any length, tags.
const RELIABLE: Wanted =
    Wanted { fabric: "efa", caps: sys::FI_MSG | sys::FI_TAGGED | sys::FI_RMA, rnr_retry: None };

/// The device itself: messages of one MTU.
pub(crate) const DIRECT_MESSAGES: Wanted =
    Wanted { fabric: "efa-direct", caps: sys::FI_MSG, rnr_retry: None };

/// The device itself, where it reads and writes.
pub(crate) const DIRECT_RMA: Wanted =
    Wanted { fabric: "efa-direct", caps: sys::FI_MSG | sys::FI_RMA, rnr_retry: None };

/// Lengths on both sides of every switch of the provider's: inline, one MTU, medium, long, read.
const LENGTHS: [usize; 12] = [1, 31, 32, 33, 4096, 8000, 8928, 8929, 65_536, 65_537, 1 << 20, (1 << 22) + 5];

/// Bytes that differ from place to place and from one number to the next.
pub(crate) fn pattern(len: usize, number: u64) -> Vec<u8> {
    let start = (number as u8).wrapping_mul(17).wrapping_add(3);
    (0..len)
        .map(|place| start.wrapping_add((place as u8).wrapping_mul(31)).wrapping_add((place >> 8) as u8))
        .collect()
}

/// Fails unless the bytes are those of the pattern.
pub(crate) fn check(what: &str, bytes: &[u8], number: u64) -> Result<(), Failure> {
    let wanted = pattern(bytes.len(), number);
    match bytes.iter().zip(&wanted).position(|(byte, wanted)| byte != wanted) {
        None => Ok(()),
        Some(place) => {
            let (found, wanted) = (bytes[place], wanted[place]);
            let len = bytes.len();
            Err(Failure::Wrong(format!("{what} {number}: byte {place} of {len} is {found}, not {wanted}")))
        }
    }
}
