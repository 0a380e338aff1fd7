//! `rank_stray RANK`: all ranks meet in two barriers; then this one stays in code of its own, for ever, and the others wait for
//! it in an all_reduce. Each of these says what it was told, and hangs.

use efarun_rt::{ReduceOp, World};
use efarun_tests::fixture;

fn main() -> Result<(), efarun_rt::Error> {
    let stray = std::env::args().nth(1).expect("RANK");
    let mut world = World::init()?;
    world.barrier()?;
    world.barrier()?;
    if stray == fixture::rank().to_string() {
        fixture::hang();
    }
    if let Err(error) = world.all_reduce(&mut [1.0f32; 4], ReduceOp::Sum) {
        fixture::say(&format!("told: {error}"));
    }
    fixture::hang();
}
