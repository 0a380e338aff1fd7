//! A hostfile's lines: words, `key = value`, comments.

use std::collections::HashMap;

use super::entry::{self, Misread};
use super::merge::{self, Mention};
use super::{HostError, Problem, comments};

/// Parses a hostfile into what each line says, in order, duplicates not yet merged.
pub(super) fn parse(bytes: &[u8], file: &str) -> Result<Vec<Mention>, HostError> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let plain = comments::blanked(bytes).map_err(|at| unclosed_comment(bytes, at, file))?;
    let mut mentions = Vec::new();
    let mut addresses = Addresses::default();
    for (index, raw) in plain.split(|byte| *byte == b'\n').enumerate() {
        let line = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let at_fault = |Misread { at, problem }| HostError::Line {
            file: file.to_owned(),
            line,
            column: u32::try_from(at + 1).unwrap_or(u32::MAX),
            problem,
            text: String::from_utf8_lossy(raw).trim_end_matches('\r').to_owned(),
        };
        let text = significant(raw).map_err(at_fault)?;
        let of_line = parse_line(text, line).map_err(at_fault)?;
        merge::check_count(mentions.len(), of_line.len()).map_err(at_fault)?;
        addresses.check(text, &of_line).map_err(at_fault)?;
        mentions.extend(of_line);
    }
    Ok(mentions)
}

/// The address that each host was given, and on which line.
#[derive(Default)]
struct Addresses(HashMap<Door, (String, u32)>);

/// User, name and port.
type Door = (Option<String>, String, Option<u16>);

impl Addresses {
    /// Refuses a second address for a host: under one name nobody could say which of the two failed.
    fn check(&mut self, text: &str, of_line: &[Mention]) -> Result<(), Misread> {
        // A range has no address, so a line that gives one means one host.
        let [mention] = of_line else { return Ok(()) };
        let Some(address) = mention.address.as_ref().filter(|_| !mention.is_excluded) else { return Ok(()) };
        let (user, name, port) = mention.door();
        let door = (user.map(str::to_owned), name.to_owned(), port);
        let (first, line) = self.0.entry(door).or_insert_with(|| (address.clone(), mention.place));
        if first == address {
            return Ok(());
        }
        let problem = Problem::TwoAddresses {
            name: name.to_owned(),
            address: address.clone(),
            first: first.clone(),
            first_line: *line,
        };
        Err(Misread { at: text.len() - text.trim_start_matches([' ', '\t']).len(), problem })
    }
}

fn unclosed_comment(bytes: &[u8], at: usize, file: &str) -> HostError {
    let before = &bytes[..at];
    let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let text = bytes[start..].split(|byte| *byte == b'\n').next().unwrap_or_default();
    HostError::Line {
        file: file.to_owned(),
        line: u32::try_from(before.iter().filter(|byte| **byte == b'\n').count() + 1).unwrap_or(u32::MAX),
        column: u32::try_from(at - start + 1).unwrap_or(u32::MAX),
        problem: Problem::UnclosedComment,
        text: String::from_utf8_lossy(text).trim_end_matches('\r').to_owned(),
    }
}

/// The part of a line that counts: without its comment and its carriage return, and printable. A comment may hold
/// any bytes.
fn significant(raw: &[u8]) -> Result<&str, Misread> {
    let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
    let raw = raw.split(|byte| *byte == b'#').next().unwrap_or_default();
    let unfit = |byte: &u8| !(byte.is_ascii_graphic() || *byte == b' ' || *byte == b'\t');
    if let Some(at) = raw.iter().position(unfit) {
        return Err(Misread { at, problem: Problem::NotPrintable { byte: raw[at] } });
    }
    Ok(std::str::from_utf8(raw).expect("printable ASCII is UTF-8"))
}

