//! Regions of callers' memory, for providers that want what is sent registered.
//!
//! Registering pins pages, which costs more than sending them, so no memory is registered twice where that can be helped.
//! Memory of [`KeptBuffer`](crate::transport::kept::KeptBuffer)s stays as long as it is known here: it is registered when
//! it is first sent from, in parts that any card takes, and those regions are used by every later operation. Other memory is
//! registered once per operation of the World, however often its parts are sent. Between operations the caller may unmap
//! it and map something else in its place, of which nobody tells us; so no such region is used beyond the operation that
//! made it ([`Registrations::begin`]).
//!
//! A region that an operation in flight uses is shared with that ([`std::sync::Arc`]). Where the card takes no more regions, those
//! that nobody uses are given up, the longest unused first; where all are in use, the message waits for one of them.
//!
//! Of memory that stays, others may be given places to write to ([`Registrations::cover_landing`]). Such a region is in use until
//! they have written, which they may only do when we have sent: so while any is, one region more is kept than is needed, the
//! *spare*, which makes room for what we send.
//!
//! The EFA provider has a cache of its own that watches for unmapping. It does so by changing the code of `munmap`,
//! `madvise` and their like while the program runs; a thread that is in one of them at that moment crashes, as our tests
//! did. So the provider is asked for local registration (FI_MR_LOCAL), with which it leaves them alone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::fabric::{FabricError, MemoryRegion};
use crate::transport::kept::Kept;

/// The regions of one rail.
#[derive(Debug)]
pub(super) struct Registrations<R = MemoryRegion> {
    /// By first address; the memory of two of them does not overlap.
    kept: BTreeMap<usize, Known<R>>,
    /// Of this operation, by first and last address.
    passing: BTreeMap<(usize, usize), Arc<R>>,
    /// The longest piece that is sent.
    longest_bytes: usize,
    /// How many times a region was asked for, and made.
    asked: u64,
    made: u64,
    /// Room for what is sent, where others have places.
    spare: Option<Spare<R>>,
}

/// A region that is there to be given up, as long as any that others may have places in.
#[derive(Debug)]
struct Spare<R> {
    // Before the memory, so that it is dropped first.
    _region: R,
    len_bytes: usize,
    memory: Arc<Kept>,
}

/// Memory that stays, and its regions.
#[derive(Debug)]
struct Known<R> {
    // Before the memory, so that they are dropped first.
    parts: BTreeMap<usize, Part<R>>,
    memory: Arc<Kept>,
}

#[derive(Debug)]
struct Part<R> {
    region: Arc<R>,
    last_asked: u64,
}

impl<R> Registrations<R> {
    /// None yet, for pieces of so many bytes at most.
    pub(super) fn new(longest_bytes: usize) -> Self {
        let (kept, passing) = (BTreeMap::new(), BTreeMap::new());
        Registrations { kept, passing, longest_bytes, asked: 0, made: 0, spare: None }
    }

    /// Learns of memory that stays.
    pub(super) fn keep(&mut self, memory: &Arc<Kept>) {
        let known = Known { parts: BTreeMap::new(), memory: Arc::clone(memory) };
        self.kept.insert(memory.addresses().start, known);
    }

