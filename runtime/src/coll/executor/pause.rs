//! What every wait of the executor's does between two looks: progress, and then spin or sleep, until it has to end.

use std::time::{Duration, Instant};

use super::error::{ExecError, Interrupt};
use super::{Executor, MAX_SLEEP};
use crate::coll::fault::Wait;
use crate::transport::Transport;

/// Where in a call a wait is, and how long it may last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) step: usize,
    pub(super) step_count: usize,
    pub(super) patience: Duration,
}

impl Executor {
    /// Lets time pass in a wait that began at `since`: the first call makes progress and sets it, later ones spin or
    /// sleep before. Says when the wait has to end.
    pub(super) fn pause(
        &mut self,
        since: &mut Option<Instant>,
        wait: Wait,
        place: Place,
        transport: &mut dyn Transport,
        interrupt: &mut dyn FnMut() -> Option<Interrupt>,
    ) -> Result<(), ExecError> {
        let Place { step, step_count, patience } = place;
        let now = Instant::now();
        let Some(since) = *since else {
            *since = Some(now);
            self.spin.begin(now);
            return self.progress(step, transport);
        };
        let waited = now - since;
        if !self.spin.pause(now, waited) {
            return self.progress(step, transport);
        }
        if let Some(interrupt) = interrupt() {
            return Err(ExecError::Interrupted { step, wait, interrupt });
        }
        let Some(left) = patience.checked_sub(waited).filter(|left| !left.is_zero()) else {
            let stall = transport.stall(wait.peer());
            return Err(ExecError::Timeout { step, step_count, wait, waited, stall });
        };
        transport.wait(left.min(MAX_SLEEP));
        self.progress(step, transport)
    }

    /// Moves what the transport can move, and takes in which sends are complete.
    pub(super) fn progress(&mut self, step: usize, transport: &mut dyn Transport) -> Result<(), ExecError> {
        self.completed.clear();
        let polled = transport.poll(&mut self.completed);
        if let Some(stray) = self.completed.drain(..).find(|&token| !self.sends.completed(token)) {
            return Err(ExecError::StrayCompletion { token: stray.0 });
        }
        polled.map_err(|source| ExecError::Transport { step, source })
    }
}
