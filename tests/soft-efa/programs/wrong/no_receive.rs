//! Posts no receive, and sends as if the other had.

use crate::endpoint::{Endpoint, Wanted};
use crate::error::Failure;
use crate::link::Link;
use crate::programs::DIRECT_MESSAGES;

pub(crate) fn no_receive(link: &mut Link, domain: Option<&str>) -> Result<(), Failure> {
    // By default the device would try for ever.
    let wanted = Wanted { rnr_retry: Some(2), ..DIRECT_MESSAGES };
    let mut endpoint = Endpoint::open(link, domain, wanted)?;
    let region = endpoint.region(64)?;
    if !link.is_target() {
        endpoint.send(&region, 0, 64, 1)?;
        endpoint.finish(1)?;
    }
    link.meet(|| endpoint.progress())
}
