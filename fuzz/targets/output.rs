//! What ranks write, on its way to the terminal: with whatever bytes and in whatever pieces, each stream's bytes come out
//! whole and in order, and what is repeated of them in a report is text. Input says who writes what next.
#![no_main]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use efarun::output::{LineStyle, OutputMux, Terminal};
use efarun_wire::Rank;
use efarun_wire::message::Stream;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let tag = input.ratio(1, 2).unwrap_or_default();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut written = BTreeMap::new();
    {
        let mut mux = OutputMux::new(
            LineStyle { tag, ..LineStyle::default() },
            Terminal::new(&mut stdout, &mut stderr),
        );
        let mut now = Instant::now();
        while !input.is_empty() && step(&mut mux, &mut written, &mut now, &mut input).is_ok() {}
        mux.finish();
        assert_eq!(mux.next_tick(), None, "something is still waiting");
        for rank in (0..RANKS).map(Rank) {
            let tail = mux.stderr_tail(rank);
            assert!(tail.len() <= 10 && tail.iter().all(|line| line.len() <= 4 * 512));
            assert!(
                !tail.iter().any(|line| line.contains(|c: char| c.is_control() && c != '\t')),
                "{tail:?}"
            );
        }
    }
    if tag {
        return;
    }
    // Each rank writes letters of its own, so that its bytes can be told from the others'.
    for ((rank, stream), bytes) in written {
        let sink = if stream { &stdout } else { &stderr };
        let mine = |byte: &&u8| RANKS_LETTERS[rank as usize].contains(byte);
        assert!(
            sink.iter().filter(mine).eq(bytes.iter().filter(mine)),
            "rank {rank}: bytes are missing or moved"
        );
    }
});

fn step(
    mux: &mut OutputMux<&mut Vec<u8>, &mut Vec<u8>>,
    written: &mut BTreeMap<(u32, bool), Vec<u8>>,
    now: &mut Instant,
    input: &mut Unstructured<'_>,
) -> Result<()> {
    let act: u8 = input.arbitrary()?;
    let (rank, is_stdout) = (u32::from(act >> 5) % RANKS, act & 16 == 0);
    let stream = if is_stdout { Stream::Stdout } else { Stream::Stderr };
    match act % 8 {
        0 => {
            *now += Duration::from_millis(input.arbitrary::<u8>()?.into());
            mux.tick(*now);
        }
        1 => mux.push(Rank(rank), stream, &[], *now),
        _ => {
            let len = usize::from(input.arbitrary::<u8>()? % 32).min(input.len());
            let letters = RANKS_LETTERS[rank as usize];
            // Of 16 bytes one ends a line and some are no text.
            let byte = |byte: &u8| match byte % 16 {
                0 => b'\n',
                1 => 0xff,
                2 => 0x1b,
                other => letters[usize::from(other) % letters.len()],
            };
            let times = if act & 8 == 0 { 1 } else { 512 };
            let bytes: Vec<u8> = input.bytes(len)?.iter().map(byte).collect::<Vec<_>>().repeat(times);
            mux.push(Rank(rank), stream, &bytes, *now);
            written.entry((rank, is_stdout)).or_default().extend(bytes);
        }
    }
    Ok(())
}

const RANKS: u32 = 3;
const RANKS_LETTERS: [&[u8]; 3] = [b"abcd", b"efgh", b"ijkl"];
