//! libfabric between nodes: tagged messages on a reliable-datagram endpoint.
//!
//! Each rank makes a [`FabricTransport`], which gives an address; the bootstrap carries all addresses to all ranks;
//! [`FabricTransport::connect`] takes them in. Nothing is sent before a pair is opened.
//!
//! # Protocol
//!
//! An ordered pair of ranks has a few slots at the receiver. For each slot and generation one message travels, into
//! a receive that was posted for exactly its tag; and before it one credit travels the other way, the receiver's word
//! that this receive is posted, again into a receive posted for exactly its tag. The first credits open the pair.
//! Nothing is known from the order in which anything arrives, no message meets a receiver that is not ready, and a
//! credit that comes before its receiver opened waits in the provider's queue of unexpected messages, 16 bytes long.
//! A message's bytes go from the caller's memory behind a header from ours, as one send of two parts.
//!
//! # Providers
//!
//! On tcp the endpoint progresses in our calls only; the first send to a peer makes the connection, and the provider
//! refuses sends until it is there. EFA's reliable-datagram fabric is the same code with registered memory; it was
//! never run on EFA hardware.
//!
//! # What it cannot do
//!
//! A peer that died is seen by who sends to it; one that only waits for it learns from the bootstrap. A rank that
//! closes while its peers still expect messages of it may take some with it, though their sends are complete: let all
//! ranks meet in the bootstrap first.

mod address;
mod engine;
mod operation;
mod provider;
mod slot;
mod tag;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use efarun_wire::Rank;

use self::address::Address;
use self::engine::Engine;
pub use self::provider::Network;
use super::{Header, Message, SendToken, Transport, TransportError};
use crate::fabric::{FabricError, Library};

/// How a rank's end of the fabric is made. All ranks need the same, but for the local address.
#[derive(Clone, Debug)]
pub struct FabricConfig {
    /// World size.
    pub world_size: u32,
    /// The network.
    pub network: Network,
    /// On tcp, the address of ours that the other nodes reach: that of the bootstrap connection. `None` is loopback,
    /// for a world on one host.
    pub local_address: Option<IpAddr>,
    /// Messages that a pair of ranks may have in flight.
    pub slots: usize,
    /// The largest payload of a message.
    pub slot_bytes: usize,
    /// How long a peer that was connected may be without a connection before it counts as lost.
    pub patience: Duration,
}

impl FabricConfig {
    /// The usual configuration for a world of this size.
    pub fn new(world_size: u32, network: Network) -> Self {
        FabricConfig {
            world_size,
            network,
            local_address: None,
            slots: 4,
            // Measured on loopback tcp: 256 KiB carried up to 1.6 times what 64 KiB did.
            slot_bytes: 256 << 10,
            patience: Duration::from_secs(5),
        }
    }
}

/// The transport of one rank over a network.
#[derive(Debug)]
pub struct FabricTransport {
    /// None after closing.
    engine: Option<Engine>,
    address: Address,
}

