//! Worlds that ranks ask for while they run: `MPI_Comm_spawn`.
//!
//! The head decides where their ranks go, numbers them on from those that there are, and tells every node's server of the
//! world before it is asked anything by one of them. The asker is answered when all of them run, or none does.

use efarun_wire::Rank;
use efarun_wire::message::{JobMap, SpawnOrder, SpawnedWorld};

use super::client::Client;
use super::peers::Generation;
use super::request::{Address, Fault, Reply, SpawnPart};
use super::server::{Action, Server, World};

impl Server {
    /// Takes note of a further world, with its ranks on this node and what they find among their keys.
    pub fn admit(
        &mut self,
        map: JobMap,
        ranks: impl IntoIterator<Item = (Rank, u32)>,
        keys: &[(Vec<u8>, Vec<u8>)],
    ) {
        let world = map.world;
        self.worlds.insert(world, World::new(map));
        self.clients.extend(ranks.into_iter().map(|(rank, app)| (rank, Client::new(world, app))));
        let space = self.spaces.entry(Generation { world, number: 0 }).or_default();
        for (key, value) in keys {
            // Bounded as a message is; what is no key is nobody's to ask for.
            let _ = space.put(key, value);
        }
    }

    /// Handles the answer to [`Action::Spawn`].
    pub fn spawned(&mut self, token: u64, outcome: &Result<SpawnedWorld, String>) -> Vec<Action> {
        let mut actions = Vec::new();
        let Some(address) = self.spawns.remove(&token) else { return actions };
        let named = |spawned: &SpawnedWorld| {
            (self.space_name(Generation { world: spawned.world, number: 0 }), spawned.size)
        };
        let reply = Reply::Spawned(outcome.as_ref().map(named).map_err(Clone::clone));
        self.reply(&address, &reply, &mut actions);
        actions
    }

    /// Orders a world once all is said that it is to be.
    pub(super) fn spawn(
        &mut self,
        address: Address,
        part: SpawnPart,
        actions: &mut Vec<Action>,
    ) -> Result<(), Fault> {
        let client = self.clients.get_mut(&address.rank).expect("it is asking");
        client.spawning.programs.extend(part.programs);
        client.spawning.keys.extend(part.keys);
        if client.spawning.programs.len().max(part.total) > MAX_PROGRAMS {
            return Err(Fault::TooManyPrograms { limit: MAX_PROGRAMS });
        }
        if client.spawning.programs.len() < part.total {
            return Ok(());
        }
        let SpawnPart { programs, keys, .. } = std::mem::take(&mut client.spawning);
        let token = self.asks.new_token();
        actions.push(Action::Spawn(SpawnOrder { by: address.rank, token, programs, keys }));
        self.spawns.insert(token, address);
        Ok(())
    }
}

const MAX_PROGRAMS: usize = 64;
