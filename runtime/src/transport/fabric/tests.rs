//! The transport over loopback tcp, on the installed libfabric and on 2.5.1.

use super::*;
use crate::transport::conformance::conformance;

#[path = "../../../libfabric-sys/tests/abi/support.rs"]
mod support;
use support::{Wanted, run_on};

#[test]
fn conforms_on_the_installed_library() {
    run_on(Wanted::Installed, "conforms_on_the_installed_library", BODY);
}

#[test]
fn conforms_on_libfabric_2() {
    run_on(Wanted::Fetched2, "conforms_on_libfabric_2", BODY);
}

/// The body of the tests above; does nothing in a process that was not started by one of them.
#[test]
fn conformance_body() {
    if support::body_runs_on().is_some() {
        conformance(|world_size| {
            world(&FabricConfig::new(world_size, Network::Tcp))
                .into_iter()
                .map(|t| Box::new(t) as Box<_>)
                .collect()
        });
    }
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

const BODY: &str = "transport::fabric::tests::conformance_body";
