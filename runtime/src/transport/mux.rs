//! Several transports as one: each peer is reached by the one that its route names.
//!
//! A [`Mux`] is given transports and, for every rank, which of them leads there: shared memory to the ranks of this
//! node, the fabric to the rest. It adds no messages and no memory of its own; tokens go through unchanged, as
//! whoever chose them chose them apart. With one transport it costs a table look-up.
//!
//! Only transports that have opened a peer are polled and waited for. Where that is two, [`Mux::wait`] sleeps on both at
//! once, if both say on what. Otherwise it sleeps on each in turn for a short while: what happens on another transport
//! is seen that much later at most.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use efarun_wire::Rank;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::kept::Kept;
use super::{Header, Message, SendToken, Sleep, Transport, TransportError};

/// Which of a [`Mux`]'s transports leads to a rank, as an index; none for this rank itself.
pub type Route = Option<u8>;

/// Several transports as one.
pub struct Mux {
    legs: Vec<Leg>,
    /// By rank.
    routes: Vec<Route>,
    /// The leg that the next wait begins with.
    turn: usize,
}

struct Leg {
    transport: Box<dyn Transport>,
    is_used: bool,
    receives_from: Vec<Rank>,
    sends_to: Vec<Rank>,
}

impl Mux {
    /// Joins transports. `routes` has one entry per rank of the world.
    ///
    /// # Panics
    ///
    /// When a route leads to a transport that is not there.
    pub fn new(transports: Vec<Box<dyn Transport>>, routes: Vec<Route>) -> Self {
        let is_there = |route: &u8| usize::from(*route) < transports.len();
        assert!(routes.iter().flatten().all(is_there), "a route leads to one of the transports");
        let leg =
            |transport| Leg { transport, is_used: false, receives_from: Vec::new(), sends_to: Vec::new() };
        Mux { legs: transports.into_iter().map(leg).collect(), routes, turn: 0 }
    }

    fn leg_index(&self, peer: Rank) -> Result<usize, TransportError> {
        let route = self.routes.get(peer.index()).copied().flatten();
        route.map(usize::from).ok_or(TransportError::NoRoute { peer })
    }

    /// Sleeps on two transports at once. Says whether it could.
    fn sleep_on_both(&mut self, timeout: Duration) -> bool {
        let mut used = self.legs.iter_mut().filter(|leg| leg.is_used);
        let (Some(one), Some(other), None) = (used.next(), used.next(), used.next()) else { return false };
        let could = match (one.transport.begin_sleep(), other.transport.begin_sleep()) {
            (Sleep::Alone, _) | (_, Sleep::Alone) => false,
            (Sleep::Over, _) | (_, Sleep::Over) => true,
            (Sleep::On(one), Sleep::On(other)) => {
                let mut fds = [one, other].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                // Whatever it says, each leg looks for itself.
                let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(timeout)), None);
                true
            }
        };
        one.transport.end_sleep();
        other.transport.end_sleep();
        could
    }

    fn leg(&mut self, peer: Rank) -> Result<&mut dyn Transport, TransportError> {
        let index = self.leg_index(peer)?;
        Ok(&mut *self.legs[index].transport)
    }
}

impl fmt::Debug for Mux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mux").field("legs", &self.legs.len()).field("routes", &self.routes).finish()
    }
}

impl Transport for Mux {
    /// The least of all transports, used or not, so that it is the same at any time. Without transports there is
    /// nobody to send to, and no limit.
    fn slot_bytes(&self) -> usize {
        self.legs.iter().map(|leg| leg.transport.slot_bytes()).min().unwrap_or(usize::MAX)
    }

    fn slot_bytes_of(&self, peer: Rank) -> usize {
        self.leg_index(peer).map_or(0, |index| self.legs[index].transport.slot_bytes_of(peer))
    }

    fn credits(&self) -> usize {
        self.legs.iter().map(|leg| leg.transport.credits()).min().unwrap_or(2)
    }

