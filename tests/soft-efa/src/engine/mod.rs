//! The shell around the devices of this process: their links, the clock, and the thread that acts when the program
//! does not.
//!
//! A real device works by itself. Here the program's own calls do the work while it polls ([`Host::attend`]), because a
//! thread of ours would only compete with it; when it has not polled for a millisecond, the thread takes over and
//! then sleeps until a bell, a socket or a deadline. Everything is under one lock, which is never held while
//! anything is waited for.

mod cuda;
mod device;
pub mod dmabuf;
mod doors;
mod end;
mod memory;
mod poller;
mod thread;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

pub use device::{Channel, Device, Event};
pub use memory::ProcessMemory;
use poller::Poller;

use crate::address::{Gid, Qpn};
use crate::ledger::Ledger;
use crate::report;
use crate::settings::{Settings, SettingsError};
use crate::sysfs::{Folder, SysfsError};

/// The devices of this process.
#[derive(Debug)]
pub struct Host {
    /// What they were asked to be.
    pub settings: Settings,
    /// The folder that looks like /sys.
    pub sysfs: Folder,
    engine: Mutex<Engine>,
    poller: Arc<Poller>,
    start: Instant,
    /// When the program last polled, in nanoseconds after the start.
    attended_ns: AtomicU64,
    has_thread: AtomicBool,
}

/// What the lock protects.
#[derive(Debug)]
pub struct Engine {
    devices: Vec<Device>,
    poller: Arc<Poller>,
    last_poll: Instant,
    /// How many polls in a row found nothing.
    idle_polls: u32,
    /// Until when the thread sleeps; none while it does not.
    thread_wakes: Option<Instant>,
    is_thread_asleep: bool,
    /// For how long queue pairs may still be waited for that are to be taken away.
    linger: Duration,
}

impl Host {
    /// The devices of this process, made at the first call as the environment says.
    ///
    /// # Errors
    ///
    /// Why the environment cannot be used.
    pub fn of_process() -> Result<&'static Host, &'static HostError> {
        static HOST: OnceLock<Result<Host, HostError>> = OnceLock::new();
        HOST.get_or_init(|| {
            let host = Host::new(Settings::read(|name| std::env::var(name).ok())?)?;
            end::prepare();
            Ok(host)
        })
        .as_ref()
    }

    fn new(settings: Settings) -> Result<Host, HostError> {
        if settings.is_talkative {
            report::be_talkative();
        }
        let poller = Arc::new(Poller::new().map_err(HostError::System)?);
        let address = settings.address.unwrap_or_else(own_address);
        let start = Instant::now();
        let sysfs = Folder::prepare(&settings, address)?;
        let mut devices = Vec::new();
        for number in 0..settings.nics {
            let name = settings.profile.pci_address(number).device_name();
            let port = sysfs.path().join("class/infiniband").join(&name).join("ports/1");
            let page = sysfs.path().join(".counters").join(name);
            let ledger =
                Ledger::open(&page, port, start).map_err(|cause| HostError::Counters(page, cause))?;
            devices.push(Device::new(&settings, Gid::new(address, number), number, &poller, ledger, start));
        }
        let engine = Engine {
            devices,
            poller: poller.clone(),
            last_poll: start,
            idle_polls: 0,
            thread_wakes: None,
            is_thread_asleep: false,
            linger: LINGER,
        };
        Ok(Host {
            settings,
            sysfs,
            engine: Mutex::new(engine),
            poller,
            start,
            attended_ns: AtomicU64::new(0),
            has_thread: AtomicBool::new(false),
        })
    }

