//! Both ends of a link in one thread: what opens it, and everything that must not.

use efarun_wire::secure::{
    Authenticated, Initiator, LinkKey, MAX_HANDSHAKE_BYTES, MAX_RECORD_PLAINTEXT_BYTES, Refusal, Responder,
    SecureChannel, SecureError, Standing,
};
use efarun_wire::{JobId, PROTOCOL_VERSION};
use proptest::prelude::*;

const JOB: JobId = JobId(*b"a job id");
const MEMBER: u32 = 7;

fn key() -> LinkKey {
    LinkKey::from_bytes([42; 32])
}

fn members(member: u32) -> Standing {
    match member {
        MEMBER => Standing::Expected(key()),
        8 => Standing::Joined,
        _ => Standing::Unknown,
    }
}

/// An initiator and the bytes it sends first.
fn dial(job: JobId, member: u32, key: &LinkKey) -> (Initiator, Vec<u8>) {
    let mut sent = Vec::new();
    let initiator = Initiator::new(job, member, key, &mut sent).expect("goes well");
    (initiator, sent)
}

/// A responder that has been sent `opening`, and what it answered.
fn answer(opening: &[u8]) -> (Responder, Vec<u8>) {
    let mut responder = Responder::new(JOB);
    let mut sent = Vec::new();
    assert!(responder.receive(opening, &members, &mut sent).expect("goes well").is_none());
    (responder, sent)
}

/// A whole handshake: the two channels, the initiator's first.
fn connect() -> (SecureChannel, SecureChannel) {
    let (mut initiator, opening) = dial(JOB, MEMBER, &key());
    let (mut responder, reply) = answer(&opening);
    let mut confirm = Vec::new();
    let ours = initiator
        .receive(&reply, &mut confirm)
        .expect("goes well")
        .expect("the reply completes the initiator");
    let theirs = responder
        .receive(&confirm, &members, &mut Vec::new())
        .expect("goes well")
        .expect("the confirm completes");
    assert_eq!((ours.member, theirs.member), (MEMBER, MEMBER));
    assert!(ours.received.is_empty() && theirs.received.is_empty());
    (ours.channel, theirs.channel)
}

fn sealed(channel: &mut SecureChannel, plaintext: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    channel.seal(plaintext, &mut bytes).expect("goes well");
    bytes
}

/// What a responder makes of an opening that it must not accept, and what it sends back.
fn refused(opening: &[u8]) -> (SecureError, Vec<u8>) {
    let mut sent = Vec::new();
    let error = Responder::new(JOB).receive(opening, &members, &mut sent).expect_err("must be refused");
    (error, sent)
}

/// What an initiator makes of a reply that it must not accept.
fn rejected(initiator: &mut Initiator, reply: &[u8]) -> SecureError {
    let mut sent = Vec::new();
    let error = initiator.receive(reply, &mut sent).expect_err("must be rejected");
    assert!(sent.is_empty(), "nothing is confirmed to an impostor");
    error
}

#[test]
fn both_directions_carry_what_was_sealed() {
    let (mut ours, mut theirs) = connect();
    for text in [&b"hello"[..], b"", b"again"] {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        theirs.open(&sealed(&mut ours, text), &mut there).unwrap();
        ours.open(&sealed(&mut theirs, &there), &mut back).unwrap();
        assert_eq!((there.as_slice(), back.as_slice()), (text, text));
    }
}

#[test]
fn handshake_survives_any_cut_of_the_stream() {
    let whole = {
        let (mut initiator, opening) = dial(JOB, MEMBER, &key());
        let (_, reply) = answer(&opening);
        let mut confirm = Vec::new();
        initiator.receive(&reply, &mut confirm).unwrap().unwrap();
        (opening.len(), reply.len(), confirm.len())
    };
    assert_eq!(whole.0 + whole.2, Responder::HANDSHAKE_BYTES);
    for cut in 0..=whole.0 {
        let (mut initiator, opening) = dial(JOB, MEMBER, &key());
        let mut responder = Responder::new(JOB);
        let mut reply = Vec::new();
        for part in [&opening[..cut], &opening[cut..]] {
            assert!(responder.receive(part, &members, &mut reply).unwrap().is_none());
        }
        let cut = cut.min(reply.len());
        let mut confirm = Vec::new();
        let early = initiator.receive(&reply[..cut], &mut confirm).unwrap();
        let late =
            if cut < reply.len() { initiator.receive(&reply[cut..], &mut confirm).unwrap() } else { None };
        assert!(early.is_some() != late.is_some());
        let cut = cut.min(confirm.len());
        let early = responder.receive(&confirm[..cut], &members, &mut reply).unwrap();
        let late = if early.is_none() {
            responder.receive(&confirm[cut..], &members, &mut reply).unwrap()
        } else {
            None
        };
        assert!(early.is_some() != late.is_some(), "cut at {cut}");
    }
}

