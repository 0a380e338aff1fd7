//! Reading other ranks' memory by the cards: above all GPU memory, with no memory of a host on the way.
//!
//! Each rank has a [`Room`] that is registered with its cards and that every other rank may read. A [`Reader`] reads pieces of
//! others' rooms into its own. Who may read what, and when, is not known here: ranks tell each other by other means.
//!
//! # Why reads
//!
//! They are the one thing that cards of a p4d and of a p5 both do, so that there is one way for both. Who reads knows when the
//! data is there, and nobody has to match or count anything; and what failed on one card is read again over another. It
//! costs half a round trip more than a write into memory that was granted before, which matters to short transfers only.
//!
//! # First contact
//!
//! The provider reads from a peer on fabric `efa` only after a handshake, which the peer answers in its own calls; and on
//! `efa-direct` the peer's card must know ours. So all ranks connect before anyone reads, and then [prove](Reader::prove) every
//! way while all of them poll. Afterwards the cards read by themselves.
//!
//! # GPUs before Hopper
//!
//! There, what a card wrote into the GPU's memory may be overtaken by the word that it is there. A read of the same memory by
//! the same card comes back behind all that it wrote before; so one follows what was read, over each card that read any
//! ([`ReaderConfig::flushes`]), and only then it counts as there.
//!
//! # What it cannot do
//!
//! A peer that died is seen by who reads from it; who is read from learns from the bootstrap.
//!
//! # Safety
//!
//! Rooms stay allocated while a Reader has them: regions and endpoints are closed before. What is read into is the room only,
//! where and while its owner said so by [`Reader::begin`]; on the host nobody looks there before [`Reader::poll`] has said that
//! all is there.
#![expect(
    unsafe_code,
    reason = "hands memory to the provider; the module's Safety paragraph says why it is sound"
)]

mod address;
mod cut;
mod room;

use std::collections::VecDeque;
use std::sync::Arc;

use efarun_wire::Rank;

use self::address::ReaderAddress;
use self::cut::{PIECE_BYTES, pieces};
pub(crate) use self::room::Room;
use super::diagnosis::{self, Way};
use super::operation::CONTEXT_BYTES;
use super::provider::{self, Network};
use super::rail::Rail;
use super::rails::Rails;
use crate::fabric::{
    Access, Completion, FabricAddress, FabricError, Failure, Library, Memory, MemoryRegion, Target,
};
use crate::transport::TransportError;
use crate::warning;

/// What a peer says of its room, as it would be written again.
pub(super) fn read_again(peer: Rank, bytes: &[u8]) -> Result<Vec<u8>, TransportError> {
    let address = ReaderAddress::parse(peer, bytes)?;
    address.check(peer, &address)?;
    Ok(address.to_bytes())
}

/// How a rank's Reader is made. All ranks need the same, but for the cards' names.
#[derive(Clone, Debug)]
pub(crate) struct ReaderConfig {
    /// World size.
    pub(crate) world_size: u32,
    /// An EFA network.
    pub(crate) network: Network,
    /// The cards, one per rail.
    pub(crate) devices: Vec<String>,
    /// Whether what was read is there only after one more read of its own.
    pub(crate) flushes: bool,
}

/// Reads others' rooms into this rank's.
#[derive(Debug)]
pub(crate) struct Reader {
    // First, so that endpoints close before what they use.
    rails: Vec<ReadRail>,
    room: Arc<Room>,
    /// A cell that flushes read into.
    sink: Memory,
    contexts: Memory,
    /// Of each context, the piece that is under way by it,
    under_way: Vec<Option<Piece>>,
    /// and those that none is.
    free: Vec<usize>,
    wanted: VecDeque<Piece>,
    sources: Vec<Option<Source>>,
    address: ReaderAddress,
    flushes: bool,
    /// Rails that have read what was not flushed.
    unflushed: Rails,
    next_rail: usize,
    failure: Option<TransportError>,
    // Kept for their room.
    completions: Vec<Completion>,
    failures: Vec<Failure>,
}

/// A card, and what it was told of.
#[derive(Debug)]
struct ReadRail {
    // First, so that the endpoint closes before its regions.
    rail: Rail,
    room: MemoryRegion,
    sink: MemoryRegion,
    /// This endpoint itself, for flushes.
    own: FabricAddress,
}

