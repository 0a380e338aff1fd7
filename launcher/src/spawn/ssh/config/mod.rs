//! What the user's and the machine's ssh_config ask for one host.
//!
//! [`HostConfig::resolve`] reads the files anew and gives the values that the built-in SSH acts on, defaults filled in.
//! [`HostConfig::needs_system_ssh`] says when a host asks for something that only the system's `ssh` can do.
//!
//! `keywords` has the table that says for every keyword which of the two it is, or why it makes no difference.

pub(crate) mod file;
mod keywords;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::job::Host;
use file::{Reader, Setting, Settings, Subject};
use keywords::Treatment;

/// Where this process's SSH things are.
#[derive(Debug, Clone)]
pub struct SshEnvironment {
    /// The home folder, whose `.ssh` is meant.
    pub home: PathBuf,
    /// The user here.
    pub local_user: String,
    /// `~/.ssh/config`.
    pub user_config: PathBuf,
    /// `/etc/ssh/ssh_config`.
    pub system_config: PathBuf,
    /// `SSH_AUTH_SOCK`.
    pub agent_socket: Option<PathBuf>,
}

impl SshEnvironment {
    /// What ssh run by this process would use: the home folder is the one of the user database, as ssh has it, and
    /// HOME only where that has none.
    pub fn of_this_process() -> Self {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        let (home, local_user) = match user {
            Some(user) => (user.dir, user.name),
            None => {
                (env_path("HOME").unwrap_or_else(|| "/".into()), std::env::var("USER").unwrap_or_default())
            }
        };
        SshEnvironment {
            user_config: home.join(".ssh/config"),
            home,
            local_user,
            system_config: "/etc/ssh/ssh_config".into(),
            agent_socket: env_path("SSH_AUTH_SOCK"),
        }
    }
}

fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from)
}

/// How to reach a host by SSH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// The host as the user wrote it.
    pub host: String,
    /// The name or address to connect to.
    pub host_name: String,
    /// The port.
    pub port: u16,
    /// The user there.
    pub user: String,
    /// Key files, in the order they are tried.
    pub identity_files: Vec<PathBuf>,
    /// Whether the configuration named key files: then they come before other keys of the agent.
    pub identities_named: bool,
    /// Whether other keys of the agent are not to be tried.
    pub identities_only: bool,
    /// The socket of the SSH agent.
    pub agent_socket: Option<PathBuf>,
    /// Files of known host keys, the user's first; new keys go into the first.
    pub known_hosts: Vec<PathBuf>,
    /// What to do about unknown and changed host keys.
    pub host_key_check: HostKeyCheck,
    /// Whether names in known_hosts are hashed when one is added.
    pub hash_known_hosts: bool,
    /// The name that the host's key is on record under, where it is not the host's.
    pub host_key_alias: Option<String>,
    /// ConnectTimeout, and where it is set.
    pub connect_timeout: Option<(Duration, String)>,
    /// ConnectionAttempts.
    pub connection_attempts: u32,
    /// Which addresses may be tried.
    pub address_family: AddressFamily,
    /// Algorithms, where the configuration lists them.
    pub algorithms: Algorithms,
    /// SetEnv: names and values.
    pub set_env: Vec<(String, String)>,
    /// Where GSSAPIAuthentication is asked for.
    pub gssapi_at: Option<String>,
    /// What is set and makes no difference here, each with its place and the reason.
    pub no_difference: Vec<String>,
    system_ssh: Option<String>,
}

/// StrictHostKeyChecking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeyCheck {
    /// `yes` and `ask`: only known keys; there is nobody to ask.
    Strict,
    /// `accept-new`: unknown keys are added, changed ones refused.
    AcceptNew,
    /// `no`: unknown keys are added, changed ones accepted for now.
    Off,
}

/// AddressFamily.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFamily {
    /// `any`.
    Any,
    /// `inet`.
    V4,
    /// `inet6`.
    V6,
}

