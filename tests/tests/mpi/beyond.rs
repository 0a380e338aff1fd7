//! What ranks of Open MPI's say to all nodes by PMIx beside fences: events, questions, groups; and MPI sessions, which need
//! groups.

use efarun_tests::{Need, Testbed, require};

use crate::support::{Library, OF_OPEN_MPI, Program, on};

/// What four ranks on these hosts say, in order.
fn said(testbed: &Testbed, hosts: &str, program: &Program, args: &[&str], notes: &[&str]) -> Vec<String> {
    let outcome = program.job(on(testbed, &["-H", hosts, "-n", "4"]), args).run();
    outcome.assert_code(0).assert_says(notes);
    let mut lines: Vec<String> = outcome.stdout().lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// Two ranks on each of two hosts.
const SPLIT: &str = "h1:2,h2:2";
/// What only concerns one host goes another way in libpmix.
const TOGETHER: &str = "h1:4";

#[test]
fn an_event_that_a_rank_tells_of_is_heard_on_every_node_by_those_it_is_for() {
    require!(Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(2);
    for library in OF_OPEN_MPI {
        let program = Program::of_source("beyond.c", library);
        let heard = ["rank 1: one from 0 three from 0", "rank 2: one from 0 three from 0"];
        let last = "rank 3: one from 0 two from 0 three from 0";
        assert_eq!(
            said(&testbed, SPLIT, &program, &["events"], &[]),
            [heard[0], heard[1], last],
            "{library:?}"
        );
    }
}

#[test]
fn a_rank_is_told_of_name_spaces_and_what_else_it_asks_for_is_named() {
    require!(Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(2);
    for library in OF_OPEN_MPI {
        let program = Program::of_source("beyond.c", library);
        let note = "a rank called PMIx_Query_info for pmix.qry.ptable, which is not served here";
        let told = |rank: u32| format!("rank {rank}: name spaces 0, own 1, process table -47");
        assert_eq!(
            said(&testbed, SPLIT, &program, &["query"], &[note]),
            [0, 1, 2, 3].map(told),
            "{library:?}"
        );
    }
}

#[test]
fn ranks_of_several_nodes_make_groups_each_with_a_number_of_its_own() {
    require!(Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(2);
    let program = Program::of_source("beyond.c", Library::OpenMpi5);
    let made = |rank: u32| format!("rank {rank}: same 1, other 1, none 0");
    for hosts in [SPLIT, TOGETHER] {
        assert_eq!(said(&testbed, hosts, &program, &["group"], &[]), [0, 1, 2, 3].map(made), "{hosts}");
    }
}

#[test]
fn sessions_of_open_mpi_make_communicators_of_ranks_on_several_nodes() {
    require!(Need::OpenMpi, Need::Testbed);
    let testbed = Testbed::up(2);
    let program = Program::of_source("sessions.c", Library::OpenMpi5);
    let right = |rank: u32| format!("rank {rank} of 4, 0 wrong");
    // Whether a second one can be opened is up to Open MPI: see the program.
    for hosts in [SPLIT, TOGETHER] {
        assert_eq!(said(&testbed, hosts, &program, &["one"], &[]), [0, 1, 2, 3].map(right), "{hosts}");
    }
}