    /// The engine, for a call that posts or manages.
    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock()
    }

    /// The engine, after it has done what there is to do: the program polls.
    pub fn attend(&self) -> MutexGuard<'_, Engine> {
        let now = Instant::now();
        self.attended_ns.store((now - self.start).as_nanos() as u64, Ordering::Relaxed);
        let mut engine = self.engine.lock();
        let with_sockets = now.saturating_duration_since(engine.last_poll) >= SOCKET_INTERVAL;
        let came_in = engine.progress(now, with_sockets);
        // This may have been the program's last poll for a while.
        self.remind_thread(&mut engine);
        if came_in {
            engine.idle_polls = 0;
        } else {
            engine.idle_polls += 1;
            if engine.idle_polls > PATIENCE_POLLS {
                // A program that spins keeps a core from the very peer that it waits for, where cores are few.
                drop(engine);
                std::thread::yield_now();
                return self.engine.lock();
            }
        }
        engine
    }

    /// Hands on what was posted, and makes sure that the thread knows of deadlines.
    pub fn posted(&self, engine: &mut Engine) {
        engine.push_out(Instant::now());
        self.remind_thread(engine);
    }

    /// Wakes the thread where it would sleep past a deadline.
    fn remind_thread(&self, engine: &mut Engine) {
        if engine.is_thread_asleep
            && let Some(due) = engine.next_due()
            && engine.thread_wakes.is_none_or(|wakes| due < wakes)
        {
            engine.thread_wakes = Some(due);
            self.poller.wake();
        }
    }

    /// Goes on until a queue pair that is to be taken away has had all its requests answered, or for what is left of [`LINGER`]. A
    /// card has sent within microseconds what was posted to it, and programs close, and end, relying on that: what their last
    /// messages were has to arrive here, too, where a busy machine may not have let the device run yet.
    pub fn let_out(&self, number: usize, qpn: Qpn) {
        loop {
            let now = Instant::now();
            let mut engine = self.engine.lock();
            engine.progress(now, true);
            if engine.linger.is_zero() || !engine.device(number).nic().is_unanswered(qpn) {
                return;
            }
            drop(engine);
            std::thread::sleep(LOOK);
            let mut engine = self.engine.lock();
            engine.linger = engine.linger.saturating_sub(now.elapsed());
        }
    }

    /// Starts the thread, unless it runs. Not before there is a queue pair, so that a program may fork first.
    pub fn start_thread(&'static self) {
        if !self.has_thread.swap(true, Ordering::AcqRel) {
            thread::start(self);
        }
    }

    /// Whether the program polls by itself at the moment.
    fn is_attended(&self, now: Instant) -> bool {
        let last = Duration::from_nanos(self.attended_ns.load(Ordering::Relaxed));
        last != Duration::ZERO && (now - self.start).saturating_sub(last) < ATTENTION
    }
}

impl Engine {
    /// A device by its number.
    pub fn device(&mut self, number: usize) -> &mut Device {
        &mut self.devices[number]
    }

    /// Does what there is to do without waiting.
    /// Says whether anything came in.
    fn progress(&mut self, now: Instant, with_sockets: bool) -> bool {
        let mut came_in = false;
        if with_sockets {
            self.last_poll = now;
            for token in self.poller.ready() {
                if let Some(device) = self.devices.get_mut(token.device()) {
                    device.look(now, token);
                    came_in = true;
                }
            }
        }
        for device in &mut self.devices {
            came_in |= device.progress(now);
        }
        came_in
    }

    fn push_out(&mut self, now: Instant) {
        for device in &mut self.devices {
            device.push_out(now);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.devices.iter().filter_map(Device::next_due).min()
    }

    fn show_counters(&mut self, now: Instant) {
        for device in &mut self.devices {
            device.show_counters(now);
        }
    }

    /// Prepares for sleep; false when there is something to do after all.
    fn fall_asleep(&mut self) -> bool {
        let mut may_sleep = true;
        for device in &mut self.devices {
            may_sleep &= device.fall_asleep();
        }
        may_sleep
    }
}

/// Why there are no devices.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A setting cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The folder that looks like /sys.
    #[error(transparent)]
    Sysfs(#[from] SysfsError),
    /// What counters are shared through.
    #[error("the file {0}, through which processes share counters: {1}")]
    Counters(PathBuf, std::io::Error),
    /// The kernel refused something.
    #[error("epoll and eventfd: {0}")]
    System(nix::errno::Errno),
}

/// The first address of an interface that is up and leads to other hosts; of a host without one, that of itself.
fn own_address() -> Ipv4Addr {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces
        .filter(|interface| interface.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP))
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
        .find(|address| !address.is_loopback())
        .unwrap_or(Ipv4Addr::LOCALHOST)
}

/// For how long after a poll the thread trusts that another follows.
const ATTENTION: Duration = Duration::from_millis(1);
/// For how long in all a process's queue pairs are waited for when they are taken away: long enough for a peer that shares its core
/// with ten programs, short beside the limits of those who test that a peer does not answer.
const LINGER: Duration = Duration::from_secs(3);
/// How often it is looked whether a queue pair's requests have been answered.
const LOOK: Duration = Duration::from_millis(1);
/// How often a polling program looks at sockets; shared memory it looks at every time.
const SOCKET_INTERVAL: Duration = Duration::from_micros(5);
/// About 20 µs.
const PATIENCE_POLLS: u32 = 64;
