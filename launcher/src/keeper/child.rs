//! What a forked child does until it is a rank: system calls only, from a recipe that was made before the fork.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use efarun_wire::message::ResourceLimit;

use super::limits;
use super::sys::{self, CStringArray};

/// Everything that a child needs.
#[derive(Debug)]
pub(super) struct Recipe {
    /// The program's files to try, in order.
    pub(super) programs: Vec<CString>,
    /// The CPUs that it may run on; none means all that the keeper may.
    pub(super) cpus: Vec<u32>,
    /// What it may use at least.
    pub(super) limits: Vec<ResourceLimit>,
    /// The folders to try, in order.
    pub(super) wdirs: Vec<CString>,
    pub(super) args: CStringArray,
    pub(super) env: CStringArray,
    /// The program as the user gave it.
    pub(super) given_program: Vec<u8>,
    /// Where a program without a slash was looked for.
    pub(super) path: Vec<u8>,
}

impl Recipe {
    /// The program that a word is about.
    pub(super) fn program(&self, word: &Word) -> &CStr {
        at(&self.programs, word)
    }

    /// The folder that a word is about.
    pub(super) fn wdir(&self, word: &Word) -> &CStr {
        at(&self.wdirs, word)
    }
}

/// Makes this process the rank, in a process group of its own, and starts its program. Returns only when that
/// failed, having said so.
pub(super) fn become_rank(keeper: Pid, agent: Pid, fds: &[OwnedFd], recipe: &Recipe, words: BorrowedFd<'_>) {
    // Away from the numbers that the rank's descriptors get.
    let words = match moved_up(words) {
        Ok(fd) => fd,
        Err(errno) => return Word::new(Step::Dup, 0, errno).say(words),
    };
    limits::raise(&recipe.limits);
    let prepared = prepare(keeper, agent, fds)
        .and_then(|()| bind(&recipe.cpus))
        .and_then(|()| change_folder(recipe, words.as_fd()));
    let Err(failed) = prepared else {
        return start_program(recipe).say(words.as_fd());
    };
    failed.say(words.as_fd());
}

fn prepare(keeper: Pid, agent: Pid, fds: &[OwnedFd]) -> Result<(), Word> {
    let failed = |step| move |errno| Word::new(step, 0, errno);
    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(failed(Step::Setpgid))?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed(Step::Prctl))?;
    // The keeper may have ended before it could be watched.
    if nix::unistd::getppid() != keeper {
        return Err(Word::new(Step::Prctl, 0, Errno::ESRCH));
    }
    // What asks where the rank is (`agent::stacks`) runs below the agent, and is none of the rank's ancestors. Only
    // kernels with Yama know this, and only they need it.
    let _ = sys::allow_tracing_by_descendants_of(agent);
    sys::reset_signals();
    let sources: Vec<OwnedFd> =
        fds.iter().map(|fd| moved_up(fd.as_fd())).collect::<Result<_, _>>().map_err(failed(Step::Dup))?;
    for (number, source) in (0..).zip(&sources) {
        sys::dup_onto(source.as_fd(), number).map_err(failed(Step::Dup))?;
    }
    Ok(())
}

fn bind(cpus: &[u32]) -> Result<(), Word> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    let added = cpus.iter().try_for_each(|cpu| set.set(*cpu as usize));
    let bound = added.and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    bound.map_err(|errno| Word::new(Step::Affinity, 0, errno))
}

fn change_folder(recipe: &Recipe, words: BorrowedFd<'_>) -> Result<(), Word> {
    let mut first_failure = None;
    for (index, wdir) in recipe.wdirs.iter().enumerate() {
        match nix::unistd::chdir(wdir.as_c_str()) {
            Ok(()) if index > 0 => {
                Word::new(Step::OtherWdir, index, Errno::UnknownErrno).say(words);
                return Ok(());
            }
            Ok(()) => return Ok(()),
            Err(errno) => drop(first_failure.get_or_insert(Word::new(Step::Chdir, index, errno))),
        }
    }
    first_failure.map_or(Ok(()), Err)
}

/// Tries the program's files as execvp does: goes on where there is none, remembers one that may not be run. What
/// it does not do is hand a file without a known format to a shell: a program for another CPU would end as a
/// syntax error.
fn start_program(recipe: &Recipe) -> Word {
    let mut failed = None;
    for (index, program) in recipe.programs.iter().enumerate() {
        let errno = sys::execve(program, &recipe.args, &recipe.env);
        match errno {
            Errno::EACCES => failed = Some(Word::new(Step::Execve, index, errno)),
            Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE | Errno::ENODEV | Errno::ETIMEDOUT => {
                failed = failed.or(Some(Word::new(Step::Execve, index, errno)));
            }
            _ => return Word::new(Step::Execve, index, errno),
        }
    }
    failed.unwrap_or(Word::new(Step::Execve, 0, Errno::ENOENT))
}

fn moved_up(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let moved = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(ABOVE_RANK_FDS))?;
    Ok(sys::own_received(vec![moved]).remove(0))
}

fn at<'a>(candidates: &'a [CString], word: &Word) -> &'a CStr {
    candidates.get(usize::from(word.index)).map(CString::as_c_str).unwrap_or_default()
}

/// The step that a word is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Not a failure: the first folder would not do, this one does.
    OtherWdir,
    Setpgid,
    Prctl,
    Dup,
    Chdir,
    Execve,
    Affinity,
}

impl Step {
    /// The system call, as it appears in messages.
    pub(super) fn call(self) -> &'static str {
        match self {
            Step::OtherWdir | Step::Chdir => "chdir",
            Step::Setpgid => "setpgid",
            Step::Prctl => "prctl",
            Step::Dup => "dup",
            Step::Affinity => "sched_setaffinity",
            Step::Execve => "execve",
        }
    }
}

/// What a child says about itself, small enough for a pipe to take it whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Word {
    step: Step,
    index: u16,
    pub(super) errno: i32,
}

impl Word {
    pub(super) const BYTES: usize = 7;

    fn new(step: Step, index: usize, errno: Errno) -> Word {
        Word { step, index: u16::try_from(index).unwrap_or(u16::MAX), errno: errno as i32 }
    }

    pub(super) fn step(&self) -> Step {
        self.step
    }

    pub(super) fn from_bytes(bytes: [u8; Self::BYTES]) -> Word {
        let [step, index_low, index_high, errno @ ..] = bytes;
        let step = STEPS.get(usize::from(step)).copied().unwrap_or(Step::Execve);
        Word { step, index: u16::from_le_bytes([index_low, index_high]), errno: i32::from_le_bytes(errno) }
    }

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = self.step as u8;
        bytes[1..3].copy_from_slice(&self.index.to_le_bytes());
        bytes[3..].copy_from_slice(&self.errno.to_le_bytes());
        bytes
    }

    fn say(self, words: BorrowedFd<'_>) {
        // The keeper is there, or has died and this process with it.
        let _ = nix::unistd::write(words, &self.to_bytes());
    }
}

/// By their numbers in a word.
const STEPS: [Step; 7] =
    [Step::OtherWdir, Step::Setpgid, Step::Prctl, Step::Dup, Step::Chdir, Step::Execve, Step::Affinity];

const ABOVE_RANK_FDS: RawFd = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_pipe() {
        for step in STEPS {
            let word = Word::from_bytes(Word::new(step, 700, Errno::EACCES).to_bytes());
            assert_eq!((word.step, word.index, word.errno), (step, 700, libc::EACCES));
        }
    }
}
