//! Somebody without the key at a rank's door: he is shown out, and the ranks find each other.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use efarun_wire::secure::{Initiator, LinkKey};

use super::*;

/// Two ranks connect while strangers visit the door of the first; then a message goes each way.
fn ranks_meet_while(visit: impl FnOnce(SocketAddr, &LinkKey)) {
    let config = TcpConfig::new(None);
    let (mut lower, lower_contact) = TcpTransport::new(&config).unwrap();
    let (mut upper, upper_contact) = TcpTransport::new(&config).unwrap();
    let key = Contact::from_bytes(&lower_contact).unwrap().key;
    let address = lower.address;
    let contacts = [(Rank(0), lower_contact), (Rank(1), upper_contact)];
    std::thread::scope(|scope| {
        let contacts = &contacts;
        let lower = scope.spawn(move || {
            lower.connect(Rank(0), contacts, soon()).unwrap();
            lower.open(&[Rank(1)], &[Rank(1)]).unwrap();
            assert!(send_within(&mut lower, Rank(1), b"from below"));
            assert_eq!(await_arrival(&mut lower, Rank(1)).unwrap(), b"from above");
            lower
        });
        visit(address, &key);
        upper.connect(Rank(1), contacts, soon()).unwrap();
        upper.open(&[Rank(0)], &[Rank(0)]).unwrap();
        assert!(send_within(&mut upper, Rank(0), b"from above"));
        assert_eq!(await_arrival(&mut upper, Rank(0)).unwrap(), b"from below");
        drop(lower.join().expect("no panic"));
    });
}

fn visitor(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the door is open");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream
}

/// What the visitor is told until he is shown out.
fn told(mut stream: TcpStream) -> Vec<u8> {
    let mut told = Vec::new();
    match stream.read_to_end(&mut told) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("not shown out: {error}"),
    }
    told
}

#[test]
fn random_bytes_and_other_protocols_are_not_answered() {
    ranks_meet_while(|address, _| {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xA5; 5000], b"\0"] {
            let mut stream = visitor(address);
            // He may have been shown out while he still speaks.
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            assert_eq!(told(stream), b"");
        }
    });
}

#[test]
fn silence_is_hung_up_on_after_two_seconds() {
    ranks_meet_while(|address, _| {
        let since = Instant::now();
        assert_eq!(told(visitor(address)), b"");
        assert!((Duration::from_millis(1900)..Duration::from_secs(8)).contains(&since.elapsed()));
    });
}

#[test]
fn a_crowd_that_says_nothing_keeps_no_rank_out() {
    let mut crowd = Vec::new();
    ranks_meet_while(|address, _| crowd.extend((0..200).map(|_| visitor(address))));
    for stranger in crowd {
        assert_eq!(told(stranger), b"");
    }
}

#[test]
fn another_key_opens_no_door() {
    ranks_meet_while(|address, key| {
        let other = LinkKey::from_bytes([7; 32]);
        // The right job and an awaited rank, as somebody knows them who saw a greeting pass.
        let mut opening = Vec::new();
        let mut initiator = Initiator::new(key.job_id(), 1, &other, &mut opening).unwrap();
        let mut stream = visitor(address);
        stream.write_all(&opening).unwrap();
        let refused = initiator.receive(&told(stream), &mut Vec::new()).unwrap_err().to_string();
        assert!(refused.contains("another key"), "{refused}");
    });
}

#[test]
fn a_rank_that_is_not_awaited_is_not_let_in() {
    ranks_meet_while(|address, key| {
        for member in [0, 2, u32::MAX] {
            let mut opening = Vec::new();
            let mut initiator = Initiator::new(key.job_id(), member, key, &mut opening).unwrap();
            let mut stream = visitor(address);
            stream.write_all(&opening).unwrap();
            let refused = initiator.receive(&told(stream), &mut Vec::new()).unwrap_err().to_string();
            assert!(refused.contains("no such member"), "{refused}");
        }
    });
}
