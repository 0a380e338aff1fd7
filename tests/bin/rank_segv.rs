//! `rank_segv RANK`: this rank dies of SIGSEGV, all others hang.

use efarun_tests::fixture;
use nix::sys::signal::{Signal, raise};

fn main() {
    let rank: u32 = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).expect("RANK");
    fixture::say(&format!("rank {} is up", fixture::rank()));
    // Rust's runtime takes the first one, to look for a stack overflow, and then steps aside.
    while fixture::rank() == rank {
        raise(Signal::SIGSEGV).expect("a process can signal itself");
    }
    fixture::hang();
}
