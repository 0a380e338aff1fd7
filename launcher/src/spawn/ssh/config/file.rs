//! The syntax of ssh_config files: lines, words, patterns, Host and Match blocks, Include.
//!
//! [`Reader`] walks through the files for one host and collects what applies to it, the first value of a keyword
//! winning, as ssh_config(5) says. What a keyword means is [`super`]'s matter.
//!
//! This is not the crate `ssh2-config`: its parser (0.9) knows no Match, and gives the settings of a Match block to
//! the Host block above it, so that a ProxyCommand meant for one host would be taken for another's. A test compares
//! this reader with `ssh -G`.
//!
//! It runs no command: `Match exec` that would decide is noted as something that only the system's ssh can answer.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::keywords;

/// What the criteria of Match blocks are compared with, and where relative paths begin.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    /// The host as the user wrote it.
    pub(crate) host: &'a str,
    /// The user there, where one was given beside the host.
    pub(crate) user: Option<&'a str>,
    /// The user here.
    pub(crate) local_user: &'a str,
    /// The user's home folder.
    pub(crate) home: &'a Path,
}

/// Collects the settings of one host.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    subject: Subject<'a>,
    settings: HashMap<String, Setting>,
    identity_files: Vec<String>,
    beyond: Option<String>,
    is_too_deep: bool,
    second_pass: bool,
    wants_second_pass: bool,
}

/// What a keyword was set to.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// The keyword as it is written there.
    pub(crate) keyword: String,
    /// Its words.
    pub(crate) words: Vec<String>,
    /// `FILE:LINE`.
    pub(crate) place: String,
}

impl Setting {
    /// Its words as one.
    pub(crate) fn value(&self) -> String {
        self.words.join(" ")
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.keyword, self.value(), self.place)
    }
}

/// What the files say about one host.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// By keyword in lower case.
    pub(crate) by_keyword: HashMap<String, Setting>,
    /// Every IdentityFile, in order, each once.
    pub(crate) identity_files: Vec<String>,
    /// Something that only the system's ssh can evaluate, with its place.
    pub(crate) beyond: Option<String>,
}

impl<'a> Reader<'a> {
    /// Reads the user's file and the system's, in this order; a file that is missing says nothing.
    pub(crate) fn read(subject: Subject<'a>, user_file: &Path, system_file: &Path) -> Settings {
        let mut reader = Reader {
            subject,
            settings: HashMap::new(),
            identity_files: Vec::new(),
            beyond: None,
            is_too_deep: false,
            second_pass: false,
            wants_second_pass: false,
        };
        let user_folder = reader.subject.home.join(".ssh");
        for second_pass in [false, true] {
            reader.second_pass = second_pass;
            for (file, folder) in [(user_file, &*user_folder), (system_file, Path::new("/etc/ssh"))] {
                reader.read_file(file, folder, &mut true, false, 0);
            }
            // `Match final` asks that everything be read again once the first values are known.
            if !reader.wants_second_pass {
                break;
            }
        }
        Settings { by_keyword: reader.settings, identity_files: reader.identity_files, beyond: reader.beyond }
    }

    /// `never` says that the file is included from a block that does not apply: none of its blocks does.
    fn read_file(&mut self, file: &Path, folder: &Path, active: &mut bool, never: bool, depth: u8) {
        let Ok(text) = std::fs::read(file) else { return };
        for (index, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            // Files that include each other are read as often as there are ways through them, unless this ends it.
            if self.is_too_deep {
                return;
            }
            let words = split(line);
            let Some((keyword, words)) = words.split_first() else { continue };
            let place = || format!("{}:{}", file.display(), index + 1);
            match keyword.to_ascii_lowercase().as_str() {
                "host" => *active = !never && matches_list(words, self.subject.host),
                "match" => *active = !never && self.matches_criteria(words, &place()),
                "include" if depth < MAX_INCLUDE_DEPTH => {
                    let paths: Vec<PathBuf> =
                        words.iter().flat_map(|word| self.included(word, folder)).collect();
                    for path in paths {
                        let mut active_inside = *active;
                        self.read_file(&path, folder, &mut active_inside, !*active, depth + 1);
                    }
                }
                "include" => {
                    self.is_too_deep = true;
                    self.beyond =
                        self.beyond.take().or(Some(format!("Include nested too deep ({})", place())))
                }
                lower if *active => self.set(lower, keyword, words, place()),
                _ => {}
            }
        }
    }

