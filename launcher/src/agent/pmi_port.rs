//! The port to which ranks connect that are to have no descriptor (PMI_PORT), where that was asked for.
//!
//! It is open on the loopback interface of the node and for the length of the job, as a rank may run one program after another.
//! Who connects has [`PATIENCE`] for its greeting, and the oldest of more than [`MAX_STRANGERS`] goes. Greetings are
//! judged one after the other and a wrong one takes a second, which tells nothing and makes guessing slow. Who is right
//! becomes a [`Heard::Came`].

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{sleep, timeout};

use efarun_wire::Rank;
use efarun_wire::message::AgentMessage;

use super::pmi_links::{Heard, PmiEvent};
use crate::env::NameValue;
use crate::link_io::LinkSender;
use crate::pmi::{Greeted, Greeting, Ids};

/// The port, which is closed when this is dropped.
#[derive(Debug)]
pub(super) struct PmiPort {
    address: SocketAddr,
    ids: Arc<Mutex<Ids>>,
    tasks: [JoinHandle<()>; 2],
}

/// A rank's connection, and what it wrote behind its greeting.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) stream: TcpStream,
    pub(super) said: Vec<u8>,
}

/// Whether a rank with this environment is to have a port instead of a descriptor.
pub(super) fn is_asked_for(env: &[NameValue]) -> bool {
    let asked = env.iter().find(|(name, _)| name == ASKED_BY.as_bytes());
    asked.is_some_and(|(_, value)| !matches!(&value[..], b"" | b"0"))
}

impl PmiPort {
    /// Opens it. Those who come go to `events`.
    ///
    /// # Errors
    ///
    /// When there is no port to be had.
    pub(super) async fn open(
        events: mpsc::Sender<PmiEvent>,
        head: LinkSender<AgentMessage>,
    ) -> io::Result<PmiPort> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let ids = Arc::new(Mutex::new(Ids::default()));
        let (greeted, to_judge) = mpsc::channel(MAX_STRANGERS);
        let receiving = tokio::spawn(receive(listener, greeted));
        let judging = tokio::spawn(judge(to_judge, Arc::clone(&ids), events, head));
        Ok(PmiPort { address, ids, tasks: [receiving, judging] })
    }

    /// What a rank needs in its environment to come.
    ///
    /// # Errors
    ///
    /// When the kernel gives no random bits.
    pub(super) fn environment(&self, rank: Rank) -> io::Result<[NameValue; 2]> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let id = ids.give(rank, getrandom::u32).map_err(io::Error::other)?;
        Ok([("PMI_PORT", self.address.to_string()), ("PMI_ID", id.to_string())]
            .map(|(name, value)| (name.as_bytes().to_vec(), value.into_bytes())))
    }
}

impl Drop for PmiPort {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Who has greeted, by which number; by none where it was no greeting.
type Stranger = (Option<u32>, Arrival);

async fn receive(listener: TcpListener, greeted: mpsc::Sender<Stranger>) {
    let mut strangers: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is free: one may be soon.
            sleep(WRONG_COSTS).await;
            continue;
        };
        strangers.retain(|stranger| !stranger.is_finished());
        if strangers.len() >= MAX_STRANGERS
            && let Some(oldest) = strangers.pop_front()
        {
            oldest.abort();
        }
        strangers.push_back(tokio::spawn(hear(stream, greeted.clone())).abort_handle());
    }
}

/// Reads a greeting; whoever gives none in time is let go of.
async fn hear(mut stream: TcpStream, greeted: mpsc::Sender<Stranger>) {
    let reading = async {
        let (mut greeting, mut buffer) = (Greeting::default(), [0; 128]);
        loop {
            let read_bytes = stream.read(&mut buffer).await.ok().filter(|bytes| *bytes > 0)?;
            match greeting.push(&buffer[..read_bytes]) {
                Greeted::NotYet => {}
                Greeted::Wrongly => return Some((None, Vec::new())),
                Greeted::By(id, said) => return Some((Some(id), said)),
            }
        }
    };
    if let Ok(Some((id, said))) = timeout(PATIENCE, reading).await {
        // The receiver ends with the listener.
        let _ = greeted.send((id, Arrival { stream, said })).await;
    }
}

async fn judge(
    mut to_judge: mpsc::Receiver<Stranger>,
    ids: Arc<Mutex<Ids>>,
    events: mpsc::Sender<PmiEvent>,
    head: LinkSender<AgentMessage>,
) {
    let mut has_told = false;
    while let Some((id, arrival)) = to_judge.recv().await {
        let rank = id.and_then(|id| ids.lock().unwrap_or_else(PoisonError::into_inner).rank_of(id));
        match rank {
            Some(rank) => {
                // Packets as small as these wait for more otherwise.
                let _ = arrival.stream.set_nodelay(true);
                if events.send((rank, Heard::Came(arrival))).await.is_err() {
                    return;
                }
            }
            None => {
                if !std::mem::replace(&mut has_told, true) {
                    let what = "somebody came to PMI_PORT with a PMI_ID that no rank has, or with none";
                    head.send(&AgentMessage::Note(what.to_owned()));
                }
                sleep(WRONG_COSTS).await;
                drop(arrival);
            }
        }
    }
}

/// The variable that asks for it: any value but `0`.
const ASKED_BY: &str = "EFARUN_PMI_PORT";
/// How long a greeting may take, which a library writes at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nobody else is judged after a wrong greeting. 31 bits hold for years.
const WRONG_COSTS: Duration = Duration::from_secs(1);
/// Who may be there without having been judged.
const MAX_STRANGERS: usize = 64;
