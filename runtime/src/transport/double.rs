//! A test double: transports between threads, with a network's manners.
//!
//! It carries messages through a table behind a lock, and behaves as badly as the contract allows: a message may take
//! several looks before it has arrived, completions come in any order, as late as the sender lets them, and the
//! payload is compared at completion with what it was when it was posted, so that whoever changed it too early is
//! found out. Where a message is expected to land it does so in pieces, in any order and more than once, and by chance not
//! at all; memory that a later message is to land in it fills with rubbish at once. Chance comes from a seed.
#![expect(unsafe_code, reason = "payloads are read when a send completes, as a network may")]

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use efarun_wire::Rank;

use super::{Header, Message, SendToken, Transport, TransportError};

/// How doubles behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manners {
    /// Messages in flight per ordered pair.
    pub(crate) credits: usize,
    /// The largest payload.
    pub(crate) slot_bytes: usize,
    /// Whether sends complete only when the sender does nothing but wait for that.
    pub(crate) is_late: bool,
    /// Whether sends are refused by chance, as where a queue is full.
    pub(crate) refuses: bool,
    /// A rank that fails for good when it has looked or sent so often.
    pub(crate) dies: Option<(Rank, u32)>,
    /// Where chance begins.
    pub(crate) seed: u64,
}

impl Default for Manners {
    fn default() -> Self {
        Manners { credits: 4, slot_bytes: 64 << 10, is_late: false, refuses: false, dies: None, seed: 1 }
    }
}

/// Makes connected transports, rank 0 first.
pub(crate) fn doubles(world_size: u32, manners: Manners) -> Vec<Double> {
    let network = Arc::new(Network::default());
    let make = |rank| Double {
        rank: Rank(rank),
        world_size,
        manners,
        network: network.clone(),
        chance: Chance(manners.seed.wrapping_mul(1009).wrapping_add(u64::from(rank))),
        sends_to: HashSet::new(),
        receives_from: HashSet::new(),
        held: HashMap::new(),
        lent: Vec::new(),
        expected: HashMap::new(),
        told: HashMap::new(),
        released: HashMap::new(),
        quiet_polls: 0,
        calls: 0,
        heard: 0,
        is_closed: false,
    };
    (0..world_size).map(make).collect()
}

/// One rank's end.
#[derive(Debug)]
pub(crate) struct Double {
    rank: Rank,
    world_size: u32,
    manners: Manners,
    network: Arc<Network>,
    chance: Chance,
    sends_to: HashSet<Rank>,
    receives_from: HashSet<Rank>,
    held: HashMap<Rank, Parcel>,
    lent: Vec<Lent>,
    expected: HashMap<Rank, Landing>,
    /// Where later messages land, by sender and number.
    told: HashMap<(Rank, u64), Landing>,
    /// How many messages of each rank were released.
    released: HashMap<Rank, u64>,
    /// Polls since this rank last did anything else.
    quiet_polls: u32,
    /// Looks and sends so far.
    calls: u32,
    heard: u64,
    is_closed: bool,
}

#[derive(Debug, Default)]
struct Network {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// By sender and receiver; there once the receiver opened it.
    pairs: HashMap<(Rank, Rank), Pair>,
    closed: HashSet<Rank>,
    changes: u64,
}

#[derive(Debug, Default)]
struct Pair {
    queue: VecDeque<Parcel>,
    in_flight: usize,
}

/// A message on its way.
#[derive(Debug)]
struct Parcel {
    header: Header,
    /// The payload, in words for the alignment that slots promise.
    words: Vec<u128>,
    len_bytes: usize,
    /// How often it is looked for in vain.
    looks: u32,
    /// Where it has landed.
    landed: Option<Landing>,
}

/// A payload that is being sent.
#[derive(Debug)]
struct Lent {
    token: SendToken,
    payload: *const [u8],
    posted: Vec<u8>,
}

/// Memory that the next message may land in.
#[derive(Debug, Clone, Copy)]
struct Landing(*mut [u8]);

// SAFETY: it is a promise of memory that whoever has it may write from any thread.
unsafe impl Send for Landing {}

impl Landing {
    /// Writes a piece of the payload that begins anywhere, and sometimes rubbish, which is overwritten later.
    fn land_some(self, payload: &[u8], chance: &mut Chance) {
        // SAFETY: between `expect` and the moment that `arrived` shows the message the memory is the transport's.
        let landing = unsafe { &mut *self.0 };
        let start = chance.below(payload.len() as u32) as usize;
        let len = 1 + chance.below((payload.len() - start) as u32) as usize;
        match chance.below(4) {
            0 => landing[start..][..len].fill(0xAA),
            _ => landing[start..][..len].copy_from_slice(&payload[start..][..len]),
        }
    }

    fn land_all(self, payload: &[u8]) {
        // SAFETY: as above.
        unsafe { &mut *self.0 }.copy_from_slice(payload);
    }
}

