//! The counters of a device, for all processes of its host together, and the files that show them.
//!
//! Counting happens in a page that the processes of a host share through a file of the sysfs-shaped folder, so that
//! what a killed process counted is not lost. The files under `hw_counters`, and those under `manners`, are text, and follow within
//! [`INTERVAL`] while a process of the host has the device open.
//!
//! # Safety
//!
//! The page is as long as a page of memory, longer than the counters; it stays mapped for the life of the process,
//! and is only ever reached as atomics. Nobody shrinks the file: it is this library's own.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::mman::{MapFlags, ProtFlags, mmap};

use crate::nic::Counters;
use crate::nic::counters::{COUNTERS, NAMES};
use crate::sysfs;

/// A device's counters and where they are shown.
#[derive(Debug)]
pub struct Ledger {
    counters: &'static Counters,
    port: PathBuf,
    shown: [u64; COUNTERS],
    last_shown: Instant,
    is_down: bool,
}

impl Ledger {
    /// The counters of a device whose port has this folder, shared through this file.
    ///
    /// # Errors
    ///
    /// What the kernel says when the file cannot be made or mapped.
    pub fn open(page: &Path, port: PathBuf, now: Instant) -> io::Result<Ledger> {
        if let Some(parent) = page.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(page)?;
        file.set_len(PAGE_BYTES as u64)?;
        let counters = map(&file)?;
        Ok(Ledger { counters, port, shown: [0; COUNTERS], last_shown: now, is_down: false })
    }

    /// What the device counts with.
    pub fn counters(&self) -> &'static Counters {
        self.counters
    }

    /// When the files are next to be brought up to date; none while they are.
    pub fn next_due(&self) -> Option<Instant> {
        (self.counters.all() != self.shown).then(|| self.last_shown + INTERVAL)
    }

    /// Brings the files up to date when they are due.
    pub fn tick(&mut self, now: Instant) {
        if now.saturating_duration_since(self.last_shown) >= INTERVAL {
            self.show(now);
        }
    }

    /// Brings the files up to date. One that cannot be written stays as it is: it is only shown.
    pub fn show(&mut self, now: Instant) {
        self.last_shown = now;
        for ((name, value), shown) in NAMES.iter().zip(self.counters.all()).zip(&mut self.shown) {
            // Counters grow, so that a new text covers the old one, and no reader finds an empty file.
            if value != *shown
                && let Ok(mut file) = OpenOptions::new().write(true).open(self.port.join(name))
                && file.write_all(format!("{value}\n").as_bytes()).is_ok()
            {
                *shown = value;
            }
        }
    }

    /// Shows whether the port is down, and says whether that is new.
    pub fn show_state(&mut self, is_down: bool) -> bool {
        if std::mem::replace(&mut self.is_down, is_down) == is_down {
            return false;
        }
        let (state, phys_state) =
            if is_down { (sysfs::DOWN, sysfs::DISABLED) } else { (sysfs::ACTIVE, sysfs::LINK_UP) };
        for (name, text) in [("state", state), ("phys_state", phys_state)] {
            let _ = fs::write(self.port.join(name), format!("{text}\n"));
        }
        true
    }
}

fn map(file: &File) -> io::Result<&'static Counters> {
    let length = NonZeroUsize::new(PAGE_BYTES).expect("a page has a size");
    // SAFETY: a fresh shared mapping; it aliases no memory of Rust's.
    let page = unsafe {
        mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, file, 0)
    }?;
    // SAFETY: see the module: as long as a page, aligned to one, mapped for ever, atomics only.
    Ok(unsafe { page.cast::<Counters>().as_ref() })
}

/// How old what the files show may be.
pub const INTERVAL: Duration = Duration::from_millis(50);
const PAGE_BYTES: usize = 4096;
const _: () = assert!(size_of::<Counters>() <= PAGE_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nic::Counter;

    #[test]
    fn files_show_what_all_processes_counted() {
        let folder = tempfile::tempdir().unwrap();
        let port = folder.path().join("port");
        for name in NAMES {
            fs::create_dir_all(port.join(name).parent().unwrap()).unwrap();
            fs::write(port.join(name), "0\n").unwrap();
        }
        let now = Instant::now();
        let page = folder.path().join("page");
        let mut ours = Ledger::open(&page, port.clone(), now).unwrap();
        let theirs = Ledger::open(&page, port.clone(), now).unwrap();
        assert_eq!(ours.next_due(), None);
        ours.counters().add(Counter::TxBytes, 5);
        theirs.counters().add(Counter::TxBytes, 1000);
        assert_eq!(ours.next_due(), Some(now + INTERVAL));
        ours.tick(now);
        let shown = || fs::read_to_string(port.join("hw_counters/tx_bytes")).unwrap();
        assert_eq!(shown(), "0\n");
        ours.tick(now + INTERVAL);
        assert_eq!((shown().as_str(), ours.next_due()), ("1005\n", None));
    }

    #[test]
    fn state_of_the_port_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger =
            Ledger::open(&folder.path().join("page"), folder.path().to_owned(), Instant::now()).unwrap();
        assert!(ledger.show_state(true) && !ledger.show_state(true));
        assert_eq!(fs::read_to_string(folder.path().join("state")).unwrap(), "1: DOWN\n");
        assert!(ledger.show_state(false));
        assert_eq!(fs::read_to_string(folder.path().join("state")).unwrap(), "4: ACTIVE\n");
    }
}
