//! Barriers, and what ranks take along to them.

use efarun_wire::Rank;
use efarun_wire::message::{GatherKey, OobUp};
use efarun_wire::oob::MAX_OPEN_GATHERS;

use super::groups::Group;
use super::keys::Unsent;
use super::peers;
use super::request::{Address, Fault, Reply};
use super::server::{Action, Server};

impl Server {
    /// Lets a rank wait for others.
    pub(super) fn wait(
        &mut self,
        address: Address,
        group: Group,
        tag: Option<u32>,
        actions: &mut Vec<Action>,
    ) -> Result<(), Fault> {
        let rank = address.rank;
        let world = self.clients[&rank].generation.world;
        let map = &self.worlds[&world].map;
        let local = self.clients.keys().copied().filter(|local| map.within(*local).is_some());
        let participants = group.participants(rank, local, map).ok_or(Fault::Group)?;
        let client = self.clients.get_mut(&rank).expect("it is waiting");
        if client.open_barriers >= MAX_OPEN_GATHERS {
            return Err(Fault::TooManyBarriers { limit: MAX_OPEN_GATHERS });
        }
        client.open_barriers += 1;
        let key = client.next_barrier(participants, tag);
        let waiting = self.barriers.entry(key.clone()).or_default();
        waiting.push(address);
        let arrived = waiting.len();
        let first_size = self.first_size;
        let takes_part = |rank: &Rank| key.participants.contains(*rank, first_size);
        let local: Vec<Rank> = self.clients.keys().copied().filter(takes_part).collect();
        if arrived < local.len() {
            self.check_barriers(actions);
            return Ok(());
        }
        if local.len() == key.participants.count(first_size) {
            self.complete(&key, actions);
            return Ok(());
        }
        let blobs = local.into_iter().map(|rank| (rank, self.contribution(rank, &key))).collect();
        actions.push(Action::Up(OobUp::Gather { key, blobs }));
        Ok(())
    }

    /// What a rank takes along to a barrier. Beyond one over some ranks there are those who have not seen it, so that it
    /// stays for the next one of the world.
    fn contribution(&mut self, rank: Rank, key: &GatherKey) -> Vec<u8> {
        let client = self.clients.get_mut(&rank).expect("it is one of this node's");
        let blob = peers::blob(client.unsent.pairs());
        let everybody = self.worlds[&client.generation.world].map.everybody();
        if key.participants == everybody {
            client.unsent = Unsent::default();
        }
        blob
    }

    pub(super) fn complete(&mut self, key: &GatherKey, actions: &mut Vec<Action>) {
        let tag = peers::tag_of(&key.id);
        for address in self.barriers.remove(key).unwrap_or_default() {
            if let Some(client) = self.clients.get_mut(&address.rank) {
                client.open_barriers -= 1;
            }
            self.reply(&address, &Reply::Barrier { tag }, actions);
        }
    }
}
