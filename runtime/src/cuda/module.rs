//! Kernels: loading their code, and launching what is in it.
//!
//! Where device and driver can (Hopper, CUDA 12.3), a kernel is launched as soon as the blocks of the one in front of it on its
//! stream have ended, and not only when what those wrote has arrived (programmatic dependent launch): 0.9 us of a small
//! collective's 5.9. Its first instruction waits for the latter, so that nothing else changes. That instruction is in the machine code
//! for Hopper, and a comment in the PTX, which is for sm_80, and made code here; a kernel without it is launched behind all that is
//! in front of it.
//!
//! # Safety
//!
//! A kernel's functions live in its module, which they hold. What a launch does to memory is up to the caller of
//! [`Kernel::launch`].
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{
    self, CUfunction, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue, CUlaunchConfig,
    CUmodule, CUstreamCaptureMode,
};

use super::{Code, CudaError, Device, Stream, version};

/// Code on one device.
#[derive(Clone, Debug)]
pub struct Module(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    device: Device,
    raw: CUmodule,
    /// Whether its kernels wait for the one in front of them themselves.
    waits: bool,
}

// SAFETY: modules may be used from any thread; the driver locks for itself.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Module {
    /// Loads machine code for the device where there is some that the driver takes, else PTX.
    ///
    /// # Errors
    ///
    /// As [`Module::load`].
    pub fn of(device: &Device, code: &Code) -> Result<Module, CudaError> {
        match Module::of_machine_code(device, code) {
            Some(Ok(module)) => return Ok(module),
            // As by a driver that is older than the code. What then fails of the PTX is told.
            Some(Err(error)) => log::debug!("machine code is not taken, PTX is compiled instead: {error}"),
            None => {}
        }
        Module::load(device, &code.ptx())
    }

    /// Loads machine code; nothing where there is none for the device.
    pub(crate) fn of_machine_code(device: &Device, code: &Code) -> Option<Result<Module, CudaError>> {
        let capability = device.compute_capability().ok()?;
        let code = code.for_device(capability)?;
        let load = || Module::load_image(device, &code.unpacked(), code.waits && captures_waits()?);
        Some(load())
    }

    /// Compiles PTX and loads it. Takes up to seconds, unless the driver finds what it made of it in the user's cache.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`], also for PTX that the driver does not take.
    ///
    /// # Panics
    ///
    /// When the PTX has a zero byte.
    pub fn load(device: &Device, ptx: &str) -> Result<Module, CudaError> {
        let can_wait = device.compute_capability()? >= (9, 0) && captures_waits()?;
        let hopper = if can_wait { for_hopper(ptx) } else { None };
        let waits = hopper.is_some();
        let ptx = CString::new(hopper.unwrap_or_else(|| ptx.to_owned())).expect("PTX is text");
        Module::load_image(device, ptx.as_bytes_with_nul(), waits)
    }

    /// Loads what the driver takes: PTX with a zero byte behind it, or an ELF file, which says itself how long it is.
    fn load_image(device: &Device, image: &[u8], waits: bool) -> Result<Module, CudaError> {
        let mut raw = ptr::null_mut();
        let _current = device.make_current()?;
        // A stream of this thread may be being captured, into which loading does not go: it allocates, and is none of it.
        let mut mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the image has an end that the driver sees, and is read during the call only. The mode is put back.
        let result = unsafe {
            device.check(
                "cuThreadExchangeStreamCaptureMode",
                sys::cuThreadExchangeStreamCaptureMode(&mut mode),
            )?;
            let result = sys::cuModuleLoadData(&mut raw, image.as_ptr().cast());
            device.check(
                "cuThreadExchangeStreamCaptureMode",
                sys::cuThreadExchangeStreamCaptureMode(&mut mode),
            )?;
            result
        };
        device.check("cuModuleLoadData", result)?;
        Ok(Module(Arc::new(Loaded { device: device.clone(), raw, waits })))
    }

    /// Finds a kernel by its name.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`] when there is none.
    pub fn kernel(&self, name: &CStr) -> Result<Kernel, CudaError> {
        let mut raw = ptr::null_mut();
        let device = &self.0.device;
        let _current = device.make_current()?;
        // SAFETY: the module is loaded; writes one handle.
        let result = unsafe { sys::cuModuleGetFunction(&mut raw, self.0.raw, name.as_ptr()) };
        device.check("cuModuleGetFunction", result)?;
        Ok(Kernel { module: self.clone(), raw })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // A kernel that still runs would lose its code.
        let _done = self.device.synchronize();
        // SAFETY: ours, unloaded once; no kernel of it exists any more, as each holds the module.
        self.device.release("cuModuleUnload", || unsafe { sys::cuModuleUnload(self.raw) });
    }
}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks.
    pub blocks: u32,
    /// Threads of each.
    pub threads: u32,
}

/// A function that runs on the device.
#[derive(Clone, Debug)]
pub struct Kernel {
    module: Module,
    raw: CUfunction,
}

// SAFETY: functions may be used from any thread; the driver locks for itself.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

impl Kernel {
    /// Enqueues a run. `parameters` is copied before this returns.
    ///
    /// # Errors
    ///
    /// [`CudaError::Call`].
    ///
    /// # Safety
    ///
    /// `P` is what the kernel takes, as its only parameter and with the layout of C; every address in it is memory that
    /// the device reaches until the run is done, and nothing else uses it in a way that the kernel does not expect.
    pub unsafe fn launch<P>(&self, stream: &Stream, grid: Grid, parameters: &P) -> Result<(), CudaError> {
        let device = &self.module.0.device;
        let mut pointers = [ptr::from_ref(parameters).cast_mut().cast::<c_void>()];
        let _current = device.make_current()?;
        let mut early = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = CUlaunchConfig {
            gridDimX: grid.blocks,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream.handle(),
            attrs: &mut early,
            numAttrs: self.module.0.waits.into(),
        };
        // SAFETY: the driver copies what the pointers lead to, of the length that the kernel's parameter has; the
        // rest is the caller's promise.
        let result =
            unsafe { sys::cuLaunchKernelEx(&config, self.raw, pointers.as_mut_ptr(), ptr::null_mut()) };
        device.check("cuLaunchKernelEx", result)
    }
}

/// Whose driver takes such launches into a graph.
const VERSION_THAT_CAPTURES: i32 = 12_030;

fn captures_waits() -> Result<bool, CudaError> {
    Ok(version()? >= VERSION_THAT_CAPTURES)
}

/// The PTX with those of its comments as code that are instructions of Hopper's; nothing where there are none.
pub(crate) fn for_hopper(ptx: &str) -> Option<String> {
    const COMMENT: &str = "//sm_90 ";
    let ptx = ptx.contains(COMMENT).then(|| ptx.replace(COMMENT, ""))?;
    Some(ptx.replacen(".target sm_80", ".target sm_90", 1))
}

#[cfg(test)]
mod tests {
    use super::for_hopper;

    #[test]
    fn what_is_code_on_hopper_is_code_there_and_other_ptx_is_left_as_it_is() {
        let ptx = ".version 8.2\n.target sm_80\n\t//sm_90 griddepcontrol.wait;\n// end\n";
        let hopper = ".version 8.2\n.target sm_90\n\tgriddepcontrol.wait;\n// end\n";
        assert_eq!(for_hopper(ptx).as_deref(), Some(hopper));
        assert_eq!(for_hopper(".version 8.0\n.target sm_80\n"), None);
    }
}
