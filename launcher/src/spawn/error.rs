//! Why no agent runs on a host: what failed, where, the value at fault, what to try.
//!
//! Every way of reaching hosts gives these errors, the system's `ssh` among them, whose complaints are read into them.
//! `host` is always [`Host::mention`](crate::job::Host::mention): the host as the user wrote it, and the place.

/// Why no agent runs on a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The name has no address.
    #[error("host {host}: the name `{name}` has no address: {cause}\n  hint: {hint}")]
    UnknownHost {
        /// The host, and where it was named.
        host: String,
        /// The name that was looked up.
        name: String,
        /// The resolver's word.
        cause: String,
        /// What to look at.
        hint: String,
    },
    /// Nothing listens there.
    #[error(
        "host {host}: {address} refused the connection\n  hint: is sshd running there, on this port? `port=` in the hostfile, or Port in ~/.ssh/config, names another"
    )]
    Refused {
        /// The host, and where it was named.
        host: String,
        /// `address:port`.
        address: String,
    },
    /// No answer in time.
    #[error("host {host}: {what} gave no answer in {waited_s} s ({limit})\n  hint: {hint}")]
    TimedOut {
        /// The host, and where it was named.
        host: String,
        /// What was waited for: `10.0.0.2:22`, `the SSH handshake with 10.0.0.2:22`, …
        what: String,
        /// How long.
        waited_s: u64,
        /// Who set that limit: `--start-timeout`, `ConnectTimeout at …`.
        limit: String,
        /// What to look at.
        hint: String,
    },
    /// The connection failed in another way.
    #[error("host {host}: {what}: {cause}{}", hint_line(.hint))]
    Connection {
        /// The host, and where it was named.
        host: String,
        /// What was tried.
        what: String,
        /// What went wrong.
        cause: String,
        /// What to look at; may be empty.
        hint: String,
    },
    /// No connection came about, for a reason that neither side gave: no route, a jump host that cannot reach it, …
    #[error("host {host}: {what}: {cause}{}", hint_line(.hint))]
    Unreachable {
        /// The host, and where it was named.
        host: String,
        /// What was tried.
        what: String,
        /// What went wrong.
        cause: String,
        /// What to look at; may be empty.
        hint: String,
    },
    /// It may not be up yet, and was not waited for, or not any longer.
    #[error("{last}{}", waited_line(*.waited))]
    NotUp {
        /// What the last try came to.
        last: Box<SpawnError>,
        /// How often it was tried, and for how many seconds; none without `--wait-for-hosts`.
        waited: Option<(u32, u64)>,
    },
    /// Something answers there, and it does not speak SSH.
    #[error(
        "host {host}: what answers at {address} is no SSH server: it said `{answered}`\n  hint: is this the port of its sshd? `port=` in the hostfile, or Port in ~/.ssh/config, names another"
    )]
    NotSsh {
        /// The host, and where it was named.
        host: String,
        /// `address:port`.
        address: String,
        /// The first line that came.
        answered: String,
    },
    /// The server hung up before the handshake was done, again and again.
    #[error(
        "host {host}: {address} hung up before the SSH handshake was done, {tries} times in {waited_s} s{}\n  hint: is its sshd overloaded (MaxStartups in its sshd_config), or does a firewall, fail2ban or hosts.deny turn this machine away? `journalctl -u ssh` there says",
        said(.answered)
    )]
    HungUp {
        /// The host, and where it was named.
        host: String,
        /// `address:port`.
        address: String,
        /// How often it was tried.
        tries: u32,
        /// From the first try to the last.
        waited_s: u64,
        /// The first line that came, if one did.
        answered: Option<String>,
    },
    /// The host key is not known.
    #[error(
        "host {host}: its {key_type} host key {fingerprint} is not in {files}\n  hint: compare it with the host's own (`ssh-keygen -lf` on its /etc/ssh/ssh_host_*_key.pub) and accept it by `ssh {destination}`, or set `StrictHostKeyChecking accept-new` for this host in ~/.ssh/config"
    )]
    UnknownHostKey {
        /// The host, and where it was named.
        host: String,
        /// What to type after ssh.
        destination: String,
        /// `ssh-ed25519`, …
        key_type: String,
        /// `SHA256:…`
        fingerprint: String,
        /// The known_hosts files that were read.
        files: String,
    },
    /// The host key is not the one on record.
    #[error(
        "host {host}: its {key_type} host key {fingerprint} is not the one on record, {recorded} at {file}:{line}\n  hint: was it installed anew, or is somebody in between? Once you know, remove the old key: ssh-keygen -f {file} -R '{name}'"
    )]
    ChangedHostKey {
        /// The host, and where it was named.
        host: String,
        /// The name on record.
        name: String,
        /// `ssh-ed25519`, …
        key_type: String,
        /// `SHA256:…`, of what the host presented.
        fingerprint: String,
        /// `SHA256:…`, of what is on record.
        recorded: String,
        /// The known_hosts file.
        file: String,
        /// The line in it, from 1.
        line: usize,
    },
    /// The host key was declared to be worth nothing.
    #[error(
        "host {host}: its {key_type} host key {fingerprint} is revoked at {file}:{line}\n  hint: somebody may have stolen this key; the host needs a new one (`ssh-keygen -A` there), and known_hosts its public part"
    )]
    RevokedHostKey {
        /// The host, and where it was named.
        host: String,
        /// `ssh-ed25519`, …
        key_type: String,
        /// `SHA256:…`
        fingerprint: String,
        /// The known_hosts file.
        file: String,
        /// The line in it, from 1.
        line: usize,
    },
    /// No key was accepted.
    #[error("host {host}: {user} was not let in; tried {tried}{}\n  hint: {hint}", taken(.takes))]
    NotAuthenticated {
        /// The host, and where it was named.
        host: String,
        /// The user name there.
        user: String,
        /// Which keys were tried, in order.
        tried: String,
        /// The methods that the server would take, where it said so.
        takes: String,
        /// What to try.
        hint: String,
    },
    /// The launcher could not be installed or started there.
    #[error("host {host}: the agent did not start: {cause}{}", hint_line(.hint))]
    AgentNotStarted {
        /// The host, and where it was named.
        host: String,
        /// What the other side said.
        cause: String,
        /// What to look at; may be empty.
        hint: String,
    },
    /// The host runs on another CPU architecture.
    #[error(
        "host {host} is {theirs}, and this efarun is built for {ours}\n  hint: all hosts of a job are of one architecture: run an efarun that is built for {theirs}, from a machine of that kind, or leave this host out"
    )]
    OtherArchitecture {
        /// The host, and where it was named.
        host: String,
        /// Its `uname -m`.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// The configuration asks for what only the system's ssh can do, and there is none.
    #[error(
        "host {host}: {reason}: only the system's `ssh` can do that, and there is none in PATH\n  hint: install openssh-client (openssh-clients on Amazon Linux), or take this out of the SSH configuration"
    )]
    NoSystemSsh {
        /// The host, and where it was named.
        host: String,
        /// The keyword with its value and place.
        reason: String,
    },
}

