//! Enqueues transfers of one rank.
//!
//! # Safety
//!
//! A launch is told addresses of the host's memory and the state, which live until the relay has waited for the device, and of
//! the caller's, which [`Relay::enqueue`] is promised. The parameters' layout is the kernels', which a test compares.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use efarun_wire::Rank;

use super::carrier::{Shared, carry};
use super::direct;
use super::far::lane::Plan;
use super::far::messages::Messages;
use super::far::parameters::{AllParameters, DOORS, FAR_STATE_BYTES, LANES_MAX};
use super::lanes::Lane;
use super::parameters::{CHANNELS, LANE_CELL_WORDS, RelayParameters, SLOT_BYTES, SPANS_MAX, Standing, WORDS};
use super::short_steps::ShortSteps;
use super::staging::{BOX_BYTES, Staging};
use super::transfer::{Caller, Transfer};
use crate::cuda::{CudaError, Device, DeviceMemory, Event, Grid, HostMemory, Kernel, Module, Stream};
use crate::error::Error;
use crate::nvlink::{DeviceElement, NearMessages, THREADS, code, status};
use crate::transport::fabric::reads::Reader;
use crate::world::World;

/// What GPUs of several nodes give each other, for one rank.
#[derive(Debug)]
pub struct Relay {
    device: Device,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    state: DeviceMemory<u64>,
    kernels: HashMap<Option<DeviceElement>, TransferKernels>,
    messages: Option<MessageKernels>,
    deadline_ns: u64,
    /// Where the last transfer was enqueued, so that one on another stream comes behind it.
    last: Option<Stream>,
    order: Event,
}

/// The kernels for transfers, of one type.
#[derive(Clone, Debug)]
struct TransferKernels {
    relay: Kernel,
    /// For what is short.
    short_relay: Kernel,
    /// For that, with a step of the node.
    short_steps: Kernel,
}

/// The kernels for messages.
#[derive(Clone, Debug)]
struct MessageKernels {
    far: Kernel,
    /// For those within the node beside them.
    all: Kernel,
}

impl Relay {
    /// Makes a relay that is carried by these Worlds, as many as on every other rank and in the same order, whose ranks
    /// transfers name. Kernels wait for a host no longer than `deadline`. Blocks until all of them have called it.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`] when memory cannot be had, [`Error::Bootstrap`] when a rank does not come, and [`Error::Setup`] where
    /// the cards must reach GPU memory and do not.
    ///
    /// # Panics
    ///
    /// When there are 3 Worlds, or more than 4: slices of a message could not go by all in turn.
    pub fn new(device: &Device, mut worlds: Vec<World>, deadline: Duration) -> Result<Relay, Error> {
        assert!(matches!(worlds.len(), 0..=2 | LANES_MAX), "{} lanes", worlds.len());
        let rank = worlds.first().map_or(Rank(0), World::rank);
        let (staging, readers) = direct::agree(device, &mut worlds)?;
        let made = Relay::assemble(device, worlds, staging, readers, deadline);
        made.map_err(|cause| Error::Gpu { rank, cause })
    }

    fn assemble(
        device: &Device,
        worlds: Vec<World>,
        staging: Staging,
        readers: Vec<Reader>,
        deadline: Duration,
    ) -> Result<Relay, CudaError> {
        let shared = Arc::new(Shared::new(
            staging,
            [
                HostMemory::new(device, worlds.len().max(1) * LANE_CELL_WORDS)?,
                HostMemory::new(device, LANE_CELL_WORDS)?,
            ],
            [HostMemory::new(device, CHANNELS * WORDS)?, HostMemory::new(device, DOORS * WORDS)?],
            HostMemory::new(device, status::WORDS.div_ceil(2))?,
        ));
        let state = DeviceMemory::zeroed(device, FAR_STATE_BYTES / size_of::<u64>())?;
        let order = Event::new(device)?;
        let count = worlds.len();
        let readers = readers.into_iter().map(Some).chain(std::iter::repeat_with(|| None));
        let spawn = |(number, (world, reader)): (usize, (World, Option<Reader>))| {
            let shared = Arc::clone(&shared);
            let lane = Lane { number, count };
            let name = format!("efarun-relay-{number}");
            let spawned =
                std::thread::Builder::new().name(name).spawn(move || carry(&shared, lane, world, reader));
            spawned.expect("a process that has a GPU can have a thread")
        };
        let threads = worlds.into_iter().zip(readers).enumerate().map(spawn).collect();
        Ok(Relay {
            device: device.clone(),
            shared,
            threads,
            state,
            kernels: HashMap::new(),
            messages: None,
            deadline_ns: u64::try_from(deadline.as_nanos()).unwrap_or(u64::MAX),
            last: None,
            order,
        })
    }

