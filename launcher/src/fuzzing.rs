//! Doors for the fuzz targets to what reads bytes from outside and is nobody else's to call.
//!
//! Given bytes, they give what came of them in plain words. Nothing of the launcher uses this module.

use std::path::Path;

use crate::spawn::push::PushError;
use crate::spawn::push::dialogue::{Dialogue, Reply};
use crate::spawn::ssh::known_hosts::{KnownHosts, RecordName, Verdict, add};

/// What a line of the remote shell has in front of its word.
pub const MARKER: &str = crate::spawn::push::script::MARKER;

/// What a word of the remote shell led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// It wants the executable.
    Wants,
    /// The agent was started; the rest is its own.
    Started(String),
    /// Something else printed behind its last word.
    Stray,
    /// There will be no agent, and why.
    Failed(String),
}

/// Listens to a remote shell that prints these parts and then ends. The last that was heard is a start or a failure.
pub fn converse<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<Heard> {
    let mut dialogue = Dialogue::new();
    let mut heard = Vec::new();
    for part in parts {
        if let Err(error) = dialogue.push(part) {
            heard.push(Heard::Failed(error.to_string()));
            return heard;
        }
        loop {
            match dialogue.next_reply() {
                Ok(None) => break,
                Ok(Some(Reply::SendExecutable)) => heard.push(Heard::Wants),
                Ok(Some(started @ Reply::Started { .. })) => {
                    heard.push(Heard::Started(format!("{started:?}")));
                    return heard;
                }
                Err(PushError::Stray(_)) => {
                    heard.push(Heard::Stray);
                    return heard;
                }
                Err(error) => {
                    heard.push(Heard::Failed(error.to_string()));
                    return heard;
                }
            }
        }
    }
    heard.push(Heard::Failed(dialogue.ended().to_string()));
    heard
}

/// What a known_hosts file says about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStanding {
    /// It is on record.
    Known,
    /// Nothing is.
    Unknown,
    /// Another is.
    Changed,
    /// It is never to be accepted.
    Revoked,
}

/// Judges the key of a host by a file.
pub fn judge_host_key(file: &Path, host: &str, port: u16, key: &[u8]) -> KeyStanding {
    let name = RecordName::new(host, port, None);
    let known = KnownHosts::read(&[file.to_owned()]);
    // What a connection asks beside it must bear the file too.
    let _ = (known.key_types(&name).len(), known.needs_certificate(&name));
    match known.judge(&name, key) {
        Verdict::Known => KeyStanding::Known,
        Verdict::Unknown => KeyStanding::Unknown,
        Verdict::Changed(_) => KeyStanding::Changed,
        Verdict::Revoked(_) => KeyStanding::Revoked,
    }
}

/// Puts the key of a host on record.
///
/// # Panics
///
/// When the file cannot be written.
pub fn record_host_key(file: &Path, host: &str, port: u16, key: &[u8]) {
    add(file, &RecordName::new(host, port, None), key, false).expect("the file can be written");
}
