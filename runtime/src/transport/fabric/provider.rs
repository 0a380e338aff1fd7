//! Which of libfabric's providers carries the messages.

use std::net::{IpAddr, Ipv4Addr};

use super::FabricConfig;
use crate::fabric::{FabricError, Info, Library, Nic, Request, Service};

/// The kind of network that a world runs on. All ranks must take the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// TCP over any interface.
    Tcp,
    /// The reliable-datagram fabric of EFA devices, by messages.
    Efa,
    /// EFA devices that write into others' memory, by such writes.
    EfaDirect,
}

/// What a rank's rails are opened from: of the provider for the configuration, first choice first, the devices that it
/// names, or the first.
pub(super) fn choose(library: &Library, config: &FabricConfig) -> Result<Vec<Info>, FabricError> {
    let source = match config.network {
        Network::Tcp => Some(config.local_address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))),
        Network::Efa | Network::EfaDirect => None,
    };
    let service = service(config.network);
    for (provider, fabric) in candidates(config.network, library.version().number()) {
        let request = Request { service, provider, fabric, source, gpu_memory: false };
        let infos = named(Info::query(library, &request)?, &config.devices);
        for info in &infos {
            log::debug!(
                "libfabric {} at {}: provider {provider}, fabric {}, domain {}",
                library.version(),
                library.path(),
                info.fabric_name(),
                info.domain_name()
            );
        }
        if !infos.is_empty() {
            return Ok(infos);
        }
    }
    let wanted = match (config.network, source) {
        (Network::Tcp, Some(address)) => format!("tcp endpoint at {address}"),
        (Network::Tcp, None) => "tcp endpoint".to_owned(),
        (Network::Efa, _) if config.devices.is_empty() => "endpoint on an EFA device".to_owned(),
        (Network::EfaDirect, _) if config.devices.is_empty() => {
            "endpoint on an EFA device that writes into others' memory".to_owned()
        }
        (Network::Efa | Network::EfaDirect, _) => format!("endpoint on {}", config.devices.join(", ")),
    };
    Err(FabricError::NoProvider {
        version: library.version().to_string(),
        path: library.path().to_owned(),
        wanted,
    })
}

/// What a rank's rails for reads are opened from: these EFA devices, where they reach what they shall.
pub(super) fn choose_for_reads(
    library: &Library,
    network: Network,
    devices: &[String],
    gpu_memory: bool,
) -> Result<Vec<Info>, FabricError> {
    for (provider, fabric) in candidates(network, library.version().number()) {
        let request = Request { service: Service::Reads, provider, fabric, source: None, gpu_memory };
        let infos = named(Info::query(library, &request)?, devices);
        if !infos.is_empty() {
            return Ok(infos);
        }
    }
    let what = if gpu_memory {
        "others' memory into a GPU's (for which libfabric must have been built with CUDA, and the card reach GPU memory)"
    } else {
        "others' memory"
    };
    Err(FabricError::NoProvider {
        version: library.version().to_string(),
        path: library.path().to_owned(),
        wanted: format!("endpoint on {} that reads {what}", devices.join(", ")),
    })
}

/// The infos of these devices in this order, none if one is missing; the first info where no device is named.
fn named(infos: Vec<Info>, devices: &[String]) -> Vec<Info> {
    if devices.is_empty() {
        return infos.into_iter().take(1).collect();
    }
    let find = |device: &String| {
        infos.iter().find(|info| info.nic().is_some_and(|nic| nic.name == *device)).cloned()
    };
    devices.iter().map(find).collect::<Option<Vec<Info>>>().unwrap_or_default()
}

/// The EFA devices that the provider offers for this network, in its order.
///
/// # Errors
///
/// [`FabricError`] where libfabric cannot be asked.
pub fn efa_devices(library: &Library, network: Network) -> Result<Vec<Nic>, FabricError> {
    for (provider, fabric) in candidates(network, library.version().number()) {
        let request =
            Request { service: service(network), provider, fabric, source: None, gpu_memory: false };
        let infos = Info::query(library, &request)?;
        if !infos.is_empty() {
            return Ok(infos.iter().filter_map(Info::nic).collect());
        }
    }
    Ok(Vec::new())
}

fn service(network: Network) -> Service {
    match network {
        Network::Tcp | Network::Efa => Service::Tagged,
        Network::EfaDirect => Service::Writes,
    }
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
        Network::EfaDirect if version >= V2_1 => vec![("efa", Some("efa-direct"))],
        Network::EfaDirect => Vec::new(),
    }
}
