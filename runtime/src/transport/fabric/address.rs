//! What a rank tells the others about its endpoints, and whether theirs fit.

use efarun_wire::Rank;
use serde::{Deserialize, Serialize};

use crate::transport::TransportError;

/// A rank's endpoints, as they travel in the bootstrap's allgather.
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
    /// Its host, for messages.
    pub(super) host: String,
    /// Slots per pair of ranks.
    pub(super) slots: u32,
    /// Bytes that a piece of a message may have.
    pub(super) piece_bytes: u32,
    /// Its endpoints, rail by rail.
    pub(super) rails: Vec<RailAddress>,
    /// Where others write their grants, where messages are written.
    pub(super) mailbox: Option<Mailbox>,
}

/// A rank's memory for grants, a part for each rank of the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mailbox {
    /// Its address there.
    pub(super) address: u64,
    /// Its key on each rail.
    pub(super) keys: Vec<u64>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RailAddress {
    /// Its card, for messages.
    pub(super) nic: String,
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
        match postcard::take_from_bytes::<Address>(bytes) {
            Ok((address, [])) if address.is_whole() => Ok(address),
            Ok(_) | Err(_) => Err(malformed(format!("its address of {} bytes does not parse", bytes.len()))),
        }
    }

    /// Whether the mailbox has a key for each rail, and ends where there are addresses.
    fn is_whole(&self) -> bool {
        let fits = |it: &Mailbox| it.keys.len() == self.rails.len() && it.address < ADDRESS_LIMIT;
        self.mailbox.as_ref().is_none_or(fits)
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
        // Releases of the EFA provider do not understand each other's packets in every case, and say so late or never.
        if self.provider == "efa" && self.library != theirs.library {
            return incompatible(format!(
                "{} has libfabric {}, {} has {}: install the same EFA installer on all nodes, and give all ranks the same \
                 LD_LIBRARY_PATH",
                theirs.host, theirs.library, self.host, self.library
            ));
        }
        if self.rails.len() != theirs.rails.len() {
            return incompatible(format!(
                "it uses {} EFA devices, this rank {}: take nodes of one instance type, with as many ranks on each",
                theirs.rails.len(),
                self.rails.len()
            ));
        }
        if (self.slots, self.piece_bytes) != (theirs.slots, theirs.piece_bytes) {
            return incompatible(format!(
                "it has {} slots with pieces of {} bytes, this rank has {} with {}: set them alike on all ranks",
                theirs.slots, theirs.piece_bytes, self.slots, self.piece_bytes
            ));
        }
        Ok(())
    }

    /// The cards between the two, for people.
    pub(super) fn way_to(&self, theirs: &Address) -> String {
        let cards = |address: &Address| {
            let names: Vec<&str> = address.rails.iter().map(|rail| rail.nic.as_str()).collect();
            names.join(", ")
        };
        format!("from {} to {} on {}", cards(self), cards(theirs), theirs.host)
    }

    fn describe(&self) -> String {
        format!(
            "provider {} (fabric {}, protocol {} version {}) of libfabric {}",
            self.provider, self.fabric, self.protocol.0, self.protocol.1, self.library
        )
    }
}

pub(super) const FORMAT: u8 = 6;

/// Above all that a processor gives a process, so that no place behind an address below it overflows.
const ADDRESS_LIMIT: u64 = 1 << 62;

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
            host: "h1".into(),
            slots: 4,
            piece_bytes: 65536,
            rails: vec![RailAddress { nic: "eth0".into(), raw: vec![1, 2, 3] }],
            mailbox: None,
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
    fn a_mailbox_without_a_key_for_each_rail_or_beyond_all_addresses_is_refused() {
        let with = |address, keys: &[u64]| Address {
            mailbox: Some(Mailbox { address, keys: keys.to_vec() }),
            ..address_of_rails()
        };
        let parse = |address: &Address| Address::parse(Rank(7), &address.to_bytes());
        let whole = with(1 << 40, &[5, 6]);
        assert_eq!(parse(&whole), Ok(whole.clone()));
        for broken in [with(1 << 40, &[5]), with(1 << 40, &[]), with(u64::MAX - 5, &[5, 6])] {
            let refused = cause(parse(&broken).map(|_| ()));
            assert!(refused.contains("does not parse"), "{refused}");
        }
    }

    fn address_of_rails() -> Address {
        Address { rails: vec![address().rails[0].clone(); 2], ..address() }
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
        let other = Address { piece_bytes: 1024, ..address() };
        assert!(cause(address().check(Rank(7), &other)).contains("it has 4 slots with pieces of 1024 bytes"));
    }

    #[test]
    fn another_libfabric_or_number_of_rails_is_named_where_they_must_agree() {
        let other = Address { library: "1.22".into(), host: "h2".into(), ..address() };
        assert_eq!(address().check(Rank(7), &other), Ok(()), "tcp is tcp");
        let efa = Address { provider: "efa".into(), ..address() };
        let other = Address { provider: "efa".into(), ..other };
        let text = cause(efa.check(Rank(7), &other));
        assert!(text.starts_with("h2 has libfabric 1.22, h1 has 2.5: "), "{text}");
        let other = Address { rails: vec![efa.rails[0].clone(); 4], ..efa.clone() };
        assert!(cause(efa.check(Rank(7), &other)).contains("it uses 4 EFA devices, this rank 1"));
    }
}
