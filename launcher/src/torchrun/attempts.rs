//! Starting the whole group again after a failure: `--max-restarts`.
//!
//! An attempt is a job of its own, with agents of its own, so that nothing of a failed one reaches the next. A rank that
//! failed or a node that was lost while ranks ran is what another attempt is for; a line that cannot be followed, hosts
//! that were not reached, `--timeout`, and a signal to the launcher are not.

use std::net::SocketAddr;

use efarun_wire::secure::LinkKey;
use tokio::sync::mpsc;

use super::by_hand::{self, ByHand, ByHandError, Part, host, join};
use crate::exit_code::ExitCause;
use crate::job::{JobSpec, StdinTo};
use crate::output::Terminal;
use crate::supervise::{self, Attempted, signals};

/// Runs a job of torchrun's to its end, as often as the line allows. Everything a user should know has been written when
/// it returns.
pub async fn run(mut spec: JobSpec) -> ExitCause {
    let Some(torchrun) = &mut spec.torchrun else { return ExitCause::Internal };
    if getrandom::fill(&mut torchrun.attempt.folder_seed).is_err() {
        Terminal::process().error("the operating system has no random numbers");
        return ExitCause::Internal;
    }
    let mut signals = match signals::listen(&spec.forwarded) {
        Ok(signals) => signals,
        Err(error) => {
            Terminal::process().error(format!("installing signal handlers: {error}"));
            return ExitCause::Internal;
        }
    };
    if let Some(by_hand) = torchrun.by_hand.clone() {
        return run_by_hand(&mut spec, &by_hand, signals).await.unwrap_or_else(|error| {
            Terminal::process().error(&error);
            error.exit_cause()
        });
    }
    loop {
        let (relay, received) = Relay::start(signals);
        let attempted = supervise::attempt(&spec, None, received).await;
        signals = relay.stop().await;
        if !goes_on(&mut spec, attempted.clone()) {
            return attempted.cause;
        }
    }
}

/// Runs this node's part of a job whose line is typed on every node.
async fn run_by_hand(
    spec: &mut JobSpec,
    by_hand: &ByHand,
    mut signals: mpsc::UnboundedReceiver<i32>,
) -> Result<ExitCause, ByHandError> {
    let key = by_hand::key(by_hand)?;
    spec.notes.drain(..).for_each(|note| Terminal::process().note(note));
    if let Part::Host(at) = by_hand::part(by_hand).await? {
        match run_host(spec, by_hand, &key, at, &mut signals).await {
            // Another node of this machine's may be node 0.
            Err(ByHandError::Listen { .. }) if by_hand.node_rank.is_none() => {}
            result => return result,
        }
    }
    loop {
        let over = join::once(spec, by_hand, &key, &mut signals).await?;
        if !over.again {
            return Ok(over.cause);
        }
    }
}

/// Runs the job as node 0, as often as the line allows.
async fn run_host(
    spec: &mut JobSpec,
    by_hand: &ByHand,
    key: &LinkKey,
    at: SocketAddr,
    signals: &mut mpsc::UnboundedReceiver<i32>,
) -> Result<ExitCause, ByHandError> {
    loop {
        let host::Hosted { crew, guests } = host::gather(spec, by_hand, key, at, signals).await?;
        let (_, nobody) = mpsc::unbounded_channel();
        let (relay, received) = Relay::start(std::mem::replace(signals, nobody));
        let attempted = supervise::attempt(spec, Some(crew), received).await;
        *signals = relay.stop().await;
        let again = goes_on(spec, attempted.clone());
        let error = attempted.error.as_deref().unwrap_or_default();
        guests.tell(attempted.cause.code(), again, error.lines().next().unwrap_or_default()).await;
        if !again {
            return Ok(attempted.cause);
        }
    }
}

/// Says whether the group is started again, and prepares the job for it.
fn goes_on(spec: &mut JobSpec, attempted: Attempted) -> bool {
    let Some(torchrun) = &mut spec.torchrun else { return false };
    let most = torchrun.max_restarts;
    if torchrun.attempt.number == most || !is_worth_another(&attempted) {
        return false;
    }
    torchrun.attempt.number += 1;
    torchrun.attempt.earlier.extend(attempted.report);
    let number = torchrun.attempt.number;
    Terminal::process()
        .note(format!("starting the group again ({number} of {most} restarts, --max-restarts)"));
    spec.notes.clear();
    // What the first attempt read of it is gone.
    spec.stdin = StdinTo::None;
    true
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
