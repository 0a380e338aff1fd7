//! Reads rankfiles: which rank runs where, on which cores.
//!
//! Given a file's bytes, [`Rankfile::parse`] returns the place of every rank. A line is Open MPI's, `rank 3=host slot=0-1`;
//! `#` begins a comment. Every number from 0 to the highest must be there once. Pure: hosts are names here, and whether
//! there are such cores is [`crate::binding`]'s to say.

use std::path::{Path, PathBuf};

use efarun_wire::Rank;

use super::MAX_RANKS;
use crate::binding::{CoreList, Cores};

/// Where a file says that ranks run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rankfile {
    /// The file, for messages.
    pub path: PathBuf,
    /// By rank.
    pub places: Vec<RankfilePlace>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankfilePlace {
    /// The host as written.
    pub host: String,
    /// What `slot=` names; none where it is not said.
    pub cores: Option<Cores>,
}

/// A line that is wrong, or one that is missing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RankfileError {
    /// A line that is wrong.
    #[error("{}:{line}: {problem}; a line is `rank 0=host slot=0-3`", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// No line is for this rank, though there is one for a higher one; or there is none at all.
    #[error("{}: no line is for rank {rank}", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The rank.
        rank: Rank,
    },
}

impl Rankfile {
    /// Parses a file. `path` is for messages.
    ///
    /// # Errors
    /// The first line that is wrong, or the first rank that has none.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Rankfile, RankfileError> {
        let mut found: Vec<(u32, RankfilePlace)> = Vec::new();
        let text = String::from_utf8_lossy(bytes);
        for (index, line) in text.lines().enumerate() {
            let at_fault = |problem| RankfileError::Line { path: path.to_owned(), line: index + 1, problem };
            let significant = line.split('#').next().unwrap_or_default().trim();
            if significant.is_empty() {
                continue;
            }
            let (rank, place) = place(significant).map_err(at_fault)?;
            found.push((rank, place));
        }
        found.sort_by_key(|(rank, _)| *rank);
        if let Some(pair) = found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let problem = format!("there are two lines for rank {}", pair[0].0);
            let line =
                text.lines().position(|line| place_is_of(line, pair[0].0)).map_or(1, |index| index + 1);
            return Err(RankfileError::Line { path: path.to_owned(), line, problem });
        }
        let gap = found.iter().zip(0..).find(|((rank, _), expected)| rank != expected);
        let missing = gap.map(|(_, expected)| expected).or(found.is_empty().then_some(0));
        match missing {
            Some(rank) => Err(RankfileError::Missing { path: path.to_owned(), rank: Rank(rank) }),
            None => Ok(Rankfile {
                path: path.to_owned(),
                places: found.into_iter().map(|(_, place)| place).collect(),
            }),
        }
    }

    /// The hosts that it names, in order, each once.
    pub fn hosts(&self) -> Vec<String> {
        let mut hosts: Vec<String> = Vec::new();
        for place in &self.places {
            if !hosts.contains(&place.host) {
                hosts.push(place.host.clone());
            }
        }
        hosts
    }
}

fn place_is_of(line: &str, rank: u32) -> bool {
    place(line.split('#').next().unwrap_or_default().trim()).is_ok_and(|(found, _)| found == rank)
}

/// `rank 3=host slot=…`, blanks around `=` free.
fn place(line: &str) -> Result<(u32, RankfilePlace), String> {
    let rest = line.strip_prefix("rank").filter(|rest| rest.starts_with([' ', '\t']));
    let rest = rest.ok_or("it does not begin with `rank`")?;
    let (number, rest) = rest.split_once('=').ok_or("`=` and a host are missing")?;
    let number = number.trim();
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let rank = number.parse().ok().filter(|rank| is_number && *rank < MAX_RANKS);
    let rank = rank.ok_or_else(|| format!("`{number}` is no rank"))?;
    let rest = rest.trim();
    let (host, rest) = rest.split_once([' ', '\t']).unwrap_or((rest, ""));
    if host.is_empty() || host.contains('=') {
        return Err("a host is missing".to_owned());
    }
    if host.starts_with('+') {
        return Err(format!("`{host}`: write the host's name"));
    }
    let cores = match rest.trim() {
        "" => None,
        rest => {
            let value = rest.split_once('=').filter(|(key, _)| matches!(key.trim(), "slot" | "slots"));
            let (_, value) = value.ok_or_else(|| format!("`{rest}` is no `slot=`"))?;
            Some(cores(value.trim())?)
        }
    };
    Ok((rank, RankfilePlace { host: host.to_owned(), cores }))
}

