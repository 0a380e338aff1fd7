//! Collectives on GPU memory, enqueued on a CUDA stream.
//!
//! [`World::use_device`] gives a rank its GPU; [`World::on`] a stream, on which collectives have the names that they have on
//! the host. A call enqueues and returns; [`OnStream::wait`] waits for what was enqueued, and learns what went wrong with
//! it: a rank that is lost, that calls something else, or that does not come before the deadline. Whoever waits by other
//! means (`cudaStreamSynchronize`) is not left hanging, as kernels give up at the deadline, but must ask `wait` whether
//! they did.
//!
//! All ranks must be on one node, at most [`RANKS_MAX`] of them, a GPU each.
//!
//! # Safety
//!
//! Slices have the length that is checked here, in memory that is not freed before the device is done with all work.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::World;
use super::operations::{NO_OP, equal_lengths, lengths};
use super::run::explain_told;
use super::setup::{Contribution, exchange};
use crate::bootstrap::BootstrapError;
use crate::coll::collective::Collective;
use crate::coll::fault::Wait;
use crate::cuda::{CudaError, Device, DeviceMemory, DevicePointer, DeviceSlice, DeviceSliceMut, Stream};
use crate::element::{Element, ElementType, ReduceOp};
use crate::error::{Error, Place};
use crate::nvlink::engine::{DeviceCall, Engine, Preparation};
use crate::nvlink::layout::RANKS_MAX;
use crate::nvlink::window::Offer;
use crate::nvlink::{Leaf, Trouble};

/// A rank's GPU.
#[derive(Debug)]
pub(super) struct Gpu {
    device: Device,
    /// None in a world of one rank.
    engine: Option<Engine>,
    /// What was enqueued last, for messages.
    last: &'static str,
}

impl Gpu {
    /// Lets go of the GPU. Where the World is broken, others may still use memory of this process.
    pub(super) fn close(self, is_broken: bool) {
        if let (Some(engine), true) = (self.engine, is_broken) {
            engine.stop();
            let _done = self.device.synchronize();
            engine.leak();
        }
    }
}

impl World {
    /// Gives this rank its GPU. Blocks until every rank has called it; the World has it until its end.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`] when CUDA fails, or [`Error::Setup`] when ranks share a GPU, are on more than one node or too many;
    /// on the other ranks [`Error::PeerSetup`].
    pub fn use_device(&mut self, device: &Device) -> Result<(), Error> {
        self.check_unbroken()?;
        let (rank, world_size, deadline) = (self.rank, self.world_size(), self.config.deadline);
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
        let prepared = Preparation::new(device);
        let mine = match &prepared {
            Ok(prepared) => Contribution::Good(prepared.offer()),
            Err(error) => Contribution::Failed(error.to_string()),
        };
        let offers = exchange(oob, "gpu-windows", mine, until);
        let prepared = prepared.map_err(|cause| Error::Gpu { rank, cause })?;
        let engine = Engine::new(prepared, rank.index(), &offers?, deadline);
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
    /// call of this, wherever in it. The World keeps the memory until its own end.
    ///
    /// # Errors
    ///
    /// As [`World::use_device`].
    pub fn register_memory<T: Element + bytemuck::Pod>(
        &mut self,
        memory: &DeviceMemory<T>,
    ) -> Result<(), Error> {
        self.check_unbroken()?;
        let rank = self.rank;
        let (Some(gpu), oob) = (&mut self.gpu, &mut self.oob) else {
            return Err(Error::NoDevice { operation: "register_memory" });
        };
        let (Some(engine), Some(oob)) = (&mut gpu.engine, oob) else { return Ok(()) };
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
            Ok(()) => Contribution::Good(Vec::new()),
            Err(error) => Contribution::Failed(error.to_string()),
        };
        let ready = exchange(oob, "gpu-ready", mine, until);
        registered.map_err(|cause| Error::Setup { rank, transport: GPU_MEMORY, cause: cause.to_string() })?;
        ready.map(|_| ())
    }

