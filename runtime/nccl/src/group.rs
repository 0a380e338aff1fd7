//! What is called between `ncclGroupStart` and `ncclGroupEnd`, and how it is done at the end.
//!
//! Outside of a group a call is a group of its own. What needs the other ranks to come (making communicators, windows) is
//! done first, each communicator on a thread of its own where there are several: ranks that one thread plays wait for each
//! other. Then kernels are loaded, as loading can wait for what was enqueued; then calls are enqueued in their order,
//! and at last all messages of a communicator and stream at once, so that none waits for another.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use efarun_rt::nvlink::{DeviceCall, DeviceElement, DeviceMessage};

use crate::abi::StreamHandle;
use crate::comm::Comm;
use crate::outcome::Failure;

/// Something that was called.
pub(crate) enum Job {
    /// What needs the other ranks to come.
    Setup(Setup),
    /// A collective.
    Call { comm: Arc<Comm>, stream: StreamHandle, call: DeviceCall },
    /// A message.
    Message { comm: Arc<Comm>, stream: StreamHandle, is_sent: bool, message: DeviceMessage },
}

/// What needs the other ranks to come. `order` is the same for what must be done one behind the other.
pub(crate) struct Setup {
    pub(crate) order: usize,
    /// Is told whether it is the only one of its group.
    pub(crate) act: Box<dyn FnOnce(bool) -> Result<(), Failure> + Send>,
}

#[derive(Default)]
struct Group {
    depth: usize,
    jobs: Vec<Job>,
    /// Of a call in the group: nothing of it is done then.
    failure: Option<Failure>,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
}

/// Begins a group, or one within another.
pub(crate) fn start() {
    GROUP.with(|group| group.borrow_mut().depth += 1);
}

/// Ends a group: the outermost does what was called.
pub(crate) fn end() -> Result<(), Failure> {
    let (jobs, failure) = match leave()? {
        Some(ended) => ended,
        None => return Ok(()),
    };
    match failure {
        Some(failure) => Err(failure),
        None => run(jobs),
    }
}

/// Ends a group and does nothing of it.
pub(crate) fn discard() -> Result<(), Failure> {
    leave().map(|_| ())
}

/// Takes what was called, or does it where no group was begun.
pub(crate) fn submit(job: Result<Job, Failure>) -> Result<(), Failure> {
    let in_group = GROUP.with(|group| {
        let group = &mut *group.borrow_mut();
        if group.depth == 0 {
            return None;
        }
        Some(match &job {
            Ok(_) => Ok(()),
            Err(failure) => {
                group.failure.get_or_insert_with(|| failure.clone());
                Err(failure.clone())
            }
        })
    });
    match (in_group, job) {
        (Some(Ok(())), Ok(job)) => {
            GROUP.with(|group| group.borrow_mut().jobs.push(job));
            Ok(())
        }
        (_, Err(failure)) => Err(failure),
        // What most calls are, without the lists that a group needs.
        (_, Ok(Job::Call { comm, stream, call })) => enqueue(&comm, stream, &call),
        (_, Ok(job)) => run(vec![job]),
    }
}

type Ended = (Vec<Job>, Option<Failure>);

/// What the outermost group had.
fn leave() -> Result<Option<Ended>, Failure> {
    GROUP.with(|group| {
        let group = &mut *group.borrow_mut();
        if group.depth == 0 {
            return Err(Failure::usage("ncclGroupEnd without ncclGroupStart"));
        }
        group.depth -= 1;
        Ok((group.depth == 0).then(|| (std::mem::take(&mut group.jobs), group.failure.take())))
    })
}

fn run(jobs: Vec<Job>) -> Result<(), Failure> {
    let mut setups = Vec::new();
    let mut calls = Vec::new();
    let mut messages: Vec<Messages> = Vec::new();
    for job in jobs {
        match job {
            Job::Setup(setup) => setups.push(setup),
            Job::Call { comm, stream, call } => calls.push((comm, stream, call)),
            Job::Message { comm, stream, is_sent, message } => {
                let of_these = |it: &Messages| it.comm.number == comm.number && it.stream == stream;
                let index = messages.iter().position(of_these).unwrap_or_else(|| {
                    messages.push(Messages { comm, stream, sends: Vec::new(), receives: Vec::new() });
                    messages.len() - 1
                });
                let Messages { sends, receives, .. } = &mut messages[index];
                if is_sent { sends.push(message) } else { receives.push(message) }
            }
        }
    }
    set_up(setups)?;
    load(&calls, &messages)?;
    for (comm, stream, call) in &calls {
        enqueue(comm, *stream, call)?;
    }
    messages.iter().try_for_each(Messages::enqueue)
}

/// Messages that are on their way at the same time.
struct Messages {
    comm: Arc<Comm>,
    stream: StreamHandle,
    sends: Vec<DeviceMessage>,
    receives: Vec<DeviceMessage>,
}

