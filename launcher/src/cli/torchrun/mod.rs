//! `efarun torchrun …`: torchrun's line as a job.
//!
//! Given the words after `torchrun`, [`parse`] returns the job, or which word is wrong and what would be right. Options
//! are torchrun's (`flags`) and those of efarun's that say something else than torchrun's do: hosts, environment, output,
//! limits. `line` cuts the words, `values` reads values, [`translate`] says what becomes of each option. Pure.

mod flags;
mod line;
mod values;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use clap::{ArgAction, CommandFactory, FromArgMatches};

use super::flags::{self as efaruns, Flags};
use super::translate::quoted;
use super::{CliExit, Command, Surroundings, config, explain};
use crate::hostfile;
use crate::job::JobSpec;
use crate::mapping::{MapBy, Resource};
use crate::torchrun::{Attempt, ByHand, Logs, NodeRange, PerNode, ProgramKind, Torchrun};
use flags::TorchrunFlags;
use line::{Given, Line};

/// The word that asks for it, and the name under which the launcher takes this dialect.
pub(super) const SUBCOMMAND: &str = "torchrun";

/// Parses the words after `torchrun`.
pub(super) fn parse(
    words: impl IntoIterator<Item = OsString>,
    around: Surroundings<'_>,
) -> Result<Command, CliExit> {
    let command = definition();
    let mut line = line::cut(&command, words).map_err(of_mpirun)?;
    if let Some(text) = asked_text(&command, &line) {
        return Ok(Command::Print(text));
    }
    add_environment(&mut line, around.env)?;
    let defaults = config::defaults(&efaruns::command(), around)?;
    add_defaults(&command, &mut line, &defaults);
    let mut job = into_job(&line, around.env)?;
    job.notes.splice(0..0, defaults.notes);
    choose_hosts(&mut job, &line, &defaults.hosts, around.env)?;
    Ok(Command::Run(Box::new(job)))
}

/// The line for efarun that does the same, and what becomes of each option.
pub(super) fn translate(words: impl IntoIterator<Item = OsString>) -> Result<String, CliExit> {
    let command = definition();
    let line = line::cut(&command, words)?;
    let mut text = "efarun torchrun".to_owned();
    for given in &line.given {
        text.push_str(&format!(" --{}", given.long));
        if let Some(value) = &given.value {
            text.push_str(&format!(" {}", quoted(value)));
        }
    }
    line.program.iter().for_each(|word| text.push_str(&format!(" {}", quoted(word))));
    text.push('\n');
    let rows: Vec<(String, String)> = line
        .given
        .iter()
        .map(|given| {
            let arg = command.get_arguments().find(|arg| arg.get_long() == Some(&given.long));
            let help = arg.and_then(clap::Arg::get_help).map_or_else(String::new, ToString::to_string);
            (given.typed(), help)
        })
        .collect();
    let width = rows.iter().map(|(words, _)| words.chars().count()).max().unwrap_or(0);
    text.extend((!rows.is_empty()).then_some('\n'));
    for (words, meaning) in rows {
        text.push_str(&format!("{words:<width$}  {meaning}\n"));
    }
    Ok(text)
}

/// torchrun's options.
#[cfg(test)]
pub(super) fn own_options() -> clap::Command {
    TorchrunFlags::command()
}

/// torchrun's options, and those of efarun's that go with them.
fn definition() -> clap::Command {
    let efaruns = efaruns::command();
    let taken =
        efaruns.get_arguments().filter(|arg| !NOT_TAKEN.contains(&arg.get_long().unwrap_or_default()));
    let mut command = TorchrunFlags::command().args(taken.cloned()).after_help(EXAMPLES);
    command.build();
    command
}

