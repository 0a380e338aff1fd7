//! Messages as bytes: whatever arrives, in pieces of whatever size, is a message, the beginning of one, or an error;
//! what parses says the same once it is written and read again. The first byte of the input chooses the type, the
//! second how a stream is cut.
#![no_main]

use std::fmt::Debug;

use efarun::keeper::protocol::{KeeperOrder, KeeperReport};
use efarun::torchrun::by_hand::meeting::{Answer, Hello};
use efarun_fuzz::{choice, parts, within_bytes};
use efarun_wire::frame::{self, FrameError, FrameReader};
use efarun_wire::message::{AgentMessage, AgentOrder, HeadMessage, OobDown, OobUp, RankMessage, RankReply};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|input: &[u8]| {
    let (kind, input) = choice(input);
    let (seed, input) = choice(input);
    match kind % 10 {
        0 => check::<RankMessage>(input, seed),
        1 => check::<RankReply>(input, seed),
        2 => check::<AgentMessage>(input, seed),
        3 => check::<HeadMessage>(input, seed),
        4 => check::<AgentOrder>(input, seed),
        5 => check::<OobUp>(input, seed),
        6 => check::<(KeeperOrder, OobDown)>(input, seed),
        7 => check::<KeeperReport>(input, seed),
        8 => check::<Hello>(input, seed),
        _ => check::<Answer>(input, seed),
    }
});

fn check<T: Serialize + DeserializeOwned + Debug>(input: &[u8], seed: u8) {
    check_body::<T>(input);
    let (whole, end) = read::<T>(input, std::iter::once(input));
    let (cut, cut_end) = read::<T>(input, parts(input, seed));
    assert_eq!((cut, cut_end), (whole, end), "it matters how the stream is cut");
}

/// One message of which nothing is known but its length.
fn check_body<T: Serialize + DeserializeOwned + Debug>(body: &[u8]) {
    let parsed = within_bytes(limit_bytes(body.len()), || frame::decode::<T>(body));
    match parsed {
        Ok(message) => {
            let frame = frame::encode(&message);
            let again = frame::decode::<T>(&frame[4..]).expect("what was written is read");
            assert_eq!(frame::encode(&again), frame, "{message:?}");
            let longer = [&frame[4..], &[0]].concat();
            assert!(frame::decode::<T>(&longer).is_err(), "a byte behind {message:?} was not noticed");
        }
        Err(error) => assert!(matches!(error, FrameError::Malformed { .. }) && !error.to_string().is_empty()),
    }
}

/// Reads a stream to its end, or to the first error. Gives what was read, written again, and how it ended.
fn read<'a, T: Serialize + DeserializeOwned>(
    input: &[u8],
    parts: impl Iterator<Item = &'a [u8]>,
) -> (Vec<u8>, Result<bool, FrameError>) {
    let mut reader = FrameReader::new(STREAM_LIMIT_BYTES);
    let mut messages = Vec::new();
    for part in parts {
        within_bytes(limit_bytes(input.len()), || reader.push(part));
        loop {
            match within_bytes(limit_bytes(input.len()), || reader.next_message::<T>()) {
                Ok(Some(message)) => messages.extend(frame::encode(&message)),
                Ok(None) => break,
                Err(error) => return (messages, Err(error)),
            }
        }
    }
    (messages, Ok(reader.has_partial()))
}

/// A byte of a message becomes a list's entry of 48 bytes at most, in a list that may just have doubled; and a list
/// that announces more entries than there can be gets 1 MiB by serde's word, at each of a few levels.
fn limit_bytes(input_bytes: usize) -> usize {
    (4 << 20) + 128 * input_bytes
}

const STREAM_LIMIT_BYTES: usize = 4096;
