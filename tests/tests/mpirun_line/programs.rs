//! What a program is, where it is looked for, what it is given, and several of them in one job.

use std::os::unix::fs::symlink;

use efarun_tests::{Job, Need, Testbed, program, require};

use super::{NO_ARGS, echoes, here, hosts, on, words};

#[test]
fn programs_between_colons_are_ranks_of_one_world() {
    let echo = program!("rank_echo");
    let second = [":", "-n", "2", "-x", "COLOR=blue", "--wdir", "/usr", echo.to_str().unwrap(), "two", "b"];
    let outcome =
        here().options(words("-n 1 -x COLOR=red")).program(echo, ["one"].iter().chain(&second)).run();
    let echoes = echoes(&outcome);
    let args: Vec<Vec<_>> = echoes.iter().map(|echo| echo.args()).collect();
    assert_eq!(args, [vec!["one"], vec!["two", "b"], vec!["two", "b"]]);
    let colors: Vec<_> = echoes.iter().map(|echo| echo.text("COLOR")).collect();
    assert_eq!(colors, ["red", "blue", "blue"]);
    assert_eq!(echoes[1].wdir, "/usr");
    for echo in &echoes {
        assert_eq!((echo.text("WORLD_SIZE"), echo.text("LOCAL_WORLD_SIZE")), ("3", "3"));
        assert_eq!(echo.text("OMPI_APP_CTX_NUM_PROCS"), "1 2");
        assert_eq!(echo.text("OMPI_FIRST_RANKS"), "0 1");
    }
}

#[test]
fn a_colon_behind_two_dashes_is_an_argument() {
    let echo = program!("rank_echo");
    let outcome = here().options(words("-n 1 --")).program(echo, ["a", ":", "b"]).run();
    assert_eq!(echoes(&outcome)[0].args(), ["a", ":", "b"]);
}

#[test]
fn programs_from_a_file_are_ranks_of_one_world() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("apps");
    let echo = program!("rank_echo").display();
    std::fs::write(&file, format!("# two\n-n 1 {echo} 'one word'\n-n 1 -x A=1 {echo}\n")).unwrap();
    let outcome = here().options(["--app".as_ref(), file.as_os_str()]).run();
    let echoes = echoes(&outcome);
    assert_eq!(echoes[0].args(), ["one word"]);
    assert_eq!((echoes[0].var("A"), echoes[1].text("A")), (None, "1"));
}

#[test]
fn the_first_program_that_fails_ends_all_of_them() {
    let hang = program!("rank_hang").to_str().unwrap();
    let exit = program!("rank_exit");
    let outcome = here().options(words("-n 1")).program(exit, ["0", "5", ":", "-n", "2", hang]).run();
    outcome.assert_code(5).assert_says(&["rank 0"]);
}

#[test]
fn prefix_is_where_programs_and_libraries_are_found_first() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().canonicalize().unwrap();
    std::fs::create_dir(prefix.join("bin")).unwrap();
    symlink(program!("rank_echo"), prefix.join("bin/only-in-the-prefix")).unwrap();
    let outcome = here()
        .options(["-n", "1", "-x", "LD_LIBRARY_PATH=/asked", "--prefix", prefix.to_str().unwrap()])
        .program("only-in-the-prefix".as_ref(), NO_ARGS)
        .run();
    let echo = &echoes(&outcome)[0];
    let prefix = prefix.display();
    assert!(echo.text("PATH").starts_with(&format!("{prefix}/bin:")), "{}", echo.text("PATH"));
    assert!(echo.text("LD_LIBRARY_PATH").starts_with(&format!("{prefix}/lib:/asked")));
}

#[test]
fn path_is_where_the_program_is_looked_for_and_is_not_the_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    symlink(program!("rank_echo"), path.join("only-in-the-path")).unwrap();
    let search = format!("/no/such/folder:{}", path.display());
    let outcome =
        here().options(["-n", "1", "--path", &search]).program("only-in-the-path".as_ref(), NO_ARGS).run();
    assert!(!echoes(&outcome)[0].text("PATH").contains(path.to_str().unwrap()));
    here().options(["-n", "1"]).program("only-in-the-path".as_ref(), NO_ARGS).run().assert_code(127);
}

