//! Where a rank is: what the kernel tells of its processes, and the stacks that debuggers see.
//!
//! Given the ranks that run, [`collect`] tells the head of each: of every process in the rank's group its threads, what
//! they wait for in the kernel, and, where `py-spy` or `gdb` is in the rank's PATH or the agent's, their stacks. Process
//! ids, thread ids and addresses are left out, so that ranks that are at the same place give the same text.
//!
//! Only looking: nothing of a rank is changed, but that a debugger stops it for a moment. What may not be read (the
//! kernel's own stack, without root) is left out; a debugger that fails is named with its reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use efarun_wire::Rank;
use efarun_wire::message::{AgentMessage, MAX_STACKS_BYTES};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::keeper::descendants::{self, Process};
use crate::link_io::LinkSender;

/// A rank that has started and not ended.
#[derive(Debug, Clone)]
pub(super) struct RunningRank {
    pub(super) rank: Rank,
    pub(super) pid: i32,
    /// Its PATH.
    pub(super) path: Vec<u8>,
}

/// Tells the head of every one of these ranks where it is.
pub(super) async fn collect(ranks: Vec<RunningRank>, head: LinkSender<AgentMessage>) {
    let gate = Arc::new(Semaphore::new(AT_ONCE));
    for rank in ranks {
        let (gate, head) = (Arc::clone(&gate), head.clone());
        tokio::spawn(async move {
            // It is never closed.
            let _permit = gate.acquire().await;
            let text = cut(of_rank(&rank).await);
            head.send(&AgentMessage::Stacks { rank: rank.rank, text });
        });
    }
}

async fn of_rank(rank: &RunningRank) -> String {
    let mut processes = descendants::all().unwrap_or_default();
    processes.retain(|process| process.group == rank.pid && !process.is_zombie());
    let left_out = processes.len().saturating_sub(MAX_PROCESSES);
    processes.truncate(MAX_PROCESSES);
    let mut text = String::new();
    for process in &processes {
        text += &format!("`{}`\n{}", command_line(process), threads(process.pid));
        for tool in [Tool::PySpy, Tool::Gdb] {
            if let Some(program) = tool.find(&rank.path, process) {
                text += &tool.ask(&program, process.pid).await;
            }
        }
    }
    if left_out > 0 {
        text += &format!("and {left_out} more processes\n");
    }
    text
}

/// What the kernel tells of a process's threads; threads that are at the same place are told once, with their number.
fn threads(pid: i32) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        *counts.entry(thread(&entry.path())).or_default() += 1;
    }
    let mut text = String::new();
    for (thread, count) in counts {
        let (first, rest) = thread.split_once('\n').unwrap_or((&thread, ""));
        let times = if count > 1 { format!("{count} threads, ") } else { String::new() };
        text += &format!("  {times}{first}\n{rest}");
    }
    text
}

fn thread(folder: &Path) -> String {
    let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
    let status = read("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map_or("?", str::trim).to_owned()
    };
    let wait = read("wchan");
    let wait = match wait.trim() {
        "" | "0" => String::new(),
        place => format!(", in {place}"),
    };
    let mut text = format!("{}: {}{wait}{}\n", field("Name"), field("State"), syscall(&read("syscall")));
    for frame in read("stack").lines() {
        // `[<0>] futex_wait_queue+0x60/0x90`: the address is hidden or of no use.
        text += &format!("    kernel {}\n", frame.rsplit("] ").next().unwrap_or(frame).trim());
    }
    text
}

/// Names the system call of /proc/PID/syscall: `202 0x7f… …`, `running`, or -1 for none.
fn syscall(line: &str) -> String {
    let number = line.split_ascii_whitespace().next().and_then(|word| word.parse::<libc::c_long>().ok());
    match number.map(|number| (number, SYSCALLS.iter().find(|(known, _)| *known == number))) {
        None | Some((..0, _)) => String::new(),
        Some((_, Some((_, name)))) => format!(", system call {name}"),
        Some((number, None)) => format!(", system call {number}"),
    }
}

