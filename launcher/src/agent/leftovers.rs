//! What a job's MPI leaves in /dev/shm where its ranks did not end by themselves.
//!
//! MPICH has a file there for each node, and Open MPI 4 one for each rank, which ranks remove in MPI_Finalize. Open MPI's PMIx
//! server is told of the files and removes those of a rank that is killed, but not always where several are at once. Given
//! the names that a job had in PMI and in PMIx, and that none of its processes is left, [`remove`] removes what its ranks on
//! this node may have made: files of this user's that are named after a hash of such a name. The names are random, and two
//! jobs of one hash would have had one file between them before.
//!
//! It knows nothing of files that programs make by themselves.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Removes what a job with this name space of PMIx, and these of PMI, has left where ranks have their shared memory. Meant
/// for a time when none of its processes is left. What cannot be removed stays: it is in nobody's way.
pub(super) fn remove(pmix: &str, pmi: &[String]) {
    remove_from(Path::new(SHARED_MEMORY), pmix, pmi);
}

fn remove_from(folder: &Path, pmix: &str, pmi: &[String]) {
    let user = nix::unistd::geteuid().as_raw();
    let made = Made {
        by_open_mpi: format!("{user}.{:x}", open_mpi_number(pmix.as_bytes())),
        by_mpich: pmi.iter().map(|name| format!("{:x}", mpich_number(name.as_bytes()))).collect(),
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_ours = || entry.metadata().is_ok_and(|data| data.is_file() && data.uid() == user);
        if entry.file_name().to_str().is_some_and(|name| made.has(name)) && is_ours() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// How a job's files are named.
#[derive(Debug)]
struct Made {
    /// `vader_segment.HOST.USER.JOB.RANK`: user and job, in decimal and hexadecimal digits.
    by_open_mpi: String,
    /// `mpich_shm_JOB_NODE`: each job, in hexadecimal digits.
    by_mpich: Vec<String>,
}

impl Made {
    fn has(&self, name: &str) -> bool {
        let is_number = |text: &str| text.parse::<u32>().is_ok();
        if let Some(rest) = name.strip_prefix(OPEN_MPI) {
            let Some((front, rank)) = rest.rsplit_once('.') else { return false };
            // A host's name may have dots.
            let host = front.strip_suffix(&self.by_open_mpi).and_then(|front| front.strip_suffix('.'));
            return is_number(rank) && host.is_some_and(|host| !host.is_empty());
        }
        let Some(rest) = MPICH.iter().find_map(|prefix| name.strip_prefix(prefix)) else { return false };
        rest.split_once('_')
            .is_some_and(|(job, node)| is_number(node) && self.by_mpich.iter().any(|ours| ours == job))
    }
}

/// The number that Open MPI 4 makes of a name space which is not its own launcher's: Jenkins's one-at-a-time hash of the
/// bytes, the bit cleared by which it knows its own.
fn open_mpi_number(name: &[u8]) -> u32 {
    let mixed = name.iter().fold(0_u32, |hash, byte| {
        let hash = hash.wrapping_add(u32::from(*byte));
        let hash = hash.wrapping_add(hash << 10);
        hash ^ (hash >> 6)
    });
    let hash = mixed.wrapping_add(mixed << 3);
    let hash = hash ^ (hash >> 11);
    hash.wrapping_add(hash << 15) & !OWN_LAUNCHERS
}

/// The number that MPICH makes of a name: FNV-1a.
fn mpich_number(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

const SHARED_MEMORY: &str = "/dev/shm";
const OPEN_MPI: &str = "vader_segment.";
/// The second is that of releases after 5.0.
const MPICH: [&str; 2] = ["mpich_shm_", "mpich_vci_"];
const OWN_LAUNCHERS: u32 = 0x8000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_open_mpi_4_1_8_and_mpich_5_0_2() {
        assert_eq!(open_mpi_number(b"efarun-1a79d65286c1c7ad"), 0xf4c6_1a5c);
        assert_eq!(mpich_number(b"efarun-dced9886911dea6f-0"), 0x3ff9_3be2);
    }

    #[test]
    fn only_the_jobs_own_files_of_this_user_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let user = nix::unistd::geteuid().as_raw();
        let gone = [
            format!("vader_segment.h1.{user}.f4c61a5c.0"),
            format!("vader_segment.h1.cluster.example.{user}.f4c61a5c.17"),
            "mpich_shm_3ff93be2_0".to_owned(),
            "mpich_vci_3ff93be2_12".to_owned(),
        ];
        let kept = [
            format!("vader_segment.h1.{}.f4c61a5c.0", user + 1),
            format!("vader_segment.h1.1{user}.f4c61a5c.0"),
            format!("vader_segment.h1.{user}.f4c61a5d.0"),
            format!("vader_segment.h1.{user}.f4c61a5c.first"),
            format!("vader_segment.{user}.f4c61a5c.0"),
            format!("sm_segment.h1.{user}.f4c61a5c.0"),
            format!("my_vader_segment.h1.{user}.f4c61a5c.0"),
            "mpich_shm_3ff93be3_0".to_owned(),
            "mpich_shm_3ff93be2".to_owned(),
            "mpich_shm_3ff93be2_0_mine".to_owned(),
            "3ff93be2_0".to_owned(),
        ];
        for name in gone.iter().chain(&kept) {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let folder_of_that_name = folder.path().join(format!("vader_segment.h2.{user}.f4c61a5c.0"));
        fs::create_dir(&folder_of_that_name).unwrap();
        remove_from(folder.path(), "efarun-1a79d65286c1c7ad", &["efarun-dced9886911dea6f-0".to_owned()]);
        assert!(gone.iter().all(|name| !folder.path().join(name).exists()));
        assert!(kept.iter().all(|name| folder.path().join(name).exists()));
        assert!(folder_of_that_name.exists());
    }
}
