//! What the environment asks for: every `EFARUN_*` setting of the runtime, in one table, read once per World.
//!
//! An empty value counts as unset. A value that cannot be meant is an error naming variable and value, never a
//! silent default. Who a rank is and where its world meets is read by [`crate::bootstrap::identity`].

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use efarun_wire::env;

use crate::coll::select::Choice;

/// How a World behaves. [`Config::from_environment`] reads it; [`crate::world::Builder`] overrides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which transport serves ranks of one node.
    pub local_transport: LocalTransport,
    /// Which network carries messages between nodes.
    pub provider: Provider,
    /// This node's address that the other nodes reach, where it is not for the runtime to find.
    pub node_address: Option<IpAddr>,
    /// The algorithm of collectives that do not name one.
    pub algorithm: Choice,
    /// Whether leaves may take the place of messages between ranks that share memory.
    pub leaves: bool,
    /// Whether cards read GPU memory between nodes.
    pub gpu_direct: GpuDirect,
    /// Whether several ranks may share a GPU.
    pub shared_gpus: bool,
    /// How many blocks a collective of a node's GPUs has at most, each on a multiprocessor of its own.
    pub gpu_blocks: Option<NonZeroU32>,
    /// After how long without progress a collective is an error.
    pub deadline: Duration,
    /// After how long a world that is not complete is an error.
    pub bootstrap_timeout: Duration,
}

impl Config {
    /// Reads the settings.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for the first value that cannot be meant.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let defaults = Config::default();
        let local_transport = match environment.text(env::EFARUN_LOCAL_TRANSPORT)? {
            None => defaults.local_transport,
            Some("auto") => LocalTransport::Auto,
            Some("shm") => LocalTransport::Shm,
            Some("network") => LocalTransport::Network,
            Some(value) => {
                return Err(ConfigError::new(env::EFARUN_LOCAL_TRANSPORT, value, "auto, shm or network"));
            }
        };
        let algorithm = match environment.text(env::EFARUN_ALGORITHM)? {
            None => defaults.algorithm,
            Some(value) => {
                value.parse().map_err(|_| ConfigError::new(env::EFARUN_ALGORITHM, value, ALGORITHMS))?
            }
        };
        let leaves = match environment.text(env::EFARUN_LEAVES)? {
            None => defaults.leaves,
            Some("auto") => true,
            Some("off") => false,
            Some(value) => return Err(ConfigError::new(env::EFARUN_LEAVES, value, "auto or off")),
        };
        let gpu_direct = match environment.text(env::EFARUN_GPUDIRECT)? {
            None => defaults.gpu_direct,
            Some("auto") => GpuDirect::Auto,
            Some("off") => GpuDirect::Off,
            Some("required") => GpuDirect::Required,
            Some(value) => {
                return Err(ConfigError::new(env::EFARUN_GPUDIRECT, value, "auto, off or required"));
            }
        };
        Ok(Config {
            local_transport,
            algorithm,
            leaves,
            gpu_direct,
            shared_gpus: match environment.text(env::EFARUN_SHARED_GPUS)? {
                None => defaults.shared_gpus,
                Some("0") => false,
                Some("1") => true,
                Some(value) => return Err(ConfigError::new(env::EFARUN_SHARED_GPUS, value, "0 or 1")),
            },
            gpu_blocks: match environment.text(env::EFARUN_GPU_BLOCKS)? {
                None => defaults.gpu_blocks,
                Some(value) => Some(value.parse().map_err(|_| {
                    ConfigError::new(env::EFARUN_GPU_BLOCKS, value, "a whole number, 1 at least")
                })?),
            },
            provider: provider(environment)?,
            node_address: environment
                .text(env::EFARUN_NODE_ADDRESS)?
                .map(|value| {
                    value
                        .parse()
                        .map_err(|_| ConfigError::new(env::EFARUN_NODE_ADDRESS, value, "an IP address"))
                })
                .transpose()?,
            deadline: environment.seconds(env::EFARUN_DEADLINE)?.unwrap_or(defaults.deadline),
            bootstrap_timeout: environment
                .seconds(env::EFARUN_BOOTSTRAP_TIMEOUT)?
                .unwrap_or(defaults.bootstrap_timeout),
        })
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            local_transport: LocalTransport::Auto,
            provider: Provider::Auto,
            node_address: None,
            algorithm: Choice::Auto,
            leaves: true,
            gpu_direct: GpuDirect::Auto,
            shared_gpus: false,
            gpu_blocks: None,
            deadline: Duration::from_secs(300),
            bootstrap_timeout: Duration::from_secs(60),
        }
    }
}