    fn set(&mut self, lower: &str, keyword: &str, words: &[String], place: String) {
        if words.first().is_none_or(String::is_empty) {
            self.beyond = self.beyond.take().or(Some(format!("{keyword} without a value ({place})")));
        } else if lower == "identityfile" {
            let new = words.first().filter(|file| !self.identity_files.contains(file));
            self.identity_files.extend(new.cloned());
        } else if !self.settings.contains_key(lower) && !self.is_to_be_ignored(lower) {
            let (keyword, words) = (keyword.to_owned(), words.to_vec());
            self.settings.insert(lower.to_owned(), Setting { keyword, words, place });
        }
    }

    /// IgnoreUnknown speaks about keywords behind it.
    fn is_to_be_ignored(&self, lower: &str) -> bool {
        let Some(ignored) = self.settings.get("ignoreunknown") else { return false };
        let patterns = ignored.words.iter().flat_map(|word| word.split(',')).map(str::to_ascii_lowercase);
        keywords::find(lower).is_none() && matches_list(&patterns.collect::<Vec<_>>(), lower)
    }

    fn included(&self, word: &str, folder: &Path) -> Vec<PathBuf> {
        let path = match word.strip_prefix("~/") {
            Some(rest) => self.subject.home.join(rest),
            None => folder.join(word),
        };
        let mut paths: Vec<PathBuf> =
            glob::glob(&path.to_string_lossy()).map(|found| found.flatten().collect()).unwrap_or_default();
        paths.sort();
        paths
    }

    fn matches_criteria(&mut self, words: &[String], place: &str) -> bool {
        let mut unknown = None;
        let mut words = words.iter().flat_map(|word| match word.split_once('=') {
            Some((name, value)) => vec![name, value],
            None => vec![word.as_str()],
        });
        while let Some(word) = words.next() {
            let (negated, name) = word.strip_prefix('!').map_or((false, word), |name| (true, name));
            let name = name.to_ascii_lowercase();
            let holds = match name.as_str() {
                "all" => true,
                "canonical" => false,
                "final" => {
                    self.wants_second_pass = true;
                    self.second_pass
                }
                _ => {
                    let Some(argument) = words.next() else { return false };
                    let patterns: Vec<&str> = argument.split(',').collect();
                    let first =
                        |keyword: &str| self.settings.get(keyword).and_then(|setting| setting.words.first());
                    match name.as_str() {
                        "host" => {
                            let name = first("hostname").map(|name| name.replace("%h", self.subject.host));
                            matches_host(&patterns, name.as_deref().unwrap_or(self.subject.host))
                        }
                        "originalhost" => matches_host(&patterns, self.subject.host),
                        "user" => {
                            let user = self.subject.user.or(first("user").map(String::as_str));
                            matches_list(&patterns, user.unwrap_or(self.subject.local_user))
                        }
                        "localuser" => matches_list(&patterns, self.subject.local_user),
                        "tagged" => matches_list(&patterns, first("tag").map_or("", String::as_str)),
                        "sessiontype" => matches_list(&patterns, "exec"),
                        _ => {
                            unknown = Some(format!("`Match {name}` ({place})"));
                            continue;
                        }
                    }
                }
            };
            if holds == negated {
                return false;
            }
        }
        if unknown.is_some() {
            self.beyond = self.beyond.take().or(unknown);
            return false;
        }
        true
    }
}

