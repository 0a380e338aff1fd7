//! PMI over a port of the node's loopback interface (PMI_PORT) instead of a descriptor.

use efarun_tests::{Need, Testbed, require};

use crate::support::{Library, Program, here, on, one_world};

/// Asks for it.
const BY_PORT: [&str; 2] = ["-x", "EFARUN_PMI_PORT=1"];

fn forms_one_world_by_port(library: Library) {
    require!(library.need(), Need::Testbed);
    let program = Program::of(library);
    let testbed = Testbed::up(2);
    // One program after the other in a rank, each with a connection of its own.
    let script =
        format!("[ -z \"$PMI_FD\" ] && [ -n \"$PMI_PORT\" ] && {0} 2 && {0} 2", program.path().display());
    let job = library.job(on(&testbed, &["-H", "h1:2,h2:1"]).options(BY_PORT));
    let outcome = job.program("sh".as_ref(), ["-c", &script]).run();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout(), one_world(3, 2).repeat(2), "{}", outcome.shown());

    let outcome =
        program.job(on(&testbed, &["-H", "h1:2,h2:1"]).options(BY_PORT), &["2", "abort", "2", "7"]).run();
    outcome.assert_code(7).assert_says(&["rank 2 on h2 aborted the job with code 7: "]);
    assert_eq!(testbed.guests(), [], "{}", outcome.shown());
}

#[test]
fn mpich_forms_one_world_by_port() {
    forms_one_world_by_port(Library::Mpich);
}

#[test]
fn intel_mpi_forms_one_world_by_port() {
    forms_one_world_by_port(Library::Intel);
}

#[test]
fn mpichs_option_for_a_port_is_acted_on() {
    require!(Need::Mpich);
    let script = "[ -n \"$PMI_PORT\" ] && [ -z \"$PMI_FD\" ] && echo by port";
    let job = here(&["-pmi-port", "-n", "2", "--oversubscribe"]);
    let outcome = job.program("sh".as_ref(), ["-c", script]).run();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout(), "by port\n".repeat(2), "{}", outcome.shown());
}