    /// Loads the kernels for these types, so that the first collective on them does not: the driver compiles them once per
    /// user and version, which takes about a second each, and loading can wait for all work of the device.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`]; [`Error::NoDevice`] without [`World::use_device`].
    pub fn prepare_device(&mut self, elements: &[ElementType]) -> Result<(), Error> {
        let rank = self.rank;
        let gpu = self.gpu.as_mut().ok_or(Error::NoDevice { operation: "prepare_device" })?;
        let Some(engine) = &mut gpu.engine else { return Ok(()) };
        let mut kinds = std::iter::once(None).chain(elements.iter().copied().map(Some));
        kinds.try_for_each(|kind| engine.prepare(kind)).map_err(|cause| Error::Gpu { rank, cause })
    }

    /// Collectives that are enqueued on this stream. On several streams they take place in the order of the calls.
    ///
    /// A stream that is being captured takes them into its graph. What a graph does is ordered with calls on other
    /// streams by whoever launches it.
    pub fn on<'a>(&'a mut self, stream: &'a Stream) -> OnStream<'a> {
        OnStream { world: self, stream, leaf: None }
    }

    fn check_unbroken(&self) -> Result<(), Error> {
        self.broken.as_ref().map_or(Ok(()), |first| Err(Error::Broken { first: first.clone() }))
    }
}

/// A World's collectives on one stream.
#[derive(Debug)]
pub struct OnStream<'a> {
    world: &'a mut World,
    stream: &'a Stream,
    leaf: Option<Leaf>,
}

