//! What a rank tells the others about its endpoint, and whether theirs fits.

use efarun_wire::Rank;
use serde::{Deserialize, Serialize};

use crate::transport::TransportError;

/// A rank's endpoint, as it travels in the bootstrap's allgather.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Address {
    /// Of these fields: [`FORMAT`].
    pub(super) format: u8,
    /// The provider's name.
    pub(super) provider: String,
    /// The fabric's name.
    pub(super) fabric: String,
    /// The wire protocol and its version.
    pub(super) protocol: (u32, u32),
    /// libfabric's version, for messages.
    pub(super) library: String,
    /// Slots per pair of ranks.
    pub(super) slots: u32,
    /// Bytes that a slot's payload may have.
    pub(super) slot_bytes: u32,
    /// What the endpoint calls its address.
    pub(super) raw: Vec<u8>,
}

impl Address {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("strings, bytes and numbers can be encoded")
    }

    /// Reads what `peer` sent.
    pub(super) fn parse(peer: Rank, bytes: &[u8]) -> Result<Address, TransportError> {
        let malformed = |what: String| TransportError::Incompatible {
            peer,
            cause: format!("{what}: all nodes must run the same efarun"),
        };
        if bytes.first().is_some_and(|&format| format != FORMAT) {
            return Err(malformed(format!("its address has format {}, ours has {FORMAT}", bytes[0])));
        }
        match postcard::take_from_bytes(bytes) {
            Ok((address, [])) => Ok(address),
            Ok(_) | Err(_) => Err(malformed(format!("its address of {} bytes does not parse", bytes.len()))),
        }
    }

    /// Says no when messages between the two would not be understood.
    pub(super) fn check(&self, peer: Rank, theirs: &Address) -> Result<(), TransportError> {
        let incompatible = |cause| Err(TransportError::Incompatible { peer, cause });
        // Of tcp, the fabric's name is a subnet, and ranks may well be in several.
        let same_fabric = self.provider != "efa" || self.fabric == theirs.fabric;
        if self.provider != theirs.provider || self.protocol != theirs.protocol || !same_fabric {
            return incompatible(format!(
                "it has {}, this rank has {}: give all nodes the same libfabric, and the same FI_PROVIDER",
                theirs.describe(),
                self.describe()
            ));
        }
        if (self.slots, self.slot_bytes) != (theirs.slots, theirs.slot_bytes) {
            return incompatible(format!(
                "it has {} slots of {} bytes, this rank has {} of {}: set them alike on all ranks",
                theirs.slots, theirs.slot_bytes, self.slots, self.slot_bytes
            ));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        format!(
            "provider {} (fabric {}, protocol {} version {}) of libfabric {}",
            self.provider, self.fabric, self.protocol.0, self.protocol.1, self.library
        )
    }
}

pub(super) const FORMAT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> Address {
        Address {
            format: FORMAT,
            provider: "tcp".into(),
            fabric: "10.0.0.0/24".into(),
            protocol: (25, 1),
            library: "2.5".into(),
            slots: 4,
            slot_bytes: 65536,
            raw: vec![1, 2, 3],
        }
    }

    fn cause(result: Result<(), TransportError>) -> String {
        match result {
            Err(TransportError::Incompatible { peer: Rank(7), cause }) => cause,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_survives_its_bytes() {
        assert_eq!(Address::parse(Rank(7), &address().to_bytes()), Ok(address()));
    }

    #[test]
    fn bytes_that_are_no_address_are_refused_with_the_rank() {
        let whole = address().to_bytes();
        let longer = [&whole[..], &[0]].concat();
        for bytes in [&[][..], &[FORMAT], &whole[..whole.len() - 1], &longer, &[9, 9, 9]] {
            let refused = cause(Address::parse(Rank(7), bytes).map(|_| ()));
            assert!(refused.contains("the same efarun"), "{refused}");
        }
    }

    #[test]
    fn tcp_ranks_of_two_subnets_fit() {
        let theirs = Address { fabric: "10.0.1.0/24".into(), ..address() };
        assert_eq!(address().check(Rank(7), &theirs), Ok(()));
    }

    #[test]
    fn another_provider_fabric_protocol_or_slot_size_is_named() {
        let other = Address { provider: "net".into(), library: "1.17".into(), ..address() };
        assert_eq!(
            cause(address().check(Rank(7), &other)),
            "it has provider net (fabric 10.0.0.0/24, protocol 25 version 1) of libfabric 1.17, this rank has provider \
             tcp (fabric 10.0.0.0/24, protocol 25 version 1) of libfabric 2.5: give all nodes the same libfabric, and \
             the same FI_PROVIDER"
        );
        let other = Address { protocol: (25, 2), ..address() };
        assert!(cause(address().check(Rank(7), &other)).contains("version 2"));
        let efa = Address { provider: "efa".into(), fabric: "efa".into(), ..address() };
        let direct = Address { fabric: "efa-direct".into(), ..efa.clone() };
        assert!(cause(efa.check(Rank(7), &direct)).contains("efa-direct"));
        let other = Address { slot_bytes: 1024, ..address() };
        assert!(cause(address().check(Rank(7), &other)).contains("it has 4 slots of 1024 bytes"));
    }
}
