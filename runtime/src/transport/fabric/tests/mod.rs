//! The transport over tcp on one machine, on the installed libfabric and on 2.5.1; over EFA in [`soft_efa`].
//!
//! Each `bodies` test runs in child processes, one per library; see `support`.

mod counts;
mod landing;
mod manners;
mod reads;
mod registering;
pub(crate) mod soft_efa;

use std::net::{Ipv6Addr, UdpSocket};
use std::time::Instant;

use super::*;
use crate::transport::conformance::conformance;

#[path = "../../../../libfabric-sys/tests/abi/support.rs"]
pub(crate) mod support;

/// Each case as a test per library.
macro_rules! on_both_libraries {
    ($($case:ident),* $(,)?) => {
        mod installed_library {
            $(#[test]
            fn $case() {
                super::run_case(super::support::Wanted::Installed, stringify!($case));
            })*
        }
        mod libfabric_2 {
            $(#[test]
            fn $case() {
                super::run_case(super::support::Wanted::Fetched2, stringify!($case));
            })*
        }
        mod bodies {
            $(#[test]
            fn $case() {
                if super::support::body_runs_on().is_some() {
                    super::$case();
                }
            })*
        }
    };
}

on_both_libraries! {
    conforms_on_loopback,
    conforms_on_an_interface_that_other_nodes_reach,
    conforms_over_ipv6,
    a_peer_that_closed_is_lost_to_its_sender,
    a_peer_that_closed_before_the_first_send_is_lost_to_its_sender,
    credits_to_a_peer_that_closed_do_not_disturb,
    an_address_of_another_machine_is_refused,
    ranks_with_other_slots_are_refused,
}

fn conforms_on_loopback() {
    conformance(|world_size| boxed(world(&tcp(world_size))));
}

fn conforms_on_an_interface_that_other_nodes_reach() {
    // Nothing is sent: connecting a datagram socket only looks up which address of ours would be used.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let address = match socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()) {
        Ok(address) if !address.ip().is_loopback() => address.ip(),
        _ => {
            return support::skip(
                "conforms_on_an_interface_that_other_nodes_reach",
                "no network but loopback",
            );
        }
    };
    conformance(|world_size| boxed(world(&FabricConfig { local_address: Some(address), ..tcp(world_size) })));
}

fn conforms_over_ipv6() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return support::skip("conforms_over_ipv6", "no IPv6 on this machine");
    }
    let address = Some(Ipv6Addr::LOCALHOST.into());
    conformance(|world_size| boxed(world(&FabricConfig { local_address: address, ..tcp(world_size) })));
}

fn a_peer_that_closed_is_lost_to_its_sender() {
    let [mut sender, mut receiver] = pair();
    let payload = vec![7; sender.slot_bytes()];
    send_until(&mut sender, &mut receiver, &payload, |_, receiver| {
        if receiver.arrived(Rank(0)).unwrap().is_none() {
            return false;
        }
        receiver.close();
        true
    });
    assert_eq!(loss_seen_by(&mut sender, &payload), Rank(1));
}

fn a_peer_that_closed_before_the_first_send_is_lost_to_its_sender() {
    // Without credit there is no send: the credit comes first, and so the connection.
    let [mut sender, mut receiver] = pair();
    let deadline = Instant::now() + DEADLINE;
    while !has_credit(&mut sender) {
        assert!(Instant::now() < deadline, "no credit in {DEADLINE:?}");
        progress(&mut receiver);
        progress(&mut sender);
    }
    receiver.close();
    let payload = vec![7; sender.slot_bytes()];
    assert_eq!(loss_seen_by(&mut sender, &payload), Rank(1));
}

fn credits_to_a_peer_that_closed_do_not_disturb() {
    let mut three = world(&tcp(3)).into_iter();
    let [mut gone, mut middle, mut stays] = [(); 3].map(|()| three.next().unwrap());
    gone.open(&[], &[Rank(1)]).unwrap();
    middle.open(&[Rank(0), Rank(2)], &[]).unwrap();
    stays.open(&[], &[Rank(1)]).unwrap();
    let payload = vec![7; 100];
    // The last message of a block of slots, whose release makes a credit due.
    let blocks = Blocks::of(gone.address.slots as usize);
    for _ in 1..blocks.slots() / blocks.count() {
        send_until(&mut gone, &mut middle, &payload, |_, middle| middle.arrived(Rank(0)).unwrap().is_some());
        middle.release(Rank(0)).unwrap();
    }
    send_until(&mut gone, &mut middle, &payload, |_, middle| middle.arrived(Rank(0)).unwrap().is_some());
    gone.close();
    middle.release(Rank(0)).unwrap();
    for _ in 0..20 {
        send_until(&mut stays, &mut middle, &payload, |_, middle| middle.arrived(Rank(2)).unwrap().is_some());
        middle.release(Rank(2)).unwrap();
    }
    let deadline = Instant::now() + DEADLINE;
    let lost = loop {
        assert!(Instant::now() < deadline, "the loss was not seen in {DEADLINE:?}");
        match middle.arrived(Rank(0)) {
            Ok(message) => assert_eq!(message.map(|_| ()), None),
            Err(lost) => break lost,
        }
        progress(&mut middle);
    };
    assert!(matches!(lost, TransportError::PeerLost { peer: Rank(0), .. }), "{lost}");
}

