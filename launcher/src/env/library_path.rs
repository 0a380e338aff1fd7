//! LD_LIBRARY_PATH: the user's folders first, then those where AWS's installer and CUDA put their libraries.

use efarun_wire::facts::NodeFacts;

use super::{Inputs, Origin, Variables};

/// The folders that an agent looks for on its node and that join LD_LIBRARY_PATH where any node has them, in the
/// order in which they are searched.
///
/// libfabric for EFA is in lib64 on Amazon Linux and RHEL, in lib on Ubuntu and Debian; the NCCL plugin's packages
/// use four places. `/usr/local/cuda/compat` is left out: its libcuda is right for some drivers only.
pub const WELL_KNOWN_LIBRARY_DIRS: &[&str] = &[
    "/opt/amazon/efa/lib64",
    "/opt/amazon/efa/lib",
    "/opt/amazon/ofi-nccl/lib64",
    "/opt/amazon/ofi-nccl/lib",
    "/opt/amazon/ofi-nccl/lib/x86_64-linux-gnu",
    "/opt/amazon/ofi-nccl/lib/aarch64-linux-gnu",
    "/opt/amazon/aws-ofi-nccl/lib",
    "/usr/local/cuda/lib64",
];

/// The folders that the loader looks in behind LD_LIBRARY_PATH, on the distributions that EFA is installed on. Of each
/// an agent says which libfabric it has.
pub const SYSTEM_LIBRARY_DIRS: &[&str] =
    &["/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];

/// The libfabric that ranks of a node will load, as far as is known: none where a folder comes first that no agent looked
/// in, or where there is none.
pub(super) fn libfabric<'f>(facts: &'f NodeFacts, library_path: &[u8]) -> Option<&'f str> {
    let of_folder = |folder: &str| {
        facts.libfabrics.iter().find(|(looked_at, _)| looked_at == folder).map(|(_, file)| file.as_str())
    };
    for folder in library_path.split(|byte| *byte == b':').filter(|folder| !folder.is_empty()) {
        let folder = std::str::from_utf8(folder).ok()?;
        if !WELL_KNOWN_LIBRARY_DIRS.iter().chain(SYSTEM_LIBRARY_DIRS).any(|known| *known == folder) {
            return None;
        }
        if let Some(file) = of_folder(folder) {
            return Some(file);
        }
    }
    SYSTEM_LIBRARY_DIRS.iter().find_map(|folder| of_folder(folder))
}

/// Adds LD_LIBRARY_PATH, unless there is nothing to put into it.
///
/// The user's value keeps its bytes; a folder that it already names is not repeated. A folder that only some nodes
/// have is added for all: one that does not exist is skipped by the loader, a path that differs is not found by
/// people.
pub(super) fn add(inputs: &Inputs<'_>, variables: &mut Variables) {
    let users = variables.value(NAME).unwrap_or_default().to_vec();
    let mut path = users.clone();
    for dir in WELL_KNOWN_LIBRARY_DIRS {
        let somewhere = inputs.facts.iter().any(|facts| facts.library_dirs.iter().any(|seen| seen == dir));
        let named = path.split(|byte| *byte == b':').any(|part| part == dir.as_bytes());
        if somewhere && !named {
            if !path.is_empty() {
                path.push(b':');
            }
            path.extend_from_slice(dir.as_bytes());
        }
    }
    if path != users {
        variables.set(
            NAME.as_bytes(),
            &path,
            Origin::Efarun("yours, then the EFA, NCCL plugin and CUDA folders"),
        );
    }
}

/// The variable.
pub(super) const NAME: &str = "LD_LIBRARY_PATH";