    /// How many regions were made.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    /// A region that covers a piece of memory, made by `register` where there is none; none where all that the card takes are in
    /// use. Whoever uses it shares it until then.
    pub(super) fn cover(
        &mut self,
        piece: Range<usize>,
        mut register: impl FnMut(Range<usize>) -> Result<R, FabricError>,
    ) -> Result<Option<Arc<R>>, FabricError> {
        debug_assert!(piece.len() <= self.longest_bytes, "a piece is one of a message's");
        self.asked += 1;
        if let Some((start, number, addresses)) = self.home(&piece) {
            let last_asked = self.asked;
            let part = self.kept.get_mut(&start).and_then(|known| known.parts.get_mut(&number));
            if let Some(part) = part {
                part.last_asked = last_asked;
                return Ok(Some(Arc::clone(&part.region)));
            }
            let Some(region) = self.make(addresses, &mut register)? else { return Ok(None) };
            let part = Part { region: Arc::clone(&region), last_asked };
            self.kept.get_mut(&start).expect("seen above").parts.insert(number, part);
            return Ok(Some(region));
        }
        let near = self.passing.range(..=(piece.start, usize::MAX)).rev().take(MOST_LOOKS);
        let mut covering = near.filter(|((_, last), _)| *last >= piece.end);
        if let Some((_, region)) = covering.next() {
            return Ok(Some(Arc::clone(region)));
        }
        let Some(region) = self.make(piece.clone(), &mut register)? else { return Ok(None) };
        self.passing.insert((piece.start, piece.end), Arc::clone(&region));
        Ok(Some(region))
    }

    /// As [`Registrations::cover`], for others to write to a piece of memory that stays. None also of other memory, and where the
    /// card takes no region, or none besides that would make room for what is sent.
    pub(super) fn cover_landing(
        &mut self,
        piece: Range<usize>,
        mut register: impl FnMut(Range<usize>) -> Result<R, FabricError>,
    ) -> Option<Arc<R>> {
        let (start, _, part) = self.home(&piece)?;
        let covered = self.cover(piece, &mut register);
        let region = covered.inspect_err(|error| log::info!("others get no place: {error}")).ok()??;
        if self.spare.as_ref().is_none_or(|spare| spare.len_bytes < part.len()) {
            let memory = Arc::clone(&self.kept.get(&start)?.memory);
            let len_bytes = part.len();
            let spare = loop {
                match register(part.clone()) {
                    Ok(region) => break region,
                    Err(error) if is_full(&error) && self.give_up_unused_one() => {}
                    Err(error) => {
                        log::info!("others get no place, as nothing would be left to send from: {error}");
                        return None;
                    }
                }
            };
            self.spare = Some(Spare { _region: spare, len_bytes, memory });
        }
        Some(region)
    }

    /// Whether a piece is of memory that stays.
    pub(super) fn stays(&self, piece: &Range<usize>) -> bool {
        self.home(piece).is_some()
    }

    /// Uses a region for nothing new: it goes when nobody uses it any more.
    pub(super) fn forget(&mut self, region: &Arc<R>) {
        for known in self.kept.values_mut() {
            known.parts.retain(|_, part| !Arc::ptr_eq(&part.region, region));
        }
    }

    /// Gives up every region that nobody uses, and the spare.
    pub(super) fn give_up_unused(&mut self) {
        while self.give_up_one() {}
    }

    /// Of memory that stays, and that a piece is of: where it begins, and the number and the addresses of the part whose region
    /// covers the piece.
    fn home(&self, piece: &Range<usize>) -> Option<(usize, usize, Range<usize>)> {
        let (&start, known) = self.kept.range(..=piece.start).next_back()?;
        let end = known.memory.addresses().end;
        let number = (piece.start - start) / PART_BYTES;
        let first = start + number * PART_BYTES;
        let last = (first + PART_BYTES + self.longest_bytes).min(end);
        (piece.end <= end).then_some((start, number, first..last))
    }

    /// Begins an operation of the World: forgets the memory of the one before, and what stayed and is gone. Regions in use
    /// stay until they are not.
    pub(super) fn begin(&mut self) {
        self.passing.clear();
        self.spare.take_if(|spare| spare.memory.is_dropped());
        self.kept.retain(|_, known| !known.memory.is_dropped() || known.parts.values().any(Part::is_used));
    }

