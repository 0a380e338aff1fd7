//! Collectives on GPUs: the kernels on an emulator ([`emulator`]) without a GPU, and on the machine's GPUs ([`gpus`]), also with
//! several ranks on one ([`shared_gpus`]).

mod collectives;
mod eighth;
mod emulator;
mod far;
mod far_hosts;
mod gpus;
mod launches;
mod messages;
mod protocol;
mod relay;
mod shared_gpus;
mod short_steps;
