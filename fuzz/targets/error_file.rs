//! What a rank left in its error file: whatever it is, what is told of it is short, and safe on a terminal.
#![no_main]

use std::collections::BTreeMap;

use efarun::torchrun::error_file;
use efarun_fuzz::{choice, within_bytes};
use efarun_wire::Rank;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (at, input) = choice(input);
    let (first, second) = input.split_at(input.len() * usize::from(at) / 256);
    let files = BTreeMap::from([(Rank(0), first.to_vec()), (Rank(1), second.to_vec())]);
    let lines = within_bytes(MEMORY_BYTES + 256 * input.len(), || error_file::lines(Rank(0), &files));
    assert!(lines.len() <= MOST_LINES, "{} lines", lines.len());
    for line in lines {
        assert!(line.chars().count() <= LONGEST_LINE, "{line}");
        assert!(!line.chars().any(|c| c.is_control() && c != '\t'), "{line:?}");
    }
});

const MOST_LINES: usize = 16;
const LONGEST_LINE: usize = 400;
/// Beside what a JSON value takes: an object of one key in seven bytes has a node of its own.
const MEMORY_BYTES: usize = 64 << 10;
