//! Collectives and messages of ranks on several nodes.
//!
//! What a call is made of stands in [`steps`], and of messages in [`messages`]: collectives within the node, transfers between nodes,
//! of a rank with those of its number on the others, and messages with any. What of that is one launch stands in [`mod@launches`]. These
//! are pure. Here launches are enqueued, one behind the other on the caller's stream, so that a call returns at once and can be captured
//! into a graph. The bytes between nodes are read by the nodes' cards from GPU to GPU, or go through memory of the hosts
//! ([`efarun_rt::relay`]), over connections of their own.
//!
//! # Safety
//!
//! The scratch memory is used by one communicator's calls, which its streams do one behind the other; where it must grow, the
//! device is waited for before it is freed.
#![allow(unsafe_code)]

mod launches;
mod messages;
mod steps;
#[cfg(test)]
mod tests;

use std::time::Duration;

use efarun_rt::cuda::{Device, DeviceMemory, DevicePointer, Event, Stream};
use efarun_rt::nvlink::{DeviceCall, DeviceElement, DeviceMessage};
use efarun_rt::relay::{Caller, Relay, SPANS_MAX, ShortSteps};
use efarun_rt::topology::Topology;
use efarun_rt::{Rank, World};

use self::launches::{Launch, launches};
use self::steps::{Standpoint, Step, Steps};
use crate::outcome::Failure;

/// What a rank has for calls with other nodes.
#[derive(Debug)]
pub(crate) struct Between {
    device: Device,
    standpoint: Standpoint,
    /// The ranks of this node, where there are others.
    node: Option<World>,
    relay: Relay,
    scratch: Option<DeviceMemory<u64>>,
    /// Where the last call was enqueued: the next one uses the same scratch memory.
    last: Option<Stream>,
    order: Event,
    /// How many calls there were.
    calls: u32,
}

impl Between {
    /// `node` is the World of this node's ranks, on its GPU already; `lanes` are Worlds of all ranks.
    pub(crate) fn new(
        device: &Device,
        standpoint: Standpoint,
        node: Option<World>,
        lanes: Vec<World>,
        deadline: Duration,
    ) -> Result<Between, Failure> {
        Ok(Between {
            device: device.clone(),
            standpoint,
            node,
            relay: Relay::new(device, lanes, deadline)?,
            scratch: None,
            last: None,
            order: Event::new(device)?,
            calls: 0,
        })
    }

    /// Where the rank stands among the nodes: as many ranks on each, numbered node by node; else every rank is a node.
    pub(crate) fn standpoint(topology: &Topology, rank: Rank) -> Standpoint {
        let locals = topology.local_ranks(Rank(0)).len() as u32;
        let is_regular = (0..topology.world_size()).map(Rank).all(|rank| {
            topology.local_ranks(rank).len() as u32 == locals
                && topology.local_rank(rank) == rank.0 % locals
                && topology.node_rank(rank) == rank.0 / locals
        });
        let locals = if is_regular { locals } else { 1 };
        Standpoint {
            nodes: topology.world_size() / locals,
            locals,
            node: rank.0 / locals,
            local: rank.0 % locals,
        }
    }

    /// Enqueues a collective.
    pub(crate) fn enqueue(&mut self, stream: &Stream, call: &DeviceCall) -> Result<(), Failure> {
        if self.standpoint.nodes as usize > SPANS_MAX {
            return Err(Failure::usage(format!(
                "{} is not supported between more than {SPANS_MAX} nodes, or ranks where nodes have different numbers of them",
                call.collective.name()
            )));
        }
        let scratch = self.scratch(stream, steps::scratch_bytes(call, &self.standpoint))?;
        let steps = Steps { call: *call, at: self.standpoint, scratch }.list();
        self.order(stream)?;
        self.run(stream, &steps, call.collective.name())
    }

    /// Enqueues messages, on their way at the same time.
    pub(crate) fn pass_messages(
        &mut self,
        stream: &Stream,
        sends: &[DeviceMessage],
        receives: &[DeviceMessage],
    ) -> Result<(), Failure> {
        self.order(stream)?;
        self.run(stream, &messages::steps(sends, receives, &self.standpoint), "send_receive")
    }

    /// Loads the kernels for these types.
    pub(crate) fn prepare(&mut self, elements: &[DeviceElement]) -> Result<(), Failure> {
        for element in std::iter::once(None).chain(elements.iter().copied().map(Some)) {
            self.relay.prepare(element)?;
        }
        if let Some(node) = &mut self.node {
            node.prepare_device(elements)?;
        }
        Ok(())
    }