impl FabricTransport {
    /// Opens the endpoint of a rank. Also returns its address, to be given to every rank's
    /// [`FabricTransport::connect`].
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`], with what to do where libfabric or a provider is missing.
    ///
    /// # Panics
    ///
    /// With more than 2^20 ranks, with no slots or more than 256, or with slots of 2^31 bytes or more.
    pub fn new(config: &FabricConfig) -> Result<(Self, Vec<u8>), TransportError> {
        assert!(config.world_size <= tag::MAX_RANKS, "a tag has room for {} ranks", tag::MAX_RANKS);
        assert!((1..=tag::MAX_SLOTS).contains(&config.slots), "a tag has room for {} slots", tag::MAX_SLOTS);
        assert!(config.slot_bytes < 1 << 31, "a header has room for 31 bits of length");
        let library = Library::open()?;
        let info = provider::choose(&library, config)?;
        let engine = Engine::new(&info, config).map_err(|error| with_address(error, config))?;
        let address = Address {
            format: address::FORMAT,
            provider: info.provider().to_owned(),
            fabric: info.fabric_name().to_owned(),
            protocol: info.protocol(),
            library: library.version().to_string(),
            slots: config.slots as u32,
            slot_bytes: config.slot_bytes as u32,
            raw: engine.address()?,
        };
        let bytes = address.to_bytes();
        Ok((FabricTransport { engine: Some(engine), address }, bytes))
    }

    /// Learns the addresses of the ranks that this transport may reach; its own may be among them.
    ///
    /// # Errors
    ///
    /// [`TransportError::Incompatible`] for a rank that was set up differently, or whose address is none.
    pub fn connect(&mut self, me: Rank, addresses: &[(Rank, Vec<u8>)]) -> Result<(), TransportError> {
        let engine = self.engine.as_mut().ok_or(TransportError::Closed)?;
        engine.set_rank(me);
        for (peer, bytes) in addresses.iter().filter(|(peer, _)| *peer != me) {
            let theirs = Address::parse(*peer, bytes)?;
            self.address.check(*peer, &theirs)?;
            engine.insert(*peer, &theirs.raw)?;
        }
        Ok(())
    }

    /// What carries the messages, for people: `tcp on eth0 (libfabric 2.5)`.
    pub fn description(&self) -> String {
        format!("{} in {} (libfabric {})", self.address.provider, self.address.fabric, self.address.library)
    }

    fn engine(&mut self) -> Result<&mut Engine, TransportError> {
        self.engine.as_mut().ok_or(TransportError::Closed)
    }
}

impl Transport for FabricTransport {
    fn slot_bytes(&self) -> usize {
        self.address.slot_bytes as usize
    }

    fn open(&mut self, receives_from: &[Rank], sends_to: &[Rank]) -> Result<(), TransportError> {
        let engine = self.engine()?;
        for &peer in sends_to {
            engine.open_send(peer)?;
        }
        for &peer in receives_from {
            engine.open_receive(peer)?;
        }
        Ok(())
    }

    #[expect(unsafe_code, reason = "the trait's contract, passed on")]
    unsafe fn try_send(
        &mut self,
        to: Rank,
        header: Header,
        payload: *const [u8],
        token: SendToken,
    ) -> Result<bool, TransportError> {
        // SAFETY: the caller's promise is the one that the engine asks for.
        unsafe { self.engine()?.try_send(to, header, payload, token) }
    }

    fn poll(&mut self, completed: &mut Vec<SendToken>) -> Result<(), TransportError> {
        self.engine()?.poll(completed)
    }

    fn arrived(&mut self, from: Rank) -> Result<Option<Message<'_>>, TransportError> {
        self.engine()?.arrived(from)
    }

    fn release(&mut self, from: Rank) -> Result<(), TransportError> {
        self.engine()?.release(from)
    }

    fn wait(&mut self, timeout: Duration) {
        if let Some(engine) = &mut self.engine {
            engine.wait(timeout);
        }
    }

    fn close(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.close();
        }
    }
}

impl Drop for FabricTransport {
    fn drop(&mut self) {
        self.close();
    }
}

/// Providers notice only when they bind that an address is not theirs, and do not say which.
fn with_address(error: FabricError, config: &FabricConfig) -> FabricError {
    match (error, config.local_address) {
        (FabricError::Call { call, code: code @ libc::EADDRNOTAVAIL, text }, Some(address)) => {
            FabricError::Call { call, code, text: format!("{text}: {address} is no address of this machine") }
        }
        (error, _) => error,
    }
}

impl From<FabricError> for TransportError {
    fn from(error: FabricError) -> Self {
        match error {
            FabricError::Call { call, code, text } => TransportError::Call { call, code, cause: text },
            FabricError::Library(error) => {
                TransportError::Call { call: "opening libfabric", code: 0, cause: error.to_string() }
            }
            error @ FabricError::NoProvider { .. } => TransportError::Call {
                call: "fi_getinfo",
                code: libfabric_sys::FI_ENODATA,
                cause: error.to_string(),
            },
        }
    }
}
