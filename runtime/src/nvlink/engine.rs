//! Enqueues collectives of one rank on its GPU.
//!
//! # Safety
//!
//! A launch is told addresses of windows, counters and status, which live as long as the engine, and of the caller's
//! buffers, which [`Engine::enqueue`] is promised. The parameters' layout is the kernels', which a test compares.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use efarun_wire::Rank;

use super::call::{DeviceCall, DeviceCollective, DeviceElement, DeviceMessage, DeviceOp};
use super::code::code;
use super::launch::{NodeStep, Reached, Request, Standing};
use super::layout::{RANKS_MAX, STATE_BYTES};
use super::lodger::Lodger;
use super::pairs::{self, MESSAGES_MAX, NearMessages, Numbers, PairLaunch, Slots};
use super::parameters::status;
use super::part::{Leaf, Shape};
use super::room::Room;
use super::select;
use super::window::{Offer, Shared, SharingError};
use crate::cuda::{
    CudaError, Device, DeviceMemory, DevicePointer, Event, HostMemory, Kernel, Module, Stream,
};
use crate::element::{ElementType, ReduceOp};

/// What a rank needs for collectives on GPU memory, before the others' memory is known.
#[derive(Debug)]
pub(crate) struct Preparation {
    device: Device,
    window: DeviceMemory<u64>,
    offer: Offer,
}

impl Preparation {
    /// Allocates the window of one of so many ranks, which allows launches so many blocks.
    pub(crate) fn new(
        device: &Device,
        ranks: u32,
        blocks_allowed: Option<NonZeroU32>,
    ) -> Result<Preparation, CudaError> {
        // Whatever room there turns out to be, slots are no longer than with all of it.
        let window_bytes = Slots::of(ranks, Room::WHOLE).window_bytes(ranks);
        let window = DeviceMemory::zeroed(device, window_bytes / size_of::<u64>())?;
        let offer = Offer::of(&window)?.allowing(blocks_allowed.map_or(u32::MAX, NonZeroU32::get));
        Ok(Preparation { device: device.clone(), window, offer })
    }

    /// For the other ranks.
    pub(crate) fn offer(&self) -> Vec<u8> {
        self.offer.to_bytes()
    }
}

/// Collectives of one rank on its GPU.
#[derive(Debug)]
pub(crate) struct Engine {
    device: Device,
    standing: Standing,
    windows: Shared,
    /// By number; none where it was given up.
    registered: Vec<Option<Shared>>,
    kernels: HashMap<Option<DeviceElement>, Kernels>,
    state: DeviceMemory<u64>,
    status: HostMemory,
    /// Of messages.
    numbers: Numbers,
    /// Where the last call was enqueued, so that one on another stream comes behind it.
    last: Option<Stream>,
    order: Event,
    /// Whether ranks may share GPUs.
    may_share: bool,
    /// Where several ranks of this process share a GPU.
    lodger: Option<Lodger>,
}

/// How the caller wants a call to be done; the same on all ranks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    /// By this leaf, instead of the one that is chosen.
    pub(crate) leaf: Option<Leaf>,
    /// Through windows, whether or not buffers are registered.
    pub(crate) is_staged: bool,
}

/// Messages that no launch has yet.
#[derive(Debug)]
struct Unsent {
    sends: Vec<DeviceMessage>,
    receives: Vec<DeviceMessage>,
}

impl Unsent {
    fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.receives.is_empty()
    }
}

/// The kernels for one element type, or for bytes.
#[derive(Debug)]
struct Kernels {
    one_shot: Kernel,
    two_shot: Kernel,
    direct: Kernel,
    ring: Kernel,
    /// Among those for bytes.
    pairs: Option<Kernel>,
}

/// Why a call on the GPU did not end well. Ranks are numbers on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// A rank did not come before the deadline.
    Timeout {
        /// The rank.
        peer: usize,
    },
    /// A rank called something else.
    Mismatch {
        /// The rank.
        peer: usize,
    },
    /// The host said stop.
    Stopped,
}