/// Where a peer's room is.
#[derive(Debug)]
struct Source {
    address: ReaderAddress,
    /// Its endpoints, by rail.
    endpoints: Vec<FabricAddress>,
    /// Rails that do not lead there any more.
    avoided: Rails,
}

/// What one operation reads.
#[derive(Clone, Copy, Debug)]
enum Piece {
    /// Of a peer's room, over a rail or one that takes its place.
    Of { peer: Rank, from: usize, into: usize, len_bytes: usize, rail: usize },
    /// Of this rank's own, over a rail.
    Flush { rail: usize },
}

impl Reader {
    /// Opens an endpoint on each card and tells it of the room. Also returns the address that [`Reader::connect`] of all other
    /// ranks needs.
    ///
    /// # Errors
    ///
    /// [`TransportError::Call`]: where cards do not read by themselves, or do not reach the GPU's memory, that is why.
    pub(crate) fn open(config: &ReaderConfig, room: Arc<Room>) -> Result<(Self, Vec<u8>), TransportError> {
        let library = Library::open()?;
        let infos =
            provider::choose_for_reads(&library, config.network, &config.devices, room.gpu().is_some())?;
        let sink = Memory::new(FLUSH_BYTES);
        let world_size = config.world_size as usize;
        let mut rails = Vec::with_capacity(infos.len());
        for info in &infos {
            let rail = Rail::open(info, world_size, 1, PIECE_BYTES)?;
            if !rail.endpoint.reads_by_device() {
                return Err(TransportError::Call {
                    call: "fi_getopt(FI_OPT_EFA_EMULATED_READ)",
                    code: libc::EOPNOTSUPP,
                    cause: format!("{} does not read others' memory by itself", rail.nic),
                });
            }
            // SAFETY: room and sink are dropped after the rail.
            let (room, sink) =
                unsafe { (room.register(&rail)?, rail.register(sink.whole(), Access::Reads)?) };
            let own = rail.insert(&rail.address()?.raw)?;
            rails.push(ReadRail { rail, room, sink, own });
        }
        let address = ReaderAddress::new(&infos[0], &library, &rails, &room)?;
        let bytes = address.to_bytes();
        let reader = Reader {
            rails,
            room,
            sink,
            contexts: Memory::new(MOST_UNDER_WAY * CONTEXT_BYTES),
            under_way: vec![None; MOST_UNDER_WAY],
            free: (0..MOST_UNDER_WAY).collect(),
            wanted: VecDeque::new(),
            sources: (0..world_size).map(|_| None).collect(),
            address,
            flushes: config.flushes,
            unflushed: Rails::default(),
            next_rail: 0,
            failure: None,
            completions: Vec::new(),
            failures: Vec::new(),
        };
        Ok((reader, bytes))
    }

    /// Learns where a peer's room is. Nobody reads before all ranks have done so.
    ///
    /// # Errors
    ///
    /// [`TransportError::Incompatible`] for a peer that was set up differently, or bytes that are no address.
    pub(crate) fn connect(&mut self, peer: Rank, address: &[u8]) -> Result<(), TransportError> {
        let theirs = ReaderAddress::parse(peer, address)?;
        self.address.check(peer, &theirs)?;
        let ways = self.rails.iter().zip(&theirs.rails);
        let endpoints: Result<_, FabricError> =
            ways.map(|(ours, theirs)| ours.rail.insert(&theirs.raw)).collect();
        let source = self.sources.get_mut(peer.index()).ok_or(TransportError::NoRoute { peer })?;
        *source = Some(Source { address: theirs, endpoints: endpoints?, avoided: Rails::default() });
        Ok(())
    }

    /// The cards, for people.
    pub(crate) fn nics(&self) -> impl Iterator<Item = &str> {
        self.rails.iter().map(|rail| rail.rail.nic.as_str())
    }

