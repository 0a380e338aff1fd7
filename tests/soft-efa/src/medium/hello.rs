//! How a link introduces itself.

use crate::address::{Endpoint, Gid, Qpn};

/// The first bytes of a link: who wants to talk to whom, and in which fabric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The fabric's name.
    pub fabric: String,
    /// The device that opens the link.
    pub from: Gid,
    /// The queue pair that it wants.
    pub to: Endpoint,
}

impl Hello {
    /// Writes it.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..24].copy_from_slice(&self.from.0);
        bytes[24..40].copy_from_slice(&self.to.gid.0);
        bytes[40..44].copy_from_slice(&self.to.qpn.0.to_le_bytes());
        let name = self.fabric.as_bytes();
        bytes[48..48 + name.len().min(NAME_BYTES)].copy_from_slice(&name[..name.len().min(NAME_BYTES)]);
        bytes
    }

    /// Reads it; none when it is no hello of this version.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Option<Hello> {
        if &bytes[..8] != MAGIC {
            return None;
        }
        let gid = |start: usize| {
            let mut gid = [0; 16];
            gid.copy_from_slice(&bytes[start..start + 16]);
            Gid(gid)
        };
        let qpn = Qpn(u32::from_le_bytes([bytes[40], bytes[41], bytes[42], bytes[43]]));
        let name = bytes[48..48 + NAME_BYTES].split(|byte| *byte == 0).next().unwrap_or_default();
        let fabric = std::str::from_utf8(name).ok()?.to_owned();
        Some(Hello { fabric, from: gid(8), to: Endpoint { gid: gid(24), qpn } })
    }
}

/// How long it is.
pub(super) const HELLO_BYTES: usize = 80;
const NAME_BYTES: usize = 32;
/// With the version of the frames.
const MAGIC: &[u8; 8] = b"softefa1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hello_survives() {
        let hello = Hello {
            fabric: "a-fabric-of-exactly-32-characters".chars().take(32).collect(),
            from: Gid::new([10, 0, 0, 1].into(), 3),
            to: Endpoint { gid: Gid::new([10, 0, 0, 2].into(), 0), qpn: Qpn(77) },
        };
        let mut bytes = hello.encode();
        assert_eq!(Hello::decode(&bytes), Some(hello));
        bytes[0] = b'x';
        assert_eq!(Hello::decode(&bytes), None);
    }
}
