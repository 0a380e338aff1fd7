//! What the fuzz targets share: a watch over memory, and ways to cut input.
//!
//! A target is a program around libFuzzer: given bytes, it feeds them to code that reads what comes from outside, and
//! panics where the code breaks a promise. `targets/` has one file per target, `corpus/` a few inputs that each starts
//! from, `dictionaries/` the words of its language; `scripts/fuzz` builds and runs them. An input that was found to
//! break something becomes a test beside the code that it broke.

pub mod head;
pub mod pmi;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Runs code that may take so much memory at a time, and no more.
///
/// # Panics
///
/// When it took more.
pub fn within_bytes<T>(limit_bytes: usize, run: impl FnOnce() -> T) -> T {
    let before_bytes = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = run();
    let taken_bytes = MEMORY.peak_usage().saturating_sub(before_bytes);
    assert!(
        taken_bytes <= limit_bytes,
        "took {taken_bytes} bytes of memory, where {limit_bytes} are allowed"
    );
    result
}

/// Cuts bytes into parts whose lengths follow from `seed`, so that streams arrive in pieces of any size.
pub fn parts(bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    // A full period over all bytes, so that one seed gives short and long parts.
    let mut state = seed;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state = state.wrapping_mul(5).wrapping_add(113);
        let (part, remaining) = rest.split_at((usize::from(state >> 3) + 1).min(rest.len()));
        rest = remaining;
        Some(part)
    })
}

/// Splits input at its first byte: a number that chooses, and the rest. Input without bytes chooses 0.
pub fn choice(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(choice, rest)| (*choice, rest))
}

/// A file that is nowhere but in memory, and gone with this value.
#[derive(Debug)]
pub struct MemoryFile {
    /// Held to be closed: the path leads nowhere then.
    _file: File,
    path: PathBuf,
}

impl MemoryFile {
    /// Makes a file with this content.
    ///
    /// # Panics
    ///
    /// When the system has no memory or descriptor left.
    pub fn with(content: &[u8]) -> MemoryFile {
        let file = File::from(memfd_create(c"input", MFdFlags::MFD_CLOEXEC).expect("a file in memory"));
        let made = MemoryFile { path: format!("/proc/self/fd/{}", file.as_raw_fd()).into(), _file: file };
        made.append(content);
        made
    }

    /// Adds to its content.
    ///
    /// # Panics
    ///
    /// As [`MemoryFile::with`].
    pub fn append(&self, content: &[u8]) {
        let file = File::options().append(true).open(&self.path);
        file.and_then(|mut file| file.write_all(content)).expect("memory for a file");
    }

    /// Where it can be opened by this process.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_bytes_in_order_whatever_the_seed() {
        let bytes: Vec<u8> = (0..1000).map(|number| number as u8).collect();
        for seed in 0..=u8::MAX {
            assert_eq!(parts(&bytes, seed).collect::<Vec<_>>().concat(), bytes, "seed {seed}");
        }
        assert!(parts(&bytes, 1).any(|part| part.len() == 1) && parts(&bytes, 1).any(|part| part.len() > 20));
    }

    #[test]
    #[should_panic(expected = "where 1000 are allowed")]
    fn memory_beyond_the_limit_is_noticed_although_it_was_given_back() {
        within_bytes(1000, || drop(std::hint::black_box(vec![1u8; 2000])));
    }
}
