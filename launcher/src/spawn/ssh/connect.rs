//! From addresses to an authenticated session: TCP, key exchange, host key, keys, and another try when sshd was busy.
//!
//! Everything here blocks and runs on the thread of its host, within one deadline; [`Phase`] tells an onlooker what
//! is being waited for. sshd drops connections at random while too many are unauthenticated (MaxStartups), and says
//! nothing or nearly nothing: a connection that ends before the key exchange is done is tried again, after a pause
//! that grows and is drawn at random, so that many heads and hosts do not meet again.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use ssh2::{ErrorCode, MethodType, Session};

use crate::spawn::ssh::auth::{self, Refusal};
use crate::spawn::ssh::banner::{self, Answer};
use crate::spawn::ssh::config::{Algorithm, Algorithms, HostConfig, HostKeyCheck};
use crate::spawn::ssh::known_hosts::{self, KnownHosts, Record, RecordName, Verdict};
use crate::spawn::{SpawnError, fragment, key_hint};

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
    /// The host as errors name it.
    pub(crate) mention: String,
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
    /// The server there hung up where a busy one does: another try may help.
    dropped_by: Option<SocketAddr>,
}

impl From<SpawnError> for Failure {
    fn from(error: SpawnError) -> Self {
        Failure { error: Box::new(error), dropped_by: None }
    }
}

