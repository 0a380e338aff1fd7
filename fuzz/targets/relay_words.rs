//! What hosts say to each other of slices that cards read: whatever peers say, a rank takes what it waits for from whom it waits for
//! it, in that peer's order, and tells the rest. Input chooses what is waited for, and what is said.
#![no_main]

use std::collections::VecDeque;

use efarun_fuzz::within_bytes;
use efarun_rt::Rank;
use efarun_rt::relay::fuzzing::{Wanted, hear};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let Ok((gets, given, words)) = exchange(&mut input) else { return };
    let said_bytes: usize = words.iter().map(|(_, word)| word.len()).sum();
    let limit_bytes = MEMORY_BYTES + 256 * words.len() + 2 * said_bytes;
    let (made, waits) = within_bytes(limit_bytes, || hear(&gets, &given, &words));

    // What is left of each peer: gets with their numbers, and what it was given.
    let mut left: [VecDeque<(usize, Wanted)>; PEERS] = Default::default();
    gets.iter().enumerate().for_each(|(number, get)| left[get.0.index()].push_back((number, *get)));
    let mut unread = [0; PEERS];
    given.iter().for_each(|to| unread[to.index()] += 1);
    assert_eq!(made.len(), words.len());
    for ((from, word), made) in words.iter().zip(made) {
        let (kind, rest) =
            word.split_first_chunk().map_or((0, &[][..]), |(kind, rest)| (u64::from_le_bytes(*kind), rest));
        let next = left[from.index()].front().copied();
        let expected = match (kind, next) {
            (DONE, _) if rest.is_empty() && unread[from.index()] > 0 => Some(None),
            (READY, Some((number, (_, len, false))))
                if rest.len() == 16 && rest[8..] == (len as u64).to_le_bytes() =>
            {
                Some(Some((number, None)))
            }
            (WHOLE, Some((number, (_, len, true)))) if rest.len() == len => {
                Some(Some((number, Some(rest.to_vec()))))
            }
            _ => None,
        };
        assert_eq!(made.as_ref().ok(), expected.as_ref(), "{made:?}");
        match expected {
            Some(Some(_)) => drop(left[from.index()].pop_front()),
            Some(None) => unread[from.index()] -= 1,
            None => {}
        }
    }
    let waits_for = |peer: usize| !left[peer].is_empty() || unread[peer] > 0;
    match waits {
        Some(peer) => assert!(waits_for(peer.index()), "{peer}"),
        None => assert!(!(0..PEERS).any(waits_for)),
    }
});

type Exchange = (Vec<Wanted>, Vec<Rank>, Vec<(Rank, Vec<u8>)>);

/// Mostly words that are nearly right.
fn exchange(input: &mut Unstructured<'_>) -> Result<Exchange> {
    let count = input.int_in_range(0..=6)?;
    let gets: Vec<Wanted> = (0..count)
        .map(|_| Ok((peer(input)?, input.int_in_range(0..=20)?, input.arbitrary()?)))
        .collect::<Result<_>>()?;
    let count = input.int_in_range(0..=4)?;
    let given = (0..count).map(|_| peer(input)).collect::<Result<_>>()?;
    let count = input.int_in_range(0..=12)?;
    let words = (0..count).map(|_| Ok((peer(input)?, word(input, &gets)?))).collect::<Result<_>>()?;
    Ok((gets, given, words))
}

fn peer(input: &mut Unstructured<'_>) -> Result<Rank> {
    Ok(Rank(input.int_in_range(0..=PEERS as u32 - 1)?))
}

fn word(input: &mut Unstructured<'_>, gets: &[Wanted]) -> Result<Vec<u8>> {
    if input.ratio(1, 8)? {
        let len = input.int_in_range(0..=40)?;
        return Ok(input.bytes(len.min(input.len()))?.to_vec());
    }
    let len = if gets.is_empty() { 0 } else { input.choose(gets)?.1 };
    let len = if input.ratio(1, 8)? { input.int_in_range(0..=20)? } else { len };
    let mut words = match input.int_in_range(0..=2)? {
        0 => DONE.to_le_bytes().to_vec(),
        1 => [READY, input.arbitrary()?, len as u64].into_iter().flat_map(u64::to_le_bytes).collect(),
        _ => [&WHOLE.to_le_bytes()[..], &vec![7; len]].concat(),
    };
    if input.ratio(1, 16)? {
        words.push(0);
    }
    Ok(words)
}

/// As hosts write them.
const READY: u64 = 0xEFA_0001;
const DONE: u64 = 0xEFA_0002;
const WHOLE: u64 = 0xEFA_0003;
const PEERS: usize = 3;
const MEMORY_BYTES: usize = 4096;
