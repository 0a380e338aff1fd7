//! The first words between agent and head: the order, checked, and the node's facts.

use std::time::Duration;

use tokio::time::timeout;

use efarun_wire::frame::FrameError;
use efarun_wire::message::{AgentMessage, AgentOrder, HeadMessage};
use efarun_wire::{BuildId, PROTOCOL_VERSION};

use super::keeper_link::KeeperLink;
use super::master_port::MasterPort;
use super::setup::KeeperProcess;
use super::{channel, complain, facts};
use crate::build_id;
use crate::link_io::{self, LinkEnd, LinkReceiver, LinkSender};

/// An agent that knows who it is and has said what it found.
#[derive(Debug)]
pub(super) struct Introduced {
    pub(super) order: AgentOrder,
    pub(super) keeper: KeeperLink,
    /// Kept for rank 0, should it be here; none where the node has no port to give.
    pub(super) master_port: Option<MasterPort>,
    pub(super) sender: LinkSender<AgentMessage>,
    pub(super) receiver: LinkReceiver<HeadMessage>,
}

/// Takes the channel over, reads the order and answers with the node's facts. `None`: there is nothing to do here;
/// the reason has been said to whoever can hear it.
pub(super) async fn introduce(keeper: KeeperProcess) -> Option<Introduced> {
    let (source, sink) = match channel::from_standard_streams() {
        Ok(streams) => streams,
        Err(error) => {
            complain(&error.to_string());
            return None;
        }
    };
    let (sender, mut receiver) = link_io::open::<AgentOrder, AgentMessage>(source, sink, None, 0);
    match first_words(keeper, &mut receiver, &sender).await {
        Ok((order, keeper, master_port)) => {
            Some(Introduced { order, keeper, master_port, sender, receiver: receiver.expecting() })
        }
        Err(reason) => {
            sender.send(&AgentMessage::Failed(reason));
            // A head that does not listen is not waited for.
            let _ = timeout(REFUSAL_PATIENCE, sender.finish()).await;
            None
        }
    }
}

async fn first_words(
    keeper: KeeperProcess,
    receiver: &mut LinkReceiver<AgentOrder>,
    sender: &LinkSender<AgentMessage>,
) -> Result<(AgentOrder, KeeperLink, Option<MasterPort>), String> {
    let build = build_id::of_this_executable().map_err(|error| format!("reading /proc/self/exe: {error}"))?;
    let order = match timeout(ORDER_PATIENCE, receiver.receive()).await {
        Err(_) => return Err(format!("no order came in {} s", ORDER_PATIENCE.as_secs())),
        Ok(Ok(order)) => order,
        Ok(Err(LinkEnd::Malformed(FrameError::Malformed { .. }))) => return Err(OTHER_VERSION.to_owned()),
        Ok(Err(end)) => return Err(format!("the channel {end} before the order came")),
    };
    check(&order, build)?;
    let master_port = MasterPort::any().ok();
    let free_port = master_port.as_ref().and_then(MasterPort::number);
    sender.send(&AgentMessage::Facts(Box::new(facts::gather(build, keeper.pid, free_port))));
    let keeper = KeeperLink::new(keeper).map_err(|error| format!("the keeper's socket: {error}"))?;
    raise_open_files();
    Ok((order, keeper, master_port))
}

/// Refuses a head that is another build.
fn check(order: &AgentOrder, build: BuildId) -> Result<(), String> {
    if order.protocol != PROTOCOL_VERSION {
        let theirs = order.protocol;
        return Err(format!(
            "the head speaks protocol {theirs}, the agent {PROTOCOL_VERSION}: start the same efarun on both"
        ));
    }
    if order.build != build {
        let theirs = order.build;
        return Err(format!(
            "the head is build {theirs}, the agent is build {build}: start the same efarun on both"
        ));
    }
    Ok(())
}

/// Each rank costs the agent four descriptors. The ranks have the limit that the keeper was started with.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // What it is now does for some ranks, and those for which it does not are reported.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

const OTHER_VERSION: &str = "the head's order does not parse: it is another version of efarun";
/// The order is what a head writes first of all.
const ORDER_PATIENCE: Duration = Duration::from_secs(60);
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use efarun_wire::secure::LinkKey;
    use efarun_wire::{JobId, NodeId};

    use super::*;

    fn order(protocol: u16, build: BuildId) -> AgentOrder {
        AgentOrder {
            protocol,
            job: JobId([1; 8]),
            node: NodeId(0),
            build,
            key: LinkKey::well_known(),
            heartbeat_ms: 1000,
            lease_ms: 5000,
            host: "here".to_owned(),
        }
    }

    #[test]
    fn another_build_and_another_protocol_are_refused_by_name() {
        let build = BuildId([5; 16]);
        assert_eq!(check(&order(PROTOCOL_VERSION, build), build), Ok(()));
        let other_build = check(&order(PROTOCOL_VERSION, BuildId([6; 16])), build).unwrap_err();
        assert!(other_build.contains("0606"), "{other_build}");
        let other_protocol = check(&order(PROTOCOL_VERSION + 1, build), build).unwrap_err();
        assert!(other_protocol.contains("protocol"), "{other_protocol}");
    }
}
