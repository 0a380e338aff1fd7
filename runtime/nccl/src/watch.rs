//! A thread that looks after all communicators of the process, so that a rank that is lost is learnt of while the others
//! wait for it on their GPUs.
//!
//! A rank that is gone may have left work behind that still ends well: programs end at different moments. What waits is
//! ended [`GRACE`] after the loss; only where a kernel had to give up then is it an error of what was called before. Whatever
//! is called afterwards fails.

use std::sync::Once;
use std::time::{Duration, Instant};

use crate::between::Between;
use crate::comm::Comm;
use crate::outcome::{Failure, Outcome};

/// Starts the thread, once per process. Without it losses are not learnt of; a process that has no thread left goes on.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let spawned = std::thread::Builder::new().name("efarun-nccl".into()).spawn(|| {
            loop {
                std::thread::sleep(EVERY);
                Comm::all().iter().for_each(|comm| look_after(comm));
            }
        });
        if let Err(error) = spawned {
            let text = format_args!("ranks that are lost will not be noticed: {error}");
            efarun_rt::warning::tell("nccl: no watch", text);
        }
    });
}

/// Looks once. A communicator that is just being used is looked at the next time.
pub(crate) fn look_after(comm: &Comm) {
    let (is_lost_for, is_stopped, has_failed) = {
        let health = comm.health();
        let since = health.lost.as_ref().map(|(since, _)| since.elapsed());
        (since, health.is_stopped, health.failure.is_some())
    };
    if has_failed {
        return;
    }
    if let Some(trouble) = comm.between().as_mut().and_then(Between::trouble) {
        return comm.fall_ill(|health| {
            health.failure.get_or_insert(trouble);
        });
    }
    comm.try_with_world(|world| match is_lost_for {
        _ if is_stopped => {
            let failure = match world.device_gave_up() {
                Ok(false) => return,
                Ok(true) => comm.health().lost.as_ref().map(|(_, failure)| failure.clone()),
                Err(error) => Some(error.into()),
            };
            comm.fall_ill(|health| health.failure = failure);
        }
        Some(since) if since >= GRACE => {
            world.stop_device();
            if let Some(between) = comm.between().as_ref() {
                between.stop();
            }
            comm.fall_ill(|health| health.is_stopped = true);
        }
        Some(_) => {}
        None => {
            if let Some(trouble) = world.device_trouble() {
                comm.fall_ill(|health| health.failure = Some(trouble.into()));
            } else if let Some(lost) = world.peer_trouble() {
                let failure = Failure { outcome: Outcome::RemoteError, ..lost.into() };
                comm.fall_ill(|health| health.lost = Some((Instant::now(), failure)));
            }
        }
    });
}

const EVERY: Duration = Duration::from_millis(100);
/// For how long work that was enqueued before a rank was lost may still end well.
const GRACE: Duration = Duration::from_secs(2);
