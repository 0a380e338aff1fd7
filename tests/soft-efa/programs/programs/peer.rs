//! What becomes of who talks to a peer that goes away.

use super::RELIABLE;
use crate::endpoint::Endpoint;
use crate::error::Failure;
use crate::link::Link;

/// Takes messages until something goes wrong. The other process sends until it fails.
pub(crate) fn wait(link: &mut Link, domain: Option<&str>) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, RELIABLE)?;
    let region = endpoint.region(64)?;
    for number in 0.. {
        endpoint.trecv(&region, 0, 64, 0, number)?;
        endpoint.finish(number)?;
        if number == 10 {
            crate::say("receiving");
        }
    }
    Ok(())
}

/// Sends until that fails, and says how: `failed: ERROR PROVIDER'S`.
pub(crate) fn send_until_failure(link: &mut Link, domain: Option<&str>) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, RELIABLE)?;
    let region = endpoint.region(64)?;
    for number in 0.. {
        endpoint.tsend(&region, 0, 64, 0, number)?;
        let done = endpoint.any()?;
        if done.error != 0 {
            crate::say(&format!("failed: {} {}", done.error, done.provider_error));
            return Ok(());
        }
        if number == 10 {
            crate::say("sending");
        }
    }
    Ok(())
}
