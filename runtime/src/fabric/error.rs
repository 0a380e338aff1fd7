//! What can go wrong with libfabric.

use libfabric_sys::LibraryError;

/// A failure of libfabric. `FI_EAGAIN` is not one: calls that can meet it say so by their result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FabricError {
    /// There is no libfabric that can be used.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A call failed.
    #[error("{call}: {text} (libfabric code {code})")]
    Call {
        /// The call, by its C name.
        call: &'static str,
        /// Its code, positive: an errno below 256, libfabric's own from there.
        code: i32,
        /// What `fi_strerror` says of it.
        text: String,
    },
    /// The library has no provider for what was asked.
    #[error(
        "libfabric {version} at {path} offers no {wanted}: `fi_info` shows what it offers, and FI_PROVIDER, where it is \
         set, must not leave it out"
    )]
    NoProvider {
        /// The library's version.
        version: String,
        /// The library's file.
        path: String,
        /// What was asked for: `tcp endpoint at 10.0.0.2`.
        wanted: String,
    },
}
