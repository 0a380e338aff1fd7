use std::sync::Arc;

use snow::StatelessTransportState;

use super::error::SecureError;

/// An authenticated link: seals what is sent and opens what arrives.
///
/// A record is two bytes of length, big endian, and that many bytes of ciphertext. Records are numbered by both ends
/// without the number being sent; a record that was changed, repeated, left out or moved fails to open, and after
/// that nothing opens any more. The number has 64 bits and ChaCha20-Poly1305 bears that many under one key, so that
/// a link needs no new key in its life; the 2^64th record is an error.
#[derive(Debug)]
pub struct SecureChannel {
    sealing: SealingHalf,
    opening: OpeningHalf,
}

impl SecureChannel {
    pub(super) fn new(state: StatelessTransportState) -> SecureChannel {
        let state = Arc::new(state);
        SecureChannel {
            sealing: SealingHalf { state: Arc::clone(&state), next_number: 0 },
            opening: OpeningHalf { state, next_number: 0, pending: Vec::new(), failed: false },
        }
    }

    /// Seals the plaintext as [`SealingHalf::seal`] does.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SecureError> {
        self.sealing.seal(plaintext, out)
    }

    /// Opens what arrived as [`OpeningHalf::open`] does.
    pub fn open(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), SecureError> {
        self.opening.open(bytes, out)
    }

    pub(super) fn join(sealing: SealingHalf, opening: OpeningHalf) -> SecureChannel {
        SecureChannel { sealing, opening }
    }

    /// Cuts the channel into its directions, for one task each.
    pub fn split(self) -> (SealingHalf, OpeningHalf) {
        (self.sealing, self.opening)
    }
}

/// The sending direction of a [`SecureChannel`].
#[derive(Debug)]
pub struct SealingHalf {
    state: Arc<StatelessTransportState>,
    next_number: u64,
}

impl SealingHalf {
    /// Appends the plaintext to `out` as sealed records, as few as can be; none for no plaintext. What is appended
    /// must be sent whole and in order.
    ///
    /// # Errors
    ///
    /// [`SecureError::Library`] after 2^64 - 1 records.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SecureError> {
        plaintext.chunks(MAX_RECORD_PLAINTEXT_BYTES).try_for_each(|chunk| self.seal_record(chunk, out))
    }

    pub(super) fn seal_record(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), SecureError> {
        let sealed_bytes = plaintext.len() + TAG_BYTES;
        let length = u16::try_from(sealed_bytes).expect("callers cut the plaintext into records");
        let start = out.len();
        out.extend_from_slice(&length.to_be_bytes());
        out.resize(start + LENGTH_BYTES + sealed_bytes, 0);
        let sealed = self.state.write_message(self.next_number, plaintext, &mut out[start + LENGTH_BYTES..]);
        if let Err(error) = sealed {
            out.truncate(start);
            return Err(SecureError::Library { cause: error.to_string() });
        }
        self.next_number += 1;
        Ok(())
    }
}

/// The receiving direction of a [`SecureChannel`].
#[derive(Debug)]
pub struct OpeningHalf {
    state: Arc<StatelessTransportState>,
    next_number: u64,
    pending: Vec<u8>,
    failed: bool,
}

impl OpeningHalf {
    /// Takes bytes as they arrived, cut anywhere, and appends the plaintext of each record that is whole to `out`.
    ///
    /// # Errors
    ///
    /// [`SecureError::BadRecord`] for a record that is not the next one the other end sealed; `out` then has the
    /// plaintext of those before it. [`SecureError::Closed`] after any error.
    pub fn open(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), SecureError> {
        if self.failed {
            return Err(SecureError::Closed);
        }
        self.pending.extend_from_slice(bytes);
        let mut opened_bytes = 0;
        while let Some((length, rest)) = self.pending[opened_bytes..].split_first_chunk::<LENGTH_BYTES>() {
            let sealed_bytes = usize::from(u16::from_be_bytes(*length));
            let record = match rest.get(..sealed_bytes) {
                Some(record) => record,
                // Told before it is complete: no ciphertext is shorter than its tag.
                None if sealed_bytes < TAG_BYTES => &[],
                None => break,
            };
            if let Err(error) = open_record(&self.state, self.next_number, record, out) {
                self.failed = true;
                self.pending = Vec::new();
                return Err(error);
            }
            self.next_number += 1;
            opened_bytes += LENGTH_BYTES + sealed_bytes;
        }
        self.pending.drain(..opened_bytes);
        Ok(())
    }

    /// Says that the stream has ended.
    ///
    /// # Errors
    ///
    /// [`SecureError::Truncated`] where it ended within a record. An end between two records cannot be told from a
    /// cut, so that a protocol above has to say goodbye.
    pub fn end(&self) -> Result<(), SecureError> {
        if self.pending.is_empty() { Ok(()) } else { Err(SecureError::Truncated { within: "a record" }) }
    }
}

fn open_record(
    state: &StatelessTransportState,
    number: u64,
    record: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), SecureError> {
    let start = out.len();
    out.resize(start + record.len().saturating_sub(TAG_BYTES), 0);
    match state.read_message(number, record, &mut out[start..]) {
        Ok(_) => Ok(()),
        Err(_) => {
            out.truncate(start);
            Err(SecureError::BadRecord { number })
        }
    }
}

/// The most plaintext that one record carries; longer plaintext takes several.
pub const MAX_RECORD_PLAINTEXT_BYTES: usize = u16::MAX as usize - TAG_BYTES;

pub(super) const LENGTH_BYTES: usize = 2;
pub(super) const TAG_BYTES: usize = 16;