// SAFETY: the pointer is what `try_send` was lent until the token is given back; its contract is independent of the
// thread that reads it.
unsafe impl Send for Lent {}

impl Double {
    fn state(&self) -> Result<MutexGuard<'_, State>, TransportError> {
        if self.is_closed {
            return Err(TransportError::Closed);
        }
        Ok(self.network.state.lock().expect("no thread panics with the lock"))
    }

    /// Counts a look or a send; fails when it is this rank's turn to die.
    fn live(&mut self) -> Result<(), TransportError> {
        self.calls += 1;
        match self.manners.dies {
            Some((rank, calls)) if rank == self.rank && self.calls > calls => {
                let cause = "this rank was chosen to die".to_owned();
                Err(TransportError::Call { call: "live", code: 0, cause })
            }
            _ => Ok(()),
        }
    }

    fn change(&self, mut state: MutexGuard<'_, State>) {
        state.changes += 1;
        drop(state);
        self.network.changed.notify_all();
    }
}

impl Transport for Double {
    fn slot_bytes(&self) -> usize {
        self.manners.slot_bytes
    }

    fn credits(&self) -> usize {
        self.manners.credits
    }

    fn open(&mut self, receives_from: &[Rank], sends_to: &[Rank]) -> Result<(), TransportError> {
        let mut state = self.state()?;
        let stranger = |peer: &&Rank| **peer == self.rank || peer.0 >= self.world_size;
        if let Some(&peer) = receives_from.iter().chain(sends_to).find(stranger) {
            return Err(TransportError::NoRoute { peer });
        }
        for &from in receives_from {
            state.pairs.entry((from, self.rank)).or_default();
        }
        self.change(state);
        self.receives_from.extend(receives_from);
        self.sends_to.extend(sends_to);
        Ok(())
    }

    unsafe fn try_send(
        &mut self,
        to: Rank,
        header: Header,
        payload: *const [u8],
        token: SendToken,
    ) -> Result<bool, TransportError> {
        self.quiet_polls = 0;
        self.live()?;
        if self.manners.refuses && self.chance.below(3) == 0 {
            drop(self.state()?);
            return Ok(false);
        }
        if !self.sends_to.contains(&to) {
            drop(self.state()?);
            return Err(TransportError::NoRoute { peer: to });
        }
        let looks = self.chance.below(3);
        let mut state = self.state()?;
        if state.closed.contains(&to) {
            return Err(TransportError::PeerLost { peer: to, cause: "it closed".to_owned() });
        }
        let Some(pair) = state.pairs.get_mut(&(self.rank, to)) else { return Ok(false) };
        if pair.in_flight >= self.manners.credits {
            return Ok(false);
        }
        // SAFETY: the caller's, until the token is given back.
        let posted = unsafe { &*payload }.to_vec();
        let mut words = vec![0u128; posted.len().div_ceil(16)];
        bytemuck::cast_slice_mut(&mut words)[..posted.len()].copy_from_slice(&posted);
        pair.in_flight += 1;
        pair.queue.push_back(Parcel { header, words, len_bytes: posted.len(), looks, landed: None });
        self.change(state);
        self.lent.push(Lent { token, payload, posted });
        Ok(true)
    }

    unsafe fn expect(&mut self, from: Rank, len_bytes: usize, landing: Option<*mut [u8]>) {
        self.expected.remove(&from);
        let landing = landing.filter(|landing| landing.len() == len_bytes && len_bytes > 0);
        if !self.held.contains_key(&from) && self.chance.below(4) > 0 {
            self.expected.extend(landing.map(|landing| (from, Landing(landing))));
        }
    }

    fn lands_from(&self) -> Option<usize> {
        Some(1)
    }

    unsafe fn expect_later(&mut self, from: Rank, ahead: usize, landing: *mut [u8]) {
        // SAFETY: from now on the memory is the transport's.
        unsafe { &mut *landing }.fill(0xBB);
        let number = self.released.get(&from).copied().unwrap_or(0) + ahead as u64;
        if self.chance.below(4) > 0 {
            let before = self.told.insert((from, number), Landing(landing));
            assert!(before.is_none(), "message {number} of rank {from} is told of once");
        }
    }

    fn poll(&mut self, completed: &mut Vec<SendToken>) -> Result<(), TransportError> {
        drop(self.state()?);
        self.quiet_polls += 1;
        let mut count = match (self.manners.is_late, self.quiet_polls) {
            (false, _) => self.lent.len(),
            (true, ..2) => 0,
            (true, _) => 1.min(self.lent.len()),
        };
        while count > 0 {
            let index = self.chance.below(self.lent.len() as u32) as usize;
            let lent = self.lent.swap_remove(index);
            // SAFETY: the token has not been given back yet.
            if unsafe { &*lent.payload } != lent.posted.as_slice() {
                let cause = "the payload of a send was changed before its completion".to_owned();
                return Err(TransportError::Call { call: "poll", code: 0, cause });
            }
            completed.push(lent.token);
            count -= 1;
        }
        Ok(())
    }

