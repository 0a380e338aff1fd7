//! The algorithms by name, and what a user asked for.

use std::fmt;
use std::str::FromStr;

use super::collective::Collective;

/// An algorithm. Each collective has some of them; one name may stand for related algorithms of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// Round the world: least bytes, many rounds. For all_reduce, all_gather and reduce_scatter.
    Ring,
    /// A pipelined binary tree: few rounds, more bytes. For all_reduce, broadcast and reduce.
    Tree,
    /// Two binary trees, each with half the vector: few rounds, the bytes spread evenly. For all_reduce.
    DoubleTree,
    /// Recursive doubling: fewest rounds, the whole vector in each. For all_reduce.
    Doubling,
    /// From rank to rank: least bytes, many rounds. For broadcast and reduce.
    Chain,
    /// A binomial tree: fewest rounds, the whole vector in each. For broadcast and reduce.
    Binomial,
    /// Doubling for any world size: fewest rounds. For all_gather.
    Bruck,
    /// The mirror of Bruck's algorithm: fewest rounds. For reduce_scatter.
    Halving,
    /// Everybody to everybody: one round, many messages. For all_gather and reduce_scatter.
    Direct,
    /// For barrier.
    Dissemination,
}

impl Algorithm {
    /// All algorithms, in the order of help texts.
    pub const ALL: [Algorithm; 10] = [
        Algorithm::Ring,
        Algorithm::Tree,
        Algorithm::DoubleTree,
        Algorithm::Doubling,
        Algorithm::Chain,
        Algorithm::Binomial,
        Algorithm::Bruck,
        Algorithm::Halving,
        Algorithm::Direct,
        Algorithm::Dissemination,
    ];

    /// Those that a collective has.
    pub fn of(collective: Collective) -> &'static [Algorithm] {
        match collective {
            Collective::AllReduce => {
                &[Algorithm::Ring, Algorithm::Tree, Algorithm::DoubleTree, Algorithm::Doubling]
            }
            Collective::Broadcast { .. } | Collective::Reduce { .. } => {
                &[Algorithm::Chain, Algorithm::Tree, Algorithm::Binomial]
            }
            Collective::AllGather => &[Algorithm::Ring, Algorithm::Bruck, Algorithm::Direct],
            Collective::ReduceScatter => &[Algorithm::Ring, Algorithm::Halving, Algorithm::Direct],
            Collective::Barrier => &[Algorithm::Dissemination],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Algorithm::Ring => "ring",
            Algorithm::Tree => "tree",
            Algorithm::DoubleTree => "double-tree",
            Algorithm::Doubling => "doubling",
            Algorithm::Chain => "chain",
            Algorithm::Binomial => "binomial",
            Algorithm::Bruck => "bruck",
            Algorithm::Halving => "halving",
            Algorithm::Direct => "direct",
            Algorithm::Dissemination => "dissemination",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the user asked for.
///
/// As text: `auto`; an algorithm's name, for every collective; or pairs such as `all_reduce=ring,broadcast=chain`, with
/// `auto` for collectives that are not named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Choice {
    /// What [`super::select::select`] thinks best.
    #[default]
    Auto,
    /// This one.
    Fixed(Algorithm),
    /// One per collective.
    PerCollective(PerCollective),
}

/// An algorithm for some of the collectives; none is what is best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PerCollective {
    /// In the order of [`Collective::ALL`].
    algorithms: [Option<Algorithm>; Collective::ALL.len()],
}

impl Choice {
    /// The algorithm for this collective, whether it has it or not; none is what is best.
    pub fn of(self, collective: Collective) -> Option<Algorithm> {
        match self {
            Choice::Auto => None,
            Choice::Fixed(algorithm) => Some(algorithm),
            Choice::PerCollective(chosen) => chosen.algorithms[index(collective)],
        }
    }