impl SpawnError {
    /// The host that this is about, and where it was named.
    pub fn host(&self) -> &str {
        match self {
            SpawnError::UnknownHost { host, .. }
            | SpawnError::Refused { host, .. }
            | SpawnError::TimedOut { host, .. }
            | SpawnError::Connection { host, .. }
            | SpawnError::Unreachable { host, .. }
            | SpawnError::NotSsh { host, .. }
            | SpawnError::HungUp { host, .. }
            | SpawnError::UnknownHostKey { host, .. }
            | SpawnError::ChangedHostKey { host, .. }
            | SpawnError::RevokedHostKey { host, .. }
            | SpawnError::NotAuthenticated { host, .. }
            | SpawnError::AgentNotStarted { host, .. }
            | SpawnError::OtherArchitecture { host, .. }
            | SpawnError::NoSystemSsh { host, .. } => host,
            SpawnError::NotUp { last, .. } => last.host(),
        }
    }

    /// What a host looks like that is not up yet, as a fragment; none where waiting helps nothing.
    ///
    /// Keys may be missing on a host that boots, but on one that has been up all the time they do not come by themselves:
    /// it matters whether the host `came_up` in sight.
    pub(crate) fn not_up(&self, came_up: bool) -> Option<String> {
        match self {
            SpawnError::UnknownHost { name, .. } => Some(format!("`{name}` has no address")),
            SpawnError::Refused { .. } => Some("connection refused".to_owned()),
            SpawnError::TimedOut { what, .. } => Some(format!("no answer from {what}")),
            SpawnError::Unreachable { cause, .. } => Some(cause.clone()),
            SpawnError::HungUp { address, .. } => Some(format!("{address} hung up")),
            SpawnError::NotAuthenticated { user, .. } if came_up => Some(format!("{user} was not let in")),
            _ => None,
        }
    }

