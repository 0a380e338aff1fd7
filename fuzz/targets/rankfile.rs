//! Rankfiles: a file that is taken has a place for every rank, and one that is not is refused with a short sentence.
#![no_main]

use std::path::Path;

use efarun::mapping::Rankfile;
use efarun_fuzz::within_bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    // A range of three bytes may name some thousand cores.
    let parse = || Rankfile::parse(Path::new("ranks"), input);
    match within_bytes(MEMORY_BYTES + (32 << 10) * input.len(), parse) {
        Ok(rankfile) => {
            assert!(!rankfile.places.is_empty());
            assert!(rankfile.places.len() <= input.len() / "rank 0=a".len(), "a line is no shorter");
            assert!(rankfile.places.iter().all(|place| !place.host.is_empty()));
            assert!(rankfile.hosts().len() <= rankfile.places.len());
        }
        Err(error) => assert!(error.to_string().len() <= 200 + 8 * input.len(), "{error}"),
    }
});

const MEMORY_BYTES: usize = 1 << 20;
