//! Dialling the head over TCP, so that the link need not go through the channel.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use efarun_wire::JobId;
use efarun_wire::message::{AgentOrder, DialFailure};
use efarun_wire::secure::{Authenticated, Initiator, LinkKey, SecureError};

/// A connection to the head, authenticated at both ends.
#[derive(Debug)]
pub(super) struct Dialed {
    /// The head's address.
    pub(super) address: SocketAddr,
    pub(super) stream: TcpStream,
    pub(super) authenticated: Authenticated,
}

/// Tries the addresses one after the other; each that is left gets an equal share of the time that is left.
///
/// # Errors
///
/// What happened to the last address.
pub(super) async fn dial(
    addresses: &[SocketAddr],
    patience: Duration,
    order: &AgentOrder,
) -> Result<Dialed, DialFailure> {
    let deadline = Instant::now() + patience;
    let mut failure = DialFailure { address: None, reason: "the head gave no address".to_owned() };
    for (tried, &address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match dial_one(address, share, order).await {
            Ok(dialed) => return Ok(dialed),
            Err(reason) => failure = DialFailure { address: Some(address), reason },
        }
    }
    Err(failure)
}

async fn dial_one(address: SocketAddr, patience: Duration, order: &AgentOrder) -> Result<Dialed, String> {
    let no_answer = |what: &str, waited: Duration| format!("no {what} in {:.1} s", waited.as_secs_f32());
    let mut stream = timeout(patience, TcpStream::connect(address))
        .await
        .map_err(|_| no_answer("answer", patience))?
        .map_err(|error| fragment(&error))?;
    // As long again: the head may have many agents to answer.
    let handshake = shake_hands(&mut stream, order.job, order.node.0, &order.key);
    let authenticated = timeout(patience, handshake)
        .await
        .map_err(|_| no_answer("handshake", patience))?
        .map_err(|failure| failure.to_string())?;
    // Small messages are the rule, and each is waited for.
    stream.set_nodelay(true).map_err(|error| fragment(&error))?;
    Ok(Dialed { address, stream, authenticated })
}

/// Proves to the other end of a connection that this end holds the key, as this member of the job, and has it prove the
/// same. The caller holds the deadline.
///
/// # Errors
///
/// When the connection breaks, or either end does not believe the other.
pub(crate) async fn shake_hands(
    stream: &mut TcpStream,
    job: JobId,
    member: u32,
    key: &LinkKey,
) -> Result<Authenticated, NoHandshake> {
    let mut out = Vec::new();
    let mut initiator = Initiator::new(job, member, key, &mut out)?;
    loop {
        stream.write_all(&out).await?;
        out.clear();
        let mut buffer = [0; 1 << 10];
        let read_bytes = stream.read(&mut buffer).await?;
        if read_bytes == 0 {
            return Err(initiator.end().into());
        }
        if let Some(authenticated) = initiator.receive(&buffer[..read_bytes], &mut out)? {
            stream.write_all(&out).await?;
            return Ok(authenticated);
        }
    }
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoHandshake {
    /// The ends do not believe each other.
    #[error(transparent)]
    Secure(#[from] SecureError),
    /// The connection broke.
    #[error("{}", fragment(.0))]
    Connection(#[from] io::Error),
}

/// An error of the system as a lowercase fragment without its number.
pub(crate) fn fragment(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_owned(),
        None => error.to_string(),
    };
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use efarun_wire::secure::{Responder, Standing};
    use efarun_wire::{BuildId, NodeId, PROTOCOL_VERSION};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn order(key: LinkKey) -> AgentOrder {
        AgentOrder {
            protocol: PROTOCOL_VERSION,
            job: JobId([1; 8]),
            node: NodeId(4),
            build: BuildId([0; 16]),
            key,
            heartbeat_ms: 1000,
            lease_ms: 5000,
            host: "here".to_owned(),
        }
    }

    async fn respond(listener: TcpListener, key: LinkKey) -> Authenticated {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut responder = Responder::new(JobId([1; 8]));
        let members = |member| if member == 4 { Standing::Expected(key.clone()) } else { Standing::Unknown };
        loop {
            let mut buffer = [0; 1 << 10];
            let read_bytes = stream.read(&mut buffer).await.unwrap();
            let mut out = Vec::new();
            let received = responder.receive(&buffer[..read_bytes], &members, &mut out).unwrap();
            stream.write_all(&out).await.unwrap();
            if let Some(authenticated) = received {
                return authenticated;
            }
        }
    }

    #[tokio::test]
    async fn the_first_address_that_answers_is_used() {
        let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let order = order(LinkKey::generate().unwrap());
        let addresses = [refusing, address];
        let (dialed, accepted) =
            tokio::join!(dial(&addresses, PATIENCE, &order), respond(listener, order.key.clone()));
        assert_eq!(dialed.unwrap().address, address);
        assert_eq!(accepted.member, 4);
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_with_its_address() {
        let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let failure = dial(&[refusing], PATIENCE, &order(LinkKey::generate().unwrap())).await.unwrap_err();
        assert_eq!(failure, DialFailure { address: Some(refusing), reason: "connection refused".to_owned() });
    }

    #[tokio::test]
    async fn a_head_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let order = order(LinkKey::generate().unwrap());
        let failure = dial(&[address], Duration::from_millis(200), &order).await.unwrap_err();
        assert_eq!(failure.reason, "no handshake in 0.2 s");
    }
}
