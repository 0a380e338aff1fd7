//! Ranks whose calls pair their messages otherwise than their peers' do: each makes transfers of its own, one behind the other.

use efarun_wire::Rank;

use super::{SLICE, Station, on_all, plan_of, stretches};
use crate::error::Error;
use crate::relay::direct::exchange;
use crate::relay::parameters::SLOT_BYTES;
use crate::relay::shorts::Shorts;
use crate::relay::staging::{INBOX, OUTBOX};
use crate::relay::transfer::{Transfer, is_short};
use crate::relay::words::Early;

/// One rank's end of a message: with whom, and how many bytes.
#[derive(Clone, Copy, Debug)]
enum End {
    To(usize, usize),
    From(usize, usize),
}

use End::{From, To};

/// The transfers of a rank, one behind the other.
type Program = Vec<Vec<End>>;

/// Both are right programs: who sends and receives in one call does both at the same time.
pub(super) fn one_call_meets_two() {
    let both = |there, back| vec![vec![To(1, there), From(1, back)]];
    let receives_first = |there, back| vec![vec![From(0, there)], vec![To(0, back)]];
    let sends_first = |there, back| vec![vec![To(0, back)], vec![From(0, there)]];
    for (there, back) in LENS.into_iter().flat_map(|there| LENS.map(|back| (there, back))) {
        check(&[both(there, back), receives_first(there, back)]);
        check(&[both(there, back), sends_first(there, back)]);
    }
    // What comes first has no more slices than lanes, of which there is one.
    for len in [60_000, 777] {
        check(&[both(len, 150_000), receives_first(len, 150_000)]);
        check(&[both(150_000, len), sends_first(150_000, len)]);
    }
}

/// Several messages of the pair, cut into calls one way here and another there.
pub(super) fn several_messages_of_a_pair() {
    for lens in [[60_000, 50_001, 4097], [60_000, 777, 50_000], [9, 4097, 8], [1, 4096, 200]] {
        let [a, b, c] = lens;
        let one_by_one =
            |peer| vec![vec![From(peer, a)], vec![To(peer, b)], vec![To(peer, a)], vec![From(peer, b)]];
        let together = |peer| vec![vec![To(peer, a), From(peer, b), To(peer, b), From(peer, a)]];
        check(&[together(1), one_by_one(0)]);
        let here = vec![
            vec![To(1, a), From(1, a)],
            vec![To(1, b), To(1, c)],
            vec![From(1, b), From(1, c), To(1, a)],
            vec![From(1, a)],
        ];
        let there = vec![
            vec![From(0, a)],
            vec![To(0, a), From(0, b), To(0, b), From(0, c)],
            vec![To(0, c), From(0, a)],
            vec![To(0, a)],
        ];
        check(&[here, there]);
    }
}

/// Rank 0 has one of rank 1's messages early, and while it waits for rank 2 gets to see the next.
pub(super) fn what_came_early_goes_first() {
    for len in [777, 8] {
        check(&[
            vec![vec![To(1, 60_000)], vec![From(2, 8)], vec![From(1, len)], vec![From(1, len)]],
            vec![vec![From(0, 60_000), To(0, len)], vec![To(0, len)], vec![To(2, 8)]],
            vec![vec![From(1, 8)], vec![To(0, 8)]],
        ]);
    }
}

/// Rank 0 receives of two at the same time, of which the one waits for it before it serves the other, and that one for it before it
/// serves rank 0.
pub(super) fn nobody_waits_in_a_circle() {
    for len in [60_000, 777] {
        check(&[
            vec![vec![From(1, len), From(2, len)]],
            vec![vec![To(0, len)], vec![To(2, len)]],
            vec![vec![From(1, len)], vec![To(0, len)]],
        ]);
    }
}

