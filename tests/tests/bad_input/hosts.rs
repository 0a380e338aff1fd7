//! Hostfiles and host lists: what is wrong, with file, line, column and a caret; and more ranks than slots.

use std::fs;

use efarun_tests::{Need, Outcome, Testbed, program, require};

use super::{NO_ARGS, assert_told, here, on};

fn with_hostfile(path: &std::path::Path) -> Outcome {
    here().options(["--hostfile".as_ref(), path.as_os_str()]).program(program!("rank_hang"), NO_ARGS).run()
}

#[test]
fn hostfile_faults_are_told_with_file_line_column_and_caret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    let name = path.display();
    for (text, told) in [
        (
            "a slots=8\n  b\tslots=0\n",
            "{}:2:11: slots must be a number from 1 to 65536, found `0`\n    b slots=0\n            ^",
        ),
        ("\u{feff}a slot=8\r\nb\r\n", "{}:1:3: unknown key `slot`: did you mean `slots`?\n  a slot=8\n    ^"),
        (
            "a slots=99999999999999999999",
            "{}:1:9: slots must be a number from 1 to 65536, found `99999999999999999999`\n  a slots=99999999999999999999\n          ^",
        ),
        (
            "a port=22 port=23 # twice",
            "{}:1:11: port is given twice for this host\n  a port=22 port=23 # twice\n            ^",
        ),
        ("a, b", "{}:1:1: `a,` holds `,`: a host's name is letters, digits and . _ -\n  a, b\n  ^"),
        ("# only a comment\n\n", "{} names no host: write one host per line, such as `10.0.0.1 slots=8`"),
        ("", "{} names no host: write one host per line, such as `10.0.0.1 slots=8`"),
    ] {
        fs::write(&path, text).unwrap();
        let told = format!("error: {}", told.replace("{}", &name.to_string()));
        assert_told(&with_hostfile(&path), 65, &told);
    }
    fs::write(&path, "a slots=4").unwrap();
    let outcome = here().options(["-H", "a:2, b:x"]).program(program!("rank_hang"), NO_ARGS).run();
    let told = "error: -H, item 2 (` b:x`), column 4: slots must be a number from 1 to 65536, found `x`";
    assert_told(&outcome, 65, told);
}

#[test]
fn hostfile_that_cannot_be_read_is_told_with_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let told =
        |cause: &str| format!("error: the hostfile {} cannot be read: {cause}", folder.path().display());
    let is_a_folder = "is a directory\n  hint: --hostfile takes a file with one host per line";
    assert_told(&with_hostfile(folder.path()), 65, &told(is_a_folder));
    let missing = folder.path().join("hosts");
    let told = format!(
        "error: the hostfile {} cannot be read: no such file or directory\n  hint: its path is relative to the folder that efarun is started in",
        missing.display()
    );
    assert_told(&with_hostfile(&missing), 65, &told);
}

#[test]
fn too_few_slots_are_told_by_host_with_where_each_number_came_from_and_the_flag_that_lifts_them() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let hostfile = testbed.hostfile_of("h1 slots=2\n\nh2\nh2\nh2\n".to_owned());
    let run = |options: &[&str]| {
        on(&testbed)
            .options(["--hostfile".as_ref(), hostfile.as_os_str()])
            .options(options)
            .program("/bin/hostname".as_ref(), NO_ARGS)
            .run()
    };
    let told = format!(
        "error: 7 ranks asked for, 5 slots there:\n  h1: 2 slots ({0}:1)\n  h2: 3 slots ({0}:3,4,5)\n  hint: add hosts, give more slots, ask for -n 5, or add --oversubscribe",
        hostfile.display()
    );
    assert_told(&run(&["-n", "7"]), 64, &told);
    // What is offered does it.
    let outcome = run(&["-n", "7", "--oversubscribe"]);
    assert_told(&outcome, 0, "");
    assert_eq!(super::sorted_lines(&outcome), ["h1", "h1", "h1", "h2", "h2", "h2", "h2"]);

    let outcome =
        on(&testbed).options(["-H", "h1,h2:2", "-n", "4"]).program(program!("rank_hang"), NO_ARGS).run();
    let told = "error: 4 ranks asked for, 3 slots there:\n  h1: 1 slot (-H without `:N` is one slot)\n  h2: 2 slots (-H)\n  hint: add hosts, give more slots, ask for -n 3, or add --oversubscribe";
    assert_told(&outcome, 64, told);
}

#[test]
fn one_host_under_two_names_is_noted_and_runs() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let address = &testbed.host("h1").address;
    let outcome = on(&testbed)
        .options(["-H", &format!("h1,{address}")])
        .program("/bin/hostname".as_ref(), NO_ARGS)
        .run();
    let told = format!(
        "efarun: one machine under several names: h1, {address} (its cores and cards are shared: name it once, with all its slots)"
    );
    assert_told(&outcome, 0, &told);
    assert_eq!(super::sorted_lines(&outcome), ["h1", "h1"]);
}