    /// Makes a region, giving up others where the card takes no more.
    fn make(
        &mut self,
        memory: Range<usize>,
        register: &mut impl FnMut(Range<usize>) -> Result<R, FabricError>,
    ) -> Result<Option<Arc<R>>, FabricError> {
        loop {
            match register(memory.clone()) {
                Ok(region) => {
                    self.made += 1;
                    return Ok(Some(Arc::new(region)));
                }
                Err(error) if is_full(&error) => {
                    if !self.give_up_one() {
                        return if self.is_used() { Ok(None) } else { Err(error) };
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes room for a region: gives up one that nobody uses, or else the spare.
    fn give_up_one(&mut self) -> bool {
        self.give_up_unused_one() || self.spare.take().is_some()
    }

    /// Gives up a region that nobody uses: of this operation any, of memory that stays the one longest unused.
    fn give_up_unused_one(&mut self) -> bool {
        let passing = self.passing.iter().find(|(_, region)| Arc::strong_count(region) == 1);
        if let Some(key) = passing.map(|(key, _)| *key) {
            return self.passing.remove(&key).is_some();
        }
        let parts = self.kept.iter().flat_map(|(start, known)| {
            known
                .parts
                .iter()
                .filter(|(_, part)| !part.is_used())
                .map(|(number, part)| (part.last_asked, *start, *number))
        });
        let Some((_, start, number)) = parts.min() else { return false };
        self.kept.get_mut(&start).is_some_and(|known| known.parts.remove(&number).is_some())
    }

    fn is_used(&self) -> bool {
        let mut parts = self.kept.values().flat_map(|known| known.parts.values());
        parts.any(Part::is_used) || self.passing.values().any(|region| Arc::strong_count(region) > 1)
    }
}

impl<R> Part<R> {
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.region) > 1
    }
}

/// Whether a card has no room for a region, or the system none for pinned pages.
fn is_full(error: &FabricError) -> bool {
    matches!(error, FabricError::Call { code: libc::ENOMEM | libc::ENOSPC, .. })
}

/// How much of memory that stays is registered at once. A card takes a few gigabytes of 4 KiB pages in a region and some
/// thousands of regions; what is never sent from is never pinned.
const PART_BYTES: usize = 64 << 20;
/// How many regions that begin before a piece of memory are looked at. A region too many costs less than a long search.
const MOST_LOOKS: usize = 4;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::HashSet;

    use super::*;
    use crate::transport::kept::KeptBuffer;

    /// A card that takes so many regions.
    #[derive(Debug, Default)]
    struct Card {
        most: usize,
        open: RefCell<HashSet<(usize, usize)>>,
    }

    #[derive(Debug)]
    struct Region<'c> {
        card: &'c Card,
        range: Range<usize>,
    }

    impl Card {
        fn register(&self, range: Range<usize>) -> Result<Region<'_>, FabricError> {
            let mut open = self.open.borrow_mut();
            if open.len() == self.most {
                let text = "no room".to_owned();
                return Err(FabricError::Call { call: "fi_mr_regattr", code: libc::ENOMEM, text });
            }
            assert!(open.insert((range.start, range.end)), "{range:?} is registered twice");
            Ok(Region { card: self, range })
        }

        fn len(&self) -> usize {
            self.open.borrow().len()
        }
    }

