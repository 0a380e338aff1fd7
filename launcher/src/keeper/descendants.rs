//! Which processes descend from this one, and how one of them is signalled without ever hitting another.
//!
//! Descendants are found by walking the parent links of /proc. With this process a subreaper that finds whatever a
//! rank left behind: a grandchild whose parent is gone becomes our child, a session of its own changes no parent
//! link. A walk is a snapshot: who must be sure repeats it until the kernel says that there are no children.

use std::collections::HashMap;
use std::fs;
use std::io;

use nix::errno::Errno;

use super::sys;

/// A process as /proc shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    /// When it started, in the kernel's ticks: with the id it names the process for good.
    pub(crate) start_ticks: u64,
    /// `R`, `S`, `D`, `Z`, …
    pub(crate) state: char,
    /// Its first thread is past its last instruction. The kernel sets this before it closes the thread's files.
    is_exiting: bool,
    pub(crate) name: String,
}

impl Process {
    /// Reads one process. `None` when it is gone.
    pub(crate) fn read(pid: i32) -> Option<Process> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Process::parse(&String::from_utf8_lossy(&stat))
    }

    /// Parses /proc/PID/stat. The name is in brackets and may itself have brackets, spaces and line ends.
    fn parse(stat: &str) -> Option<Process> {
        let (pid, rest) = stat.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<i64>().ok();
        Some(Process {
            pid: pid.parse().ok()?,
            parent: i32::try_from(number(1)?).ok()?,
            group: i32::try_from(number(2)?).ok()?,
            start_ticks: u64::try_from(number(START_TIME_FIELD)?).ok()?,
            state: fields.first()?.chars().next()?,
            is_exiting: number(FLAGS_FIELD)? & PF_EXITING != 0,
            name: name.to_owned(),
        })
    }

    /// Whether its first thread has ended: all of it waits to be reaped, or other threads go on.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Sends a signal to this very process. Does nothing when it is gone: after opening it, the id is looked at
    /// again, so that a process that got the same id in between is left alone.
    pub(crate) fn signal(&self, numbers: &[i32]) {
        match sys::pidfd_open(self.pid) {
            Ok(pidfd) if self.is_still_there() => {
                for &number in numbers {
                    // It may end at any time, which is what is wanted.
                    let _ = sys::pidfd_send_signal(&pidfd, number);
                }
            }
            // Kernels before 5.3: the time between the second look and the signal is all that is left to chance.
            Err(error) if error.raw_os_error() == Some(Errno::ENOSYS as i32) && self.is_still_there() => {
                for &number in numbers {
                    sys::signal_child(self.pid, number);
                }
            }
            _ => {}
        }
    }

    fn is_still_there(&self) -> bool {
        Process::read(self.pid).is_some_and(|now| now.start_ticks == self.start_ticks)
    }
}

/// Whether a process is ending or gone: nobody who has seen one of its sockets close is told here that it runs. True also of
/// one whose first thread alone has ended.
pub(crate) fn is_ending(pid: i32) -> bool {
    Process::read(pid).is_none_or(|process| process.is_zombie() || process.is_exiting)
}

/// Reads all descendants of this process, parents before children.
///
/// # Errors
///
/// When /proc cannot be listed.
pub(crate) fn all() -> io::Result<Vec<Process>> {
    let own_pid = nix::unistd::getpid().as_raw();
    let mut running = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        if let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) {
            running.extend(Process::read(pid));
        }
    }
    Ok(descendants_of(own_pid, running))
}

/// Picks the descendants of `ancestor` out of all processes, parents before children.
fn descendants_of(ancestor: i32, all: Vec<Process>) -> Vec<Process> {
    let mut by_parent: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all {
        by_parent.entry(process.parent).or_default().push(process);
    }
    let mut found = by_parent.remove(&ancestor).unwrap_or_default();
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        // Removing what was visited keeps a snapshot with a circle in it, which reused ids can make, from looping.
        let children = by_parent.remove(&parent.pid).unwrap_or_default();
        found.extend(children);
        next += 1;
    }
    found
}

/// Counted from the state, which is field 3 of proc_pid_stat(5): the start time is field 22.
const START_TIME_FIELD: usize = 19;
/// Field 9, bits of include/linux/sched.h.
const FLAGS_FIELD: usize = 6;
const PF_EXITING: i64 = 0x4;

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32) -> Process {
        Process {
            pid,
            parent,
            group: pid,
            start_ticks: 0,
            state: 'S',
            is_exiting: false,
            name: format!("p{pid}"),
        }
    }

    fn pids(found: Vec<Process>) -> Vec<i32> {
        found.into_iter().map(|process| process.pid).collect()
    }

    #[test]
    fn grandchildren_are_found_and_strangers_are_not() {
        let all = vec![process(30, 20), process(10, 1), process(20, 10), process(21, 10), process(40, 2)];
        assert_eq!(pids(descendants_of(10, all)), [20, 21, 30]);
    }

    #[test]
    fn a_circle_in_the_snapshot_ends() {
        let all = vec![process(20, 10), process(30, 20), process(20, 30), process(10, 30)];
        assert_eq!(pids(descendants_of(10, all)), [20, 30, 20, 10]);
    }

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "77 (a) Z 1 (b) S 5 6 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        let parsed = Process::parse(stat).unwrap();
        assert_eq!((parsed.pid, parsed.parent, parsed.group), (77, 5, 6));
        assert_eq!((parsed.state, parsed.start_ticks, parsed.name.as_str()), ('S', 12345, "a) Z 1 (b"));
        assert!(!parsed.is_exiting);
        assert!(Process::parse(&stat.replace(" -1 0 ", " -1 4194564 ")).unwrap().is_exiting);
    }

    #[test]
    fn a_process_that_has_ended_is_ending_reaped_or_not() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(!is_ending(pid));
        drop(child.stdin.take());
        let id = nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(pid));
        let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
        nix::sys::wait::waitid(id, flags).unwrap();
        assert!(is_ending(pid));
        child.wait().unwrap();
        assert!(is_ending(pid));
    }

    #[test]
    fn this_process_reads_itself() {
        let own_pid = nix::unistd::getpid().as_raw();
        let read = Process::read(own_pid).unwrap();
        assert_eq!(read.parent, nix::unistd::getppid().as_raw());
        assert!(read.is_still_there());
        assert!(!Process { start_ticks: read.start_ticks + 1, ..read }.is_still_there());
    }
}