/// `0`, `0-3`, `0,2` are cores as the host counts them; `1:0-1` are those of socket 1; `*` stands for all.
fn cores(text: &str) -> Result<Cores, String> {
    match text.split_once(':') {
        None => Ok(Cores { socket: None, cores: core_list(text)? }),
        Some((socket, cores)) => {
            let number = socket.parse().map_err(|_| format!("`{socket}` is no socket's number"))?;
            Ok(Cores { socket: Some(number), cores: core_list(cores)? })
        }
    }
}

fn core_list(text: &str) -> Result<CoreList, String> {
    if text == "*" {
        return Ok(CoreList::All);
    }
    let number = |text: &str| {
        let core = text.parse::<u32>().ok().filter(|core| *core < MOST_CORES);
        core.filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
            .ok_or_else(|| format!("`{text}` is no core's number"))
    };
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if last < first {
            return Err(format!("`{part}` counts downwards"));
        }
        cores.extend(first..=last);
    }
    cores.sort_unstable();
    cores.dedup();
    Ok(CoreList::Numbered(cores))
}

/// More than any machine has, and little enough to list.
const MOST_CORES: u32 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Rankfile, String> {
        Rankfile::parse(Path::new("ranks"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_of_open_mpis_manual_are_understood_in_any_order() {
        let text = "# the manual's\nrank 1=bb slot=0:0,1\nrank 0 = aa slot = 1:0-2 # first\nrank 2=cc slot=1-2\n\
                    rank 3=aa\nrank 4=cc slot=0:*\n";
        let rankfile = parse(text).unwrap();
        let numbered = |socket, cores: &[u32]| Cores { socket, cores: CoreList::Numbered(cores.to_vec()) };
        let cores: Vec<_> = rankfile.places.iter().map(|place| place.cores.clone()).collect();
        let expected = [
            Some(numbered(Some(1), &[0, 1, 2])),
            Some(numbered(Some(0), &[0, 1])),
            Some(numbered(None, &[1, 2])),
            None,
            Some(Cores { socket: Some(0), cores: CoreList::All }),
        ];
        assert_eq!(cores, expected);
        assert_eq!(rankfile.hosts(), ["aa", "bb", "cc"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, says) in [
            ("", "ranks: no line is for rank 0"),
            ("rank 1=a", "ranks: no line is for rank 0"),
            ("rank 0=a\nrank 2=a", "ranks: no line is for rank 1"),
            ("rank 0=a\nrank 0=b", "ranks:1: there are two lines for rank 0"),
            ("rank x=a", "ranks:1: `x` is no rank"),
            ("\nrnak 0=a", "ranks:2: it does not begin with `rank`"),
            ("rank 0", "ranks:1: `=` and a host are missing"),
            ("rank 0= slot=1", "ranks:1: a host is missing"),
            ("rank 0=+n1 slot=1", "ranks:1: `+n1`: write the host's name"),
            ("rank 0=a core=1", "ranks:1: `core=1` is no `slot=`"),
            ("rank 0=a slot=2-1", "ranks:1: `2-1` counts downwards"),
            ("rank 0=a slot=p0:1", "ranks:1: `p0` is no socket's number"),
            ("rank 0=a slot=0-99999999", "ranks:1: `99999999` is no core's number"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(says), "{text}: {error}");
        }
    }
}