/// Connects and authenticates, with retries.
pub(crate) fn establish(target: &Target) -> Result<Connection, SpawnError> {
    let known = KnownHosts::read(&target.config.known_hosts);
    let start = Instant::now();
    let mut answer = None;
    for retry in 0.. {
        let Failure { error, dropped_by } = match target.attempt(&known) {
            Ok(connection) => return Ok(connection),
            Err(failure) => failure,
        };
        let Some(peer) = dropped_by else { return Err(*error) };
        let answer = answer.get_or_insert_with(|| banner::ask(peer, ANSWER_PATIENCE.min(target.remaining())));
        let answered = match answer {
            Answer::Other(answered) => {
                let (host, address, answered) = (target.mention.clone(), peer.to_string(), answered.clone());
                return Err(SpawnError::NotSsh { host, address, answered });
            }
            Answer::Busy(line) => Some(line.clone()),
            Answer::Ssh | Answer::Nothing => None,
        };
        let retries = if *answer == Answer::Nothing { SILENT_RETRIES } else { RETRIES };
        let pause = pause_before(retry);
        if retry == retries || Instant::now() + pause >= target.deadline {
            return Err(match *error {
                error @ SpawnError::NotAuthenticated { .. } => error,
                _ => SpawnError::HungUp {
                    host: target.mention.clone(),
                    address: peer.to_string(),
                    tries: retry + 1,
                    waited_s: rounded_up(start.elapsed()),
                    answered,
                },
            });
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

    /// Tries the addresses, as often as ConnectionAttempts says, a second apart as ssh does.
    fn connect(&self) -> Result<(TcpStream, SocketAddr), SpawnError> {
        for _ in 1..self.config.connection_attempts {
            match self.connect_once() {
                Ok(connected) => return Ok(connected),
                Err(error) if self.remaining() <= ATTEMPT_PAUSE => return Err(error),
                Err(_) => std::thread::sleep(ATTEMPT_PAUSE),
            }
        }
        self.connect_once()
    }

    fn connect_once(&self) -> Result<(TcpStream, SocketAddr), SpawnError> {
        let mut first_error = None;
        for (index, &address) in self.addresses.iter().enumerate() {
            self.phase.enter(address.to_string());
            // One silent address must not use up the time of the others.
            let share = self.remaining() / u32::try_from(self.addresses.len() - index).unwrap_or(u32::MAX);
            let wait = self.connect_limit().min(share).max(SHORTEST_WAIT);
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
            host: self.mention.clone(),
            name: self.config.host_name.clone(),
            cause: "there is none of the family that AddressFamily asks for".to_owned(),
            hint: "AddressFamily in ~/.ssh/config may be any, inet or inet6".to_owned(),
        }))
    }

    fn connect_limit(&self) -> Duration {
        self.config.connect_timeout.as_ref().map_or(CONNECT_PATIENCE, |(limit, _)| *limit)
    }

    /// Who set the limit that a wait of this length has reached.
    fn limit_name(&self, waited: Duration, patience: Duration) -> String {
        match &self.config.connect_timeout {
            Some((limit, place)) if waited >= *limit => format!("ConnectTimeout at {place}"),
            None if waited >= patience && patience < self.allowed => {
                "ConnectTimeout in ~/.ssh/config sets another limit".to_owned()
            }
            _ => START_TIMEOUT.to_owned(),
        }
    }

    fn connect_error(&self, address: SocketAddr, waited: Duration, error: &std::io::Error) -> SpawnError {
        let host = self.mention.clone();
        let address = address.to_string();
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => SpawnError::Refused { host, address },
            std::io::ErrorKind::TimedOut => SpawnError::TimedOut {
                host,
                what: address,
                waited_s: rounded_up(waited),
                limit: self.limit_name(waited, CONNECT_PATIENCE),
                hint: "is the host up, and does its security group let this machine in on that port?"
                    .to_owned(),
            },
            _ => SpawnError::Unreachable {
                host,
                what: format!("connecting to {address}"),
                cause: fragment(error),
                hint: "is the host up, and is its subnet routed from here? `ip route get` says how this machine would reach it".to_owned(),
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
                self.broken(peer, "the SSH handshake", &cause)
            })?;
        }
        let own = tcp.try_clone().map_err(|error| self.broken(peer, "its socket", &error))?;
        session.set_tcp_stream(own);
        let patience = self.handshake_patience();
        session.set_timeout(millis(patience));
        session.handshake().map_err(|error| match is_timeout(&error) {
            true => SpawnError::TimedOut {
                host: self.mention.clone(),
                what: self.phase.current(),
                waited_s: rounded_up(patience),
                limit: self.limit_name(patience, HANDSHAKE_PATIENCE),
                hint: format!("something accepts connections there and says nothing: is it an SSH server, and does its machine still run? `ssh {}` would tell", self.destination()),
            }
            .into(),
            false => failed(&error),
        })?;
        session.set_timeout(millis(self.remaining()));
        Ok(session)
    }

    /// ConnectTimeout covers the handshake as well, as in ssh.
    fn handshake_patience(&self) -> Duration {
        let limit = self.config.connect_timeout.as_ref().map_or(HANDSHAKE_PATIENCE, |(limit, _)| *limit);
        limit.min(self.remaining())
    }

    /// The algorithms to ask for: those that the configuration lists, else ours.
    fn preferences(&self, known: &KnownHosts, name: &RecordName) -> Vec<(MethodType, Vec<String>)> {
        let algorithms = &self.config.algorithms;
        let listed = |algorithm: &Option<Algorithm>| algorithm.as_ref().map(|listed| listed.names.clone());
        let or = |names: Option<Vec<String>>, ours: &[&str]| {
            names.unwrap_or_else(|| ours.iter().map(|&name| name.to_owned()).collect())
        };
        let mut preferences = vec![(MethodType::Kex, or(listed(&algorithms.key_exchange), &KEY_EXCHANGES))];
        for (methods, names) in [
            ([MethodType::CryptCs, MethodType::CryptSc], listed(&algorithms.ciphers)),
            ([MethodType::MacCs, MethodType::MacSc], listed(&algorithms.macs)),
        ] {
            let names = names.iter().flat_map(|names| methods.map(|method| (method, names.clone())));
            preferences.extend(names);
        }
        let host_keys = or(listed(&algorithms.host_keys), &HOST_KEYS);
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
        let host = self.mention.clone();
        let (key, _) = session.host_key().ok_or_else(|| SpawnError::Connection {
            host: host.clone(),
            what: "the SSH handshake".to_owned(),
            cause: "the server presented no host key".to_owned(),
            hint: String::new(),
        })?;
        let key_type = known_hosts::key_type(key).to_owned();
        let fingerprint = known_hosts::fingerprint(key);
        match (known.judge(name, key), self.config.host_key_check) {
            (Verdict::Known, _) | (Verdict::Changed(_), HostKeyCheck::Off) => Ok(()),
            (Verdict::Changed(Record { file, line, fingerprint: recorded }), _) => {
                let (file, name) = (file.display().to_string(), name.name.clone());
                Err(SpawnError::ChangedHostKey { host, name, key_type, fingerprint, recorded, file, line })
            }
            (Verdict::Revoked(Record { file, line, .. }), _) => {
                let file = file.display().to_string();
                Err(SpawnError::RevokedHostKey { host, key_type, fingerprint, file, line })
            }
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
        let refused = |tried, takes: String| SpawnError::NotAuthenticated {
            host: self.mention.clone(),
            user: self.config.user.clone(),
            tried,
            hint: key_hint(&takes, &self.destination()),
            takes,
        };
        match auth::authenticate(session, &self.config) {
            Ok(()) => Ok(()),
            Err(Refusal::Refused { tried, takes }) => Err(refused(tried, takes).into()),
            // After one key or none it was not too many keys.
            Err(Refusal::Dropped { tried, takes, offered: 0 | 1 }) => {
                let error = Box::new(refused(format!("{tried}; then the server hung up"), takes));
                Err(Failure { error, dropped_by: Some(peer) })
            }
            Err(Refusal::Dropped { tried, takes, offered }) => Err(SpawnError::NotAuthenticated {
                host: self.mention.clone(),
                user: self.config.user.clone(),
                tried: format!("{tried}; then the server hung up"),
                takes,
                hint: format!("{offered} keys were too many for it (MaxAuthTries in its sshd_config): name the right one by IdentityFile, with `IdentitiesOnly yes`, for this host in ~/.ssh/config"),
            }
            .into()),
        }
    }

    /// An error of the session, told apart by whether another try may help.
    pub(crate) fn session_error(&self, error: &ssh2::Error, peer: SocketAddr, what: &str) -> SpawnError {
        *self.failure(error, peer, what).error
    }

    fn failure(&self, error: &ssh2::Error, peer: SocketAddr, what: &str) -> Failure {
        if is_timeout(error) {
            return timed_out(&self.mention, &self.phase, self.allowed, &self.destination()).into();
        }
        let dropped_by = was_dropped(error).then_some(peer);
        Failure { error: Box::new(self.broken(peer, what, &error.message())), dropped_by }
    }

    /// What is typed after ssh.
    pub(crate) fn destination(&self) -> String {
        let port = if self.config.port == 22 { String::new() } else { format!("-p {} ", self.config.port) };
        format!("{port}{}@{}", self.config.user, self.config.host)
    }

    fn broken(&self, peer: SocketAddr, what: &str, cause: &impl ToString) -> SpawnError {
        let (host, cause) = (self.mention.clone(), cause.to_string());
        SpawnError::Connection { host, what: format!("{what} with {peer}"), cause, hint: String::new() }
    }

    fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(SHORTEST_WAIT)
    }
}

