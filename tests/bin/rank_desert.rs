//! `rank_desert RANK|all`: all ranks meet in a barrier, then this one, or all, end with code 0 without closing their
//! World. The others wait for it in another barrier, and say how long it took until they were told, and what.

use std::time::Instant;

use efarun_rt::World;
use efarun_tests::fixture;

fn main() -> Result<(), efarun_rt::Error> {
    let who = std::env::args().nth(1).expect("RANK or `all`");
    let mut world = World::init()?;
    world.barrier()?;
    if who == "all" || who == fixture::rank().to_string() {
        std::process::exit(0);
    }
    let since = Instant::now();
    let result = world.barrier();
    if let Err(error) = &result {
        fixture::say(&format!("told after {} ms: {error}", since.elapsed().as_millis()));
    }
    result
}
