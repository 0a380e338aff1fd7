//! The 128 bytes of NCCL's unique id, by which ranks are invited: whatever they are, they are an invitation or none, and an
//! invitation says the same once it is written and read again.
#![no_main]

use efarun_fuzz::within_bytes;
use efarun_rt::bootstrap::invitation::Invitation;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut bytes = [0; Invitation::BYTES];
    let len = input.len().min(bytes.len());
    bytes[..len].copy_from_slice(&input[..len]);
    let invitation = within_bytes(MEMORY_BYTES, || Invitation::from_bytes(&bytes));
    let addresses = usize::from(bytes[COUNT_AT]);
    let is_one = bytes.starts_with(MAGIC) && (1..=ADDRESSES_MAX).contains(&addresses);
    assert_eq!(invitation.is_some(), is_one, "{addresses} addresses");
    if let Some(invitation) = invitation {
        let again = invitation.to_bytes();
        // The rest is nobody's.
        for used in [0..COUNT_AT + 1, ADDRESSES_AT..ADDRESSES_AT + 16 * addresses] {
            assert_eq!(again[used.clone()], bytes[used]);
        }
        assert_eq!(Invitation::from_bytes(&again), Some(invitation));
    }
});

/// Where things stand, as programs of another version read them too.
const MAGIC: &[u8] = b"efarun\0\x01";
const COUNT_AT: usize = 42;
const ADDRESSES_AT: usize = 48;
const ADDRESSES_MAX: usize = 5;
const MEMORY_BYTES: usize = 1024;
