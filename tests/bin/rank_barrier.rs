//! A rank of a real World: meets the others in a barrier, says so and leaves.

use efarun_rt::World;
use efarun_tests::fixture;

fn main() -> Result<(), efarun_rt::Error> {
    let mut world = World::init()?;
    fixture::say(&format!("rank {} is up", fixture::rank()));
    world.barrier()?;
    fixture::say(&format!("rank {} is through", fixture::rank()));
    Ok(())
}
