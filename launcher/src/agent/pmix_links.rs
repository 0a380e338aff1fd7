//! The node's PMIx server, between its helper, the job's other nodes and its ranks' ends.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::time::Duration;

use tokio::sync::mpsc;

use efarun_wire::message::{AgentMessage, LaunchPlan, OobDown, RankExit, RankStatus, SpawnedWorld};
use efarun_wire::{JobId, Rank};

use super::pmix_helper::{Helper, PmixEvent};
use super::pmix_survey;
use super::sightings::{self, Pauses, Sighting};
use crate::env::NameValue;
use crate::exchange;
use crate::link_io::LinkSender;
use crate::linkage::MpiKind;
use crate::pmix::protocol::{Order, Report};
use crate::pmix::{Action, Relay};

/// The node's PMIx server, where its ranks have one.
#[derive(Debug)]
pub(super) struct PmixLinks {
    helper: Option<Helper>,
    relay: Relay,
    head: LinkSender<AgentMessage>,
    events: mpsc::Sender<PmixEvent>,
    /// Ranks that have ended, what they said last being awaited.
    unheard: BTreeSet<Rank>,
    /// What this server has said to those of other nodes and been told by them, in bytes.
    exchanged: [u64; 2],
    /// Further worlds that the server knows of.
    registered: BTreeSet<u32>,
    /// There are more ranks than cores for them.
    is_crowded: bool,
    environments: BTreeMap<Rank, Vec<NameValue>>,
    /// The MPI libraries that ranks' programs are linked with, or have come to.
    mpis: BTreeMap<Rank, String>,
    /// The process groups of ranks of which none is known.
    unknown: BTreeMap<Rank, i32>,
    pauses: Pauses,
    /// How many ranks the job began with.
    world_size: u32,
    said_unserved: bool,
}

/// Ranks that need a server which there cannot be.
#[derive(Debug)]
pub(super) struct Unserved {
    /// The first of them.
    pub(super) rank: Rank,
    /// Its library that asks for one.
    pub(super) library: String,
    /// What was looked for and tried.
    pub(super) tried: String,
}

impl PmixLinks {
    /// Starts a server if the plan's programs need one, or may come to need one.
    ///
    /// # Errors
    ///
    /// When one is needed and there is no library that serves.
    pub(super) async fn start(
        job: JobId,
        plan: &LaunchPlan,
        head: &LinkSender<AgentMessage>,
        events: mpsc::Sender<PmixEvent>,
    ) -> Result<PmixLinks, Unserved> {
        let survey = pmix_survey::survey(plan).await;
        let started = match &survey.libraries[..] {
            [] => Err(Vec::new()),
            libraries => Helper::start(job, plan, libraries, &events).await,
        };
        let (mut helper, tried) = match started {
            Ok(helper) => (Some(helper), Vec::new()),
            Err(tried) => (None, tried),
        };
        match survey.needed_by {
            Some((rank, need)) if helper.is_none() => {
                let tried = if tried.is_empty() {
                    format!("not found in {}", need.looked_in)
                } else {
                    tried.join("; ")
                };
                return Err(Unserved { rank, library: need.library, tried });
            }
            _ if !tried.is_empty() => {
                let text = format!(
                    "there is no PMIx server, for programs that come to Open MPI: {}",
                    tried.join("; ")
                );
                head.send(&AgentMessage::Note(text));
            }
            _ => {}
        }
        for (app, mpi) in &survey.mpis {
            let (Ok(app), Some(len_bytes)) = (u32::try_from(*app), mpi.len_bytes) else { continue };
            head.send(&AgentMessage::LinksMpi { app, file: mpi.shown.clone(), len_bytes });
        }
        let mpi_of = |app: u32| survey.mpis.get(&(app as usize)).map(|mpi| mpi.shown.clone());
        let mpis = plan.ranks.iter().filter_map(|rank| Some((rank.rank, mpi_of(rank.app)?))).collect();
        if let Some(helper) = &helper {
            head.send(&AgentMessage::ServesPmix { version: helper.version.clone() });
        }
        let environments = helper.as_mut().map(|helper| std::mem::take(&mut helper.environments));
        Ok(PmixLinks {
            helper,
            relay: Relay::new(plan.node, &plan.map),
            head: head.clone(),
            events,
            unheard: BTreeSet::new(),
            exchanged: [0; 2],
            registered: BTreeSet::new(),
            is_crowded: plan.ranks.len() > std::thread::available_parallelism().map_or(1, NonZero::get),
            environments: environments.unwrap_or_default().into_iter().collect(),
            mpis,
            unknown: BTreeMap::new(),
            pauses: Pauses::new(),
            world_size: plan.world_size,
            said_unserved: false,
        })
    }

