//! What travels between ranks on a connection behind its handshake: whatever a peer sends, and however it is cut, it is
//! messages within their limits, each as it was sent, or an error. The first byte of the input chooses the cut, the
//! second how the heads that it describes are written.
#![no_main]

use efarun_fuzz::{choice, parts, within_bytes};
use efarun_rt::transport::tcp::fuzzing::{Received, receive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (seed, input) = choice(input);
    let (style, input) = choice(input);
    let sent = if style & 1 == 0 { input.to_vec() } else { described(input) };
    // Mapped, not written; as many slots as may be in flight, and what is copied out of them.
    let limit_bytes = 64 * (256 << 10) + (64 << 10) + 2 * sent.len();
    let held = within_bytes(limit_bytes, || receive(std::iter::once(&sent[..]), true));
    check(&held, &sent);
    let cut = receive(parts(&sent, seed), false);
    check(&cut, &sent);
    // Room that is given back early lets more messages come; it takes none away.
    let shorter = held.messages.len();
    assert!(cut.messages.len() >= shorter && cut.messages[..shorter] == held.messages[..]);
});

/// Each message is in the bytes, in order, behind a head that announces it.
fn check(received: &Received, sent: &[u8]) {
    let mut rest = sent;
    for (number, (header, payload)) in received.messages.iter().enumerate() {
        assert_eq!(header.len_bytes as usize, payload.len());
        loop {
            let (head, behind) = rest.split_first_chunk::<HEAD_BYTES>().expect("a message has a head");
            rest = behind;
            if head.starts_with(b"EFM1") {
                let announced = u32::from_le_bytes(*head[20..].first_chunk().expect("a number"));
                assert_eq!(announced as usize, number, "messages are numbered");
                break;
            }
            assert!(head.starts_with(b"EFC1"), "{head:?} was taken for a frame");
        }
        assert_eq!(
            rest.get(..payload.len()),
            Some(&payload[..]),
            "message {number} is another than was sent"
        );
        rest = &rest[payload.len()..];
    }
    assert!(received.error.as_ref().is_none_or(|error| !error.is_empty()));
}

/// Frames that are right but for a few: each from a byte that says what it is, and a byte for its length.
fn described(input: &[u8]) -> Vec<u8> {
    let mut sent = Vec::new();
    let mut number = 0u32;
    for pair in input.chunks_exact(2) {
        let [what, len] = [pair[0], pair[1]];
        let is_message = what & 1 == 0;
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(if is_message { b"EFM1" } else { b"EFC1" });
        if is_message {
            let len_bytes = if what == 254 { (256 << 10) + u32::from(len) } else { len.into() };
            head[4..8].copy_from_slice(&len_bytes.to_le_bytes());
            head[8..16].copy_from_slice(&u64::from(what).to_le_bytes());
            head[20..24].copy_from_slice(&number.wrapping_add(u32::from(what == 252)).to_le_bytes());
            number += 1;
        }
        head[24..].copy_from_slice(&u64::from(what >> 1 & 63).to_le_bytes());
        sent.extend_from_slice(&head);
        if is_message {
            sent.extend(std::iter::repeat_n(what, len.into()));
        }
    }
    sent
}

const HEAD_BYTES: usize = 32;