/// Messages have an order; every rank makes its calls in it, cut as it likes.
pub(super) fn whatever_is_in_one_order() {
    let ranks = 4;
    for seed in 0..12 {
        let mut drawn = Drawn(seed);
        let mut programs = vec![Program::new(); ranks];
        for _ in 0..40 {
            let from = drawn.below(ranks);
            let to = (from + 1 + drawn.below(ranks - 1)) % ranks;
            let len = LENS[drawn.below(LENS.len())];
            for (rank, end) in [(from, To(to, len)), (to, From(from, len))] {
                let program = &mut programs[rank];
                match program.last_mut() {
                    Some(call) if drawn.below(3) > 0 && call.len() < 8 => call.push(end),
                    _ => program.push(vec![end]),
                }
            }
        }
        check(&programs);
    }
}

/// Numbers that follow from a seed.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// Runs the ranks' programs, and looks at all that came.
fn check(programs: &[Program]) {
    let results = on_all(programs.len() as u32, |station| ((), run(station, &programs[station.me()])));
    for (rank, (_, (), result)) in results.into_iter().enumerate() {
        result.unwrap_or_else(|error| panic!("rank {rank} of {programs:?}: {error}"));
    }
}

fn run(station: &mut Station, program: &Program) -> Result<(), Error> {
    let me = station.me();
    let (mut shorts, mut early) = (Shorts::default(), Early::default());
    // How many messages went to a rank, and came from it.
    let (mut sent, mut received) = ([0; RANKS_MAX], [0; RANKS_MAX]);
    for call in program {
        let (mut transfer, mut puts, mut gets) = (Transfer::default(), Vec::new(), Vec::new());
        for &end in call {
            match end {
                To(to, len) => {
                    transfer.sends.push((Rank(to as u32), puts.len()));
                    puts.push(message(me, to, count(&mut sent[to]), len));
                }
                From(from, len) => {
                    transfer.receives.push((Rank(from as u32), gets.len()));
                    gets.push(message(from, me, count(&mut received[from]), len));
                }
            }
        }
        let lens = |messages: &[Vec<u8>]| messages.iter().map(Vec::len).collect::<Vec<_>>();
        let Transfer { puts: to_put, gets: to_get, slice_bytes, .. } = stretches(&lens(&puts), &lens(&gets));
        let transfer = Transfer { puts: to_put, gets: to_get, slice_bytes, ..transfer };
        let plan = plan_of(&transfer);
        for slice in 0..transfer.slices() {
            let place = |index: usize| slice * SLOT_BYTES + index * SLICE;
            let part = |whole: &[u8]| {
                whole[(slice * SLICE).min(whole.len())..((slice + 1) * SLICE).min(whole.len())].to_vec()
            };
            for (index, put) in puts.iter().enumerate() {
                match is_short(put.len()) {
                    true => shorts.put.of_mut(index)[..put.len()].copy_from_slice(put),
                    false => station.write(OUTBOX + place(index), &part(put)),
                }
            }
            exchange(
                &mut station.world,
                &mut station.reader,
                &plan,
                (slice, slice),
                &mut shorts,
                &mut early,
            )?;
            // What kernels do next: nobody reads what was put any more.
            station.write(OUTBOX + slice * SLOT_BYTES, &[0xFF; SLOT_BYTES]);
            for (index, get) in gets.iter().enumerate() {
                let found = match is_short(get.len()) {
                    true => shorts.got.of(index)[..get.len()].to_vec(),
                    false => station.read(INBOX + place(index), part(get).len()),
                };
                let expected = if is_short(get.len()) { get.clone() } else { part(get) };
                assert!(
                    found == expected,
                    "rank {me}: get {index} of {call:?}, slice {slice}, of {program:?}"
                );
            }
        }
    }
    Ok(())
}

fn count(number: &mut usize) -> usize {
    *number += 1;
    *number - 1
}

/// The content of the so-manieth message from a rank to another.
fn message(from: usize, to: usize, number: usize, len: usize) -> Vec<u8> {
    let seed = 100 * from + 31 * to + 7 * number;
    (0..len).map(|at| (at / 3 + at / 601 + seed) as u8 ^ number as u8).collect()
}

const RANKS_MAX: usize = 4;
/// To one slice; the last four are short.
const LENS: [usize; 6] = [60_000, 4097, 4096, 300, 24, 8];
