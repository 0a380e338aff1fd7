//! Makes the environment of ranks. The decisions are not landed yet; the error is, because
//! [`crate::error`] carries it.

use crate::exit_code::ExitCause;

/// Why ranks cannot be given an environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvError {}

impl EnvError {
    /// Returns what the exit code says.
    pub fn exit_cause(&self) -> ExitCause {
        ExitCause::Data
    }
}
