//! The ranks of this node, from their launch to the end of their last stream.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use efarun_wire::message::{
    AgentMessage, AgentOrder, LaunchPlan, OobDown, RankExit, RankPlan, RankStatus, SpawnedWorld, Stream,
};
use efarun_wire::oob::OobError;
use efarun_wire::torchrun::StreamWay;
use efarun_wire::{JobId, Rank};

use super::error_file::ErrorFile;
use super::evidence::Witness;
use super::keeper_link::KeeperLink;
use super::launch::{self, OwnEnds};
use super::leftovers;
use super::master_port::MasterPort;
use super::pmi_links::{Heard, PmiEvent, PmiLinks};
use super::pmix_helper::PmixEvent;
use super::pmix_links::{PmixLinks, Unserved};
use super::rank_folders::{Folders, Tee, Unmade};
use super::rank_links::{RankEvent, RankLinks};
use super::stacks::RunningRank;
use super::streams;
use crate::exchange::Family;
use crate::keeper::protocol::{KeeperReport, RANK_FDS};
use crate::keeper::{descendants, limits};
use crate::link_io::{LinkEnd, LinkSender};
use crate::pmix::protocol::nspace;

/// All ranks of this node.
#[derive(Debug)]
pub(super) struct Ranks {
    job: JobId,
    links: RankLinks,
    pmi: PmiLinks,
    /// None until it is known whether ranks need it.
    pmix: Option<PmixLinks>,
    head: LinkSender<AgentMessage>,
    inputs: BTreeMap<Rank, mpsc::UnboundedSender<Vec<u8>>>,
    /// Each rank's own, and that of PMI, until it runs.
    sockets: BTreeMap<Rank, [UnixStream; 2]>,
    /// Each task that carries output holds a clone, over which nothing is ever sent. None once no rank can start any more.
    carriers: Option<mpsc::Sender<()>>,
    /// How many ranks the world has that the job began with.
    first_size: u32,
    /// Further worlds that are to be started here.
    admitted: Vec<LaunchPlan>,
    events: Events,
    /// Ends of ranks one of whose sockets has not been read to its end yet.
    exits: BTreeMap<Rank, RankExit>,
    reaped: watch::Sender<bool>,
    forked: u32,
    /// Those that have started and whose end has not been reported.
    running: BTreeMap<Rank, RunningRank>,
    /// The ends that the head awaits, where it awaits any.
    untold_ends: Option<BTreeSet<Rank>>,
    witness: Witness,
    /// Where ranks without folders write why they failed.
    error_files: BTreeMap<Rank, ErrorFile>,
    /// Where each rank's own tools are: its PATH.
    paths: BTreeMap<Rank, Vec<u8>>,
    said_other_wdir: bool,
    /// The folder that each rank was to start in.
    wdirs: BTreeMap<Rank, Vec<u8>>,
    folders: Option<Folders>,
    local_ranks: BTreeMap<Rank, u32>,
    /// Kept free to the agent's end.
    _master_port: Option<MasterPort>,
}

/// Where what comes over ranks' sockets goes.
#[derive(Debug, Clone)]
pub(super) struct Events {
    /// Over their own.
    pub(super) links: mpsc::Sender<RankEvent>,
    /// Over that of PMI.
    pub(super) pmi: mpsc::Sender<PmiEvent>,
    /// From the helper that has their PMIx server.
    pub(super) pmix: mpsc::Sender<PmixEvent>,
}

/// Gives `None` when the last stream of the last rank has been read to its end.
pub(super) type StreamsEnded = mpsc::Receiver<()>;

