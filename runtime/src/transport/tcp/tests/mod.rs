//! The transport over sockets of this machine.

mod broken_peers;
mod landing;
mod strangers;

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
        println!("SKIPPED: conforms_over_ipv6: no IPv6 on this machine");
        return;
    }
    let config = TcpConfig::new(Some(Ipv6Addr::LOCALHOST.into()));
    conformance(|world_size| boxed(world(world_size, &config)));
}

/// One connected transport per rank.
pub(in crate::transport) fn world(world_size: u32, config: &TcpConfig) -> Vec<TcpTransport> {
    let (transports, contacts): (Vec<_>, Vec<_>) =
        (0..world_size).map(|_| TcpTransport::new(config).expect("a port")).unzip();
    let contacts: Vec<(Rank, Vec<u8>)> = (0..).map(Rank).zip(contacts).collect();
    let deadline = soon();
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

#[test]
fn an_address_of_another_machine_is_refused_with_what_to_do() {
    let refused =
        TcpTransport::new(&TcpConfig::new(Some("203.0.113.77".parse().unwrap()))).unwrap_err().to_string();
    assert!(refused.contains("203.0.113.77") && refused.contains("EFARUN_NODE_ADDRESS"), "{refused}");
}

#[test]
fn a_rank_that_refuses_connections_is_named_with_its_address_and_what_to_do() {
    let (mut ours, _) = TcpTransport::new(&TcpConfig::new(None)).unwrap();
    let (theirs, contact) = TcpTransport::new(&TcpConfig::new(None)).unwrap();
    let address = theirs.address;
    drop(theirs);
    let refused = ours.connect(Rank(1), &[(Rank(0), contact)], soon()).unwrap_err();
    let text = refused.to_string();
    assert!(text.starts_with(&format!("rank 0 cannot be reached at {address}: ")), "{text}");
    assert!(text.contains("refused") && text.contains("security group"), "{text}");
}

#[test]
fn a_rank_that_does_not_come_is_named_at_the_deadline() {
    let (mut ours, _) = TcpTransport::new(&TcpConfig::new(None)).unwrap();
    let (_theirs, contact) = TcpTransport::new(&TcpConfig::new(None)).unwrap();
    let address = ours.address.to_string();
    let deadline = Instant::now() + Duration::from_millis(200);
    let refused = ours.connect(Rank(0), &[(Rank(1), contact)], deadline).unwrap_err().to_string();
    assert!(refused.starts_with("rank 1 cannot be reached"), "{refused}");
    assert!(refused.contains(&address) && refused.contains("security group"), "{refused}");
}

#[test]
fn a_contact_that_is_none_names_its_rank() {
    let (mut ours, _) = TcpTransport::new(&TcpConfig::new(None)).unwrap();
    let refused = ours.connect(Rank(0), &[(Rank(1), vec![9; 3])], soon()).unwrap_err();
    assert!(matches!(refused, TransportError::Incompatible { peer: Rank(1), .. }), "{refused}");
}

#[test]
fn the_port_is_closed_when_all_peers_have_come() {
    let transports = world(3, &TcpConfig::new(None));
    for transport in &transports {
        let refused = std::net::TcpStream::connect(transport.address).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn what_was_sent_before_closing_is_delivered_then_the_peer_is_lost() {
    let mut two = world(2, &TcpConfig::new(None)).into_iter();
    let [mut sender, mut receiver] = [(); 2].map(|()| two.next().unwrap());
    sender.open(&[], &[Rank(1)]).unwrap();
    receiver.open(&[Rank(0)], &[]).unwrap();
    assert!(send_within(&mut sender, Rank(1), b"last"));
    sender.close();
    assert_eq!(await_arrival(&mut receiver, Rank(0)).unwrap(), b"last");
    receiver.release(Rank(0)).unwrap();
    let lost = await_arrival(&mut receiver, Rank(0)).unwrap_err();
    assert!(matches!(lost, TransportError::PeerLost { peer: Rank(0), .. }), "{lost}");
}

#[test]
fn what_was_taken_in_ahead_is_received_once_and_in_order() {
    let mut two = world(2, &TcpConfig::new(None)).into_iter();
    let [mut sender, mut receiver] = [(); 2].map(|()| two.next().unwrap());
    sender.open(&[], &[Rank(1)]).unwrap();
    receiver.open(&[Rank(0)], &[]).unwrap();
    assert!(!receiver.look_ahead(Rank(0)), "nothing was sent");
    for said in [&b"first"[..], b"second"] {
        assert!(send_within(&mut sender, Rank(1), said));
    }
    let deadline = soon();
    while !receiver.look_ahead(Rank(0)) {
        assert!(Instant::now() < deadline, "it was sent");
    }
    for said in [&b"first"[..], b"second"] {
        assert!(receiver.look_ahead(Rank(0)) || said == b"second", "it stays until it is released");
        assert_eq!(await_arrival(&mut receiver, Rank(0)).unwrap(), said);
        receiver.release(Rank(0)).unwrap();
    }
    assert!(!receiver.look_ahead(Rank(0)), "both were received");
    // Whoever receives next is told that nothing comes any more.
    sender.close();
    while !receiver.look_ahead(Rank(0)) {
        assert!(Instant::now() < deadline, "it was closed");
    }
    assert!(matches!(receiver.arrived(Rank(0)), Err(TransportError::PeerLost { peer: Rank(0), .. })));
}

/// Sends a short message as soon as there is credit; says whether there was in time.
#[expect(unsafe_code, reason = "try_send's contract")]
fn send_within(transport: &mut TcpTransport, to: Rank, payload: &[u8]) -> bool {
    let header = Header { signature: 1, sequence: 2, len_bytes: payload.len() as u32 };
    let deadline = soon();
    while Instant::now() < deadline {
        // SAFETY: an empty socket takes a short payload whole, so that the send is complete when the call returns.
        if unsafe { transport.try_send(to, header, payload, SendToken(0)) }.unwrap() {
            assert!(!transport.flush(), "a short payload is taken whole");
            return true;
        }
        transport.wait(Duration::from_millis(1));
        transport.poll(&mut Vec::new()).unwrap();
    }
    false
}

/// The next message's payload, or why there will be none.
fn await_arrival(transport: &mut TcpTransport, from: Rank) -> Result<Vec<u8>, TransportError> {
    let deadline = soon();
    loop {
        if let Some(message) = transport.arrived(from)? {
            return Ok(message.payload.to_vec());
        }
        assert!(Instant::now() < deadline, "neither a message nor an error");
        transport.wait(Duration::from_millis(10));
        transport.poll(&mut Vec::new())?;
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}
