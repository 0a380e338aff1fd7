//! mpi4py with each library, in an environment of its own: what a Python comes to cannot be seen before it runs.

use efarun_tests::{Need, Testbed, is_full_matrix, require};

use crate::support::{Library, on, one_world};

fn mpi4py_forms_one_world(library: Library) {
    require!(library.need(), Need::Mpi4py, Need::Testbed);
    let testbed = Testbed::up(2);
    let run = |hosts: &str, args: &[&str]| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mpi/world.py");
        let args = [&[script], args].concat();
        library.job(on(&testbed, &["-H", hosts])).program(&library.python(), args).run()
    };
    let placements: [(&str, u32, u32); 3] = [("h1:1,h2:2", 3, 2), ("h1:3", 3, 1), ("h1:5,h2:3", 8, 2)];
    for (hosts, ranks, nodes) in &placements[..if is_full_matrix() { 3 } else { 1 }] {
        let outcome = run(hosts, &[&nodes.to_string()]);
        outcome.assert_code(0);
        assert_eq!(outcome.stdout(), one_world(*ranks, *nodes), "{}", outcome.shown());
    }
    if is_full_matrix() {
        let outcome = run("h1:1,h2:2", &["2", "abort", "1", "7"]);
        outcome.assert_code(7).assert_says(&["rank 1 on h2 aborted the job with code 7"]);
    }
    assert_eq!(testbed.guests(), []);
}

#[test]
fn mpi4py_with_mpich_forms_one_world() {
    mpi4py_forms_one_world(Library::Mpich);
}

#[test]
fn mpi4py_with_intel_mpi_forms_one_world() {
    mpi4py_forms_one_world(Library::Intel);
}

#[test]
fn mpi4py_with_open_mpi_5_forms_one_world() {
    mpi4py_forms_one_world(Library::OpenMpi5);
}

#[test]
fn mpi4py_with_open_mpi_4_forms_one_world() {
    mpi4py_forms_one_world(Library::OpenMpi4);
}

#[test]
fn mpi4py_with_open_mpi_of_the_distribution_forms_one_world() {
    mpi4py_forms_one_world(Library::SystemOpenMpi);
}
