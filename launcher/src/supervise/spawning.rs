//! Further worlds of a running job: where the ranks go that a rank asks for, and what their nodes are told. Pure.
//!
//! They go to the job's own nodes, into slots that no running rank has, earlier nodes first; hosts without a rank were let
//! go when the job began. Every node is told of every world, as a PMIx server must know who its ranks may meet.

use efarun_wire::message::{AppPlan, JobMap, LaunchPlan, MappedNode, RankPlan, SpawnOrder, SpawnProgram};
use efarun_wire::{NodeId, Rank};

use crate::env;
use crate::mapping::{MAX_RANKS, Placement, RankPlace};

/// Makes further worlds.
#[derive(Debug)]
pub struct Spawner {
    /// What each node was told at the beginning, but for its ranks.
    templates: Vec<LaunchPlan>,
    oversubscribe: bool,
    /// Why there are none in this job, as a fragment that fits "…, which …".
    refusal: Option<&'static str>,
    next_world: u32,
}

/// A world that is to be started.
#[derive(Debug)]
pub struct Spawning {
    /// Its number.
    pub world: u32,
    /// Where its ranks are; their numbers follow those that there are.
    pub places: Vec<RankPlace>,
    /// What each node is told.
    pub plans: Vec<LaunchPlan>,
    /// What was asked for and makes no difference here.
    pub unknown: Vec<String>,
}

impl Spawner {
    /// For a job whose nodes were told these plans.
    pub fn new<'a>(
        plans: impl IntoIterator<Item = &'a LaunchPlan>,
        oversubscribe: bool,
        is_torchruns: bool,
    ) -> Spawner {
        let template = |plan: &LaunchPlan| LaunchPlan {
            ranks: Vec::new(),
            stdin_ranks: Vec::new(),
            output_credit: 0,
            master_port: None,
            folders: None,
            ..plan.clone()
        };
        Spawner {
            templates: plans.into_iter().map(template).collect(),
            oversubscribe,
            refusal: is_torchruns.then_some("a job by torchrun's line does not give"),
            next_world: 1,
        }
    }

    /// Places the ranks that are asked for. `is_running` says which ranks take their slots up.
    ///
    /// # Errors
    ///
    /// Why there is no such world, one line for a person.
    pub fn spawn(
        &mut self,
        order: &SpawnOrder,
        placement: &Placement,
        is_running: impl Fn(Rank) -> bool,
    ) -> Result<Spawning, String> {
        let asked: u64 = order.programs.iter().map(|program| u64::from(program.count)).sum();
        let asked_for = format!("rank {} asked for {asked} more ranks (MPI_Comm_spawn)", order.by);
        if let Some(refusal) = self.refusal {
            return Err(format!("{asked_for}, which {refusal}"));
        }
        let first = placement.world_size();
        let total = u64::from(first) + asked;
        if asked == 0 || total > u64::from(MAX_RANKS) {
            return Err(format!("{asked_for}; a job has {MAX_RANKS} at most, all in all"));
        }
        let nodes: Vec<Room> = placement.nodes.iter().map(|node| Room::of(node, &is_running)).collect();
        let chosen = choose(&order.programs, nodes, self.oversubscribe)
            .map_err(|reason| format!("{asked_for}, {reason}"))?;
        let parent_app = placement.ranks[order.by.index()].app;
        let mut local_counts = vec![0; placement.nodes.len()];
        let places = chosen.iter().zip(first..).map(|((node, _), rank)| {
            let local_rank = local_counts[*node];
            local_counts[*node] += 1;
            let node = NodeId(u32::try_from(*node).expect("nodes are numbered by 32 bits"));
            RankPlace { rank: Rank(rank), node, local_rank, app: parent_app }
        });
        let places: Vec<RankPlace> = places.collect();
        let world = self.next_world;
        self.next_world += 1;
        let counts: Vec<u32> = order.programs.iter().map(|program| program.count).collect();
        let map = JobMap { app_sizes: counts.clone(), ..map(world, first, placement, &places) };
        let plans = self.templates.iter().zip(0..).map(|(template, node)| {
            let of_node = places.iter().zip(&chosen).filter(|(place, _)| place.node == NodeId(node));
            let ranks = of_node.map(|(place, (_, program))| RankPlan {
                rank: place.rank,
                local_rank: place.local_rank,
                app: u32::try_from(*program).expect("an order has few programs"),
                cpus: Vec::new(),
                env: env::spawned_rank(
                    place.rank.0 - first,
                    place.local_rank,
                    local_counts[place.node.index()],
                ),
            });
            LaunchPlan {
                apps: order
                    .programs
                    .iter()
                    .map(|own| app(own, &template.apps[parent_app], &counts))
                    .collect(),
                ranks: ranks.collect(),
                map: map.clone(),
                keys: order.keys.clone(),
                ..template.clone()
            }
        });
        let plans = plans.collect();
        let mut unknown: Vec<String> =
            order.programs.iter().flat_map(|program| program.unknown.clone()).collect();
        unknown.sort_unstable();
        unknown.dedup();
        Ok(Spawning { world, places, plans, unknown })
    }
}

/// What a node has room for.
struct Room {
    host: String,
    name: String,
    slots: usize,
    running: usize,
}