    fn arrived(&mut self, from: Rank) -> Result<Option<Message<'_>>, TransportError> {
        self.quiet_polls = 0;
        self.live()?;
        if !self.held.contains_key(&from) {
            let number = self.released.get(&from).copied().unwrap_or(0);
            let told = self.told.get(&(from, number)).copied();
            let landing = told.or_else(|| self.expected.get(&from).copied());
            let mut chance = Chance(self.chance.0);
            let mut state = self.state()?;
            let is_lost = state.closed.contains(&from);
            let Some(pair) = state.pairs.get_mut(&(from, self.rank)) else {
                return Err(TransportError::NoRoute { peer: from });
            };
            match pair.queue.front_mut() {
                None if is_lost => {
                    return Err(TransportError::PeerLost { peer: from, cause: "it closed".to_owned() });
                }
                None => return Ok(None),
                Some(parcel) => {
                    let landing = landing.filter(|landing| landing.0.len() == parcel.len_bytes);
                    let payload = &bytemuck::cast_slice(&parcel.words)[..parcel.len_bytes];
                    if parcel.looks > 0 {
                        landing.inspect(|landing| landing.land_some(payload, &mut chance));
                        parcel.looks -= 1;
                        drop(state);
                        self.chance = chance;
                        return Ok(None);
                    }
                    landing.inspect(|landing| landing.land_all(payload));
                    parcel.landed = landing;
                }
            }
            let parcel = pair.queue.pop_front();
            drop(state);
            self.expected.remove(&from);
            self.told.remove(&(from, number));
            self.held.extend(parcel.map(|parcel| (from, parcel)));
        }
        drop(self.state()?);
        Ok(self.held.get(&from).map(|parcel| Message {
            header: parcel.header,
            payload: match parcel.landed {
                // SAFETY: nobody changes it before the release.
                Some(Landing(landing)) => unsafe { &*landing },
                None => &bytemuck::cast_slice(&parcel.words)[..parcel.len_bytes],
            },
        }))
    }

    fn release(&mut self, from: Rank) -> Result<(), TransportError> {
        let mut state = self.state()?;
        if let Some(pair) = state.pairs.get_mut(&(from, self.rank)) {
            pair.in_flight -= 1;
        }
        self.change(state);
        *self.released.entry(from).or_default() += 1;
        self.held.remove(&from).map(drop).ok_or(TransportError::NoRoute { peer: from })
    }

    fn wait(&mut self, timeout: Duration) {
        let Ok(state) = self.state() else { return };
        let is_here =
            |from: &Rank| state.pairs.get(&(*from, self.rank)).is_some_and(|pair| !pair.queue.is_empty());
        if !self.lent.is_empty() || self.receives_from.iter().any(is_here) {
            drop(state);
            std::thread::yield_now();
            return;
        }
        let heard = self.heard;
        let waited = self.network.changed.wait_timeout_while(state, timeout, |state| state.changes == heard);
        let changes = waited.expect("no thread panics with the lock").0.changes;
        self.heard = changes;
    }

    fn close(&mut self) {
        if let Ok(mut state) = self.state() {
            state.closed.insert(self.rank);
            self.change(state);
        }
        self.is_closed = true;
        self.lent.clear();
        self.expected.clear();
    }
}

/// A small generator of chance (splitmix64).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed >> 33) % u64::from(bound)) as u32
    }
}

mod tests {
    use super::super::conformance::conformance;
    use super::*;

    #[test]
    fn the_double_conforms() {
        conformance(|world_size| {
            let doubles = doubles(world_size, Manners::default());
            doubles.into_iter().map(|double| Box::new(double) as Box<dyn Transport>).collect()
        });
    }

    #[test]
    fn a_payload_that_changes_in_flight_is_found_out() {
        let mut doubles = doubles(2, Manners { is_late: true, ..Manners::default() });
        doubles[1].open(&[Rank(0)], &[]).unwrap();
        doubles[0].open(&[], &[Rank(1)]).unwrap();
        let mut payload = vec![1u8, 2, 3];
        let lent = &raw mut payload[..];
        // SAFETY: breaks the contract about change, not about lifetime, on one thread.
        let sent = unsafe { doubles[0].try_send(Rank(1), Header::default(), lent, SendToken(0)) };
        assert_eq!(sent, Ok(true));
        // SAFETY: the vector lives.
        unsafe { (*lent)[1] = 9 };
        let mut completed = Vec::new();
        assert_eq!(doubles[0].poll(&mut completed), Ok(()));
        assert!(doubles[0].poll(&mut completed).unwrap_err().to_string().contains("changed before"));
        drop(payload);
    }
}
