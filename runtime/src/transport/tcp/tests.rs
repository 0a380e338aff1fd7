//! The transport over sockets of this machine.

use std::net::{Ipv6Addr, UdpSocket};

use super::*;
use crate::transport::conformance::conformance;

#[test]
fn conforms_with_connections_made_at_the_start() {
    conformance(|world_size| boxed(world(world_size, &TcpConfig::new(None))));
}

#[test]
fn conforms_with_connections_made_when_pairs_are_opened() {
    let config = TcpConfig { eager_peers: 0, ..TcpConfig::new(None) };
    conformance(|world_size| boxed(world(world_size, &config)));
}

#[test]
fn conforms_over_ipv6() {
    if UdpSocket::bind("[::1]:0").is_err() {
        println!("skipped: no IPv6 on this machine");
        return;
    }
    let config = TcpConfig::new(Some(Ipv6Addr::LOCALHOST.into()));
    conformance(|world_size| boxed(world(world_size, &config)));
}

/// One connected transport per rank.
fn world(world_size: u32, config: &TcpConfig) -> Vec<TcpTransport> {
    let (transports, contacts): (Vec<_>, Vec<_>) =
        (0..world_size).map(|_| TcpTransport::new(config).expect("a port")).unzip();
    let contacts: Vec<(Rank, Vec<u8>)> = (0..).map(Rank).zip(contacts).collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    std::thread::scope(|scope| {
        let connect = |(rank, mut transport): (Rank, TcpTransport)| {
            let contacts = &contacts;
            scope.spawn(move || transport.connect(rank, contacts, deadline).map(|()| transport))
        };
        let threads: Vec<_> = (0..).map(Rank).zip(transports).map(connect).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic").expect("connected")).collect()
    })
}

fn boxed(transports: Vec<TcpTransport>) -> Vec<Box<dyn Transport>> {
    transports.into_iter().map(|transport| Box::new(transport) as Box<dyn Transport>).collect()
}
