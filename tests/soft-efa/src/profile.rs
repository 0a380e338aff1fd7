//! What the devices of an instance type can do, and how much of it.
//!
//! Capabilities and the fixed sizes (MTU, inline data, gather lists) come from libfabric's and rdma-core's sources;
//! the counts are plausible values that no EFA card was asked for, and any of them can be lowered by a fault
//! (`limit:…`), which is what tests of a consumer's behaviour at a limit need.

/// What a device can do, as `efadv_query_device` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// RDMA read.
    pub rdma_read: bool,
    /// RDMA write, with immediate data too.
    pub rdma_write: bool,
    /// A receive completion for a write with immediate data that takes no posted receive.
    pub unsolicited_write: bool,
}

/// How much of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queue pairs on a device, by all processes of the host together.
    pub queue_pairs: u32,
    /// Completion queues of a process on a device.
    pub completion_queues: u32,
    /// Entries of a completion queue.
    pub completion_queue_entries: u32,
    /// Protection domains of a process on a device.
    pub protection_domains: u32,
    /// Regions of a process on a device.
    pub regions: u32,
    /// Bytes in a region.
    pub region_bytes: u64,
    /// Pages of 4 KiB in a region that others may write to.
    pub writable_region_pages: u64,
    /// Address handles of a process on a device.
    pub address_handles: u32,
    /// Entries of a send queue.
    pub send_queue: u32,
    /// Entries of a receive queue.
    pub receive_queue: u32,
    /// Pieces of memory in a send.
    pub send_pieces: u16,
    /// Pieces of memory in a receive.
    pub receive_pieces: u16,
    /// Bytes that a work request itself may carry.
    pub inline_bytes: u16,
    /// Bytes in a message.
    pub mtu_bytes: u32,
    /// Bytes in an RDMA operation.
    pub rdma_bytes: u32,
}

/// An instance type's devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: &'static str,
    /// PCI device id.
    pub part_id: u32,
    /// What a device can do.
    pub capabilities: Capabilities,
    /// How much of it.
    pub limits: Limits,
    /// PCI addresses of the devices of an instance, in order.
    pub pci_addresses: &'static [PciAddress],
    /// Width and speed of the port as verbs write them, and the rate as sysfs does.
    pub port: PortSpeed,
}

/// A place on the PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciAddress {
    /// Bus.
    pub bus: u8,
    /// Slot on the bus.
    pub slot: u8,
    /// The NUMA node that it is closest to.
    pub numa_node: u8,
}

/// How fast a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSpeed {
    /// `active_width`.
    pub width: u8,
    /// `active_speed`.
    pub speed: u8,
    /// `rate` in sysfs.
    pub rate: &'static str,
}

impl Profile {
    /// A profile by its name.
    pub fn named(name: &str) -> Option<&'static Profile> {
        PROFILES.iter().copied().find(|profile| profile.name == name)
    }

    /// The PCI address of a device. Beyond what the instance has, further ones on the same buses.
    pub fn pci_address(&self, device: u8) -> PciAddress {
        let known = self.pci_addresses;
        let address = known[usize::from(device) % known.len()];
        let round = (usize::from(device) / known.len()) as u8;
        PciAddress { slot: (address.slot + round) % 32, ..address }
    }
}

impl PciAddress {
    /// As sysfs names it.
    pub fn text(&self) -> String {
        format!("0000:{:02x}:{:02x}.0", self.bus, self.slot)
    }

    /// The name that predictable naming gives the device.
    pub fn device_name(&self) -> String {
        format!("rdmap{}s{}", self.bus, self.slot)
    }
}

/// All profiles.
pub const PROFILES: &[&Profile] = &[&P4D, &P5];

/// p4d.24xlarge: four cards that read but do not write.
pub const P4D: Profile = Profile {
    name: "p4d",
    part_id: 0xefa1,
    capabilities: Capabilities { rdma_read: true, rdma_write: false, unsolicited_write: false },
    limits: LIMITS,
    pci_addresses: &[pci(0x10, 0x1b, 0), pci(0x20, 0x1b, 0), pci(0x90, 0x1b, 1), pci(0xa0, 0x1b, 1)],
    port: PORT_100G,
};

/// p5.48xlarge: thirty-two cards, four to a switch, that read and write.
pub const P5: Profile = Profile {
    name: "p5",
    part_id: 0xefa2,
    capabilities: Capabilities { rdma_read: true, rdma_write: true, unsolicited_write: true },
    limits: LIMITS,
    pci_addresses: &[
        pci(0x4f, 0, 0),
        pci(0x50, 0, 0),
        pci(0x51, 0, 0),
        pci(0x52, 0, 0),
        pci(0x60, 0, 0),
        pci(0x61, 0, 0),
        pci(0x62, 0, 0),
        pci(0x63, 0, 0),
        pci(0x71, 0, 0),
        pci(0x72, 0, 0),
        pci(0x73, 0, 0),
        pci(0x74, 0, 0),
        pci(0x82, 0, 0),
        pci(0x83, 0, 0),
        pci(0x84, 0, 0),
        pci(0x85, 0, 0),
        pci(0x93, 0, 1),
        pci(0x94, 0, 1),
        pci(0x95, 0, 1),
        pci(0x96, 0, 1),
        pci(0xa4, 0, 1),
        pci(0xa5, 0, 1),
        pci(0xa6, 0, 1),
        pci(0xa7, 0, 1),
        pci(0xb5, 0, 1),
        pci(0xb6, 0, 1),
        pci(0xb7, 0, 1),
        pci(0xb8, 0, 1),
        pci(0xc6, 0, 1),
        pci(0xc7, 0, 1),
        pci(0xc8, 0, 1),
        pci(0xc9, 0, 1),
    ],
    port: PORT_100G,
};

const fn pci(bus: u8, slot: u8, numa_node: u8) -> PciAddress {
    PciAddress { bus, slot, numa_node }
}

/// 4 lanes of 25 Gb/s.
const PORT_100G: PortSpeed = PortSpeed { width: 2, speed: 32, rate: "100 Gb/sec (4X EDR)" };

const LIMITS: Limits = Limits {
    queue_pairs: 256,
    completion_queues: 512,
    completion_queue_entries: 32_768,
    protection_domains: 256,
    regions: 65_536,
    region_bytes: 192 << 30,
    writable_region_pages: 1 << 20,
    address_handles: 4096,
    send_queue: 4096,
    receive_queue: 32_768,
    send_pieces: 2,
    receive_pieces: 3,
    inline_bytes: 32,
    mtu_bytes: 8928,
    rdma_bytes: 1 << 30,
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn devices_have_places_of_their_own() {
        for profile in PROFILES {
            let places: BTreeSet<_> = (0..32).map(|device| profile.pci_address(device).text()).collect();
            assert_eq!(places.len(), 32, "{}", profile.name);
        }
    }

    #[test]
    fn p4d_has_the_places_of_a_p4d() {
        assert_eq!(P4D.pci_address(3).text(), "0000:a0:1b.0");
        assert_eq!(P4D.pci_address(0).device_name(), "rdmap16s27");
        assert_eq!(P4D.pci_address(4).text(), "0000:10:1c.0");
    }
}