fn provider(environment: &Environment) -> Result<Provider, ConfigError> {
    match environment.text(env::EFARUN_PROVIDER)? {
        Some("auto") => Ok(Provider::Auto),
        Some("efa") => Ok(Provider::Efa),
        Some("efa-rdm") => Ok(Provider::EfaRdm),
        Some("tcp") => Ok(Provider::Tcp),
        Some("fabric-tcp") => Ok(Provider::FabricTcp),
        Some(value) => {
            Err(ConfigError::new(env::EFARUN_PROVIDER, value, "auto, efa, efa-rdm, tcp or fabric-tcp"))
        }
        // Who sets libfabric's own variable means libfabric, which hides all providers that it does not name.
        None => Ok(match environment.text("FI_PROVIDER")? {
            None => Provider::Auto,
            Some(names) if names.starts_with('^') => Provider::Auto,
            Some(names) if names.split([',', ';']).any(|name| name.trim() == "efa") => Provider::Efa,
            Some(_) => Provider::FabricTcp,
        }),
    }
}

/// Which network carries messages between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// EFA where every rank's node has a device, TCP otherwise.
    Auto,
    /// EFA, by libfabric: by writes into each other's memory where every rank's devices can, by messages otherwise.
    Efa,
    /// EFA by messages, whatever the devices can.
    EfaRdm,
    /// TCP, by sockets of the runtime's own.
    Tcp,
    /// TCP, by libfabric.
    FabricTcp,
}

/// Which transport serves ranks of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalTransport {
    /// Shared memory.
    Auto,
    /// Shared memory; a world in which two ranks of one host cannot share memory is refused.
    Shm,
    /// The same as between nodes.
    Network,
}

/// Whether cards read GPU memory between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuDirect {
    /// Where all ranks' cards do; else it goes through the hosts' memory.
    Auto,
    /// Never.
    Off,
    /// Always; where a rank's cards do not, that is an error.
    Required,
}

/// Shown as the variables take them.
macro_rules! display_as_words {
    ($($type:ident { $($variant:ident => $word:literal),* })*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($type::$variant => $word),* })
            }
        }
    )*};
}

display_as_words! {
    LocalTransport { Auto => "auto", Shm => "shm", Network => "network" }
    Provider { Auto => "auto", Efa => "efa", EfaRdm => "efa-rdm", Tcp => "tcp", FabricTcp => "fabric-tcp" }
    GpuDirect { Auto => "auto", Off => "off", Required => "required" }
}

/// One setting, for help texts and the manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// What holds when it is unset.
    pub default: &'static str,
    /// What it does, a paragraph.
    pub about: &'static str,
}