#[test]
fn parameters_reach_ranks_and_the_launchers_own_are_acted_on() {
    let outcome = here()
        .options(words("-n 1 --mca btl tcp,self -mca orte_tag_output 1 --mca plm_rsh_agnet x --pmixmca a b"))
        .program("/bin/sh".as_ref(), ["-c", "echo $OMPI_MCA_btl $PMIX_MCA_a"])
        .run();
    outcome.assert_code(0).assert_says(&["plm_rsh_agnet", "did you mean `plm_rsh_agent`?"]);
    assert_eq!(outcome.stdout(), "[1,0]<stdout>:tcp,self b\n");
}

#[test]
fn hosts_may_come_from_open_mpis_environment() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let hostfile = testbed.hostfile_of("h1\nh2\n".to_owned());
    let job = || {
        on(&testbed).env("OMPI_MCA_orte_default_hostfile", &hostfile).program(program!("rank_echo"), NO_ARGS)
    };
    let outcome = job().env("OMPI_MCA_orte_set_default_slots", "2").run();
    assert_eq!(hosts(&echoes(&outcome)), ["h1", "h1", "h2", "h2"]);
    assert_eq!(hosts(&echoes(&job().options(words("--default-slots 1")).run())), ["h1", "h2"]);
}

#[test]
fn ssh_arguments_are_sshs() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let arguments = format!("-F {}", testbed.folder().join("ssh_config").display());
    let job = |arguments: &str| {
        let options = ["-H", "h1", "--mca", "plm_rsh_args", arguments];
        on(&testbed).options(options).program(program!("rank_echo"), NO_ARGS).run()
    };
    assert_eq!(hosts(&echoes(&job(&arguments))), ["h1"]);
    job("-F /no/such/file").assert_code(69);
}

#[test]
fn programs_run_on_their_own_hosts_and_hosts_without_ranks_are_no_nodes() {
    require!(Need::Testbed);
    let testbed = Testbed::up(3);
    let echo = program!("rank_echo");
    let hostfile = testbed.hostfile(2);
    let second = [":", "-n", "1", "-H", "h3", echo.to_str().unwrap()];
    let outcome = on(&testbed)
        .options(["--hostfile".as_ref(), hostfile.as_os_str()])
        .options(words("-n 1 -H h1"))
        .program(echo, second)
        .run();
    let echoes = echoes(&outcome);
    assert_eq!(hosts(&echoes), ["h1", "h3"]);
    let numbers: Vec<_> =
        echoes.iter().map(|echo| (echo.text("EFARUN_NODE_RANK"), echo.text("EFARUN_NODE_COUNT"))).collect();
    assert_eq!(numbers, [("0", "2"), ("1", "2")]);
}

#[test]
fn ranks_of_several_programs_on_shared_hosts_meet() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let barrier = program!("rank_barrier");
    let second = [":", "-n", "2", "-H", "h1,h2", barrier.to_str().unwrap()];
    let outcome = on(&testbed).options(words("-n 2 -H h2,h1")).program(barrier, second).run();
    outcome.assert_code(0);
}

#[test]
fn nolocal_leaves_this_machine_out() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let job = |hosts: &str| {
        on(&testbed).options(["--nolocal", "-H", hosts]).program(program!("rank_echo"), NO_ARGS).run()
    };
    assert_eq!(hosts(&echoes(&job("localhost:2,h1"))), ["h1"]);
    job("localhost").assert_code(65).assert_says(&["--nolocal leaves no host"]);
}

#[test]
fn installed_as_mpirun_or_mpiexec_it_has_no_subcommands_and_takes_their_options() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("hosts");
    std::fs::write(&program, "#!/bin/sh\necho \"$A $B\"\n").unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("PATH={}:/usr/bin:/bin", folder.path().display());
    for (name, options) in [
        ("mpirun", "-n 2 --oversubscribe -x A=1 -x B=2"),
        ("mpiexec", "-n 2 --oversubscribe -l -genv A 1 -env B 2"),
    ] {
        let launcher = folder.path().join(name);
        symlink(program!("efarun-under-test"), &launcher).unwrap();
        let outcome = Job::here(&launcher)
            .options(["-x", &path])
            .options(words(options))
            .program("hosts".as_ref(), NO_ARGS)
            .run();
        outcome.assert_code(0);
        assert_eq!(outcome.stdout().matches("1 2\n").count(), 2, "{}", outcome.shown());
        assert_eq!(outcome.stdout().contains("[1,1]<stdout>:"), name == "mpiexec", "{}", outcome.shown());
    }
}
