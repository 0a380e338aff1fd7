//! Receives that come late, that are taken back, and that take more than one message.

use libfabric_sys as sys;

use super::{RELIABLE, check, pattern};
use crate::endpoint::Endpoint;
use crate::error::Failure;
use crate::link::Link;

/// Messages that are there before their receives, which are posted the other way round.
pub(crate) fn unexpected(link: &mut Link, domain: Option<&str>, rounds: u32) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, RELIABLE)?;
    for round in 0..u64::from(rounds) {
        for len in [16, 8000, 60_000] {
            let region = endpoint.region(MESSAGES as usize * len)?;
            let first = round * MESSAGES;
            if !link.is_target() {
                for number in first..first + MESSAGES {
                    let place = (number - first) as usize * len;
                    region.fill(place, &pattern(len, number));
                    endpoint.tsend(&region, place, len, number, number)?;
                }
            }
            link.meet(|| endpoint.progress())?;
            let receives = (first..first + MESSAGES).rev();
            for number in receives.clone().filter(|_| link.is_target()) {
                endpoint.trecv(&region, (number - first) as usize * len, len, number, number)?;
            }
            for number in receives {
                endpoint.finish(number)?;
                if link.is_target() {
                    check("message", &region.get((number - first) as usize * len, len), number)?;
                }
            }
            link.meet(|| endpoint.progress())?;
        }
    }
    Ok(())
}

/// A receive that is taken back completes as cancelled, and the message goes to the next one.
pub(crate) fn cancel(link: &mut Link, domain: Option<&str>) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, RELIABLE)?;
    let region = endpoint.region(2000)?;
    if link.is_target() {
        let receive = endpoint.trecv_cancellable(&region, 0, 1000, 7, 1)?;
        endpoint.cancel(receive)?;
        let cancelled = endpoint.any()?;
        if (cancelled.number, cancelled.error) != (1, sys::FI_ECANCELED) {
            return Err(Failure::Wrong(format!("a cancelled receive completed as {cancelled:?}")));
        }
        endpoint.trecv(&region, 1000, 1000, 7, 2)?;
        link.meet(|| endpoint.progress())?;
        endpoint.finish(2)?;
        check("message", &region.get(1000, 1000), 7)?;
        if region.get(0, 1000) != vec![0; 1000] {
            return Err(Failure::Wrong("the cancelled receive's memory was written to".to_owned()));
        }
    } else {
        link.meet(|| endpoint.progress())?;
        region.fill(0, &pattern(1000, 7));
        endpoint.tsend(&region, 0, 1000, 7, 1)?;
        endpoint.finish(1)?;
    }
    link.meet(|| endpoint.progress())
}

/// One buffer takes many messages of different lengths, each where its completion says.
pub(crate) fn multi_recv(link: &mut Link, domain: Option<&str>) -> Result<(), Failure> {
    let mut endpoint = Endpoint::open(link, domain, RELIABLE)?;
    let len = |number: u64| 8 + 97 * number as usize;
    let region = endpoint.region(1 << 20)?;
    if link.is_target() {
        endpoint.recv_many(&region, 1)?;
        link.meet(|| endpoint.progress())?;
        let mut seen = [false; MESSAGES as usize];
        let mut taken = 0;
        while taken < MESSAGES {
            let message = endpoint.next()?;
            if message.len == 0 {
                // The buffer itself, given back.
                continue;
            }
            let start = message.buf - region.address();
            let mut number = [0; 8];
            number.copy_from_slice(&region.get(start, 8));
            let number = u64::from_le_bytes(number);
            if message.len != len(number) || std::mem::replace(&mut seen[number as usize], true) {
                return Err(Failure::Wrong(format!("message {number} of {} bytes came", message.len)));
            }
            check("message", &region.get(start + 8, message.len - 8), number)?;
            taken += 1;
        }
    } else {
        link.meet(|| endpoint.progress())?;
        let mut place = 0;
        for number in 0..MESSAGES {
            region.fill(place, &number.to_le_bytes());
            region.fill(place + 8, &pattern(len(number) - 8, number));
            endpoint.send(&region, place, len(number), number)?;
            place += len(number);
        }
        (0..MESSAGES).try_for_each(|number| endpoint.finish(number).map(|_| ()))?;
    }
    link.meet(|| endpoint.progress())
}

const MESSAGES: u64 = 32;