    /// Begins to read from a place of a peer's room into a place of this rank's, in pieces over all rails.
    ///
    /// # Errors
    ///
    /// [`TransportError::NoRoute`]; [`TransportError::Incompatible`] for a place that is not in the peer's room.
    ///
    /// # Panics
    ///
    /// When the place is not in this rank's room.
    pub(crate) fn begin(
        &mut self,
        peer: Rank,
        from: usize,
        into: usize,
        len_bytes: usize,
    ) -> Result<(), TransportError> {
        self.check_place(peer, from, into, len_bytes)?;
        for range in pieces(len_bytes, self.rails.len()) {
            let rail = self.next_rail;
            self.next_rail = (rail + 1) % self.rails.len();
            let (from, into) = (from + range.start, into + range.start);
            self.wanted.push_back(Piece::Of { peer, from, into, len_bytes: range.len(), rail });
        }
        Ok(())
    }

    /// Begins to read one piece over each rail, one behind the other.
    ///
    /// # Errors
    ///
    /// As [`Reader::begin`].
    ///
    /// # Panics
    ///
    /// As [`Reader::begin`], for all pieces together.
    pub(crate) fn prove(
        &mut self,
        peer: Rank,
        from: usize,
        into: usize,
        len_bytes: usize,
    ) -> Result<(), TransportError> {
        self.check_place(peer, from, into, len_bytes * self.rails.len())?;
        let piece = |rail| Piece::Of { peer, from, into: into + rail * len_bytes, len_bytes, rail };
        self.wanted.extend((0..self.rails.len()).map(piece));
        Ok(())
    }

