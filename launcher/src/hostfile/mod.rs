//! Reads hostfiles and host lists.
//!
//! Given the bytes of a hostfile and the entries of `-H`, [`hosts`] says which hosts the user named, in order, with
//! the slots where they were given and the place where each was named. Pure: it reads no file and asks no resolver,
//! and it returns an error, never a panic, whatever the bytes. `hostfiles/README.md` has the grammar.
//!
//! What comes out is safe to hand to SSH: a name or user never begins with `-` and holds no blank, control
//! character or shell metacharacter.
//!
//! Not its questions: how many slots a host has that gives none ([`crate::mapping`]), whether two names are one
//! machine ([`crate::env`] notes it from the nodes' facts).

mod comments;
mod entry;
mod error;
mod file;
mod found;
mod merge;
mod ranges;
mod render;

use std::path::Path;

use crate::job::Host;
use crate::mapping::HostChoice;

pub use error::{HostError, Problem};
pub use found::{Found, found};
pub use render::{Dialect, write};

/// The most slots that one entry may give: far beyond any machine, small enough that sums stay exact.
pub const MAX_SLOTS: u32 = 65_536;

/// The most hosts that ranges may mean, all of a file's or of a list's together: a slip of a digit does not become a
/// million names. Hosts that are written out are not limited.
pub const MAX_HOSTS: usize = 8192;

/// Cuts a list of hosts at its commas, but for those within brackets.
pub fn split_list(text: &str) -> Vec<String> {
    let mut is_inside = false;
    let items = text.split(|character: char| {
        match character {
            '[' => is_inside = true,
            ']' => is_inside = false,
            _ => {}
        }
        character == ',' && !is_inside
    });
    items.map(str::to_owned).collect()
}

/// Returns the hosts of a job, in the order in which ranks fill them.
///
/// `hostfile` is the file's path, for messages, and its content; `host_list` is `-H`, one item per comma. With both,
/// the list selects from the file: the file's order and slots stay, unless an item restates the slots by `:N` or by
/// being repeated. With neither, this machine is the only host. Ranges (`p4d[01-16]`) mean every host in them; an entry
/// that begins with `^` takes its hosts away again.
///
/// # Errors
/// The first fault, with its place: `FILE:LINE:COLUMN` or the item of `-H`.
pub fn hosts(hostfile: Option<(&Path, &[u8])>, host_list: &[String]) -> Result<Vec<Host>, HostError> {
    let listed = merge::listed(host_list)?;
    let Some((path, bytes)) = hostfile else {
        let hosts = merge::list_hosts(&listed);
        return match (listed.is_empty(), hosts.is_empty()) {
            (true, _) => Ok(vec![this_machine()]),
            (false, true) => Err(HostError::AllExcluded { by: Host::FROM_HOST_LIST.to_owned() }),
            (false, false) => Ok(hosts),
        };
    };
    let file = path.display().to_string();
    let mentions = file::parse(bytes, &file)?;
    if mentions.is_empty() {
        return Err(HostError::NoHosts { file });
    }
    let filed = merge::file_hosts(&mentions, &file);
    if filed.is_empty() {
        return Err(HostError::AllExcluded { by: file });
    }
    if listed.is_empty() { Ok(filed) } else { merge::select(filed, &listed, &file) }
}

/// Says which of a job's hosts one program's `-H` names, in the list's order, with the slots that it gives.
///
/// # Errors
/// An item that is wrong, or that names none of the hosts.
pub fn choices(hosts: &[Host], host_list: &[String]) -> Result<Vec<HostChoice>, HostError> {
    merge::choices(hosts, &merge::listed(host_list)?)
}

fn this_machine() -> Host {
    Host {
        name: "localhost".to_owned(),
        address: None,
        user: None,
        port: None,
        slots: None,
        max_slots: None,
        places: vec![1],
        origin: Host::BY_DEFAULT.to_owned(),
    }
}

#[cfg(test)]
mod tests;
