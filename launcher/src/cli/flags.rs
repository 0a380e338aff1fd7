//! The options, one item each: name, short help (its first line), long help (the rest), section.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, CommandFactory, Parser};

use super::CliExit;
use super::line::Line;
use super::placement::{self, BindToValue, MapByValue};
use super::values;
use crate::exit_code;
use crate::hostfile;
use crate::job::{
    App, DryRun, EventsTo, Export, ForwardedSignals, JobSpec, OnFailure, OutputFolder, OutputSpec, StdinTo,
};
use crate::mapping::{MapBy, RankBy};

/// Starts PROGRAM as ranks on hosts over SSH, wires them up, watches them, and leaves nothing behind.
///
/// The hosts come from --hostfile or -H; without either, all ranks run on this machine. Nothing needs to be installed
/// on the hosts, and no host needs SSH to another. mpirun's lines work with the name changed: long options may have
/// one dash, everything from PROGRAM on is the program's, and a `:` begins another program with options of its own.
/// mpirun's options that are not listed here are taken too; `efarun translate mpirun LINE` says what becomes of each.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "efarun",
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    override_usage = "efarun [OPTIONS] PROGRAM [ARGS]… [: [OPTIONS] PROGRAM [ARGS]…]…\n       efarun torchrun [OPTIONS] SCRIPT [ARGS]…\n       efarun translate mpirun MPIRUN'S LINE\n       efarun hosts HOSTS [--to openmpi|mpich|slurm|json]\n       efarun variables\n       efarun config | completions bash|zsh|fish | man",
    max_term_width = 100,
    args_override_self = false
)]
pub(super) struct Flags {
    #[command(flatten)]
    app: AppFlags,

    #[command(flatten)]
    job: JobFlags,
}

/// Options that each program of a line with `:` has for itself.
#[derive(Debug, Clone, Args)]
struct AppFlags {
    /// Hosts by name, separated by commas: `a:4,b,[fd00::1]:2`.
    ///
    /// `:N` gives slots; without it a host has one, and naming it again adds one. `p4d[01-16]` names sixteen hosts, `^b`
    /// takes one away. With --hostfile the list selects
    /// from the file and keeps its slots, unless `:N` restates them. May be repeated. Where there are several programs,
    /// each runs on its own list, or on all hosts where it has none.
    #[arg(
        short = 'H', long = "host", value_name = "LIST", action = ArgAction::Append, help_heading = HOSTS,
    )]
    host_list: Vec<String>,

    /// Number of ranks; without it one per slot.
    ///
    /// Without -n there is one rank per slot, or -N ranks on every host. A host has the slots that the hostfile or -H
    /// gives it; a hostfile's host without a number has one slot per GPU, or per core where it has no GPU. Where there
    /// are several programs, each needs its number.
    #[arg(
        short = 'n', long = "np", visible_alias = "n", visible_short_alias = 'c', value_name = "N",
        value_parser = values::rank_count, help_heading = RANKS,
    )]
    rank_count: Option<u32>,

    /// Pass a variable to every rank: as it is here, or set to VALUE.
    ///
    /// PATH, LD_LIBRARY_PATH and every FI_*, NCCL_*, OFI_NCCL_*, EFA_*, RDMAV_*, CUDA_*, OMP_*, PYTHON*, HF_* and
    /// EFARUN_* variable are passed without being asked for. The value's bytes arrive exactly as typed. `NAME*` passes
    /// all whose names begin so. May be repeated; the last one wins.
    #[arg(
        short = 'x', long = "export", value_name = "NAME[=VALUE]", action = ArgAction::Append,
        value_parser = OsStringValueParser::new().try_map(|text| values::export(&text)),
        help_heading = PROGRAM,
    )]
    exports: Vec<Export>,

    /// Folder that ranks start in; without it the current one, or home where a host lacks it.
    ///
    /// With --wdir a host that lacks the folder is an error.
    #[arg(
        long, visible_alias = "wd", value_name = "DIR", value_parser = OsStringValueParser::new().try_map(|text| values::path(&text)),
        help_heading = PROGRAM,
    )]
    wdir: Option<PathBuf>,

    /// Put DIR/bin before PATH and DIR/lib before LD_LIBRARY_PATH, on every rank.
    ///
    /// For a program that was installed with libraries of its own, such as one built with Open MPI in
    /// /opt/amazon/openmpi.
    #[arg(
        long, value_name = "DIR", value_parser = OsStringValueParser::new().try_map(|text| values::path(&text)),
        help_heading = PROGRAM,
    )]
    prefix: Option<PathBuf>,

    /// Look for PROGRAM in these folders first, separated by `:`.
    ///
    /// Then in PATH, as without it. A PROGRAM with a `/` is not looked for. The ranks' own PATH stays as it is.
    #[arg(
        long = "path", value_name = "DIRS", value_parser = OsStringValueParser::new().try_map(|text| values::path(&text)),
        help_heading = PROGRAM,
    )]
    search_path: Option<PathBuf>,
}