    /// That of the transport whose messages cost most.
    fn min_segment_bytes(&self) -> usize {
        self.legs.iter().map(|leg| leg.transport.min_segment_bytes()).max().unwrap_or_default()
    }

    fn min_exchange_bytes(&self) -> usize {
        self.legs.iter().map(|leg| leg.transport.min_exchange_bytes()).max().unwrap_or_default()
    }

    /// Of the transports that have a quicker way, which the messages of others do not mind.
    fn quick_bytes(&self) -> Option<usize> {
        self.legs.iter().filter_map(|leg| leg.transport.quick_bytes()).max()
    }

    fn open(&mut self, receives_from: &[Rank], sends_to: &[Rank]) -> Result<(), TransportError> {
        for leg in &mut self.legs {
            leg.receives_from.clear();
            leg.sends_to.clear();
        }
        for &peer in receives_from {
            let index = self.leg_index(peer)?;
            self.legs[index].receives_from.push(peer);
        }
        for &peer in sends_to {
            let index = self.leg_index(peer)?;
            self.legs[index].sends_to.push(peer);
        }
        for leg in &mut self.legs {
            if !leg.receives_from.is_empty() || !leg.sends_to.is_empty() {
                leg.transport.open(&leg.receives_from, &leg.sends_to)?;
                leg.is_used = true;
            }
        }
        Ok(())
    }

    fn keep(&mut self, memory: &Arc<Kept>) {
        for leg in &mut self.legs {
            leg.transport.keep(memory);
        }
    }

    #[expect(unsafe_code, reason = "hands the caller's promise on")]
    unsafe fn try_send(
        &mut self,
        to: Rank,
        header: Header,
        payload: *const [u8],
        token: SendToken,
    ) -> Result<bool, TransportError> {
        // SAFETY: the caller keeps the payload until `poll` gives the token back, which gives back what the leg's
        // does, or until `close` has returned, which closes all legs.
        unsafe { self.leg(to)?.try_send(to, header, payload, token) }
    }

    #[expect(unsafe_code, reason = "hands the caller's promise on")]
    unsafe fn expect(&mut self, from: Rank, len_bytes: usize, landing: Option<*mut [u8]>) {
        if let Ok(leg) = self.leg(from) {
            // SAFETY: the caller leaves the memory alone until a message was shown, which is one that the leg shows, or
            // until `close` has returned, which closes all legs.
            unsafe { leg.expect(from, len_bytes, landing) }
        }
    }

    /// Of the transports that it helps, which the others do not mind.
    fn lands_from(&self) -> Option<usize> {
        self.legs.iter().filter_map(|leg| leg.transport.lands_from()).min()
    }

    #[expect(unsafe_code, reason = "hands the caller's promise on")]
    unsafe fn expect_later(&mut self, from: Rank, ahead: usize, landing: *mut [u8]) {
        if let Ok(leg) = self.leg(from) {
            // SAFETY: as for `expect`.
            unsafe { leg.expect_later(from, ahead, landing) }
        }
    }

    fn poll(&mut self, completed: &mut Vec<SendToken>) -> Result<(), TransportError> {
        // Every leg, even after an error: what is complete elsewhere is complete.
        let mut first_error = Ok(());
        for leg in self.legs.iter_mut().filter(|leg| leg.is_used) {
            first_error = first_error.and(leg.transport.poll(completed));
        }
        first_error
    }