fn asked_text(command: &clap::Command, line: &Line) -> Option<String> {
    let asked = line.given.iter().find(|given| matches!(&*given.long, "help" | "version"))?;
    let mut command = command.clone();
    Some(match (&*asked.long, &*asked.spelling) {
        ("version", _) => efaruns::command().render_version(),
        (_, "-h") => command.render_help().to_string(),
        _ => command.render_long_help().to_string(),
    })
}

/// Takes the options that PET_… variables set, as torchrun does.
fn add_environment(line: &mut Line, env: &[(OsString, OsString)]) -> Result<(), CliExit> {
    let own = TorchrunFlags::command();
    for arg in own.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| long != "logs-specs")) {
        let long = arg.get_long().expect("this was just asked");
        let variable = format!("PET_{}", long.replace('-', "_").to_uppercase());
        let Some((_, value)) = env.iter().find(|(name, _)| *name == *variable) else { continue };
        if flags::is_switch(arg) {
            match value.to_str().and_then(|text| text.trim().parse::<i64>().ok()) {
                Some(0) => {}
                Some(_) => line.add_default(Given { long: long.to_owned(), spelling: variable, value: None }),
                None => {
                    let problem = "it must be 1 or 0".to_owned();
                    let value = value.display().to_string();
                    return Err(CliExit::BadValue { option: variable, value, problem });
                }
            }
        } else {
            let value = Some(value.clone());
            line.add_default(Given { long: long.to_owned(), spelling: variable, value });
        }
    }
    Ok(())
}

/// Takes what variables and files set of efarun's own options, as far as torchrun's lines have them; not hosts.
fn add_defaults(command: &clap::Command, line: &mut Line, defaults: &config::Defaults) {
    for default in &defaults.options {
        let arg = command.get_arguments().find(|arg| arg.get_long() == Some(&default.long));
        let Some(arg) = arg else { continue };
        let (long, spelling) = (default.long.clone(), default.spelling.clone());
        let given = Given { long, spelling, value: default.value.clone() };
        match arg.get_action() {
            // Before the line's own, of which the last wins.
            ArgAction::Append => line.given.insert(0, given),
            _ => line.add_default(given),
        }
    }
}

fn into_job(line: &Line, env: &[(OsString, OsString)]) -> Result<JobSpec, CliExit> {
    let (own, efaruns) = (TorchrunFlags::command(), efaruns::command());
    let is_own = |given: &&Given| own.get_arguments().any(|arg| arg.get_long() == Some(&given.long));
    let words = |torchruns: bool| {
        let chosen = line.given.iter().filter(|given| is_own(given) == torchruns);
        chosen.map(Given::canonical_word).collect::<Vec<_>>()
    };
    let explained =
        |error: clap::Error| explain(&error, |canonical| line.spelling(canonical), || not_text(line));
    let matches = own.clone().try_get_matches_from(words(true)).map_err(explained)?;
    let torchrun = TorchrunFlags::from_arg_matches(&matches).map_err(explained)?;
    let flags = || {
        let matches = efaruns.clone().try_get_matches_from(words(false)).map_err(explained)?;
        Flags::from_arg_matches(&matches).map_err(explained)
    };
    let Some((program, args)) = line.program.split_first() else { return Err(CliExit::NoScript) };
    let app = flags()?.into_app(program.clone(), args.to_vec());
    let mut job = flags()?.into_job(vec![app]);
    job.notes
        .extend(line.replaced.iter().map(|(first, second)| format!("`{first}` is replaced by `{second}`")));
    complete(&mut job, torchrun, line, env)?;
    Ok(job)
}

