use snow::{Builder, HandshakeState};

use super::MAX_HANDSHAKE_BYTES;
use super::error::{Refusal, SecureError};
use super::greeting::{Greeting, Verdict};
use super::key::LinkKey;
use super::record::{LENGTH_BYTES, SecureChannel, TAG_BYTES};
use crate::ids::JobId;

/// What a handshake ends in.
#[derive(Debug)]
pub struct Authenticated {
    /// The number that the initiator greeted with: a node's or a rank's. Whoever has its key is at the other end.
    pub member: u32,
    /// The link from here on.
    pub channel: SecureChannel,
    /// What the other end had already said behind its handshake, opened. Handle it as the first that arrived.
    pub received: Vec<u8>,
}

/// The end that dials.
#[derive(Debug)]
pub struct Initiator {
    noise: Option<HandshakeState>,
    greeting: Greeting,
    arrived: Vec<u8>,
}

impl Initiator {
    /// Starts a handshake as this member of the job; `out` is appended what must be sent first.
    ///
    /// # Errors
    ///
    /// [`SecureError::Library`] when the operating system has no random numbers.
    pub fn new(job: JobId, member: u32, key: &LinkKey, out: &mut Vec<u8>) -> Result<Initiator, SecureError> {
        let greeting = Greeting { job, member };
        let prologue = greeting.prologue();
        let mut noise = builder(key, &prologue).and_then(Builder::build_initiator).map_err(library)?;
        let mut message = [0; NOISE_MESSAGE_BYTES];
        let written = noise.write_message(&[], &mut message).map_err(library)?;
        out.extend_from_slice(&greeting.to_bytes());
        out.extend_from_slice(&message[..written]);
        Ok(Initiator { noise: Some(noise), greeting, arrived: Vec::new() })
    }

    /// Takes bytes as they arrived. `None`: more are needed. Once the other end is authenticated `out` is appended
    /// the confirm, which must be sent at once: until then the responder does not believe us.
    ///
    /// # Errors
    ///
    /// Whatever the responder refused, or [`SecureError::NotAuthentic`] where it does not have the key.
    pub fn receive(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Authenticated>, SecureError> {
        if self.noise.is_none() {
            return Err(SecureError::Closed);
        }
        self.arrived.extend_from_slice(bytes);
        let received = self.advance(out);
        if received.is_err() {
            self.noise = None;
        }
        received
    }

    /// Says that the stream has ended before the handshake did.
    pub fn end(&self) -> SecureError {
        SecureError::Truncated { within: "the handshake" }
    }

    fn advance(&mut self, out: &mut Vec<u8>) -> Result<Option<Authenticated>, SecureError> {
        match Verdict::from_bytes(&self.arrived)? {
            None => return Ok(None),
            Some(Verdict::Refused(refusal)) => return Err(SecureError::Refused(refusal)),
            Some(Verdict::Accepted) => {}
        }
        let Some((message, rest)) = self.arrived[Verdict::BYTES..].split_first_chunk::<NOISE_MESSAGE_BYTES>()
        else {
            return Ok(None);
        };
        let mut noise = self.noise.take().ok_or(SecureError::Closed)?;
        read_noise(&mut noise, message, "its answer")?;
        let state = noise.into_stateless_transport_mode().map_err(library)?;
        let (mut sealing, opening) = SecureChannel::new(state).split();
        sealing.seal_record(&[], out)?;
        let mut channel = SecureChannel::join(sealing, opening);
        let mut received = Vec::new();
        channel.open(rest, &mut received)?;
        Ok(Some(Authenticated { member: self.greeting.member, channel, received }))
    }
}

/// Who may join at a responder.
pub trait Members {
    /// Says how this member stands now. Asked when it greets, and again when it is authenticated: two connections
    /// may both have come as far as that, and only the first of them may win.
    fn standing(&self, member: u32) -> Standing;
}

impl<F: Fn(u32) -> Standing> Members for F {
    fn standing(&self, member: u32) -> Standing {
        self(member)
    }
}

/// How a member stands at a responder.
#[derive(Debug)]
pub enum Standing {
    /// It is awaited, and this is the key of its link.
    Expected(LinkKey),
    /// It has a link already.
    Joined,
    /// There is no such member.
    Unknown,
}

/// The end that listens.
#[derive(Debug)]
pub struct Responder {
    job: JobId,
    arrived: Vec<u8>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Greeting,
    Confirm { member: u32, channel: Box<SecureChannel> },
    Over,
}

impl Responder {
    /// How many bytes a responder takes before it authenticates: greeting, first message and confirm.
    pub const HANDSHAKE_BYTES: usize = OPENING_BYTES + CONFIRM_BYTES;

    /// A responder of this job for one connection.
    pub fn new(job: JobId) -> Responder {
        Responder { job, arrived: Vec::new(), stage: Stage::Greeting }
    }

