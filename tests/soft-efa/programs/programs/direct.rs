//! The device itself: no tags, no order, one MTU per message.

use std::collections::BTreeSet;

use libfabric_sys as sys;

use super::rma::trade;
use super::{DIRECT_MESSAGES, DIRECT_RMA, check, pattern};
use crate::endpoint::{Endpoint, Remote};
use crate::error::Failure;
use crate::link::Link;

/// Messages in any order; each says which it is.
pub(crate) fn direct_send(link: &mut Link, domain: Option<&str>, rounds: u32) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, DIRECT_MESSAGES)?;
    let region = endpoint.region(MESSAGES as usize * SLOT)?;
    for round in 0..u64::from(rounds) {
        let len = |number: u64| 8 + (number as usize * 271 + round as usize) % (SLOT - 8);
        for slot in (0..MESSAGES).filter(|_| link.is_target()) {
            endpoint.recv(&region, slot as usize * SLOT, SLOT, slot)?;
        }
        link.meet(|| endpoint.progress())?;
        let mut left: BTreeSet<u64> = (0..MESSAGES).collect();
        for number in (0..MESSAGES).filter(|_| !link.is_target()) {
            let place = number as usize * SLOT;
            region.fill(place, &number.to_le_bytes());
            region.fill(place + 8, &pattern(len(number) - 8, number + round));
            endpoint.send(&region, place, len(number), number)?;
        }
        while !left.is_empty() {
            let message = endpoint.next()?;
            if !link.is_target() {
                left.remove(&message.number);
                continue;
            }
            let place = message.number as usize * SLOT;
            let mut number = [0; 8];
            number.copy_from_slice(&region.get(place, 8));
            let number = u64::from_le_bytes(number);
            if !left.remove(&number) || message.len != len(number) {
                return Err(Failure::Wrong(format!("message {number} of {} bytes came", message.len)));
            }
            check("message", &region.get(place + 8, message.len - 8), number + round)?;
        }
        link.meet(|| endpoint.progress())?;
    }
    Ok(())
}

/// Writes whose data says which they are, then reads of the same.
pub(crate) fn direct_write(link: &mut Link, domain: Option<&str>, rounds: u32) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, DIRECT_RMA)?;
    let lengths = [1, 32, 8928, 8929, 100_000, 1 << 20];
    let region = endpoint.region(1 << 20)?;
    let (spare, back) = (endpoint.region(64)?, endpoint.region(1 << 20)?);
    let remote = trade(link, &region)?;
    for round in 0..u64::from(rounds) {
        for len in lengths {
            let number = round * 10 + 1 + len as u64 % 7;
            if link.is_target() {
                // What the write's data is told by takes a receive, whose memory stays as it is.
                endpoint.recv(&spare, 0, 64, number)?;
                link.meet(|| endpoint.progress())?;
                let write = endpoint.next()?;
                if write.flags & sys::FI_REMOTE_CQ_DATA == 0 || write.data != number {
                    return Err(Failure::Wrong(format!("{number} was written, and {write:?} came")));
                }
                check("write", &region.get(0, len), number)?;
            } else {
                link.meet(|| endpoint.progress())?;
                region.fill(0, &pattern(len, number));
                endpoint.write_data(&region, len, remote, number, number)?;
                endpoint.finish(number)?;
                read_back(&mut endpoint, &back, len, remote, number)?;
            }
            link.meet(|| endpoint.progress())?;
        }
    }
    Ok(())
}

fn read_back(
    endpoint: &mut Endpoint,
    back: &crate::endpoint::Region,
    len: usize,
    remote: Remote,
    number: u64,
) -> Result<(), Failure> {
    endpoint.read(back, len, remote, number)?;
    endpoint.finish(number)?;
    check("read", &back.get(0, len), number)
}

const MESSAGES: u64 = 32;
const SLOT: usize = 8928;
