//! Names of the environment variables that launcher and runtime agree on.

/// A rank's number, by efarun.
pub const EFARUN_RANK: &str = "EFARUN_RANK";
/// World size, by efarun.
pub const EFARUN_WORLD_SIZE: &str = "EFARUN_WORLD_SIZE";
/// A rank's number on its node, by efarun.
pub const EFARUN_LOCAL_RANK: &str = "EFARUN_LOCAL_RANK";
/// Number of ranks on the node, by efarun.
pub const EFARUN_LOCAL_WORLD_SIZE: &str = "EFARUN_LOCAL_WORLD_SIZE";
/// The node's number, by efarun.
pub const EFARUN_NODE_RANK: &str = "EFARUN_NODE_RANK";
/// The node's address that the other nodes reach, where efarun knows it.
pub const EFARUN_NODE_ADDRESS: &str = "EFARUN_NODE_ADDRESS";
/// Number of nodes, by efarun.
pub const EFARUN_NODE_COUNT: &str = "EFARUN_NODE_COUNT";
/// The job's id, in hexadecimal.
pub const EFARUN_JOB_ID: &str = "EFARUN_JOB_ID";
/// The file descriptor of the socket to the agent. Present only under efarun.
pub const EFARUN_AGENT_FD: &str = "EFARUN_AGENT_FD";
/// Where the bootstrap meets when no launcher is present: `host:port`.
pub const EFARUN_BOOTSTRAP: &str = "EFARUN_BOOTSTRAP";
/// Seconds until a bootstrap that is not complete is an error.
pub const EFARUN_BOOTSTRAP_TIMEOUT: &str = "EFARUN_BOOTSTRAP_TIMEOUT";
/// A file with the bootstrap's key: 64 hexadecimal digits, readable by its owner alone.
pub const EFARUN_KEY_FILE: &str = "EFARUN_KEY_FILE";
/// `1` allows a bootstrap without a key beyond loopback.
pub const EFARUN_INSECURE: &str = "EFARUN_INSECURE";
/// `auto`, `efa`, `efa-rdm`, `tcp` or `fabric-tcp`: what carries messages between nodes.
pub const EFARUN_PROVIDER: &str = "EFARUN_PROVIDER";
/// Whether cards read GPU memory between nodes.
pub const EFARUN_GPUDIRECT: &str = "EFARUN_GPUDIRECT";
/// `auto`, `shm` or `network`: which transport serves ranks of one node.
pub const EFARUN_LOCAL_TRANSPORT: &str = "EFARUN_LOCAL_TRANSPORT";
/// `ring`, `tree` or `auto`.
pub const EFARUN_ALGORITHM: &str = "EFARUN_ALGORITHM";
/// `auto` or `off`: whether collectives on one node go without messages where they can.
pub const EFARUN_LEAVES: &str = "EFARUN_LEAVES";
/// 1 lets several ranks share a GPU.
pub const EFARUN_SHARED_GPUS: &str = "EFARUN_SHARED_GPUS";
/// The most blocks of a collective on GPU memory.
pub const EFARUN_GPU_BLOCKS: &str = "EFARUN_GPU_BLOCKS";
/// Seconds after which a collective that does not get on is an error.
pub const EFARUN_DEADLINE: &str = "EFARUN_DEADLINE";