/// Every variable that the runtime reads, but for those by which other launchers name ranks.
pub const SETTINGS: [Setting; 18] = [
    Setting {
        name: env::EFARUN_RANK,
        default: "what another launcher's variables say",
        about: "This process's rank. efarun sets it. Set by hand, together with EFARUN_WORLD_SIZE, it wins over \
                RANK, OMPI_COMM_WORLD_RANK, PMI_RANK and SLURM_PROCID.",
    },
    Setting {
        name: env::EFARUN_WORLD_SIZE,
        default: "what another launcher's variables say",
        about: "How many ranks the world has. Goes together with EFARUN_RANK.",
    },
    Setting {
        name: env::EFARUN_NODE_RANK,
        default: "none: ranks that can share memory are one node",
        about: "The node's number. efarun sets it; ranks of different numbers never count as one node.",
    },
    Setting {
        name: env::EFARUN_AGENT_FD,
        default: "none: the world stands alone",
        about: "The descriptor of the socket to the node's agent. efarun sets it.",
    },
    Setting {
        name: env::EFARUN_BOOTSTRAP,
        default: "none: needed for more than one rank without efarun",
        about: "host:port where ranks meet when no efarun started them. Rank 0 listens there, so host must be an \
                address of its machine and port free; torchrun's MASTER_PORT is not, its store listens there.",
    },
    Setting {
        name: env::EFARUN_BOOTSTRAP_TIMEOUT,
        default: "60",
        about: "Seconds until a world that is not complete is an error naming the ranks that are missing.",
    },
    Setting {
        name: env::EFARUN_KEY_FILE,
        default: "none: the meeting point must be on loopback",
        about: "A file of 64 hexadecimal digits that only its owner can read: the key of the meeting at \
                EFARUN_BOOTSTRAP, the same for all ranks. `openssl rand -hex 32` makes one.",
    },
    Setting {
        name: env::EFARUN_INSECURE,
        default: "0",
        about: "1 allows a meeting beyond loopback without a key: whoever reaches the port can join as a rank.",
    },
    Setting {
        name: env::EFARUN_LOCAL_TRANSPORT,
        default: "auto",
        about: "Which transport serves ranks of one node: auto and shm use shared memory, network what EFARUN_PROVIDER \
                says, as between nodes. shm refuses a world in which ranks of one host cannot share memory.",
    },
    Setting {
        name: env::EFARUN_PROVIDER,
        default: "what FI_PROVIDER says, else auto",
        about: "What carries messages between nodes. efa: EFA devices, by libfabric, writing into each other's memory \
                where all of them can. efa-rdm: EFA devices by messages, whatever they can. tcp: TCP by the runtime's own \
                sockets, which needs no library. fabric-tcp: TCP by libfabric, which is slower; FI_PROVIDER=tcp means \
                this too. auto takes efa where every node has a device, and tcp otherwise. The same on every rank.",
    },
    Setting {
        name: env::EFARUN_GPUDIRECT,
        default: "auto",
        about: "Whether EFA cards read GPU memory between nodes, for programs of NCCL on efarun's libnccl. auto: where every \
                rank's cards do, which is tried when a communicator is made; where they do not, GPU memory goes through the \
                hosts' memory, and rank 0 says why. off: never. required: a communicator that would go through the hosts' \
                memory is an error. The same on every rank.",
    },
    Setting {
        name: env::EFARUN_SHARED_GPUS,
        default: "0",
        about: "1 lets several ranks of a node share a GPU, to try a job out with fewer GPUs than ranks: slowly, as each \
                has a part of the GPU. Processes without NVIDIA's MPS take turns by the driver's clock, and are slower \
                still. Threads of one process want CUDA_DEVICE_MAX_CONNECTIONS=32. The same on every rank.",
    },
    Setting {
        name: env::EFARUN_GPU_BLOCKS,
        default: "as many as are fastest, up to 128",
        about: "How many blocks a collective on GPU memory may have within a node, each of which keeps a multiprocessor: fewer \
                leave more to what computes at the same time, and move large vectors slower. A block for each rank of the node \
                it has in any case. The least that any rank of the node says holds. For programs of NCCL their NCCL_MAX_CTAS \
                and their configuration (maxCTAs) say the same, in this order behind this. Between nodes a call has up to 17.",
    },
    Setting {
        name: env::EFARUN_NODE_ADDRESS,
        default: "that by which the ranks met",
        about: "The node's IP address that the other nodes reach, for TCP. Needed where that is another than the one \
                that leads to the meeting point, or to MASTER_ADDR under efarun.",
    },
    Setting {
        name: env::EFARUN_ALGORITHM,
        default: "auto",
        about: "How collectives are done: auto chooses by size and number of ranks; a name such as ring or tree holds \
                for the collectives that have it, the others are auto; pairs such as \
                all_reduce=ring,broadcast=chain hold for those named. The same on every rank.",
    },
    Setting {
        name: env::EFARUN_LEAVES,
        default: "auto",
        about: "How collectives are done between ranks of one node: auto takes what shared memory offers where \
                the algorithm has it, off sends messages always. Results are the same. The same on every rank.",
    },
    Setting {
        name: env::EFARUN_DEADLINE,
        default: "300",
        about: "Seconds without progress after which a collective is an error naming the rank it waits for.",
    },
    Setting {
        name: env::EFARUN_LOCAL_RANK,
        default: "counted by the runtime",
        about: "The rank's number on its node, for programs that choose a GPU by it. efarun sets it; the runtime \
                itself counts.",
    },
];

