//! Hosts that the environment names, where the command line names none.
//!
//! Given the environment, [`found`] says which variable is to be followed, and what it names: a file, or a list as `-H`
//! takes it. Reads no file.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use super::ranges;

/// Hosts named by a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A hostfile.
    File(PathBuf),
    /// Items as of `-H`.
    List(Vec<String>),
}

/// Returns the first variable that names hosts, and what it names.
///
/// A list of Slurm's that cannot be read counts as none: it is not the user's.
pub fn found(env: &[(OsString, OsString)]) -> Option<(&'static str, Found)> {
    let value = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str());
    let set = |name: &str| value(name).filter(|value| !value.is_empty());
    let file = |name: &'static str| set(name).map(|path| (name, Found::File(path.into())));
    let slurm = || {
        let list = slurm_list(set(SLURM_NODES)?, set(SLURM_TASKS))?;
        Some((SLURM_NODES, Found::List(list)))
    };
    file("HYDRA_HOST_FILE")
        .or_else(|| file("I_MPI_HYDRA_HOST_FILE"))
        .or_else(slurm)
        .or_else(|| file("PBS_NODEFILE"))
}

/// `p4d[01-02],x` and `8(x2),4` as `p4d01:8`, `p4d02:8`, `x:4`.
fn slurm_list(nodes: &OsStr, tasks: Option<&OsStr>) -> Option<Vec<String>> {
    let items = super::split_list(nodes.to_str()?);
    let mut names = Vec::new();
    for item in items {
        names.extend(ranges::expand(item.trim()).ok()?);
    }
    let counts =
        tasks.and_then(OsStr::to_str).and_then(slurm_counts).filter(|counts| counts.len() == names.len());
    let Some(counts) = counts else { return Some(names) };
    Some(names.iter().zip(counts).map(|(name, count)| format!("{name}:{count}")).collect())
}

/// `8(x2),4` as 8, 8, 4.
fn slurm_counts(text: &str) -> Option<Vec<u32>> {
    let mut counts = Vec::new();
    for part in text.split(',') {
        let (count, times) = match part.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')')?.parse().ok()?),
            None => (part, 1_usize),
        };
        if times > super::MAX_HOSTS || counts.len() > super::MAX_HOSTS {
            return None;
        }
        counts.extend(std::iter::repeat_n(count.trim().parse::<u32>().ok()?, times));
    }
    Some(counts)
}

const SLURM_NODES: &str = "SLURM_JOB_NODELIST";
const SLURM_TASKS: &str = "SLURM_TASKS_PER_NODE";

#[cfg(test)]
mod tests {
    use super::*;

    fn find(env: &[(&str, &str)]) -> Option<(&'static str, Found)> {
        found(&env.iter().map(|(name, value)| (name.into(), value.into())).collect::<Vec<_>>())
    }

    fn list(items: &[&str]) -> Found {
        Found::List(items.iter().map(|item| (*item).to_owned()).collect())
    }

    #[test]
    fn files_and_lists_of_other_launchers_are_found_in_order() {
        let (pbs, hydra) = (("PBS_NODEFILE", "/pbs"), ("HYDRA_HOST_FILE", "/hydra"));
        assert_eq!(find(&[pbs]), Some(("PBS_NODEFILE", Found::File("/pbs".into()))));
        assert_eq!(find(&[pbs, hydra]), Some(("HYDRA_HOST_FILE", Found::File("/hydra".into()))));
        assert_eq!(find(&[("HYDRA_HOST_FILE", ""), ("PATH", "/bin")]), None);
    }

    #[test]
    fn slurms_nodes_have_the_tasks_that_it_gives_them() {
        let nodes = ("SLURM_JOB_NODELIST", "p4d[09-10],x");
        let with = |tasks: &str| find(&[nodes, ("SLURM_TASKS_PER_NODE", tasks)]).unwrap().1;
        assert_eq!(with("8(x2),4"), list(&["p4d09:8", "p4d10:8", "x:4"]));
        for odd in ["8", "8(x2", "x(x3)", "8(x99999999),4"] {
            assert_eq!(with(odd), list(&["p4d09", "p4d10", "x"]), "{odd}");
        }
        assert_eq!(find(&[("SLURM_JOB_NODELIST", "n[1-")]), None);
    }
}
