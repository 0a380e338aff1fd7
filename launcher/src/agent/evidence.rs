//! Why a rank may have failed, beside its status: the out-of-memory killer, a GPU's fault, the exception it recorded.
//!
//! [`Witness::start`] notes how things stand before ranks run; [`Witness::clues`] says what has been seen since, for a
//! rank that failed. Given by the kernel: the memory cgroup's counters, its log. Given by the rank: the file that
//! PyTorch's `record` writes to ([`super::error_file`]). All of it is read where it may be read; what may not (the log
//! often is root's alone) is left out. What a rank writes is untrusted: it is bounded, and text.
//!
//! It cannot tell which rank a GPU's fault belongs to where the log names no process: every rank of the node that fails
//! after it has it as a clue.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use efarun_wire::message::{Clue, RankStatus};

/// What is watched beside the ranks of this node.
#[derive(Debug)]
pub(super) struct Witness {
    /// The cgroup's file with a line `oom_kill N`.
    events: Option<PathBuf>,
    oom_kills: u64,
    log: Option<File>,
    /// Lines of the kernel's log since the start that may matter.
    seen: Vec<String>,
}

impl Witness {
    /// Notes how things stand now.
    pub(super) fn start() -> Witness {
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
        Witness::of(events_file(Path::new("/sys/fs/cgroup"), &membership), log.ok())
    }

    fn of(events: Option<PathBuf>, log: Option<File>) -> Witness {
        // What is in the log already is none of this job's.
        let at_end = |mut log: File| log.seek(SeekFrom::End(0)).is_ok().then_some(log);
        let mut witness = Witness { events, oom_kills: 0, log: log.and_then(at_end), seen: Vec::new() };
        witness.oom_kills = witness.count_oom_kills();
        witness
    }

    /// Says what speaks for a cause of this rank's end. Nothing, for one that ended well.
    pub(super) fn clues(&mut self, pid: i32, status: RankStatus) -> Vec<Clue> {
        if status == RankStatus::Code(0) {
            return Vec::new();
        }
        self.read_log();
        let mut clues = Vec::new();
        if matches!(status, RankStatus::Signal { number: libc::SIGKILL, .. } | RankStatus::Code(137)) {
            clues.extend(self.out_of_memory(pid));
        }
        let faults = self.seen.iter().filter_map(|line| Xid::parse(line)).filter(|xid| xid.may_be_of(pid));
        clues.extend(faults.map(|xid| Clue::GpuFault(xid.sentence())));
        clues.truncate(MAX_CLUES);
        clues
    }

    fn out_of_memory(&self, pid: i32) -> Option<Clue> {
        let killed = format!("Killed process {pid} (");
        if let Some(line) = self.seen.iter().find(|line| line.contains(&killed)) {
            return Some(Clue::OutOfMemory(format!("the kernel's log says: {line}")));
        }
        let kills = self.count_oom_kills().saturating_sub(self.oom_kills);
        let events = self.events.as_ref()?;
        (kills > 0).then(|| {
            Clue::OutOfMemory(format!(
                "the out-of-memory killer ended {kills} {} of the ranks' cgroup since they started ({})",
                if kills == 1 { "process" } else { "processes" },
                events.display()
            ))
        })
    }

    fn count_oom_kills(&self) -> u64 {
        let text =
            self.events.as_ref().and_then(|events| fs::read_to_string(events).ok()).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        count.unwrap_or(0)
    }

    /// Takes in what is new in the log; one record per read.
    fn read_log(&mut self) {
        let Some(log) = &mut self.log else { return };
        let mut record = [0; 8 << 10];
        loop {
            match log.read(&mut record) {
                Ok(0) => return,
                Ok(len) => {
                    let text = String::from_utf8_lossy(&record[..len]);
                    let lines = text.lines().map(message).filter(|line| matters(line));
                    self.seen.extend(lines.map(str::to_owned).take(MAX_LOG_LINES - self.seen.len()));
                }
                // Records were overwritten before they were read; the next read has the oldest that is there.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

/// A record of /dev/kmsg without its head: `6,1234,5678,-;text`.
fn message(record: &str) -> &str {
    record.split_once(';').map_or(record, |(_, text)| text).trim_end()
}

fn matters(line: &str) -> bool {
    (line.contains("ut of memory") && line.contains("Killed process")) || line.contains("NVRM: Xid")
}

/// A fault of a GPU as NVIDIA's driver logs it: `NVRM: Xid (PCI:0000:10:1c): 79, pid=123, name=python, GPU has …`.
#[derive(Debug, PartialEq, Eq)]
struct Xid<'a> {
    number: u32,
    gpu: &'a str,
    pid: Option<i32>,
    line: &'a str,
}

impl Xid<'_> {
    fn parse(line: &str) -> Option<Xid<'_>> {
        let (_, rest) = line.split_once("NVRM: Xid (")?;
        let (gpu, rest) = rest.split_once("): ")?;
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        let pid = rest.split_once("pid=").map(|(_, pid)| pid.trim_start_matches('\''));
        let pid = pid.and_then(|pid| pid.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
        Some(Xid { number: digits.parse().ok()?, gpu: gpu.trim_start_matches("PCI:"), pid, line })
    }

    /// A log that names another process may mean one that the rank has started, or the rank by another namespace's id.
    fn may_be_of(&self, pid: i32) -> bool {
        self.pid.is_none_or(|named| named == pid || !Path::new(&format!("/proc/{named}")).exists())
    }

    fn sentence(&self) -> String {
        let meaning = XIDS.iter().find(|(numbers, _)| numbers.contains(&self.number));
        let meaning = meaning.map_or(String::new(), |(_, meaning)| format!(" ({meaning})"));
        format!("Xid {}{meaning} of GPU {}: {}", self.number, self.gpu, self.line)
    }
}

/// The file in which the cgroup of this process counts what the out-of-memory killer ended, by /proc/self/cgroup.
fn events_file(root: &Path, membership: &str) -> Option<PathBuf> {
    let found = membership.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some(root.join(path).join("memory.events")),
            _ if controllers.split(',').any(|name| name == "memory") => {
                Some(root.join("memory").join(path).join("memory.oom_control"))
            }
            _ => None,
        }
    });
    // Within a container the path is the host's, and the container's own cgroup is mounted at the root.
    let containers = [root.join("memory.events"), root.join("memory/memory.oom_control")];
    found.chain(containers).find(|file| file.is_file())
}

