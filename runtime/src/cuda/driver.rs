//! The driver of this process, and what its results mean.
//!
//! # Safety
//!
//! cudarc's functions look their symbol up in the library that [`ready`] found, and panic where there is none: whoever
//! calls one holds a [`super::Device`] or has called `ready`. All symbols used in this folder exist since CUDA 12.2,
//! which `ready` makes sure of.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char};
use std::ptr;
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUresult};

use super::CudaError;

/// What CUDA the driver is for: 12020 is 12.2.
///
/// # Errors
///
/// As [`super::Device::open`].
pub fn version() -> Result<i32, CudaError> {
    ready()?;
    driver_version()
}

/// Opens and initialises the driver, once per process. The answer stays.
pub(super) fn ready() -> Result<(), CudaError> {
    static READY: OnceLock<Result<(), CudaError>> = OnceLock::new();
    READY.get_or_init(initialise).clone()
}

fn initialise() -> Result<(), CudaError> {
    // SAFETY: opens the library and closes it; NVIDIA's runs no code that could harm on loading.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    let found = driver_version()?;
    if found < NEEDED_VERSION {
        return Err(CudaError::DriverTooOld { found, needed: NEEDED_VERSION });
    }
    // SAFETY: the library is there, and 0 is the only flag that exists.
    check("cuInit", None, unsafe { sys::cuInit(0) })
}

fn driver_version() -> Result<i32, CudaError> {
    let mut version = 0;
    // SAFETY: the library is there; this call needs no initialisation and writes one number.
    check("cuDriverGetVersion", None, unsafe { sys::cuDriverGetVersion(&mut version) })?;
    Ok(version)
}

/// What a call's result means.
pub(super) fn check(call: &'static str, device: Option<u32>, result: CUresult) -> Result<(), CudaError> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    type Text = unsafe fn(CUresult, *mut *const c_char) -> CUresult;
    let text = |ask: Text| {
        let mut text = ptr::null();
        // SAFETY: any code may be asked for; the answer is null or a string that stays for ever.
        unsafe {
            ask(result, &mut text);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    };
    Err(CudaError::Call {
        call,
        device,
        name: text(sys::cuGetErrorName).unwrap_or_else(|| format!("code {}", result as u32)),
        text: text(sys::cuGetErrorString).unwrap_or_else(|| "no description".to_owned()),
    })
}

/// Logs what a release said: nobody is left to act on it.
pub(super) fn check_drop(call: &'static str, device: u32, result: CUresult) {
    // At the end of the process the driver may be gone before us, and with it what we would free.
    if result != CUresult::CUDA_ERROR_DEINITIALIZED
        && let Err(error) = check(call, Some(device), result)
    {
        log::warn!("{error}");
    }
}

/// R535's. Older ones do not load the PTX that we ship.
const NEEDED_VERSION: i32 = 12020;
