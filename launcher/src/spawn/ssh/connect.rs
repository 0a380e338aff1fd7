//! From addresses to an authenticated session: TCP, key exchange, host key, keys, and another try when sshd was busy.
//!
//! Everything here blocks and runs on the thread of its host, within one deadline; [`Phase`] tells an onlooker what
//! is being waited for. sshd drops connections at random while too many are unauthenticated (MaxStartups), and says
//! nothing or nearly nothing: a connection that ends before the key exchange is done is tried again, after a pause
//! that grows and is drawn at random, so that many heads and hosts do not meet again.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use nix::sys::socket::{setsockopt, sockopt};
use ssh2::{ErrorCode, HashType, MethodType, Session};

use crate::spawn::SpawnError;
use crate::spawn::ssh::auth::{self, Refusal};
use crate::spawn::ssh::config::{HostConfig, HostKeyCheck};
use crate::spawn::ssh::known_hosts::{self, KnownHosts, RecordName, Verdict};

/// What a start is waiting for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Phase(Arc<Mutex<String>>);

impl Phase {
    /// Says what is waited for from now on.
    pub(crate) fn enter(&self, what: String) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = what;
    }

    /// What is waited for.
    pub(crate) fn current(&self) -> String {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// Everything about a host that is needed to reach it.
#[derive(Debug)]
pub(crate) struct Target {
    /// Its configuration.
    pub(crate) config: HostConfig,
    /// Its addresses, to be tried in order; at least one.
    pub(crate) addresses: Vec<SocketAddr>,
    /// When time is up.
    pub(crate) deadline: Instant,
    /// How long that is in all, for messages.
    pub(crate) allowed: Duration,
    /// What is being waited for.
    pub(crate) phase: Phase,
}

/// An authenticated session.
pub(crate) struct Connection {
    /// The session; blocking.
    pub(crate) session: Session,
    /// Its socket.
    pub(crate) tcp: TcpStream,
    /// The other end.
    pub(crate) peer: SocketAddr,
    /// Our end, which that host can reach.
    pub(crate) local: IpAddr,
}

/// Why an attempt failed.
struct Failure {
    error: Box<SpawnError>,
    /// The server hung up where a busy one does: another try may help.
    dropped: bool,
}

impl From<SpawnError> for Failure {
    fn from(error: SpawnError) -> Self {
        Failure { error: Box::new(error), dropped: false }
    }
}

/// Connects and authenticates, with retries.
pub(crate) fn establish(target: &Target) -> Result<Connection, SpawnError> {
    let known = KnownHosts::read(&target.config.known_hosts);
    for retry in 0.. {
        let failure = match target.attempt(&known) {
            Ok(connection) => return Ok(connection),
            Err(failure) => failure,
        };
        let pause = pause_before(retry);
        if !failure.dropped || retry == RETRIES || Instant::now() + pause >= target.deadline {
            return Err(*failure.error);
        }
        std::thread::sleep(pause);
    }
    unreachable!("the loop returns at its last retry")
}

impl Target {
    fn attempt(&self, known: &KnownHosts) -> Result<Connection, Failure> {
        let (tcp, peer) = self.connect()?;
        let local = tcp.local_addr().map_err(|error| self.broken(peer, "its socket", &error))?.ip();
        let name =
            RecordName::new(&self.config.host_name, self.config.port, self.config.host_key_alias.as_deref());

        let session = self.handshake(&tcp, peer, known, &name)?;
        self.check_host_key(&session, known, &name)?;
        self.authenticate(&session, peer)?;
        Ok(Connection { session, tcp, peer, local: local.to_canonical() })
    }

    fn connect(&self) -> Result<(TcpStream, SocketAddr), SpawnError> {
        let mut first_error = None;
        for (index, &address) in self.addresses.iter().enumerate() {
            self.phase.enter(address.to_string());
            // One silent address must not use up the time of the others.
            let share = self.remaining() / u32::try_from(self.addresses.len() - index).unwrap_or(u32::MAX);
            let wait = self.config.connect_timeout.map_or(share, |limit| limit.min(share)).max(SHORTEST_WAIT);
            let connected = TcpStream::connect_timeout(&address, wait);
            match connected.and_then(|tcp| prepare(&tcp).map(|()| tcp)) {
                Ok(tcp) => return Ok((tcp, address)),
                Err(error) => {
                    let error = self.connect_error(address, wait, &error);
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.unwrap_or_else(|| SpawnError::UnknownHost {
            host: self.config.host.clone(),
            name: self.config.host_name.clone(),
            cause: "there is none of the address family that the configuration asks for".to_owned(),
        }))
    }

    fn connect_error(&self, address: SocketAddr, waited: Duration, error: &std::io::Error) -> SpawnError {
        let host = self.config.host.clone();
        let address = address.to_string();
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => SpawnError::Refused { host, address },
            std::io::ErrorKind::TimedOut => SpawnError::TimedOut {
                host,
                what: address,
                waited_s: rounded_up(waited),
                hint: "is the host up, and does its security group let this machine in on that port?"
                    .to_owned(),
            },
            _ => SpawnError::Connection {
                host,
                what: format!("connecting to {address}"),
                cause: error.to_string(),
            },
        }
    }

    fn handshake(
        &self,
        tcp: &TcpStream,
        peer: SocketAddr,
        known: &KnownHosts,
        name: &RecordName,
    ) -> Result<Session, Failure> {
        self.phase.enter(format!("the SSH handshake with {peer}"));
        let failed = |error: &ssh2::Error| self.failure(error, peer, "the SSH handshake");
        let mut session = Session::new().map_err(|error| failed(&error))?;
        for (method, names) in self.preferences(known, name) {
            session.method_pref(method, &names.join(",")).map_err(|error| {
                let cause =
                    format!("{}: of {}, the built-in SSH knows none", error.message(), names.join(", "));
                let hint = "use the system's: --launch-agent ssh";
                self.broken(peer, "the SSH handshake", &format!("{cause}; {hint}"))
            })?;
        }
        let own = tcp.try_clone().map_err(|error| self.broken(peer, "its socket", &error))?;
        session.set_tcp_stream(own);
        session.set_timeout(u32::try_from(self.remaining().as_millis()).unwrap_or(u32::MAX));
        session.handshake().map_err(|error| failed(&error))?;
        Ok(session)
    }

    /// The algorithms to ask for: those that the configuration lists, else ours.
    fn preferences(&self, known: &KnownHosts, name: &RecordName) -> Vec<(MethodType, Vec<String>)> {
        let algorithms = &self.config.algorithms;
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mut preferences =
            vec![(MethodType::Kex, algorithms.key_exchange.clone().unwrap_or_else(|| owned(&KEY_EXCHANGES)))];
        for (methods, names) in [
            ([MethodType::CryptCs, MethodType::CryptSc], &algorithms.ciphers),
            ([MethodType::MacCs, MethodType::MacSc], &algorithms.macs),
        ] {
            let names = names.iter().flat_map(|names| methods.map(|method| (method, names.clone())));
            preferences.extend(names);
        }
        let host_keys = algorithms.host_keys.clone().unwrap_or_else(|| owned(&HOST_KEYS));
        let on_record = known.key_types(name);
        let is_on_record = |algorithm: &String| match algorithm.as_str() {
            "rsa-sha2-512" | "rsa-sha2-256" => on_record.contains(&"ssh-rsa"),
            other => on_record.contains(&other),
        };
        // A host with keys of several types is asked for one that is on record, else it looks like a stranger.
        let (mut ordered, others): (Vec<_>, Vec<_>) = host_keys.into_iter().partition(is_on_record);
        ordered.extend(others);
        preferences.push((MethodType::HostKey, ordered));
        preferences
    }

    fn check_host_key(
        &self,
        session: &Session,
        known: &KnownHosts,
        name: &RecordName,
    ) -> Result<(), SpawnError> {
        let host = self.config.host.clone();
        let (key, _) = session.host_key().ok_or_else(|| SpawnError::Connection {
            host: host.clone(),
            what: "the SSH handshake".to_owned(),
            cause: "the server presented no host key".to_owned(),
        })?;
        let key_type = known_hosts::key_type(key).to_owned();
        let digest = session.host_key_hash(HashType::Sha256).unwrap_or_default();
        let fingerprint = format!("SHA256:{}", BASE64_STANDARD_NO_PAD.encode(digest));
        let changed = |file: std::path::PathBuf| SpawnError::ChangedHostKey {
            host: host.clone(),
            name: name.name.clone(),
            key_type: key_type.clone(),
            fingerprint: fingerprint.clone(),
            file: file.display().to_string(),
        };
        match (known.judge(name, key), self.config.host_key_check) {
            (Verdict::Known, _) | (Verdict::Changed(_), HostKeyCheck::Off) => Ok(()),
            (Verdict::Changed(file) | Verdict::Revoked(file), _) => Err(changed(file)),
            (Verdict::Unknown, HostKeyCheck::Strict) => Err(SpawnError::UnknownHostKey {
                host,
                destination: self.destination(),
                key_type,
                fingerprint,
                files: paths(&self.config.known_hosts),
            }),
            (Verdict::Unknown, HostKeyCheck::AcceptNew | HostKeyCheck::Off) => {
                // Like ssh, go on when it cannot be written: the configuration asked for no more.
                let first = self.config.known_hosts.first();
                let _ = first.map(|file| known_hosts::add(file, name, key, self.config.hash_known_hosts));
                Ok(())
            }
        }
    }

    fn authenticate(&self, session: &Session, peer: SocketAddr) -> Result<(), Failure> {
        self.phase.enter(format!("the authentication at {peer}"));
        let refused = |tried| SpawnError::NotAuthenticated {
            host: self.config.host.clone(),
            user: self.config.user.clone(),
            tried,
        };
        match auth::authenticate(session, &self.config) {
            Ok(()) => Ok(()),
            Err(Refusal::Refused { tried }) => Err(refused(tried).into()),
            // After one key or none it was not too many keys.
            Err(Refusal::Dropped { tried, offered: 0 | 1 }) => {
                let error = Box::new(self.broken(peer, "the authentication", &tried));
                Err(Failure { error, dropped: true })
            }
            Err(Refusal::Dropped { tried, .. }) => Err(refused(tried).into()),
        }
    }

    /// An error of the session, told apart by whether another try may help.
    pub(crate) fn session_error(&self, error: &ssh2::Error, peer: SocketAddr, what: &str) -> SpawnError {
        *self.failure(error, peer, what).error
    }

    fn failure(&self, error: &ssh2::Error, peer: SocketAddr, what: &str) -> Failure {
        if matches!(error.code(), ErrorCode::Session(TIMEOUT | SOCKET_TIMEOUT)) {
            return Failure::from(timed_out(
                &self.config.host,
                &self.phase,
                self.allowed,
                &self.destination(),
            ));
        }
        Failure { error: Box::new(self.broken(peer, what, &error.message())), dropped: was_dropped(error) }
    }

    /// What is typed after ssh.
    pub(crate) fn destination(&self) -> String {
        let port = if self.config.port == 22 { String::new() } else { format!("-p {} ", self.config.port) };
        format!("{port}{}@{}", self.config.user, self.config.host)
    }

    fn broken(&self, peer: SocketAddr, what: &str, cause: &impl ToString) -> SpawnError {
        let (host, cause) = (self.config.host.clone(), cause.to_string());
        SpawnError::Connection { host, what: format!("{what} with {peer}"), cause }
    }

    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(SHORTEST_WAIT)
    }
}

/// That time is up, in this phase.
pub(crate) fn timed_out(host: &str, phase: &Phase, allowed: Duration, destination: &str) -> SpawnError {
    SpawnError::TimedOut {
        host: host.to_owned(),
        what: phase.current(),
        waited_s: rounded_up(allowed),
        hint: format!("does `ssh {destination} true` work?"),
    }
}

/// Whether the server hung up.
pub(crate) fn was_dropped(error: &ssh2::Error) -> bool {
    matches!(error.code(), ErrorCode::Session(BANNER_RECV | SOCKET_SEND | SOCKET_DISCONNECT | SOCKET_RECV))
}

/// Small packets leave at once, and a peer that has vanished is noticed within [`PEER_SILENCE`].
fn prepare(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &KEEPALIVE_S)?;
    setsockopt(tcp, sockopt::TcpKeepInterval, &KEEPALIVE_S)?;
    setsockopt(tcp, sockopt::TcpUserTimeout, &u32::try_from(PEER_SILENCE.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

/// Between half and one and a half times a pause that doubles.
fn pause_before(retry: u32) -> Duration {
    let base = FIRST_PAUSE * 2_u32.pow(retry.min(4));
    let mut random = [0; 2];
    // Without randomness the pauses are equal, which is no worse than the kernel being out of it.
    let _ = getrandom::fill(&mut random);
    base / 2 + base * u32::from(u16::from_le_bytes(random)) / u32::from(u16::MAX)
}

fn rounded_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn paths(files: &[std::path::PathBuf]) -> String {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    files.join(", ")
}

/// After so many drops the server is not merely busy.
const RETRIES: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(150);
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
const KEEPALIVE_S: u32 = 5;
const PEER_SILENCE: Duration = Duration::from_secs(20);

/// curve25519 first: a key exchange with it costs half the time of the post-quantum ones, and what is sent over the
/// link is worth nothing after the job.
const KEY_EXCHANGES: [&str; 11] = [
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "mlkem768x25519-sha256",
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group-exchange-sha256",
    "mlkem768nistp256-sha256",
];

const HOST_KEYS: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
];

// libssh2's error numbers.
const BANNER_RECV: i32 = -2;
const SOCKET_SEND: i32 = -7;
const TIMEOUT: i32 = -9;
const SOCKET_DISCONNECT: i32 = -13;
const SOCKET_TIMEOUT: i32 = -30;
const SOCKET_RECV: i32 = -43;
