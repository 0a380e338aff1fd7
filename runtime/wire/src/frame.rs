//! Messages as bytes on a stream: a length, then the message.
//!
//! [`encode`] makes one frame; [`FrameReader`] is fed whatever arrived and gives back whole messages. The body is
//! postcard; the length is four bytes, little endian, and counts the body only. A length beyond the limit, or a
//! body that does not parse to its last byte, is an error after which the stream cannot be used: nothing is
//! guessed and nothing is skipped.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The largest body that is accepted unless a reader is told otherwise: 64 MiB.
pub const MAX_BODY_BYTES: usize = 64 << 20;

const PREFIX_BYTES: usize = 4;
/// What a message has beside its payload, if it has any: its kind, a few numbers.
const USUAL_HEADER_BYTES: usize = 32;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length prefix is beyond the reader's limit.
    #[error("a message of {len_bytes} bytes, where at most {limit_bytes} are accepted")]
    TooLong {
        /// What the prefix said.
        len_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// The body is not the message that was expected.
    #[error("a message of {len_bytes} bytes that does not parse: {reason}")]
    Malformed {
        /// The body's length.
        len_bytes: usize,
        /// What the codec said.
        reason: String,
    },
}

/// Makes one frame of a message.
///
/// # Panics
///
/// When the message is larger than 4 GiB, which no message of this crate can be.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    encode_with_capacity(message, 0)
}

/// Makes one frame of a message that carries so many bytes of payload: at once in memory that suffices for them.
///
/// # Panics
///
/// As [`encode`].
pub fn encode_with_capacity<T: Serialize>(message: &T, payload_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + payload_bytes + USUAL_HEADER_BYTES);
    bytes.resize(PREFIX_BYTES, 0);
    bytes = postcard::to_extend(message, bytes).expect("every message of this crate can be encoded");
    let len = u32::try_from(bytes.len() - PREFIX_BYTES).expect("a message is smaller than 4 GiB");
    bytes[..PREFIX_BYTES].copy_from_slice(&len.to_le_bytes());
    bytes
}

/// Parses one body, to its last byte.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    let malformed = |reason: String| FrameError::Malformed { len_bytes: body.len(), reason };
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(malformed(format!("{} bytes too many", rest.len()))),
        Err(error) => Err(malformed(error.to_string())),
    }
}

/// Cuts a stream of bytes into messages.
#[derive(Debug)]
pub struct FrameReader {
    pending: Vec<u8>,
    consumed: usize,
    limit_bytes: usize,
}

impl FrameReader {
    /// A reader that accepts bodies of up to `limit_bytes`.
    pub fn new(limit_bytes: usize) -> Self {
        FrameReader { pending: Vec::new(), consumed: 0, limit_bytes }
    }

    /// Takes bytes as they arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 && self.consumed == self.pending.len() {
            self.pending.clear();
            self.consumed = 0;
        } else if self.consumed > MAX_IDLE_BYTES {
            self.pending.drain(..self.consumed);
            self.consumed = 0;
        }
        self.pending.extend_from_slice(bytes);
    }

    /// Gives the next whole message, if there is one.
    pub fn next_message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let unread = &self.pending[self.consumed..];
        let Some((prefix, rest)) = unread.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let len_bytes = u32::from_le_bytes(*prefix) as usize;
        if len_bytes > self.limit_bytes {
            return Err(FrameError::TooLong { len_bytes, limit_bytes: self.limit_bytes });
        }
        let Some(body) = rest.get(..len_bytes) else { return Ok(None) };
        let message = decode(body)?;
        self.consumed += PREFIX_BYTES + len_bytes;
        Ok(Some(message))
    }

    /// Whether bytes of an unfinished message are waiting: at the end of a stream this means that it was cut.
    pub fn has_partial(&self) -> bool {
        self.consumed < self.pending.len()
    }
}

impl Default for FrameReader {
    fn default() -> Self {
        FrameReader::new(MAX_BODY_BYTES)
    }
}

/// Consumed bytes that may stay in front of the unread ones before they are moved away.
const MAX_IDLE_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Rank;
    use crate::message::{RankMessage, Stream};

    #[test]
    fn messages_survive_any_cut_of_the_stream() {
        let messages = [
            RankMessage::Join { protocol: 1, rank: Rank(3), world_size: 8 },
            RankMessage::Leave,
            RankMessage::Join { protocol: 1, rank: Rank(4), world_size: 8 },
        ];
        let bytes: Vec<u8> = messages.iter().flat_map(encode).collect();
        for cut in 0..=bytes.len() {
            let mut reader = FrameReader::default();
            let mut seen = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                reader.push(part);
                while let Some(message) = reader.next_message::<RankMessage>().expect("whole frames parse") {
                    seen.push(message);
                }
            }
            assert_eq!(seen, messages, "cut at {cut}");
            assert!(!reader.has_partial());
        }
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_body_arrives() {
        let mut reader = FrameReader::new(16);
        reader.push(&17u32.to_le_bytes());
        let error = reader.next_message::<Stream>().expect_err("17 is beyond 16");
        assert_eq!(error, FrameError::TooLong { len_bytes: 17, limit_bytes: 16 });
    }

    #[test]
    fn bytes_behind_a_message_within_its_frame_are_an_error() {
        let mut body = postcard::to_stdvec(&Stream::Stdout).expect("encodes");
        body.push(0);
        assert!(matches!(decode::<Stream>(&body), Err(FrameError::Malformed { .. })));
    }

    #[test]
    fn a_truncated_message_is_not_delivered() {
        let bytes = encode(&RankMessage::Join { protocol: 1, rank: Rank(3), world_size: 8 });
        let mut reader = FrameReader::default();
        reader.push(&bytes[..bytes.len() - 1]);
        assert_eq!(reader.next_message::<RankMessage>().expect("no error yet"), None);
        assert!(reader.has_partial());
    }
}
