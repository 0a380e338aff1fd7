//! `libnccl.so.2` by efarun: NCCL's C interface over the runtime's collectives on GPU memory.
//!
//! Programs that were built for NCCL 2.28 (nccl-tests, PyTorch, …) find this library by NCCL's name and run as they are. It
//! exports every function that NCCL's headers declare; what efarun cannot do answers `ncclInvalidUsage`, and a sentence
//! that `ncclGetLastError` gives.
//!
//! [`abi`] has NCCL's types, [`outcome`] its results, [`export`] how a function is exported: no panic leaves it. [`init`]
//! makes communicators as their [`settings`] say, [`comm`] is one, [`group`] collects what is called between `ncclGroupStart` and
//! `ncclGroupEnd`, [`between`] has what several nodes need, [`watch`] looks after ranks that are lost. [`operations`], [`memory`],
//! [`refused`] are the functions by subject.
//!
//! # What is not as with NCCL
//!
//! - A node has eight ranks of a communicator at most, a GPU each, unless `EFARUN_SHARED_GPUS=1` lets ranks share GPUs. Threads of
//!   one process that share one are of one node, need a stream each that waits for no default stream
//!   (`cudaStreamNonBlocking`), and keep the memory of communicators that have ended until the last one ends.
//! - Between nodes EFA cards read GPU memory where all of them can, which is tried when a communicator is made; else data goes
//!   through the hosts' memory, and on EFA rank 0 says why ([`between`], `EFARUN_GPUDIRECT`). There are 16 nodes at most.
//! - `ncclCommRegister` remembers a buffer and makes no call faster: one rank alone says so. Windows
//!   (`ncclCommWindowRegister`), which all ranks make together, let large calls read and write buffers where they lie.
//! - A communicator that is made with `blocking = 0` is there when the call returns. Of a configuration's other fields `maxCTAs` is heeded,
//!   as are `NCCL_MAX_CTAS` and `EFARUN_GPU_BLOCKS`, which come before it: no collective or message has more blocks within a node, but for
//!   one for each of its ranks. Between nodes there are up to 17, whatever they say.
//! - A rank that dies is an error on the others, `ncclRemoteError`, within seconds; with `EFARUN_DEADLINE` a rank that does
//!   not come is one, too.
#![deny(unsafe_code)]

mod abi;
mod between;
mod comm;
mod export;
mod group;
mod init;
mod meeting;
mod memory;
mod operations;
mod outcome;
mod refused;
mod settings;
mod watch;