#[test]
fn what_is_said_right_behind_the_handshake_is_not_lost() {
    let (mut initiator, opening) = dial(JOB, MEMBER, &key());
    let (mut responder, reply) = answer(&opening);
    let mut bytes = Vec::new();
    let mut ours = initiator.receive(&reply, &mut bytes).unwrap().unwrap();
    ours.channel.seal(b"first words", &mut bytes).unwrap();
    let cut = bytes.len() - 3;
    let Authenticated { mut channel, mut received, .. } =
        responder.receive(&bytes[..cut], &members, &mut Vec::new()).unwrap().unwrap();
    assert_eq!(received, b"");
    channel.open(&bytes[cut..], &mut received).unwrap();
    assert_eq!(received, b"first words");
}

#[test]
fn every_changed_byte_of_the_opening_is_refused() {
    let (_, opening) = dial(JOB, MEMBER, &key());
    for position in 0..opening.len() {
        for change in [1, 0x80] {
            let mut changed = opening.clone();
            changed[position] ^= change;
            let (error, _) = refused(&changed);
            let plausible = match position {
                0..8 => matches!(error, SecureError::Stranger { .. }),
                8..10 => matches!(error, SecureError::OtherVersion { .. }),
                10..18 => matches!(error, SecureError::OtherJob { .. }),
                18..22 => matches!(error, SecureError::UnknownMember { .. }),
                _ => error == SecureError::NotAuthentic { what: "its first message" },
            };
            assert!(plausible, "byte {position}: {error}");
        }
    }
}

#[test]
fn every_changed_byte_of_the_reply_is_rejected() {
    let (_, opening) = dial(JOB, MEMBER, &key());
    let reply_bytes = answer(&opening).1.len();
    for position in 0..reply_bytes {
        let (mut initiator, opening) = dial(JOB, MEMBER, &key());
        let (_, mut reply) = answer(&opening);
        reply[position] ^= 1;
        rejected(&mut initiator, &reply);
        assert_eq!(initiator.receive(&[], &mut Vec::new()).unwrap_err(), SecureError::Closed);
    }
}

#[test]
fn every_changed_byte_of_the_confirm_is_refused() {
    for position in 0..Responder::HANDSHAKE_BYTES - dial(JOB, MEMBER, &key()).1.len() {
        let (mut initiator, opening) = dial(JOB, MEMBER, &key());
        let (mut responder, reply) = answer(&opening);
        let mut confirm = Vec::new();
        initiator.receive(&reply, &mut confirm).unwrap().unwrap();
        confirm[position] ^= 1;
        let mut sent = Vec::new();
        let error = responder.receive(&confirm, &members, &mut sent).expect_err("changed");
        assert_eq!(error, SecureError::NotAuthentic { what: "its confirmation" }, "byte {position}");
        assert!(sent.is_empty());
        assert_eq!(responder.receive(&[], &members, &mut sent).unwrap_err(), SecureError::Closed);
    }
}

#[test]
fn a_replayed_handshake_never_authenticates() {
    let (mut initiator, opening) = dial(JOB, MEMBER, &key());
    let (mut responder, reply) = answer(&opening);
    let mut confirm = Vec::new();
    initiator.receive(&reply, &mut confirm).unwrap().unwrap();
    responder.receive(&confirm, &members, &mut Vec::new()).unwrap().expect("the original is authenticated");

    let (mut replayed, _) = answer(&opening);
    let error = replayed.receive(&confirm, &members, &mut Vec::new()).expect_err("a replayed confirm");
    assert_eq!(error, SecureError::NotAuthentic { what: "its confirmation" });

    let at_once: Vec<u8> = [opening, confirm].concat();
    let (error, _) = refused(&at_once);
    assert!(matches!(error, SecureError::TooManyBytes { .. }));
}

#[test]
fn a_wrong_key_is_refused_and_the_dialling_end_is_told() {
    let (mut initiator, opening) = dial(JOB, MEMBER, &LinkKey::from_bytes([43; 32]));
    let (error, reply) = refused(&opening);
    assert_eq!(error, SecureError::NotAuthentic { what: "its first message" });
    assert_eq!(rejected(&mut initiator, &reply), SecureError::Refused(Refusal::NotAuthentic));
}

