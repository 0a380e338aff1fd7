//! EFA's manners: what the protocol permits and a consumer must live with. Each has a switch and a measure, and all
//! choices come from one seed.
//!
//! Nothing here breaks a promise of EFA: with every manner on, a correct consumer works. What breaks promises is a
//! fault ([`crate::fault`]).
//!
//! Written as `name[=percent][:microseconds]`, separated by commas; `srd` (the default), `all` and `none` name sets.
//!
//! | name | meaning |
//! |---|---|
//! | `pieces` | the pieces of an RDMA operation land in any order, and those of several operations are mixed |
//! | `unordered=P:T` | P % of what arrives is looked at up to T µs later, so that what came after it overtakes it |
//! | `completions=P:T` | P % of completions are shown up to T µs later than their effect |
//! | `repeat=P:T` | P % of payloads land a second time before their completion, up to T µs later |
//! | `late=P:T` | P % of what arrives does so T µs later |
//! | `not-ready=P` | P % of messages are turned away once as if no receive were posted |

use std::time::Duration;

/// Which manners are on, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Manners {
    /// Pieces in any order.
    pub pieces: bool,
    /// Arrivals that others overtake.
    pub unordered: Chance,
    /// Completions that others overtake.
    pub completions: Chance,
    /// Payloads that land twice.
    pub repeat: Chance,
    /// Arrivals that take long.
    pub late: Chance,
    /// Messages that find no receive at first.
    pub not_ready: Chance,
}

/// How often something happens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Chance {
    /// In 100 cases.
    pub percent: u8,
    /// At most, or exactly, as the manner says.
    pub delay: Duration,
}

/// What is wrong with a text for manners.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MannersError {
    /// There is no such manner.
    #[error("`{0}` is no manner: there are {NAMES}, and the sets srd, all, none")]
    Unknown(String),
    /// Its measure cannot be read.
    #[error("`{0}` is not written as {1}")]
    Measure(String, &'static str),
}

impl Manners {
    /// A well-behaved network: everything in order, at once, once.
    pub const NONE: Manners = Manners {
        pieces: false,
        unordered: Chance::NEVER,
        completions: Chance::NEVER,
        repeat: Chance::NEVER,
        late: Chance::NEVER,
        not_ready: Chance::NEVER,
    };

    /// What SRD does every day.
    pub const SRD: Manners = Manners {
        pieces: true,
        unordered: Chance::new(20, 50),
        completions: Chance::new(10, 50),
        ..Manners::NONE
    };

    /// Everything, often.
    pub const ALL: Manners = Manners {
        pieces: true,
        unordered: Chance::new(30, 200),
        completions: Chance::new(30, 200),
        repeat: Chance::new(20, 200),
        late: Chance::new(1, 5000),
        not_ready: Chance::new(2, 0),
    };

    /// Reads the text form; later words override earlier ones.
    ///
    /// # Errors
    ///
    /// [`MannersError`], naming the word at fault.
    pub fn parse(text: &str) -> Result<Manners, MannersError> {
        let mut manners = Manners::NONE;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (name, measure) = match word.split_once('=') {
                Some((name, measure)) => (name, Some(measure)),
                None => (word, None),
            };
            let slot = match name {
                "none" | "srd" | "all" | "pieces" if measure.is_some() => {
                    return Err(MannersError::Measure(word.to_owned(), "a word of its own"));
                }
                "none" => {
                    manners = Manners::NONE;
                    continue;
                }
                "srd" => {
                    manners = Manners::SRD;
                    continue;
                }
                "all" => {
                    manners = Manners::ALL;
                    continue;
                }
                "pieces" => {
                    manners.pieces = true;
                    continue;
                }
                "unordered" => (&mut manners.unordered, Manners::ALL.unordered),
                "completions" => (&mut manners.completions, Manners::ALL.completions),
                "repeat" => (&mut manners.repeat, Manners::ALL.repeat),
                "late" => (&mut manners.late, Manners::ALL.late),
                "not-ready" => (&mut manners.not_ready, Manners::ALL.not_ready),
                _ => return Err(MannersError::Unknown(word.to_owned())),
            };
            let (slot, usual) = slot;
            *slot = match measure {
                None => usual,
                Some(measure) => Chance::parse(measure, usual)
                    .ok_or_else(|| MannersError::Measure(word.to_owned(), "name=PERCENT[:MICROSECONDS]"))?,
            };
        }
        Ok(manners)
    }
}

impl Chance {
    /// Never.
    pub const NEVER: Chance = Chance::new(0, 0);

    const fn new(percent: u8, delay_us: u64) -> Chance {
        Chance { percent, delay: Duration::from_micros(delay_us) }
    }

    fn parse(text: &str, usual: Chance) -> Option<Chance> {
        let (percent, delay) = match text.split_once(':') {
            Some((percent, delay)) => (percent, Duration::from_micros(delay.parse().ok()?)),
            None => (text, usual.delay),
        };
        let percent = percent.parse().ok().filter(|percent| *percent <= 100)?;
        (delay <= Duration::from_secs(60)).then_some(Chance { percent, delay })
    }
}

/// What decides: the same seed makes the same choices.
#[derive(Debug)]
pub struct Choices(fastrand::Rng);

impl Choices {
    /// The choices that come from a seed.
    pub fn new(seed: u64) -> Choices {
        Choices(fastrand::Rng::with_seed(seed))
    }

    /// Whether it happens this time.
    pub fn happens(&mut self, chance: Chance) -> bool {
        chance.percent != 0 && self.0.u8(0..100) < chance.percent
    }

    /// Whether, and then how long it takes: from nothing to the chance's delay.
    pub fn delay_up_to(&mut self, chance: Chance) -> Option<Duration> {
        if !self.happens(chance) {
            return None;
        }
        // Delays are parsed to a minute at most, which fits in nanoseconds.
        Some(Duration::from_nanos(self.0.u64(0..=chance.delay.as_nanos() as u64)))
    }

    /// A number below `end`; none when there is none.
    pub fn below(&mut self, end: u32) -> Option<u32> {
        (end != 0).then(|| self.0.u32(0..end))
    }
}

const NAMES: &str = "pieces, unordered, completions, repeat, late, not-ready";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_can_be_narrowed_and_widened() {
        assert_eq!(Manners::parse("srd"), Ok(Manners::SRD));
        assert_eq!(Manners::parse(""), Ok(Manners::NONE));
        let wanted = Manners { late: Chance::new(100, 3000), repeat: Chance::NEVER, ..Manners::ALL };
        assert_eq!(Manners::parse("all, late=100:3000,repeat=0"), Ok(wanted.with_repeat_delay(200)));
    }

    #[test]
    fn faults_of_writing_are_named() {
        for text in ["allways", "late=101", "late=x", "late=1:x", "late=1:60000001", "pieces=3"] {
            let error = Manners::parse(&format!("srd,{text}")).unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }

    #[test]
    fn percentages_are_kept() {
        let mut choices = Choices::new(3);
        let happened = (0..10_000).filter(|_| choices.happens(Chance::new(20, 0))).count();
        assert!((1800..2200).contains(&happened), "{happened}");
        assert!((0..1000).all(|_| choices.happens(Chance::new(100, 0))));
        assert!(!(0..1000).any(|_| choices.happens(Chance::NEVER)));
    }

    impl Manners {
        fn with_repeat_delay(mut self, delay_us: u64) -> Manners {
            self.repeat.delay = Duration::from_micros(delay_us);
            self
        }
    }
}
