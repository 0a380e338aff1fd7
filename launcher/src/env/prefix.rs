//! `--prefix DIR`: DIR/bin first in PATH, DIR/lib first in LD_LIBRARY_PATH.
//!
//! On every rank alike. Under Open MPI the ranks of mpirun's own node go without, so that rank 0 finds other libraries
//! than the rest.

use std::os::unix::ffi::OsStrExt;

use super::{Inputs, NameValue, Origin, Variables, library_path};

/// Puts the program's own folders before what is there.
pub(super) fn add(inputs: &Inputs<'_>, variables: &mut Variables) {
    let Some(prefix) = &inputs.app.prefix else { return };
    let folder = |name: &str| prefix.join(name).as_os_str().as_bytes().to_vec();
    put_first(inputs, variables, "PATH", &folder("bin"));
    put_first(inputs, variables, library_path::NAME, &folder("lib"));
}

fn put_first(inputs: &Inputs<'_>, variables: &mut Variables, name: &str, folder: &[u8]) {
    // A PATH that nobody passes is the node's own; replacing it by one folder would hide every program.
    let nodes_own = || {
        let facts = inputs.facts.first()?;
        let is_it = |(candidate, _): &&NameValue| candidate == name.as_bytes();
        facts.env.iter().find(is_it).map(|(_, value)| value.clone())
    };
    let before = variables.value(name).map(<[u8]>::to_vec).or_else(|| nodes_own().filter(|_| name == "PATH"));
    let value = match before {
        Some(before) if !before.is_empty() => [folder, b":", &before[..]].concat(),
        _ => folder.to_vec(),
    };
    variables.set(name.as_bytes(), &value, Origin::Efarun("--prefix first, then as it was"));
}
