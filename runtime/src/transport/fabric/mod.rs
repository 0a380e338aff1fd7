//! libfabric between nodes: messages over reliable-datagram endpoints, one per card.
//!
//! Each rank makes a [`FabricTransport`], which gives an address; the bootstrap carries all addresses to all ranks;
//! [`FabricTransport::connect`] takes them in. Nothing is sent before a pair is opened.
//!
//! # Parts
//!
//! The [`engine`] does what is asked for, on the rails and peers of the [`traffic`]. It leaves to a [`protocol`] what the
//! operations of a message are: those of messages ([`tagged`]) or of writes ([`direct`]).
//!
//! # Protocol
//!
//! An ordered pair of ranks has a few slots at the receiver. For each slot and generation one message travels, its
//! pieces into receives that were posted for exactly their tags; and before it, for several slots at a time ([`credit`]),
//! one credit travels the other way, the receiver's word that these receives are posted, again into a receive posted for
//! exactly its tag. The first credits open the pair. Nothing is known from the order in which anything arrives, no message meets a receiver that is not
//! ready, and a credit that comes before its receiver opened waits in the provider's queue of unexpected messages, 16
//! bytes long. A message's bytes go from the caller's memory behind a header from ours, as one send of two parts.
//!
//! # Rails
//!
//! A rank has an endpoint on each of its cards, and rail i talks to rail i. A message longer than a piece is cut, and its
//! pieces go over all rails at once; shorter ones take turns ([`slot`]). It is here when all its pieces are. Counts of what
//! went over each rail are kept ([`FabricTransport::counts`]).
//!
//! # Providers
//!
//! On tcp the endpoint progresses in our calls only; the first send to a peer makes the connection, and the provider
//! refuses sends until it is there. EFA's reliable-datagram fabric is the same code. There, every queue is polled whenever
//! one is, as an operation on one rail may wait for what another receives; and each failed operation is told by card,
//! cause and remedy ([`diagnosis`]). It runs in the tests on soft EFA devices, and was never run on EFA hardware.
//!
//! On EFA devices that write into others' memory (p5 and later), messages are such writes instead, into the same kind of
//! slots, and credits too ([`direct`]): nothing is matched or copied on the way. On EFA a rail that fails is left, and what it
//! had goes over the others.
//!
//! # What it cannot do
//!
//! A peer that died is seen by who sends to it; one that only waits for it learns from the bootstrap. A rank that
//! closes while its peers still expect messages of it may take some with it, though their sends are complete: let all
//! ranks meet in the bootstrap first.

mod address;
pub mod affinity;
mod credit;
mod diagnosis;
mod direct;
mod engine;
#[doc(hidden)]
pub mod fuzzing;
mod inbox;
mod operation;
mod protocol;
mod provider;
mod rail;
mod rails;
pub(crate) mod reads;
mod registrations;
mod slot;
mod tagged;
#[cfg(test)]
pub(crate) mod tests;
mod traffic;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use efarun_wire::Rank;

use self::address::Address;
use self::credit::Blocks;
use self::direct::Direct;
use self::engine::Engine;
pub use self::provider::{Network, efa_devices};
use self::slot::Cut;
use self::tagged::Tagged;
pub use self::traffic::Counts;
use super::kept::Kept;
use super::{Header, Message, SendToken, Transport, TransportError};
use crate::fabric::{FabricError, Info, Library};
use crate::warning;

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
    /// On EFA, the cards to use, one per rail, by the kernel's names; none is the first that the provider offers. All
    /// ranks need as many.
    pub devices: Vec<String>,
    /// Messages that a pair of ranks may have in flight at most; a few less than that at any time, as they are granted
    /// several at once.
    pub slots: usize,
    /// The largest piece of a message that goes over one rail, a multiple of 128.
    pub piece_bytes: usize,
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
            devices: Vec::new(),
            slots: 8,
            piece_bytes: match network {
                Network::Efa => READ_BYTES,
                // Measured on loopback tcp: 256 KiB carried up to 1.6 times what 64 KiB did.
                Network::EfaDirect | Network::Tcp => 256 << 10,
            },
            patience: Duration::from_secs(5),
        }
    }

    /// The same over these cards: slots enough that short messages take turns on all of them, and shorter pieces where
    /// there are several, so that a message of half a megabyte uses four.
    pub fn over(mut self, devices: Vec<String>) -> Self {
        if devices.len() > 1 {
            self.piece_bytes = match self.network {
                Network::EfaDirect => 128 << 10,
                // With its header, no longer than what the provider sends without an answer: see `tagged`.
                Network::Efa | Network::Tcp => (64 << 10) - 128,
            };
            self.slots = self.slots.next_multiple_of(devices.len());
        }
        self.devices = devices;
        self
    }
}

