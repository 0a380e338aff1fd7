//! How a program ends that does not end well.

use libfabric_sys::LibraryError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line.
    #[error("{0}")]
    Usage(&'static str),
    /// There is no libfabric.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The connection to the other process.
    #[error("the other process: {0}")]
    Link(#[from] std::io::Error),
    /// A call of libfabric.
    #[error("{call}: libfabric code {code}")]
    Call {
        /// Which.
        call: &'static str,
        /// What it returned, positive.
        code: i64,
    },
    /// No device for the program.
    #[error("no {0} endpoint is offered")]
    NoEndpoint(&'static str),
    /// An operation failed.
    #[error("an operation failed: error {error}, provider's {provider_error}: {text}")]
    Operation {
        /// libfabric's code.
        error: i32,
        /// The provider's.
        provider_error: i32,
        /// What it says.
        text: String,
    },
    /// What arrived is not what was sent.
    #[error("wrong: {0}")]
    Wrong(String),
    /// Nothing happened for too long.
    #[error("waited too long for {0}")]
    Deadline(&'static str),
}