/// Options of the job as a whole.
#[derive(Debug, Clone, Args)]
struct JobFlags {
    /// File with one host per line.
    ///
    /// A line is `host`, `host slots=8` or `host:8`, with `user@` before the host and `port=2222` after it where
    /// needed; `p4d[01-16]` names sixteen hosts, `^host` takes one away, `#` begins a comment. A host that is repeated
    /// without slots has one per line. With -H as well, only the hosts that -H names are used. With neither, the file that
    /// HYDRA_HOST_FILE, I_MPI_HYDRA_HOST_FILE or PBS_NODEFILE names is taken, or the nodes of SLURM_JOB_NODELIST.
    #[arg(
        long, visible_alias = "machinefile", value_name = "FILE", value_parser = OsStringValueParser::new().try_map(|text| values::path(&text)),
        help_heading = HOSTS,
    )]
    hostfile: Option<PathBuf>,

    /// Slots of hosts that are given none.
    ///
    /// Without it such a host has one slot per GPU, or per core where it has no GPU; one that -H names has one slot.
    #[arg(long, value_name = "N", value_parser = values::slot_count, help_heading = HOSTS)]
    default_slots: Option<u32>,

    /// Run nothing on this machine, also where the hosts name it.
    #[arg(long, help_heading = HOSTS)]
    nolocal: bool,

    /// Reach hosts by this command instead of the built-in SSH.
    ///
    /// The command has ssh's shape: it is called as `CMD HOST COMMAND` and connects COMMAND's input and output with
    /// its own. It is cut into words as a shell would, without a shell: `--launch-agent 'ssh -F my_config'`.
    #[arg(long, value_name = "CMD", value_parser = values::command_words, help_heading = HOSTS)]
    launch_agent: Option<Words>,

    /// Arguments for ssh, before the host: `--ssh-args '-p 2222 -i key'`.
    ///
    /// Hosts are then reached by the system's `ssh` with these arguments, or by --launch-agent's command with them.
    #[arg(long, value_name = "ARGS", value_parser = values::argument_words, help_heading = HOSTS)]
    ssh_args: Option<Words>,

    /// At most N ranks on each host.
    ///
    /// Hosts are filled in order. With -n as well, -n is the total; alone, it is N ranks on every host. It never
    /// changes how ranks are bound.
    #[arg(
        short = 'N', long = "npernode", value_name = "N", value_parser = values::rank_count,
        help_heading = RANKS,
    )]
    ranks_per_node: Option<u32>,

    /// Allow more ranks than slots.
    ///
    /// What is left over when every slot is taken is shared out evenly, earlier hosts first.
    #[arg(long, help_heading = RANKS)]
    oversubscribe: bool,

    /// How ranks are dealt to hosts: slot, node, socket, numa, core, hwthread, gpu, ppr:N:RESOURCE or seq.
    ///
    /// `slot` fills a host before the next one gets a rank; `node` gives each host one rank in turn. `socket`, `numa`,
    /// `core` and `hwthread` fill hosts as `slot` does, and deal a host's ranks to its sockets, … in turn, which matters
    /// to --bind-to. `ppr:N:RESOURCE` puts N ranks on each node, socket, numa, core, hwthread or gpu; `gpu` is one on
    /// each GPU. `seq` puts rank 0 on the host of the hostfile's first line, rank 1 on that of the second, and so on;
    /// `rankfile:FILE=PATH` is --rankfile. Modifiers follow a colon: `PE=N`, `SPAN` (all hosts' sockets, … in one turn),
    /// `OVERSUBSCRIBE`, `NOLOCAL`.
    #[arg(long, value_name = "POLICY", value_parser = placement::map_by, help_heading = RANKS)]
    map_by: Option<MapByValue>,

    /// How ranks are numbered: slot, or node.
    ///
    /// `slot` numbers all ranks of a host before those of the next, `node` one rank of each host in turn. Without it
    /// as they are dealt: in turn with `--map-by node`. With `--map-by socket`, `slot` gives a socket consecutive ranks.
    #[arg(long, value_name = "POLICY", value_parser = placement::rank_by, help_heading = RANKS)]
    rank_by: Option<RankBy>,

    /// File with a line for each rank: `rank 0=host slot=0-3`.
    ///
    /// `slot=` names the cores that the rank is bound to: `2`, `0-3`, `0,2`, those of a socket by `1:0-1`, all of it by
    /// `1:*`. Without --hostfile and -H the hosts are those of this file. With -n only the first N ranks are started.
    #[arg(
        long, visible_alias = "rf", value_name = "FILE", value_parser = OsStringValueParser::new().try_map(|text| values::path(&text)),
        help_heading = RANKS,
    )]
    rankfile: Option<PathBuf>,

    /// Bind ranks to: none, hwthread, core, numa, socket or gpu.
    ///
    /// Without it ranks may run on every core. `core` and `hwthread` give each rank its own; more ranks than there are is
    /// an error, unless `:overload-allowed` follows. `numa` and `socket` are shared out evenly to consecutive ranks, or
    /// as --map-by deals them. `gpu` means the cores at the NUMA node of the rank's GPU.
    #[arg(long, value_name = "WHAT", value_parser = placement::bind_to, help_heading = RANKS)]
    bind_to: Option<BindToValue>,

    /// Cores for each rank, where --bind-to gives it cores.
    #[arg(
        long, visible_alias = "cpus-per-proc", value_name = "N", value_parser = placement::cpus_per_rank,
        help_heading = RANKS,
    )]
    cpus_per_rank: Option<u32>,

    /// File with one program per line, each with options of its own.
    ///
    /// A line is what would stand between two `:` of a command line: `-n 2 -H a -x A=1 ./prog ARGS`. It is cut into
    /// words as a shell would; `#` begins a comment. There is then no PROGRAM on the command line.
    #[arg(
        long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(|text| values::path(&text)),
        help_heading = PROGRAM,
    )]
    app: Option<PathBuf>,

    /// Begin each line of output with its rank: `[1,0]<stdout>:`.
    ///
    /// The prefix is Open MPI 4.1's, byte for byte; the first number is always 1.
    #[arg(long, help_heading = OUTPUT)]
    tag_output: bool,

    /// Begin each line of output with the time: `Sat Nov 21 12:17:04 2026<stdout>:`.
    ///
    /// This machine's local time, when the line arrived here, byte for byte as Open MPI 4.1 writes it. With
    /// --tag-output the tag follows the time.
    #[arg(long, help_heading = OUTPUT)]
    timestamp_output: bool,

    /// Write each rank's output to DIR/1/rank.N/stdout and stderr as well.
    ///
    /// The files are made on this machine, in folders as Open MPI 4.1 makes them; those that are there are emptied.
    /// `DIR:nojobid` leaves the 1 out, `DIR:nocopy` writes nothing to the terminal, `DIR:nojobid,nocopy` both.
    #[arg(
        long, value_name = "DIR[:nojobid][:nocopy]", value_parser = OsStringValueParser::new().try_map(|text| values::output_folder(&text)),
        help_heading = OUTPUT,
    )]
    output_filename: Option<OutputFolder>,

    /// Let ranks write standard error to where their standard output goes, in the order in which they write.
    #[arg(long, help_heading = OUTPUT)]
    merge_stderr_to_stdout: bool,

    /// Show a line that several ranks write once: `[0-15] text`.
    ///
    /// A line waits half a second, or S seconds, for the same line of other ranks. With --tag-output the ranks stand in
    /// the tag: `[1,0-15]<stdout>:text`. Files of --output-filename have every rank's own lines.
    #[arg(
        long, value_name = "S", num_args = 0..=1, require_equals = true, default_missing_value = "0.5",
        value_parser = values::seconds, help_heading = OUTPUT,
    )]
    fold_output: Option<Duration>,

    /// Who reads standard input: a rank's number, `all` or `none`.
    ///
    /// The others find it empty. With `all` every rank gets the same bytes, as fast as the slowest takes them.
    #[arg(long, value_name = "RANK", value_parser = values::stdin, default_value = "0", help_heading = PROGRAM)]
    stdin: StdinTo,

    /// Show where ranks will run, before they start.
    #[arg(long, visible_alias = "display-allocation", help_heading = OUTPUT)]
    display_map: bool,

    /// Say of each rank which CPUs it is bound to, and which GPU and network cards are near.
    #[arg(long, help_heading = OUTPUT)]
    report_bindings: bool,

    /// Write the map and the final report as JSON to standard output.
    #[arg(long, help_heading = OUTPUT)]
    json: bool,

    /// Tell what happens, as it happens, as JSON objects, one per line: to FILE, or to a descriptor by its number.
    ///
    /// `--events 3 3>events.jsonl`. There are the phases of the start with their times, the map, each rank's start and
    /// end, the first failure, hosts that are lost, and the end. docs/events.md describes each.
    #[arg(
        long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(|text| values::events(&text)),
        help_heading = OUTPUT,
    )]
    events: Option<EventsTo>,

    /// Write the final report as JSON to FILE: what --json prints.
    #[arg(
        long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(|text| values::path(&text)),
        help_heading = OUTPUT,
    )]
    report: Option<PathBuf>,

    /// Write the final report as JUnit's XML to FILE: a test case per rank.
    #[arg(
        long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(|text| values::path(&text)),
        help_heading = OUTPUT,
    )]
    junit: Option<PathBuf>,

    /// Say what is being done.
    #[arg(short = 'v', long, help_heading = OUTPUT)]
    verbose: bool,

    /// Show where ranks would run and with what environment, and run nothing.
    ///
    /// The hosts are contacted and asked what they have. With `=offline` nobody is contacted, and what cannot be
    /// known that way is marked.
    #[arg(
        long, value_name = "offline", num_args = 0..=1, require_equals = true, default_missing_value = "online",
        value_parser = values::dry_run, help_heading = OUTPUT,
    )]
    dry_run: Option<DryRun>,

    /// End the job after S seconds, with exit code 110.
    ///
    /// Before that every rank is asked where it is: what its threads wait for, and their stacks where `gdb` or, for
    /// Python, `py-spy` is in the ranks' PATH. That takes some seconds; ranks that are at the same place are told once.
    #[arg(long, value_name = "S", value_parser = values::seconds, help_heading = LIMITS)]
    timeout: Option<Duration>,

    /// Give up when not every rank has started after S seconds.
    ///
    /// Counted from the first connection; with --wait-for-hosts each host has so long once it is up, and so have the ranks
    /// once all hosts are. The error says which host was waited for, and what for.
    #[arg(
        long, value_name = "S", value_parser = values::seconds, default_value = "60", help_heading = LIMITS,
    )]
    start_timeout: Duration,

    /// Wait up to S seconds for hosts that are not up yet.
    ///
    /// For instances that boot: a host whose name has no address yet, that does not answer, refuses connections or hangs
    /// up is tried again, after pauses of up to two seconds; one that came up meanwhile is tried again where it does not
    /// let this machine in yet. Without it each of these is an error at once.
    #[arg(long, value_name = "S", value_parser = values::seconds, help_heading = LIMITS)]
    wait_for_hosts: Option<Duration>,

    /// Time that ranks have to end when they are asked to, before they are killed.
    ///
    /// When a rank has failed, and at the end of --timeout, they are asked by TERM; at Ctrl-C, or a TERM, HUP or QUIT to
    /// efarun, by that signal, and by TERM when half of the time is over. A second Ctrl-C kills at once. With 0 they are
    /// not asked.
    #[arg(long, value_name = "S", value_parser = values::grace, default_value = "1", help_heading = LIMITS)]
    grace: Duration,

    /// What a rank's failure, or a host's loss, means for the others: abort, or continue.
    ///
    /// With `continue` they are told which ranks are lost, as `shrink` needs it, and go on. The exit code is that of the
    /// first failure all the same.
    #[arg(
        long, value_name = "WHAT", value_parser = values::on_failure, default_value = "abort",
        help_heading = LIMITS,
    )]
    on_failure: OnFailure,

    /// Pass these signals on to the ranks, beside USR1, USR2, ALRM, TSTP and CONT: `WINCH,SIGURG`.
    ///
    /// Names, with or without SIG, or numbers. With `none` neither these nor USR1, USR2 and ALRM are passed on; they then do
    /// nothing. Signals that end the job (INT, TERM, HUP, QUIT) do so whatever is listed.
    #[arg(long, value_name = "SIGNALS", value_parser = values::forwarded_signals, help_heading = LIMITS)]
    forward_signals: Option<ForwardedSignals>,

    /// Accepted: efarun has no objection to root.
    #[arg(long, help_heading = LIMITS)]
    allow_run_as_root: bool,

    /// Show this help; -h shows a shorter one.
    #[arg(short = 'h', long, help_heading = ABOUT)]
    help: bool,

    /// Show the version.
    #[arg(short = 'V', long, help_heading = ABOUT)]
    version: bool,
}

