//! The agent's standard input and output as the two directions of a link: pipes or sockets, whatever carries them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::link_io::{ByteSink, ByteSource};

/// Takes standard input and output over. To be called within the runtime.
///
/// # Errors
///
/// When one of them is neither a pipe nor a socket: then nobody is there to give orders.
pub(super) fn from_standard_streams() -> io::Result<(ByteSource, ByteSink)> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let source: ByteSource = match kind_of(&input)? {
        Kind::Pipe => Box::new(pipe::Receiver::from_owned_fd(input)?),
        Kind::Socket => Box::new(socket(input)?),
    };
    let sink: ByteSink = match kind_of(&output)? {
        Kind::Pipe => Box::new(pipe::Sender::from_owned_fd(output)?),
        Kind::Socket => Box::new(socket(output)?),
    };
    Ok((source, sink))
}

enum Kind {
    Pipe,
    Socket,
}

fn kind_of(fd: &OwnedFd) -> io::Result<Kind> {
    let kind = File::from(fd.try_clone()?).metadata()?.file_type();
    if kind.is_fifo() {
        Ok(Kind::Pipe)
    } else if kind.is_socket() {
        Ok(Kind::Socket)
    } else {
        let reason =
            "standard input and output are not a channel: an agent is started by efarun, not by hand";
        Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
    }
}

/// Any stream socket does: nothing but reading, writing and closing is asked of it.
fn socket(fd: OwnedFd) -> io::Result<UnixStream> {
    let stream = StdUnixStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}
