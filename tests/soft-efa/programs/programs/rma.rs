//! Writes, reads and data that comes with them, on the reliable protocol: by the device where it can, by the provider
//! otherwise.

use super::{LENGTHS, RELIABLE, check, pattern};
use crate::endpoint::{Endpoint, Region, Remote};
use crate::error::Failure;
use crate::link::Link;
use libfabric_sys as sys;

/// Writes every length into the target, which looks at it, and reads it back.
pub(crate) fn rma(link: &mut Link, domain: Option<&str>, rounds: u32) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, RELIABLE)?;
    let longest = LENGTHS.iter().copied().max().unwrap_or(0);
    let (ours, back) = (endpoint.region(longest)?, endpoint.region(longest)?);
    let remote = trade(link, &ours)?;
    let mut number = 0;
    for _ in 0..rounds {
        for len in LENGTHS {
            number += 2;
            if link.is_target() {
                // The provider may need us to move, as it does on devices that do not write.
                link.meet(|| endpoint.progress())?;
                check("write", &ours.get(0, len), number)?;
            } else {
                ours.fill(0, &pattern(len, number));
                endpoint.write(&ours, len, remote, number)?;
                endpoint.finish(number)?;
                // The completion of an emulated write says that it was sent; a read of the same bytes says more.
                wait_for_write(&mut endpoint, &back, len, remote, number)?;
                link.meet(|| endpoint.progress())?;
            }
            link.meet(|| endpoint.progress())?;
        }
    }
    Ok(())
}

fn wait_for_write(
    endpoint: &mut Endpoint,
    back: &Region,
    len: usize,
    remote: Remote,
    number: u64,
) -> Result<(), Failure> {
    let deadline = std::time::Instant::now() + crate::link::PATIENCE;
    loop {
        endpoint.read(back, len, remote, number + 1)?;
        endpoint.finish(number + 1)?;
        let result = check("read", &back.get(0, len), number);
        if result.is_ok() || std::time::Instant::now() > deadline {
            return result;
        }
    }
}

/// Data that comes with tagged messages, and with writes.
pub(crate) fn cq_data(link: &mut Link, domain: Option<&str>, rounds: u32) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, RELIABLE)?;
    let region = endpoint.region(100_000)?;
    let remote = trade(link, &region)?;
    for round in 0..u64::from(rounds) {
        for len in [8, 5000, 100_000] {
            let tag = 1000 * round + len as u64;
            let data = 0xdead_0000 + tag;
            if link.is_target() {
                endpoint.trecv(&region, 0, len, tag, tag)?;
                let message = endpoint.finish(tag)?;
                expect_data("message", message.flags, message.data, data)?;
                check("message", &region.get(0, len), tag)?;
                link.meet(|| endpoint.progress())?;
                let write = endpoint.next()?;
                expect_data("write", write.flags, write.data, data + 1)?;
                check("write", &region.get(0, len), tag + 1)?;
            } else {
                region.fill(0, &pattern(len, tag));
                endpoint.tsend_data(&region, len, tag, data)?;
                endpoint.finish(tag)?;
                link.meet(|| endpoint.progress())?;
                region.fill(0, &pattern(len, tag + 1));
                endpoint.write_data(&region, len, remote, data + 1, tag + 1)?;
                endpoint.finish(tag + 1)?;
            }
            link.meet(|| endpoint.progress())?;
        }
    }
    Ok(())
}

fn expect_data(what: &str, flags: u64, data: u64, wanted: u64) -> Result<(), Failure> {
    if flags & sys::FI_REMOTE_CQ_DATA != 0 && data == wanted {
        return Ok(());
    }
    Err(Failure::Wrong(format!("the {what}'s data is {data:#x} with flags {flags:#x}, not {wanted:#x}")))
}

/// Tells the other process of a region, and is told of its own.
pub(super) fn trade(link: &mut Link, region: &Region) -> Result<Remote, Failure> {
    Ok(Remote::parse(&link.exchange(&region.remote(), || Ok(()))?))
}