fn parse_line(text: &str, line: u32) -> Result<Vec<Mention>, Misread> {
    let mut words = words(text).into_iter().peekable();
    let Some(first) = words.next() else { return Ok(Vec::new()) };
    if first.text == "=" || words.peek().is_some_and(|next| next.text == "=") {
        let like_an_option = Problem::LikeAnOption { name: first.text.to_owned() };
        let problem = if first.text.starts_with('-') { like_an_option } else { Problem::EmptyName };
        return Err(Misread { at: first.at, problem });
    }
    let mut mentions = merge::mentions(first.text, line)
        .map_err(|misread| Misread { at: first.at + misread.at, problem: misread.problem })?;
    let mut mention = mentions[0].clone();
    while let Some(key) = words.next() {
        let problem = |problem| Misread { at: key.at, problem };
        if words.next_if(|next| next.text == "=").is_none() || key.text == "=" {
            return Err(problem(Problem::NotAssignment { found: key.text.to_owned() }));
        }
        let known = known_key(key.text).map_err(problem)?;
        let value = words
            .next_if(|next| next.text != "=")
            .ok_or_else(|| problem(Problem::MissingValue { key: key.text.to_owned() }))?;
        let at_value = |problem| Misread { at: value.at, problem };
        let again = match known {
            Key::Slots => {
                let slots = entry::parse_slots(value.text).map_err(at_value)?;
                mention.slots.replace(slots).map(|_| "slots")
            }
            Key::MaxSlots => {
                let most = entry::parse_slots(value.text).map_err(at_value)?;
                mention.max_slots.replace(most).map(|_| "max_slots")
            }
            Key::Port => {
                let port = entry::parse_port(value.text).map_err(at_value)?;
                mention.port.replace(port).map(|_| "port")
            }
            Key::User => {
                entry::check_user(value.text).map_err(at_value)?;
                mention.user.replace(value.text.to_owned()).map(|_| "user")
            }
            Key::Address | Key::Alias if mentions.len() > 1 => {
                return Err(problem(Problem::OfARange { key: key.text.to_owned() }));
            }
            Key::Address => {
                entry::check_name(value.text).map_err(at_value)?;
                mention.address.replace(value.text.to_owned()).map(|_| "the address")
            }
            Key::Alias => {
                entry::check_name(value.text).map_err(at_value)?;
                let address = std::mem::replace(&mut mention.name, value.text.to_owned());
                mention.address.replace(address).map(|_| "the address")
            }
        };
        if let Some(what) = again {
            return Err(problem(Problem::Twice { what }));
        }
    }
    match (mention.slots, mention.max_slots) {
        (Some(slots), Some(most)) if most < slots => {
            return Err(Misread { at: first.at, problem: Problem::MaxBelowSlots { slots, most } });
        }
        // As under Open MPI.
        (None, most @ Some(_)) => mention.slots = most,
        _ => {}
    }
    for each in &mut mentions {
        (each.slots, each.max_slots) = (mention.slots, mention.max_slots);
        (each.port, each.user) = (mention.port, mention.user.clone());
        if mention.address.is_some() {
            (each.name, each.address) = (mention.name.clone(), mention.address.clone());
        }
    }
    Ok(mentions)
}

#[derive(Clone, Copy)]
enum Key {
    Slots,
    MaxSlots,
    Port,
    User,
    Address,
    Alias,
}

/// Open MPI's spellings are taken too, in upper or lower case as its own reader does.
fn known_key(text: &str) -> Result<Key, Problem> {
    let lower = text.to_ascii_lowercase();
    if let Some((_, key)) = KEYS.iter().find(|(name, _)| *name == lower) {
        return Ok(*key);
    }
    let plain = lower.replace('_', "-");
    let counted = plain.strip_prefix("max-").or_else(|| plain.strip_suffix("-max"));
    if counted.is_some_and(|counted| matches!(counted, "slots" | "slot" | "cpu" | "count")) {
        return Ok(Key::MaxSlots);
    }
    let suggestion = KEYS
        .iter()
        .map(|(name, _)| (*name, strsim::jaro_winkler(name, &lower)))
        .filter(|(_, likeness)| *likeness > 0.75)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(name, _)| name);
    Err(Problem::UnknownKey { key: text.to_owned(), suggestion })
}

/// A word of a line, and how many bytes into it. `=` is a word of its own, with or without blanks around it.
struct Word<'a> {
    at: usize,
    text: &'a str,
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut at = 0;
    for piece in text.split_inclusive([' ', '\t', '=']) {
        let (word, end) = match piece.char_indices().next_back() {
            Some((last, end @ (' ' | '\t' | '='))) => (&piece[..last], Some(end)),
            _ => (piece, None),
        };
        if !word.is_empty() {
            words.push(Word { at, text: word });
        }
        if end == Some('=') {
            words.push(Word { at: at + word.len(), text: "=" });
        }
        at += piece.len();
    }
    words
}

const KEYS: &[(&str, Key)] = &[
    ("slots", Key::Slots),
    ("port", Key::Port),
    ("user", Key::User),
    ("cpu", Key::Slots),
    ("count", Key::Slots),
    ("username", Key::User),
    ("user-name", Key::User),
    ("user_name", Key::User),
    ("ip", Key::Address),
    ("alias", Key::Alias),
];

/// Editors on Windows begin a UTF-8 file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