/// Cuts a line into keyword and words; comments and empty lines have none.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_matches([' ', '\t', '\r', '\u{c}']);
    // One equals sign may stand between the keyword and its first word.
    if let Some(end) = rest.find([' ', '\t', '=', '"']).filter(|_| !rest.starts_with('#')) {
        words.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
        rest = rest.strip_prefix('=').unwrap_or(rest);
    }
    let mut characters = rest.chars().peekable();
    loop {
        while characters.next_if(|c| c.is_ascii_whitespace()).is_some() {}
        match characters.peek() {
            None | Some('#') => return words,
            Some(_) => words.push(word(&mut characters)),
        }
    }
}

fn word(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut word = String::new();
    let mut quote = None;
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', _) if matches!(characters.peek(), Some('"' | '\'' | '\\')) => {
                word.extend(characters.next())
            }
            ('\\', None) if characters.peek() == Some(&' ') => word.extend(characters.next()),
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(character),
            (c, None) if c.is_ascii_whitespace() => break,
            (c, _) => word.push(c),
        }
    }
    word
}

/// Whether a list of patterns matches: one of them does, and none that begins with `!`.
pub(crate) fn matches_list(patterns: &[impl AsRef<str>], name: &str) -> bool {
    let mut matched = false;
    for pattern in patterns {
        let pattern = pattern.as_ref();
        match pattern.strip_prefix('!') {
            Some(negated) if matches_pattern(negated, name) => return false,
            Some(_) => {}
            None => matched |= matches_pattern(pattern, name),
        }
    }
    matched
}

/// The same for the names of hosts in Match, where letters match in either case; in Host they do not.
fn matches_host(patterns: &[&str], name: &str) -> bool {
    let patterns: Vec<String> = patterns.iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
    matches_list(&patterns, &name.to_ascii_lowercase())
}

/// `*` is any run of characters, `?` is one.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut seen, mut star) = (0, 0, None);
    while seen < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, seen));
                at += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[seen] => {
                at += 1;
                seen += 1;
            }
            // Let the last star take one more.
            _ => match star {
                Some((star_at, star_seen)) => {
                    star = Some((star_at, star_seen + 1));
                    at = star_at + 1;
                    seen = star_seen + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

const MAX_INCLUDE_DEPTH: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_include_themselves_are_left_to_ssh_at_once() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("config");
        std::fs::write(&file, format!("Include {0}\nInclude {0}\nInclude {0}\n", file.display())).unwrap();
        let subject = Subject { host: "node", user: None, local_user: "me", home: home.path() };
        let settings = Reader::read(subject, &file, Path::new("/nonexistent"));
        assert!(settings.beyond.is_some_and(|beyond| beyond.starts_with("Include nested too deep")));
    }

    #[test]
    fn words_are_cut_as_ssh_does() {
        for (line, words) in [
            ("", &[][..]),
            ("  # comment", &[]),
            ("Port 22", &["Port", "22"]),
            ("Port=22", &["Port", "22"]),
            ("\tPort = 22 # default", &["Port", "22"]),
            (r#"IdentityFile "a b" c"#, &["IdentityFile", "a b", "c"]),
            (r#"IdentityFile="a b""#, &["IdentityFile", "a b"]),
            (r#"User 'x "y"' \"z"#, &["User", r#"x "y""#, r#""z"#]),
            ("Host\ta  b\r", &["Host", "a", "b"]),
            ("Compression", &["Compression"]),
        ] {
            assert_eq!(split(line), words, "{line:?}");
        }
    }

    #[test]
    fn patterns_match_as_ssh_does() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("h?", "h1", true),
            ("h?", "h12", false),
            ("10.88.*", "10.88.0.1", true),
            ("*.example.*", "a.example.org", true),
            ("*.example.*", "example.org", false),
            ("*a*b", "xxaxxab", true),
            ("NODE", "node", false),
            ("", "a", false),
        ] {
            assert_eq!(matches_pattern(pattern, name), expected, "{pattern} {name}");
        }
        assert!(!matches_list(&["*", "!h1"], "h1"));
        assert!(matches_list(&["!h1", "h*"], "h2"));
        assert!(!matches_list(&["!h1"], "h2"), "a negation alone matches nothing");
    }
}
