//! Addresses of devices: an EFA address carries what one host needs to reach another, so that nobody keeps a directory.
//!
//! An EFA device has one GID, a link-local IPv6 address made of its MAC address. A soft device's MAC address is made
//! of its host's IPv4 address and its number on that host; from a GID anyone can therefore tell where the queue pairs
//! of a device are to be found.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The GID of a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gid(pub [u8; 16]);

/// The number of a queue pair on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Qpn(pub u32);

/// A queue pair somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Its device.
    pub gid: Gid,
    /// Its number there.
    pub qpn: Qpn,
}

impl Gid {
    /// The GID of a host's device.
    pub fn new(host: Ipv4Addr, device: u8) -> Gid {
        let [a, b, c, d] = host.octets();
        // EUI-64 of the MAC address 02:device:a:b:c:d, whose "local" bit the format inverts.
        Gid([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x00, device, a, 0xff, 0xfe, b, c, d])
    }

    /// The host and the number of the device; none for a GID that is no soft device's.
    pub fn parts(self) -> Option<(Ipv4Addr, u8)> {
        let [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, device, a, 0xff, 0xfe, b, c, d] = self.0 else { return None };
        Some((Ipv4Addr::new(a, b, c, d), device))
    }

    /// The device's GUID: the second half of its GID.
    pub fn guid(self) -> [u8; 8] {
        let mut guid = [0; 8];
        guid.copy_from_slice(&self.0[8..]);
        guid
    }
}

impl fmt::Display for Gid {
    /// As sysfs writes it: eight groups of four digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = Ipv6Addr::from(self.0).segments();
        for (index, group) in groups.iter().enumerate() {
            write!(f, "{}{group:04x}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gid.parts() {
            Some((host, device)) => write!(f, "queue pair {} of device {device} at {host}", self.qpn.0),
            None => write!(f, "queue pair {} of {}", self.qpn.0, self.gid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gid_tells_host_and_device() {
        let gid = Gid::new(Ipv4Addr::new(10, 88, 0, 3), 2);
        assert_eq!(gid.to_string(), "fe80:0000:0000:0000:0002:0aff:fe58:0003");
        assert_eq!(gid.parts(), Some((Ipv4Addr::new(10, 88, 0, 3), 2)));
    }

    #[test]
    fn foreign_gid_has_no_parts() {
        assert_eq!(Gid([0; 16]).parts(), None);
        let mut gid = Gid::new(Ipv4Addr::LOCALHOST, 0);
        gid.0[11] = 0;
        assert_eq!(gid.parts(), None);
    }
}
