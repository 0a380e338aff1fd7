//! Being let in: the keys of the SSH agent and of key files, in ssh's order.
//!
//! Keys named by the configuration come first, from the agent where it holds them, then the agent's other keys unless
//! IdentitiesOnly, then files. Every key that was tried, and every one that could not be, is remembered for the
//! message. Nobody is asked for a passphrase or password.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ssh2::{Agent, PublicKey, Session};

use crate::spawn::ssh::config::HostConfig;
use crate::spawn::ssh::connect::was_dropped;
use crate::spawn::ssh::known_hosts::key_type;

/// Why nobody was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing that was tried was accepted.
    Refused {
        /// What was tried, for the message.
        tried: String,
        /// The methods that the server would take.
        takes: String,
    },
    /// The server hung up after this many tries.
    Dropped {
        /// What was tried until then.
        tried: String,
        /// The methods that the server would take, if it came to say so.
        takes: String,
        /// Keys that were offered.
        offered: usize,
    },
}

/// Authenticates the session, whose handshake is done.
pub(crate) fn authenticate(session: &Session, config: &HostConfig) -> Result<(), Refusal> {
    Authentication { session, config, tried: Vec::new(), offered: 0, failure: None }.run()
}

struct Authentication<'a> {
    session: &'a Session,
    config: &'a HostConfig,
    tried: Vec<String>,
    offered: usize,
    failure: Option<ssh2::Error>,
}

impl Authentication<'_> {
    fn run(mut self) -> Result<(), Refusal> {
        // Asking for the methods is an attempt without any key, and a server may let us in by it.
        let methods = self.session.auth_methods(&self.config.user).map(str::to_owned);
        if self.session.authenticated() {
            return Ok(());
        }
        let takes = methods.as_deref().unwrap_or_default().replace(',', ", ");
        match methods {
            Ok(methods) if methods.split(',').any(|method| method == "publickey") => {}
            Ok(_) => return Err(Refusal::Refused { tried: "nothing".to_owned(), takes }),
            Err(error) => self.failure = Some(error),
        }
        if self.failure.is_none() && (self.try_agent() || self.try_files()) {
            return Ok(());
        }
        if self.tried.is_empty() {
            self.tried.push(self.nothing_to_try());
        }
        if let Some(place) = self.config.gssapi_at.as_ref().filter(|_| takes.contains("gssapi")) {
            self.tried.push(format!(
                "not GSSAPIAuthentication at {place}, which only the system's ssh can (--launch-agent ssh)"
            ));
        }
        let tried = self.tried.join(", ");
        match self.failure {
            Some(_) => Err(Refusal::Dropped { tried, takes, offered: self.offered }),
            None => Err(Refusal::Refused { tried, takes }),
        }
    }

    fn nothing_to_try(&self) -> String {
        let agent = match &self.config.agent_socket {
            Some(_) => "the SSH agent holds no key",
            None => "no SSH agent is running",
        };
        let files: Vec<String> =
            self.config.identity_files.iter().map(|file| file.display().to_string()).collect();
        format!("nothing ({agent}, and none of {} exists)", files.join(", "))
    }

    /// Tries the agent's keys; says whether one let us in.
    fn try_agent(&mut self) -> bool {
        let Some(socket) = &self.config.agent_socket else { return false };
        let (agent, keys) = match agent_keys(self.session, socket) {
            Ok(found) => found,
            Err(error) => {
                self.tried.push(format!("the SSH agent at {} ({error})", socket.display()));
                return false;
            }
        };
        let named: Vec<Vec<u8>> = match self.config.identities_named || self.config.identities_only {
            true => self.config.identity_files.iter().filter_map(|file| public_blob(file)).collect(),
            false => Vec::new(),
        };
        let place = |key: &PublicKey| named.iter().position(|blob| blob == key.blob());
        let mut ordered: Vec<&PublicKey> = keys.iter().collect();
        ordered.sort_by_key(|key| place(key).unwrap_or(usize::MAX));
        if self.config.identities_only {
            ordered.retain(|key| place(key).is_some());
        }
        ordered.into_iter().any(|key| {
            let what = format!("{} from the SSH agent", described(key));
            self.offer(what, |session, user| {
                let _ = session;
                agent.userauth(user, key)
            })
        })
    }

    /// Tries key files; says whether one let us in.
    fn try_files(&mut self) -> bool {
        let config = self.config;
        config.identity_files.iter().any(|file| {
            let name = file.display().to_string();
            match usable(file) {
                Ok(()) => {
                    self.offer(name, |session, user| session.userauth_pubkey_file(user, None, file, None))
                }
                // The default names need not exist.
                Err(None) if !config.identities_named => false,
                Err(None) => {
                    self.tried.push(format!("{name} (no such file)"));
                    false
                }
                Err(Some(why)) => {
                    self.tried.push(format!("{name} ({why})"));
                    false
                }
            }
        })
    }

    fn offer(&mut self, what: String, key: impl FnOnce(&Session, &str) -> Result<(), ssh2::Error>) -> bool {
        if self.failure.is_some() {
            return false;
        }
        self.offered += 1;
        match key(self.session, &self.config.user) {
            Ok(()) => return true,
            Err(error) if was_dropped(&error) || error.message() == NO_RESPONSE => {
                self.failure = Some(error);
                self.tried.push(what);
            }
            // The server's plain no.
            Err(error) if error.code() == PUBLICKEY_REFUSED => self.tried.push(what),
            Err(error) => self.tried.push(format!("{what} ({})", error.message())),
        }
        false
    }
}