    /// Goes on. Whether all that was begun is there.
    ///
    /// # Errors
    ///
    /// [`TransportError::PeerLost`] for a peer that cannot be read from any more, [`TransportError::Call`] for what fails here;
    /// the same ever after.
    pub(crate) fn poll(&mut self) -> Result<bool, TransportError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.go_on().inspect_err(|error| self.failure = Some(error.clone()))
    }

    /// The peer of the longest wait, while there is one.
    pub(crate) fn waits_for(&self) -> Option<Rank> {
        let of = |piece: &Piece| match piece {
            Piece::Of { peer, .. } => Some(*peer),
            Piece::Flush { .. } => None,
        };
        self.under_way.iter().flatten().chain(&self.wanted).find_map(of)
    }

    /// How many rails lead to a peer.
    #[cfg(test)]
    pub(crate) fn rails_to(&self, peer: Rank) -> usize {
        let source = self.sources[peer.index()].as_ref().expect("it is connected");
        source.avoided.left(self.rails.len())
    }

    /// Closes the endpoints: when it returns, no card touches the room any more.
    ///
    /// # Errors
    ///
    /// [`FabricError::Call`] of `fi_close`: the room is left allocated, as what a card may still touch must stay.
    pub(crate) fn close(mut self) -> Result<(), FabricError> {
        let mut result = Ok(());
        for ReadRail { rail, room, sink, .. } in std::mem::take(&mut self.rails) {
            match rail.close() {
                Ok(_) => drop((room, sink)),
                Err(error) => {
                    std::mem::forget((room, sink));
                    result = Err(error);
                }
            }
        }
        if result.is_err() {
            std::mem::forget(self);
        }
        result
    }

    fn check_place(
        &self,
        peer: Rank,
        from: usize,
        into: usize,
        len_bytes: usize,
    ) -> Result<(), TransportError> {
        let source = self.sources.get(peer.index()).and_then(Option::as_ref);
        let theirs = source.ok_or(TransportError::NoRoute { peer })?.address.room_bytes;
        let is_in = |start: usize, room: usize| start.checked_add(len_bytes).is_some_and(|end| end <= room);
        assert!(is_in(into, self.room.len_bytes()), "{len_bytes} bytes at {into} of this rank's room");
        if !is_in(from, theirs as usize) {
            let cause = format!("it gave {len_bytes} bytes at {from} of its room of {theirs} to be read");
            return Err(TransportError::Incompatible { peer, cause });
        }
        Ok(())
    }

    fn go_on(&mut self) -> Result<bool, TransportError> {
        for index in 0..self.rails.len() {
            let rail = &self.rails[index].rail;
            rail.read(&mut self.completions, &mut self.failures).map_err(|error| rail.broken(error))?;
            for completion in std::mem::take(&mut self.completions) {
                if let Some(Piece::Of { .. }) = self.take(completion.context) {
                    self.unflushed = self.unflushed.with(index);
                }
            }
            for failure in std::mem::take(&mut self.failures) {
                self.take_failure(index, &failure)?;
            }
        }
        self.post()?;
        if !self.is_idle() {
            return Ok(false);
        }
        let unflushed = std::mem::take(&mut self.unflushed);
        if self.flushes {
            let rails = (0..self.rails.len()).filter(|rail| unflushed.has(*rail));
            self.wanted.extend(rails.map(|rail| Piece::Flush { rail }));
            self.post()?;
        }
        Ok(self.is_idle())
    }

    fn is_idle(&self) -> bool {
        self.wanted.is_empty() && self.free.len() == self.under_way.len()
    }

    /// Posts what there is room for.
    fn post(&mut self) -> Result<(), TransportError> {
        while let (Some(&piece), Some(&context)) = (self.wanted.front(), self.free.last()) {
            if !self.post_piece(piece, context)? {
                break;
            }
            self.under_way[context] = self.wanted.pop_front();
            self.free.pop();
        }
        Ok(())
    }

    fn post_piece(&self, piece: Piece, context: usize) -> Result<bool, TransportError> {
        let context = self.contexts.piece(context * CONTEXT_BYTES..(context + 1) * CONTEXT_BYTES).cast();
        let (index, endpoint, memory, source) = match piece {
            Piece::Of { peer, from, into, len_bytes, rail } => {
                let source = self.sources[peer.index()].as_ref().ok_or(TransportError::NoRoute { peer })?;
                let index = source.avoided.way_round(rail, self.rails.len());
                let target = Target {
                    address: source.address.room_address + from as u64,
                    key: source.address.room_keys[index],
                };
                (index, source.endpoints[index], self.room.piece(into..into + len_bytes), target)
            }
            Piece::Flush { rail } => {
                let target = Target { address: self.address.room_address, key: self.address.room_keys[rail] };
                (rail, self.rails[rail].own, self.sink.whole(), target)
            }
        };
        let ReadRail { rail, room, sink, .. } = &self.rails[index];
        let region = if matches!(piece, Piece::Flush { .. }) { sink } else { room };
        // SAFETY: the memory is the room's or the sink, which outlive the endpoint, and is not looked at meanwhile; the
        // context is used by nothing else.
        let posted = unsafe { rail.endpoint.post_read(endpoint, memory, region, source, context) };
        posted.map_err(|error| rail.broken(error))
    }

    /// The piece that was under way by a context, which is free again.
    fn take(&mut self, address: usize) -> Option<Piece> {
        let start = self.contexts.whole().cast::<u8>().addr();
        let index = address.checked_sub(start)? / CONTEXT_BYTES;
        let piece = self.under_way.get_mut(index)?.take();
        if piece.is_some() {
            self.free.push(index);
        }
        piece
    }

    /// Reads over another rail what found no way over this one.
    fn take_failure(&mut self, rail: usize, failure: &Failure) -> Result<(), TransportError> {
        let nic = &self.rails[rail].rail.nic;
        let text = format!("{}, on {nic}", failure.text);
        let piece = self.take(failure.context);
        let Some(Piece::Of { peer, .. }) = piece else {
            return Err(TransportError::Call { call: "fi_read", code: failure.code, cause: text });
        };
        let rails = self.rails.len();
        let source = self.sources[peer.index()].as_mut().ok_or(TransportError::NoRoute { peer })?;
        let nic = &self.rails[rail].rail.nic;
        let peer_nic = source.address.rails.get(rail).map_or("", |rail| &rail.nic);
        let cause = diagnosis::explain(failure, Way { nic, peer_nic, peer_host: &source.address.host }, true);
        let without = source.avoided.with(rail);
        let left = without.left(rails);
        if !diagnosis::is_of_the_way(failure) || left == 0 {
            return Err(TransportError::PeerLost { peer, cause });
        }
        if without != source.avoided {
            source.avoided = without;
            let text = format_args!(
                "reads from rank {peer} over {left} of {rails} cards, without one that failed: {cause}"
            );
            warning::tell(&format!("fabric: reads without rail {rail}"), text);
        }
        self.wanted.extend(piece);
        Ok(())
    }
}

/// What a flush reads.
const FLUSH_BYTES: usize = 8;
/// How many pieces are under way at once, on all rails together; a rail's queue has room for as many.
const MOST_UNDER_WAY: usize = 128;
