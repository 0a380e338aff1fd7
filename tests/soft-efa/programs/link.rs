//! What the two processes tell each other beside the fabric.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::error::Failure;

/// The connection to the other process.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    is_target: bool,
}

impl Link {
    /// Waits for the other process, and says where: the port may be zero, for one that is free.
    pub(crate) fn listen(address: SocketAddr) -> Result<Link, Failure> {
        let listener = TcpListener::bind(address)?;
        crate::say(&format!("listening on {}", listener.local_addr()?));
        let (stream, _) = listener.accept()?;
        Link::new(stream, true)
    }

    pub(crate) fn connect(address: SocketAddr) -> Result<Link, Failure> {
        Link::new(TcpStream::connect_timeout(&address, PATIENCE)?, false)
    }

    fn new(stream: TcpStream, is_target: bool) -> Result<Link, Failure> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Link { stream, is_target })
    }

    /// Whether this process is the target of what the program does.
    pub(crate) fn is_target(&self) -> bool {
        self.is_target
    }

    /// Gives the other process bytes and takes as many of its own, doing `meanwhile` while it waits.
    pub(crate) fn exchange(
        &mut self,
        bytes: &[u8],
        mut meanwhile: impl FnMut() -> Result<(), Failure>,
    ) -> Result<Vec<u8>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut theirs = vec![0; bytes.len()];
        let (mut sent, mut received) = (0, 0);
        while sent < bytes.len() || received < theirs.len() {
            if sent < bytes.len() {
                sent += nonblocking(self.stream.write(&bytes[sent..]))?.unwrap_or(0);
            }
            if received < theirs.len() {
                match nonblocking(self.stream.read(&mut theirs[received..]))? {
                    Some(0) => return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into()),
                    read => received += read.unwrap_or(0),
                }
            }
            meanwhile()?;
            if Instant::now() > deadline {
                return Err(Failure::Deadline("the other process"));
            }
        }
        Ok(theirs)
    }

    /// Waits until both are here.
    pub(crate) fn meet(&mut self, meanwhile: impl FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
        self.exchange(b"!", meanwhile).map(|_| ())
    }
}

/// None where the socket would have to be waited for.
fn nonblocking(result: std::io::Result<usize>) -> Result<Option<usize>, Failure> {
    match result {
        Ok(len) => Ok(Some(len)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// How long anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