impl Ranks {
    /// Makes what the ranks of the plan need and orders them from the keeper. A rank for which that fails is
    /// reported as one that could not be started.
    ///
    /// # Errors
    ///
    /// When the keeper takes no orders: it is dead.
    pub(super) async fn launch(
        order: &AgentOrder,
        plan: LaunchPlan,
        head: &LinkSender<AgentMessage>,
        events: Events,
        keeper: &KeeperLink,
    ) -> std::io::Result<(Ranks, StreamsEnded)> {
        head.grant(plan.output_credit);
        let master_port = plan.master_port.map(MasterPort::keep).transpose();
        let (plan, folders) = made(plan).await;
        let (carriers, streams_ended) = mpsc::channel(1);
        let first_size = plan.world_size;
        let mut ranks = Ranks {
            job: order.job,
            links: RankLinks::new(order.job, &plan, head.clone(), events.links.clone()),
            pmi: PmiLinks::new(order.job, &plan, head.clone(), events.pmi.clone()),
            pmix: None,
            head: head.clone(),
            inputs: BTreeMap::new(),
            sockets: BTreeMap::new(),
            carriers: Some(carriers),
            first_size,
            admitted: Vec::new(),
            events,
            exits: BTreeMap::new(),
            reaped: watch::Sender::new(false),
            forked: 0,
            running: BTreeMap::new(),
            untold_ends: None,
            witness: Witness::start(),
            error_files: BTreeMap::new(),
            paths: BTreeMap::new(),
            said_other_wdir: false,
            wdirs: BTreeMap::new(),
            folders: None,
            local_ranks: plan.ranks.iter().map(|rank| (rank.rank, rank.local_rank)).collect(),
            _master_port: None,
        };
        for shortfall in limits::shortfalls(&plan.limits) {
            head.send(&AgentMessage::Note(shortfall));
        }
        match (master_port, folders) {
            (Ok(port), Ok(folders)) => {
                ranks.folders = folders;
                ranks._master_port = port;
                ranks.note_place_of_logs();
            }
            (Err(error), _) => {
                let port = plan.master_port.unwrap_or_default();
                ranks.fail_all(&plan, "bind", &format!("port {port}, which is to be MASTER_PORT"), &error);
                return Ok((ranks, streams_ended));
            }
            (_, Err(Unmade { path, source })) => {
                ranks.fail_all(&plan, "mkdir", &path.display().to_string(), &source);
                return Ok((ranks, streams_ended));
            }
        }
        match PmixLinks::start(order.job, &plan, head, ranks.events.pmix.clone()).await {
            Ok(pmix) => ranks.pmix = Some(pmix),
            Err(Unserved { rank, library, tried }) => {
                head.send(&AgentMessage::Unserved { rank, library, tried });
                return Ok((ranks, streams_ended));
            }
        }
        for rank in &plan.ranks {
            ranks.launch_one(&plan, rank, keeper).await?;
        }
        Ok((ranks, streams_ended))
    }

    /// Takes a further world in. Its ranks are started by [`Ranks::launch_admitted`], once their servers know of them.
    pub(super) fn admit(&mut self, plan: LaunchPlan) {
        self.pmi.admit(&plan);
        if let Some(pmix) = &mut self.pmix {
            pmix.admit(&plan);
        }
        self.local_ranks.extend(plan.ranks.iter().map(|rank| (rank.rank, rank.local_rank)));
        self.admitted.push(plan);
    }

    /// Starts the ranks of further worlds that their servers expect.
    ///
    /// # Errors
    ///
    /// When the keeper takes no orders: it is dead.
    pub(super) async fn launch_admitted(&mut self, keeper: &KeeperLink) -> io::Result<()> {
        let is_expected =
            |plan: &LaunchPlan| self.pmix.as_ref().is_none_or(|pmix| pmix.has_registered(plan.map.world));
        let (expected, later) = std::mem::take(&mut self.admitted).into_iter().partition(is_expected);
        self.admitted = later;
        let expected: Vec<LaunchPlan> = expected;
        for plan in &expected {
            self.head.send(&AgentMessage::Admitted { world: plan.map.world });
            for rank in &plan.ranks {
                self.launch_one(plan, rank, keeper).await?;
            }
        }
        Ok(())
    }

    /// Passes on what came of an order for a further world.
    pub(super) fn spawned(&mut self, token: u64, outcome: &Result<SpawnedWorld, String>) {
        match &mut self.pmix {
            Some(pmix) if Family::Pmix.owns(token) => pmix.spawned(token, outcome),
            _ => self.pmi.spawned(token, outcome),
        }
    }