impl Flags {
    /// Completes the options to one program of a job.
    pub(super) fn into_app(self, program: OsString, args: Vec<OsString>) -> App {
        let AppFlags { host_list, rank_count, exports, wdir, prefix, search_path } = self.app;
        let host_list = host_list.iter().flat_map(|list| hostfile::split_list(list)).collect();
        App { host_list, rank_count, exports, wdir, prefix, search_path, program, args }
    }

    /// The rankfile that is named, by its own option or by `--map-by rankfile:FILE=`.
    ///
    /// # Errors
    /// Two that differ, none where one is to be followed, or another way to map beside it.
    pub(super) fn rankfile(&self) -> Result<Option<PathBuf>, CliExit> {
        let map_by = self.job.map_by.clone().unwrap_or_default();
        let named = match (&self.job.rankfile, map_by.file) {
            (Some(first), Some(second)) if *first != second => {
                return Err(CliExit::Contradiction {
                    first: format!("--rankfile {}", first.display()),
                    second: format!("--map-by rankfile:FILE={}", second.display()),
                });
            }
            (first, second) => first.clone().or(second),
        };
        match (named, map_by.map_by) {
            (None, MapBy::Rankfile) => {
                Err(CliExit::Rankfile { problem: "none is named: add `--rankfile FILE`".to_owned() })
            }
            (Some(path), MapBy::Rankfile | MapBy::Slot) => Ok(Some(path)),
            (Some(path), _) => Err(CliExit::Contradiction {
                first: format!("--rankfile {}", path.display()),
                second: "--map-by".to_owned(),
            }),
            (None, _) => Ok(None),
        }
    }

