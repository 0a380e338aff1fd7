//! A rank's GPU: getting it, sharing memory with the other ranks, and what goes wrong with it.
//!
//! [`World::use_device`] gives a rank its GPU; [`World::on`] a stream, on which collectives have the names that they have on
//! the host ([`OnStream`]).
//!
//! All ranks must be on one node, at most [`RANKS_MAX`] of them, a GPU each. Where [`Config::shared_gpus`] allows it several can
//! share one: then each has fewer blocks, so that all of them run side by side.
//!
//! [`Config::shared_gpus`]: crate::config::Config::shared_gpus

use std::time::{Duration, Instant};

use efarun_wire::Rank;
use efarun_wire::message::Participants;

use super::World;
use super::on_stream::OnStream;
use super::run::explain_told;
use super::setup::{Contribution, exchange};
use crate::coll::fault::Wait;
use crate::config::Environment;
use crate::cuda::{Device, DeviceMemory, Stream};
use crate::element::Element;
use crate::error::{Error, Place};
use crate::nvlink::engine::{Engine, Preparation, Wanted};
use crate::nvlink::layout::RANKS_MAX;
use crate::nvlink::window::Offer;
use crate::nvlink::{DeviceElement, Trouble};
use crate::warning;

/// A rank's GPU.
#[derive(Debug)]
pub(super) struct Gpu {
    device: Device,
    /// None in a world of one rank.
    pub(super) engine: Option<Engine>,
    /// What was enqueued last, for messages.
    pub(super) last: &'static str,
}

impl Gpu {
    /// Lets go of the GPU. Where the World is broken, others may still use memory of this process.
    pub(super) fn close(self, is_broken: bool) {
        let Some(engine) = self.engine else { return };
        if is_broken {
            engine.stop();
            engine.settle();
            engine.leak();
        } else {
            engine.retire();
        }
    }
}

impl World {
    /// Gives this rank its GPU. Blocks until every rank has called it; the World has it until its end.
    ///
    /// Ranks share GPUs only where that is allowed ([`Builder::shared_gpus`], `EFARUN_SHARED_GPUS=1`). Threads of one process
    /// that do share its context: a rank that waits for the device (`cudaDeviceSynchronize`), frees memory of it or loads a
    /// kernel waits for calls of the others too. It does so only where these need nothing more of it.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`] when CUDA fails, or [`Error::Setup`] when ranks share a GPU and may not, or are too many for it, are on
    /// more than one node or too many; on the other ranks [`Error::PeerSetup`].
    ///
    /// [`Builder::shared_gpus`]: crate::world::Builder::shared_gpus
    pub fn use_device(&mut self, device: &Device) -> Result<(), Error> {
        self.check_unbroken()?;
        let (rank, world_size, deadline) = (self.rank, self.world_size(), self.config.deadline);
        let may_share = self.config.shared_gpus;
        let refuse = |cause: String| Error::Setup { rank, transport: GPU_MEMORY, cause };
        let nodes = self.node_count();
        if nodes > 1 {
            return Err(refuse(format!(
                "the ranks are on {nodes} nodes, and GPU memory is reached within one"
            )));
        }
        if world_size as usize > RANKS_MAX {
            return Err(refuse(format!("{world_size} ranks share a node, and {RANKS_MAX} can")));
        }
        let Some(oob) = self.oob.as_mut().filter(|_| world_size > 1) else {
            self.gpu = Some(Gpu { device: device.clone(), engine: None, last: "nothing" });
            return Ok(());
        };
        let until = Instant::now() + self.config.bootstrap_timeout;
        let prepared = Preparation::new(device, world_size, self.config.gpu_blocks);
        let mine = match &prepared {
            Ok(prepared) => Contribution::Good(prepared.offer()),
            Err(error) => Contribution::Failed(error.to_string()),
        };
        let offers = exchange(oob, "gpu-windows", mine, until);
        let prepared = prepared.map_err(|cause| Error::Gpu { rank, cause })?;
        let engine = Engine::new(prepared, rank.index(), &offers?, deadline, may_share);
        let engine = engine.and_then(|mut engine| {
            // Nobody runs a kernel yet, for which loading one would wait.
            engine.prepare_all()?;
            engine.threads_per_gpu().into_iter().for_each(tell_of_queues);
            Ok(engine)
        });
        let mine = match &engine {
            Ok(_) => Contribution::Good(Vec::new()),
            Err(error) => Contribution::Failed(error.to_string()),
        };
        // Nobody writes into a window that is not open to all.
        let ready = exchange(oob, "gpu-ready", mine, until);
        let engine = engine.map_err(|cause| refuse(cause.to_string()))?;
        ready?;
        self.gpu = Some(Gpu { device: device.clone(), engine: Some(engine), last: "nothing" });
        Ok(())
    }