    fn arrived(&mut self, from: Rank) -> Result<Option<Message<'_>>, TransportError> {
        self.leg(from)?.arrived(from)
    }

    fn look_ahead(&mut self, from: Rank) -> bool {
        self.leg(from).is_ok_and(|leg| leg.look_ahead(from))
    }

    fn release(&mut self, from: Rank) -> Result<(), TransportError> {
        self.leg(from)?.release(from)
    }

    fn stall(&self, peer: Rank) -> Option<String> {
        let leg = self.leg_index(peer).ok()?;
        self.legs[leg].transport.stall(peer)
    }

    fn way(&self, peer: Rank) -> Option<&str> {
        let leg = self.leg_index(peer).ok()?;
        self.legs[leg].transport.way(peer)
    }

    fn wait(&mut self, timeout: Duration) {
        if self.sleep_on_both(timeout) {
            return;
        }
        let used = self.legs.iter().filter(|leg| leg.is_used).count();
        let timeout = if used > 1 { timeout.min(TURN) } else { timeout };
        for _ in 0..self.legs.len() {
            self.turn = (self.turn + 1) % self.legs.len();
            let leg = &mut self.legs[self.turn];
            if leg.is_used {
                return leg.transport.wait(timeout);
            }
        }
        std::thread::sleep(timeout);
    }

    fn quiesced(&mut self) {
        for leg in &mut self.legs {
            leg.transport.quiesced();
        }
    }

    fn close(&mut self) {
        for leg in &mut self.legs {
            leg.transport.close();
        }
    }
}

