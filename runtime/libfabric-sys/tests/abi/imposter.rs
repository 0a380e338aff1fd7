//! What is said when `libfabric.so.1` is not what it should be.

use std::path::Path;
use std::process::Command;

use libfabric_sys::{Library, LibraryError};

use crate::support::{child, skip};

#[test]
fn a_file_that_is_no_library_is_named_by_the_linkers_word() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("libfabric.so.1"), "not a library").unwrap();
    expect_of(folder.path(), "not found");
}

#[test]
fn another_library_of_that_name_is_not_taken_for_it() {
    let folder = tempfile::tempdir().unwrap();
    if compile(folder.path(), "int fi_other(void) { return 0; }", "FABRIC_1.0 { global: fi_other; };") {
        expect_of(folder.path(), "missing symbol");
    }
}

#[test]
fn a_library_that_is_too_old_is_refused_with_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let source = "unsigned fi_version(void) { return 1 << 16 | 11; }";
    if compile(folder.path(), source, "FABRIC_1.0 { global: fi_version; };") {
        expect_of(folder.path(), "too old");
    }
}

/// The body of the tests above; does nothing in a process that was not started by one of them.
#[test]
fn body() {
    let Ok(expected) = std::env::var(EXPECTED) else { return };
    let folder = std::env::var("LD_LIBRARY_PATH").unwrap();
    let error = Library::open().unwrap_err();
    let text = error.to_string();
    match (expected.as_str(), error) {
        ("not found", LibraryError::NotFound { library_path, cause }) => {
            assert_eq!(library_path, folder);
            assert!(cause.contains(&folder), "{cause}");
        }
        ("missing symbol", LibraryError::MissingSymbol { symbol, .. }) => assert_eq!(symbol, "fi_version"),
        ("too old", LibraryError::TooOld { path, version }) => {
            assert_eq!((path, version.to_string()), (format!("{folder}/libfabric.so.1"), "1.11".to_owned()));
        }
        (_, other) => panic!("{expected}, not {other:?}"),
    }
    assert!(text.contains("LD_LIBRARY_PATH"), "it does not say what to do: {text}");
}

fn expect_of(folder: &Path, expected: &str) {
    let output =
        child("imposter::body").env("LD_LIBRARY_PATH", folder).env(EXPECTED, expected).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Makes a shared library; says that the test is skipped and returns false where there is no compiler.
fn compile(folder: &Path, source: &str, versions: &str) -> bool {
    if Command::new("gcc").arg("--version").output().is_err() {
        skip("imposter", "no gcc to make a library with");
        return false;
    }
    std::fs::write(folder.join("library.c"), source).unwrap();
    std::fs::write(folder.join("versions"), versions).unwrap();
    let gcc = Command::new("gcc")
        .current_dir(folder)
        .args(["-shared", "-fPIC", "-Wl,--version-script=versions", "-o", "libfabric.so.1", "library.c"])
        .output()
        .unwrap();
    assert!(gcc.status.success(), "{}", String::from_utf8_lossy(&gcc.stderr));
    true
}

const EXPECTED: &str = "EFARUN_TEST_IMPOSTER";