    /// Whether the host did not let us in, or could not show that it is the host that was meant.
    pub fn is_authentication(&self) -> bool {
        match self {
            SpawnError::NotAuthenticated { .. }
            | SpawnError::UnknownHostKey { .. }
            | SpawnError::ChangedHostKey { .. }
            | SpawnError::RevokedHostKey { .. } => true,
            SpawnError::NotUp { last, .. } => last.is_authentication(),
            _ => false,
        }
    }

    /// A name without address, from the resolver's own words.
    pub(crate) fn unknown_host(host: String, name: &str, resolver: &str) -> SpawnError {
        let cause = resolver.rsplit(": ").next().unwrap_or(resolver);
        let hint = if cause.contains("emporary") {
            "no DNS server answered this machine: see /etc/resolv.conf, or write the host's address"
                .to_owned()
        } else {
            format!(
                "check its spelling; `getent hosts {name}` asks as efarun does, and the host's address will do as well"
            )
        };
        SpawnError::UnknownHost { host, name: name.to_owned(), cause: lowercase(cause), hint }
    }
}

/// What to try when keys were refused by a server that would take these methods.
pub(crate) fn key_hint(takes: &str, destination: &str) -> String {
    let takes_keys = takes.is_empty() || takes.split(", ").any(|method| method == "publickey");
    let asks = takes.split(", ").any(|method| matches!(method, "password" | "keyboard-interactive"));
    match (takes_keys, asks) {
        (false, true) => format!(
            "efarun never asks for passwords, and this server takes nothing else: let it take keys (PubkeyAuthentication in its sshd_config), then `ssh-copy-id {destination}`"
        ),
        (true, true) => format!(
            "efarun never asks for passwords: `ssh-copy-id {destination}` puts a key there, or name another by IdentityFile in ~/.ssh/config"
        ),
        _ => {
            "add one of these keys to authorized_keys there, or name another by IdentityFile in ~/.ssh/config"
                .to_owned()
        }
    }
}

/// The same with a small first letter, as a fragment.
pub(crate) fn lowercase(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

/// The system's words about a failed call as a fragment, without its number.
pub(crate) fn fragment(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(errno) => lowercase(nix::errno::Errno::from_raw(errno).desc()),
        None => lowercase(&error.to_string()),
    }
}

fn hint_line(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!("\n  hint: {hint}") }
}

fn waited_line(waited: Option<(u32, u64)>) -> String {
    match waited {
        None => "\n  hint: a host that is still booting is waited for with `--wait-for-hosts 120`".to_owned(),
        Some((tries, waited_s)) => {
            format!("\n  tried {tries} times in {waited_s} s (--wait-for-hosts)")
        }
    }
}

fn said(answered: &Option<String>) -> String {
    answered.as_ref().map_or_else(String::new, |line| format!("; it said `{line}`"))
}

fn taken(takes: &str) -> String {
    if takes.is_empty() { String::new() } else { format!("; the server takes {takes}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_nobody_knows_and_a_resolver_that_is_silent_are_told_apart() {
        let said = |resolver: &str| SpawnError::unknown_host("a (hosts:1)".into(), "a", resolver).to_string();
        let unknown = said("failed to lookup address information: Name or service not known");
        assert!(
            unknown.starts_with("host a (hosts:1): the name `a` has no address: name or service not known\n")
        );
        assert!(unknown.contains("spelling"), "{unknown}");
        let silent = said("failed to lookup address information: Temporary failure in name resolution");
        assert!(silent.contains("resolv.conf"), "{silent}");
    }

    #[test]
    fn the_hint_fits_what_the_server_takes() {
        assert!(key_hint("password", "a").contains("takes nothing else"));
        assert!(key_hint("publickey, password", "-p 3 u@a").contains("`ssh-copy-id -p 3 u@a`"));
        assert!(!key_hint("publickey", "a").contains("password"));
    }
}
