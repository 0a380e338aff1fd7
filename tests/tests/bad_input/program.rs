//! PROGRAM: missing, or not what can be run, on one host of two.

use std::fs;
use std::path::Path;

use efarun_tests::{Need, Testbed, program, require};

use super::{NO_ARGS, assert_told, on};

/// Each host has a home folder of its own, so the other one has a program that runs.
#[test]
fn program_that_cannot_start_on_one_node_is_told_with_node_path_and_cause() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let home = testbed.home();
    let path = home.join("program");
    let shown = path.display();
    let there = "\n  hint: every host needs the program, and what it is run by, under the same path: copy it there, or use a folder that all share";
    let executable = "\n  hint: the program must be a file that this user may execute there (`chmod +x`), not on a noexec mount";
    let kind = "\n  hint: `file` says what it is: a program must be built for that host's CPU, and a script begins with `#!`";
    testbed.sh("h1", "printf '#!/bin/sh\\nexec sleep 1000\\n' >$HOME/program; chmod +x $HOME/program");
    foreign_program(&home.join("foreign"));
    for (prepare, subject, cause, hint, code) in [
        ("", String::new(), "No such file or directory", there, 127),
        (
            "echo x >program",
            " (not executable, its mode is 644)".to_owned(),
            "Permission denied",
            executable,
            126,
        ),
        ("mkdir program", " (a folder)".to_owned(), "Permission denied", executable, 126),
        (
            "printf '#!/opt/none/python3 -u\\n' >program; chmod +x program",
            " (a script for /opt/none/python3, which is not there)".to_owned(),
            "No such file or directory",
            there,
            127,
        ),
        (
            "printf '#!/bin/sh\\r\\n' >program; chmod +x program",
            " (a script for `/bin/sh\\r`: its lines end as on Windows)".to_owned(),
            "No such file or directory",
            there,
            127,
        ),
        (
            "cat /proc/self/fd/0 >program; chmod +x program",
            format!(
                " (a program for {}, on a host that is {})",
                other_architecture(),
                std::env::consts::ARCH
            ),
            "Exec format error",
            kind,
            126,
        ),
        ("true >program; chmod +x program", " (an empty file)".to_owned(), "Exec format error", kind, 126),
        (
            "mkdir mount; mount -t tmpfs -o noexec tmpfs mount; cp /bin/true mount/; ln -s mount/true program",
            " (on a file system that is mounted noexec)".to_owned(),
            "Permission denied",
            executable,
            126,
        ),
    ] {
        let on_h2 = format!("cd $HOME; rm -rf program; {prepare}");
        let foreign = fs::File::open(home.join("foreign")).unwrap();
        let prepared = testbed.command("h2", "sh").args(["-c", &on_h2]).stdin(foreign).status().unwrap();
        assert!(prepared.success(), "{on_h2}");
        let outcome = on(&testbed).options(["-H", "h1,h2"]).program(&path, NO_ARGS).run();
        let told = format!(
            "error: rank 1 on h2 was not started: execve {shown}{subject}: {cause}{hint}\nefarun: 1/2 ranks reaped, 2/2 agents gone"
        );
        assert_told(&outcome, code, &told);
    }
}

#[test]
fn program_that_no_folder_of_path_has_is_told_with_path() {
    require!(Need::Testbed);
    let testbed = Testbed::up(1);
    let outcome = on(&testbed)
        .options(["-H", "h1", "-x", "PATH=/usr/bin:/bin"])
        .program(Path::new("no-such-program"), NO_ARGS)
        .run();
    let told = "error: rank 0 on h1 was not started: execve no-such-program (in no folder of PATH: /usr/bin:/bin): No such file or directory\n  hint: every host needs the program, and what it is run by, under the same path: copy it there, or use a folder that all share\nefarun: 0/1 ranks reaped, 1/1 agents gone";
    assert_told(&outcome, 127, told);
}

#[test]
fn library_that_one_node_lacks_is_told_with_the_loaders_line_and_the_way_to_name_its_folder() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let home = testbed.home();
    // A program that needs a library beside it, which only h1 has.
    fs::write(home.join("library.c"), "int answer(void) { return 0; }\n").unwrap();
    fs::write(home.join("program.c"), "int answer(void);\nint main(void) { return answer(); }\n").unwrap();
    testbed.sh(
        "head",
        "cd $HOME && gcc -shared -fPIC -o libanswer.so library.c && gcc -o program program.c -L. -lanswer",
    );
    for host in ["h1", "h2"] {
        let program = fs::File::open(home.join("program")).unwrap();
        let copy = "cat >$HOME/program && chmod +x $HOME/program && mkdir $HOME/lib";
        assert!(testbed.command(host, "sh").args(["-c", copy]).stdin(program).status().unwrap().success());
    }
    let library = fs::File::open(home.join("libanswer.so")).unwrap();
    assert!(
        testbed
            .command("h1", "sh")
            .args(["-c", "cat >$HOME/lib/libanswer.so"])
            .stdin(library)
            .status()
            .unwrap()
            .success()
    );
    let outcome = on(&testbed)
        .options(["-H", "h1,h2", "-x"])
        .options([format!("LD_LIBRARY_PATH={}/lib", home.display())])
        .program(&home.join("program"), NO_ARGS)
        .run();
    let told = format!(
        "{0}/program: error while loading shared libraries: libanswer.so: cannot open shared object file: No such file or directory\nerror: rank 1 on h2 exited with code 127 after … ms; 1 other rank ended\n  last stderr: {0}/program: error while loading shared libraries: libanswer.so: cannot open shared object file: No such file or directory\n  hint: h2 has no libanswer.so in the folders that its loader looks in: install it there, or name its folder by `-x LD_LIBRARY_PATH=DIR`\nefarun: 2/2 ranks reaped, 2/2 agents gone",
        home.display()
    );
    assert_told(&outcome, 127, &told);
}

/// The launcher cannot push itself to such a host, and says so before it sends anything.
#[test]
fn host_of_another_architecture_is_told_with_both() {
    require!(Need::Testbed);
    let testbed = Testbed::up(2);
    let other = other_architecture();
    // What the kernel tells is in a file from 6.1 on, and asked for by `uname` before.
    testbed.sh("h2", &format!("printf '#!/bin/sh\\necho {other}\\n' >$HOME/uname; chmod +x $HOME/uname; mount --bind $HOME/uname $(command -v uname)"));
    testbed.sh("h2", &format!("if [ -e /proc/sys/kernel/arch ]; then echo {other} >$HOME/arch; mount --bind $HOME/arch /proc/sys/kernel/arch; fi"));
    let outcome = on(&testbed).options(["-H", "h1,h2"]).program(program!("rank_hang"), NO_ARGS).run();
    let told = format!(
        "error: host h2 (-H) is {other}, and this efarun is built for {}\n  hint: all hosts of a job are of one architecture: run an efarun that is built for {other}, from a machine of that kind, or leave this host out",
        std::env::consts::ARCH
    );
    assert_told(&outcome, 65, &told);
    assert_eq!(testbed.sh("h2", "find $HOME -name efarun"), "", "nothing was sent");
}

fn other_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "x86_64" } else { "aarch64" }
}

/// A program of this machine whose header says that it is for another.
fn foreign_program(path: &Path) {
    let mut program = fs::read("/bin/true").expect("every Linux has it");
    let machine: u16 = if cfg!(target_arch = "aarch64") { 0x3e } else { 0xb7 };
    program[18..20].copy_from_slice(&machine.to_le_bytes());
    fs::write(path, program).expect("the head's home folder is writable");
}
