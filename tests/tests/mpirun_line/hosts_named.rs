//! Which hosts a job has, by whatever grammar or variable they are named.

use std::time::Duration;

use efarun_tests::{Job, Need, Testbed, is_full_matrix, program, require};

use super::{NO_ARGS, echoes, hosts, on, words};

fn ran_on(job: Job<'_>) -> String {
    let outcome = job.program(program!("rank_echo"), NO_ARGS).run();
    hosts(&echoes(&outcome)).join(" ")
}

#[test]
fn ranges_and_carets_choose_hosts() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    assert_eq!(ran_on(on(&testbed).options(words("-H h[1-3]"))), "h1 h2 h3");
    assert_eq!(ran_on(on(&testbed).options(words("-H h[1,3]:2,^h1"))), "h3 h3");
    let hostfile = testbed.hostfile_of("h[1-3] slots=1 // all\n^h2\n".to_owned());
    let with_file = || on(&testbed).options(["--hostfile".as_ref(), hostfile.as_os_str()]);
    assert_eq!(ran_on(with_file()), "h1 h3");
    assert_eq!(ran_on(with_file().options(words("-H ^h1"))), "h3");
}

#[test]
fn hosts_that_other_launchers_variables_name_are_used_and_that_is_said() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let hostfile = testbed.hostfile_of("h2:2\n".to_owned());
    for variable in
        ["HYDRA_HOST_FILE", "I_MPI_HYDRA_HOST_FILE", "PBS_NODEFILE", "PRTE_MCA_prte_default_hostfile"]
    {
        let outcome = on(&testbed).env(variable, &hostfile).program(program!("rank_echo"), NO_ARGS).run();
        assert_eq!(hosts(&echoes(&outcome)), ["h2", "h2"], "{variable}");
        outcome.assert_says(&[&format!("which {variable} names")]);
    }
    let slurm = |tasks: &str| {
        let job = on(&testbed).env("SLURM_JOB_NODELIST", "h[1-2]").env("SLURM_TASKS_PER_NODE", tasks);
        job.program(program!("rank_echo"), NO_ARGS).run()
    };
    let outcome = slurm("1,2");
    assert_eq!(hosts(&echoes(&outcome)), ["h1", "h2", "h2"]);
    outcome.assert_says(&["the hosts are those of SLURM_JOB_NODELIST"]);
    assert_eq!(hosts(&echoes(&slurm("2(x2)"))), ["h1", "h1", "h2", "h2"]);
}

#[test]
fn names_and_addresses_of_hosts_may_differ() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let [first, second] = ["h1", "h2"].map(|host| testbed.host(host).address.clone());
    // Names that lead nowhere; the second with the name last.
    let hostfile = testbed.hostfile_of(format!("big ip={first} slots=1\n{second} alias=small slots=1\n"));
    let with_file = || {
        let job = on(&testbed).deadline(Duration::from_secs(120));
        job.options(["--hostfile".as_ref(), hostfile.as_os_str()])
    };
    assert_eq!(ran_on(with_file()), "h1 h2");
    assert_eq!(ran_on(with_file().options(words("-H small"))), "h2", "it is called by its name");
    let ssh = format!("ssh -F {}", testbed.folder().join("ssh_config").display());
    assert_eq!(ran_on(with_file().options(["--launch-agent", &ssh])), "h1 h2");
    let failing = with_file().program(program!("rank_exit"), ["1", "4"]).run();
    failing.assert_code(4).assert_says(&["rank 1 on small"]);
}

#[test]
fn hosts_whose_names_differ_behind_the_first_dot_are_two() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let append = |path: &std::path::Path, old: &str, new: &str| {
        let text = std::fs::read_to_string(path).expect("it is the testbed's");
        // In place: other names of the file are mounted elsewhere.
        std::fs::write(path, format!("{text}{}", text.replace(old, new))).expect("it is the testbed's");
    };
    let names = testbed.folder().join("hosts");
    append(&names, " h1\n", " w.one.test\n");
    append(&names, " h2\n", " w.two.test\n");
    let known = testbed.home().join(".ssh/known_hosts");
    append(&known, "h1,10.88.0.1 ", "w.one.test ");
    append(&known, "h2,10.88.0.2 ", "w.two.test ");
    assert_eq!(ran_on(on(&testbed).options(words("-H w.one.test,w.two.test"))), "h1 h2");
    let hostfile = testbed.hostfile_of("w.two.test slots=1\nw.one.test slots=2\n".to_owned());
    assert_eq!(ran_on(on(&testbed).options(["--hostfile".as_ref(), hostfile.as_os_str()])), "h2 h1 h1");
}

#[test]
fn many_hosts_are_one_job() {
    require!(Need::Testbed);
    // Making them takes most of a minute.
    let count = if is_full_matrix() { 64 } else { 12 };
    let testbed = Testbed::up(count);
    let hosts = format!("h[1-{count}]:2");
    let job = || on(&testbed).deadline(Duration::from_secs(120)).options(["-H", &hosts]);
    job().program(program!("rank_barrier"), NO_ARGS).run().assert_code(0);
    let last = (2 * count - 1).to_string();
    let outcome = job().program(program!("rank_exit"), [last.as_str(), "6"]).run();
    outcome.assert_code(6).assert_says(&[
        &format!("rank {last} on h{count}"),
        &format!("{0}/{0} ranks reaped, {count}/{count} agents gone", 2 * count),
    ]);
}
