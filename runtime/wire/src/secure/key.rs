use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::ids::{JobId, NodeId};

/// The key of one link: 256 bits that the two ends share. Debug output shows nothing of it, and dropping it wipes it.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct LinkKey([u8; 32]);

impl LinkKey {
    /// Takes these bits as they are.
    pub fn from_bytes(bytes: [u8; 32]) -> LinkKey {
        LinkKey(bytes)
    }

    /// Reads a key file's content: 64 hexadecimal digits of either case, white space around them allowed.
    ///
    /// # Errors
    ///
    /// [`ParseKeyError`] names the length or the position at fault and never a digit.
    pub fn from_hex(text: &str) -> Result<LinkKey, ParseKeyError> {
        let text = text.trim();
        if let Some(position) = text.chars().position(|c| !c.is_ascii_hexdigit()) {
            return Err(ParseKeyError::NotHexadecimal { position: position + 1 });
        }
        let mut key = Zeroizing::new([0; 32]);
        if text.len() != 2 * key.len() {
            return Err(ParseKeyError::WrongLength { digits: text.len() });
        }
        for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = pair.iter().fold(0, |value, digit| value << 4 | hex_value(*digit));
        }
        Ok(LinkKey(*key))
    }

    /// Writes the key as a key file holds it: 64 lowercase hexadecimal digits.
    pub fn to_hex(&self) -> Zeroizing<String> {
        // At its final size from the start, so that no unwiped copy is left behind by growing.
        let mut text = Zeroizing::new(String::with_capacity(64));
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 0xf] {
                text.push(char::from_digit(nibble.into(), 16).expect("a nibble is a hexadecimal digit"));
            }
        }
        text
    }

    /// Makes a fresh key.
    ///
    /// # Errors
    ///
    /// When the operating system has no random numbers.
    pub fn generate() -> Result<LinkKey, NoRandomness> {
        Ok(LinkKey(*random_bits()?))
    }

    /// Gives the key that everybody knows. A link under it is protected against accidents and nobody: it is for
    /// loopback and for users who asked for no protection, so that these need no second protocol.
    pub fn well_known() -> LinkKey {
        LinkKey(blake3::derive_key(WELL_KNOWN_CONTEXT, b""))
    }

    /// Gives the job id that holders of this key greet each other with where no launcher made one. It says nothing
    /// about the key.
    pub fn job_id(&self) -> JobId {
        let derived = blake3::derive_key(JOB_ID_CONTEXT, &self.0);
        JobId(*derived.first_chunk().expect("32 bytes have 8"))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// In constant time.
impl PartialEq for LinkKey {
    fn eq(&self, other: &LinkKey) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for LinkKey {}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(redacted)")
    }
}

/// The key of a job. It never leaves the head; nodes get keys derived from it, so that no node can pose as another.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct JobKey([u8; 32]);

impl JobKey {
    /// Makes a fresh key of 256 random bits.
    ///
    /// # Errors
    ///
    /// When the operating system has no random numbers.
    pub fn generate() -> Result<JobKey, NoRandomness> {
        Ok(JobKey(*random_bits()?))
    }

    /// Derives the key of the link between the head and this node.
    pub fn node_key(&self, node: NodeId) -> LinkKey {
        let mut material = Zeroizing::new([0; 36]);
        material[..32].copy_from_slice(&self.0);
        material[32..].copy_from_slice(&node.0.to_le_bytes());
        LinkKey(blake3::derive_key(NODE_KEY_CONTEXT, &*material))
    }
}

impl fmt::Debug for JobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JobKey(redacted)")
    }
}

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseKeyError {
    /// It is longer or shorter than a key.
    #[error("a key has 64 hexadecimal digits, this has {digits}")]
    WrongLength {
        /// How many digits it has.
        digits: usize,
    },
    /// It has a character that is no digit.
    #[error("character {position} of the key is no hexadecimal digit")]
    NotHexadecimal {
        /// The first such character, counted from 1.
        position: usize,
    },
}

/// The operating system gave no random numbers, and its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system has no random numbers: {0}")]
pub struct NoRandomness(#[source] getrandom::Error);

impl JobId {
    /// Makes a fresh id.
    ///
    /// # Errors
    ///
    /// When the operating system has no random numbers.
    pub fn generate() -> Result<JobId, NoRandomness> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(NoRandomness)?;
        Ok(JobId(bytes))
    }
}

fn random_bits() -> Result<Zeroizing<[u8; 32]>, NoRandomness> {
    let mut bits = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bits).map_err(NoRandomness)?;
    Ok(bits)
}

fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

const NODE_KEY_CONTEXT: &str = "efarun 2026 key of the link between the head and a node";
const WELL_KNOWN_CONTEXT: &str = "efarun 2026 key that everybody knows";
const JOB_ID_CONTEXT: &str = "efarun 2026 job id of the holders of a key";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file() {
        let key = LinkKey::generate().unwrap();
        let file = format!("  {}\n", key.to_hex().to_uppercase());
        assert_eq!(LinkKey::from_hex(&file).unwrap(), key);
        let counted = LinkKey::from_bytes(std::array::from_fn(|i| i as u8 * 8));
        assert_eq!(&counted.to_hex()[..16], "0008101820283038");
    }

    #[test]
    fn a_damaged_key_file_is_told_by_length_or_position() {
        let text = LinkKey::well_known().to_hex();
        assert_eq!(LinkKey::from_hex(&text[1..]), Err(ParseKeyError::WrongLength { digits: 63 }));
        assert_eq!(LinkKey::from_hex(""), Err(ParseKeyError::WrongLength { digits: 0 }));
        let damaged = format!("{}é{}", &text[..10], &text[12..]);
        assert_eq!(LinkKey::from_hex(&damaged), Err(ParseKeyError::NotHexadecimal { position: 11 }));
    }

    #[test]
    fn nodes_and_jobs_have_keys_of_their_own() {
        let job = JobKey::generate().unwrap();
        assert_eq!(job.node_key(NodeId(3)), job.node_key(NodeId(3)));
        assert_ne!(job.node_key(NodeId(3)), job.node_key(NodeId(4)));
        assert_ne!(job.node_key(NodeId(3)), JobKey::generate().unwrap().node_key(NodeId(3)));
    }

    #[test]
    fn debug_output_shows_no_key() {
        assert_eq!(format!("{:?}", LinkKey::well_known()), "LinkKey(redacted)");
        assert_eq!(format!("{:?}", JobKey::generate().unwrap()), "JobKey(redacted)");
    }
}