/// How long one of several transports is waited for. A switch of threads costs a few microseconds, so this leaves
/// the core to others for most of the time, and adds less than a TCP round trip between hosts.
const TURN: Duration = Duration::from_micros(50);

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::conformance::conformance;
    use super::super::double::{Manners, doubles};
    use super::super::shm::{Arena, Geometry, ShmTransport};
    use super::super::tcp::{self, TcpConfig, TcpTransport};
    use super::*;

    /// Worlds in which ranks of equal parity share a "node", over two sets of doubles.
    fn muxes(world_size: u32) -> Vec<Mux> {
        let near = doubles(world_size, Manners { slot_bytes: 8 << 10, ..Manners::default() });
        let far = doubles(world_size, Manners { credits: 3, seed: 2, ..Manners::default() });
        let join = |(rank, (near, far)): (u32, _)| {
            let route = |peer| (peer != rank).then_some(u8::from(peer % 2 != rank % 2));
            Mux::new(vec![Box::new(near), Box::new(far)], (0..world_size).map(route).collect())
        };
        (0..).zip(near.into_iter().zip(far)).map(join).collect()
    }

    #[test]
    fn the_mux_conforms() {
        conformance(|world_size| {
            muxes(world_size).into_iter().map(|mux| Box::new(mux) as Box<dyn Transport>).collect()
        });
    }

    #[test]
    fn limits_are_the_least_of_the_transports() {
        let mux = muxes(3).remove(0);
        assert_eq!((mux.slot_bytes(), mux.credits()), (8 << 10, 3));
    }

    #[test]
    fn a_rank_without_route_is_named() {
        let mut mux = muxes(3).remove(1);
        for peer in [Rank(1), Rank(3)] {
            assert_eq!(mux.open(&[peer], &[]), Err(TransportError::NoRoute { peer }));
            assert_eq!(mux.release(peer), Err(TransportError::NoRoute { peer }));
        }
    }

    #[test]
    fn closing_closes_every_transport() {
        let mut mux = muxes(3).remove(0);
        mux.open(&[Rank(1), Rank(2)], &[]).unwrap();
        mux.close();
        for peer in [Rank(1), Rank(2)] {
            assert_eq!(mux.arrived(peer).unwrap_err(), TransportError::Closed);
        }
    }

    /// Ranks of equal parity share memory, the others are reached by sockets.
    fn shared_memory_and_sockets(world_size: u32) -> Vec<Box<dyn Transport>> {
        let ranks = |parity: u32| (0..world_size).filter(move |rank| rank % 2 == parity).map(Rank);
        let nodes = [0, 1].map(|parity| ranks(parity).collect::<Vec<_>>());
        let arenas = nodes
            .each_ref()
            .map(|node| Arc::new(Arena::create(Geometry::new(node.len().max(1) as u32)).unwrap()));
        let join = |(rank, sockets): (u32, TcpTransport)| {
            let node = rank as usize % 2;
            let memory = ShmTransport::new(arenas[node].clone(), Rank(rank), nodes[node].clone());
            let route = |peer| (peer != rank).then_some(u8::from(peer % 2 != rank % 2));
            let mux =
                Mux::new(vec![Box::new(memory), Box::new(sockets)], (0..world_size).map(route).collect());
            Box::new(mux) as Box<dyn Transport>
        };
        (0..).zip(tcp::tests::world(world_size, &TcpConfig::new(None))).map(join).collect()
    }

    #[test]
    fn shared_memory_and_sockets_as_one_conform() {
        conformance(shared_memory_and_sockets);
    }

    /// A wait that goes on to its end when a message comes over either transport, or takes turns, is found out.
    #[test]
    fn one_sleep_ends_when_a_message_comes_over_any_of_two_transports() {
        let [mut sleeper, near, far] = take_three(shared_memory_and_sockets(3));
        let (word_tx, word_rx) = std::sync::mpsc::channel();
        let (near_tx, near_rx) = std::sync::mpsc::channel();
        let (far_tx, far_rx) = std::sync::mpsc::channel();
        let send_on_word = |mut sender: Box<dyn Transport>, words: std::sync::mpsc::Receiver<()>| {
            let word_tx = word_tx.clone();
            move || {
                sender.open(&[], &[Rank(0)]).unwrap();
                for () in words {
                    let deadline = Instant::now() + Duration::from_secs(20);
                    // SAFETY: static memory.
                    #[expect(unsafe_code, reason = "try_send's contract")]
                    while !unsafe {
                        sender.try_send(Rank(0), Header::default(), &raw const *b"", SendToken(0))
                    }
                    .unwrap()
                    {
                        assert!(Instant::now() < deadline, "no credit");
                        sender.wait(Duration::from_millis(1));
                        sender.poll(&mut Vec::new()).unwrap();
                    }
                    sender.poll(&mut Vec::new()).unwrap();
                }
                word_tx.send(()).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(send_on_word(near, near_rx));
            scope.spawn(send_on_word(far, far_rx));
            sleeper.open(&[Rank(1), Rank(2)], &[]).unwrap();
            for round in 0..20 {
                let (from, words) = if round % 2 == 0 { (Rank(2), &near_tx) } else { (Rank(1), &far_tx) };
                words.send(()).unwrap();
                let since = Instant::now();
                while sleeper.arrived(from).unwrap().is_none() {
                    sleeper.wait(Duration::from_secs(60));
                    sleeper.poll(&mut Vec::new()).unwrap();
                    assert!(since.elapsed() < Duration::from_secs(20), "round {round}: the sleep went on");
                }
                sleeper.release(from).unwrap();
            }
            drop((near_tx, far_tx));
            (0..2).for_each(|_| word_rx.recv().unwrap());
        });
    }

    fn take_three(transports: Vec<Box<dyn Transport>>) -> [Box<dyn Transport>; 3] {
        let mut transports = transports.into_iter();
        // Rank 2 shares memory with rank 0.
        let [zero, one, two] = [(); 3].map(|()| transports.next().unwrap());
        [zero, two, one]
    }

    #[test]
    fn waiting_on_one_of_two_lasts_and_on_both_takes_turns() {
        let timeout = Duration::from_millis(20);
        let mut mux = muxes(3).remove(0);
        // The first wait of a double hears of the opening.
        mux.open(&[Rank(1)], &[]).unwrap();
        mux.wait(timeout);
        let since = Instant::now();
        mux.wait(timeout);
        assert!(since.elapsed() >= timeout);
        mux.open(&[Rank(2)], &[]).unwrap();
        let long = Duration::from_secs(60);
        let since = Instant::now();
        for _ in 0..4 {
            let before = mux.turn;
            mux.wait(long);
            assert_ne!(mux.turn, before);
        }
        assert!(since.elapsed() < long);
    }

    #[test]
    fn a_world_of_one_waits_and_opens_nobody() {
        let mut mux = Mux::new(Vec::new(), vec![None]);
        assert_eq!(mux.open(&[], &[]), Ok(()));
        assert_eq!(mux.poll(&mut Vec::new()), Ok(()));
        mux.wait(Duration::from_micros(1));
        mux.close();
    }
}