    /// Adds what a rank needs to find its server.
    pub(super) fn complete(&mut self, rank: Rank, env: &mut Vec<NameValue>) {
        let Some(mut own) = self.environments.remove(&rank) else { return };
        own.push((JSM_JSRUN_PORT.into(), b"1".into()));
        let is_set = |wanted: &str| env.iter().any(|(name, _)| name == wanted.as_bytes());
        if !is_set(PMI_VERSION) {
            own.push((PMI_VERSION.into(), b"1".into()));
        }
        if self.is_crowded && !is_set(YIELD_WHEN_IDLE) {
            own.push((YIELD_WHEN_IDLE.into(), b"1".into()));
        }
        env.retain(|(name, _)| !own.iter().any(|(own, _)| own == name));
        env.extend(own);
    }

    /// Takes note that a rank runs, in a process group of its own. One that is linked with no MPI may come to one.
    pub(super) fn started(&mut self, rank: Rank, group: i32) {
        if self.world_size < 2 || self.mpis.contains_key(&rank) {
            return;
        }
        if self.unknown.is_empty() {
            self.look_later();
        }
        self.unknown.insert(rank, group);
    }

    fn look_later(&mut self) {
        let (pause, events) = (self.pauses.pause(), self.events.clone());
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            // The receiver lives as long as the agent.
            let _ = events.send(PmixEvent::LookDue).await;
        });
    }

    /// Looks at the ranks of which nothing is known yet, beside the agent's own thread.
    fn look(&mut self) {
        self.unknown.retain(|rank, _| !self.relay.has_connected(*rank));
        if self.unknown.is_empty() {
            return;
        }
        let (groups, events) = (self.unknown.clone(), self.events.clone());
        tokio::spawn(async move {
            let looking = tokio::task::spawn_blocking(move || sightings::look(&groups));
            let seen = looking.await.unwrap_or_default();
            // As above.
            let _ = events.send(PmixEvent::Seen(seen)).await;
        });
    }

    fn saw(&mut self, seen: Vec<Sighting>) {
        for Sighting { rank, kind, library } in seen {
            self.unknown.remove(&rank);
            if kind == MpiKind::OpenMpi && self.helper.is_none() && !self.said_unserved {
                self.said_unserved = true;
                let size = self.world_size;
                self.head.send(&AgentMessage::Note(format!(
                    "rank {rank} has come to {library}, and there is no libpmix here by which it could ask for its world: {size} \
                     ranks will be {size} worlds of one (`-x EFARUN_LIBPMIX=FILE` names a libpmix.so.2)"
                )));
            }
            self.mpis.insert(rank, library);
        }
        if !self.unknown.is_empty() {
            self.look_later();
        }
    }

    /// Tells the helper of a further world.
    pub(super) fn admit(&mut self, plan: &LaunchPlan) {
        match &self.helper {
            Some(helper) => helper.admit(plan),
            None => drop(self.registered.insert(plan.map.world)),
        }
        self.relay.admit(&plan.map);
    }

    /// Whether the ranks of a world are expected by their server, or have none.
    pub(super) fn has_registered(&self, world: u32) -> bool {
        self.registered.contains(&world)
    }

    /// Passes on what came of an order for a world.
    pub(super) fn spawned(&mut self, token: u64, outcome: &Result<SpawnedWorld, String>) {
        let actions = self.relay.spawned(token, outcome);
        self.act(actions);
    }

    /// Handles what the helper says. Gives the ranks that have been heard out by it.
    pub(super) fn handle(&mut self, event: PmixEvent) -> Vec<Rank> {
        match event {
            PmixEvent::Report(Report::Registered { world, environments }) => {
                self.registered.insert(world);
                self.environments.extend(environments);
                Vec::new()
            }
            PmixEvent::Report(report) => {
                let actions = self.relay.reported(report);
                self.act(actions)
            }
            PmixEvent::LookDue => {
                self.look();
                Vec::new()
            }
            PmixEvent::Seen(seen) => {
                self.saw(seen);
                Vec::new()
            }
            PmixEvent::HeardOutDue(rank) => self.unheard.take(&rank).into_iter().collect(),
            PmixEvent::Gone => {
                let Some(helper) = &mut self.helper else { return Vec::new() };
                let ended_how = helper.ended_how();
                let how = format!("ran {} and {ended_how}", helper.library);
                let actions = self.relay.lost(&how);
                self.act(actions);
                std::mem::take(&mut self.unheard).into_iter().collect()
            }
        }
    }

    /// Takes what the head passes on for this server; gives back what is not.
    pub(super) fn receive_down(&mut self, down: OobDown) -> Option<OobDown> {
        let len_bytes = exchange::len_down(&down) as u64;
        match self.relay.hear(down) {
            Ok(actions) => {
                self.exchanged[1] += len_bytes;
                self.act(actions);
                None
            }
            Err(other) => Some(other),
        }
    }

    /// Asks the helper to tell what a rank has said that has ended.
    pub(super) fn hear_out(&mut self, rank: Rank) {
        let Some(helper) = &self.helper else { return };
        helper.order(&Order::HearOut(rank));
        self.unheard.insert(rank);
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(HELPER_PATIENCE).await;
            // The receiver lives as long as the agent.
            let _ = events.send(PmixEvent::HeardOutDue(rank)).await;
        });
    }

    /// Whether a rank has been heard out, or need not be.
    pub(super) fn is_heard_out(&self, rank: Rank) -> bool {
        !self.unheard.contains(&rank)
    }

    /// The MPI library that a rank's program is linked with or has come to, if the rank has never asked this server for a world.
    pub(super) fn unused_mpi(&self, rank: Rank) -> Option<&str> {
        self.mpis.get(&rank).filter(|_| !self.relay.has_connected(rank)).map(String::as_str)
    }

    /// Takes note of a rank's end, once it is heard out. What is wrong with it is told before the end itself is.
    pub(super) fn ended(&mut self, exit: &RankExit) {
        self.unknown.remove(&exit.rank);
        if exit.status == RankStatus::Code(0) && !exit.ended_by_launcher {
            let actions = self.relay.ended_well(exit.rank);
            self.act(actions);
        }
    }

    /// What this server has said to those of other nodes and been told by them, in bytes.
    pub(super) fn exchanged(&self) -> [u64; 2] {
        self.exchanged
    }

    /// Ends the helper.
    pub(super) async fn end(&mut self) {
        if let Some(mut helper) = self.helper.take() {
            helper.end().await;
        }
    }

    fn act(&mut self, actions: Vec<Action>) -> Vec<Rank> {
        let mut heard_out = Vec::new();
        for action in actions {
            match action {
                Action::Order(order) => {
                    if let Some(helper) = &self.helper {
                        helper.order(&order);
                    }
                }
                Action::Spawn(order) => self.head.send(&AgentMessage::Spawn(Box::new(order))),
                Action::Up(up) => {
                    self.exchanged[0] += exchange::len_up(&up) as u64;
                    self.head.send(&AgentMessage::Oob(up));
                }
                Action::Note(text) => self.head.send(&AgentMessage::Note(text)),
                Action::Broke { rank, how } => self.head.send(&AgentMessage::RankBroke { rank, how }),
                Action::HeardOut(rank) => heard_out.extend(self.unheard.take(&rank)),
            }
        }
        heard_out
    }
}

/// Open MPI 4 asks its launcher for a world only where it knows it, by this or another variable; nothing else reads it.
const JSM_JSRUN_PORT: &str = "JSM_JSRUN_PORT";
/// MPICH 5 gives up where it finds both PMI's variables and PMIx's, unless it is told which to use.
const PMI_VERSION: &str = "MPIR_CVAR_PMI_VERSION";
/// Open MPI's ranks spin while they wait, unless their launcher says that others need the core: its own does so by this.
const YIELD_WHEN_IDLE: &str = "OMPI_MCA_mpi_yield_when_idle";
/// A helper that is alive answers at once.
const HELPER_PATIENCE: Duration = Duration::from_secs(2);