/// After NVIDIA's "XID Errors".
const XIDS: &[(&[u32], &str)] = &[
    (&[13], "an illegal access or instruction in a kernel of the program's"),
    (&[31], "an access to memory that is not mapped, by a kernel of the program's"),
    (&[43, 45], "the driver ended the program's work, after an earlier fault"),
    (&[48], "an uncorrectable memory error"),
    (&[63, 64], "a row of memory is to be remapped: reset the GPU"),
    (&[74], "an NVLink error"),
    (&[79], "the GPU has fallen off the bus"),
    (&[94, 95], "an uncorrectable memory error"),
    (&[119, 120], "the GPU's system processor does not answer"),
];

const MAX_LOG_LINES: usize = 64;
const MAX_CLUES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const KILLED: RankStatus = RankStatus::Signal { number: 9, core: false };

    #[test]
    fn kill_of_the_cgroup_is_a_clue_for_a_killed_rank_alone() {
        let folder = tempfile::tempdir().unwrap();
        let events = folder.path().join("memory.events");
        fs::write(&events, "low 0\noom 3\noom_kill 3\noom_group_kill 0\n").unwrap();
        let mut witness = Witness::of(Some(events.clone()), None);
        assert_eq!(witness.clues(77, KILLED), []);
        fs::write(&events, "low 0\noom 4\noom_kill 4\n").unwrap();
        assert_eq!(witness.clues(77, RankStatus::Code(1)), []);
        let clues = witness.clues(77, KILLED);
        assert!(
            matches!(&clues[..], [Clue::OutOfMemory(text)] if text.contains("ended 1 process of")),
            "{clues:?}"
        );
    }

    #[test]
    fn kill_in_the_kernels_log_is_a_clue_by_the_process_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kmsg");
        fs::write(&path, "6,1,1,-;Out of memory: Killed process 77 (old) total-vm:1kB\n").unwrap();
        let mut witness = Witness::of(None, Some(File::open(&path).unwrap()));
        assert_eq!(witness.clues(77, KILLED), [], "it was there before");
        let new = "6,1,1,-;usb 1-1: new\n3,2,2,-;Memory cgroup out of memory: Killed process 78 (train) anon-rss:9kB\n";
        let old = fs::read_to_string(&path).unwrap();
        fs::write(&path, old + new).unwrap();
        let said =
            "the kernel's log says: Memory cgroup out of memory: Killed process 78 (train) anon-rss:9kB";
        assert_eq!(witness.clues(78, KILLED), [Clue::OutOfMemory(said.to_owned())]);
        assert_eq!(witness.clues(79, KILLED), []);
    }

    #[test]
    fn faults_of_gpus_are_told_with_their_meaning() {
        let line =
            "NVRM: Xid (PCI:0000:10:1c): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.";
        let xid = Xid::parse(line).unwrap();
        assert_eq!((xid.number, xid.gpu, xid.pid), (79, "0000:10:1c", None));
        assert!(
            xid.sentence().starts_with("Xid 79 (the GPU has fallen off the bus) of GPU 0000:10:1c: NVRM")
        );
        let own = i32::try_from(std::process::id()).unwrap();
        let line = format!("NVRM: Xid (PCI:0000:10:1c): 31, pid={own}, name=python, Ch 00000008");
        let xid = Xid::parse(&line).unwrap();
        assert!(xid.may_be_of(own) && !xid.may_be_of(own + 1), "{xid:?}");
    }

    #[test]
    fn cgroups_of_both_versions_and_of_containers_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for file in ["a/b/memory.events", "memory/c/memory.oom_control", "memory.events"] {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), "").unwrap();
        }
        assert_eq!(events_file(root, "0::/a/b\n"), Some(root.join("a/b/memory.events")));
        assert_eq!(events_file(root, "4:memory:/c\n0::/\n"), Some(root.join("memory/c/memory.oom_control")));
        assert_eq!(events_file(root, "0::/hosts/own/path\n"), Some(root.join("memory.events")));
    }
}