#[test]
fn a_member_cannot_be_made_another_that_has_the_same_key() {
    let everybody = |_| Standing::Expected(key());
    let (_, mut opening) = dial(JOB, MEMBER, &key());
    opening[18..22].copy_from_slice(&(MEMBER + 1).to_le_bytes());
    let refused = Responder::new(JOB).receive(&opening, &everybody, &mut Vec::new());
    assert_eq!(refused.expect_err("changed"), SecureError::NotAuthentic { what: "its first message" });
}

#[test]
fn a_responder_without_the_key_is_rejected() {
    let (mut initiator, opening) = dial(JOB, MEMBER, &key());
    // An impostor runs a handshake of its own with a key of its own, and sends that reply.
    let other_key = |_| Standing::Expected(LinkKey::from_bytes([43; 32]));
    let (_, its_opening) = dial(JOB, MEMBER, &LinkKey::from_bytes([43; 32]));
    let mut reply = Vec::new();
    Responder::new(JOB).receive(&its_opening, &other_key, &mut reply).unwrap();
    let error = rejected(&mut initiator, &reply);
    assert_eq!(error, SecureError::NotAuthentic { what: "its answer" });
    // So is a genuine reply to somebody else.
    let (mut initiator, _) = dial(JOB, MEMBER, &key());
    let (_, reply) = answer(&opening);
    assert_eq!(rejected(&mut initiator, &reply), SecureError::NotAuthentic { what: "its answer" });
}

#[test]
fn other_job_and_other_members_are_told_apart() {
    let other = JobId(*b"another!");
    let (mut initiator, opening) = dial(other, MEMBER, &key());
    let (error, reply) = refused(&opening);
    assert_eq!(error, SecureError::OtherJob { ours: JOB, theirs: other });
    assert_eq!(rejected(&mut initiator, &reply), SecureError::Refused(Refusal::OtherJob));

    let (mut initiator, opening) = dial(JOB, 9, &key());
    let (error, reply) = refused(&opening);
    assert_eq!(error, SecureError::UnknownMember { member: 9 });
    assert_eq!(rejected(&mut initiator, &reply), SecureError::Refused(Refusal::UnknownMember));

    let (mut initiator, opening) = dial(JOB, 8, &key());
    let (error, reply) = refused(&opening);
    assert_eq!(error, SecureError::AlreadyJoined { member: 8 });
    assert_eq!(rejected(&mut initiator, &reply), SecureError::Refused(Refusal::AlreadyJoined));
}

#[test]
fn another_version_is_an_efarun_and_no_stranger() {
    let (mut initiator, mut opening) = dial(JOB, MEMBER, &key());
    let theirs = PROTOCOL_VERSION + 1;
    opening[8..10].copy_from_slice(&theirs.to_le_bytes());
    // Whatever else that version's greeting holds, and however long it is.
    opening[10..].fill(0xff);
    opening.resize(300, 0xff);
    let (error, mut reply) = refused(&opening);
    assert_eq!(error, SecureError::OtherVersion { ours: PROTOCOL_VERSION, theirs });
    let expected = format!("protocol {theirs}, this one has protocol {PROTOCOL_VERSION}");
    assert!(error.to_string().contains(&expected), "{error}");

    reply[8..10].copy_from_slice(&theirs.to_le_bytes());
    assert_eq!(
        rejected(&mut initiator, &reply),
        SecureError::OtherVersion { ours: PROTOCOL_VERSION, theirs }
    );
}

#[test]
fn mark_and_version_are_where_every_version_looks_for_them() {
    let (_, opening) = dial(JOB, MEMBER, &key());
    let (_, reply) = answer(&opening);
    let [low, high] = PROTOCOL_VERSION.to_le_bytes();
    for said in [opening, reply] {
        assert_eq!(said[..10], [0xef, b'e', b'f', b'a', b'r', b'u', b'n', b'\n', low, high]);
    }
}

#[test]
fn holders_of_a_key_meet_without_having_agreed_on_a_job() {
    let job = key().job_id();
    assert_ne!(job, LinkKey::well_known().job_id());
    let (mut initiator, opening) = dial(LinkKey::from_hex(&key().to_hex()).unwrap().job_id(), MEMBER, &key());
    let mut reply = Vec::new();
    Responder::new(job).receive(&opening, &members, &mut reply).unwrap();
    initiator.receive(&reply, &mut Vec::new()).unwrap().expect("the same job id on both ends");
}