impl OnStream<'_> {
    /// Uses this leaf, whatever the size; the same on all ranks. One that cannot do a call is replaced by one that can.
    #[must_use]
    pub fn by(mut self, leaf: Leaf) -> Self {
        self.leaf = Some(leaf);
        self
    }

    /// Reduces the ranks' buffers element by element, into each of them.
    ///
    /// The one-shot leaf sends S bytes to each peer in one exchange, the others (p-1)/p S in each of two. Elements are
    /// reduced in order of rank, by the direct leaf in turn from the rank on whose block it is.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`] when CUDA does not take it, [`Error::NoDevice`] without [`World::use_device`], [`Error::Broken`].
    pub fn all_reduce<T: Element>(&mut self, data: DeviceSliceMut<'_, T>, op: ReduceOp) -> Result<(), Error> {
        let (pointer, len) = (data.pointer(), data.len());
        self.enqueue::<T>(Collective::AllReduce, len, op, pointer, pointer)
    }

    /// As [`OnStream::all_reduce`], from one buffer into another of the same length.
    ///
    /// # Errors
    ///
    /// As [`OnStream::all_reduce`]; [`Error::Lengths`].
    pub fn all_reduce_into<T: Element>(
        &mut self,
        input: DeviceSlice<'_, T>,
        output: DeviceSliceMut<'_, T>,
        op: ReduceOp,
    ) -> Result<(), Error> {
        equal_lengths(Collective::AllReduce, input.len(), output.len())?;
        self.enqueue::<T>(Collective::AllReduce, input.len(), op, input.pointer(), output.pointer())
    }

    /// Copies the root's buffer into those of all ranks.
    ///
    /// # Errors
    ///
    /// As [`OnStream::all_reduce`]; [`Error::Root`].
    pub fn broadcast<T: Element>(&mut self, data: DeviceSliceMut<'_, T>, root: Rank) -> Result<(), Error> {
        let collective = self.world.rooted(Collective::Broadcast { root })?;
        self.enqueue::<T>(collective, data.len(), NO_OP, data.pointer(), data.pointer())
    }

    /// As [`OnStream::broadcast`], into a buffer of its own, the root's too. Only the root's input is read.
    ///
    /// # Errors
    ///
    /// As [`OnStream::broadcast`]; [`Error::Lengths`].
    pub fn broadcast_into<T: Element>(
        &mut self,
        input: DeviceSlice<'_, T>,
        output: DeviceSliceMut<'_, T>,
        root: Rank,
    ) -> Result<(), Error> {
        let collective = self.world.rooted(Collective::Broadcast { root })?;
        equal_lengths(collective, input.len(), output.len())?;
        self.enqueue::<T>(collective, input.len(), NO_OP, input.pointer(), output.pointer())
    }

    /// Reduces the ranks' buffers element by element, into the root's; the others' are left as they are.
    ///
    /// # Errors
    ///
    /// As [`OnStream::broadcast`].
    pub fn reduce<T: Element>(
        &mut self,
        data: DeviceSliceMut<'_, T>,
        op: ReduceOp,
        root: Rank,
    ) -> Result<(), Error> {
        let collective = self.world.rooted(Collective::Reduce { root })?;
        self.enqueue::<T>(collective, data.len(), op, data.pointer(), data.pointer())
    }

    /// As [`OnStream::reduce`], into a buffer of the root's; those of other ranks have its length and are left alone.
    ///
    /// # Errors
    ///
    /// As [`OnStream::broadcast_into`].
    pub fn reduce_into<T: Element>(
        &mut self,
        input: DeviceSlice<'_, T>,
        output: DeviceSliceMut<'_, T>,
        op: ReduceOp,
        root: Rank,
    ) -> Result<(), Error> {
        let collective = self.world.rooted(Collective::Reduce { root })?;
        equal_lengths(collective, input.len(), output.len())?;
        self.enqueue::<T>(collective, input.len(), op, input.pointer(), output.pointer())
    }

    /// Collects the ranks' inputs, in order of rank, in every rank's output, which is p times as long.
    ///
    /// # Errors
    ///
    /// As [`OnStream::all_reduce_into`].
    pub fn all_gather<T: Element>(
        &mut self,
        input: DeviceSlice<'_, T>,
        output: DeviceSliceMut<'_, T>,
    ) -> Result<(), Error> {
        let ranks = self.world.world_size() as usize;
        if input.len().checked_mul(ranks) != Some(output.len()) {
            let rule = format!("the output takes {ranks} times the input, once per rank");
            return Err(lengths(Collective::AllGather, input.len(), output.len(), rule));
        }
        self.enqueue::<T>(Collective::AllGather, input.len(), NO_OP, input.pointer(), output.pointer())
    }

    /// As [`OnStream::all_gather`], in one buffer: of p equal blocks this rank's own is its input.
    ///
    /// # Errors
    ///
    /// As [`OnStream::all_reduce`]; [`Error::Blocks`].
    pub fn all_gather_in_place<T: Element>(&mut self, data: DeviceSliceMut<'_, T>) -> Result<(), Error> {
        let own = self.world.own_block(Collective::AllGather, data.len())?;
        let input = data.pointer().offset(own.start * size_of::<T>());
        self.enqueue::<T>(Collective::AllGather, own.len(), NO_OP, input, data.pointer())
    }

    /// Reduces the ranks' inputs element by element, and leaves each rank its own of p equal blocks of the result.
    ///
    /// # Errors
    ///
    /// As [`OnStream::all_reduce_into`].
    pub fn reduce_scatter<T: Element>(
        &mut self,
        input: DeviceSlice<'_, T>,
        output: DeviceSliceMut<'_, T>,
        op: ReduceOp,
    ) -> Result<(), Error> {
        let ranks = self.world.world_size() as usize;
        if output.len().checked_mul(ranks) != Some(input.len()) {
            let rule = format!("the input has {ranks} times the output, a block per rank");
            return Err(lengths(Collective::ReduceScatter, input.len(), output.len(), rule));
        }
        self.enqueue::<T>(Collective::ReduceScatter, output.len(), op, input.pointer(), output.pointer())
    }

    /// As [`OnStream::reduce_scatter`], in one buffer of p equal blocks: afterwards this rank's own is its result.
    ///
    /// # Errors
    ///
    /// As [`OnStream::all_reduce`]; [`Error::Blocks`].
    pub fn reduce_scatter_in_place<T: Element>(
        &mut self,
        data: DeviceSliceMut<'_, T>,
        op: ReduceOp,
    ) -> Result<(), Error> {
        let own = self.world.own_block(Collective::ReduceScatter, data.len())?;
        let output = data.pointer().offset(own.start * size_of::<T>());
        self.enqueue::<T>(Collective::ReduceScatter, own.len(), op, data.pointer(), output)
    }

    /// Lets what is enqueued behind it wait until every rank's stream has come to it.
    ///
    /// # Errors
    ///
    /// As [`OnStream::all_reduce`].
    pub fn barrier(&mut self) -> Result<(), Error> {
        self.enqueue::<u8>(Collective::Barrier, 0, NO_OP, DevicePointer(0), DevicePointer(0))
    }

    /// Waits until everything that was enqueued on the stream is done.
    ///
    /// # Errors
    ///
    /// [`Error::PeerLost`], [`Error::Mismatch`], [`Error::Timeout`], [`Error::Aborted`]: what outputs hold is then
    /// undefined, and the World is broken.
    pub fn wait(&mut self) -> Result<(), Error> {
        let World { gpu, oob, rank, sequence, broken, config, .. } = &mut *self.world;
        if let Some(first) = broken {
            return Err(Error::Broken { first: first.clone() });
        }
        let Some(gpu) = gpu else { return Err(Error::NoDevice { operation: "wait" }) };
        let place =
            Place { operation: gpu.last, sequence: sequence.wrapping_sub(1), rank: *rank, step: None };
        let started = Instant::now();
        let mut told: Option<BootstrapError> = None;
        let mut polls = 0u32;
        let result = loop {
            match self.stream.is_done() {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(cause) => break Err(cause),
            }
            polls = polls.wrapping_add(1);
            if !polls.is_multiple_of(POLLS_PER_CHECK) {
                std::hint::spin_loop();
                continue;
            }
            if let (None, Some(oob), Some(engine)) = (&told, oob.as_mut(), &gpu.engine)
                && let Err(error) = oob.check_events()
            {
                // The kernels end by this, and the wait with them.
                engine.stop();
                told = Some(error);
            }
            if started.elapsed() > SPIN {
                std::thread::sleep(NAP);
            }
        };
        let error = match (told, gpu.engine.as_ref().and_then(Engine::trouble), result) {
            (Some(told), _, _) => explain_told(place, told),
            (None, Some(trouble), _) => explain(place, trouble, config.deadline),
            (None, None, Err(cause)) => Error::Gpu { rank: *rank, cause },
            (None, None, Ok(())) => return Ok(()),
        };
        *broken = Some(error.to_string());
        Err(error)
    }

    fn enqueue<T: Element>(
        &mut self,
        collective: Collective,
        count: usize,
        op: ReduceOp,
        input: DevicePointer,
        output: DevicePointer,
    ) -> Result<(), Error> {
        let operation = collective.name();
        let World { gpu, rank, sequence, broken, .. } = &mut *self.world;
        if let Some(first) = broken {
            return Err(Error::Broken { first: first.clone() });
        }
        let Some(gpu) = gpu else { return Err(Error::NoDevice { operation }) };
        *sequence = sequence.wrapping_add(1);
        gpu.last = operation;
        let enqueued = match &mut gpu.engine {
            Some(engine) => {
                let call =
                    DeviceCall { collective, element: T::TYPE, op, count, input, output, leaf: self.leaf };
                // SAFETY: lengths were checked, and memory is freed after all work only.
                unsafe { engine.enqueue(self.stream, &call) }
            }
            // Alone, a result is the input.
            None if input == output => Ok(()),
            // SAFETY: both have so many elements, in memory that is freed after all work only.
            None => unsafe { self.stream.copy(input, output, count * size_of::<T>()) },
        };
        enqueued.map_err(|cause: CudaError| {
            let error = Error::Gpu { rank: *rank, cause };
            *broken = Some(error.to_string());
            error
        })
    }
}

/// What a kernel said, in terms of the World. All ranks are on one node, so that numbers on it are ranks.
fn explain(place: Place, trouble: Trouble, waited: Duration) -> Error {
    match trouble {
        Trouble::Timeout { peer } => {
            let peer = Rank(peer as u32);
            Error::Timeout { place, peer, wait: Wait::Message { from: peer }, waited }
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
/// Asking the bootstrap takes a system call.
const POLLS_PER_CHECK: u32 = 64;
/// How long a wait looks without a pause: longer than what is measured call by call.
const SPIN: Duration = Duration::from_millis(20);
const NAP: Duration = Duration::from_micros(200);
