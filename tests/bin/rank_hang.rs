//! `rank_hang [deaf]`: says that it is up and hangs; deaf, it ignores TERM, INT and HUP.

use efarun_tests::fixture;

fn main() {
    if std::env::args().nth(1).is_some_and(|arg| arg == "deaf") {
        fixture::ignore_signals();
    }
    fixture::say(&format!("rank {} is up", fixture::rank()));
    fixture::hang();
}