/// Puts torchrun's part into a job that has efarun's.
fn complete(
    job: &mut JobSpec,
    flags: TorchrunFlags,
    line: &Line,
    env: &[(OsString, OsString)],
) -> Result<(), CliExit> {
    if flags.no_python && flags.module {
        return Err(CliExit::Contradiction {
            first: line.spelling("--no-python"),
            second: line.spelling("--module"),
        });
    }
    note_what_is_unused(job, &flags, line);
    let nodes = if flags.standalone { NodeRange::ONE } else { flags.nnodes };
    if let Some(rank) = flags.node_rank.filter(|rank| *rank >= nodes.most && !flags.standalone) {
        return Err(CliExit::BadValue {
            option: line.spelling("--node-rank"),
            value: rank.to_string(),
            problem: format!("nodes are numbered from 0, and there are {} (--nnodes)", nodes.most),
        });
    }
    job.ranks_per_node = None;
    job.oversubscribe = true;
    match flags.nproc_per_node {
        PerNode::Count(count) => job.ranks_per_node = Some(count),
        PerNode::Gpu => job.map_by = MapBy::PerResource { count: 1, resource: Resource::Gpu },
        // Which of them it is shows when the nodes have said what they have.
        PerNode::Cpu | PerNode::Auto => job.map_by = MapBy::PerResource { count: 1, resource: CPU },
    }
    if flags.numa_binding.is_some() {
        job.bind_to = crate::binding::BindTo::Gpu;
    }
    let settings = flags.rdzv_conf.unwrap_or_default();
    // With hosts it is `--start-timeout` by another name; by hand, how long somebody may take to type the line elsewhere.
    let asked_patience = settings.join_timeout.filter(|_| !line.has("start-timeout"));
    job.start_timeout = asked_patience.unwrap_or(job.start_timeout);
    let patience =
        if line.has("start-timeout") { job.start_timeout } else { asked_patience.unwrap_or(PATIENCE) };
    let default_port = if flags.rdzv_backend == STATIC_BACKEND { STATIC_PORT } else { C10D_PORT };
    let endpoint = match (&flags.rdzv_endpoint, &flags.master_addr) {
        (Some((host, port)), _) => (host.clone(), port.or(flags.master_port).unwrap_or(default_port)),
        (None, Some(address)) => (address.clone(), flags.master_port.unwrap_or(default_port)),
        (None, None) => (String::new(), default_port),
    };
    // The default's name says nothing where several jobs share a folder of logs; torchrun gives only these a name.
    let default_run_id = (!flags.standalone).then(|| DEFAULT_RUN_ID.to_owned());
    let variable = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let program = match (flags.no_python && !flags.run_path, flags.module) {
        (true, _) => ProgramKind::Binary,
        (false, true) => ProgramKind::Module(interpreter(env)),
        (false, false) => ProgramKind::Script(interpreter(env)),
    };
    job.torchrun = Some(Torchrun {
        nodes,
        per_node: flags.nproc_per_node,
        run_id: flags.rdzv_id.filter(|_| !flags.standalone).or(default_run_id),
        role: flags.role,
        max_restarts: flags.max_restarts,
        program,
        logs: Logs {
            folder: flags.log_dir,
            redirects: flags.redirects,
            tee: flags.tee,
            shown: flags.local_ranks_filter.map(|ranks| ranks.0),
            prefix_template: variable(PREFIX_TEMPLATE).and_then(|value| value.to_str()).map(str::to_owned),
        },
        master_address: flags.master_addr,
        master_port: flags.master_port,
        by_hand: Some(ByHand {
            node_rank: flags.node_rank,
            endpoint,
            key_file: flags.key_file,
            local_address: flags.local_addr,
            patience,
            last_call: settings.last_call.unwrap_or(LAST_CALL),
        }),
        attempt: Attempt::default(),
    });
    Ok(())
}

/// The interpreter that torchrun would be run by, were it installed: the one that the environment names, then that of the
/// virtual environment that is active, then whatever `python3` is on each node.
fn interpreter(env: &[(OsString, OsString)]) -> OsString {
    let variable = |name: &str| {
        env.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.clone())
    };
    let of_folder = |folder: OsString| Path::new(&folder).join("bin/python").into_os_string();
    variable("PYTHON_EXEC")
        .or_else(|| variable("VIRTUAL_ENV").map(of_folder))
        .or_else(|| variable("CONDA_PREFIX").map(of_folder))
        .unwrap_or_else(|| "python3".into())
}

