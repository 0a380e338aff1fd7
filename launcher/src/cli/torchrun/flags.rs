//! torchrun's options, one item each, with what each does here.

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Parser};

use super::values;
use crate::torchrun::{NodeRange, PerNode, StreamChoice};

/// Starts a training script as torchrun does, on all hosts from here, or on this node of several.
///
/// With hosts (-H, --hostfile) one line starts all nodes over SSH. Without hosts and with one node it runs here. With
/// several nodes and --master-addr or --rdzv-endpoint the same line is typed on each of them, with a key in --key-file. Options
/// may be written with `_` as well; every one can be set by a variable (PET_NNODES, PET_NPROC_PER_NODE, …), which the line
/// overrides. Of an option that is repeated the last counts.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "efarun torchrun",
    no_binary_name = true,
    disable_help_flag = true,
    disable_version_flag = true,
    override_usage = "efarun torchrun [OPTIONS] SCRIPT [ARGS]…\n       efarun torchrun [OPTIONS] -m MODULE [ARGS]…\n       efarun torchrun [OPTIONS] --no-python PROGRAM [ARGS]…",
    max_term_width = 100
)]
pub(super) struct TorchrunFlags {
    /// Number of nodes, or at least MIN and at most MAX.
    ///
    /// With hosts the first N, or MAX, of them take part.
    #[arg(long, value_name = "N|MIN:MAX", value_parser = values::nodes, default_value = "1", help_heading = TORCHRUN)]
    pub(super) nnodes: NodeRange,

    /// Ranks on each node: a number, `gpu`, `cpu` or `auto`.
    ///
    /// `gpu` is one per GPU, `cpu` one per CPU that ranks may use, `auto` one per GPU where every node has any, else one
    /// per CPU.
    #[arg(long, value_name = "N|gpu|cpu|auto", value_parser = values::per_node, default_value = "1", help_heading = TORCHRUN)]
    pub(super) nproc_per_node: PerNode,

    /// This node's number, where the line is typed on every node; node 0 is the one at --master-addr or --rdzv-endpoint.
    ///
    /// Without it nodes are numbered as they come, and the one whose address the endpoint is has number 0.
    #[arg(long, value_name = "N", value_parser = values::node_rank, help_heading = TORCHRUN)]
    pub(super) node_rank: Option<u32>,

    /// The address of node 0: where nodes meet, and MASTER_ADDR for ranks.
    ///
    /// With hosts none is needed: MASTER_ADDR is the address of rank 0's node that the connections to the hosts have proved.
    #[arg(long, value_name = "ADDRESS", value_parser = values::address, help_heading = TORCHRUN)]
    pub(super) master_addr: Option<String>,

    /// MASTER_PORT for ranks, and the port where nodes meet.
    ///
    /// Without it one that is free on rank 0's node is MASTER_PORT, and kept free for it; nodes meet at 29500.
    #[arg(long, value_name = "PORT", value_parser = values::port, help_heading = TORCHRUN)]
    pub(super) master_port: Option<u16>,

    /// The run's name: TORCHELASTIC_RUN_ID, and the beginning of its folder of logs.
    #[arg(long, value_name = "NAME", value_parser = values::run_id, help_heading = TORCHRUN)]
    pub(super) rdzv_id: Option<String>,

    /// static, c10d, etcd or etcd-v2: accepted; efarun itself brings nodes together.
    #[arg(long, value_name = "NAME", value_parser = ["static", "c10d", "etcd", "etcd-v2"], default_value = "static", help_heading = TORCHRUN)]
    pub(super) rdzv_backend: String,

    /// Where nodes meet, if it is not --master-addr and --master-port.
    #[arg(long, value_name = "HOST[:PORT]", value_parser = values::endpoint, help_heading = TORCHRUN)]
    pub(super) rdzv_endpoint: Option<(String, Option<u16>)>,

    /// A file with the key that nodes show each other where the line is typed on every node.
    ///
    /// 64 hexadecimal digits, the same on every node, readable by its owner alone; `umask 077; openssl rand -hex 32 > key`
    /// makes one. EFARUN_KEY_FILE names it as well.
    #[arg(long, value_name = "FILE", value_parser = OsStringValueParser::new().try_map(|text| values::folder(&text)), help_heading = TORCHRUN)]
    pub(super) key_file: Option<std::path::PathBuf>,

