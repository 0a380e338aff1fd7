//! Strangers on the head's port: they are dropped, and agents get through all the same.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use efarun::bootstrap::Listener;
use efarun_wire::secure::{Initiator, JobKey, MAX_HALF_OPEN};
use efarun_wire::{JobId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PATIENCE: Duration = Duration::from_secs(60);

fn job() -> (JobId, JobKey) {
    (JobId::generate().expect("random"), JobKey::generate().expect("random"))
}

/// Dials as an agent does; gives everything that it sent, or `None` where it was refused.
async fn dial(address: SocketAddr, job: JobId, key: &JobKey, node: NodeId) -> Option<Vec<u8>> {
    let stream = TcpStream::connect(address).await.ok()?;
    shake_hands(stream, job, key, node).await
}

/// The same on a connection that is there already.
async fn shake_hands(mut stream: TcpStream, job: JobId, key: &JobKey, node: NodeId) -> Option<Vec<u8>> {
    let mut opening = Vec::new();
    let mut initiator = Initiator::new(job, node.0, &key.node_key(node), &mut opening).expect("random");
    stream.write_all(&opening).await.ok()?;
    let mut arrived = [0; 1024];
    loop {
        let len = stream.read(&mut arrived).await.ok()?;
        if len == 0 {
            return None;
        }
        let mut confirm = Vec::new();
        let authenticated = initiator.receive(&arrived[..len], &mut confirm).ok()?;
        stream.write_all(&confirm).await.ok()?;
        if authenticated.is_some() {
            opening.extend_from_slice(&confirm);
            return Some(opening);
        }
    }
}

/// Says whether the other end drops the connection in time.
async fn is_dropped(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn random_bytes_are_dropped_and_the_agent_joins() {
    let (id, key) = job();
    let listener = Listener::new(id);
    let address = listener.listen_on(LOOPBACK).expect("binds");
    let joined = listener.expect(NodeId(3), key.node_key(NodeId(3)));
    let mut stranger = TcpStream::connect(address).await.expect("connects");
    stranger.write_all(b"GET / HTTP/1.1\r\nHost: head\r\n\r\n").await.expect("is taken");
    assert!(is_dropped(stranger).await, "a stranger is dropped");
    assert!(dial(address, id, &key, NodeId(3)).await.is_some());
    let joined = timeout(PATIENCE, joined).await.expect("in time").expect("joined");
    assert_eq!(joined.authenticated.member, 3);
}

#[tokio::test]
async fn two_hundred_silent_connections_do_not_keep_the_agent_out() {
    let (id, key) = job();
    let listener = Listener::new(id);
    let address = listener.listen_on(LOOPBACK).expect("binds");
    let joined = listener.expect(NodeId(0), key.node_key(NodeId(0)));
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).await.expect("connects"));
    }
    assert!(timeout(PATIENCE, dial(address, id, &key, NodeId(0))).await.expect("in time").is_some());
    timeout(PATIENCE, joined).await.expect("in time").expect("joined");
    for stranger in silent {
        assert!(is_dropped(stranger).await, "a silent stranger is dropped");
    }
}

#[tokio::test]
async fn agents_that_all_dial_before_one_is_answered_all_join() {
    let (id, key) = job();
    let listener = Listener::new(id);
    let address = listener.listen_on(LOOPBACK).expect("binds");
    let nodes: Vec<NodeId> = (0..3 * MAX_HALF_OPEN as u32).map(NodeId).collect();
    let joined: Vec<_> = nodes.iter().map(|node| listener.expect(*node, key.node_key(*node))).collect();
    let mut connections = Vec::new();
    for _ in &nodes {
        connections.push(TcpStream::connect(address).await.expect("connects"));
    }
    for (node, connection) in nodes.iter().zip(connections) {
        assert!(shake_hands(connection, id, &key, *node).await.is_some(), "{node} is taken in");
    }
    for joined in joined {
        timeout(PATIENCE, joined).await.expect("in time").expect("joined");
    }
}

#[tokio::test]
async fn a_replayed_hello_never_joins_and_does_not_take_the_agents_place() {
    let (id, key) = job();
    let other = Listener::new(id);
    let other_address = other.listen_on(LOOPBACK).expect("binds");
    let _joined_there = other.expect(NodeId(1), key.node_key(NodeId(1)));
    let recorded = dial(other_address, id, &key, NodeId(1)).await.expect("joins the first listener");

    let listener = Listener::new(id);
    let address = listener.listen_on(LOOPBACK).expect("binds");
    let mut joined = listener.expect(NodeId(1), key.node_key(NodeId(1)));
    let mut replay = TcpStream::connect(address).await.expect("connects");
    replay.write_all(&recorded).await.expect("is taken");
    assert!(is_dropped(replay).await, "a replay is dropped");
    assert!(joined.try_recv().is_err(), "a replay does not join");
    assert!(dial(address, id, &key, NodeId(1)).await.is_some(), "the agent itself joins");
    timeout(PATIENCE, joined).await.expect("in time").expect("joined");
}

#[tokio::test]
async fn a_wrong_key_an_unknown_node_and_a_second_link_are_refused() {
    let (id, key) = job();
    let (_, other_key) = job();
    let listener = Listener::new(id);
    let address = listener.listen_on(LOOPBACK).expect("binds");
    let joined = listener.expect(NodeId(0), key.node_key(NodeId(0)));
    assert!(dial(address, id, &other_key, NodeId(0)).await.is_none(), "a wrong key");
    assert!(dial(address, id, &key, NodeId(7)).await.is_none(), "an unknown node");
    assert!(dial(address, id, &key, NodeId(0)).await.is_some());
    timeout(PATIENCE, joined).await.expect("in time").expect("joined");
    assert!(dial(address, id, &key, NodeId(0)).await.is_none(), "a second link");
}

#[tokio::test]
async fn the_port_closes_with_the_listener() {
    let (id, _) = job();
    let listener = Listener::new(id);
    let address = listener.listen_on(LOOPBACK).expect("binds");
    let half_open = TcpStream::connect(address).await.expect("connects");
    drop(listener);
    assert!(is_dropped(half_open).await, "a half-open stranger goes with the listener");
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("the port closes");
}
