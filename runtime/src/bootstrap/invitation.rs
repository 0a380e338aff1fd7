//! A meeting point that is told of in 128 bytes: its addresses and its key.
//!
//! Where no launcher and no variable says where ranks meet, one process hosts a meeting point of its own and passes an
//! invitation on by whatever way it has, as NCCL's unique ids are. The key is fresh for each, so that who was not given
//! the bytes cannot join; whoever passes them on keeps them as secret as that.
//!
//! The host does not have to be a rank. How many ranks there are it learns from the first that joins.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use efarun_wire::secure::LinkKey;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use super::error::BootstrapError;
use super::server::{Doors, Server};

/// Where a world meets, and the key to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Invitation {
    secret: [u8; KEY_BYTES],
    port: u16,
    addresses: Vec<IpAddr>,
}

impl Invitation {
    /// The length of an invitation.
    pub const BYTES: usize = 128;

    /// As bytes that can be passed on. They contain the key.
    pub fn to_bytes(&self) -> [u8; Invitation::BYTES] {
        let mut bytes = [0; Invitation::BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..8 + KEY_BYTES].copy_from_slice(&self.secret);
        bytes[PORT_AT..PORT_AT + 2].copy_from_slice(&self.port.to_le_bytes());
        bytes[COUNT_AT] = self.addresses.len() as u8;
        for (address, place) in self.addresses.iter().zip(bytes[ADDRESSES_AT..].chunks_exact_mut(16)) {
            let v6 = match address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => *v6,
            };
            place.copy_from_slice(&v6.octets());
        }
        bytes
    }

    /// From bytes, if they are an invitation.
    pub fn from_bytes(bytes: &[u8; Invitation::BYTES]) -> Option<Invitation> {
        let count = usize::from(bytes[COUNT_AT]);
        if bytes[..8] != MAGIC[..] || count == 0 || count > ADDRESSES_MAX {
            return None;
        }
        let address = |octets: &[u8]| {
            let octets: [u8; 16] = octets.try_into().expect("chunks of 16 bytes");
            let v6 = Ipv6Addr::from(octets);
            v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
        };
        Some(Invitation {
            secret: *bytes[8..].first_chunk().expect("as many bytes as a key has"),
            port: u16::from_le_bytes([bytes[PORT_AT], bytes[PORT_AT + 1]]),
            addresses: bytes[ADDRESSES_AT..].chunks_exact(16).take(count).map(address).collect(),
        })
    }

    pub(super) fn key(&self) -> LinkKey {
        LinkKey::from_bytes(self.secret)
    }

    /// Where the host may be reached, the likeliest first.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.iter().map(|&address| SocketAddr::new(address, self.port)).collect()
    }
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invitation").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

/// A meeting point of this process. Dropping it gives the ranks two seconds to say goodbye.
#[derive(Debug)]
pub struct Host {
    invitation: Invitation,
    server: Server,
}

impl Host {
    /// Opens a meeting point on a free port, and serves it by a thread until every rank of the world that meets there has
    /// left, or nobody has come for an hour.
    ///
    /// `is_used` says which of this machine's interfaces others may be told of, by name and address; loopback is always
    /// told of, last. `timeout` is how long it may take from the first rank's coming until the world is complete.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::System`] without a port, a thread, or random numbers for the key.
    pub fn open(is_used: &dyn Fn(&str, IpAddr) -> bool, timeout: Duration) -> Result<Host, BootstrapError> {
        let system = |call| move |cause| BootstrapError::System { call, cause };
        let mut secret = [0; KEY_BYTES];
        getrandom::fill(&mut secret)
            .map_err(|error| BootstrapError::System { call: "getrandom", cause: io::Error::other(error) })?;
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let listener = TcpListener::bind(any)
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))
            .map_err(system("bind"))?;
        let port = listener.local_addr().map_err(system("getsockname"))?.port();
        let invitation = Invitation { secret, port, addresses: addresses(is_used) };
        let doors = Doors { listener: Some(listener), inside: Vec::new() };
        let server = Server::start_for_anybody(invitation.key(), doors, timeout, IDLE)
            .map_err(system("starting the meeting point's thread"))?;
        Ok(Host { invitation, server })
    }

    /// For the ranks.
    pub fn invitation(&self) -> &Invitation {
        &self.invitation
    }

    /// Whether a rank has come.
    pub fn has_begun(&self) -> bool {
        self.server.has_begun()
    }

    /// Waits until every rank has left, for `timeout` at most. False when some have not.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.server.wait(timeout)
    }
}