impl Messages {
    fn enqueue(&self) -> Result<(), Failure> {
        let Messages { comm, stream, sends, receives } = self;
        let own = |messages: &[DeviceMessage]| messages.iter().filter(|it| it.peer.0 == comm.rank).count();
        if own(sends) != own(receives) {
            return Err(Failure::usage(format!(
                "rank {} sends itself {} messages and receives {}: both belong into one group",
                comm.rank,
                own(sends),
                own(receives)
            )));
        }
        comm.check()?;
        let stream = comm.stream(*stream);
        if comm.is_between_nodes {
            return comm.with_nodes(|between| between.pass_messages(&stream, sends, receives));
        }
        comm.with_world(|world| Ok(pass(world, &stream, sends, receives)?))
    }
}

#[expect(unsafe_code, reason = "a C caller's memory is taken at the caller's word")]
fn pass(
    world: &mut efarun_rt::World,
    stream: &efarun_rt::cuda::Stream,
    sends: &[DeviceMessage],
    receives: &[DeviceMessage],
) -> Result<(), efarun_rt::Error> {
    // SAFETY: NCCL's contract is ours: buffers are the device's until what was enqueued is done.
    unsafe { world.on(stream).pass_messages(sends, receives) }
}

#[expect(unsafe_code, reason = "a C caller's memory is taken at the caller's word")]
fn enqueue(comm: &Arc<Comm>, stream: StreamHandle, call: &DeviceCall) -> Result<(), Failure> {
    comm.check()?;
    let stream = comm.stream(stream);
    if comm.is_between_nodes {
        return comm.with_nodes(|between| between.enqueue(&stream, call));
    }
    comm.with_world(|world| {
        let mut on = world.on(&stream);
        if call.collective.root().is_some() {
            // Whether a rank's unused buffer is in a window nobody else knows: all must decide alike.
            on = on.staged();
        }
        // SAFETY: NCCL's contract is ours: buffers are the device's until what was enqueued is done.
        unsafe { on.call(call)? };
        Ok(())
    })
}

/// Does what needs the other ranks to come.
fn set_up(setups: Vec<Setup>) -> Result<(), Failure> {
    let is_only = setups.len() == 1;
    let mut by_order: BTreeMap<usize, Vec<Setup>> = BTreeMap::new();
    for setup in setups {
        by_order.entry(setup.order).or_default().push(setup);
    }
    let act = |setups: Vec<Setup>| setups.into_iter().try_for_each(|setup| (setup.act)(is_only));
    if by_order.len() <= 1 {
        return by_order.into_values().try_for_each(act);
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = by_order.into_values().map(|setups| scope.spawn(move || act(setups))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<(), Failure>>| {
            thread.join().unwrap_or_else(|_| Err(Failure::internal("a thread that set a rank up panicked")))
        };
        threads.into_iter().map(join).collect::<Vec<_>>().into_iter().collect()
    })
}

/// Loads what several communicators' kernels need before the first of them runs.
fn load(calls: &[(Arc<Comm>, StreamHandle, DeviceCall)], messages: &[Messages]) -> Result<(), Failure> {
    let mut needs: BTreeMap<usize, (&Arc<Comm>, Vec<DeviceElement>)> = BTreeMap::new();
    for (comm, _, call) in calls {
        let (_, elements) = needs.entry(comm.number).or_insert((comm, Vec::new()));
        if call.collective.reduces() && !elements.contains(&call.element) {
            elements.push(call.element);
        }
    }
    for Messages { comm, .. } in messages {
        needs.entry(comm.number).or_insert((comm, Vec::new()));
    }
    if needs.len() < 2 {
        return Ok(());
    }
    needs.values().try_for_each(|(comm, elements)| match comm.is_between_nodes {
        true => comm.with_nodes(|between| between.prepare(elements)),
        false => comm.with_world(|world| Ok(world.prepare_device(elements)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn counted(order: usize, count: &Arc<AtomicUsize>) -> Result<Job, Failure> {
        let count = Arc::clone(count);
        let act = Box::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        Ok(Job::Setup(Setup { order, act }))
    }

    #[test]
    fn a_group_is_done_at_its_outermost_end_and_a_lone_call_at_once() {
        let count = Arc::default();
        submit(counted(0, &count)).expect("done");
        assert_eq!(count.load(Ordering::Relaxed), 1);
        start();
        start();
        submit(counted(1, &count)).expect("taken");
        submit(counted(2, &count)).expect("taken");
        end().expect("the inner end");
        assert_eq!(count.load(Ordering::Relaxed), 1);
        end().expect("the outer end");
        assert_eq!(count.load(Ordering::Relaxed), 3);
        assert!(end().is_err(), "there is none");
    }

    #[test]
    fn a_group_with_a_wrong_call_does_nothing_and_says_why() {
        let count = Arc::default();
        start();
        submit(counted(0, &count)).expect("taken");
        submit(Err(Failure::argument("wrong"))).expect_err("told at once");
        assert_eq!(end(), Err(Failure::argument("wrong")));
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn ranks_of_one_thread_can_wait_for_each_other() {
        let (tell, told) = std::sync::mpsc::channel();
        start();
        let wait = Box::new(move |_| told.recv().map_err(|_| Failure::internal("nobody came")));
        submit(Ok(Job::Setup(Setup { order: 1, act: wait }))).expect("taken");
        let come = Box::new(move |_| tell.send(()).map_err(|_| Failure::internal("nobody waits")));
        submit(Ok(Job::Setup(Setup { order: 2, act: come }))).expect("taken");
        end().expect("both are done");
    }
}