    impl Drop for Region<'_> {
        fn drop(&mut self) {
            self.card.open.borrow_mut().remove(&(self.range.start, self.range.end));
        }
    }

    const LONGEST: usize = 1000;

    fn cover<'c>(
        registrations: &mut Registrations<Region<'c>>,
        card: &'c Card,
        piece: Range<usize>,
    ) -> Option<Arc<Region<'c>>> {
        let region = registrations.cover(piece.clone(), |range| card.register(range)).unwrap()?;
        assert!(
            region.range.start <= piece.start && piece.end <= region.range.end,
            "{region:?} for {piece:?}"
        );
        Some(region)
    }

    #[test]
    fn memory_that_stays_is_registered_once_and_other_memory_once_per_operation() {
        let card = Card { most: 10, ..Card::default() };
        let mut registrations = Registrations::new(LONGEST);
        let buffer = KeptBuffer::new(5000);
        registrations.keep(buffer.kept());
        let start = buffer.kept().addresses().start;
        for operation in 1..=3 {
            registrations.begin();
            for offset in [0, 500, 4000] {
                cover(&mut registrations, &card, start + offset..start + offset + LONGEST);
            }
            for _ in 0..2 {
                cover(&mut registrations, &card, 64..64 + LONGEST);
            }
            assert_eq!((registrations.made(), card.len()), (1 + operation, 2));
        }
        registrations.begin();
        assert_eq!(card.len(), 1);
    }

    #[test]
    fn pieces_that_overlap_or_reach_over_an_end_get_regions_of_their_own() {
        let card = Card { most: 10, ..Card::default() };
        let mut registrations = Registrations::new(LONGEST);
        let buffer = KeptBuffer::new(2000);
        registrations.keep(buffer.kept());
        let Range { start, end } = buffer.kept().addresses();
        cover(&mut registrations, &card, 100..700);
        cover(&mut registrations, &card, 200..700);
        assert_eq!(registrations.made(), 1);
        cover(&mut registrations, &card, 200..701);
        assert_eq!(registrations.made(), 2, "the first does not reach so far");
        for piece in [start - 10..start + 10, end - 10..end + 10] {
            let region = cover(&mut registrations, &card, piece.clone()).unwrap();
            assert_eq!(region.range, piece, "what begins or ends elsewhere is not what stays");
        }
    }

    #[test]
    fn long_memory_is_registered_in_parts_as_it_is_sent_from() {
        let card = Card { most: 10, ..Card::default() };
        let mut registrations = Registrations::new(LONGEST);
        // Never touched, so that it takes no memory.
        let buffer = KeptBuffer::new(3 * PART_BYTES);
        registrations.keep(buffer.kept());
        let Range { start, end } = buffer.kept().addresses();
        let pieces = [0, PART_BYTES - LONGEST, PART_BYTES - 1, PART_BYTES, 3 * PART_BYTES - LONGEST];
        let made: Vec<u64> = pieces
            .iter()
            .map(|offset| {
                cover(&mut registrations, &card, start + offset..start + offset + LONGEST);
                registrations.made()
            })
            .collect();
        assert_eq!(made, [1, 1, 1, 2, 3]);
        assert!(card.open.borrow().iter().all(|(first, last)| *first >= start && *last <= end));
    }

    #[test]
    fn what_is_in_use_is_kept_and_the_longest_unused_given_up_where_the_card_is_full() {
        let card = Card { most: 3, ..Card::default() };
        let mut registrations = Registrations::new(LONGEST);
        let buffers: Vec<KeptBuffer> = (0..5).map(|_| KeptBuffer::new(LONGEST)).collect();
        buffers.iter().for_each(|buffer| registrations.keep(buffer.kept()));
        let piece = |index: usize| buffers[index].kept().addresses();
        let used = cover(&mut registrations, &card, piece(0));
        for index in [1, 2, 1, 3] {
            assert!(cover(&mut registrations, &card, piece(index)).is_some());
        }
        let is_open = |index: usize| card.open.borrow().contains(&(piece(index).start, piece(index).end));
        assert_eq!([0, 1, 2, 3].map(is_open), [true, true, false, true], "2 was unused for longest");
        let others = [1, 3].map(|index| cover(&mut registrations, &card, piece(index)));
        assert!(cover(&mut registrations, &card, piece(4)).is_none(), "all are in use");
        drop(others);
        assert!(cover(&mut registrations, &card, piece(4)).is_some());
        assert!(used.is_some() && is_open(0));
        // Of other memory as well, and first.
        assert!(cover(&mut registrations, &card, 64..128).is_some());
        assert!(cover(&mut registrations, &card, 256..300).is_some());
        assert!(!card.open.borrow().contains(&(64, 128)));
    }

    fn cover_landing<'c>(
        registrations: &mut Registrations<Region<'c>>,
        card: &'c Card,
        piece: Range<usize>,
    ) -> Option<Arc<Region<'c>>> {
        // The spare is of the same memory as another.
        let mut number = 0;
        registrations.cover_landing(piece, |range| {
            number += 1;
            card.register(range.start..range.end + number - 1)
        })
    }

    /// Else two ranks whose cards are full of places could both wait for the other's message.
    #[test]
    fn what_others_write_to_never_takes_the_last_region() {
        let buffers: Vec<KeptBuffer> = (0..3).map(|_| KeptBuffer::new(LONGEST)).collect();
        for most in 1..=5 {
            let card = Card { most, ..Card::default() };
            let mut registrations = Registrations::new(LONGEST);
            buffers.iter().for_each(|buffer| registrations.keep(buffer.kept()));
            let pieces = buffers.iter().map(|buffer| buffer.kept().addresses());
            let places: Vec<_> =
                pieces.map(|piece| cover_landing(&mut registrations, &card, piece)).collect();
            let given = places.iter().flatten().count();
            assert_eq!(given, (most - 1).min(3), "of {most}");
            for start in [64, 4096, 8192] {
                let sent = cover(&mut registrations, &card, start..start + LONGEST);
                assert!(sent.is_some(), "{most}: there is room to send from {start}");
            }
            drop(places);
        }
    }

    #[test]
    fn only_memory_that_stays_is_landed_in() {
        let card = Card { most: 9, ..Card::default() };
        let mut registrations = Registrations::new(LONGEST);
        let buffer = KeptBuffer::new(LONGEST);
        registrations.keep(buffer.kept());
        let Range { start, end } = buffer.kept().addresses();
        assert!(registrations.stays(&(start..end)) && !registrations.stays(&(start..end + 1)));
        assert!(cover_landing(&mut registrations, &card, start + 1..end + 1).is_none());
        assert_eq!(card.len(), 0);
        assert!(cover_landing(&mut registrations, &card, start + 1..end).is_some());
        drop(buffer);
        registrations.begin();
        assert_eq!(card.len(), 0, "the spare goes with its memory");
    }

    #[test]
    fn a_region_that_is_forgotten_goes_when_it_is_not_used_any_more() {
        let card = Card { most: 9, ..Card::default() };
        let mut registrations = Registrations::new(LONGEST);
        let buffer = KeptBuffer::new(LONGEST);
        registrations.keep(buffer.kept());
        let piece = buffer.kept().addresses();
        let one = cover(&mut registrations, &card, piece.clone()).unwrap();
        let other = Arc::clone(&one);
        registrations.forget(&one);
        drop(one);
        assert_eq!(card.len(), 1);
        drop(other);
        assert_eq!(card.len(), 0);
        assert!(cover(&mut registrations, &card, piece).is_some(), "there may be another");
    }

    #[test]
    fn a_card_that_takes_none_at_all_is_an_error() {
        let card = Card::default();
        let mut registrations = Registrations::new(LONGEST);
        let refused = registrations.cover(0..10, |range| card.register(range)).map(|_| ()).unwrap_err();
        assert!(is_full(&refused), "{refused}");
    }

    #[test]
    fn memory_of_a_buffer_that_is_gone_is_registered_anew_for_the_next_one_there() {
        let card = Card { most: 3, ..Card::default() };
        let mut registrations = Registrations::new(LONGEST);
        let mut made = 0;
        let mut places = HashSet::new();
        for _ in 0..50 {
            let buffer = KeptBuffer::new(LONGEST);
            registrations.keep(buffer.kept());
            places.insert(buffer.kept().addresses().start);
            let region = cover(&mut registrations, &card, buffer.kept().addresses());
            made += 1;
            assert_eq!(registrations.made(), made);
            drop(buffer);
            registrations.begin();
            assert_eq!(card.len(), 1, "a region in use stays");
            drop(region);
            registrations.begin();
            assert_eq!(card.len(), 0);
        }
        assert!(places.len() < 50, "the allocator uses memory again");
    }
}