fn command_line(process: &Process) -> String {
    let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
    let words: Vec<String> = line
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let line = if words.is_empty() { format!("[{}]", process.name) } else { words.join(" ") };
    match line.char_indices().nth(MAX_COMMAND_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A program that shows stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Gdb,
    PySpy,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Gdb => "gdb",
            Tool::PySpy => "py-spy",
        }
    }

    /// Where it is, if it is of use for this process.
    fn find(self, path: &[u8], process: &Process) -> Option<PathBuf> {
        if self == Tool::PySpy && !is_python(process) {
            return None;
        }
        let own = std::env::var_os("PATH").unwrap_or_default();
        let folders = path.split(|byte| *byte == b':').chain(own.as_bytes().split(|byte| *byte == b':'));
        let absolute = folders.filter(|folder| folder.starts_with(b"/"));
        absolute
            .map(|folder| Path::new(OsStr::from_bytes(folder)).join(self.name()))
            .find(|file| file.is_file())
    }

    async fn ask(self, program: &Path, pid: i32) -> String {
        let mut command = Command::new(program);
        match self {
            Tool::PySpy => command.args(["dump", "--pid", &pid.to_string()]),
            Tool::Gdb => command.args(["--batch", "-nx", "-iex", "set auto-load no"]).args([
                "-iex",
                "set print frame-arguments none",
                "-iex",
                "set width 0",
                "-p",
                &pid.to_string(),
                "-ex",
                "thread apply all backtrace 32",
            ]),
        };
        // A server with symbols would be asked over the network.
        command.env_remove("DEBUGINFOD_URLS").stdin(Stdio::null()).kill_on_drop(true);
        let name = self.name();
        match timeout(TOOL_PATIENCE, command.output()).await {
            Err(_) => format!("  {name}: no answer in {} s\n", TOOL_PATIENCE.as_secs()),
            Ok(Err(error)) => format!("  {name}: {error}\n"),
            Ok(Ok(output)) => {
                let stacks = self.stacks(&String::from_utf8_lossy(&output.stdout));
                let stderr = String::from_utf8_lossy(&output.stderr);
                let complaint =
                    stderr.lines().find(|line| !line.trim().is_empty() && !line.starts_with("warning"));
                match (stacks.is_empty(), complaint) {
                    (true, Some(complaint)) => format!("  {name}: {}\n", complaint.trim()),
                    (true, None) => format!("  {name}: {}\n", output.status),
                    (false, _) => format!("  {name}:\n{stacks}"),
                }
            }
        }
    }

    /// The lines that are stacks, without what differs between processes at the same place.
    fn stacks(self, output: &str) -> String {
        let line = |line: &str| match self {
            Tool::Gdb if line.starts_with('#') => Some(format!("      {}\n", without_address(line))),
            Tool::Gdb if line.starts_with("Thread ") => Some(format!("    thread {}\n", quoted(line)?)),
            Tool::PySpy if line.starts_with("Thread ") => {
                let state = line.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
                let state = state.map_or("", |(state, _)| state);
                Some(format!("    thread {} {state}\n", quoted(line).unwrap_or("\"?\"")))
            }
            Tool::PySpy if line.starts_with(' ') => Some(format!("      {}\n", line.trim())),
            _ => None,
        };
        output.lines().filter_map(line).collect()
    }
}

/// What stands in quotes, quotes included: the thread's name.
fn quoted(line: &str) -> Option<&str> {
    let start = line.find('"')?;
    let len = line[start + 1..].find('"')?;
    Some(&line[start..start + len + 2])
}

/// `#1  0x00007f… in main () from …` without the address.
fn without_address(line: &str) -> String {
    let Some((number, rest)) = line.split_once(char::is_whitespace) else { return line.to_owned() };
    let rest = rest.trim_start();
    let rest = match rest.strip_prefix("0x").and_then(|rest| rest.split_once(" in ")) {
        Some((_, frame)) => frame,
        None => rest,
    };
    format!("{number} {rest}")
}