impl Room {
    fn of(node: &crate::mapping::NodePlace, is_running: &impl Fn(Rank) -> bool) -> Room {
        Room {
            host: node.host.to_string(),
            name: node.host.name.clone(),
            slots: node.slots.map_or(node.ranks.len(), |slots| slots as usize),
            running: node.ranks.iter().filter(|rank| is_running(**rank)).count(),
        }
    }

    fn free(&self) -> usize {
        self.slots.saturating_sub(self.running)
    }
}

/// Chooses a node for each rank; gives them in the order of ranks, with the numbers of their programs.
fn choose(
    programs: &[SpawnProgram],
    mut nodes: Vec<Room>,
    oversubscribe: bool,
) -> Result<Vec<(usize, usize)>, String> {
    let mut chosen = Vec::new();
    for (number, program) in programs.iter().enumerate() {
        for wanted in &program.hosts {
            if !nodes.iter().any(|node| node.host == *wanted || node.name == *wanted) {
                let hosts: Vec<&str> = nodes.iter().map(|node| node.host.as_str()).collect();
                return Err(format!("on {wanted}, where the job has no rank: it is on {}", hosts.join(", ")));
            }
        }
        let allowed: Vec<usize> = (0..nodes.len())
            .filter(|node| {
                let Room { host, name, .. } = &nodes[*node];
                program.hosts.is_empty()
                    || program.hosts.iter().any(|wanted| wanted == host || wanted == name)
            })
            .collect();
        let (slots, free) = allowed
            .iter()
            .fold((0, 0), |(slots, free), node| (slots + nodes[*node].slots, free + nodes[*node].free()));
        for _ in 0..program.count {
            let roomy = allowed.iter().copied().find(|node| nodes[*node].free() > 0);
            let least = || allowed.iter().copied().min_by_key(|node| nodes[*node].running);
            let node = if oversubscribe { roomy.or_else(least) } else { roomy };
            let Some(node) = node else {
                return Err(format!(
                    "and {free} of the {slots} slots of the job's hosts are free: give them more (slots= in the hostfile, -H HOST:SLOTS), or allow more ranks than slots (--oversubscribe)"
                ));
            };
            nodes[node].running += 1;
            chosen.push((node, number));
        }
    }
    Ok(chosen)
}

fn map(world: u32, first: u32, placement: &Placement, places: &[RankPlace]) -> JobMap {
    let node = |node: &crate::mapping::NodePlace| MappedNode {
        host: node.host.to_string(),
        ranks: places.iter().filter(|place| place.node == node.node).map(|place| place.rank).collect(),
    };
    JobMap {
        world,
        first_rank: Rank(first),
        nodes: placement.nodes.iter().map(node).collect(),
        universe_size: placement.universe_size(),
        ..JobMap::default()
    }
}

fn app(program: &SpawnProgram, parent: &AppPlan, counts: &[u32]) -> AppPlan {
    let own_or = |own: &[u8], parents: &[u8]| if own.is_empty() { parents.to_vec() } else { own.to_vec() };
    AppPlan {
        program: program.program.clone(),
        args: program.args.clone(),
        search_path: own_or(&program.search_path, &parent.search_path),
        env: env::spawned_app(&parent.env, program, counts),
        wdir: own_or(&program.wdir, &parent.wdir),
        wdir_required: !program.wdir.is_empty() || parent.wdir_required,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooms(rooms: &[(usize, usize)]) -> Vec<Room> {
        let room = |(number, (slots, running)): (usize, &(usize, usize))| {
            let host = format!("h{number}");
            Room { name: host.clone(), host, slots: *slots, running: *running }
        };
        rooms.iter().enumerate().map(room).collect()
    }

    fn program(count: u32, hosts: &[&str]) -> SpawnProgram {
        let hosts = hosts.iter().map(ToString::to_string).collect();
        SpawnProgram { count, hosts, ..SpawnProgram::default() }
    }

    #[test]
    fn ranks_fill_free_slots_in_the_order_of_nodes() {
        let chosen = choose(&[program(2, &[]), program(1, &[])], rooms(&[(2, 1), (1, 1), (3, 1)]), false);
        assert_eq!(chosen, Ok(vec![(0, 0), (2, 0), (2, 1)]));
        assert_eq!(choose(&[program(1, &["h2"])], rooms(&[(2, 0), (1, 0), (1, 0)]), false), Ok(vec![(2, 0)]));
    }

    #[test]
    fn where_no_slots_are_free_the_sentence_says_how_many_there_are() {
        let full = choose(&[program(3, &[])], rooms(&[(2, 1), (2, 1)]), false).unwrap_err();
        assert!(full.starts_with("and 2 of the 4 slots of the job's hosts are free"), "{full}");
        let there = choose(&[program(1, &["h1"])], rooms(&[(2, 0), (1, 1)]), false).unwrap_err();
        assert!(there.starts_with("and 0 of the 1 slots"), "{there}");
        let nowhere = choose(&[program(1, &["h7"])], rooms(&[(2, 0), (1, 0)]), false).unwrap_err();
        assert_eq!(nowhere, "on h7, where the job has no rank: it is on h0, h1");
    }

    #[test]
    fn oversubscribed_ranks_go_where_the_fewest_run() {
        let chosen = choose(&[program(3, &[])], rooms(&[(2, 2), (2, 1)]), true);
        assert_eq!(chosen, Ok(vec![(1, 0), (0, 0), (1, 0)]));
    }
}
