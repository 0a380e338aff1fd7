//! Sums a buffer over all ranks and checks every element of the result.
//!
//! ```text
//! efarun -n 4 all_reduce             ends with a line per rank and exit code 0
//! all_reduce                         a world of one: the sum is what went in
//! ```
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

use std::process::ExitCode;

use efarun_rt::{Error, ReduceOp, World};

fn main() -> ExitCode {
    match sum_and_check() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether the result was right.
fn sum_and_check() -> Result<bool, Error> {
    let mut world = World::init()?;
    let (rank, world_size) = (world.rank(), world.world_size());

    // Small whole numbers: their sums are exact in f32, so that the check below needs no tolerance.
    let mut data: Vec<f32> = (0..COUNT).map(|index| (rank.0 as usize + index % 7) as f32).collect();

    // The collective. Every rank must call it with the same count, type and operation; a rank that does not is
    // named in the error that all the others get. Afterwards every rank has the sum in its own buffer.
    world.all_reduce(&mut data, ReduceOp::Sum)?;

    // rank 0 + rank 1 + … + the last, and as many times the rest.
    let ranks = world_size as usize;
    let expected = |index: usize| (ranks * (ranks - 1) / 2 + ranks * (index % 7)) as f32;
    let wrong = data.iter().enumerate().filter(|(index, value)| **value != expected(*index)).count();
    if wrong == 0 {
        println!("rank {rank} of {world_size}: the sum of {COUNT} elements is right");
    } else {
        eprintln!("error: rank {rank} of {world_size}: {wrong} of {COUNT} elements are wrong");
    }

    // Closing waits for all ranks, so that nobody leaves while its last message is on its way.
    world.close()?;
    Ok(wrong == 0)
}

/// 4 MiB of f32.
const COUNT: usize = 1 << 20;