    async fn launch_one(
        &mut self,
        plan: &LaunchPlan,
        rank_plan: &RankPlan,
        keeper: &KeeperLink,
    ) -> std::io::Result<()> {
        let rank = rank_plan.rank;
        let Some(mut fork_order) = launch::fork_order(plan, rank_plan) else {
            let (call, subject) = ("launch".to_owned(), "a program that is not in the plan".to_owned());
            self.head.send(&AgentMessage::SpawnFailed { rank, call, subject, errno: libc::EINVAL });
            return Ok(());
        };
        self.wdirs.insert(rank, fork_order.wdir.clone());
        let path = fork_order.env.iter().find(|(name, _)| name == b"PATH");
        self.paths.insert(rank, path.map(|(_, path)| path.clone()).unwrap_or_default());
        if let Some(pmix) = &mut self.pmix {
            pmix.complete(rank, &mut fork_order.env);
        }
        if let Err(error) = self.pmi.complete(rank, &mut fork_order.env).await {
            self.fail(rank, "bind", "the port for PMI that EFARUN_PMI_PORT asks for", &error);
            return Ok(());
        }
        if let Some(folders) = &self.folders {
            folders.complete(&mut fork_order, rank_plan.local_rank);
        } else if let Some(file) = ErrorFile::for_rank(&mut fork_order.env) {
            self.error_files.insert(rank, file);
        }
        let made = launch::descriptors(plan.stdin_ranks.contains(&rank), plan.merge_stderr)
            .and_then(|(fds, own)| self.redirected(rank_plan.local_rank, fds, own));
        match made {
            Ok((fds, own, tees)) => {
                self.take_over(rank, own, tees);
                keeper.fork(fork_order, fds).await?;
            }
            Err((call, error)) => {
                self.fail(rank, call, "its streams (see ulimit -Hn there)", &error);
            }
        }
        Ok(())
    }

    fn take_over(&mut self, rank: Rank, own: OwnEnds, tees: [Option<Tee>; 2]) {
        let pipes = [(Stream::Stdout, own.stdout), (Stream::Stderr, own.stderr)];
        for ((stream, pipe), tee) in pipes.into_iter().zip(tees) {
            let Some(pipe) = pipe else { continue };
            let reaped = self.reaped.subscribe();
            let carry = streams::carry_output(rank, stream, pipe, tee, self.head.clone(), reaped);
            let alive = self.carriers.clone();
            tokio::spawn(async move {
                carry.await;
                drop(alive);
            });
        }
        if let Some(pipe) = own.stdin {
            let (chunks, incoming) = mpsc::unbounded_channel();
            tokio::spawn(streams::feed_input(rank, incoming, pipe, self.head.clone()));
            self.inputs.insert(rank, chunks);
        }
        self.sockets.insert(rank, [own.socket, own.pmi]);
    }

    /// Sends a rank's streams the ways that its folders' plan has for them.
    fn redirected(
        &self,
        local_rank: u32,
        mut fds: [OwnedFd; RANK_FDS],
        mut own: OwnEnds,
    ) -> Result<Redirected, (&'static str, io::Error)> {
        let mut tees = [None, None];
        let Some(folders) = &self.folders else { return Ok((fds, own, tees)) };
        let log = |stream| folders.log(local_rank, stream).map_err(|unmade| ("open", unmade.source));
        let is_merged = own.stderr.is_none();
        let streams = [Stream::Stdout, Stream::Stderr].into_iter().take(if is_merged { 1 } else { 2 });
        for (index, stream) in streams.enumerate() {
            let file = match folders.way(local_rank, stream) {
                StreamWay::Shown => continue,
                StreamWay::Both { prefix } => {
                    tees[index] = Some(Tee::new(log(stream)?, prefix.clone()));
                    continue;
                }
                StreamWay::File => log(stream)?,
                StreamWay::Nowhere => {
                    let null = std::fs::OpenOptions::new().write(true).open("/dev/null");
                    null.map_err(|error| ("open /dev/null", error))?
                }
            };
            fds[index + 1] = file.into();
            let pipe = if stream == Stream::Stdout { &mut own.stdout } else { &mut own.stderr };
            *pipe = None;
        }
        if is_merged {
            fds[2] = fds[1].try_clone().map_err(|error| ("dup", error))?;
        }
        Ok((fds, own, tees))
    }

    /// Says that no rank of the plan can be started, and why.
    fn fail_all(&self, plan: &LaunchPlan, call: &str, subject: &str, error: &io::Error) {
        for rank in &plan.ranks {
            self.fail(rank.rank, call, subject, error);
        }
    }

    fn fail(&self, rank: Rank, call: &str, subject: &str, error: &io::Error) {
        let (call, subject) = (call.to_owned(), subject.to_owned());
        let errno = error.raw_os_error().unwrap_or_default();
        self.head.send(&AgentMessage::SpawnFailed { rank, call, subject, errno });
    }

    /// Tells the user where logs are that he asked for without naming a folder.
    fn note_place_of_logs(&self) {
        let folders = self.folders.as_ref().filter(|folders| folders.is_temporary());
        if let Some(place) = folders.and_then(Folders::place_of_logs) {
            let note = format!("ranks' logs are in {} (--log-dir names another folder)", place.display());
            self.head.send(&AgentMessage::Note(note));
        }
    }

