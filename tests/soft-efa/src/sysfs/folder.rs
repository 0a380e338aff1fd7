//! Writing the folder, sharing it, and taking it away.
//!
//! Processes of a host with the same devices share a folder. One that a user has named stays; one under /tmp is taken
//! away by the last process that leaves it, and what killed processes left behind by the next one that comes. Who uses a
//! folder holds a shared lock on a file in it, which ends with the process, however that ends.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use super::tree::{Entry, tree};
use crate::settings::Settings;

/// The folder, in use by this process.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Of a folder that is taken away by its last user.
    lock: Option<Flock<File>>,
    /// The process that uses it: a child of it only inherits the lock.
    user: u32,
}

/// A tree that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the folder that looks like /sys, {path}: {cause}; SOFTEFA_SYSFS names another")]
pub struct SysfsError {
    path: PathBuf,
    cause: io::Error,
}

impl Folder {
    /// Makes the folder if it is not there, and points the provider to it by SYSFS_PATH.
    ///
    /// # Errors
    ///
    /// [`SysfsError`] when it cannot be written.
    pub fn prepare(settings: &Settings, host: Ipv4Addr) -> Result<Folder, SysfsError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let entries = tree(settings.profile, host, settings.nics, processors);
        let folder = match &settings.sysfs {
            Some(path) => Folder::kept(path, &entries),
            None => {
                let parent = std::env::temp_dir().join(format!("soft-efa-{}", nix::unistd::getuid()));
                sweep(&parent);
                let devices = format!("{}-{}", settings.profile.name, settings.nics);
                Folder::shared(&parent.join(format!("{}-{host}-{devices}", settings.fabric)), &entries)
            }
        }?;
        point_to(&folder.path);
        Ok(folder)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it, and takes it away if nobody else uses it.
    pub fn leave(&self) {
        if let Some(lock) = self.lock.as_ref().filter(|_| self.user == std::process::id()) {
            // Who is refused is not the last.
            if lock.relock(FlockArg::LockExclusiveNonblock).is_ok() {
                take_away(&self.path, lock);
            }
        }
    }

    fn kept(path: &Path, entries: &[Entry]) -> Result<Folder, SysfsError> {
        let failed = |cause| SysfsError { path: path.to_owned(), cause };
        write(path, entries).map_err(failed)?;
        Ok(Folder { path: path.to_owned(), lock: None, user: std::process::id() })
    }

    fn shared(path: &Path, entries: &[Entry]) -> Result<Folder, SysfsError> {
        let mut result = Err(io::ErrorKind::TimedOut.into());
        // Somebody may take it away between its being there and our lock; hardly ever twice.
        for _ in 0..TRIES {
            result = write(path, entries).and_then(|()| lock(path));
            match &result {
                Ok(Some(_)) => break,
                Err(error) if error.kind() != io::ErrorKind::NotFound => break,
                _ => {}
            }
        }
        let failed = |cause| SysfsError { path: path.to_owned(), cause };
        let lock = result.map_err(failed)?;
        Ok(Folder { path: path.to_owned(), lock, user: std::process::id() })
    }
}

/// Uses a folder that is there; none when it was taken away meanwhile.
fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let file = File::open(path.join(LOCK))?;
    let lock = Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| errno)?;
    Ok(is_in(path, &lock).then_some(lock))
}

/// Takes a folder away that nobody else uses, as its lock is ours alone.
fn take_away(path: &Path, lock: &Flock<File>) {
    if is_in(path, lock) {
        // By its name first, so that nobody finds half of it.
        let gone = aside(path.parent().unwrap_or(Path::new("/")));
        if fs::rename(path, &gone).is_ok() {
            // What cannot be removed now is swept later.
            let _ = fs::remove_dir_all(gone);
        }
    }
}

/// Whether the lock is that of the folder that has this path now.
fn is_in(path: &Path, file: &File) -> bool {
    let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let now = fs::metadata(path.join(LOCK)).map(place);
    file.metadata().map(place).is_ok_and(|ours| now.is_ok_and(|now| now == ours))
}

/// Takes away what processes left that were killed.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_aside = entry.file_name().to_string_lossy().starts_with(ASIDE);
        if is_aside {
            if is_old(&path) {
                let _ = fs::remove_dir_all(&path);
            }
        } else if let Ok(file) = open_or_make(&path.join(LOCK))
            && let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock)
        {
            take_away(&path, &lock);
        }
    }
}

/// Folders have their lock from the beginning; one without it lost it to who cleans /tmp, and would never be usable again.
fn open_or_make(lock: &Path) -> io::Result<File> {
    File::options().read(true).append(true).create(true).open(lock)
}

fn is_old(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > ASIDE_FOR_LONG))
}

/// A name beside the folders, for one that is half written or half gone.
fn aside(parent: &Path) -> PathBuf {
    parent.join(format!("{ASIDE}{}-{}", std::process::id(), fastrand::u64(..)))
}

/// A new folder beside the folders. Processes of two PID namespaces may well have one id, and, when they began in the same
/// few nanoseconds, one sequence of random numbers: so names are taken by making the folder.
fn new_aside(parent: &Path) -> io::Result<PathBuf> {
    loop {
        let path = aside(parent);
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| path),
        }
    }
}

/// The provider asks the environment where /sys is.
#[expect(unsafe_code, reason = "changes the environment")]
fn point_to(root: &Path) {
    // SAFETY: called once, under the lock of the process's devices, by the first call that looks for them. A program
    // that at that very moment changes its environment in another thread has a race of its own: the provider,
    // too, reads it then.
    unsafe { std::env::set_var("SYSFS_PATH", root) };
}