fn agent_keys(session: &Session, socket: &Path) -> Result<(Agent, Vec<PublicKey>), ssh2::Error> {
    let mut agent = session.agent()?;
    agent.set_identity_path(socket)?;
    agent.connect()?;
    agent.list_identities()?;
    let keys = agent.identities()?;
    Ok((agent, keys))
}

fn described(key: &PublicKey) -> String {
    match key.comment() {
        "" => format!("a {} key", key_type(key.blob())),
        comment => comment.to_owned(),
    }
}

/// The public key that lies beside a key file.
fn public_blob(file: &Path) -> Option<Vec<u8>> {
    let mut public = file.to_owned().into_os_string();
    public.push(".pub");
    let text = std::fs::read_to_string(PathBuf::from(public)).ok()?;
    BASE64_STANDARD.decode(text.split_ascii_whitespace().nth(1)?).ok()
}

/// Whether libssh2 can use a key file without asking anybody; the reason is none when there is no file.
fn usable(file: &Path) -> Result<(), Option<String>> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(None),
        Err(error) => return Err(Some(error.to_string())),
    };
    let text = String::from_utf8_lossy(&text);
    let encrypted = match text.split_once("BEGIN OPENSSH PRIVATE KEY-----") {
        Some((_, body)) => {
            let base64: String = body.lines().take_while(|line| !line.starts_with('-')).collect();
            let bytes = BASE64_STANDARD.decode(base64.trim()).unwrap_or_default();
            let cipher = bytes.strip_prefix(b"openssh-key-v1\0");
            cipher.is_some_and(|rest| !rest.starts_with(b"\0\0\0\x04none"))
        }
        None => text.contains("ENCRYPTED"),
    };
    if encrypted {
        return Err(Some("it needs its passphrase: give it to an SSH agent by ssh-add".to_owned()));
    }
    if public_blob(file).is_some_and(|blob| key_type(&blob).starts_with("sk-")) {
        return Err(Some(
            "a security key, which only the system's ssh can use: --launch-agent ssh".to_owned(),
        ));
    }
    Ok(())
}

/// What libssh2 says when the server hung up between a key and the answer to it, under a code that means many things.
const NO_RESPONSE: &str = "Waiting for USERAUTH response";

/// LIBSSH2_ERROR_AUTHENTICATION_FAILED, which libssh2 also calls LIBSSH2_ERROR_PUBLICKEY_UNRECOGNIZED.
const PUBLICKEY_REFUSED: ssh2::ErrorCode = ssh2::ErrorCode::Session(-18);
