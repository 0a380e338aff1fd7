//! Starting one rank, as the keeper sees it.
//!
//! What can be prepared is prepared before the fork; the child ([`super::child`]) only makes system calls and, where
//! one fails, says which. It says so over a pipe that its program's start closes, so that a start that takes long
//! (a program on a file server) delays nobody: [`Starting`] is polled beside everything else.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::Pid;

use efarun_wire::Rank;

use super::child::{self, Recipe, Step, Word};
use super::protocol::ForkOrder;
use super::sys::{self, CStringArray};

/// A rank between its fork and the start of its program.
#[derive(Debug)]
pub(super) struct Starting {
    pub(super) rank: Rank,
    pub(super) pid: i32,
    pub(super) forked_at: Instant,
    words: File,
    said: Vec<Word>,
    recipe: Recipe,
}

/// What became of a start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Started {
    /// Its program runs.
    Running { other_wdir: Option<Vec<u8>> },
    /// It failed, and the child has ended or is about to.
    Failed(StartError),
}

/// Why a rank did not start.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StartError {
    pub(super) call: &'static str,
    pub(super) subject: Vec<u8>,
    pub(super) errno: i32,
}

/// Forks a rank. `fds` are its descriptors, in the order of their numbers there.
///
/// # Errors
///
/// What failed before there was a child.
pub(super) fn start(order: ForkOrder, fds: Vec<OwnedFd>) -> Result<Starting, StartError> {
    let (rank, program) = (order.rank, order.program.clone());
    let failed = |call| {
        let subject = program.clone();
        move |errno: Errno| StartError { call, subject, errno: errno as i32 }
    };
    let recipe = recipe(order)?;
    // Without O_NONBLOCK a child that hangs in its exec would stop the keeper with it.
    let (words, child_words) =
        nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(failed("pipe2"))?;
    let keeper = nix::unistd::getpid();
    let forked_at = Instant::now();
    let pid = sys::fork_running(|| child::become_rank(keeper, &fds, &recipe, child_words.as_fd()))
        .map_err(failed("fork"))?;
    // The child does the same: whoever comes first, the group is there before anybody signals it. It fails when the
    // program has started already, and then the child has done it.
    let _ = nix::unistd::setpgid(Pid::from_raw(pid), Pid::from_raw(pid));
    Ok(Starting { rank, pid, forked_at, words: words.into(), said: Vec::new(), recipe })
}

impl Starting {
    /// Reads what the child has said. `None`: it has not come to its program yet.
    pub(super) fn outcome(&mut self) -> Option<Started> {
        loop {
            let mut bytes = [0; Word::BYTES];
            match self.words.read(&mut bytes) {
                Ok(0) => break,
                Ok(_) => self.said.push(Word::from_bytes(bytes)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        let mut other_wdir = None;
        for word in &self.said {
            match word.step() {
                Step::OtherWdir => other_wdir = Some(self.recipe.wdir(word).to_bytes().to_vec()),
                step => return Some(Started::Failed(self.explain(step, word))),
            }
        }
        Some(Started::Running { other_wdir })
    }

    fn explain(&self, step: Step, word: &Word) -> StartError {
        let subject = match step {
            Step::Chdir => self.recipe.wdir(word).to_bytes().to_vec(),
            Step::Execve if word.errno == Errno::ENOENT as i32 => self.missing(),
            Step::Execve => self.recipe.program(word).to_bytes().to_vec(),
            Step::OtherWdir | Step::Setpgid | Step::Prctl | Step::Dup => self.recipe.given_program.clone(),
        };
        StartError { call: step.call(), subject, errno: word.errno }
    }

    /// Says what "no such file" is about: the program, or what the program's file asks for.
    fn missing(&self) -> Vec<u8> {
        let given = self.recipe.given_program.clone();
        let Some(wdir) = self.recipe.wdirs.first() else { return given };
        let wdir = Path::new(OsStr::from_bytes(wdir.to_bytes()));
        for program in &self.recipe.programs {
            let path = wdir.join(OsStr::from_bytes(program.to_bytes()));
            let Ok(file) = File::open(&path) else { continue };
            let interpreter = interpreter_of(file).unwrap_or_else(|| b"the dynamic loader".to_vec());
            return [program.to_bytes(), b" needs ", &interpreter].concat();
        }
        given
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }
}

fn recipe(order: ForkOrder) -> Result<Recipe, StartError> {
    let variable = |name: &[u8]| order.env.iter().find(|(key, _)| key == name).map(|(_, value)| &value[..]);
    let programs = program_candidates(&order.program, variable(b"PATH").unwrap_or(DEFAULT_PATH));
    let mut wdirs = vec![order.wdir.clone()];
    if !order.wdir_required {
        wdirs.extend(variable(b"HOME").map(<[u8]>::to_vec));
        wdirs.push(b"/".to_vec());
    }
    let args = [order.program.clone()].into_iter().chain(order.args).collect();
    let env = order.env.iter().map(|(name, value)| [&name[..], b"=", value].concat()).collect();
    Ok(Recipe {
        programs: terminated(programs)?,
        wdirs: terminated(wdirs)?,
        args: CStringArray::new(terminated(args)?),
        env: CStringArray::new(terminated(env)?),
        given_program: order.program,
    })
}

/// The files that may be the program: itself when it has a slash, else one per folder of PATH, where an empty
/// folder is the one that the rank starts in.
fn program_candidates(program: &[u8], path: &[u8]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') || program.is_empty() {
        return vec![program.to_vec()];
    }
    let in_folder = |folder: &[u8]| match folder {
        [] => program.to_vec(),
        folder => [folder, b"/", program].concat(),
    };
    path.split(|&byte| byte == b':').map(in_folder).collect()
}

fn terminated(strings: Vec<Vec<u8>>) -> Result<Vec<CString>, StartError> {
    let terminate = |string| {
        CString::new(string).map_err(|error| StartError {
            call: "execve",
            subject: error.into_vec(),
            errno: Errno::EINVAL as i32,
        })
    };
    strings.into_iter().map(terminate).collect()
}

/// What a script's first line asks for.
fn interpreter_of(mut file: File) -> Option<Vec<u8>> {
    let mut start = [0; 256];
    let start_bytes = file.read(&mut start).ok()?;
    let line = start[..start_bytes].strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    line.trim_ascii().split(u8::is_ascii_whitespace).next().map(<[u8]>::to_vec)
}

/// Where the C library looks for programs when PATH is not set.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_in_every_folder_of_path() {
        let candidates = program_candidates(b"prog", b"/a::/b");
        assert_eq!(candidates, [&b"/a/prog"[..], b"prog", b"/b/prog"]);
    }

    #[test]
    fn a_program_with_a_slash_is_not_looked_for() {
        assert_eq!(program_candidates(b"./prog", b"/a:/b"), [b"./prog"]);
    }
}
