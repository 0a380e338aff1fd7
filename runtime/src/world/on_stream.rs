//! Collectives and messages on GPU memory, enqueued on one stream of the caller's.
//!
//! A call enqueues and returns; [`OnStream::wait`] waits for what was enqueued, and learns what went wrong with it: a rank
//! that is lost, that calls something else, or that does not come before the deadline. Whoever waits by other means
//! (`cudaStreamSynchronize`) is not left hanging, as kernels give up at the deadline, but must ask `wait` whether they did.
//!
//! # Safety
//!
//! Slices have the length that is checked here, in memory that is not freed before the device is done with all work.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

use efarun_wire::Rank;

use super::World;
use super::gpu::explain;
use super::operations::{NO_OP, equal_lengths, lengths};
use super::run::explain_told;
use crate::bootstrap::BootstrapError;
use crate::coll::collective::Collective;
use crate::cuda::{CudaError, DevicePointer, DeviceSlice, DeviceSliceMut, Stream};
use crate::element::{Element, ReduceOp};
use crate::error::{Error, Place};
use crate::nvlink::engine::{Engine, Wanted};
use crate::nvlink::{DeviceCall, DeviceCollective, DeviceMessage, DeviceOp, Leaf, NearMessages, NodeStep};

/// A World's collectives on one stream.
#[derive(Debug)]
pub struct OnStream<'a> {
    pub(super) world: &'a mut World,
    pub(super) stream: &'a Stream,
    pub(super) wanted: Wanted,
}

