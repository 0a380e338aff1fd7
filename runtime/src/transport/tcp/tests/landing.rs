//! Messages that are put where they are expected, whatever else comes and however it is cut.

#![expect(unsafe_code, reason = "landings are lent to the link; each outlives what is read into it")]

use std::io::Write;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use socket2::Socket;

use super::*;

/// What a peer sends, and what is said of it before.
#[derive(Clone, Debug)]
struct Said {
    len_bytes: usize,
    /// Credits alone in front of it.
    credits: usize,
    expected: Option<Expectation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expectation {
    Landing,
    Slot,
    /// Another length.
    Wrong,
}

fn said() -> impl Strategy<Value = Said> {
    let len_bytes = prop_oneof![0..100usize, 2000..5000usize, Just(65_536), Just(65_537), Just(SLOT_BYTES)];
    let expected = prop_oneof![
        Just(None),
        Just(Some(Expectation::Landing)),
        Just(Some(Expectation::Slot)),
        Just(Some(Expectation::Wrong)),
    ];
    (len_bytes, 0..3usize, expected).prop_map(|(len_bytes, credits, expected)| Said {
        len_bytes,
        credits,
        expected,
    })
}

fn payload(number: usize, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|index| (index * 7 + number * 31 + index / 251) as u8).collect()
}

fn bytes_of(number: usize, said: &Said) -> Vec<u8> {
    let header = Header { signature: 5, sequence: number as u32, len_bytes: said.len_bytes as u32 };
    let credit = Frame::credit(0).to_bytes();
    let head = Frame::message(header, number as u64, 0).to_bytes();
    [credit.repeat(said.credits), head.to_vec(), payload(number, said.len_bytes)].concat()
}

/// A rank's end and, as the other, a bare stream.
fn end() -> (TcpTransport, UnixStream) {
    let (mut transport, contact) = TcpTransport::new(&TcpConfig::new(None)).unwrap();
    let (there, here) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    let mut peer = Peer {
        contact: Contact::from_bytes(&contact).unwrap(),
        line: Line::Up(Link::new(Socket::from(here))),
        flows: Flows::default(),
        is_send_open: true,
        awaits_room: false,
    };
    peer.flows.inward.open();
    peer.flows.inward.announce();
    transport.peers.push(Some(peer));
    transport.used.push(Rank(0));
    transport.me = Rank(1);
    (transport, there)
}

fn expect(transport: &mut TcpTransport, said: &Said, landing: &mut [u8]) {
    let Some(expected) = said.expected else { return };
    let len_bytes = said.len_bytes + usize::from(expected == Expectation::Wrong);
    let landing: Option<*mut [u8]> = match expected {
        Expectation::Slot => None,
        Expectation::Landing | Expectation::Wrong => Some(&raw mut landing[..len_bytes]),
    };
    // SAFETY: the caller keeps the landing, and leaves it alone until the message was released.
    unsafe { transport.expect(Rank(0), len_bytes, landing) };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The stream is written in pieces of these lengths, around and around, while the receiver looks.
    #[test]
    fn every_message_is_whole_whatever_was_expected(
        all in prop::collection::vec(said(), 1..12),
        pieces in prop::collection::vec(prop_oneof![1..80usize, Just(4096), Just(70_000)], 1..6),
    ) {
        let (mut transport, mut there) = end();
        there.set_nonblocking(true).unwrap();
        let stream: Vec<u8> = all.iter().enumerate().flat_map(|(number, said)| bytes_of(number, said)).collect();
        let mut pieces = pieces.into_iter().cycle();
        let mut written = 0;
        let mut landing = vec![0xEE; SLOT_BYTES + 1];
        for (number, said) in all.iter().enumerate() {
            expect(&mut transport, said, &mut landing);
            let deadline = soon();
            loop {
                if let Some(message) = transport.arrived(Rank(0)).unwrap() {
                    prop_assert_eq!(message.header.sequence, number as u32);
                    prop_assert!(message.payload == payload(number, said.len_bytes), "message {} is another", number);
                    break;
                }
                prop_assert!(Instant::now() < deadline, "message {} never arrives", number);
                let end = stream.len().min(written + pieces.next().unwrap());
                // A full socket takes nothing before more is read.
                written += there.write(&stream[written..end]).unwrap_or(0);
            }
            transport.release(Rank(0)).unwrap();
        }
    }
}

#[test]
fn an_expected_message_lands_and_is_never_copied() {
    for len_bytes in [1, 2048, 65_536, SLOT_BYTES] {
        let (mut transport, mut there) = end();
        let said = Said { len_bytes, credits: 0, expected: Some(Expectation::Landing) };
        let mut landing = vec![0; len_bytes];
        expect(&mut transport, &said, &mut landing);
        let bytes = bytes_of(0, &said);
        std::thread::scope(|scope| {
            scope.spawn(move || there.write_all(&bytes).unwrap());
            let deadline = soon();
            while transport.arrived(Rank(0)).unwrap().is_none() {
                assert!(Instant::now() < deadline, "it never arrives");
            }
        });
        let shown = transport.arrived(Rank(0)).unwrap().expect("it is here").payload.as_ptr();
        assert_eq!(shown, landing.as_ptr(), "{len_bytes} bytes");
        let room = &transport.peers[0].as_ref().unwrap().flows.room;
        assert!(room.is_unused(), "no room was needed");
        transport.release(Rank(0)).unwrap();
        assert!(landing == payload(0, len_bytes));
    }
}

#[test]
fn nothing_lands_where_a_message_is_here_already() {
    let (mut transport, mut there) = end();
    let said = Said { len_bytes: 3000, credits: 0, expected: Some(Expectation::Landing) };
    there.write_all(&bytes_of(0, &said)).unwrap();
    transport.receive(Rank(0), Extent::All);
    let mut landing = vec![0; 3000];
    expect(&mut transport, &said, &mut landing);
    assert!(transport.arrived(Rank(0)).unwrap().expect("it is here").payload == payload(0, 3000));
    transport.release(Rank(0)).unwrap();
    assert!(landing.iter().all(|byte| *byte == 0));
}

#[test]
fn a_head_of_a_message_that_may_not_come_loses_the_peer_where_one_is_expected_too() {
    let (mut transport, mut there) = end();
    let said = Said { len_bytes: 4096, credits: 0, expected: Some(Expectation::Landing) };
    let mut landing = vec![0; 4096];
    expect(&mut transport, &said, &mut landing);
    // The second before the first.
    there.write_all(&bytes_of(1, &said)).unwrap();
    let lost = await_arrival(&mut transport, Rank(0)).unwrap_err().to_string();
    assert!(lost.contains("message 1 where number 0 belongs"), "{lost}");
}
