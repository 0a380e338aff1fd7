//! Ports that are kept free for rank 0.
//!
//! A socket that is bound and does not listen keeps its port from everybody who asks for any port, and from everybody
//! who asks for this one without SO_REUSEADDR. A server that sets it, as torch's store and Python's servers do, gets the
//! port all the same. So two jobs on a node never have the same one.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port, kept free as long as this lives.
#[derive(Debug)]
pub(super) struct MasterPort {
    socket: Socket,
}

impl MasterPort {
    /// Keeps a port that nobody has.
    pub(super) fn any() -> io::Result<MasterPort> {
        MasterPort::keep(0)
    }

    /// Keeps this port.
    ///
    /// # Errors
    ///
    /// When somebody has it.
    pub(super) fn keep(port: u16) -> io::Result<MasterPort> {
        // Both families at once, where the node has both.
        let both = || {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
            socket.set_only_v6(false)?;
            bound(socket, (Ipv6Addr::UNSPECIFIED, port).into())
        };
        let ipv4 =
            || bound(Socket::new(Domain::IPV4, Type::STREAM, None)?, (Ipv4Addr::UNSPECIFIED, port).into());
        both().or_else(|error| if is_taken(&error) { Err(error) } else { ipv4() })
    }

    /// Returns its number.
    pub(super) fn number(&self) -> Option<u16> {
        Some(self.socket.local_addr().ok()?.as_socket()?.port())
    }
}

fn bound(socket: Socket, address: SocketAddr) -> io::Result<MasterPort> {
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(MasterPort { socket })
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: SocketAddr, reuse: bool) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(reuse)?;
        socket.bind(&address.into())?;
        socket.listen(8)?;
        Ok(socket)
    }

    #[test]
    fn a_kept_port_is_for_whoever_reuses_addresses_and_for_nobody_else() {
        let kept = MasterPort::any().unwrap();
        let port = kept.number().unwrap();
        for address in [SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), (Ipv4Addr::LOCALHOST, port).into()] {
            let stranger = listener(address, false).unwrap_err();
            assert_eq!(stranger.kind(), io::ErrorKind::AddrInUse, "{address}");
            listener(address, true).unwrap();
        }
    }

    #[test]
    fn a_port_is_kept_twice_only_while_nobody_listens() {
        let kept = MasterPort::any().unwrap();
        let port = kept.number().unwrap();
        assert_eq!(MasterPort::keep(port).unwrap().number(), Some(port));
        let _server = listener((Ipv4Addr::UNSPECIFIED, port).into(), true).unwrap();
        assert_eq!(MasterPort::keep(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
