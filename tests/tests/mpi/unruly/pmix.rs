//! Programs of Open MPI's that do to their PMIx server what no library does.

use efarun_tests::{Need, Running, Testbed, require};

use super::{AT_ONCE, Bystander, Gates, end_with};
use crate::support::{Library, Program, on};

/// What rank 2 does, by `unruly.c`, the launcher's code, and what it says.
type Case = (&'static str, i32, &'static str);

const CASES: [Case; 6] = [
    ("leave", 1, "rank 2 on h2 ended with code 0 after MPI_Init and without MPI_Finalize"),
    ("die", 137, "rank 2 on h2 was killed by signal 9 (SIGKILL)"),
    ("die-within", 137, "rank 2 on h2 was killed by signal 9 (SIGKILL)"),
    // libpmix reads a stranger's first words before it does anything else.
    ("announce", 1, "on h2 has no answer from its PMIx server, in which libpmix has stood still for 10 s"),
    ("nonsense", 3, "rank 2 on h2 exited with code 3"),
    ("asks", 3, "a rank called PMIx_Allocation_request, which is not served here"),
];
const PUTS_ON: Case = ("puts", 1, "h2 has lost its PMIx server");
/// Open MPI 4's libpmix takes no message of more than 16 MiB: it lets go of who sends one.
const PUTS_TOO_MUCH: Case = ("puts-leave", 3, "rank 2 on h2 exited with code 3");

fn unruly_ranks_end_their_own_jobs(library: Library, last: Case) {
    require!(library.need(), Need::Testbed);
    let testbed = Testbed::up(2);
    let program = Program::of_source("unruly.c", library);
    let job = |hosts: &str, args: &[&str]| {
        let options = ["-H", hosts, "-x", "EFARUN_PMIX_MEMORY_MB=64"];
        program.job(on(&testbed, &options), args).beside_others()
    };
    let gates = Gates::new();
    let folder = gates.folder().display().to_string();
    let bystander = Bystander::start(job("h1:1,h2:1", &["gate", &folder]), gates);
    // Some at once: what some do not do is waited for.
    for cases in [&CASES[..], &[last]].concat().chunks(AT_ONCE) {
        let start = |(mode, ..): &Case| job("h1:2,h2:2", &[mode, "2"]).start();
        let jobs: Vec<Running> = cases.iter().map(start).collect();
        end_with(jobs, cases.iter().map(|(_, code, sentence)| (*code, *sentence)));
    }
    bystander.ends_well(&testbed);
}

#[test]
fn a_rank_that_breaks_open_mpi_5s_pmix_ends_its_own_job_with_a_sentence() {
    unruly_ranks_end_their_own_jobs(Library::OpenMpi5, PUTS_ON);
}

#[test]
fn a_rank_that_breaks_open_mpi_4s_pmix_ends_its_own_job_with_a_sentence() {
    unruly_ranks_end_their_own_jobs(Library::OpenMpi4, PUTS_TOO_MUCH);
}
