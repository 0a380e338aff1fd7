//! How many buffers the timed calls use in turn.
//!
//! Pure but for [`last_level_cache_bytes`]. A benchmark that calls with one buffer again and again measures the cache;
//! a program seldom does.

use std::fs;
use std::path::Path;

/// The rule by which a size gets its number of buffers, called windows since they lie in one piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// As many as fit the buffer of the largest size: nccl-tests' rule.
    WithinLargest,
    /// So many at every size.
    Count(usize),
    /// As many as have these bytes together.
    Exceed {
        /// Twice the last-level cache.
        bytes: u64,
    },
}

impl Rotation {
    /// How many windows a size has, of which each takes `window_bytes`, in a run whose largest takes `largest_bytes`.
    pub(crate) fn windows(self, window_bytes: u64, largest_bytes: u64) -> usize {
        let window_bytes = window_bytes.max(1);
        match self {
            Rotation::WithinLargest => (largest_bytes / window_bytes).max(1) as usize,
            Rotation::Count(count) => count,
            Rotation::Exceed { bytes } => (bytes / window_bytes + 1) as usize,
        }
    }
}

/// The size of this node's last-level cache, as the kernel says it.
pub(crate) fn last_level_cache_bytes() -> Option<u64> {
    last_level(Path::new("/sys/devices/system/cpu/cpu0/cache"))
}

fn last_level(folder: &Path) -> Option<u64> {
    let read = |entry: &Path, name: &str| fs::read_to_string(entry.join(name)).ok();
    let caches = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let level: u32 = read(&entry.path(), "level")?.trim().parse().ok()?;
        Some((level, size_bytes(read(&entry.path(), "size")?.trim())?))
    });
    caches.max().map(|(_, bytes)| bytes)
}

/// The kernel writes `32768K`.
fn size_bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix('M').map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_fill_the_largest_size_unless_told_otherwise() {
        assert_eq!(Rotation::WithinLargest.windows(8, 64), 8);
        assert_eq!(Rotation::WithinLargest.windows(64, 64), 1);
        assert_eq!(Rotation::WithinLargest.windows(100, 64), 1);
        assert_eq!(Rotation::Count(3).windows(8, 64), 3);
    }

    #[test]
    fn windows_together_exceed_what_they_are_to_exceed() {
        for window_bytes in [1, 8, 1000, 1 << 20, 1 << 30] {
            let windows = Rotation::Exceed { bytes: 64 << 20 }.windows(window_bytes, 1 << 30);
            assert!(windows as u64 * window_bytes > 64 << 20, "{window_bytes}");
        }
        assert_eq!(Rotation::Exceed { bytes: 64 << 20 }.windows(1 << 30, 1 << 30), 1);
    }

    #[test]
    fn cache_of_the_highest_level_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        for (index, level, size) in
            [("index0", "1\n", "32K\n"), ("index3", "3\n", "32768K\n"), ("index2", "2\n", "1M\n")]
        {
            let cache = folder.path().join(index);
            fs::create_dir(&cache).unwrap();
            fs::write(cache.join("level"), level).unwrap();
            fs::write(cache.join("size"), size).unwrap();
        }
        fs::write(folder.path().join("uevent"), "").unwrap();
        assert_eq!(last_level(folder.path()), Some(32 << 20));
        assert_eq!(last_level(&folder.path().join("none")), None);
    }
}
