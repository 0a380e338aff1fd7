//! Ranks that speak PMI-1, or nearly: whatever they say, no server panics, keeps more than its limits, answers on several
//! lines what was asked on one, or says to the head what the head refuses. Input is cut at 0xff; the first byte of each
//! part says which rank speaks, that something happens to it, or that a stranger greets at the port.
#![no_main]

use efarun_fuzz::{choice, parts, pmi::PmiJob, within_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    within_bytes(MEMORY_BYTES, || {
        let mut job = PmiJob::new();
        for rank in 0..4 {
            job.say(rank, b"cmd=init pmi_version=1 pmi_subversion=2\n");
        }
        for part in input.split(|byte| *byte == 0xff) {
            let (who, bytes) = choice(part);
            let rank = u32::from(who % 4);
            match who {
                0xc0.. => job.happen(rank, who >> 2),
                0xb8..0xc0 => job.greet(bytes, parts(bytes, who)),
                _ => job.say(rank, bytes),
            }
        }
        for answers in &job.answers {
            let lines = answers.split_inclusive(|byte| *byte == b'\n');
            assert!(lines.clone().all(|line| line.starts_with(b"cmd=") && line.ends_with(b"\n")));
        }
    });
});

const MEMORY_BYTES: usize = 32 << 20;