/// Writes the tree, beside its place first, so that nobody sees half of it. One that is there is left as it is.
fn write(root: &Path, entries: &[Entry]) -> io::Result<()> {
    if root.join("class").exists() {
        return Ok(());
    }
    let parent = root.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let draft = new_aside(parent)?;
    let written = write_all(&draft, entries).and_then(|()| {
        // An empty folder may be there already; one with something in it is another process's, finished before ours.
        match fs::rename(&draft, root) {
            Err(_) if root.join("class").exists() => Ok(()),
            result => result,
        }
    });
    let _ = fs::remove_dir_all(&draft);
    written
}

fn write_all(root: &Path, entries: &[Entry]) -> io::Result<()> {
    fs::File::create(root.join(LOCK))?;
    for entry in entries {
        let (Entry::File(path, _) | Entry::Link(path, _)) = entry;
        if let Some(parent) = root.join(path).parent() {
            fs::create_dir_all(parent)?;
        }
        match entry {
            Entry::File(path, content) => fs::File::create(root.join(path))?.write_all(content.as_bytes())?,
            Entry::Link(path, target) => {
                let up = path.components().count() - 1;
                let relative: PathBuf = std::iter::repeat_n("..", up).collect::<PathBuf>().join(target);
                std::os::unix::fs::symlink(relative, root.join(path))?;
            }
        }
    }
    Ok(())
}

/// The file that users of a folder lock.
const LOCK: &str = ".lock";
const ASIDE: &str = ".aside-";
const ASIDE_FOR_LONG: Duration = Duration::from_secs(600);
const TRIES: usize = 100;

#[cfg(test)]
mod tests {
    use super::super::{Entry, tree};
    use super::*;
    use crate::nic::counters;
    use crate::profile::P4D;

    #[test]
    fn links_lead_to_places_of_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("sys");
        write(&root, &tree(&P4D, Ipv4Addr::new(10, 88, 0, 1), 4, 2)).unwrap();
        let device = root.join("class/infiniband/rdmap160s27");
        let place = fs::canonicalize(device.join("device")).unwrap();
        assert_eq!(place.file_name().unwrap(), "0000:a0:1b.0");
        assert_eq!(fs::canonicalize(place.join("driver")).unwrap().file_name().unwrap(), "efa");
        assert_eq!(fs::read_to_string(device.join("ports/1/state")).unwrap(), "4: ACTIVE\n");
        assert_eq!(
            fs::read_to_string(device.join("ports/1/gids/0")).unwrap(),
            "fe80:0000:0000:0000:0003:0aff:fe58:0001\n"
        );
        assert_eq!(
            fs::read_to_string(root.join("class/infiniband_verbs/uverbs3/ibdev")).unwrap(),
            "rdmap160s27\n"
        );
        assert_eq!(fs::read_dir(device.join("ports/1/hw_counters")).unwrap().count(), counters::OF_DRIVER);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn tree_that_is_there_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("sys");
        write(&root, &tree(&P4D, Ipv4Addr::LOCALHOST, 1, 2)).unwrap();
        let file = root.join("class/infiniband_verbs/abi_version");
        fs::write(&file, "7\n").unwrap();
        write(&root, &tree(&P4D, Ipv4Addr::LOCALHOST, 1, 2)).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "7\n");
    }

    fn entries() -> Vec<Entry> {
        tree(&P4D, Ipv4Addr::LOCALHOST, 1, 2)
    }

    #[test]
    fn last_user_takes_the_folder_away() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("devices");
        let (first, second) = (Folder::shared(&path, &entries()), Folder::shared(&path, &entries()));
        first.unwrap().leave();
        assert!(path.join("class").exists(), "the second uses it");
        second.unwrap().leave();
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn folder_that_a_user_named_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("devices");
        Folder::kept(&path, &entries()).unwrap().leave();
        assert!(path.join("class").exists());
    }

    #[test]
    fn what_killed_processes_left_is_swept_and_what_is_in_use_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let (left, used) = (parent.path().join("left"), parent.path().join("used"));
        // Locks end with their process, as they do with this handle.
        drop(Folder::shared(&left, &entries()).unwrap());
        let user = Folder::shared(&used, &entries()).unwrap();
        sweep(parent.path());
        assert!(!left.exists() && used.join("class").exists());
        drop(user);
    }

    #[test]
    fn processes_that_draw_the_same_numbers_do_not_disturb_each_other() {
        let parent = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let begin = std::sync::Barrier::new(2);
            let prepare = &|host| {
                // Numbers are each thread's own, and the id is that of both.
                fastrand::seed(round);
                begin.wait();
                Folder::shared(&parent.path().join(format!("{round}-{host}")), &entries()).unwrap()
            };
            std::thread::scope(|scope| {
                let folders = [0, 1].map(|host| scope.spawn(move || prepare(host)));
                folders.into_iter().for_each(|folder| folder.join().unwrap().leave());
            });
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn folder_that_lost_its_lock_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("devices");
        drop(Folder::shared(&path, &entries()).unwrap());
        fs::remove_file(path.join(LOCK)).unwrap();
        assert!(Folder::shared(&path, &entries()).is_err(), "nobody can use it");
        sweep(parent.path());
        Folder::shared(&path, &entries()).unwrap();
    }

    #[test]
    fn child_that_inherits_the_lock_leaves_the_folder_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("devices");
        let mut folder = Folder::shared(&path, &entries()).unwrap();
        folder.user += 1;
        folder.leave();
        assert!(path.join("class").exists());
    }
}