    /// This choice as a default of many calls: for a collective that does not have the algorithm it is `auto`.
    ///
    /// So `EFARUN_ALGORITHM=tree` is the tree for an all_reduce and leaves a barrier, which has none, alone; a pair that
    /// names both is refused when it is read, and an algorithm given for one call when that is made.
    pub fn where_it_exists(self, collective: Collective) -> Choice {
        let exists = |algorithm: &Algorithm| Algorithm::of(collective).contains(algorithm);
        self.of(collective).filter(exists).map_or(Choice::Auto, Choice::Fixed)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Auto => f.write_str("auto"),
            Choice::Fixed(algorithm) => algorithm.fmt(f),
            Choice::PerCollective(chosen) => {
                let pairs = Collective::ALL.iter().zip(chosen.algorithms);
                let pairs = pairs.filter_map(|(name, algorithm)| Some(format!("{name}={}", algorithm?)));
                f.write_str(&pairs.collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// A text that is no choice.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnknownAlgorithm {
    /// A word that names no algorithm.
    #[error("{word:?} is no algorithm; there are {} and auto", listed(&Algorithm::ALL, ", "))]
    Word {
        /// The word.
        word: String,
    },
    /// A word that names no collective.
    #[error("{word:?} is no collective; there are {}", listed(&Collective::ALL, " and "))]
    Collective {
        /// The word.
        word: String,
    },
    /// A collective that is named twice.
    #[error("{collective} is named twice")]
    Twice {
        /// The collective.
        collective: Collective,
    },
    /// A pair that does not go together.
    #[error(transparent)]
    Pair(#[from] NoSuchAlgorithm),
}

/// A collective does not have an algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{collective} has no algorithm \"{algorithm}\"; it has {}",
    listed(Algorithm::of(*collective), " and ")
)]
pub struct NoSuchAlgorithm {
    /// The collective.
    pub collective: Collective,
    /// The algorithm.
    pub algorithm: Algorithm,
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(word: &str) -> Result<Self, UnknownAlgorithm> {
        let found = Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == word);
        found.ok_or_else(|| UnknownAlgorithm::Word { word: word.to_owned() })
    }
}

impl FromStr for Choice {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        if text == "auto" {
            return Ok(Choice::Auto);
        }
        if !text.contains('=') {
            return text.parse().map(Choice::Fixed);
        }
        let mut chosen = PerCollective::default();
        let mut seen = Vec::new();
        for pair in text.split(',') {
            let (name, word) = pair.split_once('=').unwrap_or((pair, ""));
            let collective = Collective::ALL.into_iter().find(|collective| collective.name() == name);
            let collective =
                collective.ok_or_else(|| UnknownAlgorithm::Collective { word: name.to_owned() })?;
            if seen.contains(&collective) {
                return Err(UnknownAlgorithm::Twice { collective });
            }
            seen.push(collective);
            if word == "auto" {
                continue;
            }
            let algorithm = word.parse()?;
            if !Algorithm::of(collective).contains(&algorithm) {
                return Err(NoSuchAlgorithm { collective, algorithm }.into());
            }
            chosen.algorithms[index(collective)] = Some(algorithm);
        }
        // All of them `auto`.
        if chosen == PerCollective::default() {
            return Ok(Choice::Auto);
        }
        Ok(Choice::PerCollective(chosen))
    }
}

/// A collective's place in [`Collective::ALL`], whatever its root.
fn index(collective: Collective) -> usize {
    match collective {
        Collective::AllReduce => 0,
        Collective::Broadcast { .. } => 1,
        Collective::Reduce { .. } => 2,
        Collective::AllGather => 3,
        Collective::ReduceScatter => 4,
        Collective::Barrier => 5,
    }
}

/// `a, b and c`, with this before the last.
fn listed<T: fmt::Display>(items: &[T], before_last: &str) -> String {
    let words: Vec<String> = items.iter().map(T::to_string).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{}{before_last}{last}", rest.join(", ")),
        _ => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use efarun_wire::Rank;

    use super::*;

    #[test]
    fn texts_and_choices_are_each_others_inverse() {
        let pairs = ["all_reduce=ring,broadcast=chain", "reduce_scatter=halving", "barrier=dissemination"];
        let words = Algorithm::ALL.map(|algorithm| algorithm.to_string());
        for text in words.iter().map(String::as_str).chain(["auto"]).chain(pairs) {
            assert_eq!(text.parse::<Choice>().unwrap().to_string(), text);
        }
        assert_eq!("barrier=auto".parse(), Ok(Choice::Auto));
    }

    #[test]
    fn what_is_no_choice_is_told() {
        let told = |text: &str| text.parse::<Choice>().unwrap_err().to_string();
        let algorithms = "ring, tree, double-tree, doubling, chain, binomial, bruck, halving, direct, dissemination and auto";
        assert_eq!(told("Ring"), format!("\"Ring\" is no algorithm; there are {algorithms}"));
        assert_eq!(told("all_reduce=rings"), format!("\"rings\" is no algorithm; there are {algorithms}"));
        assert!(told("allreduce=ring").starts_with("\"allreduce\" is no collective; there are all_reduce, "));
        assert_eq!(
            told("all_reduce=chain"),
            "all_reduce has no algorithm \"chain\"; it has ring, tree, double-tree and doubling"
        );
        assert_eq!(told("barrier=tree"), "barrier has no algorithm \"tree\"; it has dissemination");
        assert_eq!(told("reduce=chain,reduce=tree"), "reduce is named twice");
    }

    #[test]
    fn a_default_holds_where_the_algorithm_exists() {
        let tree: Choice = "tree".parse().unwrap();
        let broadcast = Collective::Broadcast { root: Rank(3) };
        assert_eq!(tree.where_it_exists(broadcast), Choice::Fixed(Algorithm::Tree));
        assert_eq!(tree.where_it_exists(Collective::Barrier), Choice::Auto);
        let pairs: Choice = "all_reduce=ring,broadcast=chain".parse().unwrap();
        assert_eq!(pairs.where_it_exists(broadcast), Choice::Fixed(Algorithm::Chain));
        assert_eq!(pairs.where_it_exists(Collective::AllGather), Choice::Auto);
    }

    #[test]
    fn every_collective_has_algorithms_and_every_algorithm_a_collective() {
        for (place, collective) in Collective::ALL.into_iter().enumerate() {
            assert!(!Algorithm::of(collective).is_empty());
            assert_eq!(index(collective), place);
        }
        for algorithm in Algorithm::ALL {
            assert!(Collective::ALL.iter().any(|&collective| Algorithm::of(collective).contains(&algorithm)));
        }
    }
}
