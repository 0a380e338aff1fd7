//! What the tests of this module share.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::job::Host;

/// A host of this name.
pub(crate) fn host(name: &str) -> Host {
    Host {
        name: name.into(),
        address: None,
        user: None,
        port: None,
        slots: None,
        max_slots: None,
        places: Vec::new(),
        origin: "test".into(),
    }
}

/// Writes a shell script that can be executed.
///
/// Another process writes it: while this one has it open for writing, a fork in another test's thread would inherit
/// the descriptor, and the kernel refuses to execute a file that is open for writing.
pub(crate) fn script(path: &Path, body: &str) {
    let mut writer = Command::new("sh")
        .args(["-c", r#"cat >"$0" && chmod 755 "$0""#])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    write!(writer.stdin.take().unwrap(), "#!/bin/sh\n{body}\n").unwrap();
    assert!(writer.wait().unwrap().success());
}
