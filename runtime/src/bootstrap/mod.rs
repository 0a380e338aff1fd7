//! How a rank finds its world, and the out-of-band primitives that everything else is set up with.
//!
//! [`identity`] reads from the environment who this rank is. Under efarun the rank's agent is at the other end of an
//! inherited socket; standing alone, rank 0 runs a server at `EFARUN_BOOTSTRAP` and every rank dials it, with
//! an authenticated and encrypted link. Either way the result is an [`OobConnection`]: allgather, request, events.
//! Everything ends at a deadline with the names of the ranks that were missing.

mod agent;
mod connection;
mod error;
pub mod identity;
pub mod invitation;
mod link;
mod meeting;
mod page;
mod server;
#[cfg(test)]
mod tests;

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use efarun_wire::Rank;
use efarun_wire::frame::MAX_BODY_BYTES;
use efarun_wire::secure::LinkKey;

pub use connection::OobConnection;
pub use efarun_wire::key_file::KeyFileError;
pub use efarun_wire::message::Participants;
pub use error::BootstrapError;
use identity::Identity;

use self::connection::Shared;
use self::link::Link;
use self::meeting::Meeting;
use self::server::{Doors, Server};

/// Connects this rank to its world; `None` when it is alone in it. Blocks until the rank has joined, not until all
/// have.
///
/// # Errors
///
/// [`BootstrapError`] when the agent or the meeting point cannot be reached in `timeout`, or refuses.
pub fn connect(identity: &Identity, timeout: Duration) -> Result<Option<OobConnection>, BootstrapError> {
    let started = Instant::now();
    let deadline = started + timeout;
    match identity {
        Identity::Alone => Ok(None),
        Identity::Agent { rank, world_size, fd } => {
            let shared = agent::connect(*fd, *rank, *world_size, deadline)?;
            Ok(Some(OobConnection::new(shared, None)))
        }
        Identity::Meeting { rank, world_size, address, admission } => {
            let meeting = Meeting::new(address, admission)?;
            let (server, link) = if *rank == Rank(0) {
                let (server, link) = meeting.serve(*world_size, timeout)?;
                (Some(server), link)
            } else {
                (None, meeting.dial(*rank, started, deadline)?)
            };
            let name = format!("the meeting point {address}");
            let shared = Shared::join(link, &name, *rank, *world_size, deadline)?;
            Ok(Some(OobConnection::new(shared, server)))
        }
        Identity::Invited { rank, world_size, invitation } => {
            let addresses = invitation.addresses();
            let name = addresses.first().map_or_else(String::new, ToString::to_string);
            let link = Meeting::invited(&name, invitation).dial(*rank, started, deadline)?;
            let shared =
                Shared::join(link, &format!("the meeting point {name}"), *rank, *world_size, deadline)?;
            Ok(Some(OobConnection::new(shared, None)))
        }
    }
}

/// Connects ranks that are threads of one process: one connection for each, in order of rank.
///
/// # Errors
///
/// [`BootstrapError::System`] when the process has no descriptor or thread left.
pub fn connect_threads(world_size: u32, timeout: Duration) -> Result<Vec<OobConnection>, BootstrapError> {
    let system = |call| move |cause| BootstrapError::System { call, cause };
    let mut inside = Vec::new();
    let mut links = Vec::new();
    for rank in (0..world_size).map(Rank) {
        let (mine, servers) = UnixStream::pair().map_err(system("socketpair"))?;
        inside.push((rank, servers));
        links.push((rank, Link::plain(mine, MAX_BODY_BYTES).map_err(system("fcntl"))?));
    }
    let doors = Doors { listener: None, inside };
    let server = Server::start(world_size, LinkKey::well_known(), doors, timeout)
        .map_err(system("starting a thread"))?;
    let mut server = Some(server);
    let join = |(rank, link)| {
        let shared =
            Shared::join(link, "the server of this process", rank, world_size, Instant::now() + timeout)?;
        Ok(OobConnection::new(shared, server.take()))
    };
    links.into_iter().map(join).collect()
}