/// Algorithms that the configuration lists; none means the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Algorithms {
    /// KexAlgorithms.
    pub key_exchange: Option<Algorithm>,
    /// Ciphers.
    pub ciphers: Option<Algorithm>,
    /// MACs.
    pub macs: Option<Algorithm>,
    /// HostKeyAlgorithms.
    pub host_keys: Option<Algorithm>,
}

/// One of these lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Algorithm {
    /// The names, in order of preference.
    pub names: Vec<String>,
    /// The keyword with its value and place.
    pub setting: String,
}

impl HostConfig {
    /// Reads what the files say about a host; a user and a port given beside the host win over them.
    pub fn resolve(host: &Host, environment: &SshEnvironment) -> HostConfig {
        let subject = Subject {
            host: &host.name,
            user: host.user.as_deref(),
            local_user: &environment.local_user,
            home: &environment.home,
        };
        let settings = Reader::read(subject, &environment.user_config, &environment.system_config);
        Resolver { host, environment, settings }.resolve()
    }

    /// Says what asks for the system's `ssh`, if anything does: `ProxyJump bastion (/home/ann/.ssh/config:3)`.
    pub fn needs_system_ssh(&self) -> Option<&str> {
        self.system_ssh.as_deref()
    }
}

struct Resolver<'a> {
    host: &'a Host,
    environment: &'a SshEnvironment,
    settings: Settings,
}

