//! `rank_exit RANK CODE [FIFO]`: this rank says `last words` on standard error and exits with this code, all others
//! hang. With FIFO it first waits until somebody has opened and closed that for writing.

use std::process::ExitCode;

use efarun_tests::fixture;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mut number = || args.next().and_then(|arg| arg.parse::<u32>().ok()).expect("RANK CODE");
    let (rank, code) = (number(), number());
    fixture::say(&format!("rank {} is up", fixture::rank()));
    if fixture::rank() != rank {
        fixture::hang();
    }
    if let Some(fifo) = args.next() {
        std::fs::read(fifo).expect("FIFO is readable");
    }
    #[expect(clippy::print_stderr, reason = "what the launcher is to repeat")]
    {
        eprintln!("last words of rank {rank}");
    }
    ExitCode::from(u8::try_from(code).expect("an exit code is below 256"))
}