impl Engine {
    /// Opens the other ranks' windows. `offers` are in order of rank; `may_share` says whether ranks may share GPUs.
    pub(crate) fn new(
        preparation: Preparation,
        rank: usize,
        offers: &[Vec<u8>],
        deadline: Duration,
        may_share: bool,
    ) -> Result<Engine, SharingError> {
        let Preparation { device, window, offer: _ } = preparation;
        let windows = Shared::open(&window, rank, offers, may_share)?;
        let lodger = (windows.threads_per_gpu() > 1).then(Lodger::new);
        let state = DeviceMemory::zeroed(&device, STATE_BYTES / size_of::<u64>())?;
        let status = HostMemory::new(&device, status::WORDS.div_ceil(2))?;
        let standing = Standing {
            rank: rank as u32,
            ranks: offers.len() as u32,
            room: windows.room(),
            windows: windows.pointers(),
            state: state.pointer(),
            status: status.pointer(),
            deadline_ns: u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX),
        };
        let order = Event::new(&device)?;
        Ok(Engine {
            device,
            standing,
            windows,
            registered: Vec::new(),
            kernels: HashMap::new(),
            state,
            status,
            numbers: Numbers::new(),
            last: None,
            order,
            may_share,
            lodger,
        })
    }

    /// How many blocks a launch can have, where ranks share GPUs.
    pub(crate) fn blocks_on_shared_gpu(&self) -> Option<u32> {
        let room = self.standing.room;
        room.is_shared().then(|| room.fitting())
    }

    /// How many ranks of this process share a GPU, where any do.
    pub(crate) fn threads_per_gpu(&self) -> Option<u32> {
        self.lodger.as_ref().map(|_| self.windows.threads_per_gpu())
    }

    /// Uses memory in place in calls whose buffers all lie in memory that was registered together. Gives its number, which
    /// is the same on every rank.
    pub(crate) fn register<T: bytemuck::Pod>(
        &mut self,
        memory: &DeviceMemory<T>,
        offers: &[Vec<u8>],
    ) -> Result<usize, SharingError> {
        let rank = self.standing.rank as usize;
        self.registered.push(Some(Shared::open(memory, rank, offers, self.may_share)?));
        Ok(self.registered.len() - 1)
    }

    /// Does not use memory in place any more. Waits until the device is done with it.
    pub(crate) fn unregister(&mut self, number: usize) {
        if let Some(shared) = self.registered.get_mut(number).and_then(Option::take) {
            self.settle();
            match &self.lodger {
                Some(lodger) => lodger.retire(shared),
                None => drop(shared),
            }
        }
    }

    /// Loads the kernels for a type, or for what is only moved. Done once; without it, the first call does it.
    ///
    /// Loading can wait for all work of the device. A thread that drives several GPUs loads before it enqueues, as what it
    /// has enqueued on one GPU waits for what it has not on another.
    pub(crate) fn prepare(&mut self, element: Option<DeviceElement>) -> Result<(), CudaError> {
        self.kernels(element).map(|_| ())
    }

    /// Loads all kernels where ranks of this process share a GPU, and runs each once without effect. Afterwards nothing has to
    /// be loaded, and no kernel needs more of the device than one before, for which a launch would wait for all work of it.
    pub(crate) fn prepare_all(&mut self) -> Result<(), CudaError> {
        let Some(lodger) = &self.lodger else { return Ok(()) };
        // Who finds that an earlier call has failed does nothing.
        let mut failed = DeviceMemory::<u64>::new(&self.device, STATE_BYTES / size_of::<u64>())?;
        failed.fill_bytes(1)?;
        let standing = Standing { state: failed.pointer(), ..self.standing };
        lodger.retire(failed);
        let (stream, nowhere) = (Stream::new(&self.device)?, DevicePointer(0));
        let peer = Rank((standing.rank + 1) % standing.ranks);
        let message = [DeviceMessage { peer, data: nowhere, bytes: 1 }];
        let slots = Slots::of(standing.ranks, standing.room);
        let pairs = pairs::launch(&standing, slots, Numbers::unknown(), &message, &[]);
        for element in std::iter::once(None).chain(DeviceElement::all().map(Some)) {
            let kernels = self.kernels(element)?;
            for leaf in [Leaf::OneShot, Leaf::TwoShot, Leaf::Direct, Leaf::Ring] {
                let collective = DeviceCollective::AllReduce;
                let shape = Shape { collective, count_bytes: 1, ranks: standing.ranks, room: standing.room };
                let (element, op) = (ElementType::U8.into(), ReduceOp::Sum.into());
                let request =
                    Request { shape, leaf, element, op, input: nowhere, output: nowhere, reached: None };
                let launch = request.launch(&standing);
                // SAFETY: the counters, which say so, are kept; with them a kernel touches nothing else.
                unsafe { kernels.of(leaf).launch(&stream, launch.grid, &launch.parameters)? };
            }
            if let Some(kernel) = &kernels.pairs {
                // SAFETY: as above.
                unsafe { kernel.launch(&stream, pairs.grid, &pairs.parameters)? };
            }
        }
        stream.synchronize()
    }

    /// Which leaf does a call: the one that is asked for, where it can.
    pub(crate) fn leaf(&self, call: &DeviceCall, wanted: Wanted) -> Leaf {
        // Whoever reads another rank's input does not know that rank's factor.
        let is_multiplied = matches!(call.op, DeviceOp::PreMulSum(_)) && call.collective.reduces();
        let may_be_direct = !is_multiplied && !wanted.is_staged;
        let (shape, is_reached) = (self.shape(call), may_be_direct && self.reached(call).is_some());
        match wanted.leaf {
            None => select::leaf(shape, is_reached),
            Some(Leaf::OneShot) if shape.one_shot_bytes() > select::one_shot_bytes_within(shape.room) => {
                Leaf::TwoShot
            }
            Some(Leaf::Direct) if !is_reached => Leaf::TwoShot,
            Some(Leaf::Ring) if !shape.has_ring() => Leaf::TwoShot,
            Some(Leaf::Slots) if !shape.has_slots() => Leaf::TwoShot,
            Some(leaf) => leaf,
        }
    }

    /// Enqueues a call's kernel, behind all calls before it, and returns.
    ///
    /// # Safety
    ///
    /// The device reaches input and output, which have the elements that the collective needs, until the call is done.
    pub(crate) unsafe fn enqueue(
        &mut self,
        stream: &Stream,
        call: &DeviceCall,
        wanted: Wanted,
    ) -> Result<(), CudaError> {
        let shape = self.shape(call);
        if shape.count_bytes == 0 && call.collective != DeviceCollective::Barrier {
            return Ok(());
        }
        self.order(stream)?;
        let request = self.request(call, wanted);
        let Request { leaf, element, .. } = request;
        if leaf == Leaf::Slots {
            let launch = pairs::of_blocks(
                &self.standing,
                Slots::of(self.standing.ranks, self.standing.room),
                &request,
            );
            // SAFETY: as below.
            return unsafe { self.launch_pairs(stream, &launch) };
        }
        let launch = request.launch(&self.standing);
        let kernel = self.kernels(shape.is_reduction().then_some(element))?.of(leaf);
        // SAFETY: what the module's paragraph says, and the caller's promise.
        unsafe { kernel.launch(stream, launch.grid, &launch.parameters) }
    }

    /// Whether a call can be a step of somebody else's launch.
    pub(crate) fn is_short(&self, call: &DeviceCall, wanted: Wanted) -> bool {
        self.request(call, wanted).is_short()
    }

    /// As [`Engine::enqueue`], as a step of what `launch` enqueues.
    ///
    /// # Panics
    ///
    /// When the call is not [short](Engine::is_short).
    ///
    /// # Safety
    ///
    /// As of [`Engine::enqueue`]; and `launch` enqueues what it is given, on the same stream.
    pub(crate) unsafe fn enqueue_within(
        &mut self,
        stream: &Stream,
        call: &DeviceCall,
        wanted: Wanted,
        launch: impl FnOnce(NodeStep) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let step = self.request(call, wanted).step(&self.standing).expect("the call is short");
        self.order(stream)?;
        launch(step)
    }

    fn request(&self, call: &DeviceCall, wanted: Wanted) -> Request {
        let (shape, leaf) = (self.shape(call), self.leaf(call, wanted));
        let reached = if leaf == Leaf::Direct { self.reached(call) } else { None };
        let DeviceCall { element, op, input, output, .. } = *call;
        Request { shape, leaf, element, op, input, output, reached }
    }

    /// Enqueues messages to other ranks and from them, all on their way at the same time, and to this rank itself. Those of
    /// one pair of ranks are matched in order; of the same length at both ends.
    ///
    /// # Safety
    ///
    /// The device reaches all of them until they are done, and no two of them overlap that are received.
    pub(crate) unsafe fn pass_messages(
        &mut self,
        stream: &Stream,
        sends: &[DeviceMessage],
        receives: &[DeviceMessage],
    ) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        let mut messages = unsafe { self.begin_messages(stream, sends, receives)? };
        while let Some(launch) = self.next_launch(&mut messages) {
            // SAFETY: the caller's promise.
            unsafe { self.launch_pairs(stream, &launch)? };
        }
        Ok(())
    }

    /// As [`Engine::pass_messages`], beside what `launch_beside` enqueues, which has so many blocks: it is given the last launch of
    /// these to be one with its own; or nothing, where no GPU has room for both, or there are none.
    ///
    /// # Safety
    ///
    /// As of [`Engine::pass_messages`]; and `launch_beside` enqueues what it is given.
    pub(crate) unsafe fn pass_messages_beside(
        &mut self,
        stream: &Stream,
        sends: &[DeviceMessage],
        receives: &[DeviceMessage],
        blocks: u32,
        launch_beside: impl FnOnce(Option<NearMessages>) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        // SAFETY: the caller's promise.
        let mut messages = unsafe { self.begin_messages(stream, sends, receives)? };
        let mut last = None;
        while let Some(launch) = self.next_launch(&mut messages) {
            let room = self.standing.room;
            last = messages.is_empty().then(|| NearMessages::beside(launch, blocks, room)).flatten();
            if last.is_none() {
                // SAFETY: the caller's promise.
                unsafe { self.launch_pairs(stream, &launch)? };
            }
        }
        launch_beside(last)
    }

    /// Lets messages come behind all calls before. Gives those that are for launches; what this rank has for itself is enqueued.
    ///
    /// # Safety
    ///
    /// As of [`Engine::pass_messages`].
    unsafe fn begin_messages(
        &mut self,
        stream: &Stream,
        sends: &[DeviceMessage],
        receives: &[DeviceMessage],
    ) -> Result<Unsent, CudaError> {
        let (rank, has_length) = (self.standing.rank, |message: &DeviceMessage| message.bytes > 0);
        let (own_sends, sends): (Vec<DeviceMessage>, Vec<DeviceMessage>) =
            sends.iter().copied().filter(has_length).partition(|message| message.peer.0 == rank);
        let (own_receives, receives): (Vec<DeviceMessage>, Vec<DeviceMessage>) =
            receives.iter().copied().filter(has_length).partition(|message| message.peer.0 == rank);
        self.order(stream)?;
        for (from, to) in own_sends.iter().zip(&own_receives) {
            // SAFETY: the caller's promise, for the shorter of both.
            unsafe { stream.copy(from.data, to.data, from.bytes.min(to.bytes))? };
        }
        if stream.is_captured()? {
            self.numbers = Numbers::unknown();
        }
        Ok(Unsent { sends, receives })
    }

    /// As many of the messages as a launch can have; none where there are none left.
    fn next_launch(&mut self, messages: &mut Unsent) -> Option<PairLaunch> {
        if messages.is_empty() {
            return None;
        }
        let Unsent { sends, receives } = messages;
        let half = MESSAGES_MAX / 2;
        let receive_count = receives.len().min(MESSAGES_MAX - sends.len().min(half));
        let send_count = sends.len().min(MESSAGES_MAX - receive_count);
        let (sends, receives) = (sends.drain(..send_count), receives.drain(..receive_count));
        let slots = Slots::of(self.standing.ranks, self.standing.room);
        let (sends, receives) = (sends.as_slice(), receives.as_slice());
        let launch = pairs::launch(&self.standing, slots, self.numbers, sends, receives);
        self.numbers.count(sends, receives);
        Some(launch)
    }

    /// # Safety
    ///
    /// As [`Engine::pass_messages`].
    unsafe fn launch_pairs(&mut self, stream: &Stream, launch: &PairLaunch) -> Result<(), CudaError> {
        let kernel = self.kernels(None)?.pairs.as_ref().expect("it is among the kernels for bytes");
        // SAFETY: what the module's paragraph says, and the caller's promise.
        unsafe { kernel.launch(stream, launch.grid, &launch.parameters) }
    }

    /// Whether a kernel has given up, for whatever reason: by a deadline, a mismatch, or because the host said stop while it
    /// waited. Reads the device's memory, beside what runs there.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`], also for what went wrong in work that was enqueued before.
    pub(crate) fn has_given_up(&self) -> Result<bool, CudaError> {
        let mut failed = [0];
        self.state.copy_to_host(0, &mut failed)?;
        Ok(failed[0] as u32 != 0)
    }

    /// What a kernel told this rank since the engine was made.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let word = |index| self.status.word32(index).load(Ordering::Acquire);
        if word(status::STOP) == 0 {
            return None;
        }
        let peer = word(status::PEER) as usize;
        log::debug!(
            "rank {} of the node gave up in call {} of channel {}: signature {:08x} of rank {peer}",
            self.standing.rank,
            word(status::CALL),
            word(status::CHANNEL),
            word(status::SIGNATURE),
        );
        Some(match word(status::CAUSE) {
            status::CAUSE_TIMEOUT => Trouble::Timeout { peer },
            status::CAUSE_MISMATCH => Trouble::Mismatch { peer },
            _ => Trouble::Stopped,
        })
    }

    /// Notes how far this rank has come on a stream, where that cannot be asked of the device.
    pub(crate) fn mark(&mut self, stream: &Stream) -> Result<(), CudaError> {
        if self.lodger.is_none() || stream.is_captured()? {
            return Ok(());
        }
        self.order.record(stream)
    }

    /// Waits until this rank's calls are done: where it has the GPU's context to itself, all work of the GPU.
    pub(crate) fn settle(&self) {
        let _done = match &self.lodger {
            Some(_) => self.order.synchronize(),
            None => self.device.synchronize(),
        };
    }

    /// Ends what waits on the GPU now, and every call from now on.
    pub(crate) fn stop(&self) {
        self.status.word32(status::STOP).store(1, Ordering::Release);
    }

    /// Lets go of the GPU when this rank's calls are done, without waiting for calls of other ranks of this process.
    pub(crate) fn retire(mut self) {
        self.settle();
        if let Some(lodger) = self.lodger.take() {
            lodger.retire(self);
        }
    }

    /// Gives up without freeing what other ranks of this process may still use.
    pub(crate) fn leak(mut self) {
        if self.lodger.take().is_some() {
            // Freeing any of it would wait for them.
            return std::mem::forget(self);
        }
        self.windows.leak();
        self.registered.into_iter().flatten().for_each(Shared::leak);
    }

    fn shape(&self, call: &DeviceCall) -> Shape {
        Shape {
            collective: call.collective,
            count_bytes: call.count * call.element.size_bytes(),
            ranks: self.standing.ranks,
            room: self.standing.room,
        }
    }

    /// Lets a stream wait for the one that was used last. A stream that is being captured is ordered by whoever launches
    /// its graph.
    fn order(&mut self, stream: &Stream) -> Result<(), CudaError> {
        if self.last.as_ref() == Some(stream) || stream.is_captured()? {
            return Ok(());
        }
        if let Some(last) = &self.last {
            self.order.record(last)?;
            stream.wait_for(&self.order)?;
        }
        self.last = Some(stream.clone());
        Ok(())
    }

    /// Every rank's memory for input and output, where both are registered.
    fn reached(&self, call: &DeviceCall) -> Option<Reached> {
        let (input_counts, output_counts) = call.collective.lengths(self.standing.ranks);
        let bytes = |counts: usize| counts * call.count * call.element.size_bytes();
        let (inputs, input_offset, input_number) = self.registration(call.input, bytes(input_counts))?;
        let (outputs, output_offset, output_number) = self.registration(call.output, bytes(output_counts))?;
        let identity = ((input_number as u64 + 1) << 32) | (output_number as u64 + 1);
        Some(Reached { inputs, outputs, input_offset, output_offset, identity })
    }

    /// All ranks' memory, the offset in it, and its number.
    fn registration(
        &self,
        pointer: DevicePointer,
        bytes: usize,
    ) -> Option<([DevicePointer; RANKS_MAX], usize, usize)> {
        let registered = self.registered.iter().enumerate();
        let mut found = registered.filter_map(|(number, shared)| {
            let shared = shared.as_ref()?;
            Some((shared.pointers(), shared.offset_of(pointer, bytes)?, number))
        });
        found.next()
    }

    fn kernels(&mut self, element: Option<DeviceElement>) -> Result<&Kernels, CudaError> {
        if !self.kernels.contains_key(&element) {
            let module = match &self.lodger {
                Some(lodger) => lodger.module(&self.device, element)?,
                None => Module::of(&self.device, code(element))?,
            };
            let kernels = Kernels {
                one_shot: module.kernel(c"one_shot")?,
                two_shot: module.kernel(c"two_shot")?,
                direct: module.kernel(c"direct")?,
                ring: module.kernel(c"ring")?,
                pairs: element.is_none().then(|| module.kernel(c"pairs")).transpose()?,
            };
            self.kernels.insert(element, kernels);
        }
        Ok(&self.kernels[&element])
    }
}

impl Kernels {
    fn of(&self, leaf: Leaf) -> &Kernel {
        match leaf {
            Leaf::OneShot => &self.one_shot,
            Leaf::TwoShot => &self.two_shot,
            Leaf::Direct => &self.direct,
            Leaf::Ring => &self.ring,
            Leaf::Slots => self.pairs.as_ref().expect("blocks that are moved are bytes"),
        }
    }
}
