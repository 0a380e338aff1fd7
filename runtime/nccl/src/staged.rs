//! Collectives of ranks on several nodes: through memory of the host, and the World's network.
//!
//! A call is cut into parts that fit the staging memory. For each the stream copies the input to the host, calls the host,
//! which does the collective with the other ranks' hosts while the stream waits, and copies the result back. So it is
//! ordered with what else is enqueued, and returns at once; but one part is done behind the other, and it cannot be
//! captured into a graph.
//!
//! # Safety
//!
//! The staging memory is used by one communicator's calls, which its streams do one behind the other: a part's copies and
//! the host's call are in this order on one stream, and a call on another stream waits for them.
#![allow(unsafe_code)]

use std::sync::Arc;

use efarun_rt::cuda::{Device, DevicePointer, Event, HostMemory, Stream};
use efarun_rt::nvlink::{DeviceCall, DeviceCollective, DeviceElement, DeviceOp};
use efarun_rt::{Element, ElementType, Error, ReduceOp, World};

use crate::comm::Comm;
use crate::outcome::Failure;

/// What a communicator stages through.
#[derive(Debug)]
pub(crate) struct Staging {
    memory: Arc<HostMemory>,
    /// Where the last call was enqueued.
    last: Option<Stream>,
    order: Event,
}

impl Staging {
    pub(crate) fn new(device: &Device) -> Result<Staging, Failure> {
        let memory = HostMemory::new(device, 2 * PART_BYTES / size_of::<u64>())?;
        Ok(Staging { memory: Arc::new(memory), last: None, order: Event::new(device)? })
    }
}

/// What a part of a call is on this rank.
#[derive(Clone, Copy)]
struct Part {
    collective: DeviceCollective,
    op: ReduceOp,
    rank: u32,
    ranks: usize,
    /// Bytes of what the collective counts.
    bytes: usize,
}

/// Enqueues a collective.
pub(crate) fn enqueue(comm: &Arc<Comm>, stream: &Stream, call: &DeviceCall) -> Result<(), Failure> {
    let (DeviceElement::Of(element), DeviceOp::Of(op)) = (call.element, call.op) else {
        return Err(Failure::usage(
            "between nodes there are no floats of eight bits and no sums of products",
        ));
    };
    match call.collective {
        DeviceCollective::AllReduce
        | DeviceCollective::Broadcast { .. }
        | DeviceCollective::Reduce { .. }
        | DeviceCollective::AllGather
        | DeviceCollective::ReduceScatter => {}
        other => return Err(Failure::usage(format!("{} is not supported between nodes", other.name()))),
    }
    if stream.is_captured()? {
        return Err(Failure::usage("between nodes a collective cannot be captured into a graph"));
    }
    let mut staging = comm.staging();
    let Some(staging) = staging.as_mut() else {
        return Err(Failure::internal("there is no memory to stage through"));
    };
    if let Some(last) = staging.last.as_ref().filter(|last| *last != stream) {
        staging.order.record(last)?;
        stream.wait_for(&staging.order)?;
    }
    staging.last = Some(stream.clone());
    let ranks = comm.ranks as usize;
    let whole = call.count * call.element.size_bytes();
    let has_blocks = matches!(call.collective, DeviceCollective::AllGather | DeviceCollective::ReduceScatter);
    let part_bytes = if has_blocks { PART_BYTES / ranks / 64 * 64 } else { PART_BYTES };
    let mut at = 0;
    while at < whole {
        let bytes = part_bytes.min(whole - at);
        let part = Part { collective: call.collective, op, rank: comm.rank, ranks, bytes };
        part.copy_in(stream, &staging.memory, call.input, (at, whole))?;
        let (doer, memory) = (Arc::clone(comm), Arc::clone(&staging.memory));
        stream.call_host(Box::new(move || {
            if let Err(failure) = doer.with_world(|world| Ok(part.run(world, &memory, element)?)) {
                doer.fall_ill(|health| {
                    health.failure.get_or_insert(failure);
                });
            }
        }))?;
        part.copy_out(stream, &staging.memory, call.output, (at, whole))?;
        at += bytes;
    }
    Ok(())
}

