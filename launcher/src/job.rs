//! What a job is, before anything of it runs.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use efarun_wire::Rank;

use crate::binding::{BindTo, Policy};
use crate::mapping::{MapBy, RankBy, Rankfile};
use crate::torchrun::Torchrun;

/// A job as the command line asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSpec {
    /// The programs, at least one; more than one where `:` or `--app` gave several.
    pub apps: Vec<App>,
    /// `-N`: at most so many ranks per node.
    pub ranks_per_node: Option<u32>,
    /// `--hostfile`.
    pub hostfile: Option<PathBuf>,
    /// `--default-slots`: the slots of hosts that are given none.
    pub default_slots: Option<u32>,
    /// `--nolocal`: nothing runs on this machine.
    pub nolocal: bool,
    /// `--mca` and its like: variables for every rank, each name once.
    pub parameters: Vec<(OsString, OsString)>,
    /// `--launch-agent`: a command with ssh's shape, cut into words.
    pub launch_agent: Option<Vec<OsString>>,
    /// `--timeout`: the whole job's.
    pub timeout: Option<Duration>,
    /// `--start-timeout`: from the first connection to the last rank started.
    pub start_timeout: Duration,
    /// `--wait-for-hosts`: how long hosts may take to come up.
    pub wait_for_hosts: Option<Duration>,
    /// `--grace`: between the signal that asks ranks to end and KILL.
    pub grace: Duration,
    /// `--on-failure`.
    pub on_failure: OnFailure,
    /// `--forward-signals`.
    pub forwarded: ForwardedSignals,
    /// How what ranks write is shown.
    pub output: OutputSpec,
    /// `--stdin`: who reads the launcher's standard input.
    pub stdin: StdinTo,
    /// `--dry-run`.
    pub dry_run: Option<DryRun>,
    /// `--oversubscribe`: more ranks than slots is allowed.
    pub oversubscribe: bool,
    /// `--map-by`.
    pub map_by: MapBy,
    /// `--rank-by`.
    pub rank_by: Option<RankBy>,
    /// `--rankfile`.
    pub rankfile: Option<Rankfile>,
    /// `--bind-to`.
    pub bind_to: BindTo,
    /// `--bind-to …:overload-allowed`.
    pub overload_allowed: bool,
    /// `--cpus-per-rank`.
    pub cpus_per_rank: Option<u32>,
    /// `--display-map`: the map is shown before ranks start.
    pub display_map: bool,
    /// `--report-bindings`: each rank's CPUs are told before it starts.
    pub report_bindings: bool,
    /// `--json`: machine-readable map and final report.
    pub json: bool,
    /// `--events`: where what happens is told as it happens.
    pub events: Option<EventsTo>,
    /// `--report`: the final report as JSON.
    pub report: Option<PathBuf>,
    /// `--junit`: the final report as JUnit's XML.
    pub junit: Option<PathBuf>,
    /// `-v`: says what it does.
    pub verbose: bool,
    /// What the line asks for as torchrun's lines do; none for every other line.
    pub torchrun: Option<Torchrun>,
    /// What the user is to be told about the command line: options that nothing acts on.
    pub notes: Vec<String>,
}

impl Default for JobSpec {
    /// What a command line without options asks for, but for its program.
    fn default() -> JobSpec {
        JobSpec {
            apps: Vec::new(),
            ranks_per_node: None,
            hostfile: None,
            default_slots: None,
            nolocal: false,
            parameters: Vec::new(),
            launch_agent: None,
            timeout: None,
            start_timeout: JobSpec::START_TIMEOUT,
            wait_for_hosts: None,
            grace: JobSpec::GRACE,
            on_failure: OnFailure::default(),
            forwarded: ForwardedSignals::default(),
            output: OutputSpec::default(),
            stdin: StdinTo::default(),
            dry_run: None,
            oversubscribe: false,
            map_by: MapBy::default(),
            rank_by: None,
            rankfile: None,
            bind_to: BindTo::default(),
            overload_allowed: false,
            cpus_per_rank: None,
            display_map: false,
            report_bindings: false,
            json: false,
            events: None,
            report: None,
            junit: None,
            verbose: false,
            torchrun: None,
            notes: Vec::new(),
        }
    }
}

impl JobSpec {
    /// `--start-timeout`, where it is not given.
    pub const START_TIMEOUT: Duration = Duration::from_secs(60);

    /// `--grace`, where it is not given.
    pub const GRACE: Duration = Duration::from_secs(1);

    /// Says whether the line is typed on every node, so that each has its own environment.
    pub fn is_by_hand(&self) -> bool {
        self.torchrun.as_ref().is_some_and(|torchrun| torchrun.by_hand.is_some())
    }

    /// How the job's ranks are bound.
    pub fn binding(&self) -> Policy {
        Policy {
            bind_to: self.bind_to,
            overload_allowed: self.overload_allowed,
            cpus_per_rank: self.cpus_per_rank,
            dealt: self.map_by.dealt(self.rank_by),
        }
    }
}

