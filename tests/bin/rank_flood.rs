//! `rank_flood LINES [stderr|same BLOCK]`: writes so many numbered lines of 64 bytes, as fast as they are taken.
//!
//! With `same` the number is always 0, so that making lines costs nothing, and BLOCK bytes are written at a time.

use std::io::{BufWriter, Write};

use efarun_tests::fixture;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let lines: u64 = args.next().and_then(|arg| arg.parse().ok()).expect("LINES");
    let rank = fixture::rank();
    let line = |line: u64| format!("{rank:>8} {line:>20} {:-<33}\n", "");
    let stream: Box<dyn Write> = match args.next().as_deref() {
        Some("same") => {
            let block_bytes: usize = args.next().and_then(|arg| arg.parse().ok()).expect("BLOCK");
            return write_same(lines, line(0).as_bytes(), block_bytes);
        }
        Some("stderr") => Box::new(std::io::stderr()),
        _ => Box::new(std::io::stdout()),
    };
    let mut stream = BufWriter::with_capacity(1 << 16, stream);
    for number in 0..lines {
        stream.write_all(line(number).as_bytes())?;
    }
    stream.flush()
}

/// Past the standard library's stdout, which looks for ends of lines.
fn write_same(lines: u64, line: &[u8], block_bytes: usize) -> std::io::Result<()> {
    let block = line.repeat(block_bytes / line.len());
    let mut left = usize::try_from(lines).expect("as many lines as there are addresses") * line.len();
    while left > 0 {
        left -= nix::unistd::write(std::io::stdout(), &block[..left.min(block.len())])?;
    }
    Ok(())
}
