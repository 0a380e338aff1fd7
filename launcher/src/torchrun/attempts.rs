//! Starting the whole group again after a failure: `--max-restarts`.
//!
//! An attempt is a job of its own, with agents of its own, so that nothing of a failed one reaches the next. A rank that
//! failed or a node that was lost while ranks ran is what another attempt is for; a line that cannot be followed, hosts
//! that were not reached, `--timeout`, and a signal to the launcher are not.

use tokio::sync::mpsc;

use crate::exit_code::ExitCause;
use crate::job::{JobSpec, StdinTo};
use crate::output::Terminal;
use crate::supervise::{self, Attempted, signals};

/// Runs a job of torchrun's to its end, as often as the line allows. Everything a user should know has been written when
/// it returns.
pub async fn run(mut spec: JobSpec) -> ExitCause {
    let Some(torchrun) = &mut spec.torchrun else { return ExitCause::Internal };
    let most = torchrun.max_restarts;
    if getrandom::fill(&mut torchrun.attempt.folder_seed).is_err() {
        Terminal::process().error("the operating system has no random numbers");
        return ExitCause::Internal;
    }
    let mut signals = match signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            Terminal::process().error(format!("installing signal handlers: {error}"));
            return ExitCause::Internal;
        }
    };
    let mut number = 0;
    loop {
        let (relay, received) = Relay::start(signals);
        let attempted = supervise::attempt(&spec, received).await;
        signals = relay.stop().await;
        let cause = attempted.cause;
        if number == most || !is_worth_another(&attempted) {
            return cause;
        }
        number += 1;
        Terminal::process()
            .note(format!("starting the group again ({number} of {most} restarts, --max-restarts)"));
        spec.notes.clear();
        // What the first attempt read of it is gone.
        spec.stdin = StdinTo::None;
        if let Some(torchrun) = &mut spec.torchrun {
            torchrun.attempt.number = number;
        }
    }
}

fn is_worth_another(attempted: &Attempted) -> bool {
    let is_of_ranks = matches!(
        attempted.cause,
        ExitCause::RankCode(_) | ExitCause::RankSignal(_) | ExitCause::HostUnreachable
    );
    attempted.has_launched && is_of_ranks
}

/// Passes signals on to the attempt that runs. One that comes between two attempts is kept for the next.
struct Relay {
    passing: tokio::task::JoinHandle<mpsc::UnboundedReceiver<i32>>,
}

impl Relay {
    fn start(mut signals: mpsc::UnboundedReceiver<i32>) -> (Relay, mpsc::UnboundedReceiver<i32>) {
        let (sender, received) = mpsc::unbounded_channel();
        let passing = tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = sender.closed() => return signals,
                    Some(number) = signals.recv() => drop(sender.send(number)),
                    else => return signals,
                }
            }
        });
        (Relay { passing }, received)
    }

    /// Ends once the attempt has dropped its receiver.
    async fn stop(self) -> mpsc::UnboundedReceiver<i32> {
        self.passing.await.expect("passing signals on does not panic")
    }
}
