//! Programs of Open MPI's, which asks for what efarun does not serve.

use std::path::Path;
use std::process::Command;

use efarun_tests::{Job, Need, Testbed, program, require};

/// Makes a program that needs a library with the name of Open MPI's.
fn make(folder: &Path) {
    let write = |name, text| std::fs::write(folder.join(name), text).expect("the folder is the test's own");
    write("library.c", "int f(void) { return 0; }\n");
    write("program.c", "int f(void); int main(void) { return f(); }\n");
    let library = ["-shared", "-fPIC", "-Wl,-soname,libmpi.so.40", "-o", "libmpi.so.40", "library.c"];
    let program = ["-Wl,-rpath,$ORIGIN", "-o", "program", "program.c", "libmpi.so.40"];
    for args in [&library[..], &program] {
        let output = Command::new("gcc").current_dir(folder).args(args).output().expect("gcc was required");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn open_mpi_is_refused_before_it_is_so_many_worlds_of_one() {
    require!(Need::Mpich, Need::Testbed);
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let testbed = Testbed::up(2);
    let job = || {
        Job::on(&testbed, program!("efarun-under-test"))
            .options(["-H", "h1:2,h2:2"])
            .program(&folder.path().join("program"), [""; 0])
    };
    let library = folder.path().join("libmpi.so.40").display().to_string();
    job().run().assert_code(65).assert_says(&[
        &library,
        "PMIx",
        "4 ranks would be 4 worlds of one",
        "hint: ",
    ]);
    assert_eq!(testbed.guests(), []);
    job().options(["-x", "EFARUN_MPI=any"]).run().assert_code(0);
}
