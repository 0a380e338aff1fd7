//! That the programs of each library form one world, however their ranks are placed.

use efarun_tests::{Need, Testbed, is_full_matrix, require, skip_part};

use crate::support::{Library, Program, here, on, one_world};

/// Hosts, ranks and nodes.
type Placement = (&'static [&'static str], u32, u32);

const UNEVEN: Placement = (&["-H", "h1:1,h2:2"], 3, 2);
const MORE: [Placement; 3] = [
    (&["-H", "h1:1,h2:1,h3:1,h4:1"], 4, 4),
    (&["-H", "h1:2,h2:2,h3:2,h4:2", "--map-by", "node"], 8, 4),
    (&["-H", "h1:5,h2:3"], 8, 2),
];
/// Open MPI's ranks then ask for one another's addresses when they first need them; the others do not read it.
const ASKED_ON_DEMAND: &str = "OMPI_MCA_pmix_base_async_modex=1";
const ON_DEMAND: Placement = (&["-H", "h1:2,h2:1", "-x", ASKED_ON_DEMAND], 3, 2);

/// The ranks of most libraries spin while they wait, which takes long where there are more of them than cores: these are
/// for the full matrix, in which every world sends 64 MiB from each rank.
fn placements(program: &Program) -> Vec<Placement> {
    let mut placements = vec![UNEVEN];
    if is_full_matrix() {
        placements.extend(MORE);
        match program.starts_by_its_own_mpirun(ASKED_ON_DEMAND) {
            true => placements.push(ON_DEMAND),
            // Debian's 4.1.4 over PMIx 4.2.2: "PML add procs failed", "Not found".
            false => skip_part(&format!("this Open MPI's own mpirun does not start with {ASKED_ON_DEMAND}")),
        }
    }
    placements
}

fn forms_one_world(library: Library) {
    require!(library.need());
    let program = Program::of(library);
    let outcome = program.job(here(&["-n", "3"]), &["1", "large"]).run();
    outcome.assert_code(0);
    assert_eq!(outcome.stdout(), one_world(3, 1), "{}", outcome.shown());

    require!(Need::Testbed);
    let testbed = Testbed::up(4);
    let size = if is_full_matrix() { "large" } else { "names" };
    for (options, ranks, nodes) in placements(&program) {
        let outcome = program.job(on(&testbed, options), &[&nodes.to_string(), size]).run();
        outcome.assert_code(0);
        assert_eq!(outcome.stdout(), one_world(ranks, nodes), "{}", outcome.shown());
        assert_eq!(testbed.guests(), [], "{}", outcome.shown());
    }
}

#[test]
fn mpich_forms_one_world() {
    forms_one_world(Library::Mpich);
}

#[test]
fn intel_mpi_forms_one_world() {
    forms_one_world(Library::Intel);
}

#[test]
fn open_mpi_5_forms_one_world() {
    forms_one_world(Library::OpenMpi5);
}

#[test]
fn open_mpi_4_forms_one_world() {
    forms_one_world(Library::OpenMpi4);
}

#[test]
fn open_mpi_of_the_distribution_forms_one_world() {
    forms_one_world(Library::SystemOpenMpi);
}

#[test]
fn mpich_forms_one_world_on_several_hosts_however_ranks_are_placed() {
    require!(Need::Mpich, Need::Testbed);
    let program = Program::of(Library::Mpich);
    let testbed = Testbed::up(4);
    let placements: [Placement; 4] = [
        (&["-H", "h1:2,h2:2"], 4, 2),
        (&["-H", "h1:5,h2:3"], 8, 2),
        (&["-H", "h1:2,h2:2,h3:2,h4:2", "--map-by", "node"], 8, 4),
        (&["-H", "h1:1,h2:3,h3:2,h4:1"], 7, 4),
    ];
    for (options, ranks, nodes) in placements {
        let outcome = program.job(on(&testbed, options), &[&nodes.to_string(), "names"]).run();
        outcome.assert_code(0);
        assert_eq!(outcome.stdout(), one_world(ranks, nodes), "{}", outcome.shown());
    }
    assert_eq!(testbed.guests(), []);
}
