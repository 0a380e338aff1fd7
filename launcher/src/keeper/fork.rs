//! Starting one rank, as the keeper sees it.
//!
//! What can be prepared is prepared before the fork; the child ([`super::child`]) only makes system calls and, where
//! one fails, says which. It says so over a pipe that its program's start closes, so that a start that takes long
//! (a program on a file server) delays nobody: [`Starting`] is polled beside everything else.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::Pid;

use efarun_wire::Rank;

use super::child::{self, Recipe, Step, Word};
use super::program_fault;
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
    let (keeper, agent) = (nix::unistd::getpid(), nix::unistd::getppid());
    let forked_at = Instant::now();
    let pid = sys::fork_running(|| child::become_rank(keeper, agent, &fds, &recipe, child_words.as_fd()))
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
            Step::Execve => self.program_at_fault(word),
            Step::Affinity => format!("CPUs {}", crate::binding::ranges(&self.recipe.cpus)).into_bytes(),
            Step::OtherWdir | Step::Setpgid | Step::Prctl | Step::Dup => self.recipe.given_program.clone(),
        };
        StartError { call: step.call(), subject, errno: word.errno }
    }

    /// The file that could not be started, and what is wrong with it.
    fn program_at_fault(&self, word: &Word) -> Vec<u8> {
        let errno = Errno::from_raw(word.errno);
        let candidates: Vec<PathBuf> = match errno {
            // It may be that the file is there, and what it asks for is not.
            Errno::ENOENT => self.recipe.programs.iter().map(|program| self.absolute(program)).collect(),
            _ => vec![self.absolute(self.recipe.program(word))],
        };
        let fault = |path: &PathBuf| program_fault::describe(path, errno).map(|fault| (path.clone(), fault));
        if let Some((path, fault)) = candidates.iter().find_map(fault) {
            return [path.as_os_str().as_bytes(), b" (", fault.as_bytes(), b")"].concat();
        }
        match &candidates[..] {
            [path] => path.as_os_str().as_bytes().to_vec(),
            _ => [&self.recipe.given_program[..], b" (in no folder of PATH: ", &self.recipe.path, b")"]
                .concat(),
        }
    }

    fn absolute(&self, program: &CStr) -> PathBuf {
        let other = self.said.iter().find(|word| word.step() == Step::OtherWdir);
        let wdir = other.map_or_else(
            || self.recipe.wdirs.first().map(CString::as_c_str),
            |word| Some(self.recipe.wdir(word)),
        );
        let wdir = wdir.map_or(&b"/"[..], CStr::to_bytes);
        let program = program.to_bytes();
        // What a shell made people used to writing in front means nothing here.
        let program = program.strip_prefix(b"./").unwrap_or(program);
        Path::new(OsStr::from_bytes(wdir)).join(OsStr::from_bytes(program))
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.words.as_fd()
    }
}

fn recipe(order: ForkOrder) -> Result<Recipe, StartError> {
    let variable = |name: &[u8]| order.env.iter().find(|(key, _)| key == name).map(|(_, value)| &value[..]);
    let path = variable(b"PATH").unwrap_or(DEFAULT_PATH);
    let path = match &order.search_path[..] {
        [] => path.to_vec(),
        first => [first, b":", path].concat(),
    };
    let programs = program_candidates(&order.program, &path);
    let mut wdirs = vec![order.wdir.clone()];
    if !order.wdir_required {
        wdirs.extend(variable(b"HOME").map(<[u8]>::to_vec));
        wdirs.push(b"/".to_vec());
    }
    let args = [order.program.clone()].into_iter().chain(order.args).collect();
    let env = order.env.iter().map(|(name, value)| [&name[..], b"=", value].concat()).collect();
    Ok(Recipe {
        cpus: order.cpus,
        limits: order.limits,
        programs: terminated(programs)?,
        wdirs: terminated(wdirs)?,
        args: CStringArray::new(terminated(args)?),
        env: CStringArray::new(terminated(env)?),
        given_program: order.program,
        path,
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
