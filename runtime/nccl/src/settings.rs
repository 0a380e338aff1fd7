//! How a communicator is to be: what its caller's configuration and the environment say of it.
//!
//! Of `ncclConfig_t` we heed how many blocks (CTAs) collectives may have. The rest says how NVIDIA's library is to work, and goes unheeded.
//!
//! # Safety
//!
//! A configuration is the caller's. It says itself how long it is, as programs are built with headers of many versions, and no more of
//! it is read.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use std::mem::offset_of;
use std::num::NonZeroU32;

use efarun_rt::config::{Config as RuntimeConfig, Environment};
use efarun_rt::world::Builder;

use crate::outcome::Failure;

/// The beginning of `ncclConfig_t`, as far as we look at it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
}

/// What `NCCL_CONFIG_INITIALIZER` puts into a configuration.
const MAGIC: c_uint = 0xcafe_beef;
/// `NCCL_CONFIG_UNDEF_INT`.
const UNDEFINED: c_int = c_int::MIN;

/// What a configuration says that we heed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// How many blocks a collective may have.
    pub(crate) max_ctas: Option<NonZeroU32>,
}

impl Settings {
    /// Reads a configuration; none says nothing.
    ///
    /// # Errors
    ///
    /// What is no configuration, or cannot be meant.
    ///
    /// # Safety
    ///
    /// Where `config` is not null it has as many bytes as it says in the first of them, and as many as come before the CTAs at least.
    pub(crate) unsafe fn of(config: *const Config) -> Result<Option<Settings>, Failure> {
        if config.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller's promise; what it is built with may be shorter than `Config`, so that no reference is made to all of it.
        let (size, magic) = unsafe { ((*config).size, (*config).magic) };
        if magic != MAGIC {
            return Err(Failure::argument("the configuration was not begun with NCCL_CONFIG_INITIALIZER"));
        }
        let has_ctas = size >= offset_of!(Config, max_ctas) + size_of::<c_int>();
        let mut said = (UNDEFINED, UNDEFINED);
        if has_ctas {
            // SAFETY: it is as long as it says.
            said = unsafe { ((*config).min_ctas, (*config).max_ctas) };
        }
        let (min, max) = (ctas("minCTAs", said.0)?, ctas("maxCTAs", said.1)?);
        match (min, max) {
            (Some(min), Some(max)) if min > max => Err(Failure::argument(format!(
                "the configuration has minCTAs {min}, which is more than its maxCTAs {max}"
            ))),
            _ => Ok(Some(Settings { max_ctas: max })),
        }
    }

    /// Gives the settings to who makes a World, behind the environment's.
    ///
    /// # Errors
    ///
    /// What the environment says and cannot be meant.
    pub(crate) fn apply(self, builder: Builder) -> Result<Builder, Failure> {
        let environment = Environment::of_process();
        let runtime = RuntimeConfig::from_environment(&environment).map_err(efarun_rt::Error::from)?;
        let blocks = match runtime.gpu_blocks {
            Some(blocks) => Some(blocks),
            None => of_nccl_variables(&environment)?.or(self.max_ctas),
        };
        Ok(blocks.into_iter().fold(builder, Builder::gpu_blocks))
    }
}

fn ctas(name: &str, value: c_int) -> Result<Option<NonZeroU32>, Failure> {
    if value == UNDEFINED {
        return Ok(None);
    }
    let count = u32::try_from(value).ok().and_then(NonZeroU32::new);
    count.map(Some).ok_or_else(|| {
        Failure::argument(format!("the configuration's {name} is {value}, and must be 1 or more"))
    })
}

/// The older name comes second.
fn of_nccl_variables(environment: &Environment) -> Result<Option<NonZeroU32>, Failure> {
    for name in ["NCCL_MAX_CTAS", "NCCL_MAX_NCHANNELS"] {
        let Some(value) = environment.text(name).map_err(efarun_rt::Error::from)? else { continue };
        let count = value.trim().parse();
        let refused = |_| Failure::argument(format!("{name}={value:?}: expected a whole number, 1 at least"));
        return count.map(Some).map_err(refused);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(min_ctas: c_int, max_ctas: c_int) -> Config {
        let size = size_of::<Config>();
        Config {
            size,
            magic: MAGIC,
            version: 22809,
            blocking: UNDEFINED,
            cga_cluster_size: UNDEFINED,
            min_ctas,
            max_ctas,
        }
    }

    fn read(config: &Config) -> Result<Option<Settings>, Failure> {
        // SAFETY: all of it is there.
        unsafe { Settings::of(config) }
    }

    #[test]
    fn a_configuration_says_how_many_blocks_there_may_be() {
        let max = |config| read(&config).expect("good").expect("there is one").max_ctas.map(NonZeroU32::get);
        assert_eq!(max(config(UNDEFINED, UNDEFINED)), None);
        assert_eq!(max(config(UNDEFINED, 16)), Some(16));
        assert_eq!(max(config(4, 4)), Some(4));
        assert_eq!(max(config(8, UNDEFINED)), None);
        // SAFETY: null is none.
        assert_eq!(unsafe { Settings::of(std::ptr::null()) }.expect("good"), None);
    }

    #[test]
    fn what_stands_behind_a_shorter_configuration_is_not_read() {
        let short = Config { size: offset_of!(Config, cga_cluster_size), ..config(-7, -7) };
        assert_eq!(read(&short).expect("good"), Some(Settings::default()));
    }

    #[test]
    fn numbers_of_blocks_that_cannot_be_meant_are_refused() {
        for (min, max, said) in [(1, 0, "maxCTAs is 0"), (-1, 4, "minCTAs is -1"), (9, 8, "minCTAs 9")] {
            let failure = read(&config(min, max)).expect_err("refused");
            assert!(failure.reason.contains(said), "{}", failure.reason);
        }
        let failure = read(&Config { magic: 0, ..config(1, 1) }).expect_err("refused");
        assert!(failure.reason.contains("NCCL_CONFIG_INITIALIZER"), "{}", failure.reason);
    }

    #[test]
    fn nccls_variables_say_the_same_and_the_newer_one_first() {
        let environment = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Environment>();
        let read =
            |pairs: &[(&str, &str)]| of_nccl_variables(&environment(pairs)).map(|it| it.map(NonZeroU32::get));
        assert_eq!(read(&[]).expect("none"), None);
        assert_eq!(read(&[("NCCL_MAX_NCHANNELS", "8")]).expect("good"), Some(8));
        assert_eq!(read(&[("NCCL_MAX_NCHANNELS", "8"), ("NCCL_MAX_CTAS", "16")]).expect("good"), Some(16));
        for value in ["0", "-3", "all"] {
            let failure = read(&[("NCCL_MAX_CTAS", value)]).expect_err("refused");
            assert!(failure.reason.starts_with(&format!("NCCL_MAX_CTAS={value:?}")), "{}", failure.reason);
        }
    }
}