#[test]
fn a_stranger_is_told_by_its_first_byte_and_gets_no_answer() {
    let (error, reply) = refused(b"GET / HTTP/1.1\r\n");
    assert_eq!(error, SecureError::Stranger { began_with: b"GET / HT".to_vec() });
    assert!(reply.is_empty());
    assert!(error.to_string().contains("GET / HT"));
    assert_eq!(refused(b"\0").0, SecureError::Stranger { began_with: vec![0] });

    let (mut initiator, _) = dial(JOB, MEMBER, &key());
    let error = rejected(&mut initiator, b"SSH-2.0-OpenSSH_9.2\r\n");
    assert_eq!(error, SecureError::Stranger { began_with: b"SSH-2.0-".to_vec() });
}

#[test]
fn bytes_ahead_of_the_answer_are_too_many() {
    let (_, mut opening) = dial(JOB, MEMBER, &key());
    opening.extend_from_slice(&[0; 2000]);
    let (error, reply) = refused(&opening);
    assert_eq!(
        error,
        SecureError::TooManyBytes { received_bytes: opening.len(), limit_bytes: opening.len() - 2000 }
    );
    assert!(reply.is_empty());
}

#[test]
fn of_two_connections_of_one_member_only_the_first_to_confirm_wins() {
    let joined = std::cell::Cell::new(false);
    let members = |_| if joined.get() { Standing::Joined } else { Standing::Expected(key()) };
    let mut halves = Vec::new();
    for _ in 0..2 {
        let (mut initiator, opening) = dial(JOB, MEMBER, &key());
        let (mut responder, mut reply) = (Responder::new(JOB), Vec::new());
        responder.receive(&opening, &members, &mut reply).unwrap();
        let mut confirm = Vec::new();
        initiator.receive(&reply, &mut confirm).unwrap().unwrap();
        halves.push((responder, confirm));
    }
    let mut outcomes = halves.into_iter().map(|(mut responder, confirm)| {
        let outcome = responder.receive(&confirm, &members, &mut Vec::new());
        joined.set(true);
        outcome.map(|authenticated| authenticated.is_some())
    });
    assert_eq!(outcomes.next(), Some(Ok(true)));
    assert_eq!(outcomes.next(), Some(Err(SecureError::AlreadyJoined { member: MEMBER })));
}

#[test]
fn long_plaintext_takes_several_records_and_any_cut() {
    let (mut ours, mut theirs) = connect();
    let plaintext: Vec<u8> = (0..2 * MAX_RECORD_PLAINTEXT_BYTES + 5).map(|i| (i % 251) as u8).collect();
    let bytes = sealed(&mut ours, &plaintext);
    assert_eq!(bytes.len(), plaintext.len() + 3 * 18);
    let mut opened = Vec::new();
    for part in bytes.chunks(4099) {
        theirs.open(part, &mut opened).unwrap();
    }
    assert!(opened == plaintext, "the plaintext came out changed");
}

#[test]
fn records_out_of_place_do_not_open() {
    let (first, second) = (b"first", b"second");
    let record = |number: usize| move |records: &[Vec<u8>]| records[number].clone();
    let repeated = |records: &[Vec<u8>]| [records[0].clone(), records[0].clone()].concat();
    let swapped = |records: &[Vec<u8>]| [records[1].clone(), records[0].clone()].concat();
    let dropped = record(1);
    let shortened = |records: &[Vec<u8>]| [&records[0][..records[0].len() - 1], &records[1]].concat();
    let too_short_for_a_tag = |_: &[Vec<u8>]| vec![0, 15];
    type Damage<'a> = &'a dyn Fn(&[Vec<u8>]) -> Vec<u8>;
    let damages: [(Damage, u64, &[u8]); 5] = [
        (&repeated, 1, first),
        (&swapped, 0, b""),
        (&dropped, 0, b""),
        (&shortened, 0, b""),
        (&too_short_for_a_tag, 0, b""),
    ];
    for (index, (damage, number, before)) in damages.into_iter().enumerate() {
        let (mut ours, mut theirs) = connect();
        let records = [sealed(&mut ours, first), sealed(&mut ours, second)];
        let mut opened = Vec::new();
        // The confirm was record 0 of this direction.
        let error = theirs.open(&damage(&records), &mut opened).expect_err("damaged");
        assert_eq!(error, SecureError::BadRecord { number: number + 1 }, "damage {index}");
        assert_eq!(opened, before, "damage {index}");
        assert_eq!(theirs.open(&records[0], &mut opened), Err(SecureError::Closed), "damage {index}");
    }
}

