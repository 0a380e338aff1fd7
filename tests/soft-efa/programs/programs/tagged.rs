//! Tagged messages.

use std::time::Instant;

use super::{LENGTHS, RELIABLE, check, pattern};
use crate::endpoint::Endpoint;
use crate::error::Failure;
use crate::link::Link;

/// Every length, there and back, checked at both ends.
pub(crate) fn tagged(link: &mut Link, domain: Option<&str>, rounds: u32) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, RELIABLE)?;
    let longest = LENGTHS.iter().copied().max().unwrap_or(0);
    let (ours, theirs) = (endpoint.region(longest)?, endpoint.region(longest)?);
    let mut tag = 0;
    for _ in 0..rounds {
        for len in [0].into_iter().chain(LENGTHS) {
            tag += 1;
            theirs.fill(0, &vec![0; len]);
            endpoint.trecv(&theirs, 0, len, tag, 2 * tag)?;
            if link.is_target() {
                expect(&mut endpoint, len, tag)?;
            }
            ours.fill(0, &pattern(len, tag + u64::from(link.is_target())));
            endpoint.tsend(&ours, 0, len, tag, 2 * tag + 1)?;
            endpoint.finish(2 * tag + 1)?;
            if !link.is_target() {
                expect(&mut endpoint, len, tag)?;
                check("answer", &theirs.get(0, len), tag + 1)?;
            } else {
                check("message", &theirs.get(0, len), tag)?;
            }
        }
    }
    link.meet(|| endpoint.progress())
}

fn expect(endpoint: &mut Endpoint, len: usize, tag: u64) -> Result<(), Failure> {
    let completion = endpoint.finish(2 * tag)?;
    if completion.len == len {
        return Ok(());
    }
    Err(Failure::Wrong(format!("message {tag} has {} bytes, not {len}", completion.len)))
}

/// Sixteen messages on their way at any time, for a few lengths, with how fast that was.
pub(crate) fn bandwidth(link: &mut Link, domain: Option<&str>, rounds: u32) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, RELIABLE)?;
    for len in [1024, 8192, 65_536, 1 << 20] {
        let messages = u64::from(rounds) * 16;
        let region = endpoint.region(WINDOW * len)?;
        if !link.is_target() {
            (0..WINDOW).for_each(|place| region.fill(place * len, &pattern(len, place as u64)));
        }
        link.meet(|| endpoint.progress())?;
        let start = Instant::now();
        let mut posted = 0;
        let post = |endpoint: &mut Endpoint, number: u64| {
            let place = number as usize % WINDOW * len;
            match link.is_target() {
                true => endpoint.trecv(&region, place, len, number, number),
                false => endpoint.tsend(&region, place, len, number, number),
            }
        };
        for done in 0..messages {
            while posted < messages && posted < done + WINDOW as u64 {
                post(&mut endpoint, posted)?;
                posted += 1;
            }
            endpoint.finish(done)?;
            if link.is_target() {
                let place = done as usize % WINDOW;
                check("message of place", &region.get(place * len, len), place as u64)?;
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let rate = messages as f64 / seconds;
        crate::say(&format!("{len} bytes: {rate:.0} messages/s, {:.1} MB/s", rate * len as f64 / 1e6));
        link.meet(|| endpoint.progress())?;
    }
    Ok(())
}

const WINDOW: usize = 16;
