//! Says hello from every rank: who it is, where it runs, how it reaches the others.
//!
//! ```text
//! efarun -n 4 hello                  four ranks on this machine
//! efarun -H node1:2,node2:2 hello    two ranks on each of two hosts
//! hello                              a world of one: nothing needed
//! ```
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program talks to its user")]

use std::process::ExitCode;

use efarun_rt::{Error, World};

fn main() -> ExitCode {
    match hello() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn hello() -> Result<(), Error> {
    // Every rank runs this program from its first line; here they find each other. `init` returns on all ranks
    // once all have called it, or on all with an error that names the rank that did not.
    let mut world = World::init()?;

    // One line per rank, printed at once, so that the ranks' lines do not mix.
    let transports: Vec<String> = world.transport_report().iter().map(ToString::to_string).collect();
    println!(
        "hello from rank {} of {}, local rank {} on {} (node {} of {}), by {}",
        world.rank(),
        world.world_size(),
        world.local_rank(),
        world.topology().hostname(world.rank()),
        world.topology().node_rank(world.rank()),
        world.node_count(),
        if transports.is_empty() {
            "nothing: nobody else is here".to_owned()
        } else {
            transports.join(" and ")
        },
    );

    // Nobody gets past this line before all have come to it.
    world.barrier()?;

    // Dropping the World would do as well; `close` waits for late ranks, and says what went wrong.
    world.close()
}
