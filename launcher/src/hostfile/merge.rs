//! From what lines and items say to hosts: duplicates become one, and `-H` selects from a hostfile.

use std::collections::HashMap;

use super::entry::{self, Misread};
use super::{HostError, MAX_HOSTS, Problem, ranges};
use crate::job::Host;
use crate::mapping::HostChoice;

/// What one line of a hostfile, or one item of `-H`, says. Two of them are the same host if they name the same account
/// and the same door: one name on two ports is two hosts, which is how containers of one machine are listed. The address
/// is not part of it, for one line may give it for all of them; a file where two differ is refused before it comes here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mention {
    pub(super) user: Option<String>,
    pub(super) name: String,
    pub(super) address: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) slots: Option<u32>,
    pub(super) max_slots: Option<u32>,
    /// `^`: the host is not to be used.
    pub(super) is_excluded: bool,
    /// The line, or the item, from 1.
    pub(super) place: u32,
}

/// Reads one entry: `[^][user@]name[:SLOTS]`, where a name may have ranges. At least one mention comes of it.
pub(super) fn mentions(text: &str, place: u32) -> Result<Vec<Mention>, Misread> {
    let (is_excluded, entry_text) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
    let shift = |misread: Misread| Misread { at: text.len() - entry_text.len() + misread.at, ..misread };
    let names = ranges::expand(entry_text).map_err(shift)?;
    let mention = |name: &String| {
        let entry = entry::parse(name).map_err(shift)?;
        Ok(Mention {
            user: entry.user,
            name: entry.name,
            address: None,
            port: None,
            slots: entry.slots,
            max_slots: None,
            is_excluded,
            place,
        })
    };
    names.iter().map(mention).collect()
}

/// Parses the items of `-H`.
pub(super) fn listed(items: &[String]) -> Result<Vec<Mention>, HostError> {
    let mut all = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let text = item.trim_matches([' ', '\t']);
        let at_fault = |Misread { at, problem }| HostError::Item {
            item: index + 1,
            text: item.escape_default().to_string(),
            column: item.len() - item.trim_start_matches([' ', '\t']).len() + at + 1,
            problem,
        };
        let place = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let of_item = mentions(text, place).map_err(at_fault)?;
        check_count(all.len(), of_item.len()).map_err(at_fault)?;
        all.extend(of_item);
    }
    Ok(all)
}

/// Refuses ranges that make too many hosts, together with those before them.
pub(super) fn check_count(before: usize, more: usize) -> Result<(), Misread> {
    if more > 1 && before + more > MAX_HOSTS {
        return Err(Misread { at: 0, problem: Problem::TooManyHosts });
    }
    Ok(())
}

/// Merges the items of `-H` where there is no hostfile.
pub(super) fn list_hosts(listed: &[Mention]) -> Vec<Host> {
    merge(listed)
        .iter()
        .filter(|group| !group.is_excluded(listed))
        .map(|group| group.host(Host::FROM_HOST_LIST.to_owned()))
        .collect()
}

/// Merges the lines of a hostfile.
pub(super) fn file_hosts(mentions: &[Mention], file: &str) -> Vec<Host> {
    merge(mentions)
        .iter()
        .filter(|group| !group.is_excluded(mentions))
        .map(|group| group.host(group.origin(file)))
        .collect()
}

/// Keeps the hosts of a hostfile that `-H` names, in the file's order. An item that names no user selects every
/// entry of that name.
pub(super) fn select(filed: Vec<Host>, listed: &[Mention], file: &str) -> Result<Vec<Host>, HostError> {
    let items = merge(listed);
    let selects = |item: &Group<'_>, host: &Host| {
        item.first.name == host.name && (item.first.user.is_none() || item.first.user == host.user)
    };
    if let Some(missing) = items.iter().find(|item| !filed.iter().any(|host| selects(item, host))) {
        return Err(HostError::NotInHostfile {
            name: missing.host(String::new()).to_string(),
            file: file.to_owned(),
            has: shortened(filed.iter().map(Host::to_string).collect()),
        });
    }
    let mut selected = filed;
    selected.retain(|host| !listed.iter().any(|item| item.excludes(&host.name, host.user.as_deref())));
    if selected.is_empty() {
        return Err(HostError::AllExcluded { by: Host::FROM_HOST_LIST.to_owned() });
    }
    if items.is_empty() {
        return Ok(selected);
    }
    selected.retain_mut(|host| {
        let Some(item) = items.iter().find(|item| selects(item, host)) else { return false };
        if let Some(slots) = item.slots() {
            host.slots = Some(slots);
            host.origin = format!("{} ({})", Host::FROM_HOST_LIST, host.origin);
        }
        true
    });
    Ok(selected)
}