    /// Takes bytes as they arrived. `None`: more are needed. What is appended to `out` must be sent, after an error
    /// too: it tells the other end why it is refused, before the connection is dropped.
    ///
    /// # Errors
    ///
    /// Any error means that the connection is to be dropped; nothing that arrived was trusted.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        members: &impl Members,
        out: &mut Vec<u8>,
    ) -> Result<Option<Authenticated>, SecureError> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Greeting => {
                let greeted = self.greeted(bytes, members, out);
                if let Some(refusal) = greeted.as_ref().err().and_then(refusal_of) {
                    out.extend_from_slice(&Verdict::Refused(refusal).to_bytes());
                }
                greeted.map(|()| None)
            }
            // Refused from here on, an initiator sees the end of the link: it reads sealed records only.
            Stage::Confirm { member, channel } => self.confirmed(bytes, member, channel, members),
            Stage::Over => Err(SecureError::Closed),
        }
    }

    /// Says that the stream has ended before the handshake did.
    pub fn end(&self) -> SecureError {
        SecureError::Truncated { within: "the handshake" }
    }

    fn greeted(
        &mut self,
        bytes: &[u8],
        members: &impl Members,
        out: &mut Vec<u8>,
    ) -> Result<(), SecureError> {
        // An initiator has nothing to add before it is answered, so that a byte more is somebody else's.
        let received_bytes = self.arrived.len() + bytes.len();
        let room_bytes = OPENING_BYTES - self.arrived.len();
        self.arrived.extend_from_slice(&bytes[..bytes.len().min(room_bytes)]);
        let greeting = Greeting::from_bytes(&self.arrived)?;
        if received_bytes > OPENING_BYTES {
            return Err(SecureError::TooManyBytes { received_bytes, limit_bytes: OPENING_BYTES });
        }
        self.stage = Stage::Greeting;
        let Some(greeting) = greeting else { return Ok(()) };
        if greeting.job != self.job {
            return Err(SecureError::OtherJob { ours: self.job, theirs: greeting.job });
        }
        let key = expected(members, greeting.member)?;
        let Some(message) = self.arrived[Greeting::BYTES..].first_chunk::<NOISE_MESSAGE_BYTES>() else {
            return Ok(());
        };
        let prologue = greeting.prologue();
        let mut noise = builder(&key, &prologue).and_then(Builder::build_responder).map_err(library)?;
        read_noise(&mut noise, message, "its first message")?;
        let mut answer = [0; NOISE_MESSAGE_BYTES];
        let written = noise.write_message(&[], &mut answer).map_err(library)?;
        let state = noise.into_stateless_transport_mode().map_err(library)?;
        out.extend_from_slice(&Verdict::Accepted.to_bytes());
        out.extend_from_slice(&answer[..written]);
        self.arrived.clear();
        let channel = Box::new(SecureChannel::new(state));
        self.stage = Stage::Confirm { member: greeting.member, channel };
        Ok(())
    }

    fn confirmed(
        &mut self,
        bytes: &[u8],
        member: u32,
        mut channel: Box<SecureChannel>,
        members: &impl Members,
    ) -> Result<Option<Authenticated>, SecureError> {
        let missing_bytes = CONFIRM_BYTES - self.arrived.len();
        let (confirm, rest) = bytes.split_at(bytes.len().min(missing_bytes));
        self.arrived.extend_from_slice(confirm);
        let known_bytes = self.arrived.len().min(LENGTH_BYTES);
        let not_authentic = SecureError::NotAuthentic { what: "its confirmation" };
        if self.arrived[..known_bytes] != (TAG_BYTES as u16).to_be_bytes()[..known_bytes] {
            return Err(not_authentic);
        }
        if self.arrived.len() < CONFIRM_BYTES {
            self.stage = Stage::Confirm { member, channel };
            return Ok(None);
        }
        let mut received = Vec::new();
        channel.open(&self.arrived, &mut received).map_err(|_| not_authentic)?;
        expected(members, member)?;
        channel.open(rest, &mut received)?;
        Ok(Some(Authenticated { member, channel: *channel, received }))
    }
}

fn expected(members: &impl Members, member: u32) -> Result<LinkKey, SecureError> {
    match members.standing(member) {
        Standing::Expected(key) => Ok(key),
        Standing::Joined => Err(SecureError::AlreadyJoined { member }),
        Standing::Unknown => Err(SecureError::UnknownMember { member }),
    }
}

/// What an initiator is told. A stranger is told nothing.
fn refusal_of(error: &SecureError) -> Option<Refusal> {
    match error {
        SecureError::OtherVersion { .. } => Some(Refusal::OtherVersion),
        SecureError::OtherJob { .. } => Some(Refusal::OtherJob),
        SecureError::UnknownMember { .. } => Some(Refusal::UnknownMember),
        SecureError::AlreadyJoined { .. } => Some(Refusal::AlreadyJoined),
        SecureError::NotAuthentic { .. } => Some(Refusal::NotAuthentic),
        _ => None,
    }
}

fn builder<'a>(key: &'a LinkKey, prologue: &'a [u8]) -> Result<Builder<'a>, snow::Error> {
    let params = NOISE_PATTERN.parse().expect("the pattern is one that the enabled features have");
    Builder::new(params).prologue(prologue)?.psk(0, key.as_bytes())
}

fn read_noise(noise: &mut HandshakeState, message: &[u8], what: &'static str) -> Result<(), SecureError> {
    let mut payload = [0; NOISE_MESSAGE_BYTES];
    match noise.read_message(message, &mut payload) {
        Ok(_) => Ok(()),
        Err(_) => Err(SecureError::NotAuthentic { what }),
    }
}

fn library(error: snow::Error) -> SecureError {
    SecureError::Library { cause: error.to_string() }
}

const NOISE_PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// An ephemeral public key and the tag of an empty payload, in either direction.
const NOISE_MESSAGE_BYTES: usize = 32 + TAG_BYTES;
/// What an initiator sends before it is answered.
const OPENING_BYTES: usize = Greeting::BYTES + NOISE_MESSAGE_BYTES;
/// A record without plaintext.
const CONFIRM_BYTES: usize = LENGTH_BYTES + TAG_BYTES;

const _: () = assert!(Responder::HANDSHAKE_BYTES <= MAX_HANDSHAKE_BYTES);
