//! The helper process and the socket to it.

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use efarun_wire::message::LaunchPlan;
use efarun_wire::{JobId, Rank};

use super::sightings::Sighting;
use crate::env::NameValue;
use crate::link_io::{self, LinkReceiver, LinkSender};
use crate::pmix;
use crate::pmix::protocol::{Order, Report, Start};

/// What a helper says, or that it is gone.
#[derive(Debug)]
pub(super) enum PmixEvent {
    /// It reports.
    Report(Report),
    /// Its end of the socket is closed.
    Gone,
    /// It has had its time to tell what a rank had said.
    HeardOutDue(Rank),
    /// It is time to look at ranks that nothing is known of.
    LookDue,
    /// What was seen.
    Seen(Vec<Sighting>),
}

/// A helper that serves.
#[derive(Debug)]
pub(super) struct Helper {
    orders: Option<LinkSender<Order>>,
    listening: JoinHandle<()>,
    child: Child,
    folder: PathBuf,
    memory_mb: u64,
    /// The library, and what it calls itself.
    pub(super) library: String,
    /// What it calls itself, alone.
    pub(super) version: String,
    /// What each rank needs in its environment.
    pub(super) environments: Vec<(Rank, Vec<NameValue>)>,
}

impl Helper {
    /// Starts one and waits until it serves, with the first of these libraries that will do.
    ///
    /// # Errors
    ///
    /// Why there is none, one line for each thing that was tried.
    pub(super) async fn start(
        job: JobId,
        plan: &LaunchPlan,
        libraries: &[PathBuf],
        events: &mpsc::Sender<PmixEvent>,
    ) -> Result<Helper, Vec<String>> {
        let said = |what: &str, error: io::Error| vec![format!("{what}: {error}")];
        let env = plan.apps.first().map_or(&[][..], |app| &app.env);
        let memory_mb = memory_mb(env).map_err(|error| vec![error])?;
        let folder = folder(job, plan, env);
        let mut builder = DirBuilder::new();
        builder.mode(0o700).create(&folder).map_err(|error| said(&folder.display().to_string(), error))?;
        let (mut child, socket) = spawn(env).map_err(|error| said("starting the helper", error))?;
        let (source, sink) = socket.into_split();
        let (orders, mut reports): (LinkSender<Order>, LinkReceiver<Report>) =
            link_io::open(Box::new(source), Box::new(sink), None, 0);
        orders.send(&Order::Start(Box::new(Start {
            libraries: libraries.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect(),
            job: job.to_string(),
            folder: folder.display().to_string(),
            memory_bytes: memory_mb << 20,
            node: plan.node,
            map: plan.map.clone(),
        })));
        let tried = match timeout(START_PATIENCE, reports.receive()).await {
            Ok(Ok(Report::Ready { library, version, environments })) => {
                let listening = tokio::spawn(listen(reports, events.clone()));
                let library = format!("{library} ({version})");
                let orders = Some(orders);
                return Ok(Helper {
                    orders,
                    listening,
                    child,
                    folder,
                    memory_mb,
                    library,
                    version,
                    environments,
                });
            }
            Ok(Ok(Report::Unready { tried })) => tried,
            Ok(Ok(_)) => vec!["the helper reports what it was not asked".to_owned()],
            Ok(Err(_)) => {
                let how = ended_how(&mut child);
                vec![format!("{}: a process that opened it {how}", list(libraries))]
            }
            Err(_) => vec![format!("{}: no server in {} s", list(libraries), START_PATIENCE.as_secs())],
        };
        drop(orders);
        end(&mut child, &folder);
        Err(tried)
    }

    /// Tells it of a further world. Answered by [`Report::Registered`].
    pub(super) fn admit(&self, plan: &LaunchPlan) {
        self.order(&Order::Admit(Box::new(plan.map.clone())));
    }

    pub(super) fn order(&self, order: &Order) {
        if let Some(orders) = &self.orders {
            orders.send(order);
        }
    }

    /// How it ended, as a fragment that fits "a process that …".
    pub(super) fn ended_how(&mut self) -> String {
        let memory_mb = self.memory_mb;
        format!("{} (it may take {memory_mb} MiB of memory: {MEMORY_MB})", ended_how(&mut self.child))
    }