/// This machine's addresses: the likeliest to be reached from elsewhere first, loopback last.
fn addresses(is_used: &dyn Fn(&str, IpAddr) -> bool) -> Vec<IpAddr> {
    let mut found: Vec<(u8, IpAddr)> = Vec::new();
    for interface in getifaddrs().into_iter().flatten() {
        let Some(storage) = &interface.address else { continue };
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        let v6 = || storage.as_sockaddr_in6().map(|address| IpAddr::from(address.ip()));
        let Some(address) = v4.or_else(v6) else { continue };
        let is_up = interface.flags.contains(InterfaceFlags::IFF_UP);
        let needs_scope = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if !is_up || needs_scope || address.is_loopback() || !is_used(&interface.interface_name, address) {
            continue;
        }
        // Bridges of containers and virtual machines have addresses that mean something else on every host.
        let name = interface.interface_name.as_str();
        let is_bridge = ["docker", "virbr", "veth", "br-", "cni"].iter().any(|it| name.starts_with(it));
        found.push((2 * u8::from(is_bridge) + u8::from(address.is_ipv6()), address));
    }
    found.sort_by_key(|(rank, _)| *rank);
    let mut addresses: Vec<_> = found.into_iter().map(|(_, address)| address).collect();
    addresses.truncate(ADDRESSES_MAX - 1);
    addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    addresses
}

/// The first bytes of every invitation; the last of them counts its versions.
const MAGIC: &[u8; 8] = b"efarun\0\x01";
const KEY_BYTES: usize = 32;
const PORT_AT: usize = 8 + KEY_BYTES;
const COUNT_AT: usize = PORT_AT + 2;
const ADDRESSES_AT: usize = 48;
const ADDRESSES_MAX: usize = (Invitation::BYTES - ADDRESSES_AT) / 16;
/// For how long nobody may come.
const IDLE: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::{connect, identity::Identity};
    use efarun_wire::Rank;

    #[test]
    fn an_invitation_survives_its_bytes_and_noise_is_none() {
        let addresses = vec!["10.1.2.3".parse().unwrap(), "fd00::7".parse().unwrap()];
        let invitation = Invitation { secret: [9; KEY_BYTES], port: 4711, addresses };
        let again = Invitation::from_bytes(&invitation.to_bytes()).expect("it is one");
        assert_eq!(again.addresses(), invitation.addresses());
        assert_eq!(again.secret, invitation.secret);
        assert!(Invitation::from_bytes(&[7; Invitation::BYTES]).is_none());
    }

    #[test]
    fn ranks_that_were_given_an_invitation_meet_and_others_do_not() {
        let timeout = Duration::from_secs(20);
        let host = Host::open(&|_, _| false, timeout).expect("a port");
        let mut stranger = host.invitation().clone();
        stranger.secret[0] ^= 1;
        let invited = |invitation: &Invitation, rank| Identity::Invited {
            rank: Rank(rank),
            world_size: 3,
            invitation: invitation.clone(),
        };
        let refused = connect(&invited(&stranger, 0), Duration::from_millis(300));
        assert!(refused.is_err(), "{refused:?}");
        let ranks: Vec<_> = (0..3).map(|rank| invited(host.invitation(), rank)).collect();
        std::thread::scope(|scope| {
            for identity in &ranks {
                scope.spawn(move || {
                    let mut oob = connect(identity, timeout).expect("it meets").expect("others");
                    oob.barrier("all", timeout).expect("all came");
                    oob.leave();
                });
            }
        });
        assert!(host.has_begun() && host.wait(timeout), "all have left");
    }
}
