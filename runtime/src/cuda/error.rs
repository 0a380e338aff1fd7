//! What can go wrong with CUDA.

/// A failure of the CUDA driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// This machine has no driver.
    #[error("there is no CUDA driver here: libcuda.so.1, which comes with NVIDIA's driver, cannot be opened")]
    NoDriver,
    /// The driver is older than what the kernels are compiled for.
    #[error(
        "the CUDA driver is for CUDA {}.{}, and {}.{} is needed (driver 535 or newer)",
        found / 1000, found % 1000 / 10, needed / 1000, needed % 1000 / 10
    )]
    DriverTooOld {
        /// What it is for, as `cuDriverGetVersion` says it.
        found: i32,
        /// The least that will do.
        needed: i32,
    },
    /// There is no such device.
    #[error("there is no GPU {ordinal}: this process sees {count}; CUDA_VISIBLE_DEVICES chooses which")]
    NoSuchDevice {
        /// The device that was asked for.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },
    /// One GPU cannot reach another's memory.
    #[error(
        "GPU {device} cannot access the memory of GPU {peer}: they are not connected, or peer access is disabled"
    )]
    NoPeerAccess {
        /// The one.
        device: u32,
        /// The other.
        peer: u32,
    },
    /// A call failed.
    #[error("{call}{}: {text} ({name})", device.map_or_else(String::new, |device| format!(" on GPU {device}")))]
    Call {
        /// The call, by its C name.
        call: &'static str,
        /// The device it was about.
        device: Option<u32>,
        /// The driver's name of the error: `CUDA_ERROR_OUT_OF_MEMORY`.
        name: String,
        /// What the driver says of it.
        text: String,
    },
}