impl Part {
    /// From the input at `at` of `whole` bytes, or of each block, into the first half of the staging memory.
    fn copy_in(
        &self,
        stream: &Stream,
        memory: &HostMemory,
        input: DevicePointer,
        (at, whole): (usize, usize),
    ) -> Result<(), Failure> {
        let blocks = match self.collective {
            DeviceCollective::Broadcast { root } if root.0 != self.rank => 0,
            DeviceCollective::ReduceScatter => self.ranks,
            _ => 1,
        };
        for block in 0..blocks {
            let from = input.offset(block * whole + at);
            // SAFETY: the caller's buffer, as NCCL has it; what the module's paragraph says.
            unsafe { stream.copy_to_host(from, memory, block * self.bytes, self.bytes)? };
        }
        Ok(())
    }

    /// From the second half of the staging memory.
    fn copy_out(
        &self,
        stream: &Stream,
        memory: &HostMemory,
        output: DevicePointer,
        (at, whole): (usize, usize),
    ) -> Result<(), Failure> {
        let blocks = match self.collective {
            DeviceCollective::Reduce { root } if root.0 != self.rank => 0,
            DeviceCollective::AllGather => self.ranks,
            _ => 1,
        };
        for block in 0..blocks {
            let to = output.offset(block * whole + at);
            // SAFETY: as above.
            unsafe { stream.copy_from_host(memory, PART_BYTES + block * self.bytes, to, self.bytes)? };
        }
        Ok(())
    }

    /// Does it with the other ranks, on a thread of the driver's.
    fn run(&self, world: &mut World, memory: &HostMemory, element: ElementType) -> Result<(), Error> {
        // SAFETY: what the module's paragraph says: the stream waits for this, and both halves are this call's.
        let (input, output) =
            unsafe { (memory.bytes_mut(0, PART_BYTES), memory.bytes_mut(PART_BYTES, PART_BYTES)) };
        match element {
            ElementType::I8 => self.run_as::<i8>(world, input, output),
            ElementType::U8 => self.run_as::<u8>(world, input, output),
            ElementType::I16 => self.run_as::<i16>(world, input, output),
            ElementType::U16 => self.run_as::<u16>(world, input, output),
            ElementType::I32 => self.run_as::<i32>(world, input, output),
            ElementType::U32 => self.run_as::<u32>(world, input, output),
            ElementType::I64 => self.run_as::<i64>(world, input, output),
            ElementType::U64 => self.run_as::<u64>(world, input, output),
            ElementType::F16 => self.run_as::<half::f16>(world, input, output),
            ElementType::Bf16 => self.run_as::<half::bf16>(world, input, output),
            ElementType::F32 => self.run_as::<f32>(world, input, output),
            ElementType::F64 => self.run_as::<f64>(world, input, output),
            other => unreachable!("the library has no name for {other}"),
        }
    }

    fn run_as<T: Element + bytemuck::Pod>(
        &self,
        world: &mut World,
        input: &mut [u8],
        output: &mut [u8],
    ) -> Result<(), Error> {
        let (input_blocks, output_blocks) = match self.collective {
            DeviceCollective::AllGather => (1, self.ranks),
            DeviceCollective::ReduceScatter => (self.ranks, 1),
            _ => (1, 1),
        };
        let input: &mut [T] = bytemuck::cast_slice_mut(&mut input[..input_blocks * self.bytes]);
        let output: &mut [T] = bytemuck::cast_slice_mut(&mut output[..output_blocks * self.bytes]);
        match self.collective {
            DeviceCollective::Broadcast { root } => {
                if root.0 == self.rank {
                    output.copy_from_slice(input);
                }
                world.broadcast(output, root)
            }
            DeviceCollective::Reduce { root } => world.reduce_into(input, output, self.op, root),
            DeviceCollective::AllGather => world.all_gather(input, output),
            DeviceCollective::ReduceScatter => world.reduce_scatter(input, output, self.op),
            _ => world.all_reduce_into(input, output, self.op),
        }
    }
}

/// Half of the staging memory.
const PART_BYTES: usize = 8 << 20;
