//! A program whose start takes for ever, as from a file system whose server does not answer.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};

/// While it lives, whoever wants to run the file waits inside `execve`, until a signal kills it.
///
/// The kernel asks us for leave before the file is run, and is not answered.
#[derive(Debug)]
pub struct ExecStall {
    _asked: Fanotify,
}

impl ExecStall {
    /// Holds up all who run this file, by whatever path and in whatever namespace.
    ///
    /// # Panics
    ///
    /// When the kernel does not ask, though [`ExecStall::lack`] names nothing.
    pub fn new(program: &Path) -> ExecStall {
        let asked = asked_before_it_runs(program);
        ExecStall { _asked: asked.unwrap_or_else(|errno| panic!("{}: {errno}", program.display())) }
    }

    /// What is missing here for it, as a lowercase fragment.
    pub(crate) fn lack() -> Option<String> {
        let this = std::env::current_exe().expect("Linux knows it");
        let errno = asked_before_it_runs(&this).err()?;
        Some(format!(
            "the kernel asks nobody before it runs a program (fanotify, FAN_OPEN_EXEC_PERM): {errno}"
        ))
    }
}

fn asked_before_it_runs(program: &Path) -> Result<Fanotify, Errno> {
    let group = Fanotify::init(InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC, EventFFlags::O_RDONLY)?;
    let here = nix::fcntl::AT_FDCWD;
    group.mark(MarkFlags::FAN_MARK_ADD, MaskFlags::FAN_OPEN_EXEC_PERM, here, Some(program))?;
    Ok(group)
}