impl Resolver<'_> {
    fn resolve(self) -> HostConfig {
        let written = &self.host.name;
        let host_name = match self.word("hostname") {
            _ if self.host.address.is_some() => self.host.destination().to_owned(),
            Some(name) => name.replace("%h", written).replace("%%", "%"),
            None => written.clone(),
        };
        let port = self.host.port.or_else(|| self.word("port")?.parse().ok()).unwrap_or(22);
        let user = self.host.user.clone().or_else(|| self.word("user").map(str::to_owned));
        let user = user.unwrap_or_else(|| self.environment.local_user.clone());
        let paths = Paths { resolver: &self, host_name: &host_name, port, user: &user };

        let beyond = self.beyond_builtin();
        let mut in_paths = None;
        let mut expanded = |words: Vec<String>| -> Vec<PathBuf> {
            let (paths, faults): (Vec<_>, Vec<_>) =
                words.iter().map(|word| paths.expand(word)).partition(Result::is_ok);
            in_paths = in_paths.take().or_else(|| faults.into_iter().find_map(Result::err));
            paths.into_iter().flatten().collect()
        };
        let identities_named = !self.settings.identity_files.is_empty();
        let identity_files = match &self.settings.identity_files {
            none if none.is_empty() => DEFAULT_IDENTITIES.map(|name| format!("~/.ssh/{name}")).to_vec(),
            files => files.iter().filter(|file| !file.eq_ignore_ascii_case("none")).cloned().collect(),
        };
        let identity_files = expanded(identity_files);
        let mut known_hosts =
            expanded(self.words_or("userknownhostsfile", &["~/.ssh/known_hosts", "~/.ssh/known_hosts2"]));
        known_hosts.extend(expanded(
            self.words_or("globalknownhostsfile", &["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"]),
        ));
        let agent_socket = match self.word("identityagent") {
            None | Some("SSH_AUTH_SOCK") => self.environment.agent_socket.clone(),
            Some(word) if word.eq_ignore_ascii_case("none") => None,
            Some(word) => match word.strip_prefix('$').filter(|name| !name.starts_with('{')) {
                Some(name) => env_path(name),
                None => expanded(vec![word.to_owned()]).pop(),
            },
        };
        let reasons: Vec<String> =
            beyond.into_iter().chain(in_paths).chain(certificate_beside(&identity_files)).collect();

        HostConfig {
            host: written.clone(),
            port,
            identity_files,
            identities_named,
            identities_only: self.is_yes("identitiesonly"),
            agent_socket,
            known_hosts,
            host_key_check: match self.word("stricthostkeychecking") {
                Some("accept-new") => HostKeyCheck::AcceptNew,
                Some("no" | "off" | "false") => HostKeyCheck::Off,
                _ => HostKeyCheck::Strict,
            },
            hash_known_hosts: self.is_yes("hashknownhosts"),
            host_key_alias: self.word("hostkeyalias").map(str::to_owned),
            connect_timeout: self
                .setting("connecttimeout")
                .and_then(|setting| Some((duration(&setting.value())?, setting.place.clone()))),
            connection_attempts: self
                .word("connectionattempts")
                .and_then(|word| word.parse().ok())
                .unwrap_or(1),
            address_family: match self.word("addressfamily") {
                Some("inet") => AddressFamily::V4,
                Some("inet6") => AddressFamily::V6,
                _ => AddressFamily::Any,
            },
            algorithms: Algorithms {
                key_exchange: self.algorithms("kexalgorithms"),
                ciphers: self.algorithms("ciphers"),
                macs: self.algorithms("macs"),
                host_keys: self.algorithms("hostkeyalgorithms"),
            },
            set_env: self.set_env(),
            gssapi_at: self
                .setting("gssapiauthentication")
                .filter(|_| self.is_yes("gssapiauthentication"))
                .map(|setting| setting.place.clone()),
            no_difference: self.no_difference(),
            system_ssh: (!reasons.is_empty()).then(|| reasons.join(", ")),
            host_name,
            user,
        }
    }

    /// What the built-in SSH cannot do, does not know or cannot read; the way to the host first.
    fn beyond_builtin(&self) -> Vec<String> {
        let reason = |(lower, setting): (&String, &Setting)| {
            let value = setting.value();
            match keywords::find(lower) {
                None => Some(format!("{setting}, a keyword that efarun does not know")),
                Some((_, Treatment::System(matters))) => matters(&value).then(|| setting.to_string()),
                Some((_, Treatment::Honoured(is_readable))) => {
                    (!is_readable(&value)).then(|| setting.to_string())
                }
                Some((_, Treatment::NoDifference(_))) => None,
            }
        };
        let mut reasons: Vec<String> = self.settings.by_keyword.iter().filter_map(reason).collect();
        reasons.extend(self.settings.beyond.clone());
        reasons.sort_by_key(|reason| (!reason.to_ascii_lowercase().starts_with("proxy"), reason.clone()));
        reasons
    }

    fn no_difference(&self) -> Vec<String> {
        let reason = |(lower, setting): (&String, &Setting)| match keywords::find(lower) {
            Some((_, Treatment::NoDifference(reason))) => Some(format!("{setting}: {reason}")),
            _ => None,
        };
        let mut reasons: Vec<String> = self.settings.by_keyword.iter().filter_map(reason).collect();
        reasons.sort();
        reasons
    }

    fn set_env(&self) -> Vec<(String, String)> {
        let words = self.setting("setenv").map_or(&[][..], |setting| &setting.words);
        let pair =
            |word: &String| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        words.iter().filter_map(pair).collect()
    }

    fn setting(&self, keyword: &str) -> Option<&Setting> {
        self.settings.by_keyword.get(keyword)
    }

    fn word(&self, keyword: &str) -> Option<&str> {
        self.setting(keyword)?.words.first().map(String::as_str)
    }

    fn words_or(&self, keyword: &str, default: &[&str]) -> Vec<String> {
        match self.setting(keyword) {
            Some(setting) => {
                setting.words.iter().filter(|word| !word.eq_ignore_ascii_case("none")).cloned().collect()
            }
            None => default.iter().map(|&word| word.to_owned()).collect(),
        }
    }

    fn is_yes(&self, keyword: &str) -> bool {
        self.word(keyword)
            .is_some_and(|word| word.eq_ignore_ascii_case("yes") || word.eq_ignore_ascii_case("true"))
    }

    fn algorithms(&self, keyword: &str) -> Option<Algorithm> {
        // A list that changes the default is for the system's ssh.
        let setting = self.setting(keyword).filter(|setting| keywords::plain_list(&setting.value()))?;
        let names = setting.value().split(',').map(str::to_owned).collect();
        Some(Algorithm { names, setting: setting.to_string() })
    }
}

