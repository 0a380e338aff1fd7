//! How a rank is reached, as it tells the others through the bootstrap.

use std::net::SocketAddr;

use efarun_wire::secure::LinkKey;
use serde::{Deserialize, Serialize};

/// Where a rank listens, and the key that whoever dials it must have. The bootstrap, which is encrypted and
/// authenticated, carries it to the other ranks and to nobody else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Contact {
    pub(super) address: SocketAddr,
    pub(super) key: LinkKey,
}

impl Contact {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("an address and a key can be written")
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Contact> {
        let (contact, rest) = postcard::take_from_bytes(bytes).ok()?;
        rest.is_empty().then_some(contact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_contact_survives_its_bytes_and_shows_no_key() {
        for address in ["10.88.0.1:4711", "[fe80::1]:65535"] {
            let contact = Contact { address: address.parse().unwrap(), key: LinkKey::from_bytes([7; 32]) };
            let bytes = contact.to_bytes();
            let read = Contact::from_bytes(&bytes).unwrap();
            assert_eq!((read.address, &read.key), (contact.address, &contact.key));
            assert!(!format!("{contact:?}").contains('7'.to_string().repeat(3).as_str()));
            assert!(Contact::from_bytes(&bytes[1..]).is_none());
            assert!(Contact::from_bytes(&[bytes, vec![0]].concat()).is_none());
        }
    }
}