/// The lists of which libssh2 knows no name: `KexAlgorithms x (FILE:LINE)`.
pub(crate) fn unknown_algorithms(algorithms: &Algorithms) -> Vec<String> {
    let listed = [
        (MethodType::Kex, &algorithms.key_exchange),
        (MethodType::CryptCs, &algorithms.ciphers),
        (MethodType::MacCs, &algorithms.macs),
        (MethodType::HostKey, &algorithms.host_keys),
    ];
    let mut listed =
        listed.into_iter().filter_map(|(method, list)| Some((method, list.as_ref()?))).peekable();
    if listed.peek().is_none() {
        return Vec::new();
    }
    let Ok(session) = Session::new() else { return Vec::new() };
    let is_unknown = |(method, list): &(MethodType, &Algorithm)| {
        let known = session.supported_algs(*method).unwrap_or_default();
        !list.names.iter().any(|name| known.contains(&name.as_str()))
    };
    listed.filter(is_unknown).map(|(_, list)| list.setting.clone()).collect()
}

/// That time is up, in this phase.
pub(crate) fn timed_out(host: &str, phase: &Phase, allowed: Duration, destination: &str) -> SpawnError {
    SpawnError::TimedOut {
        host: host.to_owned(),
        what: phase.current(),
        waited_s: rounded_up(allowed),
        limit: START_TIMEOUT.to_owned(),
        hint: format!("does `ssh {destination} true` work?"),
    }
}

fn is_timeout(error: &ssh2::Error) -> bool {
    matches!(error.code(), ErrorCode::Session(TIMEOUT | SOCKET_TIMEOUT))
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

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
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

/// After so many drops without a word it is no busy sshd: those drop some connections, not each.
const SILENT_RETRIES: u32 = 4;

/// How long a silent host may take to accept a connection: three repetitions of a lost packet. ssh itself leaves it to
/// TCP, which takes two minutes.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// How long the handshake may take: a host under load needs seconds.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(20);

/// How long somebody who hung up may take to say who he is.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);

const ATTEMPT_PAUSE: Duration = Duration::from_secs(1);

/// The flag behind a limit that nothing else sets.
pub(crate) const START_TIMEOUT: &str = "--start-timeout";
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
