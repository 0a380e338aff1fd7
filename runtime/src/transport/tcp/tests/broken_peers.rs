//! A peer that holds the key and then does what no peer of this version does, or ends in the middle.

use std::io::Write;

use socket2::Socket;

use super::*;
use crate::transport::tcp::credit::MAX_IN_FLIGHT;
use crate::transport::tcp::frame::HEAD_BYTES;

/// Rank 0, open both ways to rank 1, which is the test itself at a bare connection.
fn rank_0_and_a_connection() -> (TcpTransport, Socket) {
    let config = TcpConfig::new(None);
    let (mut rank_0, contact) = TcpTransport::new(&config).unwrap();
    let own = Contact::from_bytes(&contact).unwrap();
    let contacts = [(Rank(1), contact)];
    let connection = std::thread::scope(|scope| {
        let rank_0 = &mut rank_0;
        let connected = scope.spawn(move || rank_0.connect(Rank(0), &contacts, soon()));
        let mut dial = Dial::start(Rank(1), own).unwrap();
        let deadline = soon();
        let connection = loop {
            if let Some(connection) = dial.advance().unwrap() {
                break connection;
            }
            assert!(Instant::now() < deadline, "no connection");
            std::thread::yield_now();
        };
        connected.join().expect("no panic").expect("connected");
        connection
    });
    connection.set_nonblocking(false).unwrap();
    rank_0.open(&[Rank(1)], &[Rank(1)]).unwrap();
    (rank_0, connection)
}

/// How rank 0 loses rank 1 when that says this.
fn lost_after(said: &[u8]) -> String {
    let (mut rank_0, mut connection) = rank_0_and_a_connection();
    connection.write_all(said).unwrap();
    connection.shutdown(std::net::Shutdown::Write).unwrap();
    loop {
        match await_arrival(&mut rank_0, Rank(1)) {
            Ok(_) => rank_0.release(Rank(1)).unwrap(),
            Err(TransportError::PeerLost { peer: Rank(1), cause }) => return cause,
            Err(other) => panic!("{other}"),
        }
    }
}

fn message(number: u64, len_bytes: u32) -> [u8; HEAD_BYTES] {
    Frame::message(Header { signature: 1, sequence: 1, len_bytes }, number, 0).to_bytes()
}

#[test]
fn a_message_that_ends_in_the_middle_loses_the_peer() {
    for said in [&message(0, 100)[..10], &message(0, 100), &[&message(0, 100)[..], &[1; 99]].concat()] {
        assert_eq!(lost_after(said), "it closed the connection");
    }
    assert_eq!(lost_after(b""), "it closed the connection");
}

#[test]
fn bytes_that_are_no_frame_lose_the_peer() {
    assert!(lost_after(&[b'x'; HEAD_BYTES]).contains("no frame: \"xxxxxxxx\""));
    let after_a_message = [&message(0, 3)[..], b"abc", &[0; HEAD_BYTES]].concat();
    assert!(lost_after(&after_a_message).contains("no frame"));
}

#[test]
fn a_message_longer_than_a_slot_loses_the_peer() {
    let cause = lost_after(&message(0, u32::MAX));
    assert!(cause.contains("4294967295 bytes") && cause.contains("524288"), "{cause}");
}

#[test]
fn a_message_out_of_number_or_without_credit_loses_the_peer() {
    assert!(lost_after(&message(1, 0)).contains("message 1 where number 0 belongs"));
    // Nobody releases: rank 0 reads on in its sleep.
    let (mut rank_0, mut connection) = rank_0_and_a_connection();
    connection
        .write_all(&(0..=MAX_IN_FLIGHT).map(|number| message(number, 0)).collect::<Vec<_>>().concat())
        .unwrap();
    assert_eq!(await_arrival(&mut rank_0, Rank(1)).unwrap(), b"");
    for _ in 0..MAX_IN_FLIGHT {
        assert!(rank_0.peers[1].as_ref().unwrap().flows.arrived.len() <= MAX_IN_FLIGHT as usize);
        rank_0.wait(Duration::from_millis(1));
        rank_0.receive(Rank(1), Extent::All);
    }
    let Line::Lost(lost) = &rank_0.peers[1].as_ref().unwrap().line else { panic!("it is not lost") };
    assert!(lost.to_string().contains("rank 1 is lost: it sent message 64 when 64 were granted"), "{lost}");
}

#[test]
fn grants_that_cannot_be_lose_the_peer() {
    assert!(lost_after(&Frame::credit(MAX_IN_FLIGHT + 1).to_bytes()).contains("granted 65 messages"));
    let falling = [Frame::credit(10).to_bytes(), Frame::credit(9).to_bytes()].concat();
    assert!(lost_after(&falling).contains("granted 9 messages"));
}

#[test]
fn a_peer_that_ends_while_a_payload_leaves_fails_the_send() {
    let (mut rank_0, mut connection) = rank_0_and_a_connection();
    connection.write_all(&Frame::credit(MAX_IN_FLIGHT).to_bytes()).unwrap();
    // The connection reads nothing: some of these stay queued.
    let payload = vec![3; SLOT_BYTES];
    let header = Header { len_bytes: payload.len() as u32, ..Header::default() };
    let deadline = soon();
    while !rank_0.flush() {
        assert!(Instant::now() < deadline, "the socket takes everything");
        // A peer that releases what it has not read.
        #[expect(
            unsafe_code,
            reason = "try_send's contract: the transport is closed before the payload ends"
        )]
        // SAFETY: as above.
        let sent = unsafe { rank_0.try_send(Rank(1), header, &raw const payload[..], SendToken(1)) }.unwrap();
        if !sent {
            let released = rank_0.peers[1].as_ref().unwrap().flows.out.sent();
            connection.write_all(&Frame::credit(MAX_IN_FLIGHT + released).to_bytes()).unwrap();
        }
        rank_0.wait(Duration::from_millis(1));
        rank_0.poll(&mut Vec::new()).unwrap();
    }
    drop(connection);
    let lost = loop {
        assert!(Instant::now() < deadline, "the loss was not seen");
        if let Err(lost) = rank_0.poll(&mut Vec::new()) {
            break lost;
        }
        rank_0.wait(Duration::from_millis(10));
    };
    rank_0.close();
    assert!(matches!(lost, TransportError::PeerLost { peer: Rank(1), .. }), "{lost}");
}
