//! What a remote shell prints, greetings and all: it leads to an agent or to an error, and the way it is cut changes
//! nothing but whether stray bytes behind the last word are seen in time. The first byte of the input chooses the cut.
#![no_main]

use efarun::fuzzing::{Heard, converse};
use efarun_fuzz::{choice, parts, within_bytes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (seed, text) = choice(input);
    // The marker is long; a byte that no text has stands for it.
    let text = text.split(|byte| *byte == 0xff).collect::<Vec<_>>().join(efarun::fuzzing::MARKER.as_bytes());
    let whole = within_bytes((1 << 20) + 64 * text.len(), || converse(std::iter::once(&text[..])));
    let cut = converse(parts(&text, seed));
    let (last, before) = whole.split_last().expect("a conversation ends");
    let (cut_last, cut_before) = cut.split_last().expect("a conversation ends");
    assert_eq!(before, cut_before);
    match (last, cut_last) {
        (Heard::Stray, Heard::Started(_)) => {}
        (last, cut_last) => assert_eq!(last, cut_last),
    }
});
