//! How ranks of this node end or fall silent, and who waits for them in vain.

use efarun_wire::Rank;

use super::client::{Client, Phase};
use super::server::{Action, Server};

impl Server {
    /// How many bytes a rank had sent when it stopped within a message; none where it has not.
    pub fn stopped_within_message(&self, rank: Rank) -> Option<u64> {
        let client = self.clients.get(&rank).filter(|client| !client.is_closed)?;
        client.inbox.has_partial().then_some(client.received_bytes)
    }

    /// Takes note that a rank has been within a message for a time in which a write of a few bytes is always over; nothing
    /// where it has sent something since it had sent so many bytes.
    pub fn stalled(&mut self, rank: Rank, received_bytes: u64, seconds: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.stopped_within_message(rank) == Some(received_bytes) {
            let how = format!("sent the beginning of a PMI message and then nothing for {seconds} s");
            self.refuse(rank, &how, &mut actions);
        }
        actions
    }

    /// Takes note that a rank has asked on and on, and has taken none of its answers for so long.
    pub fn unread(&mut self, rank: Rank, seconds: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.clients.get(&rank).is_some_and(|client| !client.is_closed) {
            let how = format!("asked its PMI server on and on and read none of its answers for {seconds} s");
            self.refuse(rank, &how, &mut actions);
        }
        actions
    }

    /// Whether others may wait for a rank: it has initialised and not finalised.
    pub fn is_within(&self, rank: Rank) -> bool {
        self.clients.get(&rank).is_some_and(|client| client.phase != Phase::Outside && !client.is_closed)
    }

    /// Whether a rank has initialised PMI, now or before.
    pub fn has_initialised(&self, rank: Rank) -> bool {
        self.clients.get(&rank).is_some_and(|client| client.has_initialised)
    }

    /// Takes note that a rank has closed its socket and yet goes on for so long.
    pub fn closed(&mut self, rank: Rank, seconds: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.is_within(rank) && !self.clients[&rank].has_ended {
            let how = format!("closed its PMI socket before MPI_Finalize and went on for {seconds} s");
            self.refuse(rank, &how, &mut actions);
        }
        actions
    }

    /// Takes note that a rank's process has ended by itself with code 0, all that it wrote having been received.
    pub fn ended_well(&mut self, rank: Rank) -> Vec<Action> {
        let mut actions = Vec::new();
        let is_within = self.is_within(rank);
        let Some(client) = self.clients.get_mut(&rank) else { return actions };
        client.has_ended = true;
        if is_within {
            let how = "ended with code 0 after MPI_Init and without MPI_Finalize".to_owned();
            self.refuse(rank, &how, &mut actions);
        } else if !client.is_closed {
            self.check_barriers(&mut actions);
        }
        actions
    }

    /// Whether a rank of this node has ended with code 0 outside of the generation that another one is in, which may wait
    /// for it without saying so: in shared memory.
    pub fn misses_a_rank(&self) -> bool {
        !self.has_named_missing && self.missing().is_some()
    }

    /// Takes note that a rank has been missing for a time in which programs that do not need each other would be through.
    pub fn missed(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.misses_a_rank()
            && let Some((rank, waiting)) = self.missing()
        {
            self.name_missing(rank, waiting, &mut actions);
        }
        actions
    }

    /// A rank that is missing, and one that is within its generation.
    fn missing(&self) -> Option<(Rank, Rank)> {
        let within = |(_, client): &(&Rank, &Client)| client.phase == Phase::Within && !client.is_closed;
        let (waiting, generation) =
            self.clients.iter().find(within).map(|(rank, client)| (*rank, client.generation))?;
        let is_missing = |(_, client): &(&Rank, &Client)| {
            let of_world = client.generation.world == generation.world;
            client.has_ended && of_world && client.generation <= generation
        };
        let (rank, _) = self.clients.iter().find(is_missing)?;
        Some((*rank, waiting))
    }

    /// Names a rank of this node that has ended and that others of this node wait for.
    pub(super) fn check_barriers(&mut self, actions: &mut Vec<Action>) {
        if self.has_named_missing {
            return;
        }
        let missing = self.barriers.iter().find_map(|(key, waiting)| {
            let has_arrived = |rank: Rank| waiting.iter().any(|address| address.rank == rank);
            let is_missing = |(rank, client): &(&Rank, &Client)| {
                client.has_ended && key.participants.contains(**rank, self.first_size) && !has_arrived(**rank)
            };
            let (rank, _) = self.clients.iter().find(is_missing)?;
            Some((*rank, waiting[0].rank))
        });
        if let Some((rank, waiting)) = missing {
            self.name_missing(rank, waiting, actions);
        }
    }

    fn name_missing(&mut self, rank: Rank, waiting: Rank, actions: &mut Vec<Action>) {
        self.has_named_missing = true;
        let how = match self.has_initialised(rank) {
            true => format!("ended with code 0 after MPI_Finalize, where rank {waiting} waits for it"),
            false => format!("ended with code 0 without MPI_Init, where rank {waiting} waits for it"),
        };
        actions.push(Action::Broke { rank, how });
    }
}
