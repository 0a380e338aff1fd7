//! Transfers past the hosts' memory: cards read from one GPU's memory into another's.
//!
//! Whether they can is agreed by all ranks when a relay is made: each opens its cards for GPU memory, tells the others where
//! its room is, and reads from every other rank over every card; only when all of them have found there what belongs there is
//! it taken ([`agree`]). So what stands against it shows before the first transfer: a provider without CUDA, a kernel without
//! the module, a GPU that other devices do not reach, a way that a security group closes. Then transfers go through the
//! hosts' memory, and rank 0 says so and why.
//!
//! For each slice ([`exchange`]) who has put it says so, by a message of the World that carries the lane; who gets it reads
//! it, and says when it has. So a slice costs two messages and a read, which are on their way for other slices meanwhile; and
//! the hosts' processors touch none of the data. What is short is said itself, by one message.
//!
//! Within an exchange every peer is heard, read from and answered when it is there, whether or not others are. The lane's next one begins
//! when all of it is done, which is right for transfers, of which all ranks have the same; messages, of which they need not, go
//! otherwise ([`far`](super::far)).

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::carrier::{Plan, part_of};
use super::parameters::SLOT_BYTES;
use super::shorts::Shorts;
use super::staging::{INBOX, OUTBOX, ROOM_BYTES, Staging};
use super::transfer::is_short;
use super::words::{Get, Heard, Hearing, Word};
use crate::coll::executor::talk::{self, Expected, Next, Said, Talk, Trouble};
use crate::config::GpuDirect;
use crate::cuda::{CudaError, Device, DeviceMemory};
use crate::error::Error;
use crate::transport::TransportError;
use crate::transport::fabric::reads::{Reader, ReaderConfig, Room};
use crate::warning;
use crate::world::World;

/// What transfers go through: memory of the GPU with a Reader for each lane, or memory of the host.
///
/// All ranks must call it, with as many Worlds in the same order.
pub(super) fn agree(device: &Device, worlds: &mut [World]) -> Result<(Staging, Vec<Reader>), Error> {
    let Some(first) = worlds.first() else { return host(device, Rank(0)) };
    let (rank, wanted) = (first.rank(), first.config().gpu_direct);
    // All ranks have agreed on the network, and on this setting.
    let refusal = if wanted == GpuDirect::Off {
        None
    } else if first.cards().is_none() {
        Some("EFA is not the network between the nodes".to_owned())
    } else {
        match direct(device, worlds)? {
            Ok(Direct { room, readers }) => return Ok((Staging::Gpu(room), readers)),
            Err(refusal) => Some(refusal),
        }
    };
    let is_efa = worlds[0].cards().is_some();
    match refusal {
        Some(cause) if wanted == GpuDirect::Required => Err(Error::Setup {
            rank,
            transport: GPU_DIRECT,
            cause: format!("{cause} (EFARUN_GPUDIRECT=required)"),
        }),
        Some(cause) => {
            if is_efa && rank == Rank(0) {
                let text = format_args!(
                    "GPU memory goes through the hosts' memory between nodes, as cards do not reach it: {cause}"
                );
                warning::tell("relay: no GPUDirect", text);
            }
            host(device, rank)
        }
        None => host(device, rank),
    }
}

fn host(device: &Device, rank: Rank) -> Result<(Staging, Vec<Reader>), Error> {
    let staging = Staging::on_host(device).map_err(|cause| Error::Gpu { rank, cause })?;
    Ok((staging, Vec::new()))
}

/// Something that goes well on every rank, or the reason of the first on which it does not.
type Everywhere<T> = Result<T, String>;

/// The addresses of a rank's Readers, lane by lane.
type Addresses = Vec<Vec<u8>>;

/// A room on the GPU with a Reader for each lane.
struct Direct {
    room: Arc<Room>,
    readers: Vec<Reader>,
}

