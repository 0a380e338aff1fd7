//! What can be wrong with a hostfile or a host list.

use super::{MAX_HOSTS, MAX_SLOTS};

/// Why there are no hosts: the place, and the problem found there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// A line of the hostfile is wrong.
    #[error("{file}:{line}:{column}: {problem}{}", excerpt(.text, *.column))]
    Line {
        /// The file, as the user wrote it.
        file: String,
        /// The line, from 1.
        line: u32,
        /// The column of the word or character at fault, from 1.
        column: u32,
        /// What is wrong there.
        problem: Problem,
        /// The line as written.
        text: String,
    },
    /// An item of `-H` is wrong.
    #[error("-H, item {item} (`{text}`), column {column}: {problem}")]
    Item {
        /// Which item, from 1.
        item: usize,
        /// The item as written, control characters escaped.
        text: String,
        /// The column in the item of the character at fault, from 1.
        column: usize,
        /// What is wrong with it.
        problem: Problem,
    },
    /// `-H` selects a host that the hostfile lacks.
    #[error("-H selects `{name}`, which {file} does not have; it has {}", .has.join(", "))]
    NotInHostfile {
        /// The host that was asked for.
        name: String,
        /// The file.
        file: String,
        /// The hosts in the file.
        has: Vec<String>,
    },
    /// Every host was taken away by `^`.
    #[error("{by} takes away every host that it names: leave out a `^`")]
    AllExcluded {
        /// The file, or `-H`.
        by: String,
    },
    /// The hostfile holds nothing but blank lines and comments.
    #[error("{file} names no host: write one host per line, such as `10.0.0.1 slots=8`")]
    NoHosts {
        /// The file.
        file: String,
    },
}

/// What is wrong with one entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The number of slots is not one.
    #[error("slots must be a number from 1 to {MAX_SLOTS}, found `{found}`")]
    Slots {
        /// The value, control characters escaped.
        found: String,
    },
    /// What stands between brackets is no range.
    #[error("`[{found}]` is no range: write `[01-16]` or `[1,3-4]`")]
    Range {
        /// What was found.
        found: String,
    },
    /// Ranges that mean more hosts than anybody has.
    #[error("that is more than {MAX_HOSTS} hosts")]
    TooManyHosts,
    /// `/*` without `*/`.
    #[error("a comment begins with `/*` and has no `*/`")]
    UnclosedComment,
    /// The port is not one.
    #[error("port must be a number from 1 to 65535, found `{found}`")]
    Port {
        /// The value, control characters escaped.
        found: String,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}`{}", did_you_mean(.suggestion, "the keys are slots, max_slots, port, user, ip and alias"))]
    UnknownKey {
        /// The key.
        key: String,
        /// The key that it resembles.
        suggestion: Option<&'static str>,
    },
    /// The most slots are fewer than the slots.
    #[error("max_slots={most} is below slots={slots}")]
    MaxBelowSlots {
        /// `slots=`.
        slots: u32,
        /// `max_slots=`.
        most: u32,
    },
    /// A key without a value.
    #[error("`{key}` needs a value, such as `{key}=4`")]
    MissingValue {
        /// The key.
        key: String,
    },
    /// A word that is neither host nor `key=value`.
    #[error("expected key=value such as `slots=4`, found `{found}`; one host per line")]
    NotAssignment {
        /// The word.
        found: String,
    },
    /// The same thing is said twice in one entry.
    #[error("{what} is given twice for this host")]
    Twice {
        /// `slots`, `port`, `user`, `the address`.
        what: &'static str,
    },
    /// One host with two addresses.
    #[error(
        "`{name}` is at {address} here and at {first} on line {first_line}: give each machine a name of its own, or leave \
         the wrong address out"
    )]
    TwoAddresses {
        /// The host's name.
        name: String,
        /// The address on this line.
        address: String,
        /// The address that was given first.
        first: String,
        /// The line that gave it, from 1.
        first_line: u32,
    },
    /// One address for several hosts.
    #[error("`{key}` is one host's, and the name before it means several")]
    OfARange {
        /// `ip`, `alias`.
        key: String,
    },
    /// No name where one is needed.
    #[error("a host's name is missing here")]
    EmptyName,
    /// `@` with nothing before it.
    #[error("a user's name is missing before `@`")]
    EmptyUser,
    /// A name that SSH would take for an option.
    #[error("`{name}` begins with `-`: SSH would take it for an option")]
    LikeAnOption {
        /// The name.
        name: String,
    },
    /// A character that has no place in a name.
    #[error("`{name}` holds `{character}`: {allowed}")]
    Character {
        /// The name, control characters escaped.
        name: String,
        /// The character, escaped.
        character: String,
        /// What is allowed instead.
        allowed: &'static str,
    },
    /// Digits and dots that are no address.
    #[error("`{name}` is no IPv4 address; are two addresses written on one line?")]
    NotIpv4 {
        /// What was found.
        name: String,
    },
    /// Colons, but no address.
    #[error("`{name}` is no IPv6 address; slots are written `name:4`, or `[fd00::1]:4` after an address")]
    NotIpv6 {
        /// What was found.
        name: String,
    },
    /// `[` without `]`.
    #[error("`[` without its `]`")]
    UnclosedBracket,
    /// Something behind `]` that is not `:N`.
    #[error("expected `:SLOTS` or a blank after `]`, found `{found}`")]
    AfterBracket {
        /// What was found.
        found: String,
    },
    /// A name longer than any resolver takes.
    #[error("a name of {len_bytes} bytes: the longest is 255")]
    TooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// A byte that is not printable ASCII, in the part of a line that counts.
    #[error("byte 0x{byte:02x} is not printable ASCII{}", if *.byte == 0 { " (is the file UTF-16?)" } else { "" })]
    NotPrintable {
        /// The byte.
        byte: u8,
    },
}

/// The line, and a caret below the column. Only printable ASCII can come before a fault, so a byte is a column.
fn excerpt(text: &str, column: u32) -> String {
    let at = (column as usize).saturating_sub(1);
    // A window around the fault, of a line that no terminal could show.
    let start = at.saturating_sub(EXCERPT_COLUMNS / 2);
    let shown: String = text.chars().skip(start).take(EXCERPT_COLUMNS).map(shown).collect();
    format!("\n  {}\n  {}^", shown.trim_end(), " ".repeat(at - start))
}

/// One column wide, whatever the terminal would make of it.
fn shown(character: char) -> char {
    match character {
        '\t' => ' ',
        control if control.is_control() => '?',
        other => other,
    }
}

/// How much of a line is shown.
const EXCERPT_COLUMNS: usize = 120;

fn did_you_mean(suggestion: &Option<&'static str>, otherwise: &str) -> String {
    match suggestion {
        Some(word) => format!(": did you mean `{word}`?"),
        None => format!(": {otherwise}"),
    }
}
