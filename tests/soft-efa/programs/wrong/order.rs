//! Takes messages to come in the order in which they were sent.

use crate::endpoint::Endpoint;
use crate::error::Failure;
use crate::link::Link;
use crate::programs::DIRECT_MESSAGES;

pub(crate) fn order(link: &mut Link, domain: Option<&str>, rounds: u32) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, DIRECT_MESSAGES)?;
    let region = endpoint.region(MESSAGES as usize * 8)?;
    for _ in 0..rounds {
        for slot in (0..MESSAGES).filter(|_| link.is_target()) {
            endpoint.recv(&region, slot as usize * 8, 8, slot)?;
        }
        link.meet(|| endpoint.progress())?;
        for number in (0..MESSAGES).filter(|_| !link.is_target()) {
            region.fill(number as usize * 8, &number.to_le_bytes());
            endpoint.send(&region, number as usize * 8, 8, number)?;
        }
        for number in 0..MESSAGES {
            let message = endpoint.next()?;
            if link.is_target() {
                let came = region.get(message.number as usize * 8, 8);
                if came != number.to_le_bytes() {
                    return Err(Failure::Wrong(format!("message {number} should come, and {came:?} came")));
                }
            }
        }
        link.meet(|| endpoint.progress())?;
    }
    Ok(())
}

const MESSAGES: u64 = 64;