/// From this length on EFA's provider has the receiving card read a message out of the sender's memory
/// (`FI_EFA_INTER_MIN_READ_MESSAGE_SIZE`), straight to where it is received. Shorter ones go through memory of its own and are
/// copied once more on either side.
const READ_BYTES: usize = 1 << 20;

/// The transport of one rank over a network.
#[derive(Debug)]
pub struct FabricTransport {
    /// None after closing.
    engine: Option<Box<Engine>>,
    address: Address,
    cut: Cut,
    /// Over what each peer is reached, on EFA.
    ways: HashMap<Rank, String>,
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
    /// With more than 2^16 ranks, with no slots or more than 32, with more than 32 devices, or with pieces of less than 32
    /// KiB, or of 2^26 bytes or more.
    pub fn new(config: &FabricConfig) -> Result<(Self, Vec<u8>), TransportError> {
        assert!(
            config.world_size <= operation::MAX_RANKS,
            "an operation has room for {} ranks",
            operation::MAX_RANKS
        );
        assert!(
            (1..=operation::MAX_SLOTS).contains(&config.slots),
            "an operation has room for {} slots",
            operation::MAX_SLOTS
        );
        assert!(
            config.devices.len() <= operation::MAX_PIECES,
            "an operation has room for {} pieces",
            operation::MAX_PIECES
        );
        assert!(config.piece_bytes < 1 << 26, "a header has room for 31 bits of length");
        assert!(config.piece_bytes >= slot::STAGED_BYTES, "what is copied is not cut");
        let library = Library::open()?;
        let infos = provider::choose(&library, config)?;
        let info = &infos[0];
        let cut = Cut { piece_bytes: config.piece_bytes, pieces: infos.len() };
        let engine = open(&infos, config, cut).map_err(|error| with_address(error, config))?;
        let address = Address {
            format: address::FORMAT,
            provider: info.provider().to_owned(),
            fabric: info.fabric_name().to_owned(),
            protocol: info.protocol(),
            library: library.version().to_string(),
            host: hostname::get()
                .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned()),
            slots: config.slots as u32,
            piece_bytes: config.piece_bytes as u32,
            rails: engine.addresses()?,
            mailbox: engine.mailbox(),
        };
        let bytes = address.to_bytes();
        let engine = Some(Box::new(engine));
        Ok((FabricTransport { engine, address, cut, ways: HashMap::new() }, bytes))
    }

    /// Learns the addresses of the ranks that this transport may reach; its own may be among them.
    ///
    /// # Errors
    ///
    /// [`TransportError::Incompatible`] for a rank that was set up differently, or whose address is none.
    pub fn connect(&mut self, me: Rank, addresses: &[(Rank, Vec<u8>)]) -> Result<(), TransportError> {
        let engine = self.engine.as_deref_mut().ok_or(TransportError::Closed)?;
        engine.set_rank(me);
        for (peer, bytes) in addresses.iter().filter(|(peer, _)| *peer != me) {
            let theirs = Address::parse(*peer, bytes)?;
            self.address.check(*peer, &theirs)?;
            engine.insert(*peer, &theirs)?;
            if self.address.provider == "efa" {
                self.ways.insert(*peer, self.address.way_to(&theirs));
            }
        }
        Ok(())
    }

    /// What carries the messages, for people: `tcp in 10.0.0.0/24 (libfabric 2.5)`, `efa on 4 rails (rdmap16s27,
    /// rdmap32s27, rdmap144s27, rdmap160s27; libfabric 2.5)`.
    pub fn description(&self) -> String {
        let Address { provider, fabric, library, rails, .. } = &self.address;
        if provider != "efa" {
            return format!("{provider} in {fabric} (libfabric {library})");
        }
        let name = if self.address.mailbox.is_some() { "efa-direct" } else { "efa" };
        let nics: Vec<&str> = rails.iter().map(|rail| rail.nic.as_str()).collect();
        let plural = if nics.len() == 1 { "" } else { "s" };
        format!("{name} on {} rail{plural} ({}; libfabric {library})", nics.len(), nics.join(", "))
    }

    /// Whether it runs on EFA devices.
    pub fn is_efa(&self) -> bool {
        self.address.provider == "efa"
    }

    /// What this rank has sent; zero after closing.
    pub fn counts(&self) -> Counts {
        self.engine.as_ref().map_or_else(Counts::default, |engine| engine.counts())
    }

    /// Closes as [`Transport::close`] does, and says whether everything did.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`] of `fi_close`: what the provider may still touch is left allocated.
    pub fn try_close(&mut self) -> Result<(), TransportError> {
        let close = |engine: Box<Engine>| engine.close();
        Ok(self.engine.take().map_or(Ok(()), close)?)
    }

    fn engine(&mut self) -> Result<&mut Engine, TransportError> {
        self.engine.as_deref_mut().ok_or(TransportError::Closed)
    }
}