#[test]
fn every_changed_byte_of_a_record_is_noticed() {
    let (mut ours, mut theirs) = connect();
    let bytes = sealed(&mut ours, b"eight by");
    for position in 0..bytes.len() {
        let (mut ours, mut theirs) = connect();
        let mut changed = sealed(&mut ours, b"eight by");
        changed[position] ^= 1;
        // A longer length waits for bytes that the next record would bring.
        changed.extend_from_slice(&sealed(&mut ours, &[0; 300]));
        let mut opened = Vec::new();
        assert_eq!(
            theirs.open(&changed, &mut opened),
            Err(SecureError::BadRecord { number: 1 }),
            "{position}"
        );
        assert!(opened.is_empty());
    }
    theirs.open(&bytes, &mut Vec::new()).expect("unchanged");
}

#[test]
fn a_record_reflected_to_its_sender_does_not_open() {
    let (mut ours, _theirs) = connect();
    let bytes = sealed(&mut ours, b"mirror");
    assert!(matches!(ours.open(&bytes, &mut Vec::new()), Err(SecureError::BadRecord { .. })));
}

#[test]
fn a_stream_that_ends_within_a_record_was_truncated() {
    let (mut ours, theirs) = connect();
    let (_, mut opening) = theirs.split();
    let bytes = sealed(&mut ours, b"whole");
    for (position, byte) in bytes.iter().enumerate() {
        let truncated = Err(SecureError::Truncated { within: "a record" });
        assert_eq!(opening.end(), if position == 0 { Ok(()) } else { truncated });
        opening.open(&[*byte], &mut Vec::new()).unwrap();
    }
    assert_eq!(opening.end(), Ok(()));
}

proptest! {
    #[test]
    fn random_bytes_never_get_past_the_handshake(
        prefix in 0usize..=70,
        noise in proptest::collection::vec(any::<u8>(), 1..2000),
        cuts in proptest::collection::vec(1usize..100, 1..40),
    ) {
        // A genuine beginning of any length, then anything.
        let (_, mut bytes) = dial(JOB, MEMBER, &key());
        bytes.truncate(prefix);
        bytes.extend_from_slice(&noise);
        let mut responder = Responder::new(JOB);
        let (mut rest, mut sent, mut taken_bytes) = (bytes.as_slice(), Vec::new(), 0);
        for cut in cuts.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, behind) = rest.split_at(cut.min(rest.len()));
            rest = behind;
            match responder.receive(part, &members, &mut sent) {
                Ok(None) => taken_bytes += part.len(),
                Ok(Some(_)) => panic!("random bytes were authenticated"),
                Err(_) => break,
            }
        }
        prop_assert!(taken_bytes < Responder::HANDSHAKE_BYTES);
        prop_assert!(Responder::HANDSHAKE_BYTES <= MAX_HANDSHAKE_BYTES);
        prop_assert!(sent.len() <= 11 + 48);
    }

    #[test]
    fn random_bytes_never_convince_an_initiator(noise in proptest::collection::vec(any::<u8>(), 59..200)) {
        let (mut initiator, opening) = dial(JOB, MEMBER, &key());
        let (_, reply) = answer(&opening);
        rejected(&mut initiator, &noise);
        let (mut initiator, _) = dial(JOB, MEMBER, &key());
        rejected(&mut initiator, &[&reply[..11], &noise].concat());
    }

    #[test]
    fn records_survive_any_cut(
        texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..20),
        cuts in proptest::collection::vec(1usize..200, 1..20),
    ) {
        let (mut ours, mut theirs) = connect();
        let bytes: Vec<u8> = texts.iter().flat_map(|text| sealed(&mut ours, text)).collect();
        let (mut opened, mut rest) = (Vec::new(), bytes.as_slice());
        for cut in cuts.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (part, behind) = rest.split_at(cut.min(rest.len()));
            rest = behind;
            theirs.open(part, &mut opened).unwrap();
        }
        prop_assert_eq!(opened, texts.concat());
    }

    #[test]
    fn random_records_never_open(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (_, mut theirs) = connect();
        let mut opened = Vec::new();
        let _ = theirs.open(&noise, &mut opened);
        prop_assert!(opened.is_empty());
    }
}
