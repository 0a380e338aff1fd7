//! Two ends of a link with somebody in between. Input is what that somebody does to each flight: cut it, change it,
//! repeat it, leave it out, or put in bytes of his own. Whatever he does, both ends keep within their bounds, neither
//! takes him for the other, and what comes out of the link is the beginning of what was put in.
#![no_main]

use efarun_fuzz::{parts, within_bytes};
use efarun_wire::JobId;
use efarun_wire::secure::{
    Authenticated, Initiator, LinkKey, MAX_HANDSHAKE_BYTES, Responder, SecureChannel, Standing,
};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(script) = Script::read(Unstructured::new(input)) {
        run(&script);
    }
});

/// What the ends are, and what happens between them.
struct Script {
    other_key: bool,
    other_job: bool,
    member: u8,
    opening: Meddling,
    answer: Meddling,
    confirm: Meddling,
    records: Meddling,
    plaintext: Vec<u8>,
}

/// What happens to bytes on their way: acts, and how they are cut.
struct Meddling {
    seed: u8,
    acts: Vec<Act>,
}

enum Act {
    Flip { at: u16, bits: u8 },
    Drop { at: u16, len: u8 },
    Repeat { at: u16, len: u8 },
    Insert { at: u16, bytes: Vec<u8> },
    Truncate { at: u16 },
}

impl Script {
    fn read(mut input: Unstructured<'_>) -> Result<Script> {
        let which: u8 = input.arbitrary()?;
        Ok(Script {
            other_key: which & 1 != 0,
            other_job: which & 2 != 0,
            member: which >> 5,
            opening: Meddling::read(&mut input)?,
            answer: Meddling::read(&mut input)?,
            confirm: Meddling::read(&mut input)?,
            records: Meddling::read(&mut input)?,
            plaintext: input.take_rest().to_vec(),
        })
    }
}