    /// Settings of the rendezvous: `timeout`, `join_timeout` and `last_call_timeout`, in seconds, are acted on.
    #[arg(long, value_name = "KEY=VALUE,…", value_parser = values::rendezvous_settings, help_heading = TORCHRUN)]
    pub(super) rdzv_conf: Option<values::RendezvousSettings>,

    /// One node, this machine, whatever else is said about nodes.
    #[arg(long, help_heading = TORCHRUN)]
    pub(super) standalone: bool,

    /// How often the whole group is started again after a failure.
    ///
    /// TORCHELASTIC_RESTART_COUNT says which start it is. Restarts read no standard input.
    #[arg(long, value_name = "N", value_parser = values::restarts, default_value = "0", help_heading = TORCHRUN)]
    pub(super) max_restarts: u32,

    /// Accepted: efarun is told of a rank's end and does not look for it at intervals.
    #[arg(long, value_name = "S", value_parser = values::interval, help_heading = TORCHRUN)]
    pub(super) monitor_interval: Option<f64>,

    /// spawn, fork or forkserver: accepted; every rank is a program of its own.
    #[arg(long, value_name = "METHOD", value_parser = ["spawn", "fork", "forkserver"], help_heading = TORCHRUN)]
    pub(super) start_method: Option<String>,

    /// ROLE_NAME of ranks.
    #[arg(long, value_name = "NAME", value_parser = values::role, default_value = "default", help_heading = TORCHRUN)]
    pub(super) role: String,

    /// The script is a module: it is run as `python -m` does.
    #[arg(short = 'm', long, help_heading = TORCHRUN)]
    pub(super) module: bool,

    /// The script is a program of its own, without python.
    #[arg(long, help_heading = TORCHRUN)]
    pub(super) no_python: bool,

    /// Accepted: every rank is an interpreter of its own that runs the script.
    #[arg(long, help_heading = TORCHRUN)]
    pub(super) run_path: bool,

    /// Folder for logs, on each node.
    ///
    /// Below it are RUN_ID_xxxxxxxx/attempt_N/LOCAL_RANK/stdout.log, stderr.log and error.json, as under torchrun.
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new().try_map(|text| values::folder(&text)), help_heading = TORCHRUN)]
    pub(super) log_dir: Option<std::path::PathBuf>,

    /// Write streams to files instead of showing them: 0 to 3, or `0:1,1:2` by local rank.
    ///
    /// 1 is standard output, 2 standard error, 3 both.
    #[arg(short = 'r', long, value_name = "STREAMS", value_parser = values::streams, default_value = "0", help_heading = TORCHRUN)]
    pub(super) redirects: StreamChoice,

    /// Write streams to files and show them, each line behind `[ROLE LOCAL_RANK]:`; values as for --redirects.
    #[arg(short = 't', long, value_name = "STREAMS", value_parser = values::streams, default_value = "0", help_heading = TORCHRUN)]
    pub(super) tee: StreamChoice,

    /// Show only what these local ranks write: `0,1`.
    #[arg(long, value_name = "RANKS", value_parser = values::local_ranks, help_heading = TORCHRUN)]
    pub(super) local_ranks_filter: Option<values::LocalRanks>,

    /// This node's own address, where it has several and the line is typed on every node.
    #[arg(long, value_name = "ADDRESS", value_parser = values::address, help_heading = TORCHRUN)]
    pub(super) local_addr: Option<String>,

    /// `node`: each rank may run on the cores at its GPU's NUMA node, as by `--bind-to gpu`.
    #[arg(long, value_name = "MODE", value_parser = ["node"], help_heading = TORCHRUN)]
    pub(super) numa_binding: Option<String>,

    /// Signals that end the job; TERM, INT, HUP and QUIT do, USR1 and USR2 go to the ranks, whatever is listed.
    #[arg(long, value_name = "SIGNALS", value_parser = values::signals, help_heading = TORCHRUN)]
    pub(super) signals_to_handle: Option<values::OtherSignals>,

    /// Not acted on: handlers of events are parts of torch.
    #[arg(long, value_name = "NAME", help_heading = TORCHRUN)]
    pub(super) event_log_handler: Option<String>,

    /// Not acted on: such a class is a part of torch.
    #[arg(long, value_name = "NAME", help_heading = TORCHRUN)]
    pub(super) logs_specs: Option<String>,
}

/// Options that are no store of a value.
pub(super) fn is_switch(arg: &clap::Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

const TORCHRUN: &str = "torchrun's options";
