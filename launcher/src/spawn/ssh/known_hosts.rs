//! Known host keys: reading known_hosts files, judging a key, adding one.
//!
//! The rules are ssh's. A key is *known* when a line for the host has it; *changed* when lines for the host have
//! another key of the same type; else *unknown*. A host on another port than 22 is on record as `[host]:port`, and a
//! matching key under the plain name will do too. Names are plain, patterns, or hashed. What is on record under
//! `@revoked` is never accepted; `@cert-authority` lines are left to the system's ssh.
//!
//! libssh2 has such a reader; it compares keys of any type with any other, so that a host with two keys looks
//! changed, and knows no patterns and no markers.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::spawn::ssh::config::file::matches_list;

/// The lines of some known_hosts files.
#[derive(Debug, Default)]
pub(crate) struct KnownHosts {
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    file: PathBuf,
    number: usize,
    marker: Option<String>,
    hosts: Hosts,
    key_type: String,
    key: Vec<u8>,
}

#[derive(Debug)]
enum Hosts {
    Patterns(Vec<String>),
    Hashed { salt: Vec<u8>, hash: Vec<u8> },
}

/// What the files say about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is on record.
    Known,
    /// The host, or this type of key of it, is not on record.
    Unknown,
    /// Another key of this type is on record, here.
    Changed(Record),
    /// It is on record as revoked, here.
    Revoked(Record),
}

/// A key on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) file: PathBuf,
    /// The line in it, from 1.
    pub(crate) line: usize,
    /// `SHA256:…`
    pub(crate) fingerprint: String,
}

/// The name that a host is on record under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordName {
    /// `host`, or `[host]:port`.
    pub(crate) name: String,
    /// The host without its port, whose key will do too.
    plain: Option<String>,
}

impl RecordName {
    /// The name of a host and port; an alias replaces both.
    pub(crate) fn new(host: &str, port: u16, alias: Option<&str>) -> Self {
        let host = host.to_ascii_lowercase();
        match alias {
            Some(alias) => RecordName { name: alias.to_ascii_lowercase(), plain: None },
            None if port == 22 => RecordName { name: host, plain: None },
            None => RecordName { name: format!("[{host}]:{port}"), plain: Some(host) },
        }
    }
}

impl KnownHosts {
    /// Reads these files; one that is missing has no lines, and lines that make no sense are passed over, as ssh does.
    pub(crate) fn read(files: &[PathBuf]) -> KnownHosts {
        let mut lines = Vec::new();
        for file in files {
            let text = std::fs::read(file).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let parsed = text.lines().enumerate();
            lines.extend(parsed.filter_map(|(index, line)| Line::parse(file, index + 1, line)));
        }
        KnownHosts { lines }
    }

    /// The key on record in one line of a file, which ssh has complained about.
    pub(crate) fn record_at(file: &Path, number: usize) -> Option<Record> {
        KnownHosts::read(&[file.to_owned()]).lines.iter().find(|line| line.number == number).map(Line::record)
    }

    /// Judges the key that a host presented.
    pub(crate) fn judge(&self, host: &RecordName, key: &[u8]) -> Verdict {
        let of = |name: &str| -> Vec<&Line> { self.lines.iter().filter(|line| line.names(name)).collect() };
        let (lines, plain_lines) = (of(&host.name), host.plain.as_deref().map(of).unwrap_or_default());
        let has_key = |line: &&&Line| line.key == key;
        let all = || lines.iter().chain(&plain_lines);
        if let Some(line) = all().filter(|line| line.is_revoked()).find(has_key) {
            return Verdict::Revoked(line.record());
        }
        if all().filter(|line| line.marker.is_none()).any(|line| line.key == key) {
            return Verdict::Known;
        }
        let same_type = |line: &&&Line| line.marker.is_none() && line.key_type == key_type(key);
        match lines.iter().find(same_type) {
            Some(line) => Verdict::Changed(line.record()),
            None => Verdict::Unknown,
        }
    }

    /// The types of the keys on record for a host: asked for one of these, it does not look like another.
    pub(crate) fn key_types(&self, host: &RecordName) -> Vec<&str> {
        let names = |line: &&Line| {
            line.names(&host.name) || host.plain.as_deref().is_some_and(|name| line.names(name))
        };
        let own = self.lines.iter().filter(|line| line.marker.is_none()).filter(names);
        own.map(|line| line.key_type.as_str()).collect()
    }