/// Whether the interpreter is the program itself or one of its libraries.
fn is_python(process: &Process) -> bool {
    let folder = PathBuf::from(format!("/proc/{}", process.pid));
    let program = fs::read_link(folder.join("exe")).unwrap_or_default();
    let is_interpreter = program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python"));
    is_interpreter || fs::read_to_string(folder.join("maps")).is_ok_and(|maps| maps.contains("/libpython"))
}

fn cut(mut text: String) -> String {
    const CUT: &str = "\n… cut\n";
    if text.len() > MAX_STACKS_BYTES {
        let end = (0..=MAX_STACKS_BYTES - CUT.len()).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text += CUT;
    }
    text
}

/// Ranks that are looked at together: a debugger that reads symbols takes a core.
const AT_ONCE: usize = 8;
/// How long a debugger may take for a process.
const TOOL_PATIENCE: Duration = Duration::from_secs(5);
const MAX_PROCESSES: usize = 16;
const MAX_COMMAND_CHARS: usize = 120;

/// The system calls in which programs wait.
const SYSCALLS: &[(libc::c_long, &str)] = &[
    (libc::SYS_futex, "futex"),
    (libc::SYS_ppoll, "ppoll"),
    (libc::SYS_pselect6, "pselect6"),
    (libc::SYS_epoll_pwait, "epoll_pwait"),
    (libc::SYS_read, "read"),
    (libc::SYS_write, "write"),
    (libc::SYS_recvfrom, "recvfrom"),
    (libc::SYS_recvmsg, "recvmsg"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_accept, "accept"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_nanosleep, "nanosleep"),
    (libc::SYS_clock_nanosleep, "clock_nanosleep"),
    (libc::SYS_wait4, "wait4"),
    (libc::SYS_waitid, "waitid"),
    (libc::SYS_ioctl, "ioctl"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_restart_syscall, "restart_syscall"),
    (libc::SYS_rt_sigsuspend, "rt_sigsuspend"),
    (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, "poll"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_select, "select"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, "epoll_wait"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_pause, "pause"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_of_gdb_lose_what_differs_between_ranks() {
        let output = "[New LWP 12]\nwarning: x\n\nThread 2 (Thread 0x7f1 (LWP 12) \"worker\" (Exiting)):\n\
                      #0  0x00007f00deadbeef in poll () from /lib/libc.so.6\n#1  main (argc=...) at p.c:3\n\n\
                      [Inferior 1 (process 11) detached]\n";
        assert_eq!(
            Tool::Gdb.stacks(output),
            "    thread \"worker\"\n      #0 poll () from /lib/libc.so.6\n      #1 main (argc=...) at p.c:3\n"
        );
    }

    #[test]
    fn stacks_of_py_spy_lose_what_differs_between_ranks() {
        let output = "Process 77: python train.py\nPython v3.11.2 (/usr/bin/python3.11)\n\n\
                      Thread 77 (idle): \"MainThread\"\n    wait (threading.py:320)\n    <module> (train.py:9)\n";
        assert_eq!(
            Tool::PySpy.stacks(output),
            "    thread \"MainThread\" idle\n      wait (threading.py:320)\n      <module> (train.py:9)\n"
        );
    }

    #[test]
    fn system_calls_are_named() {
        assert_eq!(syscall(&format!("{} 0x1 0x2\n", libc::SYS_futex)), ", system call futex");
        assert_eq!(syscall("4095 0x0"), ", system call 4095");
        assert_eq!((syscall("running"), syscall("-1 0x7 0x8"), syscall("")), Default::default());
    }

    #[test]
    fn this_process_tells_where_its_threads_are() {
        let told = threads(std::process::id().try_into().unwrap());
        assert!(told.contains(": S (sleeping)") || told.contains(": R (running)"), "{told}");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = cut("…".repeat(MAX_STACKS_BYTES));
        assert!(text.len() <= MAX_STACKS_BYTES && text.ends_with("… cut\n"), "{}", text.len());
    }
}