    /// Completes the options to a job of these programs.
    pub(super) fn into_job(self, apps: Vec<App>) -> JobSpec {
        let JobFlags { launch_agent, ssh_args, .. } = self.job;
        let launch_agent = match (launch_agent, ssh_args) {
            (agent, None) => agent,
            (agent, Some(args)) => {
                let agent = agent.unwrap_or_else(|| vec!["ssh".into()]);
                Some(agent.into_iter().chain(args).collect())
            }
        };
        let map_by = self.job.map_by.unwrap_or_default();
        let bind_to = self.job.bind_to.unwrap_or_default();
        JobSpec {
            apps,
            ranks_per_node: self.job.ranks_per_node,
            hostfile: self.job.hostfile,
            default_slots: self.job.default_slots,
            nolocal: self.job.nolocal || map_by.nolocal,
            parameters: Vec::new(),
            launch_agent,
            timeout: self.job.timeout,
            start_timeout: self.job.start_timeout,
            wait_for_hosts: self.job.wait_for_hosts,
            grace: self.job.grace,
            on_failure: self.job.on_failure,
            forwarded: self.job.forward_signals.unwrap_or_default(),
            output: OutputSpec {
                tag: self.job.tag_output,
                timestamp: self.job.timestamp_output,
                merge_stderr: self.job.merge_stderr_to_stdout,
                fold: self.job.fold_output,
                folder: self.job.output_filename,
            },
            stdin: self.job.stdin,
            dry_run: self.job.dry_run,
            oversubscribe: self.job.oversubscribe || map_by.oversubscribe,
            map_by: map_by.map_by,
            rank_by: self.job.rank_by,
            rankfile: None,
            bind_to: bind_to.bind_to,
            overload_allowed: bind_to.overload_allowed,
            cpus_per_rank: self.job.cpus_per_rank.or(map_by.cpus_per_rank),
            display_map: self.job.display_map,
            report_bindings: self.job.report_bindings,
            json: self.job.json,
            events: self.job.events,
            report: self.job.report,
            junit: self.job.junit,
            verbose: self.job.verbose,
            torchrun: None,
            notes: Vec::new(),
        }
    }
}

