//! A communicator: one rank's World on its GPU, and what it is known by.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use efarun_rt::World;
use efarun_rt::cuda::{Device, Stream};
use efarun_rt::nvlink::{DeviceElement, Factor};

use crate::abi::{CommHandle, StreamHandle};
use crate::between::Between;
use crate::memory::Registered;
use crate::outcome::Failure;
use crate::settings::Settings;

/// One rank of a communicator.
#[derive(Debug)]
pub(crate) struct Comm {
    pub(crate) number: usize,
    pub(crate) rank: u32,
    pub(crate) ranks: u32,
    pub(crate) device: Device,
    /// What it was made with.
    pub(crate) settings: Settings,
    /// None once it was destroyed.
    world: Mutex<Option<World>>,
    health: Mutex<Health>,
    /// Whether there is anything in `health` that a call must look at.
    is_ill: AtomicBool,
    /// What `ncclRedOpCreatePreMulSum` made; empty places can be used again.
    ops: Mutex<Vec<Option<PreMulSum>>>,
    registered: Mutex<Registered>,
    /// Where ranks are on several nodes.
    between: Mutex<Option<Between>>,
    pub(crate) is_between_nodes: bool,
}

/// An operation of the caller's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PreMulSum {
    pub(crate) element: DeviceElement,
    pub(crate) factor: Factor,
}

/// What is wrong with a communicator.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Since when a rank is lost, and what was said of it.
    pub(crate) lost: Option<(Instant, Failure)>,
    /// Whether what waited for it was ended.
    pub(crate) is_stopped: bool,
    /// What `ncclCommGetAsyncError` says.
    pub(crate) failure: Option<Failure>,
}

impl Comm {
    /// Makes a World a communicator, and gives the handle by which callers know it. `between` is what ranks
    /// of several nodes have in place of a World on their GPU.
    pub(crate) fn publish(
        world: World,
        device: Device,
        between: Option<Between>,
        settings: Settings,
    ) -> CommHandle {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        // Not an address, as nobody is to look behind it, but never null.
        let number = NEXT.fetch_add(1, Ordering::Relaxed) << 8;
        let comm = Comm {
            number,
            rank: world.rank().0,
            ranks: world.world_size(),
            device,
            settings,
            world: Mutex::new(Some(world)),
            health: Mutex::default(),
            is_ill: AtomicBool::new(false),
            ops: Mutex::default(),
            registered: Mutex::default(),
            is_between_nodes: between.is_some(),
            between: Mutex::new(between),
        };
        COMMS.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(comm));
        std::ptr::without_provenance_mut(number)
    }

    /// The communicator of a handle.
    pub(crate) fn of(handle: CommHandle) -> Result<Arc<Comm>, Failure> {
        let comms = COMMS.read().unwrap_or_else(PoisonError::into_inner);
        comms.get(&handle.addr()).cloned().ok_or_else(|| {
            Failure::argument(if handle.is_null() {
                "the communicator is null".to_owned()
            } else {
                format!("{handle:?} is no communicator: it was destroyed, or is not from this library")
            })
        })
    }

    /// Takes a communicator away from its handle.
    pub(crate) fn retire(handle: CommHandle) -> Result<Arc<Comm>, Failure> {
        let comm = Comm::of(handle)?;
        COMMS.write().unwrap_or_else(PoisonError::into_inner).remove(&comm.number);
        Ok(comm)
    }

    /// All that are in use.
    pub(crate) fn all() -> Vec<Arc<Comm>> {
        COMMS.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Does something with the World, one thread at a time.
    pub(crate) fn with_world<T>(
        &self,
        act: impl FnOnce(&mut World) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match self.lock_world().as_mut() {
            Some(world) => act(world),
            None => Err(Failure::usage("the communicator was destroyed while this call was made")),
        }
    }

    /// As `with_world`, unless another thread has it.
    pub(crate) fn try_with_world<T>(&self, act: impl FnOnce(&mut World) -> T) -> Option<T> {
        self.world.try_lock().ok()?.as_mut().map(act)
    }

    /// Lets go of the World. Where it is to be aborted, what runs on the GPU is ended, and the other ranks learn that
    /// this one is gone.
    pub(crate) fn end(&self, is_aborted: bool) {
        if let Some(between) = self.between().take() {
            if is_aborted {
                between.stop();
            }
            between.end();
        }
        let Some(world) = self.lock_world().take() else { return };
        if is_aborted {
            world.stop_device();
        }
        world.leave();
    }

    /// Refuses a call where the communicator is of no use any more.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if !self.is_ill.load(Ordering::Acquire) {
            return Ok(());
        }
        let health = self.health();
        match (&health.failure, &health.lost) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Some((_, failure))) => Err(failure.clone()),
            (None, None) => Ok(()),
        }
    }

    /// Notes something that is wrong.
    pub(crate) fn fall_ill(&self, note: impl FnOnce(&mut Health)) {
        note(&mut self.health());
        self.is_ill.store(true, Ordering::Release);
    }

    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ops(&self) -> MutexGuard<'_, Vec<Option<PreMulSum>>> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `ncclCommRegister` was told of.
    pub(crate) fn registered(&self) -> MutexGuard<'_, Registered> {
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with other nodes, one thread at a time.
    pub(crate) fn with_nodes<T>(
        &self,
        act: impl FnOnce(&mut Between) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        match self.between().as_mut() {
            Some(between) => act(between),
            None => Err(Failure::usage("the communicator was destroyed while this call was made")),
        }
    }

    pub(crate) fn between(&self) -> MutexGuard<'_, Option<Between>> {
        self.between.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The caller's stream, as the runtime takes it.
    pub(crate) fn stream(&self, handle: StreamHandle) -> Stream {
        borrow_stream(&self.device, handle)
    }

    fn lock_world(&self) -> MutexGuard<'_, Option<World>> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// NCCL's contract is ours: a stream that was given to a call is one of the communicator's device, and is there until what
/// was called on it is done.
#[expect(unsafe_code, reason = "a C caller's stream is taken at the caller's word")]
fn borrow_stream(device: &Device, handle: StreamHandle) -> Stream {
    // SAFETY: the caller's promise, as above.
    unsafe { Stream::borrow_raw(device, handle) }
}

static COMMS: RwLock<BTreeMap<usize, Arc<Comm>>> = RwLock::new(BTreeMap::new());
