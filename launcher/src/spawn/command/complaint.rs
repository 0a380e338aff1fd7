//! OpenSSH's complaints, read into [`SpawnError`]s.
//!
//! The texts are those of OpenSSH 6.6 to 10; they are not translated. What is not recognised stays the caller's to
//! repeat word by word.

use std::path::Path;

use crate::spawn::ssh::known_hosts::KnownHosts;
use crate::spawn::{SpawnError, key_hint};

/// Finds a well-known complaint in the lines of a failed ssh.
pub(crate) fn classify(host: &str, destination: &str, lines: &[String]) -> Option<SpawnError> {
    let host = host.to_owned();
    let find = |text: &str| lines.iter().find(|line| line.contains(text));
    let between = |line: &str, before: &str, behind: &str| -> Option<String> {
        let rest = line.split_once(before)?.1;
        Some(rest.split_once(behind)?.0.trim().to_owned())
    };
    // ssh prints the key's short name: `ED25519`.
    let key_type = |name: String| match name.to_ascii_lowercase() {
        name if name.starts_with("ssh-") || name.starts_with("ecdsa-") => name,
        name if name == "ecdsa" => "ecdsa-sha2-nistp256".to_owned(),
        name => format!("ssh-{name}"),
    };

    if let Some(offending) = find("Offending ").filter(|_| find("IDENTIFICATION HAS CHANGED").is_some()) {
        let fingerprint = lines.iter().find_map(|line| line.trim().strip_prefix("SHA256:"));
        let place = offending.split_once(" key in ").map_or("known_hosts", |(_, place)| place.trim());
        let (file, line) = place.rsplit_once(':').unwrap_or((place, ""));
        let line = line.parse().unwrap_or(0);
        let recorded = KnownHosts::record_at(Path::new(file), line).map(|record| record.fingerprint);
        return Some(SpawnError::ChangedHostKey {
            name: find("Host key for ")
                .and_then(|line| between(line, "Host key for ", " has"))
                .unwrap_or_else(|| host.clone()),
            host,
            key_type: key_type(between(offending, "Offending ", " key").unwrap_or_default()),
            fingerprint: format!("SHA256:{}", fingerprint.unwrap_or("?").trim_end_matches('.')),
            recorded: recorded.unwrap_or_else(|| "another".to_owned()),
            file: file.to_owned(),
            line,
        });
    }
    if let Some(line) = find(" host key is known for ") {
        return Some(SpawnError::UnknownHostKey {
            host,
            destination: destination.to_owned(),
            key_type: key_type(between(line, "No ", " host key").unwrap_or_default()),
            fingerprint: "(which ssh does not tell)".to_owned(),
            files: "ssh's known_hosts files".to_owned(),
        });
    }
    if let Some(line) = find("Permission denied (") {
        let takes = between(line, "Permission denied (", ")").unwrap_or_default().replace(',', ", ");
        let user = line.split_once('@').map_or("the user", |(user, _)| user).to_owned();
        return Some(SpawnError::NotAuthenticated {
            host,
            user,
            tried: "whatever the system's ssh has".to_owned(),
            hint: key_hint(&takes, destination),
            takes,
        });
    }
    if let Some(line) = find("Could not resolve hostname ") {
        let (name, cause) = line.split_once("hostname ")?.1.split_once(": ")?;
        return Some(SpawnError::unknown_host(host, name, cause.trim()));
    }
    if let Some(line) = find(": open failed: ") {
        // A jump host's words.
        let (_, cause) = line.split_once(": open failed: ")?;
        return Some(SpawnError::Unreachable {
            host,
            what: "the connection to it from its jump host".to_owned(),
            cause: cause.trim().trim_start_matches("connect failed: ").to_ascii_lowercase(),
            hint: "does the jump host know its name, and is its sshd to be reached from there, on this port?"
                .to_owned(),
        });
    }
    let line = find("ssh: connect to host ")?;
    let (address, cause) = line.split_once("to host ")?.1.split_once(": ")?;
    let address = address.replace(" port ", ":");
    Some(match cause.trim() {
        "Connection refused" => SpawnError::Refused { host, address },
        cause => SpawnError::Unreachable {
            host,
            what: format!("connecting to {address}"),
            cause: cause.to_ascii_lowercase(),
            hint: String::new(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(text: &str) -> Option<SpawnError> {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        classify("node", "ann@node", &lines)
    }

    #[test]
    fn a_refused_key_tells_what_the_server_would_take() {
        let error = classified("ann@10.0.0.2: Permission denied (publickey,gssapi-with-mic).").unwrap();
        assert_eq!(
            error.to_string(),
            "host node: ann was not let in; tried whatever the system's ssh has; the server takes publickey, gssapi-with-mic\n  hint: add one of these keys to authorized_keys there, or name another by IdentityFile in ~/.ssh/config"
        );
    }

    #[test]
    fn unknown_and_changed_host_keys_are_told_apart() {
        let unknown = "No ED25519 host key is known for node and you have requested strict checking.\r\n\
                       Host key verification failed.";
        let Some(SpawnError::UnknownHostKey { key_type, .. }) = classified(unknown) else { panic!() };
        assert_eq!(key_type, "ssh-ed25519");

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("known_hosts");
        let key = "AAAAC3NzaC1lZDI1NTE5AAAAINl+tJTgDWhNSyZ8ISGmgXt+tLGVtoiaX9MR8sNVIYNB";
        std::fs::write(&file, format!("# mine\n[node]:2222 ssh-ed25519 {key}\n")).unwrap();
        let changed = "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n\
            The fingerprint for the ED25519 key sent by the remote host is\n\
            SHA256:kYlS8mPH1nCbNEgIHYXU3BTEKgb3ACNNRcUvMCPgHEU.\n\
            Offending ED25519 key in FILE:2\n\
            Host key for [node]:2222 has changed and you have requested strict checking.\n\
            Host key verification failed."
            .replace("FILE", file.to_str().unwrap());
        let expected = SpawnError::ChangedHostKey {
            host: "node".into(),
            name: "[node]:2222".into(),
            key_type: "ssh-ed25519".into(),
            fingerprint: "SHA256:kYlS8mPH1nCbNEgIHYXU3BTEKgb3ACNNRcUvMCPgHEU".into(),
            recorded: KnownHosts::record_at(&file, 2).unwrap().fingerprint,
            file: file.to_str().unwrap().into(),
            line: 2,
        };
        assert_eq!(classified(&changed), Some(expected));
    }

    #[test]
    fn names_and_addresses_that_fail_are_told_with_their_cause() {
        let error = classified("ssh: Could not resolve hostname nod: Name or service not known").unwrap();
        let expected = "host node: the name `nod` has no address: name or service not known\n  hint: check";
        assert!(error.to_string().starts_with(expected), "{error}");

        let error = classified("ssh: connect to host 10.0.0.2 port 2222: No route to host").unwrap();
        assert!(error.to_string().contains("10.0.0.2:2222: no route to host"), "{error}");
    }

    #[test]
    fn what_is_not_known_is_left_to_the_caller() {
        assert_eq!(classified("error: pods \"node\" not found"), None);
    }
}