/// Returns the long names of the options that each program of a line has for itself.
pub(super) fn app_options() -> Vec<String> {
    let command = AppFlags::augment_args(clap::Command::new("app"));
    command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect()
}

/// Returns the definitions in the form that [`super::manners`] reads and clap parses with.
pub(super) fn command() -> clap::Command {
    let mut command = described().no_binary_name(true);
    command.build();
    command
}

/// Returns the definitions with what is said below them.
pub(super) fn described() -> clap::Command {
    Flags::command()
        .after_help(EXAMPLES)
        .after_long_help(format!("{EXAMPLES}\n\n{DEFAULTS}\n\nExit codes:\n{}", exit_code::table_text()))
}

/// Returns the help or version text, if the line asks for one.
pub(super) fn asked_text(command: &clap::Command, line: &Line) -> Option<String> {
    let mut command = command.clone();
    match line.asks_for(&["-h", "--help", "-V", "--version"])? {
        "-h" => Some(command.render_help().to_string()),
        "--help" => Some(command.render_long_help().to_string()),
        _ => Some(command.render_version()),
    }
}

/// A command cut into words. Named, because clap takes a plain `Vec` for an option that may be repeated.
type Words = std::vec::Vec<OsString>;

const HOSTS: &str = "Which hosts";
const RANKS: &str = "How many ranks, and where";
const PROGRAM: &str = "What the program gets";
const OUTPUT: &str = "What is shown";
const LIMITS: &str = "Limits";
const ABOUT: &str = "Help";

const DEFAULTS: &str = "\
Defaults:
  EFARUN_START_TIMEOUT=120 sets --start-timeout where the line does not, and so for every option; so does a line
  `start-timeout = 120` of ~/.config/efarun/config.toml or /etc/efarun/config.toml. `efarun config` shows what holds.";

const EXAMPLES: &str = "\
Examples:
  efarun -n 4 ./hello                                four ranks on this machine
  efarun --hostfile hosts -n 16 -N 8 ./train         16 ranks, at most 8 on each host
  efarun -H 10.0.0.1:8,10.0.0.2:8 ./all_reduce       one rank per slot on two hosts
  efarun --hostfile hosts -x NCCL_DEBUG=INFO -x LD_LIBRARY_PATH ./train
  efarun --hostfile hosts --dry-run ./train          where each rank would run
  efarun --timeout 600 --tag-output -np 8 -- ./test --its-own-option";