    /// What went wrong with what was enqueued, if anything; without waiting.
    pub(crate) fn trouble(&mut self) -> Option<Failure> {
        let of_node = self.node.as_mut().and_then(World::device_trouble);
        self.relay.failure().or(of_node).map(Failure::from)
    }

    /// Ends what waits on the GPU, and every call from now on. Does not wait.
    pub(crate) fn stop(&self) {
        self.relay.stop();
        if let Some(node) = &self.node {
            node.stop_device();
        }
    }

    /// Lets go of it, when what was enqueued is done.
    pub(crate) fn end(self) {
        let Between { device, node, relay, .. } = self;
        let _done = device.synchronize();
        drop(relay);
        if let Some(node) = node {
            node.leave();
        }
    }

    fn run(&mut self, stream: &Stream, steps: &[Step], operation: &'static str) -> Result<(), Failure> {
        let caller = Caller { operation, sequence: self.calls };
        self.calls = self.calls.wrapping_add(1);
        let mut node = self.node.as_mut();
        let is_short =
            |call: &DeviceCall| node.as_mut().is_some_and(|node| node.on(stream).staged().is_short(call));
        for launch in launches(steps, is_short) {
            match (launch, &mut self.node) {
                (Launch::One(step), _) => self.run_step(stream, step, caller)?,
                (Launch::Together { transfer, node: call, is_node_first }, Some(node)) => {
                    let relay = &mut self.relay;
                    // SAFETY: as of `run_step`.
                    let launch = |node| unsafe {
                        relay.enqueue_steps(stream, &ShortSteps { transfer, node, is_node_first }, caller)
                    };
                    // SAFETY: as of `run_step`.
                    unsafe { node.on(stream).staged().call_within(call, launch)? };
                }
                (Launch::Together { .. }, None) => unreachable!("nothing is short where there is no node"),
            }
        }
        Ok(())
    }

    fn run_step(&mut self, stream: &Stream, step: &Step, caller: Caller) -> Result<(), Failure> {
        // SAFETY: NCCL's contract is ours: buffers are the device's until what was enqueued is done; and what the
        // module's paragraph says.
        unsafe {
            match step {
                Step::Copy { from, to, bytes } => stream.copy(*from, *to, *bytes)?,
                Step::Relay(transfer) => self.relay.enqueue(stream, transfer, caller)?,
                Step::Node(call) => {
                    if let Some(node) = &mut self.node {
                        node.on(stream).staged().call(call)?;
                    }
                }
                Step::Messages { near, far } => match &mut self.node {
                    Some(node) if far.is_empty() => {
                        node.on(stream).pass_messages(&near.sends, &near.receives)?;
                    }
                    Some(node) if !near.is_empty() => {
                        let relay = &mut self.relay;
                        let beside = |near| relay.enqueue_messages(stream, far, near, caller);
                        let mut on_stream = node.on(stream);
                        on_stream.pass_messages_beside(&near.sends, &near.receives, far.blocks(), beside)?;
                    }
                    _ => self.relay.enqueue_messages(stream, far, None, caller)?,
                },
            }
        }
        Ok(())
    }

    /// Memory of this rank for what is on its way; grows.
    fn scratch(&mut self, stream: &Stream, bytes: usize) -> Result<DevicePointer, Failure> {
        let words = bytes.div_ceil(size_of::<u64>());
        if words == 0 {
            return Ok(DevicePointer(0));
        }
        if self.scratch.as_ref().is_none_or(|scratch| scratch.len() < words) {
            if stream.is_captured()? {
                return Err(Failure::usage(format!(
                    "this call needs {bytes} bytes more memory, which cannot be had in a capture: call it once before"
                )));
            }
            let _done = self.device.synchronize();
            self.scratch = None;
            // Short calls, some of which need more than longer ones, do not let it grow again.
            let words = words.max(steps::SHARED_BYTES_MIN / size_of::<u64>()).next_power_of_two();
            self.scratch = Some(DeviceMemory::new(&self.device, words)?);
        }
        Ok(self.scratch.as_ref().map_or(DevicePointer(0), DeviceMemory::pointer))
    }

    fn order(&mut self, stream: &Stream) -> Result<(), Failure> {
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
}
