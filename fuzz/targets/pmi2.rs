//! Ranks that speak PMI-2, or nearly: as `pmi1`, with answers whose lengths are right. The first byte of each part also
//! says whether the part gets its length in front.
#![no_main]

use efarun_fuzz::{choice, pmi::PmiJob, within_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    within_bytes(MEMORY_BYTES, || {
        let mut job = PmiJob::new();
        for rank in 0..4 {
            job.say(rank, b"cmd=init pmi_version=2 pmi_subversion=0\n");
            job.say(rank, b"    13cmd=fullinit;");
        }
        job.answers.iter_mut().for_each(Vec::clear);
        let mut has_left = false;
        for part in input.split(|byte| *byte == 0xff) {
            let (who, bytes) = choice(part);
            let rank = u32::from(who % 4);
            // After its last word a rank may begin again in PMI-1.
            has_left |= bytes.windows(FINALIZE.len()).any(|window| window == FINALIZE);
            match who {
                0xc0.. => job.happen(rank, who >> 2),
                0x40.. => job.say(rank, &[format!("{:>6}", bytes.len()).as_bytes(), bytes].concat()),
                _ => job.say(rank, bytes),
            }
        }
        for answers in job.answers.iter().filter(|_| !has_left) {
            let mut rest = &answers[..];
            while let Some((digits, behind)) = rest.split_at_checked(6) {
                let digits = std::str::from_utf8(digits).expect("a length is ASCII");
                let length: usize = digits.trim().parse().expect("a length is a number");
                assert!(behind.starts_with(b"cmd="));
                rest = &behind[length..];
            }
            assert!(rest.is_empty());
        }
    });
});

const FINALIZE: &[u8] = b"finalize";
const MEMORY_BYTES: usize = 32 << 20;
