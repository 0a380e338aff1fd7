//! Which of libfabric's providers carries the messages.

use std::net::{IpAddr, Ipv4Addr};

use super::FabricConfig;
use crate::fabric::{FabricError, Info, Library, Request};

/// The kind of network that a world runs on. All ranks must take the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// TCP over any interface.
    Tcp,
    /// The reliable-datagram fabric of EFA devices.
    Efa,
}

/// The provider for a configuration, first choice first.
pub(super) fn choose(library: &Library, config: &FabricConfig) -> Result<Info, FabricError> {
    let source = match config.network {
        Network::Tcp => Some(config.local_address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))),
        Network::Efa => None,
    };
    for (provider, fabric) in candidates(config.network, library.version().number()) {
        if let Some(info) = Info::query(library, &Request { provider, fabric, source })?.into_iter().next() {
            log::debug!(
                "libfabric {} at {}: provider {provider}, fabric {}, domain {}",
                library.version(),
                library.path(),
                info.fabric_name(),
                info.domain_name()
            );
            return Ok(info);
        }
    }
    let wanted = match (config.network, source) {
        (Network::Tcp, Some(address)) => format!("tcp endpoint at {address}"),
        (Network::Tcp, None) => "tcp endpoint".to_owned(),
        (Network::Efa, _) => "endpoint on an EFA device".to_owned(),
    };
    Err(FabricError::NoProvider {
        version: library.version().to_string(),
        path: library.path().to_owned(),
        wanted,
    })
}

/// Providers and fabrics by name.
///
/// From 1.18 on, `tcp` has reliable datagrams of its own. 1.17 has the same code under the name `net`; there, and
/// wherever else `tcp` lacks them, `ofi_rxm` makes them out of tcp's connections.
fn candidates(network: Network, version: u32) -> Vec<(&'static str, Option<&'static str>)> {
    const V1_18: u32 = 1 << 16 | 18;
    const V2_1: u32 = 2 << 16 | 1;
    match network {
        Network::Tcp if version >= V1_18 => vec![("tcp", None), ("tcp;ofi_rxm", None)],
        Network::Tcp => vec![("net", None), ("tcp;ofi_rxm", None)],
        // Before 2.1 the fabric's name was the device's address, and there was one only.
        Network::Efa if version >= V2_1 => vec![("efa", Some("efa"))],
        Network::Efa => vec![("efa", None)],
    }
}