    /// Loads the kernel for a type, or those for what is only moved. Done once; without it, the first transfer does it.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn prepare(&mut self, element: Option<DeviceElement>) -> Result<(), CudaError> {
        self.kernels(element).map(|_| ())
    }

    /// Enqueues a transfer, behind all before it, and returns. What fails of it is told of the caller.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    ///
    /// # Panics
    ///
    /// When it puts or gets more than [`SPANS_MAX`] stretches, or more than there is room for at a time.
    ///
    /// # Safety
    ///
    /// The device reaches all stretches until the transfer is done, and nothing else writes to them; those that are got do not
    /// overlap each other.
    pub unsafe fn enqueue(
        &mut self,
        stream: &Stream,
        transfer: &Transfer,
        caller: Caller,
    ) -> Result<(), CudaError> {
        if transfer.slices() == 0 {
            return Ok(());
        }
        let element = transfer.reduction.map(|reduction| reduction.element);
        let kernels = self.kernels(element)?;
        let kernel = if transfer.is_short() { &kernels.short_relay } else { &kernels.relay }.clone();
        let told = self.begin_transfer(stream, transfer, caller)?;
        let grid = Grid { blocks: transfer.blocks(), threads: THREADS };
        // SAFETY: what the module's paragraph says, and the caller's promise.
        unsafe { kernel.launch(stream, grid, &told)? };
        self.call_lanes();
        Ok(())
    }

    /// As [`Relay::enqueue`], with a collective of the node before the transfer or behind it, in the same launch.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    ///
    /// # Panics
    ///
    /// When the transfer is not [short](Transfer::is_short), or reduces something else than the node does.
    ///
    /// # Safety
    ///
    /// As of [`Relay::enqueue`], and of what made the node's step, which is this rank's.
    pub unsafe fn enqueue_steps(
        &mut self,
        stream: &Stream,
        steps: &ShortSteps<'_>,
        caller: Caller,
    ) -> Result<(), CudaError> {
        let kernel = self.kernels(steps.element())?.short_steps.clone();
        let told = steps.told(self.begin_transfer(stream, steps.transfer, caller)?);
        // SAFETY: what the module's paragraph says, and the caller's promise.
        unsafe { kernel.launch(stream, Grid { blocks: 1, threads: THREADS }, &told)? };
        self.call_lanes();
        Ok(())
    }

    /// Lets a transfer come behind all before it, and the host know of it. Says what its kernel is told.
    fn begin_transfer(
        &mut self,
        stream: &Stream,
        transfer: &Transfer,
        caller: Caller,
    ) -> Result<RelayParameters, CudaError> {
        let stretches = transfer.puts.len().max(transfer.gets.len());
        assert!(stretches <= SPANS_MAX && stretches * transfer.slice_bytes <= SLOT_BYTES, "{transfer:?}");
        let copied = transfer.copy.map_or(0, |(from, _)| from.bytes);
        assert!(copied <= transfer.slices() * transfer.slice_bytes, "{transfer:?}");
        let is_captured = stream.is_captured()?;
        self.order(stream, is_captured)?;
        let plan = self.shared.add(transfer, caller, is_captured);
        Ok(self.standing().told(transfer, plan, self.threads.len()))
    }

    fn call_lanes(&self) {
        self.threads.iter().for_each(|thread| thread.thread().unpark());
    }

    /// Enqueues messages, behind all before them, and returns; in the same launch those within the node that are given. What fails
    /// of the ones with other nodes is told of the caller.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    ///
    /// # Panics
    ///
    /// When they do not [fit](Messages::fit) into a launch.
    ///
    /// # Safety
    ///
    /// As of [`Relay::enqueue`], of every stretch and every message within the node.
    pub unsafe fn enqueue_messages(
        &mut self,
        stream: &Stream,
        messages: &Messages,
        near: Option<NearMessages>,
        caller: Caller,
    ) -> Result<(), CudaError> {
        let is_captured = stream.is_captured()?;
        self.order(stream, is_captured)?;
        let kernels = self.message_kernels()?.clone();
        let lanes = self.threads.len();
        let plan = Plan { caller, messages: messages.clone() };
        let plan = self.shared.add_messages(plan, messages.lanes(lanes), is_captured);
        let far = self.far_standing().told_of_messages(messages, plan, lanes);
        let grid = Grid { blocks: messages.blocks(), threads: THREADS };
        match near {
            // SAFETY: what the module's paragraph says, and the caller's promise.
            None => unsafe { kernels.far.launch(stream, grid, &far)? },
            Some(near) => {
                let grid = Grid { blocks: grid.blocks + near.grid().blocks, ..near.grid() };
                let told = AllParameters { far, near: near.parameters() };
                // SAFETY: as above.
                unsafe { kernels.all.launch(stream, grid, &told)? }
            }
        }
        self.call_lanes();
        Ok(())
    }

    /// Why the network part of a transfer failed, once; without waiting.
    pub fn failure(&self) -> Option<Error> {
        self.shared.take_failure()
    }

    /// Ends what waits on the GPU for other nodes, and every transfer from now on. Does not wait.
    pub fn stop(&self) {
        self.shared.stop();
    }

    fn standing(&self) -> Standing {
        Standing {
            outbox: self.shared.staging.outbox(),
            inbox: self.shared.staging.inbox(),
            cells: self.shared.cells.pointer(),
            words: self.shared.words.pointer(),
            state: self.state.pointer(),
            status: self.shared.status.pointer(),
            deadline_ns: self.deadline_ns,
        }
    }

    /// The same for messages, which have words, cells and places of their own.
    fn far_standing(&self) -> Standing {
        let Standing { outbox, inbox, .. } = self.standing();
        Standing {
            outbox: outbox.offset(BOX_BYTES),
            inbox: inbox.offset(BOX_BYTES),
            cells: self.shared.far_cells.pointer(),
            words: self.shared.far_words.pointer(),
            ..self.standing()
        }
    }

    /// Lets a stream wait for the one that was used last, as the kernels share channels.
    fn order(&mut self, stream: &Stream, is_captured: bool) -> Result<(), CudaError> {
        if self.last.as_ref() == Some(stream) || is_captured {
            return Ok(());
        }
        if let Some(last) = &self.last {
            self.order.record(last)?;
            stream.wait_for(&self.order)?;
        }
        self.last = Some(stream.clone());
        Ok(())
    }

    fn message_kernels(&mut self) -> Result<&MessageKernels, CudaError> {
        self.kernels(None)?;
        Ok(self.messages.as_ref().expect("they are loaded with those for bytes"))
    }

    fn kernels(&mut self, element: Option<DeviceElement>) -> Result<&TransferKernels, CudaError> {
        if !self.kernels.contains_key(&element) {
            let module = Module::of(&self.device, code(element))?;
            if element.is_none() {
                let (far, all) = (module.kernel(c"far_messages")?, module.kernel(c"all_messages")?);
                self.messages = Some(MessageKernels { far, all });
            }
            let kernels = TransferKernels {
                relay: module.kernel(c"relay")?,
                short_relay: module.kernel(c"short_relay")?,
                short_steps: module.kernel(c"short_steps")?,
            };
            self.kernels.insert(element, kernels);
        }
        Ok(&self.kernels[&element])
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _done = self.device.synchronize();
        self.shared.end();
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            if thread.join().is_err() {
                log::error!("a thread that carried between nodes panicked");
            }
        }
    }
}
