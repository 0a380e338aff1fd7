//! One host as a hostfile line and an item of `-H` both begin: `[user@]name[:SLOTS]`.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{MAX_SLOTS, Problem};

/// What an entry says, before its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) user: Option<String>,
    pub(super) name: String,
    pub(super) slots: Option<u32>,
}

/// A problem, and how many bytes into the entry it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misread {
    pub(super) at: usize,
    pub(super) problem: Problem,
}

/// Parses `[user@]name[:SLOTS]`, `[user@][v6][:SLOTS]` or a bare IPv6 address.
pub(super) fn parse(text: &str) -> Result<Entry, Misread> {
    let (user, rest, rest_at) = match text.split_once('@') {
        Some((user, rest)) => (Some(user), rest, user.len() + 1),
        None => (None, text, 0),
    };
    if let Some(user) = user {
        check_user(user).map_err(|problem| Misread { at: 0, problem })?;
    }
    let (name, slots, slots_at) = split_slots(rest).map_err(|problem| Misread { at: rest_at, problem })?;
    check_name(name).map_err(|problem| Misread { at: rest_at, problem })?;
    let slots =
        slots.map(parse_slots).transpose().map_err(|problem| Misread { at: rest_at + slots_at, problem })?;
    Ok(Entry { user: user.map(str::to_owned), name: name.to_owned(), slots })
}

/// Parses a number of slots.
pub(super) fn parse_slots(text: &str) -> Result<u32, Problem> {
    decimal(text)
        .filter(|slots| (1..=MAX_SLOTS).contains(slots))
        .ok_or_else(|| Problem::Slots { found: text.escape_default().to_string() })
}

/// Parses a TCP port.
pub(super) fn parse_port(text: &str) -> Result<u16, Problem> {
    decimal(text)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .ok_or_else(|| Problem::Port { found: text.escape_default().to_string() })
}

/// Says whether a user's name may be handed to SSH.
pub(super) fn check_user(user: &str) -> Result<(), Problem> {
    if user.is_empty() {
        return Err(Problem::EmptyUser);
    }
    check_text(user, "+\\$", "a user's name is letters, digits and . _ - + \\ $")
}

/// Says whether a host's name, or an address, may be handed to SSH.
pub(super) fn check_name(name: &str) -> Result<(), Problem> {
    if name.is_empty() {
        return Err(Problem::EmptyName);
    }
    if name.contains(':') {
        return check_ipv6(name);
    }
    check_text(name, "", "a host's name is letters, digits and . _ -")?;
    let only_digits_and_dots = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if only_digits_and_dots && name.contains('.') && name.parse::<Ipv4Addr>().is_err() {
        return Err(Problem::NotIpv4 { name: name.to_owned() });
    }
    Ok(())
}

/// A scope (`fe80::1%eth0`) is a name of the machine's own and follows the rule of names.
fn check_ipv6(name: &str) -> Result<(), Problem> {
    let (address, scope) = name.split_once('%').unwrap_or((name, "0"));
    let sound = address.parse::<Ipv6Addr>().is_ok() && !scope.is_empty();
    if !sound {
        return Err(Problem::NotIpv6 { name: name.escape_default().to_string() });
    }
    check_text(scope, "", "a scope is letters, digits and . _ -")
}

fn check_text(text: &str, also: &str, allowed: &'static str) -> Result<(), Problem> {
    if text.len() > MAX_NAME_BYTES {
        return Err(Problem::TooLong { len_bytes: text.len() });
    }
    if text.starts_with('-') {
        return Err(Problem::LikeAnOption { name: text.escape_default().to_string() });
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || also.contains(c);
    match text.chars().find(|c| !fits(*c)) {
        None => Ok(()),
        Some(c) => Err(Problem::Character {
            name: text.escape_default().to_string(),
            character: c.escape_default().to_string(),
            allowed,
        }),
    }
}

/// Splits the name from `:SLOTS`. Two or more colons without brackets are an IPv6 address as a whole.
fn split_slots(text: &str) -> Result<(&str, Option<&str>, usize), Problem> {
    if let Some(inner) = text.strip_prefix('[') {
        let (address, after) = inner.split_once(']').ok_or(Problem::UnclosedBracket)?;
        if !address.contains(':') {
            return Err(Problem::NotIpv6 { name: address.escape_default().to_string() });
        }
        return match after.strip_prefix(':') {
            Some(slots) => Ok((address, Some(slots), address.len() + 3)),
            None if after.is_empty() => Ok((address, None, 0)),
            None => Err(Problem::AfterBracket { found: after.escape_default().to_string() }),
        };
    }
    match text.split_once(':') {
        Some((name, slots)) if !slots.contains(':') => Ok((name, Some(slots), name.len() + 1)),
        _ => Ok((text, None, 0)),
    }
}

/// `u32::from_str` also takes `+4`; a count in a hostfile is digits.
fn decimal(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// The longest name that the DNS, and with it every resolver, takes.
pub(super) const MAX_NAME_BYTES: usize = 255;
