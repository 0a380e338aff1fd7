use std::path::Path;
use std::process::Command;

use super::*;

/// Makes libraries and a program by the C compiler; none where there is none.
fn linked(folder: &Path, steps: &[&[&str]]) -> Option<()> {
    std::fs::write(folder.join("empty.c"), "int main(void) { return 0; }\n").unwrap();
    std::fs::write(folder.join("library.c"), "int f(void) { return 0; }\n").unwrap();
    for step in steps {
        let Ok(output) = Command::new("gcc").current_dir(folder).args(*step).output() else {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            use std::io::Write;
            writeln!(std::io::stdout(), "SKIPPED: {test}: there is no `gcc`").unwrap();
            return None;
        };
        assert!(output.status.success(), "{step:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Some(())
}

const LIBRARY: &[&str] = &["-shared", "-fPIC", "library.c"];

fn args<'a>(front: &[&'a str], rest: &[&'a str]) -> Vec<&'a str> {
    [front, rest].concat()
}

#[test]
fn an_mpi_library_is_found_behind_another_by_whatever_path() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    std::fs::create_dir(folder.join("mpi")).unwrap();
    let mpi = args(LIBRARY, &["-Wl,-soname,libmpi.so.40", "-o", "mpi/libmpi.so.40"]);
    let solver = ["-Wl,--no-as-needed", "mpi/libmpi.so.40", "-o", "libsolver.so"];
    let by_rpath = args(LIBRARY, &[&solver[..], &["-Wl,-rpath,$ORIGIN/mpi"]].concat());
    let program =
        ["empty.c", "-Wl,--no-as-needed", "libsolver.so", "-Wl,--allow-shlib-undefined", "-o", "program"];
    let with_origin = args(&program, &["-Wl,-rpath,$ORIGIN"]);
    let Some(()) = linked(&folder, &[&mpi, &by_rpath, &with_origin]) else { return };
    let library = folder.join("mpi/libmpi.so.40");
    let found = linkage(&folder.join("program"), &[]).unwrap();
    assert_eq!(found.mpi(), Some((MpiKind::OpenMpi, "libmpi.so.40", Some(&*library))));
    assert_eq!(found.file("libsolver.so"), Some(&*folder.join("libsolver.so")));
    assert_eq!(found.file("libpmix.so"), None);

    // Without a path the loader has LD_LIBRARY_PATH only.
    let by_nothing = args(LIBRARY, &solver);
    linked(&folder, &[&by_nothing]).unwrap();
    let found = linkage(&folder.join("program"), &[]).unwrap();
    assert_eq!(found.mpi(), Some((MpiKind::OpenMpi, "libmpi.so.40", None)));
    let path = folder.join("mpi").display().to_string().into_bytes();
    let found = linkage(&folder.join("program"), &[(b"LD_LIBRARY_PATH".to_vec(), path)]).unwrap();
    assert_eq!(found.mpi(), Some((MpiKind::OpenMpi, "libmpi.so.40", Some(&*library))));
}

#[test]
fn what_needs_no_mpi_or_is_no_program_says_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/bin/sh\n").unwrap();
    for program in [&script, Path::new("/no/such"), Path::new("/tmp")] {
        assert_eq!(linkage(program, &[]), None, "{}", program.display());
    }
    let own = linkage(Path::new("/proc/self/exe"), &[]).unwrap();
    assert_eq!(own.mpi(), None);
    assert!(own.file("libc.so").is_some(), "{own:?}");
}

#[test]
fn the_systems_list_has_the_c_library() {
    let Ok(bytes) = std::fs::read("/etc/ld.so.cache") else { return };
    let files = cache::Cache::new(bytes.clone()).files(b"libc.so.6");
    assert!(files.iter().any(|file| file.exists()), "{files:?}");
    for cut in [0, 10, 60, 100, bytes.len() / 2] {
        cache::Cache::new(bytes[..cut].to_vec()).files(b"libc.so.6");
    }
}

#[test]
fn libraries_are_told_apart_by_the_number_of_their_interface() {
    assert_eq!(kind_of("libmpi.so.12"), Some(MpiKind::Mpich));
    assert_eq!(kind_of("libmpi.so.40"), Some(MpiKind::OpenMpi));
    assert_eq!(kind_of("libmpi_cxx.so.40"), None);
}
