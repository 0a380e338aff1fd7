//! What the ranks of a node offer each other of their GPUs' memory: whatever they say, it is refused, or says the same when
//! it is written again, is of one length, and of a GPU for each, or of one that has room for all that share it, and of no more blocks than any allows. Input chooses
//! whether they may, how many ranks there are and what each says.
#![no_main]

use std::collections::BTreeSet;

use efarun_fuzz::within_bytes;
use efarun_rt::nvlink::fuzzing::read_offers;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let offers = offers(&mut input).unwrap_or_default();
    let may_share = input.ratio(1, 2).unwrap_or_default();
    let total_bytes: usize = offers.iter().map(Vec::len).sum();
    let read = within_bytes(MEMORY_BYTES + 8 * total_bytes, || read_offers(&offers, may_share));
    let is_readable = |offer: &Vec<u8>| offer.get(NAME_AT..).is_some_and(|name| str::from_utf8(name).is_ok());
    let lengths = || offers.iter().map(|offer| &offer[LENGTH_AT..LENGTH_AT + 8]).collect::<BTreeSet<_>>();
    let names = || offers.iter().map(|offer| &offer[NAME_AT..]).collect::<BTreeSet<_>>();
    let least = |at: usize| offers.iter().map(|offer| number(&offer[at..at + 4])).min().unwrap_or(0);
    let smallest = || least(SIZE_AT);
    let on = |name: &[u8]| offers.iter().filter(|offer| &offer[NAME_AT..] == name).count();
    let fullest = || names().into_iter().map(on).max().unwrap_or(0);
    let fits = || fullest() <= 1 || (may_share && smallest() / fullest() >= offers.len());
    let goes = offers.iter().all(is_readable) && lengths().len() <= 1 && fits();
    match read {
        Ok((again, blocks)) => {
            assert!(goes && again == offers, "{again:?}");
            let (blocks, allowed) = (blocks as usize, least(ALLOWED_AT).max(offers.len()));
            assert!(offers.is_empty() || blocks <= allowed, "{blocks}");
            // One that is not shared is not taken whole.
            let taken = blocks * fullest() + usize::from(fullest() == 1 && smallest() > 1);
            assert!(offers.is_empty() || taken <= smallest().max(1), "{blocks}");
        }
        Err(reason) => {
            assert!(!goes, "{reason}");
            assert!(reason.contains("rank"), "{reason}");
        }
    }
});

fn number(bytes: &[u8]) -> usize {
    bytes.try_into().map_or(0, u32::from_le_bytes) as usize
}

/// Up to nine, one more than a node has: mostly what is nearly right.
fn offers(input: &mut Unstructured<'_>) -> Result<Vec<Vec<u8>>> {
    let ranks = input.int_in_range(0..=9)?;
    (0..ranks).map(|rank| offer(input, rank)).collect()
}

fn offer(input: &mut Unstructured<'_>, rank: u8) -> Result<Vec<u8>> {
    if input.ratio(1, 16)? {
        let len = input.int_in_range(0..=2 * NAME_AT)?;
        return Ok(input.bytes(len.min(input.len()))?.to_vec());
    }
    let mut offer = vec![input.arbitrary()?; NAME_AT];
    let size: u32 = if input.ratio(1, 16)? { input.arbitrary()? } else { input.int_in_range(4..=140)? };
    offer[SIZE_AT..SIZE_AT + 4].copy_from_slice(&size.to_le_bytes());
    let allowed: u32 = if input.ratio(1, 2)? { u32::MAX } else { input.int_in_range(0..=140)? };
    offer[ALLOWED_AT..ALLOWED_AT + 4].copy_from_slice(&allowed.to_le_bytes());
    let len: u64 = if input.ratio(1, 16)? { input.arbitrary()? } else { 4096 };
    offer[LENGTH_AT..LENGTH_AT + 8].copy_from_slice(&len.to_le_bytes());
    if input.ratio(1, 16)? {
        let len = input.int_in_range(0..=40)?;
        offer.extend_from_slice(input.bytes(len.min(input.len()))?);
    } else {
        let gpu = if input.ratio(1, 2)? { rank } else { rank % 3 };
        offer.extend_from_slice(format!("0000:{gpu:02x}:00.0").as_bytes());
    }
    Ok(offer)
}

/// Process and device stand before the number of multiprocessors, and behind it how many blocks are allowed; an address stands before the
/// length, and a handle of 64 bytes behind it.
const SIZE_AT: usize = 16;
const ALLOWED_AT: usize = 20;
const LENGTH_AT: usize = 32;
const NAME_AT: usize = LENGTH_AT + 8 + 64;
const MEMORY_BYTES: usize = 4096;
