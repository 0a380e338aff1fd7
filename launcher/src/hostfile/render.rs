//! Hosts as other launchers read them: what `efarun hosts` prints.

use serde_json::json;

use super::ranges;
use crate::job::Host;

/// A form in which hosts can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Open MPI's hostfile: `host slots=8`. efarun reads it too.
    OpenMpi,
    /// MPICH's and Intel MPI's: `host:8`.
    Mpich,
    /// Slurm's list of nodes on one line, without slots: `p4d[01-16]`.
    Slurm,
    /// An array of objects. Keys are only ever added.
    Json,
}

impl Dialect {
    /// Every dialect by its name.
    pub const ALL: &[(&str, Dialect)] = &[
        ("openmpi", Dialect::OpenMpi),
        ("mpich", Dialect::Mpich),
        ("slurm", Dialect::Slurm),
        ("json", Dialect::Json),
    ];
}

/// Writes hosts in a dialect.
pub fn write(hosts: &[Host], dialect: Dialect) -> String {
    match dialect {
        Dialect::OpenMpi => hosts.iter().map(open_mpi).collect(),
        Dialect::Mpich => hosts.iter().map(mpich).collect(),
        Dialect::Slurm => {
            let names: Vec<String> = hosts.iter().map(|host| host.name.clone()).collect();
            ranges::compress(&names)
        }
        Dialect::Json => {
            let host = |host: &Host| json!({ "host": host.name, "address": host.address, "user": host.user, "port": host.port, "slots": host.slots, "origin": host.origin });
            serde_json::Value::from(hosts.iter().map(host).collect::<Vec<_>>()).to_string()
        }
    }
}

fn open_mpi(host: &Host) -> String {
    let user = host.user.as_ref().map_or_else(String::new, |user| format!("{user}@"));
    let slots = slots(host).map_or_else(String::new, |slots| format!(" slots={slots}"));
    let port = host.port.map_or_else(String::new, |port| format!(" port={port}"));
    format!("{user}{}{slots}{port}\n", host.destination())
}

fn mpich(host: &Host) -> String {
    let name = host.destination();
    let name = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
    let slots = slots(host).map_or_else(String::new, |slots| format!(":{slots}"));
    let user = host.user.as_ref().map_or_else(String::new, |user| format!(" user={user}"));
    format!("{name}{slots}{user}\n")
}

fn slots(host: &Host) -> Option<u32> {
    host.slots.or(host.is_from_host_list().then_some(1))
}