/// Says of an option of efarun's what torchrun has instead.
fn of_mpirun(error: CliExit) -> CliExit {
    match error {
        CliExit::UnknownOption { option, .. } if NOT_TAKEN.contains(&option.trim_start_matches('-')) => {
            CliExit::NotOfTorchrun { option }
        }
        error => error,
    }
}

/// Decides where the nodes are: on the hosts that the line names; where the line is typed, on every node; here; or on the
/// hosts that the user's own defaults or the environment name.
fn choose_hosts(
    job: &mut JobSpec,
    line: &Line,
    defaults: &[config::Default],
    env: &[(OsString, OsString)],
) -> Result<(), CliExit> {
    let are_named = job.hostfile.is_some() || !job.apps[0].host_list.is_empty();
    let several = job.torchrun.as_ref().is_some_and(|torchrun| torchrun.nodes.most > 1);
    let meets = ["node-rank", "master-addr", "rdzv-endpoint"].iter().any(|long| line.has(long));
    if several && meets && !are_named {
        return choose_meeting(job, line, env);
    }
    if let Some(torchrun) = &mut job.torchrun {
        torchrun.by_hand = None;
    }
    if are_named {
        // One line starts all nodes: the same line typed on a second node would start them once more.
        let hosts = if line.has("hostfile") { "hostfile" } else { "host" };
        let contradicts = ["standalone", "node-rank"].iter().find(|long| line.has(long));
        return contradicts.map_or(Ok(()), |long| {
            Err(CliExit::Contradiction { first: line.spelling(hosts), second: line.spelling(long) })
        });
    }
    if several {
        for default in defaults {
            let Some(value) = &default.value else { continue };
            if default.long == "hostfile" {
                job.notes.push(format!(
                    "the hosts are those of {}, which {} names",
                    value.display(),
                    default.origin
                ));
                job.hostfile = Some(value.into());
            } else if let Some(list) = value.to_str() {
                job.apps[0].host_list.extend(hostfile::split_list(list));
            }
        }
        super::find_hosts(job, env);
        if job.hostfile.is_none() && job.apps[0].host_list.is_empty() {
            return Err(CliExit::NoHostsForNodes);
        }
    }
    Ok(())
}

/// Takes the line as one that is typed on every node.
fn choose_meeting(job: &mut JobSpec, line: &Line, env: &[(OsString, OsString)]) -> Result<(), CliExit> {
    let Some(torchrun) = &mut job.torchrun else { return Ok(()) };
    let Some(by_hand) = torchrun.by_hand.as_mut().filter(|by_hand| !by_hand.endpoint.0.is_empty()) else {
        return Err(CliExit::NoEndpoint { option: line.spelling("node-rank") });
    };
    if let Some(option) = ["dry-run", "launch-agent", "ssh-args"].iter().find(|long| line.has(long)) {
        return Err(CliExit::NotByHand { option: line.spelling(option) });
    }
    if job.wait_for_hosts.is_some() {
        job.notes.push(
            "`--wait-for-hosts` is not acted on: nodes that come by themselves are waited for by --start-timeout"
                .to_owned(),
        );
    }
    if by_hand.key_file.is_none() {
        let found = env.iter().find(|(name, value)| name == KEY_FILE && !value.is_empty());
        by_hand.key_file = found.map(|(_, path)| path.into());
    }
    // Where the static backend meets is where rank 0 serves, as under torchrun.
    let is_other = |given: &Given| {
        given.long == "rdzv-backend" && given.value.as_deref() != Some(OsStr::new(STATIC_BACKEND))
    };
    if !line.given.iter().any(is_other) {
        torchrun.master_port.get_or_insert(by_hand.endpoint.1);
    }
    Ok(())
}