/// The places in `hosts` of those that a program's list names, with the slots that it gives them. Without slots an item
/// takes one, as wherever a list makes the hosts; where a hostfile gave the slots, all of them.
pub(super) fn choices(hosts: &[Host], listed: &[Mention]) -> Result<Vec<HostChoice>, HostError> {
    let mut choices = Vec::new();
    for item in merge(listed) {
        let is_meant = |host: &Host| {
            item.first.name == host.name && (item.first.user.is_none() || item.first.user == host.user)
        };
        let found: Vec<usize> = (0..hosts.len()).filter(|index| is_meant(&hosts[*index])).collect();
        if found.is_empty() {
            return Err(HostError::NotInHostfile {
                name: item.host(String::new()).to_string(),
                file: "the job's list of hosts".to_owned(),
                has: shortened(hosts.iter().map(Host::to_string).collect()),
            });
        }
        let choice = |index: usize| {
            let default = hosts[index].is_from_host_list().then_some(1);
            HostChoice { index, slots: item.slots().or(default) }
        };
        choices.extend(found.into_iter().map(choice));
    }
    Ok(choices)
}

/// All mentions of one host.
struct Group<'a> {
    first: &'a Mention,
    /// The one that was given.
    address: Option<&'a String>,
    lines: Vec<u32>,
    /// Slots that were spelled.
    spelled: Option<u32>,
    /// The most that were spelled.
    most: Option<u32>,
    /// Mentions without slots.
    bare: u32,
}

impl Mention {
    /// What tells hosts apart: user, name and port.
    pub(super) fn door(&self) -> (Option<&str>, &str, Option<u16>) {
        (self.user.as_deref(), &self.name, self.port)
    }

    /// Whether it takes this host away. Without a user it does so for every user.
    fn excludes(&self, name: &str, user: Option<&str>) -> bool {
        self.is_excluded && self.name == name && (self.user.is_none() || self.user.as_deref() == user)
    }
}

impl Group<'_> {
    fn is_excluded(&self, mentions: &[Mention]) -> bool {
        mentions.iter().any(|mention| mention.excludes(&self.first.name, self.first.user.as_deref()))
    }

    /// A host that is repeated has one slot per bare mention, as under Open MPI. Where some mentions spell their
    /// slots, Open MPI 4.1 gives up; here all of them add up, which is what a file put together from parts means.
    fn slots(&self) -> Option<u32> {
        match (self.spelled, self.bare) {
            (None, 1) => None,
            (spelled, bare) => Some(spelled.unwrap_or(0).saturating_add(bare)),
        }
    }

    fn origin(&self, file: &str) -> String {
        let shown: Vec<String> = self.lines.iter().take(ORIGIN_LINES).map(u32::to_string).collect();
        let more = if self.lines.len() > ORIGIN_LINES { ",…" } else { "" };
        format!("{file}:{}{more}", shown.join(","))
    }

    fn host(&self, origin: String) -> Host {
        Host {
            name: self.first.name.clone(),
            address: self.address.cloned(),
            user: self.first.user.clone(),
            port: self.first.port,
            slots: self.slots(),
            max_slots: self.most,
            places: self.lines.clone(),
            origin,
        }
    }
}

fn merge(mentions: &[Mention]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut groups_by_host = HashMap::new();
    for mention in mentions.iter().filter(|mention| !mention.is_excluded) {
        let at = *groups_by_host.entry(mention.door()).or_insert(groups.len());
        if at == groups.len() {
            groups.push(Group {
                first: mention,
                address: None,
                lines: Vec::new(),
                spelled: None,
                most: None,
                bare: 0,
            });
        }
        let group = &mut groups[at];
        group.lines.push(mention.place);
        group.address = group.address.or(mention.address.as_ref());
        if let Some(most) = mention.max_slots {
            group.most = Some(group.most.unwrap_or(0).saturating_add(most));
        }
        match mention.slots {
            Some(slots) => group.spelled = Some(group.spelled.unwrap_or(0).saturating_add(slots)),
            None => group.bare += 1,
        }
    }
    groups
}

fn shortened(mut names: Vec<String>) -> Vec<String> {
    let more = names.len().saturating_sub(LISTED_HOSTS);
    names.truncate(LISTED_HOSTS);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    names
}

/// How many lines an origin names before it is cut.
const ORIGIN_LINES: usize = 4;

/// How many hosts an error lists before it is cut.
const LISTED_HOSTS: usize = 16;