    /// Lets large collectives use memory where it lies. Blocks until every rank has called it, with as much memory each.
    ///
    /// A call is done in place when its buffers lie in registered memory, on every rank in what it registered in the same
    /// call of this, wherever in it. The World keeps the memory until its own end, or until
    /// [`World::unregister_memory`] is told the number that this gives.
    ///
    /// # Errors
    ///
    /// As [`World::use_device`].
    pub fn register_memory<T: Element + bytemuck::Pod>(
        &mut self,
        memory: &DeviceMemory<T>,
    ) -> Result<usize, Error> {
        self.check_unbroken()?;
        let rank = self.rank;
        let (Some(gpu), oob) = (&mut self.gpu, &mut self.oob) else {
            return Err(Error::NoDevice { operation: "register_memory" });
        };
        let (Some(engine), Some(oob)) = (&mut gpu.engine, oob) else { return Ok(0) };
        let until = Instant::now() + self.config.bootstrap_timeout;
        let offer = Offer::of(memory);
        let mine = match &offer {
            Ok(offer) => Contribution::Good(offer.to_bytes()),
            Err(error) => Contribution::Failed(error.to_string()),
        };
        let offers = exchange(oob, "gpu-memory", mine, until);
        offer.map_err(|cause| Error::Gpu { rank, cause })?;
        let registered = engine.register(memory, &offers?);
        let mine = match &registered {
            Ok(_) => Contribution::Good(Vec::new()),
            Err(error) => Contribution::Failed(error.to_string()),
        };
        let ready = exchange(oob, "gpu-ready", mine, until);
        let number = registered.map_err(|cause| Error::Setup {
            rank,
            transport: GPU_MEMORY,
            cause: cause.to_string(),
        })?;
        ready.map(|_| number)
    }

    /// Does not use registered memory any more, by the number that registering it gave; every rank must call it between
    /// the same collectives. Waits until this rank's GPU is done.
    pub fn unregister_memory(&mut self, number: usize) {
        if let Some(engine) = self.gpu.as_mut().and_then(|gpu| gpu.engine.as_mut()) {
            engine.unregister(number);
        }
    }

    /// Loads the kernels for these types, so that the first collective on them does not: the driver compiles them once per
    /// user and version, which takes about a second each, and loading can wait for all work of the device.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`]; [`Error::NoDevice`] without [`World::use_device`].
    pub fn prepare_device<E: Into<DeviceElement> + Copy>(&mut self, elements: &[E]) -> Result<(), Error> {
        let rank = self.rank;
        let gpu = self.gpu.as_mut().ok_or(Error::NoDevice { operation: "prepare_device" })?;
        let Some(engine) = &mut gpu.engine else { return Ok(()) };
        let elements = elements.iter().copied().map(Into::into);
        let mut kinds = std::iter::once(None).chain(elements.map(Some));
        kinds.try_for_each(|kind| engine.prepare(kind)).map_err(|cause| Error::Gpu { rank, cause })
    }

    /// Whether this rank's process has several ranks on one GPU.
    pub fn has_threads_on_one_gpu(&self) -> bool {
        self.gpu.as_ref().and_then(|gpu| gpu.engine.as_ref()?.threads_per_gpu()).is_some()
    }

    /// How many blocks a launch of this rank can have, where ranks share GPUs.
    pub fn blocks_on_shared_gpu(&self) -> Option<u32> {
        self.gpu.as_ref().and_then(|gpu| gpu.engine.as_ref()?.blocks_on_shared_gpu())
    }

    /// Collectives that are enqueued on this stream. On several streams they take place in the order of the calls.
    ///
    /// A stream that is being captured takes them into its graph. What a graph does is ordered with calls on other
    /// streams by whoever launches it.
    pub fn on<'a>(&'a mut self, stream: &'a Stream) -> OnStream<'a> {
        OnStream { world: self, stream, wanted: Wanted::default() }
    }

    /// What kernels of this rank have given up for, since it has its GPU; without waiting. The World is broken then.
    pub fn device_trouble(&mut self) -> Option<Error> {
        let gpu = self.gpu.as_ref()?;
        let trouble = gpu.engine.as_ref()?.trouble()?;
        let place = Place {
            operation: gpu.last,
            sequence: self.sequence.wrapping_sub(1),
            rank: self.rank,
            step: None,
        };
        let error = explain(place, trouble, self.config.deadline);
        self.broken.get_or_insert_with(|| error.to_string());
        Some(error)
    }

    /// What the bootstrap has to say about the other ranks: that one is lost, or gave up; without waiting. The World is
    /// not broken by it: whoever finds that nothing waits for that rank may go on.
    pub fn peer_trouble(&mut self) -> Option<Error> {
        let error = self.oob.as_mut()?.check_events().err()?;
        let operation = self.gpu.as_ref().map_or("nothing", |gpu| gpu.last);
        let sequence = self.sequence.checked_sub(1).unwrap_or(Place::NONE);
        Some(explain_told(Place { operation, sequence, rank: self.rank, step: None }, error))
    }

