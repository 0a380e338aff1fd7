//! How an agent leaves: whatever the reason, with nothing of the job behind it.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use efarun_wire::message::AgentMessage;

use super::ranks::Ranks;
use super::serve::{Agent, HEAD_LOST_GRACE, Leaving};
use crate::keeper::ending::{end_all_descendants, none_is_left};
use crate::keeper::protocol::{KeeperOrder, KeeperReport};

impl Agent {
    /// Ends what is left of the job, says so where somebody listens, and gives the process's code.
    pub(super) async fn leave(mut self, leaving: Leaving) -> ExitCode {
        match &leaving {
            Leaving::Goodbye => {}
            Leaving::HeadLost(reason) => {
                self.fail(reason);
                self.wind_down().await;
            }
            Leaving::Terminated => {
                self.fail("the agent was asked to end by SIGTERM");
                self.wind_down().await;
            }
            Leaving::KeeperDied => {
                let pid = self.keeper.pid;
                self.fail(&format!("the keeper, process {pid}, died: its ranks are being ended"));
            }
        }
        self.end_keeper(&leaving).await;
        if let Some(ranks) = &mut self.ranks {
            ranks.end_helper().await;
        }
        self.sweep().await;
        self.drain().await;
        // A head that does not listen any more is not waited for.
        let finish = async { tokio::join!(self.head.finish(), self.channel.finish()) };
        let _ = timeout(LAST_WORDS_PATIENCE, finish).await;
        if leaving == Leaving::Goodbye { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Tells the head over every way there is: one of them may be what is lost.
    fn fail(&self, reason: &str) {
        let message = AgentMessage::Failed(reason.to_owned());
        self.head.send(&message);
        if self.is_over_tcp() {
            self.channel.send(&message);
        }
    }

    /// Has the keeper end everything, and passes on what it reports of that.
    async fn wind_down(&mut self) {
        let grace_ms = u32::try_from(HEAD_LOST_GRACE.as_millis()).expect("the grace is short");
        if self.keeper.order(&KeeperOrder::End { grace_ms, signal: libc::SIGTERM }).await.is_err() {
            return;
        }
        let deadline = Instant::now() + HEAD_LOST_GRACE + KEEPER_PATIENCE;
        // With the keeper dead, stopped, or busy with what KILL does not end, the sweep has the last word.
        while let Ok(Some(report)) = timeout_at(deadline, self.keeper.report()).await {
            let over = matches!(report, KeeperReport::Reaped { .. } | KeeperReport::Stuck { .. });
            self.handle_keeper(report);
            if over {
                return;
            }
        }
    }

    /// Closes the keeper's socket, which is its order to end everything and itself, and waits for its end; not for
    /// that of one that did not obey before.
    async fn end_keeper(&mut self, leaving: &Leaving) {
        self.keeper.close().await;
        if self.is_unreaped && *leaving != Leaving::Goodbye {
            return;
        }
        let deadline = Instant::now() + KEEPER_PATIENCE;
        // One that does not end in time is killed by the sweep.
        while let Ok(Some(_)) = timeout_at(deadline, self.keeper.report()).await {}
        // It is a moment from the socket's end to the process's, and a sweep in that moment would find it still there.
        let _ = timeout_at(deadline, self.keeper.ended()).await;
    }

    /// Ends whatever descends from this process now: nothing, unless the keeper is dead or hangs.
    async fn sweep(&mut self) {
        let swept = match none_is_left() {
            true => Ok(0),
            false => match tokio::task::spawn_blocking(end_all_descendants).await {
                Ok(swept) => swept,
                Err(_) => return,
            },
        };
        match swept {
            // Of a keeper that reported before it left, nothing but its own status was left.
            Ok(_) if !self.is_unreaped => {}
            Ok(strays) => {
                let rank_count = self.ranks.as_ref().map_or(0, Ranks::forked);
                self.reaped(rank_count, strays);
            }
            Err(survivors) => self.stuck(&survivors),
        }
    }
}

/// What a keeper may take beyond a grace: half a second is its own grace for an agent that is lost.
const KEEPER_PATIENCE: Duration = Duration::from_millis(1500);
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(500);