    /// Ends it, with what it has in its folder.
    pub(super) async fn end(&mut self) {
        // The end of the socket is its order to end.
        self.orders = None;
        let _ = timeout(END_PATIENCE, &mut self.listening).await;
        end(&mut self.child, &self.folder);
    }
}

/// Passes on what it reports, to the end.
async fn listen(mut reports: LinkReceiver<Report>, events: mpsc::Sender<PmixEvent>) {
    loop {
        let event = reports.receive().await.map_or(PmixEvent::Gone, PmixEvent::Report);
        let is_over = matches!(event, PmixEvent::Gone);
        if events.send(event).await.is_err() || is_over {
            return;
        }
    }
}

/// Starts the executable that this process runs, with the environment that ranks have: what the library needs is found as
/// they would find it.
fn spawn(env: &[NameValue]) -> io::Result<(Child, UnixStream)> {
    let (own, theirs) = StdUnixStream::pair()?;
    own.set_nonblocking(true)?;
    let is_loaded_into_all = |name: &[u8]| name.starts_with(b"LD_") && name != b"LD_LIBRARY_PATH";
    let env = env.iter().filter(|(name, _)| !is_loaded_into_all(name));
    let child = Command::new("/proc/self/exe")
        .arg0("efarun")
        .arg(pmix::ARGUMENT)
        .env_clear()
        .envs(env.map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value))))
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    Ok((child, UnixStream::from_std(own)?))
}

/// How much memory a helper may take.
fn memory_mb(env: &[NameValue]) -> Result<u64, String> {
    let Some((_, value)) = env.iter().find(|(name, _)| name == MEMORY_MB.as_bytes()) else {
        return Ok(USUAL_MEMORY_MB);
    };
    let number = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
    number.filter(|mb| (LEAST_MEMORY_MB..=MOST_MEMORY_MB).contains(mb)).ok_or_else(|| {
        let value = String::from_utf8_lossy(value);
        format!("{MEMORY_MB}={value} is no number of MiB from {LEAST_MEMORY_MB} to {MOST_MEMORY_MB}")
    })
}

fn folder(job: JobId, plan: &LaunchPlan, env: &[NameValue]) -> PathBuf {
    let named = env.iter().find(|(name, value)| name == b"TMPDIR" && value.starts_with(b"/"));
    let root = named.map_or(PathBuf::from("/tmp"), |(_, value)| PathBuf::from(OsStr::from_bytes(value)));
    root.join(format!("efarun-pmix-{job}-{}", plan.node))
}

fn end(child: &mut Child, folder: &PathBuf) {
    // Fails where it has ended, which is as well.
    let _ = child.kill();
    let _ = child.wait();
    // The helper may have removed it.
    let _ = std::fs::remove_dir_all(folder);
}

fn ended_how(child: &mut Child) -> String {
    // Its end of the socket is closed, so that it is ending; one that is not is ended.
    let deadline = std::time::Instant::now() + END_PATIENCE;
    loop {
        match child.try_wait() {
            Ok(None) if std::time::Instant::now() < deadline => std::thread::yield_now(),
            Ok(None) => return "closed its socket".to_owned(),
            Ok(Some(status)) => {
                return match (status.signal(), status.code()) {
                    (Some(number), _) => format!("was killed by signal {number}"),
                    (None, Some(code)) => format!("ended with code {code}"),
                    (None, None) => "ended".to_owned(),
                };
            }
            Err(_) => return "ended".to_owned(),
        }
    }
}

fn list(libraries: &[PathBuf]) -> String {
    libraries.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A server starts in some 20 ms; on a machine that has much else to do, in seconds.
const START_PATIENCE: Duration = Duration::from_secs(20);
const END_PATIENCE: Duration = Duration::from_secs(1);
/// How much memory the server may take, for those who put much.
const MEMORY_MB: &str = "EFARUN_PMIX_MEMORY_MB";
/// A server takes some 15 MB, and a kilobyte or two for each rank of its job.
const USUAL_MEMORY_MB: u64 = 2048;
const LEAST_MEMORY_MB: u64 = 32;
const MOST_MEMORY_MB: u64 = 1 << 20;