    /// Ends what waits on the GPU for other ranks, and every call on the GPU from now on. Does not wait.
    pub fn stop_device(&self) {
        if let Some(engine) = self.gpu.as_ref().and_then(|gpu| gpu.engine.as_ref()) {
            engine.stop();
        }
    }

    /// Whether a kernel has ended without having done its work, for whatever reason.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`].
    pub fn device_gave_up(&self) -> Result<bool, Error> {
        let engine = self.gpu.as_ref().and_then(|gpu| gpu.engine.as_ref());
        let gave_up = engine.map_or(Ok(false), Engine::has_given_up);
        gave_up.map_err(|cause| Error::Gpu { rank: self.rank, cause })
    }

    /// Lets go of the World without waiting for the other ranks, of which this one needs nothing any more, nor they of
    /// it: every call of theirs with this rank has begun on this rank's GPU. Waits for what is enqueued there.
    pub fn leave(mut self) {
        self.is_closed = true;
        self.device_trouble();
        if let Some(gpu) = self.gpu.take() {
            gpu.close(self.broken.is_some());
        }
        if let Some(peers) = &mut self.peers {
            peers.transport.close();
        }
        // Without goodbye the others learn that this rank is gone, which is what they should after an error.
        if let (None, Some(oob)) = (&self.broken, &mut self.oob) {
            oob.leave();
        }
    }

    /// Gives every rank's bytes to every rank, in order of rank: what ranks must tell each other beside collectives. Where
    /// only some take part, ascending, each names them all.
    ///
    /// # Errors
    ///
    /// [`Error::Bootstrap`] when a rank does not come before the deadline, or is lost.
    pub fn exchange(
        &mut self,
        id: &str,
        among: Option<&[Rank]>,
        bytes: Vec<u8>,
    ) -> Result<Vec<Vec<u8>>, Error> {
        let Some(oob) = &mut self.oob else { return Ok(vec![bytes]) };
        let participants = among.map_or(Participants::World, |ranks| Participants::Ranks(ranks.to_vec()));
        let all = oob.allgather(id, participants, bytes, self.config.bootstrap_timeout)?;
        Ok(all.into_iter().map(|(_, bytes)| bytes).collect())
    }

    /// Kernels for a world of one rank, whose calls are copies otherwise.
    pub(super) fn engine_for_one(&mut self) -> Result<(), Error> {
        let (rank, deadline) = (self.rank, self.config.deadline);
        let Some(gpu) = &mut self.gpu else { return Ok(()) };
        if gpu.engine.is_none() {
            let prepared =
                Preparation::new(&gpu.device, 1, None).map_err(|cause| Error::Gpu { rank, cause })?;
            let offers = [prepared.offer()];
            let engine = Engine::new(prepared, 0, &offers, deadline, false)
                .map_err(|cause| Error::Setup { rank, transport: GPU_MEMORY, cause: cause.to_string() })?;
            gpu.engine = Some(engine);
        }
        Ok(())
    }

    fn check_unbroken(&self) -> Result<(), Error> {
        self.broken.as_ref().map_or(Ok(()), |first| Err(Error::Broken { first: first.clone() }))
    }
}

/// Says what threads that share a GPU need, unless they have it.
fn tell_of_queues(threads: u32) {
    let set = Environment::of_process().number(QUEUES).ok().flatten();
    let queues = set.unwrap_or(QUEUES_UNSET);
    if queues < threads.saturating_mul(STREAMS_PER_RANK) {
        let text = format_args!(
            "{threads} ranks are threads of this process and share a GPU, to which the process has {queues} queues: a stream \
             that waits for another rank can hold up that rank's, which is in its queue; set {QUEUES}=32"
        );
        warning::tell("gpu: queues", text);
    }
}

/// How many queues a process has to a device, by which its streams go.
const QUEUES: &str = "CUDA_DEVICE_MAX_CONNECTIONS";
const QUEUES_UNSET: u32 = 8;
/// The program's own, and that of a copy beside it.
const STREAMS_PER_RANK: u32 = 2;

/// What a kernel said, in terms of the World. All ranks are on one node, so that numbers on it are ranks.
pub(super) fn explain(place: Place, trouble: Trouble, waited: Duration) -> Error {
    match trouble {
        Trouble::Timeout { peer } => {
            let peer = Rank(peer as u32);
            Error::Timeout { place, peer, wait: Wait::Message { from: peer }, waited, stall: None }
        }
        Trouble::Mismatch { peer } => Error::Mismatch {
            place,
            peer: Rank(peer as u32),
            difference: "differs in operation, order, type, count, reduction, root, or in where registered buffers lie"
                .to_owned(),
        },
        Trouble::Stopped => {
            Error::Aborted { place, rank: None, reason: "this rank's calls were stopped".to_owned() }
        }
    }
}

const GPU_MEMORY: &str = "GPU memory";
