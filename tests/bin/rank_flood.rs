//! `rank_flood LINES [stderr]`: writes so many numbered lines of 64 bytes, as fast as they are taken.

use std::io::{BufWriter, Write};

use efarun_tests::fixture;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let lines: u64 = args.next().and_then(|arg| arg.parse().ok()).expect("LINES");
    let rank = fixture::rank();
    let stream: Box<dyn Write> = match args.next().as_deref() {
        Some("stderr") => Box::new(std::io::stderr()),
        _ => Box::new(std::io::stdout()),
    };
    let mut stream = BufWriter::with_capacity(1 << 16, stream);
    for line in 0..lines {
        writeln!(stream, "{rank:>8} {line:>20} {:-<33}", "")?;
    }
    stream.flush()
}
