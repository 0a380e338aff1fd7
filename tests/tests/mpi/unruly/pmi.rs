//! Shells that speak PMI-1 and PMI-2, and then write what they like to descriptor 4.

use std::path::Path;
use std::time::Duration;

use efarun_tests::{Job, Need, Running, Testbed, program, require};

use super::{AT_ONCE, Bystander, Gates, end_with};

/// A version of PMI, as functions of a shell. `init` and `say` wait for answers, `ask` does not.
struct Dialect {
    shell: &'static str,
    options: &'static [&'static str],
    functions: &'static str,
    barrier: &'static str,
    finalize: &'static str,
}

const PMI_1: Dialect = Dialect {
    shell: "sh",
    options: &[],
    functions: "
        ask() { echo \"$1\" >&4; }
        say() { ask \"$1\"; read answer <&4; }
        init() { say 'cmd=init pmi_version=1 pmi_subversion=1'; }",
    barrier: "cmd=barrier_in",
    finalize: "cmd=finalize",
};

/// Over a connection to the port, which only some shells can make.
const PMI_1_BY_PORT: Dialect = Dialect {
    shell: "bash",
    options: &["-x", "EFARUN_PMI_PORT=1"],
    functions: "
        connect() { exec 4<>/dev/tcp/${PMI_PORT%:*}/${PMI_PORT#*:}; }
        ask() { echo \"$1\" >&4; }
        say() { ask \"$1\"; read answer <&4; }
        init() {
            connect; say cmd=initack\\ pmiid=$PMI_ID; read size <&4; read rank <&4; read debug <&4
            [ \"$answer $size $rank\" = \"cmd=initack rc=0 cmd=set size=$PMI_SIZE cmd=set rank=$PMI_RANK\" ] || exit 9
            say 'cmd=init pmi_version=1 pmi_subversion=1'
        }",
    barrier: "cmd=barrier_in",
    finalize: "cmd=finalize",
};

const PMI_2: Dialect = Dialect {
    shell: "sh",
    options: &[],
    functions: "
        ask() { printf '%6d%s' ${#1} \"$1\" >&4; }
        say() { ask \"$1\"; length=$(head -c 6 <&4); answer=$(head -c $length <&4); }
        init() { echo 'cmd=init pmi_version=2 pmi_subversion=0' >&4; read answer <&4; say 'cmd=fullinit;'; }",
    barrier: "cmd=kvs-fence;",
    finalize: "cmd=finalize;",
};

/// What a rank does, the launcher's code, and what it says.
type Case = (&'static str, i32, &'static str);

impl Dialect {
    /// A job whose ranks are shells that run this script.
    fn job<'a>(&self, testbed: &'a Testbed, hosts: &str, script: &str) -> Job<'a> {
        let Dialect { functions, barrier, finalize, .. } = self;
        let ways = format!("barrier() {{ say '{barrier}'; }}; finalize() {{ say '{finalize}'; }}");
        let script = format!("{functions}\n{ways}; init; {script}");
        Job::on(testbed, program!("efarun-under-test"))
            .options(["-H", hosts])
            .options(self.options)
            .program(Path::new(self.shell), ["-c", &script])
            .deadline(Duration::from_secs(120))
            .beside_others()
    }

    /// Runs each of these as rank 2 of a job of its own, with two ranks on each of two hosts. The others enter three barriers:
    /// two that rank 2 enters too, before it dies, may be over before its death is seen.
    fn ends_its_own_job(&self, cases: &[Case]) {
        let testbed = Testbed::up(2);
        let gates = Gates::new();
        let gate = gates.folder().display();
        let waiting =
            format!("barrier; echo there; read go <{gate}/$PMI_RANK; barrier; finalize; echo through");
        let bystander = Bystander::start(self.job(&testbed, "h1,h2", &waiting), gates);
        let start = |script: &str| {
            let script = format!("if [ $PMI_RANK = 2 ]; then {script}; else barrier; barrier; barrier; fi");
            self.job(&testbed, "h1:2,h2:2", &script).start()
        };
        // Some at once: what some do not do is waited for.
        for cases in cases.chunks(AT_ONCE) {
            let jobs: Vec<Running> = cases.iter().map(|(script, ..)| start(script)).collect();
            let outcomes = end_with(jobs, cases.iter().map(|(_, code, sentence)| (*code, *sentence)));
            for outcome in outcomes {
                let notes = outcome.stderr().matches("which is not served").count();
                assert!(notes <= 16, "{}", outcome.shown());
            }
        }
        bystander.ends_well(&testbed);
    }
}

#[test]
fn a_rank_that_breaks_pmi_1_ends_its_own_job_with_a_sentence() {
    require!(Need::Testbed);
    PMI_1.ends_its_own_job(&[
        ("echo nonsense >&4; sleep 100", 1, "rank 2 on h2 sent `nonsense` where a PMI message belongs"),
        ("yes | tr -d '\\n' >&4; sleep 100", 1, "rank 2 on h2 sent a PMI message of more than 65536 bytes"),
        (
            "printf cmd=barr >&4; sleep 100",
            1,
            "rank 2 on h2 sent the beginning of a PMI message and then nothing for 10 s",
        ),
        (
            "yes cmd=get_maxes >&4; sleep 100",
            1,
            "rank 2 on h2 asked its PMI server on and on and read none of its answers for 10 s",
        ),
        (
            "cat <&4 >/dev/null & seq -f 'cmd=put kvsname=x key=k%.0f value=v' 50000 >&4; exit 3",
            3,
            "rank 2 on h2 exited with code 3",
        ),
        ("cat <&4 >/dev/null & seq -f cmd=fly%.0f 50000 >&4; exit 3", 3, "asked PMI for `fly1`"),
        ("ask cmd=barrier_in; kill -9 $$", 137, "rank 2 on h2 was killed by signal 9 (SIGKILL)"),
        ("kill -9 $$", 137, "rank 2 on h2 was killed by signal 9 (SIGKILL)"),
        ("exit 0", 1, "rank 2 on h2 ended with code 0 after MPI_Init and without MPI_Finalize"),
        ("exec 4>&-; sleep 100", 1, "rank 2 on h2 closed its PMI socket before MPI_Finalize"),
        (
            "ask 'cmd=abort exitcode=9 message=out\\ of\\ luck'; sleep 100",
            9,
            "rank 2 on h2 aborted the job with code 9: out of luck",
        ),
    ]);
}

#[test]
fn a_rank_that_breaks_pmi_2_ends_its_own_job_with_a_sentence() {
    require!(Need::Testbed);
    PMI_2.ends_its_own_job(&[
        ("printf nonsense >&4; sleep 100", 1, "rank 2 on h2 sent `nonsense` where a PMI message belongs"),
        ("printf 999999cmd= >&4; sleep 100", 1, "rank 2 on h2 sent a PMI message of more than 65536 bytes"),
        (
            "printf '  1000cmd=kvs-fence;' >&4; sleep 100",
            1,
            "rank 2 on h2 sent the beginning of a PMI message and then nothing for 10 s",
        ),
        (
            "yes '    14cmd=job-getid;' | tr -d '\\n' >&4; sleep 100",
            1,
            "rank 2 on h2 asked its PMI server on and on and read none of its answers for 10 s",
        ),
        (
            "cat <&4 >/dev/null & seq -f '    32cmd=kvs-put;key=k%06.0f;value=v;' 50000 | tr -d '\\n' >&4; exit 3",
            3,
            "rank 2 on h2 exited with code 3",
        ),
        (
            "cat <&4 >/dev/null & seq -f '    14cmd=fly%06.0f;' 50000 | tr -d '\\n' >&4; exit 3",
            3,
            "asked PMI for `fly000001`",
        ),
        ("ask 'cmd=kvs-fence;'; kill -9 $$", 137, "rank 2 on h2 was killed by signal 9 (SIGKILL)"),
        ("kill -9 $$", 137, "rank 2 on h2 was killed by signal 9 (SIGKILL)"),
        ("exit 0", 1, "rank 2 on h2 ended with code 0 after MPI_Init and without MPI_Finalize"),
        ("ask 'cmd=fullinit;'; sleep 100", 1, "rank 2 on h2 sent the PMI message `fullinit` a second time"),
        ("exec 4>&-; sleep 100", 1, "rank 2 on h2 closed its PMI socket before MPI_Finalize"),
        (
            "ask 'cmd=abort;exitcode=9;msg=out of luck;'; sleep 100",
            9,
            "rank 2 on h2 aborted the job with code 9: out of luck",
        ),
    ]);
}

#[test]
fn a_rank_or_a_stranger_at_the_port_of_pmi_harms_no_other_job() {
    require!(Need::Testbed);
    PMI_1_BY_PORT.ends_its_own_job(&[
        ("echo nonsense >&4; sleep 100", 1, "rank 2 on h2 sent `nonsense` where a PMI message belongs"),
        ("kill -9 $$", 137, "rank 2 on h2 was killed by signal 9 (SIGKILL)"),
        ("exec 4>&-; sleep 100", 1, "rank 2 on h2 closed its PMI socket before MPI_Finalize"),
        (
            "ask 'cmd=abort exitcode=9 message=out\\ of\\ luck'; sleep 100",
            9,
            "rank 2 on h2 aborted the job with code 9: out of luck",
        ),
        // Wrong numbers, nonsense and no word at all, more at a time than are let be; then the job goes on to its end. When all ranks
        // have come: one that comes amid them may be turned away.
        (
            "barrier; exec 5>&4; for i in $(seq 100); do connect; eval \"exec $((i + 10))>&4\"; done
             connect; ask cmd=initack\\ pmiid=1; read answer <&4 && exit 7
             connect; ask nonsense; read answer <&4 && exit 8
             exec 4<&5; barrier; exit 3",
            3,
            "somebody came to PMI_PORT with a PMI_ID that no rank has, or with none",
        ),
        // Its own number, while it is there.
        (
            "exec 5>&4; connect; ask cmd=initack\\ pmiid=$PMI_ID; exec 4<&5; barrier; exit 4",
            4,
            "rank 2 on h2 exited with code 4",
        ),
    ]);
}