    /// Whether the host is on record by a certificate authority alone.
    pub(crate) fn needs_certificate(&self, host: &RecordName) -> bool {
        let is_authority = |line: &Line| line.marker.as_deref() == Some("@cert-authority");
        self.key_types(host).is_empty()
            && self.lines.iter().any(|line| is_authority(line) && line.names(&host.name))
    }
}

impl Line {
    fn parse(file: &Path, number: usize, line: &str) -> Option<Line> {
        let mut words = line.split_ascii_whitespace().peekable();
        let marker = words.next_if(|word| word.starts_with('@')).map(str::to_owned);
        let hosts = words.next().filter(|hosts| !hosts.starts_with('#'))?;
        let key_type = words.next()?.to_owned();
        let key = BASE64_STANDARD.decode(words.next()?).ok()?;
        let hosts = match hosts.strip_prefix("|1|") {
            Some(hashed) => {
                let (salt, hash) = hashed.split_once('|')?;
                Hosts::Hashed {
                    salt: BASE64_STANDARD.decode(salt).ok()?,
                    hash: BASE64_STANDARD.decode(hash).ok()?,
                }
            }
            None => Hosts::Patterns(hosts.split(',').map(str::to_ascii_lowercase).collect()),
        };
        Some(Line { file: file.to_owned(), number, marker, hosts, key_type, key })
    }

    fn record(&self) -> Record {
        Record { file: self.file.clone(), line: self.number, fingerprint: fingerprint(&self.key) }
    }

    fn names(&self, name: &str) -> bool {
        match &self.hosts {
            Hosts::Patterns(patterns) => matches_list(patterns, name),
            Hosts::Hashed { salt, hash } => hashed(salt, name) == *hash,
        }
    }

    fn is_revoked(&self) -> bool {
        self.marker.as_deref() == Some("@revoked")
    }
}

/// A key as ssh-keygen shows it: `SHA256:…`.
pub(crate) fn fingerprint(key: &[u8]) -> String {
    format!("SHA256:{}", BASE64_STANDARD_NO_PAD.encode(Sha256::digest(key)))
}

/// The type that a public key's bytes name: `ssh-ed25519`.
pub(crate) fn key_type(key: &[u8]) -> &str {
    let name =
        key.split_first_chunk::<4>().and_then(|(len, rest)| rest.get(..u32::from_be_bytes(*len) as usize));
    name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("unknown")
}

/// Adds a key to a file, which is made if it is missing.
///
/// # Errors
///
/// When the file, or its folder, cannot be written.
pub(crate) fn add(file: &Path, host: &RecordName, key: &[u8], hash: bool) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let name = if hash {
        let mut salt = [0; 20];
        getrandom::fill(&mut salt).map_err(io::Error::other)?;
        format!("|1|{}|{}", BASE64_STANDARD.encode(salt), BASE64_STANDARD.encode(hashed(&salt, &host.name)))
    } else {
        host.name.clone()
    };
    let line = format!("{name} {} {}\n", key_type(key), BASE64_STANDARD.encode(key));
    // One write: other processes may be adding lines too.
    std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(file)?.write_all(line.as_bytes())
}