/// A setting whose value cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value:?}: expected {expected}")]
pub struct ConfigError {
    /// The variable.
    pub variable: &'static str,
    /// Its value.
    pub value: OsString,
    /// What could be meant.
    pub expected: &'static str,
}

impl ConfigError {
    pub(crate) fn new(variable: &'static str, value: impl AsRef<OsStr>, expected: &'static str) -> Self {
        ConfigError { variable, value: value.as_ref().to_owned(), expected }
    }
}

/// Environment variables, of this process or as a test wants them.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    variables: HashMap<OsString, OsString>,
}

impl Environment {
    /// Those of this process, as they are now.
    pub fn of_process() -> Self {
        Environment { variables: std::env::vars_os().collect() }
    }

    /// A variable's bytes; `None` when it is unset or empty.
    pub fn bytes(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// A variable that must be text.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when it is not UTF-8.
    pub fn text(&self, name: &'static str) -> Result<Option<&str>, ConfigError> {
        let Some(value) = self.bytes(name) else { return Ok(None) };
        value.to_str().map(|text| Some(text.trim())).ok_or_else(|| ConfigError::new(name, value, "text"))
    }

    /// A variable that must be a number.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when it is not one between 0 and 2^32 - 1.
    pub fn number(&self, name: &'static str) -> Result<Option<u32>, ConfigError> {
        let parse = |value: &str| value.parse().map_err(|_| ConfigError::new(name, value, "a whole number"));
        self.text(name)?.map(parse).transpose()
    }

    /// A variable that must be a time in seconds, with or without a fraction.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when it is not a number above 0 and up to a year.
    pub fn seconds(&self, name: &'static str) -> Result<Option<Duration>, ConfigError> {
        let expected = "seconds, more than 0 and at most a year";
        let parse = |value: &str| match value.parse::<f64>() {
            Ok(seconds) if (1e-3..=YEAR_S).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
            _ => Err(ConfigError::new(name, value, expected)),
        };
        self.text(name)?.map(parse).transpose()
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Environment {
            variables: pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        }
    }
}

/// What [`Choice`] takes.
const ALGORITHMS: &str = "auto, an algorithm (ring, tree, double-tree, doubling, chain, binomial, bruck, halving, direct or \
                          dissemination), or pairs such as all_reduce=ring,broadcast=chain of a collective and an \
                          algorithm that it has";
const YEAR_S: f64 = 365.0 * 86_400.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, value: &str) -> Result<Config, ConfigError> {
        Config::from_environment(&[(name, value)].into_iter().collect())
    }

    #[test]
    fn nothing_set_gives_the_defaults_of_the_table() {
        let config = Config::from_environment(&Environment::default()).expect("defaults");
        assert_eq!(config, Config::default());
        let default_of =
            |name| SETTINGS.iter().find(|setting| setting.name == name).expect("in the table").default;
        assert_eq!(default_of(env::EFARUN_DEADLINE), config.deadline.as_secs().to_string());
        assert_eq!(default_of(env::EFARUN_BOOTSTRAP_TIMEOUT), config.bootstrap_timeout.as_secs().to_string());
        assert_eq!(parse(env::EFARUN_DEADLINE, "").expect("empty is unset"), config);
    }

    #[test]
    fn values_are_taken() {
        assert_eq!(parse(env::EFARUN_DEADLINE, "1.5").expect("good").deadline, Duration::from_millis(1500));
        let local = parse(env::EFARUN_LOCAL_TRANSPORT, "network").expect("good").local_transport;
        assert_eq!(local, LocalTransport::Network);
        for (value, shared_gpus) in [("0", false), ("1", true)] {
            assert_eq!(parse(env::EFARUN_SHARED_GPUS, value).expect("good").shared_gpus, shared_gpus);
        }
        assert_eq!(parse(env::EFARUN_GPU_BLOCKS, "24").expect("good").gpu_blocks, NonZeroU32::new(24));
        let address = parse(env::EFARUN_NODE_ADDRESS, "10.0.0.7").expect("good").node_address;
        assert_eq!(address, Some(IpAddr::from([10, 0, 0, 7])));
    }

    #[test]
    fn the_provider_follows_libfabrics_own_variable_unless_it_is_set() {
        for (name, value, provider) in [
            (env::EFARUN_PROVIDER, "tcp", Provider::Tcp),
            (env::EFARUN_PROVIDER, "efa", Provider::Efa),
            (env::EFARUN_PROVIDER, "efa-rdm", Provider::EfaRdm),
            (env::EFARUN_PROVIDER, "fabric-tcp", Provider::FabricTcp),
            ("FI_PROVIDER", "tcp", Provider::FabricTcp),
            ("FI_PROVIDER", "efa", Provider::Efa),
            ("FI_PROVIDER", "shm,efa", Provider::Efa),
            ("FI_PROVIDER", "^efa", Provider::Auto),
            ("FI_PROVIDER", "tcp;ofi_rxm", Provider::FabricTcp),
        ] {
            assert_eq!(parse(name, value).expect("good").provider, provider, "{name}={value}");
        }
    }

    #[test]
    fn values_that_cannot_be_meant_are_named() {
        for (name, value) in [
            (env::EFARUN_DEADLINE, "0"),
            (env::EFARUN_DEADLINE, "-1"),
            (env::EFARUN_DEADLINE, "NaN"),
            (env::EFARUN_DEADLINE, "inf"),
            (env::EFARUN_DEADLINE, "5m"),
            (env::EFARUN_BOOTSTRAP_TIMEOUT, "soon"),
            (env::EFARUN_LOCAL_TRANSPORT, "SHM"),
            (env::EFARUN_ALGORITHM, "rings"),
            (env::EFARUN_ALGORITHM, "broadcast=ring"),
            (env::EFARUN_PROVIDER, "verbs"),
            (env::EFARUN_GPUDIRECT, "on"),
            (env::EFARUN_SHARED_GPUS, "yes"),
            (env::EFARUN_GPU_BLOCKS, "0"),
            (env::EFARUN_GPU_BLOCKS, "-1"),
            (env::EFARUN_GPU_BLOCKS, "all"),
            (env::EFARUN_NODE_ADDRESS, "myhost"),
        ] {
            let text = parse(name, value).expect_err("refused").to_string();
            assert!(text.starts_with(&format!("{name}={value:?}: expected ")), "{text}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        use std::os::unix::ffi::OsStrExt;
        let value = OsStr::from_bytes(b"\xff").to_owned();
        let environment = [(OsString::from(env::EFARUN_PROVIDER), value)].into_iter().collect();
        let error = Config::from_environment(&environment).expect_err("refused");
        assert_eq!(error.to_string(), r#"EFARUN_PROVIDER="\xFF": expected text"#);
    }
}