    /// Passes on bytes for a rank's standard input. The head's credit bounds what waits there.
    pub(super) fn feed(&mut self, rank: Rank, bytes: Vec<u8>) {
        if let Some(chunks) = self.inputs.get(&rank) {
            // The task ends only after this sender is gone.
            let _ = chunks.send(bytes);
        }
    }

    /// How many ranks have started.
    pub(super) fn forked(&self) -> u32 {
        self.forked
    }

    /// The ranks that have started and whose end has not been reported.
    pub(super) fn running(&self) -> Vec<RunningRank> {
        self.running.values().cloned().collect()
    }

    /// Says so once the ends are told of the ranks that are ending now.
    pub(super) fn tell_ends(&mut self) {
        let ending = self.running.values().filter(|rank| descendants::is_ending(rank.pid));
        self.untold_ends = Some(ending.map(|rank| rank.rank).collect());
        self.say_ends_told();
    }

    fn say_ends_told(&mut self) {
        if self.untold_ends.as_ref().is_some_and(BTreeSet::is_empty) {
            self.untold_ends = None;
            self.head.send(&AgentMessage::EndsTold);
        }
    }

    /// Handles a report about a rank.
    pub(super) fn handle(&mut self, report: KeeperReport) {
        match report {
            KeeperReport::Forked { rank, pid, other_wdir } => {
                self.forked += 1;
                let path = self.paths.remove(&rank).unwrap_or_default();
                self.running.insert(rank, RunningRank { rank, pid, path });
                if let Some(pmix) = &mut self.pmix {
                    pmix.started(rank, pid);
                }
                self.head.send(&AgentMessage::Spawned { rank, pid });
                if let Some([socket, pmi]) = self.sockets.remove(&rank) {
                    if rank.0 < self.first_size {
                        self.links.add(rank, socket);
                    }
                    self.pmi.add(rank, pmi);
                }
                if let Some(other) = other_wdir {
                    self.note_other_wdir(rank, &other);
                }
            }
            KeeperReport::ForkFailed { rank, call, subject, errno } => {
                self.sockets.remove(&rank);
                let subject = String::from_utf8_lossy(&subject).into_owned();
                self.head.send(&AgentMessage::SpawnFailed { rank, call, subject, errno });
            }
            KeeperReport::Exited { rank, status, ran_ms, ended_by_launcher } => {
                // Whether it was in a World is known once its socket has been read to its end.
                self.exited(RankExit { rank, status, ran_ms, ended_by_launcher, within_world: false });
            }
            // About all of them.
            KeeperReport::Reaped { .. } | KeeperReport::Stuck { .. } => {}
        }
    }

    /// Handles what came over a rank's socket.
    pub(super) fn handle_link(&mut self, event: RankEvent) {
        let rank = event.0;
        self.links.handle(event);
        self.report_if_heard_out(rank);
    }

    /// Handles what came over a rank's PMI socket.
    pub(super) fn handle_pmi(&mut self, event: PmiEvent) {
        let rank = event.0;
        self.pmi.handle(event);
        self.report_if_heard_out(rank);
    }

    /// Handles what the head passes on.
    ///
    /// # Errors
    ///
    /// When the head does not follow the protocol.
    pub(super) fn receive_down(&mut self, down: OobDown) -> Result<(), OobError> {
        let others = match &mut self.pmix {
            Some(pmix) => pmix.receive_down(down),
            None => Some(down),
        };
        match others.and_then(|down| self.pmi.receive_down(down)) {
            Some(down) => self.links.receive_down(down),
            None => Ok(()),
        }
    }

    /// Handles what the helper says that has the ranks' PMIx server.
    pub(super) fn handle_pmix(&mut self, event: PmixEvent) {
        let heard_out = self.pmix.as_mut().map(|pmix| pmix.handle(event));
        for rank in heard_out.unwrap_or_default() {
            self.report_if_heard_out(rank);
        }
    }

    /// Ends the helper, where there is one.
    pub(super) async fn end_helper(&mut self) {
        if let Some(pmix) = &mut self.pmix {
            pmix.end().await;
        }
    }

    fn is_heard_out(&self, rank: Rank) -> bool {
        let is_heard_out = self.pmix.as_ref().is_none_or(|pmix| pmix.is_heard_out(rank));
        is_heard_out && !self.links.is_open(rank) && !self.pmi.is_open(rank)
    }

    fn report_if_heard_out(&mut self, rank: Rank) {
        if self.is_heard_out(rank)
            && let Some(exit) = self.exits.remove(&rank)
        {
            self.report(exit);
        }
    }