fn hashed(salt: &[u8], name: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha1>::new_from_slice(salt).expect("HMAC takes a key of any length");
    mac.update(name.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str, body: &str) -> Vec<u8> {
        let mut key = u32::try_from(kind.len()).unwrap().to_be_bytes().to_vec();
        key.extend_from_slice(kind.as_bytes());
        key.extend_from_slice(body.as_bytes());
        key
    }

    fn read(text: &str) -> KnownHosts {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_hosts");
        let (ed, ecdsa) = (key("ssh-ed25519", "1"), key("ecdsa-sha2-nistp256", "2"));
        let text = text.replace("ED", &format!("ssh-ed25519 {}", BASE64_STANDARD.encode(ed)));
        let text = text.replace("EC", &format!("ecdsa-sha2-nistp256 {}", BASE64_STANDARD.encode(ecdsa)));
        std::fs::write(&file, text).unwrap();
        KnownHosts::read(&[folder.path().join("missing"), file])
    }

    fn at_line(line: usize) -> Record {
        Record { file: PathBuf::new(), line, fingerprint: String::new() }
    }

    fn judge(known: &KnownHosts, host: &str, port: u16, key: &[u8]) -> Verdict {
        match known.judge(&RecordName::new(host, port, None), key) {
            Verdict::Changed(record) => Verdict::Changed(at_line(record.line)),
            Verdict::Revoked(record) => Verdict::Revoked(at_line(record.line)),
            other => other,
        }
    }

    #[test]
    fn a_key_is_known_changed_or_unknown() {
        let known = read(
            "# comment\n\nnode,10.0.0.1 ED\n*.example.org,!bad.example.org ED comment\n[node]:2222 EC\n",
        );
        let ed = key("ssh-ed25519", "1");
        let changed = key("ssh-ed25519", "x");
        assert_eq!(judge(&known, "node", 22, &ed), Verdict::Known);
        assert_eq!(judge(&known, "NODE", 22, &ed), Verdict::Known);
        assert_eq!(judge(&known, "10.0.0.1", 22, &changed), Verdict::Changed(at_line(3)));
        assert_eq!(judge(&known, "other", 22, &ed), Verdict::Unknown);
        assert_eq!(judge(&known, "a.example.org", 22, &ed), Verdict::Known);
        assert_eq!(judge(&known, "bad.example.org", 22, &ed), Verdict::Unknown);
    }

    #[test]
    fn another_type_of_key_is_not_a_changed_key() {
        let known = read("node ED\n");
        assert_eq!(judge(&known, "node", 22, &key("ecdsa-sha2-nistp256", "2")), Verdict::Unknown);
        assert_eq!(known.key_types(&RecordName::new("node", 22, None)), ["ssh-ed25519"]);
    }

    #[test]
    fn ports_have_records_of_their_own_and_the_plain_name_will_do() {
        let known = read("[node]:2222 EC\nnode ED\n");
        assert_eq!(judge(&known, "node", 2222, &key("ecdsa-sha2-nistp256", "2")), Verdict::Known);
        assert_eq!(judge(&known, "node", 2222, &key("ssh-ed25519", "1")), Verdict::Known);
        assert_eq!(judge(&known, "node", 2222, &key("ssh-ed25519", "x")), Verdict::Unknown);
        assert_eq!(judge(&known, "node", 22, &key("ecdsa-sha2-nistp256", "2")), Verdict::Unknown);
    }

    #[test]
    fn an_alias_replaces_name_and_port() {
        let known = read("cluster ED\n");
        let name = RecordName::new("node", 2222, Some("cluster"));
        assert_eq!(known.judge(&name, &key("ssh-ed25519", "1")), Verdict::Known);
    }

    #[test]
    fn markers_are_heeded() {
        let known = read("@revoked * EC\n@cert-authority *.org ED\nnode EC\n");
        assert_eq!(judge(&known, "node", 22, &key("ecdsa-sha2-nistp256", "2")), Verdict::Revoked(at_line(1)));
        assert_eq!(judge(&known, "a.org", 22, &key("ssh-ed25519", "1")), Verdict::Unknown);
        assert!(known.needs_certificate(&RecordName::new("a.org", 22, None)));
        assert!(!known.needs_certificate(&RecordName::new("node", 22, None)));
    }

    #[test]
    fn what_is_added_is_known_to_us_and_to_ssh_keygen() {
        let folder = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(folder.path().join("key"))
            .status();
        if made.is_err() {
            println!("SKIPPED: what_is_added_is_known_to_us_and_to_ssh_keygen: there is no ssh-keygen");
            return;
        }
        let public = std::fs::read_to_string(folder.path().join("key.pub")).unwrap();
        let blob = BASE64_STANDARD.decode(public.split(' ').nth(1).unwrap()).unwrap();
        let file = folder.path().join(".ssh/known_hosts");
        for (host, hash) in [("plain", false), ("hashed", true)] {
            let name = RecordName::new(host, 2222, None);
            add(&file, &name, &blob, hash).unwrap();
            assert_eq!(KnownHosts::read(std::slice::from_ref(&file)).judge(&name, &blob), Verdict::Known);
            let found = std::process::Command::new("ssh-keygen")
                .arg("-F")
                .arg(&name.name)
                .arg("-f")
                .arg(&file)
                .output();
            assert!(found.unwrap().status.success(), "ssh-keygen finds {host}");
        }
        assert!(!std::fs::read_to_string(&file).unwrap().contains("[hashed]"));
    }
}
