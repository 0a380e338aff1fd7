//! Standard output and standard error without a buffer in between.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Writes straight to a file descriptor, and waits where somebody else made it non-blocking.
///
/// A terminal's file description is shared: a rank, or a program before us, may have set O_NONBLOCK on it, and then
/// output would be lost in the middle of a line. The flag is theirs and is left as it is.
#[derive(Debug)]
pub struct FdSink<F>(pub F);

impl<F: AsFd> Write for FdSink<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::write(&self.0, bytes) {
                Err(Errno::EAGAIN) => wait_writable(&self.0)?,
                Err(Errno::EINTR) => {}
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits as long as the reader takes, as a blocking write would.
fn wait_writable(fd: &impl AsFd) -> io::Result<()> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    #[test]
    fn non_blocking_sink_loses_nothing() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let sent = vec![7; 4 << 20];
        let reader = thread::spawn(move || {
            let mut received = Vec::new();
            theirs.read_to_end(&mut received).unwrap();
            received
        });
        FdSink(ours).write_all(&sent).unwrap();
        assert!(reader.join().unwrap() == sent);
    }
}