/// Expands what may stand in a path.
struct Paths<'a> {
    resolver: &'a Resolver<'a>,
    host_name: &'a str,
    port: u16,
    user: &'a str,
}

impl Paths<'_> {
    /// # Errors
    ///
    /// Names what only the system's ssh can expand.
    fn expand(&self, word: &str) -> Result<PathBuf, String> {
        let environment = self.resolver.environment;
        let word = match word.strip_prefix("~/") {
            Some(rest) => format!("{}/{rest}", environment.home.display()),
            None if word.starts_with('~') => return Err(format!("the path {word}")),
            None => word.to_owned(),
        };
        let mut path = String::new();
        let mut rest = word.as_str();
        while let Some(at) = rest.find(['%', '$']) {
            path.push_str(&rest[..at]);
            if let Some(name) = rest[at..].strip_prefix("${") {
                let (name, behind) = name.split_once('}').ok_or_else(|| format!("the path {word}"))?;
                path.push_str(
                    &std::env::var(name).map_err(|_| format!("the path {word}, where {name} is not set"))?,
                );
                rest = behind;
                continue;
            }
            let mut characters = rest[at..].chars();
            match (characters.next(), characters.next()) {
                (Some('%'), Some(token)) => {
                    path.push_str(&self.token(token).ok_or_else(|| format!("%{token} in the path {word}"))?);
                    rest = characters.as_str();
                }
                _ => {
                    path.push_str(&rest[at..=at]);
                    rest = &rest[at + 1..];
                }
            }
        }
        path.push_str(rest);
        Ok(path.into())
    }

    fn token(&self, token: char) -> Option<String> {
        let environment = self.resolver.environment;
        let local_name = || hostname::get().ok().map(|name| name.to_string_lossy().into_owned());
        Some(match token {
            '%' => "%".to_owned(),
            'd' => environment.home.display().to_string(),
            'h' => self.host_name.to_owned(),
            'i' => nix::unistd::getuid().to_string(),
            'k' => self.resolver.word("hostkeyalias").unwrap_or(&self.resolver.host.name).to_owned(),
            'L' => local_name()?.split('.').next()?.to_owned(),
            'l' => local_name()?,
            'n' => self.resolver.host.name.clone(),
            'p' => self.port.to_string(),
            'r' => self.user.to_owned(),
            'u' => environment.local_user.clone(),
            _ => return None,
        })
    }
}

/// ssh offers `id_x-cert.pub` beside `id_x` by itself.
fn certificate_beside(identity_files: &[PathBuf]) -> Option<String> {
    let certificate = |file: &PathBuf| {
        let mut name = file.clone().into_os_string();
        name.push("-cert.pub");
        Path::new(&name).exists().then(|| format!("the certificate {}", Path::new(&name).display()))
    };
    identity_files.iter().find_map(certificate)
}

/// `90`, `90s`, `1m30s`.
fn duration(word: &str) -> Option<Duration> {
    let mut seconds = 0u64;
    let mut number = String::new();
    for character in word.chars() {
        let unit = match character {
            '0'..='9' => {
                number.push(character);
                continue;
            }
            's' | 'S' => 1,
            'm' | 'M' => 60,
            'h' | 'H' => 3600,
            _ => return None,
        };
        let count = std::mem::take(&mut number).parse::<u64>().ok()?;
        seconds = seconds.checked_add(count.checked_mul(unit)?)?;
    }
    if !number.is_empty() {
        seconds = seconds.checked_add(number.parse().ok()?)?;
    }
    (1..=LONGEST_TIME_S).contains(&seconds).then(|| Duration::from_secs(seconds))
}

/// ssh refuses a longer time too.
const LONGEST_TIME_S: u64 = i32::MAX as u64;

/// Key files that are tried when none is named; DSA is gone, and security keys need what libssh2 has not.
const DEFAULT_IDENTITIES: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

#[cfg(test)]
mod tests;
