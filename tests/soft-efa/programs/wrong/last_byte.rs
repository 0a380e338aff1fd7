//! Takes a write for complete when its last byte has come.

use std::time::Instant;

use crate::endpoint::{Endpoint, Remote};
use crate::error::Failure;
use crate::link::{Link, PATIENCE};
use crate::programs::{DIRECT_RMA, check, pattern};

pub(crate) fn last_byte(link: &mut Link, domain: Option<&str>, rounds: u32) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, DIRECT_RMA)?;
    let region = endpoint.region(LEN)?;
    let remote = Remote::parse(&link.exchange(&region.remote(), || Ok(()))?);
    for round in 1..=u64::from(rounds) {
        if link.is_target() {
            region.fill(0, &vec![0; LEN]);
        } else {
            region.fill(0, &pattern(LEN, round));
            region.fill(LEN - 1, &[1]);
        }
        link.meet(|| endpoint.progress())?;
        if link.is_target() {
            let deadline = Instant::now() + PATIENCE;
            while region.get(LEN - 1, 1) != [1] {
                endpoint.progress()?;
                if Instant::now() > deadline {
                    return Err(Failure::Deadline("the last byte"));
                }
            }
            check("write", &region.get(0, LEN - 1), round)?;
        } else {
            endpoint.write(&region, LEN, remote, round)?;
            endpoint.finish(round)?;
        }
        link.meet(|| endpoint.progress())?;
    }
    Ok(())
}

/// Thirty pieces.
const LEN: usize = 30 * 8928;
