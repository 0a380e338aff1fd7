//! What a rank tells the others about its endpoints, and about the memory that cards read: whatever it is, it is refused by the rank's
//! name, or says the same when it is written again.
#![no_main]

use efarun_fuzz::within_bytes;
use efarun_rt::Rank;
use efarun_rt::transport::fabric::fuzzing::{read_address, read_reader_address};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    for read in [read_address, read_reader_address] {
        let limit_bytes = MEMORY_BYTES + PER_BYTE * input.len();
        match within_bytes(limit_bytes, || read(Rank(3), input)) {
            // Numbers can be written in more than one way, of which ours is the shortest.
            Ok(again) => {
                assert!(again.len() <= input.len());
                assert_eq!(read(Rank(3), &again), Ok(again));
            }
            Err(reason) => assert!(reason.contains("rank 3"), "{reason}"),
        }
    }
});

const MEMORY_BYTES: usize = 4096;
/// An endpoint can be said in two bytes and takes two strings.
const PER_BYTE: usize = 96;
