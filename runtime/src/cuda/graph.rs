//! Work that was captured once and is enqueued as a whole.
//!
//! # Safety
//!
//! What an instantiated graph refers to (kernels and addresses) must outlive its runs; that is what makes
//! [`Graph::capture`] unsafe. The graph itself is destroyed once, by its drop.
#![allow(unsafe_code)]

use std::ptr;

use cudarc::driver::sys::{self, CUgraphExec, CUstreamCaptureMode};

use super::{CudaError, Device, Stream};

/// Enqueued work as a thing that can be enqueued again and again.
#[derive(Debug)]
pub struct Graph {
    device: Device,
    raw: CUgraphExec,
}

// SAFETY: an executable graph may be launched from any thread, one at a time: `launch` is ordered by the driver.
unsafe impl Send for Graph {}

impl Graph {
    /// Captures what `enqueue` enqueues on the stream, instead of running it.
    ///
    /// # Errors
    ///
    /// What `enqueue` says, or [`CudaError::Call`].
    ///
    /// # Safety
    ///
    /// Memory that the captured work uses lives until the graph's last run is done.
    pub unsafe fn capture<E: From<CudaError>>(
        stream: &Stream,
        enqueue: impl FnOnce() -> Result<(), E>,
    ) -> Result<Graph, E> {
        let device = stream.device();
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        {
            let _current = device.make_current()?;
            // SAFETY: the stream is alive.
            let result = unsafe { sys::cuStreamBeginCapture_v2(stream.handle(), mode) };
            device.check("cuStreamBeginCapture", result)?;
        }
        let enqueued = enqueue();
        let mut graph = ptr::null_mut();
        let _current = device.make_current()?;
        // SAFETY: the capture was begun by this thread; writes one handle.
        let ended = unsafe { sys::cuStreamEndCapture(stream.handle(), &mut graph) };
        // What was enqueued comes first: a capture that it broke cannot be ended in peace.
        enqueued?;
        device.check("cuStreamEndCapture", ended)?;
        let mut raw = ptr::null_mut();
        // SAFETY: the graph is the one that was captured; writes one handle. It is not needed afterwards.
        let made = unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&mut raw, graph, 0);
            device.check_drop("cuGraphDestroy", sys::cuGraphDestroy(graph));
            made
        };
        device.check("cuGraphInstantiate", made)?;
        Ok(Graph { device: device.clone(), raw })
    }

    /// Enqueues all of it.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    pub fn launch(&self, stream: &Stream) -> Result<(), CudaError> {
        let _current = self.device.make_current()?;
        // SAFETY: graph and stream are alive; the memory it uses is what `capture` was promised.
        let result = unsafe { sys::cuGraphLaunch(self.raw, stream.handle()) };
        self.device.check("cuGraphLaunch", result)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: ours, and dropped once; the driver lets a run that is under way end.
        self.device.release("cuGraphExecDestroy", || unsafe { sys::cuGraphExecDestroy(self.raw) });
    }
}