/// Says which options are accepted and not acted on.
fn note_what_is_unused(job: &mut JobSpec, flags: &TorchrunFlags, line: &Line) {
    let mut unused = |long: &str, why: &str| {
        if let Some(given) = line.given.iter().find(|given| given.long == long) {
            job.notes.push(format!("`{}` is not acted on: {why}", given.typed()));
        }
    };
    unused("event-log-handler", "handlers of events are parts of torch");
    unused("logs-specs", "such a class is a part of torch");
    if let Some(settings) = flags.rdzv_conf.as_ref().filter(|settings| !settings.unused.is_empty()) {
        unused("rdzv-conf", &format!("efarun has no {}", settings.unused.join(", ")));
    }
    if let Some(others) = flags.signals_to_handle.as_ref().filter(|others| !others.0.is_empty()) {
        unused("signals-to-handle", &format!("efarun does not pass on {}", others.0.join(", ")));
    }
    if job.verbose {
        let asides = [
            ("monitor-interval", "efarun is told of a rank's end"),
            ("start-method", "every rank is a program of its own"),
            ("run-path", "every rank is an interpreter of its own that runs the script"),
            ("rdzv-backend", "efarun itself brings nodes together"),
        ];
        for (long, why) in asides {
            if let Some(given) = line.given.iter().find(|given| given.long == long) {
                job.notes.push(format!("`{}` changes nothing: {why}", given.typed()));
            }
        }
    }
}

/// The error for a value that must be text and is not. clap does not say which it was.
fn not_text(line: &Line) -> CliExit {
    let at_fault = line.given.iter().find(|given| {
        given.value.as_ref().is_some_and(|value| value.to_str().is_none()) && !BYTES.contains(&&*given.long)
    });
    CliExit::BadValue {
        option: at_fault.map_or_else(String::new, |given| given.spelling.clone()),
        value: at_fault
            .and_then(|given| given.value.as_ref())
            .map_or_else(String::new, |value| value.display().to_string()),
        problem: "it must be UTF-8 text".to_owned(),
    }
}

/// Options of efarun's that torchrun's say otherwise.
const NOT_TAKEN: &[&str] = &[
    "np",
    "npernode",
    "map-by",
    "rank-by",
    "app",
    "cpus-per-rank",
    "rankfile",
    "default-slots",
    "oversubscribe",
    "nolocal",
];

/// Options whose values may be any bytes.
const BYTES: &[&str] = &[
    "export",
    "hostfile",
    "wdir",
    "prefix",
    "path",
    "output-filename",
    "log-dir",
    "key-file",
    "events",
    "report",
    "junit",
];

/// torchrun's own ports and times, where none are given.
const STATIC_BACKEND: &str = "static";
const STATIC_PORT: u16 = 29500;
const C10D_PORT: u16 = 29400;
const PATIENCE: Duration = Duration::from_secs(600);
const LAST_CALL: Duration = Duration::from_secs(30);
const KEY_FILE: &str = "EFARUN_KEY_FILE";

/// The run's name where none is given, by torchrun.
const DEFAULT_RUN_ID: &str = "none";
const PREFIX_TEMPLATE: &str = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE";
const CPU: Resource = Resource::Object(crate::binding::Object::Hwthread);

const EXAMPLES: &str = "\
Examples:
  efarun torchrun --standalone --nproc-per-node gpu train.py
  efarun torchrun -H 10.0.0.1,10.0.0.2 --nnodes 2 --nproc-per-node 8 train.py --epochs 3
  efarun torchrun --nnodes 2 --node-rank 0 --master-addr 10.0.0.1 --key-file key --nproc-per-node 8 train.py
  efarun torchrun --hostfile hosts --nnodes 1:4 --nproc-per-node auto --max-restarts 3 -m mypackage.train
  efarun torchrun --nnodes 1 --nproc-per-node 8 --log-dir logs --tee 3 train.py";

#[cfg(test)]
mod tests;