fn an_address_of_another_machine_is_refused() {
    let config = FabricConfig { local_address: Some("203.0.113.77".parse().unwrap()), ..tcp(1) };
    let refused = FabricTransport::new(&config).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("203.0.113.77"), "{refused}");
}

fn ranks_with_other_slots_are_refused() {
    let (mut ours, _) = FabricTransport::new(&tcp(2)).unwrap();
    let (_, theirs) = FabricTransport::new(&FabricConfig { slots: 5, ..tcp(2) }).unwrap();
    let refused = ours.connect(Rank(0), &[(Rank(1), theirs)]).unwrap_err();
    assert!(matches!(refused, TransportError::Incompatible { peer: Rank(1), .. }), "{refused}");
}

/// Runs a case in a child process that opens the wanted library.
fn run_case(wanted: support::Wanted, case: &str) {
    support::run_on(wanted, case, &format!("transport::fabric::tests::bodies::{case}"));
}

fn tcp(world_size: u32) -> FabricConfig {
    FabricConfig { patience: Duration::from_millis(500), ..FabricConfig::new(world_size, Network::Tcp) }
}

/// One connected transport per rank.
fn world(config: &FabricConfig) -> Vec<FabricTransport> {
    let (mut transports, addresses): (Vec<_>, Vec<_>) =
        (0..config.world_size).map(|_| FabricTransport::new(config).expect("an endpoint")).unzip();
    let addresses: Vec<(Rank, Vec<u8>)> = (0..).map(Rank).zip(addresses).collect();
    for (rank, transport) in (0..).map(Rank).zip(&mut transports) {
        transport.connect(rank, &addresses).expect("the addresses fit");
    }
    transports
}

fn boxed(transports: Vec<FabricTransport>) -> Vec<Box<dyn Transport>> {
    transports.into_iter().map(|transport| Box::new(transport) as Box<dyn Transport>).collect()
}

/// Rank 0, open to send, and rank 1, open to receive from it.
fn pair() -> [FabricTransport; 2] {
    let mut two = world(&tcp(2)).into_iter();
    let [mut sender, mut receiver] = [(); 2].map(|()| two.next().unwrap());
    sender.open(&[], &[Rank(1)]).unwrap();
    receiver.open(&[Rank(0)], &[]).unwrap();
    [sender, receiver]
}

/// Sends one message to rank 1 and makes progress on both sides until `done`.
#[expect(unsafe_code, reason = "try_send's contract: the payload outlives both transports")]
fn send_until(
    sender: &mut FabricTransport,
    receiver: &mut FabricTransport,
    payload: &[u8],
    mut done: impl FnMut(&mut FabricTransport, &mut FabricTransport) -> bool,
) {
    let deadline = Instant::now() + DEADLINE;
    let mut sent = false;
    while !done(sender, receiver) {
        assert!(Instant::now() < deadline, "not done in {DEADLINE:?}");
        // SAFETY: callers keep the payload, unchanged, until they have closed or dropped the sender.
        sent = sent || unsafe { sender.try_send(Rank(1), header(payload), payload, SendToken(0)) }.unwrap();
        progress(sender);
        progress(receiver);
    }
}

/// Sends to rank 1 until the transport says that a peer is lost.
#[expect(unsafe_code, reason = "try_send's contract: the transport is closed before the payload ends")]
fn loss_seen_by(sender: &mut FabricTransport, payload: &[u8]) -> Rank {
    let deadline = Instant::now() + DEADLINE;
    let lost = loop {
        assert!(Instant::now() < deadline, "the loss was not seen in {DEADLINE:?}");
        // SAFETY: the transport is closed below, before the payload ends.
        let sent = unsafe { sender.try_send(Rank(1), header(payload), payload, SendToken(0)) };
        if let Err(error) = sent.map(|_| ()).and_then(|()| sender.poll(&mut Vec::new())) {
            break error;
        }
        sender.wait(Duration::from_millis(10));
    };
    sender.close();
    println!("{lost}");
    match lost {
        TransportError::PeerLost { peer, .. } => peer,
        other => panic!("{other}"),
    }
}

fn has_credit(sender: &mut FabricTransport) -> bool {
    sender.engine().unwrap().has_credit(Rank(1))
}

fn progress(transport: &mut FabricTransport) {
    transport.poll(&mut Vec::new()).unwrap();
    transport.wait(Duration::from_millis(1));
}

fn header(payload: &[u8]) -> Header {
    Header { signature: 1, sequence: 2, len_bytes: payload.len() as u32 }
}

const DEADLINE: Duration = Duration::from_secs(60);
