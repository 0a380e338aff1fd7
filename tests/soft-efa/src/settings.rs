//! What the environment says about the devices. `scripts/soft-efa` writes these variables; a stranger may by hand.
//!
//! | variable | default | meaning |
//! |---|---|---|
//! | SOFTEFA_DEVICE | `p5` | the profile: `p4d` or `p5` |
//! | SOFTEFA_NICS | 1 | devices per host |
//! | SOFTEFA_MANNERS | `srd` | see [`crate::manners`] |
//! | SOFTEFA_FAULT | none | see [`crate::fault`] |
//! | SOFTEFA_SEED | 1 | where all choices come from |
//! | SOFTEFA_TIMEOUT_MS | 5000 | how long a peer may be silent before its operations fail |
//! | SOFTEFA_ADDRESS | this host's first | the IPv4 address by which other hosts reach this one |
//! | SOFTEFA_MEDIUM | `any` | `tcp` keeps the shared memory of a host unused |
//! | SOFTEFA_FABRIC | `default` | devices of different fabrics do not see each other |
//! | SOFTEFA_PORT | 18432 | the first TCP port of this host's queue pairs |
//! | SOFTEFA_SYSFS | one under /tmp | the folder that looks like /sys |
//! | SOFTEFA_LOG | unset | `1` says on stderr what the devices do |

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::fault::{Fault, FaultError};
use crate::manners::{Manners, MannersError};
use crate::profile::{P5, Profile};

/// The settings of all devices of a process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the devices are.
    pub profile: &'static Profile,
    /// How many.
    pub nics: u8,
    /// The network's manners.
    pub manners: Manners,
    /// What breaks.
    pub faults: Vec<Fault>,
    /// Where choices come from.
    pub seed: u64,
    /// How long a peer may be silent.
    pub timeout: Duration,
    /// This host's address; none is to be found out.
    pub address: Option<Ipv4Addr>,
    /// Whether processes of a host meet in shared memory.
    pub shares_memory: bool,
    /// Who sees whom.
    pub fabric: String,
    /// The first TCP port.
    pub first_port: u16,
    /// The folder that looks like /sys; none is to be made up.
    pub sysfs: Option<PathBuf>,
    /// Whether to say what happens.
    pub is_talkative: bool,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Its value cannot be read.
    #[error("{variable}=`{value}`: it takes {wanted}")]
    Value {
        /// The variable.
        variable: &'static str,
        /// What it is set to.
        value: String,
        /// What it takes.
        wanted: &'static str,
    },
    /// SOFTEFA_MANNERS.
    #[error("SOFTEFA_MANNERS: {0}")]
    Manners(#[from] MannersError),
    /// SOFTEFA_FAULT.
    #[error("SOFTEFA_FAULT: {0}")]
    Fault(#[from] FaultError),
}

impl Settings {
    /// Reads the settings by looking variables up. An empty variable counts as unset.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] for the first that cannot be used.
    pub fn read(look_up: impl Fn(&str) -> Option<String>) -> Result<Settings, SettingsError> {
        let variable = |name: &str| look_up(name).filter(|value| !value.is_empty());
        let ports = "a port from 1024 to 57343";
        Ok(Settings {
            profile: take(&variable, "SOFTEFA_DEVICE", "p4d or p5", &P5, Profile::named)?,
            nics: take(&variable, "SOFTEFA_NICS", "a number from 1 to 32", 1, |text| {
                text.parse().ok().filter(|nics| (1..=MAX_NICS).contains(nics))
            })?,
            manners: variable("SOFTEFA_MANNERS").map_or(Ok(Manners::SRD), |text| Manners::parse(&text))?,
            faults: variable("SOFTEFA_FAULT").map_or(Ok(Vec::new()), |text| Fault::parse(&text))?,
            seed: take(&variable, "SOFTEFA_SEED", "a number", 1, |text| text.parse().ok())?,
            timeout: take(
                &variable,
                "SOFTEFA_TIMEOUT_MS",
                "milliseconds from 10 on",
                DEFAULT_TIMEOUT,
                |text| {
                    text.parse().ok().filter(|ms| (10..=3_600_000).contains(ms)).map(Duration::from_millis)
                },
            )?,
            address: take(&variable, "SOFTEFA_ADDRESS", "an IPv4 address", None, |text| {
                text.parse().ok().map(Some)
            })?,
            shares_memory: take(&variable, "SOFTEFA_MEDIUM", "`any` or `tcp`", true, |text| match text {
                "any" => Some(true),
                "tcp" => Some(false),
                _ => None,
            })?,
            fabric: take(
                &variable,
                "SOFTEFA_FABRIC",
                "at most 32 letters, digits and dashes",
                "default".to_owned(),
                |text| {
                    let fits =
                        text.len() <= 32 && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
                    fits.then(|| text.to_owned())
                },
            )?,
            // Every device has a port for each of its queue pairs.
            first_port: take(&variable, "SOFTEFA_PORT", ports, 18_432, |text| {
                text.parse().ok().filter(|port| (1024..=57_343).contains(port))
            })?,
            sysfs: variable("SOFTEFA_SYSFS").map(PathBuf::from),
            is_talkative: variable("SOFTEFA_LOG").is_some_and(|value| value != "0"),
        })
    }
}

fn take<T>(
    variable: &impl Fn(&str) -> Option<String>,
    name: &'static str,
    wanted: &'static str,
    default: T,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, SettingsError> {
    let Some(value) = variable(name) else { return Ok(default) };
    parse(&value).ok_or(SettingsError::Value { variable: name, value, wanted })
}

/// The most devices that a host may have.
pub const MAX_NICS: u8 = 32;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::read(move |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
    }

    #[test]
    fn nothing_set_is_one_p5_device() {
        let settings = read(&[("SOFTEFA_NICS", "")]).unwrap();
        assert_eq!((settings.profile.name, settings.nics, settings.manners), ("p5", 1, Manners::SRD));
    }

    #[test]
    fn settings_that_cannot_be_used_are_named() {
        for (variable, value) in [
            ("SOFTEFA_DEVICE", "p3"),
            ("SOFTEFA_NICS", "0"),
            ("SOFTEFA_NICS", "33"),
            ("SOFTEFA_MANNERS", "rude"),
            ("SOFTEFA_FAULT", "fire"),
            ("SOFTEFA_SEED", "-1"),
            ("SOFTEFA_TIMEOUT_MS", "9"),
            ("SOFTEFA_ADDRESS", "fe80::1"),
            ("SOFTEFA_MEDIUM", "air"),
            ("SOFTEFA_FABRIC", "a/b"),
            ("SOFTEFA_PORT", "80"),
        ] {
            let error = read(&[(variable, value)]).unwrap_err().to_string();
            assert!(error.contains(variable) && error.contains(value), "{error}");
        }
    }
}