fn run(script: &Script) {
    let key = LinkKey::well_known();
    let theirs = if script.other_key { LinkKey::from_bytes([9; 32]) } else { key.clone() };
    let job = JobId([1; 8]);
    let members = |member: u32| match member {
        0..4 => Standing::Expected(theirs.clone()),
        4 => Standing::Joined,
        _ => Standing::Unknown,
    };
    let fits = !script.other_key && !script.other_job && script.member < 4;

    let mut opening = Vec::new();
    let mut initiator =
        Initiator::new(job, script.member.into(), &key, &mut opening).expect("random numbers");
    let mut responder = Responder::new(if script.other_job { JobId([2; 8]) } else { job });

    let sent = opening.clone();
    let (opening, opening_is_same) = script.opening.act(opening);
    let mut answer = Vec::new();
    let mut refused = false;
    for part in parts(&opening, script.opening.seed) {
        let before_bytes = answer.len();
        let received = within_bytes(RESPONDER_BYTES, || responder.receive(part, &members, &mut answer));
        // No initiator confirms before it is answered.
        assert!(!matches!(received, Ok(Some(_))), "authenticated without a confirm");
        assert!(answer.len() - before_bytes < MAX_HANDSHAKE_BYTES);
        refused |= received.is_err();
    }
    assert!(!(refused && fits && opening_is_same), "an honest initiator was refused");

    let (answer, answer_is_same) = script.answer.act(answer);
    let mut confirm = Vec::new();
    let mut dialed = None;
    for part in parts(&answer, script.answer.seed) {
        match initiator.receive(part, &mut confirm) {
            Ok(Some(authenticated)) => dialed = Some(authenticated),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    let Some(dialed) = dialed else {
        assert!(!(fits && opening_is_same && answer_is_same), "an honest responder was refused");
        return;
    };
    // What follows an opening that arrived whole is refused by the responder, when it has answered already.
    assert!(fits && opening.starts_with(&sent), "the initiator believes somebody without its key");

    let all_sent = [&sent[..], &confirm].concat();
    let (confirm, confirm_is_same) = script.confirm.act(confirm);
    let mut accepted = None;
    for part in parts(&confirm, script.confirm.seed) {
        let mut out = Vec::new();
        match responder.receive(part, &members, &mut out) {
            Ok(Some(authenticated)) => accepted = Some(authenticated),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    let Some(accepted) = accepted else {
        assert!(!(opening_is_same && confirm_is_same), "an honest confirm was refused");
        return;
    };
    let arrived = [opening, confirm].concat();
    assert!(arrived.starts_with(&all_sent), "the responder believes somebody without its key");
    assert!(accepted.member == u32::from(script.member) && accepted.received.is_empty());
    talk(dialed, accepted.channel, confirm_is_same, answer_is_same, script);
}

/// Says something over a link that is open, and meddles with it. What was put in behind the confirm or the answer is
/// the beginning of a record already.
fn talk(
    dialed: Authenticated,
    mut accepted: SecureChannel,
    confirm_is_same: bool,
    answer_is_same: bool,
    script: &Script,
) {
    let mut channel = dialed.channel;
    let mut sealed = Vec::new();
    for part in parts(&script.plaintext, script.records.seed) {
        channel.seal(part, &mut sealed).expect("few records");
    }
    let (sealed, is_same) = script.records.act(sealed);
    let mut opened = Vec::new();
    let mut failed = false;
    for part in parts(&sealed, script.records.seed) {
        failed |= accepted.open(part, &mut opened).is_err();
    }
    assert!(script.plaintext.starts_with(&opened), "what came out was not put in");
    assert!(
        !(is_same && confirm_is_same) || (!failed && opened == script.plaintext),
        "an honest record was refused"
    );
    let mut back = Vec::new();
    accepted.seal(b"back", &mut back).expect("few records");
    let mut heard = Vec::new();
    let heard_it = channel.open(&back, &mut heard).is_ok();
    assert!(b"back".starts_with(&heard[..]));
    assert!(!answer_is_same || (heard_it && heard == b"back"), "one direction disturbed the other");
}

impl Meddling {
    fn read(input: &mut Unstructured<'_>) -> Result<Meddling> {
        let seed = input.arbitrary()?;
        let count = input.arbitrary::<u8>()? % 4;
        Ok(Meddling { seed, acts: (0..count).map(|_| Act::read(input)).collect::<Result<_>>()? })
    }

    /// Gives what arrives, and whether that is what was sent.
    fn act(&self, sent: Vec<u8>) -> (Vec<u8>, bool) {
        let mut bytes = sent.clone();
        self.acts.iter().for_each(|act| act.apply(&mut bytes));
        let is_same = bytes == sent;
        (bytes, is_same)
    }
}

impl Act {
    fn read(input: &mut Unstructured<'_>) -> Result<Act> {
        let (kind, at) = (input.arbitrary::<u8>()?, input.arbitrary::<u16>()? % 512);
        Ok(match kind % 5 {
            0 => Act::Flip { at, bits: input.arbitrary()? },
            1 => Act::Drop { at, len: input.arbitrary()? },
            2 => Act::Repeat { at, len: input.arbitrary()? },
            3 => {
                let len = input.arbitrary::<u8>()?.into();
                let len = input.len().min(len);
                Act::Insert { at, bytes: input.bytes(len)?.to_vec() }
            }
            _ => Act::Truncate { at },
        })
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        let range = |at: u16, len: u8| {
            let start = usize::from(at).min(bytes.len());
            start..(start + usize::from(len)).min(bytes.len())
        };
        match self {
            Act::Flip { at, bits } => {
                let range = range(*at, 1);
                bytes[range].iter_mut().for_each(|byte| *byte ^= bits);
            }
            Act::Drop { at, len } => drop(bytes.drain(range(*at, *len))),
            Act::Repeat { at, len } => {
                let range = range(*at, *len);
                let again = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, again);
            }
            Act::Insert { at, bytes: inserted } => {
                let at = range(*at, 0).start;
                bytes.splice(at..at, inserted.iter().copied());
            }
            Act::Truncate { at } => bytes.truncate((*at).into()),
        }
    }
}

/// A handshake's own bytes, and what the cryptography library takes for its state.
const RESPONDER_BYTES: usize = 16 << 10;
