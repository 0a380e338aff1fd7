//! What a rank tells the others about its room and its endpoints, and whether theirs fit.

use efarun_wire::Rank;
use serde::{Deserialize, Serialize};

use super::super::address::RailAddress;
use super::{ReadRail, Room};
use crate::fabric::{FabricError, Info, Library};
use crate::transport::TransportError;

/// A rank's room, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReaderAddress {
    /// The fabric's name, and its wire protocol with the version.
    fabric: String,
    protocol: (u32, u32),
    /// libfabric's version, for messages.
    library: String,
    /// Its host, for messages.
    pub(super) host: String,
    /// Its endpoints, rail by rail,
    pub(super) rails: Vec<RailAddress>,
    /// and the room's key on each.
    pub(super) room_keys: Vec<u64>,
    pub(super) room_address: u64,
    pub(super) room_bytes: u64,
}

impl ReaderAddress {
    pub(super) fn new(
        info: &Info,
        library: &Library,
        rails: &[ReadRail],
        room: &Room,
    ) -> Result<Self, FabricError> {
        let host =
            hostname::get().map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned());
        Ok(ReaderAddress {
            fabric: info.fabric_name().to_owned(),
            protocol: info.protocol(),
            library: library.version().to_string(),
            host,
            rails: rails.iter().map(|rail| rail.rail.address()).collect::<Result<_, _>>()?,
            room_keys: rails.iter().map(|rail| rail.room.key()).collect(),
            room_address: room.address(),
            room_bytes: room.len_bytes() as u64,
        })
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("strings, bytes and numbers can be encoded")
    }

    /// Reads what `peer` sent.
    pub(super) fn parse(peer: Rank, bytes: &[u8]) -> Result<Self, TransportError> {
        let read = postcard::take_from_bytes::<ReaderAddress>(bytes).ok();
        let address = read.and_then(|(address, rest)| rest.is_empty().then_some(address));
        let is_whole = |address: &ReaderAddress| {
            let is_inside = address.room_address.checked_add(address.room_bytes).is_some();
            is_inside && address.rails.len() == address.room_keys.len() && !address.rails.is_empty()
        };
        address.filter(is_whole).ok_or_else(|| TransportError::Incompatible {
            peer,
            cause: "the address of its room cannot be read: all nodes must run the same efarun".to_owned(),
        })
    }

    /// Whether a peer's endpoints understand ours.
    pub(super) fn check(&self, peer: Rank, theirs: &ReaderAddress) -> Result<(), TransportError> {
        let of = |address: &ReaderAddress| {
            let ReaderAddress { fabric, protocol: (number, version), rails, .. } = address;
            format!("{} cards on fabric {fabric} with protocol {number} version {version}", rails.len())
        };
        let (ours, their) = (of(self), of(theirs));
        if ours == their {
            return Ok(());
        }
        let (host, library) = (&theirs.host, &theirs.library);
        Err(TransportError::Incompatible {
            peer,
            cause: format!(
                "{host} has {their} (libfabric {library}), this rank {ours} (libfabric {}): give all nodes the same EFA \
                 installer",
                self.library
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> ReaderAddress {
        let rail = |nic: &str| RailAddress { nic: nic.to_owned(), raw: vec![1; 32] };
        ReaderAddress {
            fabric: "efa".to_owned(),
            protocol: (25, 4),
            library: "2.5".to_owned(),
            host: "h1".to_owned(),
            rails: vec![rail("rdmap16s27"), rail("rdmap32s27")],
            room_keys: vec![7, 8],
            room_address: 1 << 40,
            room_bytes: 1 << 20,
        }
    }

    #[test]
    fn an_address_survives_its_bytes_and_others_are_refused() {
        let ours = address();
        assert_eq!(ReaderAddress::parse(Rank(1), &ours.to_bytes()).unwrap(), ours);
        let broken = [
            ReaderAddress { room_keys: vec![7], ..address() },
            ReaderAddress { rails: Vec::new(), room_keys: Vec::new(), ..address() },
            ReaderAddress { room_address: u64::MAX, ..address() },
        ];
        let mut bytes: Vec<Vec<u8>> = broken.iter().map(ReaderAddress::to_bytes).collect();
        bytes.push(ours.to_bytes()[..20].to_vec());
        bytes.push([&ours.to_bytes()[..], &[0]].concat());
        for bytes in bytes {
            let refused = ReaderAddress::parse(Rank(1), &bytes).unwrap_err();
            assert!(matches!(refused, TransportError::Incompatible { peer: Rank(1), .. }), "{refused}");
        }
    }

    #[test]
    fn ranks_on_other_fabrics_or_with_fewer_cards_are_refused_by_name() {
        let ours = address();
        ours.check(Rank(1), &address()).unwrap();
        let fewer = ReaderAddress {
            rails: ours.rails[..1].to_vec(),
            room_keys: vec![7],
            host: "h2".to_owned(),
            ..address()
        };
        let other = ReaderAddress { fabric: "efa-direct".to_owned(), host: "h2".to_owned(), ..address() };
        for theirs in [fewer, other] {
            let refused = ours.check(Rank(1), &theirs).unwrap_err().to_string();
            assert!(refused.contains("rank 1") && refused.contains("h2 has"), "{refused}");
        }
    }
}
