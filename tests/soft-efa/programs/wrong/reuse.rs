//! Uses a slot for something else as soon as its flag has come, without waiting for the completion.

use std::time::Instant;

use crate::endpoint::{Endpoint, Remote};
use crate::error::Failure;
use crate::link::{Link, PATIENCE};
use crate::programs::DIRECT_RMA;

pub(crate) fn reuse(link: &mut Link, domain: Option<&str>, rounds: u32) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, DIRECT_RMA)?;
    let (region, spare) = (endpoint.region(LEN)?, endpoint.region(64)?);
    let remote = Remote::parse(&link.exchange(&region.remote(), || Ok(()))?);
    for round in 1..=u64::from(rounds) {
        if link.is_target() {
            endpoint.recv(&spare, 0, 64, round)?;
            region.fill(0, &[0; LEN]);
        } else {
            region.fill(0, &[1; LEN]);
        }
        link.meet(|| endpoint.progress())?;
        if link.is_target() {
            let deadline = Instant::now() + PATIENCE;
            while region.get(0, 1) != [1] {
                endpoint.progress()?;
                if Instant::now() > deadline {
                    return Err(Failure::Deadline("the flag"));
                }
            }
            // The slot is taken for free, and used for something else.
            region.fill(0, &[2; LEN]);
            endpoint.next()?;
            if region.get(0, LEN) != [2; LEN] {
                return Err(Failure::Wrong(
                    "what came once came again, over what the slot was used for".to_owned(),
                ));
            }
        } else {
            endpoint.write_data(&region, LEN, remote, round, round)?;
            endpoint.finish(round)?;
        }
        link.meet(|| endpoint.progress())?;
    }
    Ok(())
}

/// One piece.
const LEN: usize = 4096;
