//! A child process as a channel: what the local spawner and the command spawner share.
//!
//! Standard input and output of the child are one end of a socket pair, its standard error is read into lines. The
//! child leads a session of its own: Ctrl-C in a terminal reaches the head alone, and the child cannot ask
//! questions on the terminal. Its end of life is the end of its input; nothing here depends on the life of a thread.
//!
//! # Safety
//!
//! The one unsafe block runs `setsid` between fork and exec, where only async-signal-safe functions may be called.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{mpsc, oneshot};

use crate::spawn::ChannelEnd;
use crate::spawn::lines::LineSink;

/// A child whose streams are ours.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its standard input and output.
    pub(crate) stream: UnixStream,
    /// Lines of its standard error.
    pub(crate) stderr: mpsc::Receiver<String>,
    /// Arrives when it has been reaped.
    pub(crate) ended: oneshot::Receiver<ChannelEnd>,
    /// Ends the child by SIGKILL when it is dropped, unless it was released.
    pub(crate) guard: KillGuard,
}

/// Ends the child when it is dropped: a start that failed, or was given up, leaves nothing behind.
#[derive(Debug)]
pub(crate) struct KillGuard(Option<oneshot::Sender<()>>);

impl KillGuard {
    /// From now on only the end of its input ends the child.
    pub(crate) fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for KillGuard {
    fn drop(&mut self) {
        if let Some(kill) = self.0.take() {
            // Fails when the child has been reaped already.
            let _ = kill.send(());
        }
    }
}

/// Starts the command with its streams connected.
pub(crate) fn start(mut command: Command) -> io::Result<Started> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let theirs_too = theirs.try_clone()?;
    command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::from(OwnedFd::from(theirs_too)));
    command.stderr(Stdio::piped());
    // SAFETY: setsid is async-signal-safe, and the closure touches no memory of the parent.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
    }
    let mut child = command.spawn()?;
    // The command keeps its copies of the child's ends, which would hide the end of the child's output.
    drop(command);

    let stderr = child.stderr.take().expect("standard error was asked to be piped");
    let (sink, lines) = LineSink::new();
    let (end, ended) = oneshot::channel();
    let (kill, killed) = oneshot::channel();
    tokio::spawn(watch(child, stderr, sink, killed, end));
    Ok(Started { stream: UnixStream::from_std(ours)?, stderr: lines, ended, guard: KillGuard(Some(kill)) })
}

/// Reads standard error and reaps the child.
async fn watch(
    mut child: Child,
    stderr: ChildStderr,
    sink: LineSink,
    killed: oneshot::Receiver<()>,
    end: oneshot::Sender<ChannelEnd>,
) {
    let reader = tokio::spawn(read_lines(stderr, sink));
    let status = tokio::select! {
        status = child.wait() => status,
        Ok(()) = killed => {
            // It leads a session, so its own children are in its group; it has not been reaped, so the id is its own.
            let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
            // Fails when all of them have ended in this moment, which is what was wanted.
            let _ = group.map(|group| killpg(group, Signal::SIGKILL));
            child.wait().await
        }
    };
    // A grandchild may hold standard error open for ever; what the child itself wrote is in the pipe by now.
    let _ = tokio::time::timeout(STDERR_GRACE, reader).await;
    // The receiver is gone when nobody wants to know.
    let _ = end.send(match status {
        Ok(status) => end_of(status),
        Err(error) => ChannelEnd::Lost(format!("waiting for the child failed: {error}")),
    });
}

async fn read_lines(mut stderr: ChildStderr, mut sink: LineSink) {
    let mut buffer = vec![0; 8 << 10];
    while let Ok(len @ 1..) = stderr.read(&mut buffer).await {
        sink.push(&buffer[..len]);
    }
    sink.close();
}

fn end_of(status: ExitStatus) -> ChannelEnd {
    match (status.code(), status.signal()) {
        (Some(code), _) => ChannelEnd::Code(code),
        (None, Some(number)) => ChannelEnd::Signal(signal_name(number)),
        (None, None) => ChannelEnd::Lost(format!("the child ended with {status}")),
    }
}

fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// How long standard error is read after the child's end.
const STDERR_GRACE: std::time::Duration = std::time::Duration::from_millis(200);
