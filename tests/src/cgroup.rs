//! A cgroup whose processes may use only so much memory, so that the kernel's out-of-memory killer comes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Taken away when dropped.
#[derive(Debug)]
pub struct MemoryCgroup {
    folder: PathBuf,
}

impl MemoryCgroup {
    /// Makes one of version 1 or 2, whichever the machine has for memory.
    ///
    /// # Panics
    ///
    /// When it cannot be made, though [`MemoryCgroup::lack`] names nothing.
    pub fn new(limit_bytes: u64) -> MemoryCgroup {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("efarun-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (root, files) = hierarchy().expect("the test asked for it");
        let folder = root.join(name);
        fs::create_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let cgroup = MemoryCgroup { folder };
        for (file, value) in files {
            let path = cgroup.folder.join(file);
            let value = if value.is_empty() { limit_bytes.to_string() } else { (*value).to_owned() };
            // Swap is not counted on every machine; the first file is the limit itself.
            let written = fs::write(&path, value);
            assert!(written.is_ok() || *file != files[0].0, "{}: {written:?}", path.display());
        }
        cgroup
    }

    /// The file to which a process writes its id to be in it.
    pub fn entrance(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// What is missing here for one.
    pub(crate) fn lack() -> Option<String> {
        let Some((root, _)) = hierarchy() else {
            return Some("there are no memory cgroups to be made under /sys/fs/cgroup".to_owned());
        };
        let probe = root.join(format!("efarun-probe-{}", std::process::id()));
        let made = fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe));
        made.err().map(|error| format!("{}: {error}", root.display()))
    }
}

impl Drop for MemoryCgroup {
    fn drop(&mut self) {
        // Empty by now, or the test has failed already.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Where memory is limited, and what to write there: an empty value is the limit.
fn hierarchy() -> Option<(&'static Path, &'static [(&'static str, &'static str)])> {
    let (one, two) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
    if one.join("memory.limit_in_bytes").exists() {
        return Some((one, &[("memory.limit_in_bytes", ""), ("memory.memsw.limit_in_bytes", "")]));
    }
    let controllers = fs::read_to_string(two.join("cgroup.subtree_control")).ok()?;
    let has_memory = controllers.split_whitespace().any(|name| name == "memory");
    has_memory.then_some((two, &[("memory.max", ""), ("memory.swap.max", "0")]))
}