/// Readers that work on every rank, or why they do not on one.
fn direct(device: &Device, worlds: &mut [World]) -> Result<Everywhere<Direct>, Error> {
    let opened = open(device, worlds);
    let mine = match &opened {
        Ok((_, addresses)) => Ok(addresses.clone()),
        Err(cause) => Err(cause.clone()),
    };
    let lanes = worlds.len();
    let all = match round(&mut worlds[0], "gpu-reads", &mine)? {
        Ok(all) => all,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let (Direct { room, mut readers }, _) = opened.expect("no rank was refused, this one neither");
    let me = worlds[0].rank();
    let connected = connect(me, &mut readers, &all, lanes);
    // Nobody reads from a rank whose cards do not know the reader's.
    if let Err(refusal) = round(&mut worlds[0], "gpu-reads-connected", &connected.map(|()| Vec::new()))? {
        return Ok(Err(refusal));
    }
    let proven = prove(me, &room, &mut readers, all.len());
    let proven = proven.map(|()| Vec::new());
    let world = &mut worlds[0];
    if let Err(refusal) = polling(&mut readers, || round(world, "gpu-reads-proven", &proven))? {
        return Ok(Err(refusal));
    }
    log::info!(
        "GPU memory is read by the cards between nodes: {}",
        readers[0].nics().collect::<Vec<_>>().join(", ")
    );
    Ok(Ok(Direct { room, readers }))
}

/// Does something that waits for others, who may still read from here for the first time: that this rank's provider must answer.
pub(super) fn polling<T: Send>(readers: &mut [Reader], wait: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let waits = scope.spawn(wait);
        while !waits.is_finished() {
            for reader in &mut *readers {
                // What fails now is told by who reads.
                let _ = reader.poll();
            }
            thread::sleep(NAP);
        }
        waits.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A room on the GPU and a Reader for each lane, with their addresses; or why there are none.
fn open(device: &Device, worlds: &[World]) -> Result<(Direct, Addresses), String> {
    let cuda = |error: CudaError| error.to_string();
    if !device.is_reached_by_devices().map_err(cuda)? {
        return Err(format!("{device:?} is not reached by other devices"));
    }
    let mut memory: DeviceMemory<u64> =
        DeviceMemory::zeroed(device, ROOM_BYTES / size_of::<u64>()).map_err(cuda)?;
    memory.end_copies_before_saying_so().map_err(cuda)?;
    memory.copy_from_host(OUTBOX, &proof(worlds[0].rank())).map_err(cuda)?;
    let flushes = device.compute_capability().map_err(cuda)?.0 < ORDERED_FROM;
    let room = Arc::new(Room::Gpu(memory));
    let (mut readers, mut addresses) = (Vec::new(), Vec::new());
    for world in worlds {
        let Some((network, devices)) = world.cards() else { return Err("a lane has no cards".to_owned()) };
        let config =
            ReaderConfig { world_size: world.world_size(), network, devices: devices.to_vec(), flushes };
        let (reader, address) =
            Reader::open(&config, Arc::clone(&room)).map_err(|error: TransportError| error.to_string())?;
        readers.push(reader);
        addresses.push(address);
    }
    Ok((Direct { room, readers }, addresses))
}

/// Gives what this rank has, or why it has nothing, to all; and what all have, or the first rank's reason.
fn round(
    world: &mut World,
    id: &str,
    mine: &Result<Addresses, String>,
) -> Result<Everywhere<Vec<Addresses>>, Error> {
    let bytes = postcard::to_allocvec(mine).expect("strings and bytes can be encoded");
    let all = world.exchange(id, None, bytes)?;
    let parse = |(rank, bytes): (usize, &Vec<u8>)| {
        let said: Result<Result<Addresses, String>, _> = postcard::from_bytes(bytes);
        let said = said.unwrap_or_else(|_| Err("it runs another efarun".to_owned()));
        let host = world.topology().hostname(Rank(rank as u32));
        said.map_err(|cause| format!("rank {rank} on {host}: {cause}"))
    };
    Ok(all.iter().enumerate().map(parse).collect())
}

fn connect(me: Rank, readers: &mut [Reader], all: &[Addresses], lanes: usize) -> Result<(), String> {
    for (peer, addresses) in (0..).map(Rank).zip(all).filter(|(peer, _)| *peer != me) {
        if addresses.len() != lanes {
            return Err(format!("rank {peer} has {} lanes instead of {lanes}", addresses.len()));
        }
        for (reader, address) in readers.iter_mut().zip(addresses) {
            reader.connect(peer, address).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Reads from every rank over every card of every lane, and looks at what came.
fn prove(me: Rank, room: &Room, readers: &mut [Reader], ranks: usize) -> Result<(), String> {
    let Some(memory) = room.gpu() else { return Err("the room is not on a GPU".to_owned()) };
    let peers = || (0..ranks as u32).map(Rank).filter(|peer| *peer != me);
    let cards = readers.first().map_or(0, |reader| reader.nics().count());
    let deadline = Instant::now() + PATIENCE;
    for peer in peers() {
        for (lane, reader) in readers.iter_mut().enumerate() {
            let into = INBOX + lane * cards * PROOF_BYTES;
            reader.prove(peer, OUTBOX, into, PROOF_BYTES).map_err(|error| error.to_string())?;
        }
        // All of them, as others may be further on, or not so far, and need this rank's answer on another lane.
        while !poll_all(readers).map_err(|error| error.to_string())? {
            if Instant::now() > deadline {
                return Err(format!(
                    "rank {peer} was not read from in {PATIENCE:?}, and no card says why: its host must answer first; see \
                     whether the security group lets all through both ways"
                ));
            }
        }
        let mut found = vec![0; readers.len() * cards * PROOF_WORDS];
        memory.copy_to_host(INBOX / size_of::<u64>(), &mut found).map_err(|error| error.to_string())?;
        for (number, found) in found.chunks(PROOF_WORDS).enumerate() {
            if found != proof(peer) {
                let (lane, card) = (number / cards, number % cards);
                return Err(format!(
                    "what was read from rank {peer} over card {card} of lane {lane} is not what is there"
                ));
            }
        }
    }
    Ok(())
}

/// Whether all that was begun on any lane is there.
fn poll_all(readers: &mut [Reader]) -> Result<bool, TransportError> {
    readers.iter_mut().try_fold(true, |are_there, reader| Ok(reader.poll()? && are_there))
}

/// What a rank has in its outbox to be found there.
fn proof(rank: Rank) -> [u64; PROOF_WORDS] {
    std::array::from_fn(|index| (u64::from(rank.0) + 1) << 32 | 0xEFA << 8 | index as u64)
}

/// A rank's part in what the plan says of a slice.
pub(super) fn exchange(
    world: &mut World,
    reader: &mut Reader,
    plan: &Plan,
    (channel, slice): (usize, usize),
    shorts: &mut Shorts,
) -> Result<(), Error> {
    let place = |index: usize| channel * SLOT_BYTES + index * plan.slice_bytes;
    let len = |bytes: usize| part_of(plan, bytes, slice);
    let has_part = |&&(_, _, bytes): &&(Rank, usize, usize)| len(bytes) > 0;
    let sends: Vec<_> = plan.sends.iter().filter(has_part).collect();
    let receives: Vec<_> = plan.receives.iter().filter(has_part).collect();
    let passes_on = if receives.is_empty() { &[][..] } else { &plan.passes_on };
    let peers = sends.iter().chain(&receives).map(|(peer, ..)| *peer);
    let mut peers: Vec<Rank> = peers.chain(passes_on.iter().copied()).collect();
    if peers.is_empty() {
        return Ok(());
    }
    peers.sort_unstable();
    peers.dedup();
    let Shorts { put, got } = shorts;
    let mut parts = got.parts_mut();
    let get =
        |&&(from, _, bytes): &&(Rank, usize, usize)| Get { from, len: len(bytes), is_short: is_short(bytes) };
    let space = |&&(_, index, bytes): &&(Rank, usize, usize)| match is_short(bytes) {
        true => Space::Host(&mut parts.take(index)[..bytes]),
        false => Space::Room { into: INBOX + place(index), len: len(bytes) },
    };
    let unsaid = Vec::with_capacity(peers.len());
    let mut talk = Exchange {
        peers,
        reader,
        hearing: Hearing::new(receives.iter().map(get).collect()),
        spaces: receives.iter().map(space).collect(),
        unanswered: Vec::new(),
        passes_on,
        unsaid,
    };
    for &&(to, index, bytes) in &sends {
        let word = match is_short(bytes) {
            true => Word::Whole(&put.of(index)[..bytes]),
            false => Word::Ready { at: (OUTBOX + place(index)) as u64, len: len(bytes) as u64 },
        };
        talk.give(to, word);
    }
    world.talk(&mut talk)
}

/// Where something goes that this rank gets.
enum Space<'s> {
    Host(&'s mut [u8]),
    Room { into: usize, len: usize },
}

/// A rank's part in a slice, under way.
struct Exchange<'e> {
    peers: Vec<Rank>,
    reader: &'e mut Reader,
    hearing: Hearing,
    /// Of each get.
    spaces: Vec<Space<'e>>,
    /// Of whom cards read, as often as they do.
    unanswered: Vec<Rank>,
    /// To whom the first get goes on, while it has not.
    passes_on: &'e [Rank],
    unsaid: Vec<Said>,
}

impl Exchange<'_> {
    fn give(&mut self, to: Rank, word: Word<'_>) {
        if let Word::Ready { .. } = word {
            self.hearing.gave(to);
        }
        self.unsaid.push(Said::word(to, word.to_bytes()));
    }

    fn pass_on(&mut self, word: Word<'_>) {
        for &to in std::mem::take(&mut self.passes_on) {
            self.give(to, word);
        }
    }

    /// Says of all that was being read that it was.
    fn answer(&mut self) {
        let done = |from| Said::word(from, Word::Done.to_bytes());
        self.unsaid.extend(self.unanswered.drain(..).map(done));
        if let Some(&Space::Room { into, len }) = self.spaces.first()
            && self.hearing.has_heard_of(0)
        {
            self.pass_on(Word::Ready { at: into as u64, len: len as u64 });
        }
    }
}

impl Talk for Exchange<'_> {
    fn peers(&self) -> &[Rank] {
        &self.peers
    }

    fn expects(&mut self, peer: Rank) -> Option<Expected> {
        self.hearing.waits_for(peer).then_some(Expected::Word)
    }

    fn hear(&mut self, from: Rank, said: talk::Heard<'_>) -> Result<(), Trouble> {
        let talk::Heard::Word(said) = said else { unreachable!("only words are expected") };
        let heard = self.hearing.hear(from, said);
        let heard = heard.map_err(|difference| Trouble::Differs { peer: from, difference })?;
        match (heard, heard.get().map(|get| &mut self.spaces[get])) {
            (Heard::Slice { at, .. }, Some(&mut Space::Room { into, len })) => {
                self.reader.begin(from, at as usize, into, len).map_err(Trouble::Beside)?;
                self.unanswered.push(from);
            }
            (Heard::Whole { get, bytes }, Some(Space::Host(space))) => {
                space.copy_from_slice(bytes);
                if get == 0 {
                    self.pass_on(Word::Whole(bytes));
                }
            }
            (Heard::Nothing, _) => {}
            (heard, _) => unreachable!("{heard:?} has a space of its kind"),
        }
        Ok(())
    }

    fn go_on(&mut self, say: &mut VecDeque<Said>) -> Result<Next, Trouble> {
        if !self.unanswered.is_empty() && self.reader.poll().map_err(Trouble::Beside)? {
            self.answer();
        }
        say.extend(self.unsaid.drain(..));
        Ok(match (self.unanswered.first(), self.hearing.waits()) {
            (Some(&from), _) => Next::Read(self.reader.waits_for().unwrap_or(from)),
            (None, Some(from)) => Next::Said(from),
            (None, None) => Next::End,
        })
    }
}

const PROOF_WORDS: usize = 8;
const PROOF_BYTES: usize = PROOF_WORDS * size_of::<u64>();
/// The first compute capability, Hopper's, on which what cards write is in order for kernels.
const ORDERED_FROM: u32 = 9;
/// How long the first reads of a rank may take.
const PATIENCE: Duration = Duration::from_secs(30);
const NAP: Duration = Duration::from_micros(50);
const GPU_DIRECT: &str = "GPUDirect";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_tell_ranks_apart_and_from_memory_that_nobody_wrote() {
        let proofs: Vec<_> = (0..100).map(|rank| proof(Rank(rank))).collect();
        for (index, one) in proofs.iter().enumerate() {
            assert!(proofs[..index].iter().all(|other| other != one) && !one.contains(&0));
        }
    }
}
