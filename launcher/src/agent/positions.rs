//! Which operation the node's ranks have come to, read from the pages that they offer.
//!
//! What a rank offers is untrusted: a page is opened for reading only, read as a file, never mapped, and says nothing
//! unless it is a file of the right length that begins with the offer's token. A rank that lies here lies to the ranks of
//! its own job.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use efarun_wire::Rank;
use efarun_wire::position::{PAGE_BYTES, PageOffer, Position, Positions, position};

/// The pages of a node's ranks.
#[derive(Debug)]
pub(super) struct Pages {
    /// None for a rank that has offered none that can be read.
    of_ranks: BTreeMap<Rank, Option<(PageOffer, File)>>,
}

impl Pages {
    /// No pages yet of these ranks.
    pub(super) fn new(ranks: impl IntoIterator<Item = Rank>) -> Self {
        Pages { of_ranks: ranks.into_iter().map(|rank| (rank, None)).collect() }
    }

    /// Takes what a rank offers, if it is a page. It is read for as long as the agent lives, whatever becomes of the rank.
    pub(super) fn offered(&mut self, rank: Rank, offer: PageOffer) {
        if let Some(page) = self.of_ranks.get_mut(&rank) {
            *page = open(&offer).map(|file| (offer, file));
        }
    }

    /// How far every rank of the node has come in a World.
    pub(super) fn positions(&self, world: u32) -> Positions {
        let of_rank = |page: &Option<(PageOffer, File)>| {
            let (offer, file) = page.as_ref()?;
            steady(|| read(file).and_then(|bytes| position(&bytes, offer, world)))
        };
        Positions(self.of_ranks.iter().map(|(rank, page)| (*rank, of_rank(page))).collect())
    }
}

fn open(offer: &PageOffer) -> Option<File> {
    let path = format!("/proc/{}/fd/{}", offer.pid, offer.fd);
    // What is behind the path is whatever the rank put there: opening must neither wait nor adopt a terminal.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    (metadata.is_file() && metadata.size() == PAGE_BYTES as u64).then_some(file)
}

fn read(file: &File) -> Option<[u8; PAGE_BYTES]> {
    let mut page = [0; PAGE_BYTES];
    file.read_exact_at(&mut page, 0).ok().map(|()| page)
}

/// What two readings in a row say; none where every one of several differs from the one before.
fn steady(mut read: impl FnMut() -> Option<Position>) -> Option<Position> {
    let mut before = read()?;
    for _ in 0..READINGS {
        let now = read()?;
        if now == before {
            return Some(now);
        }
        before = now;
    }
    None
}

const READINGS: usize = 8;

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use efarun_wire::position::{ENTRIES_OFFSET, TOKEN_BYTES};

    use super::*;

    /// A rank's page after 41 operations in World 0.
    fn page() -> (File, PageOffer) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(PAGE_BYTES as u64).unwrap();
        file.write_all_at(&[3; TOKEN_BYTES], 0).unwrap();
        let words = [1u64, 41, 6, 7].map(u64::to_ne_bytes).concat();
        file.write_all_at(&words, ENTRIES_OFFSET as u64).unwrap();
        let offer = PageOffer {
            pid: std::process::id(),
            fd: file.as_raw_fd().unsigned_abs(),
            token: [3; TOKEN_BYTES],
        };
        (file, offer)
    }

    #[test]
    fn a_page_says_how_far_its_rank_has_come_and_ranks_without_one_are_named_too() {
        let (file, offer) = page();
        let mut pages = Pages::new([Rank(4), Rank(5)]);
        pages.offered(Rank(5), offer);
        let at = |begun, signature| (Rank(5), Some(Position { begun, signature }));
        assert_eq!(pages.positions(0), Positions(vec![(Rank(4), None), at(41, 7)]));
        file.write_all_at(&42u64.to_ne_bytes(), ENTRIES_OFFSET as u64 + 8).unwrap();
        // As when its process has ended.
        drop(file);
        assert_eq!(pages.positions(0), Positions(vec![(Rank(4), None), at(42, 6)]));
        assert_eq!(pages.positions(1), Positions(vec![(Rank(4), None), (Rank(5), None)]));
    }

    #[test]
    fn what_is_no_page_of_the_offer_says_nothing() {
        let (file, offer) = page();
        let short = tempfile::tempfile().unwrap();
        let offers = [
            PageOffer { token: [4; TOKEN_BYTES], ..offer.clone() },
            PageOffer { fd: short.as_raw_fd().unsigned_abs(), ..offer.clone() },
            PageOffer { fd: u32::MAX, ..offer.clone() },
            PageOffer { pid: u32::MAX, ..offer.clone() },
        ];
        for wrong in offers {
            let mut pages = Pages::new([Rank(0)]);
            pages.offered(Rank(0), offer.clone());
            pages.offered(Rank(0), wrong.clone());
            pages.offered(Rank(9), offer.clone());
            assert_eq!(pages.positions(0), Positions(vec![(Rank(0), None)]), "{wrong:?}");
        }
        drop(file);
    }
}