    /// What the node's servers and those of other nodes have said to each other, in bytes: said here, and said to this node.
    pub(super) fn exchanged(&self) -> [u64; 2] {
        let pmix = self.pmix.as_ref().map_or([0; 2], PmixLinks::exchanged);
        let pmi = self.pmi.exchanged();
        [pmi[0] + pmix[0], pmi[1] + pmix[1]]
    }

    /// Says that no process of the job is left: streams end now, also where a stranger holds them.
    pub(super) fn all_reaped(&mut self) {
        for (_, exit) in std::mem::take(&mut self.exits) {
            self.report(exit);
        }
        leftovers::remove(&nspace(&self.job.to_string(), 0), &self.pmi.space_names());
        self.reaped.send_replace(true);
        self.carriers = None;
    }

    /// Reports an end, but first what the rank said before it: why it aborts, for example. Its socket ends with it,
    /// unless a child of its own still holds it, which is waited for a moment.
    fn exited(&mut self, exit: RankExit) {
        let rank = exit.rank;
        // One that was killed has told nothing that is not told yet, and others may already fail for it.
        if let (Some(pmix), RankStatus::Code(_)) = (&mut self.pmix, exit.status) {
            pmix.hear_out(rank);
        }
        if self.is_heard_out(rank) {
            return self.report(exit);
        }
        self.exits.insert(rank, exit);
        let events = self.events.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SOCKET_PATIENCE).await;
            // The receivers live as long as the agent.
            let _ = events.links.send((rank, Err(LinkEnd::Closed))).await;
            let _ = events.pmi.send((rank, Heard::Closed)).await;
        });
    }

    fn report(&mut self, exit: RankExit) {
        self.pmi.ended(&exit);
        if let Some(pmix) = &mut self.pmix {
            pmix.ended(&exit);
        }
        let rank = exit.rank;
        let has_failed = exit.status != RankStatus::Code(0);
        let local_rank = self.local_ranks.get(&rank).filter(|_| has_failed);
        let error = match &self.folders {
            Some(folders) => local_rank.and_then(|local| folders.error(*local)),
            None => self.error_files.get_mut(&rank).filter(|_| has_failed).and_then(ErrorFile::read),
        };
        if let Some(bytes) = error {
            self.head.send(&AgentMessage::ErrorFile { rank, bytes });
        }
        if let (Some(ended), false) = (self.running.remove(&rank), exit.ended_by_launcher) {
            let clues = self.witness.clues(ended.pid, exit.status);
            if !clues.is_empty() {
                self.head.send(&AgentMessage::Clues { rank, clues });
            }
        }
        let has_ended_well = !has_failed && !exit.ended_by_launcher;
        let unused_mpi = self.pmix.as_ref().and_then(|pmix| pmix.unused_mpi(rank));
        if let Some(library) = unused_mpi.filter(|_| has_ended_well && !self.pmi.has_initialised(rank)) {
            self.head.send(&AgentMessage::Alone { rank, library: library.to_owned() });
        }
        let within_world = self.links.is_within_world(rank);
        self.head.send(&AgentMessage::Exited(RankExit { within_world, ..exit }));
        if let Some(untold) = &mut self.untold_ends {
            untold.remove(&rank);
            self.say_ends_told();
        }
    }

    fn note_other_wdir(&mut self, rank: Rank, other: &[u8]) {
        if !std::mem::replace(&mut self.said_other_wdir, true) {
            let wdir = self.wdirs.get(&rank).map_or(&[][..], Vec::as_slice);
            let (wdir, other) = (String::from_utf8_lossy(wdir), String::from_utf8_lossy(other));
            let note =
                format!("there is no folder {wdir} here: ranks start in {other} (--wdir names another)");
            self.head.send(&AgentMessage::Note(note));
        }
    }
}

/// A rank's descriptors, our ends of those that are pipes, and what stdout and stderr pass through.
type Redirected = ([OwnedFd; RANK_FDS], OwnEnds, [Option<Tee>; 2]);

/// Makes the folders of a plan, beside the agent's own thread: they may be on a server that does not answer.
async fn made(plan: LaunchPlan) -> (LaunchPlan, Result<Option<Folders>, Unmade>) {
    if plan.folders.is_none() {
        return (plan, Ok(None));
    }
    let making = tokio::task::spawn_blocking(move || {
        let folders = Folders::create(&plan);
        (plan, folders)
    });
    making.await.expect("the runtime ends after the agent, and making folders does not panic")
}

/// How long a rank's sockets are read after the rank's end, where somebody else holds them open.
const SOCKET_PATIENCE: Duration = Duration::from_millis(100);
