//! A node that comes by itself: it dials node 0, shows its key and its line, and is a node until the job is over.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use efarun_wire::secure::{Authenticated, HANDSHAKE_TIMEOUT_MS, LinkKey, Refusal, SecureError};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::host::{ending_signal, keep_alive, own_hello};
use super::meeting::{Answer, Hello};
use super::relay::{self, Over};
use super::{ByHand, ByHandError, resolve};
use crate::agent::dial::{NoHandshake, fragment, shake_hands};
use crate::job::JobSpec;
use crate::link_io::{self, LinkReceiver, LinkSender};
use crate::output::Terminal;

/// Joins once, and stays to the end of what it joined.
///
/// # Errors
///
/// When node 0 is not reached, or does not take this node in.
pub(crate) async fn once(
    spec: &JobSpec,
    by_hand: &ByHand,
    key: &LinkKey,
    signals: &mut mpsc::UnboundedReceiver<i32>,
) -> Result<Over, ByHandError> {
    let welcomed = tokio::select! {
        welcomed = knock(spec, by_hand, key) => welcomed?,
        number = ending_signal(signals) => return Err(ByHandError::Stopped(number)),
    };
    relay::run(spec, by_hand, welcomed, signals).await
}

/// A link over which node 0 has said welcome.
#[derive(Debug)]
pub(super) struct Welcomed {
    pub(super) order: efarun_wire::message::AgentOrder,
    pub(super) nodes: u32,
    pub(super) sender: LinkSender<Hello>,
    pub(super) receiver: LinkReceiver<Answer>,
}

async fn knock(spec: &JobSpec, by_hand: &ByHand, key: &LinkKey) -> Result<Welcomed, ByHandError> {
    let hello = own_hello(spec, by_hand)?;
    let (stream, authenticated) = reach(by_hand, key).await?;
    keep_alive(&stream);
    let (source, sink) = stream.into_split();
    let (sender, mut receiver) =
        link_io::open::<Answer, Hello>(Box::new(source), Box::new(sink), Some(authenticated), 0);
    sender.send(&hello);
    let place = by_hand.place();
    // Node 0 holds the deadline; this is for one that says nothing more.
    let patience = by_hand.patience + by_hand.last_call + ANSWER_PATIENCE;
    let quiet = tokio::time::sleep(FIRST_WORD);
    tokio::pin!(quiet);
    let answer = loop {
        tokio::select! {
            answer = timeout(patience, receiver.receive()) => break answer,
            () = &mut quiet => {
                Terminal::process().note(format!("reached node 0 at {place}; waiting for the other nodes"));
                quiet.as_mut().reset(Instant::now() + patience + patience);
            }
        }
    };
    match answer {
        Ok(Ok(Answer::Welcome { order, nodes })) => Ok(Welcomed { order: *order, nodes, sender, receiver }),
        Ok(Ok(Answer::Refused(reason))) => Err(ByHandError::Refused { place, reason }),
        Ok(Err(end)) => Err(ByHandError::NodeLost {
            host: format!("node 0 at {place}"),
            cause: format!("its link {end}"),
        }),
        Err(_) => Err(ByHandError::NodeLost {
            host: format!("node 0 at {place}"),
            cause: "it did not say whether all nodes came".to_owned(),
        }),
    }
}

/// Dials node 0 until it answers.
async fn reach(by_hand: &ByHand, key: &LinkKey) -> Result<(TcpStream, Authenticated), ByHandError> {
    let started = Instant::now();
    let deadline = started + by_hand.patience;
    let mut next_word = started + FIRST_WORD;
    loop {
        let cause = match resolve(by_hand).await {
            Ok(addresses) => match dial_all(by_hand, key, &addresses).await? {
                Ok(reached) => return Ok(reached),
                Err(cause) => cause,
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() + RETRY > deadline {
            let waited_s = by_hand.patience.as_secs();
            return Err(ByHandError::Unreachable { place: by_hand.place(), waited_s, cause });
        }
        if Instant::now() >= next_word {
            next_word = Instant::now() + WORD_INTERVAL;
            Terminal::process().note(format!("waiting for node 0 at {}: {cause}", by_hand.place()));
        }
        sleep_until(Instant::now() + RETRY).await;
    }
}

/// Dials each address once. The inner error is what happened to the last, and may be another the next time.
async fn dial_all(
    by_hand: &ByHand,
    key: &LinkKey,
    addresses: &[SocketAddr],
) -> Result<Result<(TcpStream, Authenticated), String>, ByHandError> {
    let mut last = "the name has no address".to_owned();
    for address in addresses {
        let mut stream = match timeout(CONNECT_PATIENCE, connect(by_hand, *address)).await {
            Err(_) => {
                last = format!("no answer in {} s", CONNECT_PATIENCE.as_secs());
                continue;
            }
            Ok(Err(error)) => {
                last = fragment(&error);
                continue;
            }
            Ok(Ok(stream)) => stream,
        };
        // Small messages are the rule; a socket that cannot do it is merely slower.
        let _ = stream.set_nodelay(true);
        // Which number it gets is decided when its line is known; it holds the same key as all.
        let member = by_hand.node_rank.unwrap_or(u32::MAX);
        let handshake = shake_hands(&mut stream, key.job_id(), member, key);
        match timeout(Duration::from_millis(HANDSHAKE_TIMEOUT_MS), handshake).await {
            Ok(Ok(authenticated)) => return Ok(Ok((stream, authenticated))),
            Ok(Err(NoHandshake::Secure(cause))) => match hint_for(&cause, by_hand) {
                Some(hint) => {
                    return Err(ByHandError::NotTaken {
                        place: by_hand.place(),
                        cause: cause.to_string(),
                        hint,
                    });
                }
                None => last = cause.to_string(),
            },
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = format!("no handshake in {HANDSHAKE_TIMEOUT_MS} ms"),
        }
    }
    Ok(Err(last))
}

async fn connect(by_hand: &ByHand, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(own) = by_hand.local_address.as_ref().and_then(|own| own.parse::<IpAddr>().ok()) {
        socket.bind((own, 0).into())?;
    }
    socket.connect(address).await
}

/// What to do about a handshake that will not be another the next time; none for one that may.
fn hint_for(cause: &SecureError, by_hand: &ByHand) -> Option<String> {
    let file =
        by_hand.key_file.as_ref().map_or_else(String::new, |path| format!(" ({} here)", path.display()));
    match cause {
        // The name under which holders of a key greet each other is derived from the key.
        SecureError::Refused(Refusal::OtherJob | Refusal::NotAuthentic) | SecureError::NotAuthentic { .. } => {
            Some(format!("\n  hint: it has another key: the file of --key-file must be the same on every node{file}"))
        }
        SecureError::OtherVersion { .. } | SecureError::Refused(Refusal::OtherVersion) => {
            Some("\n  hint: start the same efarun on every node".to_owned())
        }
        SecureError::Stranger { .. } => Some(
            "\n  hint: another program listens there: choose another --master-port (or port of --rdzv-endpoint) on every node"
                .to_owned(),
        ),
        _ => None,
    }
}

const RETRY: Duration = Duration::from_millis(250);
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
const FIRST_WORD: Duration = Duration::from_secs(3);
const WORD_INTERVAL: Duration = Duration::from_secs(30);
/// Beyond node 0's own deadline.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