/// One program of a job, with what holds for its ranks alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct App {
    /// `-n`: how many ranks; none means one per slot, which only a job's single program may.
    pub rank_count: Option<u32>,
    /// `-H`, as written, one entry per comma-separated item.
    pub host_list: Vec<String>,
    /// `-x`, in order.
    pub exports: Vec<Export>,
    /// `--wdir`.
    pub wdir: Option<PathBuf>,
    /// `--prefix`: where the program's own bin and lib folders are.
    pub prefix: Option<PathBuf>,
    /// `--path`: folders, with `:` between, in which PROGRAM is looked for first.
    pub search_path: Option<PathBuf>,
    /// PROGRAM, as given.
    pub program: OsString,
    /// ARGS, as given.
    pub args: Vec<OsString>,
}

/// How what ranks write is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutputSpec {
    /// `--tag-output`.
    pub tag: bool,
    /// `--timestamp-output`.
    pub timestamp: bool,
    /// `--merge-stderr-to-stdout`.
    pub merge_stderr: bool,
    /// `--fold-output`: how long a line waits for the same line of other ranks.
    pub fold: Option<Duration>,
    /// `--output-filename`.
    pub folder: Option<OutputFolder>,
}

/// Where files of ranks' output go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputFolder {
    /// The folder.
    pub path: PathBuf,
    /// A folder named for the job lies between, unless `:nojobid`.
    pub by_job: bool,
    /// The terminal gets everything as well, unless `:nocopy`.
    pub copy: bool,
}

/// Where events go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventsTo {
    /// To a file.
    File(PathBuf),
    /// To a descriptor that the launcher was started with.
    Descriptor(u32),
}

impl fmt::Display for EventsTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventsTo::File(path) => write!(f, "{}", path.display()),
            EventsTo::Descriptor(number) => write!(f, "{number}"),
        }
    }
}

/// What the failure of a rank, or the loss of its node, means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// They are ended.
    #[default]
    Abort,
    /// They are told, and go on.
    Continue,
}

/// Which signals to the launcher, of those that do not end the job, go to ranks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ForwardedSignals {
    /// USR1, USR2 and ALRM.
    #[default]
    Usual,
    /// None.
    None,
    /// The usual ones, and these.
    Also(Vec<i32>),
}

/// Who reads the launcher's standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdinTo {
    /// Nobody.
    None,
    /// This rank.
    Rank(Rank),
    /// Every rank, the same bytes.
    All,
}

impl Default for StdinTo {
    fn default() -> StdinTo {
        StdinTo::Rank(Rank(0))
    }
}

/// One `-x`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Export {
    /// `-x NAME`: as it is here.
    Inherit(OsString),
    /// `-x NAME=VALUE`: exactly these bytes.
    Set(OsString, OsString),
}

/// How far `--dry-run` goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DryRun {
    /// Agents report facts, placement and environment are shown, nothing is started.
    Online,
    /// Nobody is contacted; what cannot be known is marked.
    Offline,
}

/// A host to reach: one entry of a hostfile or of `-H`, duplicates merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The name as the user wrote it; handed to SSH verbatim.
    pub name: String,
    /// `ip=`: what is connected to instead of what the name leads to.
    pub address: Option<String>,
    /// `user@host`.
    pub user: Option<String>,
    /// `port=`.
    pub port: Option<u16>,
    /// Slots, where they were given.
    pub slots: Option<u32>,
    /// The most ranks that it may have, oversubscribed or not.
    pub max_slots: Option<u32>,
    /// Where it stands in its file or list: a number for each time that it is named, ascending.
    pub places: Vec<u32>,
    /// Where this host was named: `hosts:3`, `-H`, `default (this machine)`.
    pub origin: String,
}

impl Host {
    /// [`Host::origin`] of a host that `-H` named.
    pub const FROM_HOST_LIST: &str = "-H";

    /// [`Host::origin`] of this machine, where no host was named.
    pub const BY_DEFAULT: &str = "default (this machine)";

    /// The host as errors about reaching it name it, with the place where it was named: `h9 (hosts:3)`.
    pub fn mention(&self) -> String {
        if self.origin == Host::BY_DEFAULT { self.to_string() } else { format!("{self} ({})", self.origin) }
    }

    /// What is connected to: the address that was given beside the name, or the name.
    pub fn destination(&self) -> &str {
        self.address.as_ref().unwrap_or(&self.name)
    }

    /// Says whether `-H` named this host. Such a host without a slot count has one slot, as under Open MPI.
    pub fn is_from_host_list(&self) -> bool {
        self.origin == Host::FROM_HOST_LIST
    }
}

/// The host as messages name it: `user@name`, with `port` where one was given.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        write!(f, "{}", self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, " port {port}"))
    }
}