impl OnStream<'_> {
    /// Uses this leaf, whatever the size; the same on all ranks. One that cannot do a call is replaced by one that can.
    #[must_use]
    pub fn by(mut self, leaf: Leaf) -> Self {
        self.wanted.leaf = Some(leaf);
        self
    }

    /// Does calls through memory of the World's own, whether or not their buffers are registered; the same on all ranks.
    /// Where some ranks' buffers are registered and others' are not, as of a buffer that only the root uses, this is how
    /// all do the same.
    #[must_use]
    pub fn staged(mut self) -> Self {
        self.wanted.is_staged = true;
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

    /// Gives each rank its own of p equal blocks of the input, and collects the blocks for this rank, in order of rank, in
    /// the output, which is as long. The two do not overlap.
    ///
    /// A rank sends (p-1)/p S bytes.
    ///
    /// # Errors
    ///
    /// As [`OnStream::all_reduce_into`]; [`Error::Blocks`].
    pub fn all_to_all<T: Element>(
        &mut self,
        input: DeviceSlice<'_, T>,
        output: DeviceSliceMut<'_, T>,
    ) -> Result<(), Error> {
        let collective = DeviceCollective::AllToAll;
        if input.len() != output.len() {
            return Err(unfit(collective, input.len(), output.len(), "they must be equal".to_owned()));
        }
        let count = self.block_len(collective, input.len())?;
        self.enqueue::<T>(collective, count, NO_OP, input.pointer(), output.pointer())
    }

    /// Collects the ranks' inputs, in order of rank, in the root's output, which is p times as long. Other ranks' outputs
    /// are not used, and may be empty.
    ///
    /// The root receives (p-1) S bytes, S being one input's length.
    ///
    /// # Errors
    ///
    /// As [`OnStream::all_reduce_into`]; [`Error::Root`].
    pub fn gather<T: Element>(
        &mut self,
        input: DeviceSlice<'_, T>,
        output: DeviceSliceMut<'_, T>,
        root: Rank,
    ) -> Result<(), Error> {
        let collective = self.rooted(DeviceCollective::Gather { root })?;
        let ranks = self.world.world_size() as usize;
        if self.world.rank() == root && input.len().checked_mul(ranks) != Some(output.len()) {
            let rule = format!("the root's output takes {ranks} times the input, once per rank");
            return Err(unfit(collective, input.len(), output.len(), rule));
        }
        self.enqueue::<T>(collective, input.len(), NO_OP, input.pointer(), output.pointer())
    }

    /// Gives each rank its own of p equal blocks of the root's input. Other ranks' inputs are not used, and may be empty.
    ///
    /// The root sends (p-1) S bytes, S being one output's length.
    ///
    /// # Errors
    ///
    /// As [`OnStream::gather`].
    pub fn scatter<T: Element>(
        &mut self,
        input: DeviceSlice<'_, T>,
        output: DeviceSliceMut<'_, T>,
        root: Rank,
    ) -> Result<(), Error> {
        let collective = self.rooted(DeviceCollective::Scatter { root })?;
        let ranks = self.world.world_size() as usize;
        if self.world.rank() == root && output.len().checked_mul(ranks) != Some(input.len()) {
            let rule = format!("the root's input has {ranks} times the output, a block per rank");
            return Err(unfit(collective, input.len(), output.len(), rule));
        }
        self.enqueue::<T>(collective, output.len(), NO_OP, input.pointer(), output.pointer())
    }

    /// Sends to ranks and receives from ranks, all at the same time: what this call takes part in only.
    ///
    /// Of two ranks the n-th message that one sends is the n-th that the other receives, and both say the same length. A
    /// rank can be its own peer. The call is done when what it sent may be written again and what it receives is there;
    /// two ranks that each enqueue a send of more than 120 KiB and then a receive wait for each other.
    ///
    /// # Errors
    ///
    /// As [`OnStream::all_reduce`]; [`Error::Root`] for a peer that is no rank.
    pub fn send_receive<T: Element>(
        &mut self,
        sends: &[(Rank, DeviceSlice<'_, T>)],
        receives: &[(Rank, DeviceSliceMut<'_, T>)],
    ) -> Result<(), Error> {
        let message = |peer, data, len| DeviceMessage { peer, data, bytes: len * size_of::<T>() };
        let sends: Vec<_> =
            sends.iter().map(|(peer, slice)| message(*peer, slice.pointer(), slice.len())).collect();
        let receives: Vec<_> =
            receives.iter().map(|(peer, slice)| message(*peer, slice.pointer(), slice.len())).collect();
        // SAFETY: slices have their lengths in memory that is freed after all work only, and those that are written do not
        // overlap.
        unsafe { self.pass_messages(&sends, &receives) }
    }

    /// Enqueues a call on memory that somebody else is in charge of: for bindings to other languages.
    ///
    /// # Errors
    ///
    /// As [`OnStream::all_reduce`]; [`Error::Root`].
    ///
    /// # Safety
    ///
    /// The device reaches what the collective uses of input and output, aligned to an element, until everything that was
    /// enqueued is done; they overlap only as the call in place has them.
    pub unsafe fn call(&mut self, call: &DeviceCall) -> Result<(), Error> {
        self.rooted(call.collective)?;
        // SAFETY: the caller's promise.
        unsafe { self.enqueue_call(call) }
    }

    /// Whether a call can be a step of somebody else's launch ([`OnStream::call_within`]); the same on all ranks.
    pub fn is_short(&self, call: &DeviceCall) -> bool {
        let engine = self.world.gpu.as_ref().and_then(|gpu| gpu.engine.as_ref());
        engine.is_some_and(|engine| engine.is_short(call, self.wanted))
    }

    /// As [`OnStream::call`], as a step of what `launch` enqueues on the stream.
    ///
    /// # Errors
    ///
    /// As [`OnStream::call`], and what `launch` fails with.
    ///
    /// # Panics
    ///
    /// When the call is not [short](OnStream::is_short).
    ///
    /// # Safety
    ///
    /// As [`OnStream::call`]; and `launch` enqueues what it is given.
    pub unsafe fn call_within(
        &mut self,
        call: &DeviceCall,
        launch: impl FnOnce(NodeStep) -> Result<(), CudaError>,
    ) -> Result<(), Error> {
        self.rooted(call.collective)?;
        let wanted = self.wanted;
        let (engine, stream) = self.begin(call.collective.name())?;
        let engine = engine.expect("who is alone has no steps of a node");
        // SAFETY: the caller's promise.
        let enqueued = unsafe { engine.enqueue_within(stream, call, wanted, launch) };
        self.end(enqueued)
    }

    /// As [`OnStream::send_receive`], on memory that somebody else is in charge of.
    ///
    /// # Errors
    ///
    /// As [`OnStream::send_receive`].
    ///
    /// # Safety
    ///
    /// As [`OnStream::call`].
    pub unsafe fn pass_messages(
        &mut self,
        sends: &[DeviceMessage],
        receives: &[DeviceMessage],
    ) -> Result<(), Error> {
        let operation = self.are_for_ranks(sends, receives)?;
        let (engine, stream) = self.begin(operation)?;
        let enqueued = match engine {
            // SAFETY: the caller's promise.
            Some(engine) => unsafe { engine.pass_messages(stream, sends, receives) },
            // SAFETY: the caller's promise.
            None => unsafe { copy_own(stream, sends, receives) },
        };
        self.end(enqueued)
    }

    /// As [`OnStream::pass_messages`], at the same time as what `launch_beside` enqueues on the stream, of so many blocks: it is
    /// given what its launch is to pass beside its own; or nothing, where that goes by itself.
    ///
    /// # Errors
    ///
    /// As [`OnStream::send_receive`], and what `launch_beside` fails with.
    ///
    /// # Safety
    ///
    /// As [`OnStream::call`]; and `launch_beside` enqueues what it is given.
    pub unsafe fn pass_messages_beside(
        &mut self,
        sends: &[DeviceMessage],
        receives: &[DeviceMessage],
        blocks: u32,
        launch_beside: impl FnOnce(Option<NearMessages>) -> Result<(), CudaError>,
    ) -> Result<(), Error> {
        let operation = self.are_for_ranks(sends, receives)?;
        let (engine, stream) = self.begin(operation)?;
        let enqueued = match engine {
            // SAFETY: the caller's promise.
            Some(engine) => unsafe {
                engine.pass_messages_beside(stream, sends, receives, blocks, launch_beside)
            },
            // SAFETY: the caller's promise.
            None => unsafe { copy_own(stream, sends, receives) }.and_then(|()| launch_beside(None)),
        };
        self.end(enqueued)
    }

    /// The operation's name, where no message is for a stranger or from one.
    fn are_for_ranks(
        &self,
        sends: &[DeviceMessage],
        receives: &[DeviceMessage],
    ) -> Result<&'static str, Error> {
        let (operation, world_size) = ("send_receive", self.world.world_size());
        match sends.iter().chain(receives).find(|it| it.peer.0 >= world_size) {
            Some(stranger) => Err(Error::Root { operation, root: stranger.peer, world_size }),
            None => Ok(operation),
        }
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
        collective: impl Into<DeviceCollective>,
        count: usize,
        op: ReduceOp,
        input: DevicePointer,
        output: DevicePointer,
    ) -> Result<(), Error> {
        let (collective, element, op) = (collective.into(), T::TYPE.into(), DeviceOp::Of(op));
        // SAFETY: lengths were checked, and memory is freed after all work only.
        unsafe { self.enqueue_call(&DeviceCall { collective, element, op, count, input, output }) }
    }

    /// # Safety
    ///
    /// As [`OnStream::call`].
    unsafe fn enqueue_call(&mut self, call: &DeviceCall) -> Result<(), Error> {
        let wanted = self.wanted;
        let DeviceCall { collective, element, op, count, input, output } = *call;
        if matches!(op, DeviceOp::PreMulSum(_)) && collective.reduces() {
            self.world.engine_for_one()?;
        }
        let (engine, stream) = self.begin(collective.name())?;
        let enqueued = match engine {
            // SAFETY: the caller's promise.
            Some(engine) => unsafe { engine.enqueue(stream, call, wanted) },
            // Alone, a result is the input.
            None if input == output => Ok(()),
            // SAFETY: both have so many elements, by the caller's promise.
            None => unsafe { stream.copy(input, output, count * element.size_bytes()) },
        };
        self.end(enqueued)
    }

    /// Numbers a call, and says what does it.
    fn begin(&mut self, operation: &'static str) -> Result<(Option<&mut Engine>, &Stream), Error> {
        let World { gpu, sequence, broken, .. } = &mut *self.world;
        if let Some(first) = broken {
            return Err(Error::Broken { first: first.clone() });
        }
        let Some(gpu) = gpu else { return Err(Error::NoDevice { operation }) };
        *sequence = sequence.wrapping_add(1);
        gpu.last = operation;
        Ok((gpu.engine.as_mut(), self.stream))
    }

    fn end(&mut self, enqueued: Result<(), CudaError>) -> Result<(), Error> {
        let engine = self.world.gpu.as_mut().and_then(|gpu| gpu.engine.as_mut());
        let noted = enqueued.and_then(|()| engine.map_or(Ok(()), |engine| engine.mark(self.stream)));
        noted.map_err(|cause| {
            let error = Error::Gpu { rank: self.world.rank, cause };
            self.world.broken = Some(error.to_string());
            error
        })
    }

    /// Refuses a root that is no rank.
    fn rooted(&self, collective: DeviceCollective) -> Result<DeviceCollective, Error> {
        let world_size = self.world.world_size();
        match collective.root() {
            Some(root) if root.0 >= world_size => {
                Err(Error::Root { operation: collective.name(), root, world_size })
            }
            _ => Ok(collective),
        }
    }

    /// The length of one of p equal blocks.
    fn block_len(&self, collective: DeviceCollective, len: usize) -> Result<usize, Error> {
        let world_size = self.world.world_size();
        if !len.is_multiple_of(world_size as usize) {
            return Err(Error::Blocks { operation: collective.name(), len, world_size });
        }
        Ok(len / world_size as usize)
    }
}

/// What a rank without others has for itself.
///
/// # Safety
///
/// As [`OnStream::pass_messages`].
unsafe fn copy_own(
    stream: &Stream,
    sends: &[DeviceMessage],
    receives: &[DeviceMessage],
) -> Result<(), CudaError> {
    sends.iter().zip(receives).try_for_each(|(from, to)| {
        // SAFETY: the caller's promise, for the shorter of both.
        unsafe { stream.copy(from.data, to.data, from.bytes.min(to.bytes)) }
    })
}

fn unfit(collective: DeviceCollective, input_len: usize, output_len: usize, rule: String) -> Error {
    Error::Lengths { operation: collective.name(), input_len, output_len, rule }
}

/// Asking the bootstrap takes a system call.
const POLLS_PER_CHECK: u32 = 64;
/// How long a wait looks without a pause: longer than what is measured call by call.
const SPIN: Duration = Duration::from_millis(20);
const NAP: Duration = Duration::from_micros(200);