impl Transport for FabricTransport {
    fn slot_bytes(&self) -> usize {
        self.cut.slot_bytes()
    }

    fn credits(&self) -> usize {
        Blocks::of(self.address.slots as usize).promised()
    }

    /// Where the provider has cards read long messages, and pieces are long enough for that.
    fn quick_bytes(&self) -> Option<usize> {
        let reads = self.is_efa() && self.address.mailbox.is_none();
        (reads && self.cut.piece_bytes >= READ_BYTES).then_some(READ_BYTES)
    }

    fn open(&mut self, receives_from: &[Rank], sends_to: &[Rank]) -> Result<(), TransportError> {
        let engine = self.engine()?;
        engine.begin_operation();
        for &peer in sends_to {
            engine.open_send(peer)?;
        }
        for &peer in receives_from {
            engine.open_receive(peer)?;
        }
        Ok(())
    }

    fn keep(&mut self, memory: &Arc<Kept>) {
        if let Some(engine) = self.engine.as_deref_mut() {
            engine.keep(memory);
        }
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

    fn lands_from(&self) -> Option<usize> {
        self.engine.as_ref()?.lands_from()
    }

    #[expect(unsafe_code, reason = "the trait's contract, passed on")]
    unsafe fn expect_later(&mut self, from: Rank, ahead: usize, landing: *mut [u8]) {
        if let Some(engine) = self.engine.as_deref_mut() {
            // SAFETY: the caller's promise is the one that the engine asks for.
            unsafe { engine.expect_later(from, ahead, landing) };
        }
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

    fn stall(&self, peer: Rank) -> Option<String> {
        self.engine.as_ref()?.stall(peer)
    }

    fn way(&self, peer: Rank) -> Option<&str> {
        self.ways.get(&peer).map(String::as_str)
    }

    fn wait(&mut self, timeout: Duration) {
        if let Some(engine) = self.engine.as_deref_mut() {
            engine.wait(timeout);
        }
    }

    fn quiesced(&mut self) {
        if let Some(engine) = self.engine.as_deref_mut() {
            engine.quiesced();
        }
    }

    fn close(&mut self) {
        if let Err(error) = self.try_close() {
            let text = format_args!("an endpoint does not close, its memory is left allocated: {error}");
            warning::tell("fabric: endpoint not closed", text);
        }
    }
}

impl Drop for FabricTransport {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens a rail per info, with the network's protocol on them.
fn open(infos: &[Info], config: &FabricConfig, cut: Cut) -> Result<Engine, FabricError> {
    Ok(match config.network {
        Network::Tcp | Network::Efa => {
            let (traffic, protocol) = Tagged::open(infos, config, cut)?;
            Engine::new(traffic, Box::new(protocol))
        }
        Network::EfaDirect => {
            let (traffic, protocol) = Direct::open(infos, config, cut)?;
            Engine::new(traffic, Box::new(protocol))
        }
    })
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
