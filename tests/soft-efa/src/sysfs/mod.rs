//! The folder that looks like /sys, for the provider and for tools.
//!
//! What it holds is data ([`mod@tree`]); [`Folder`] writes it, and takes it away again. The provider reads a device's PCI
//! address from where its `device` link leads, its driver from `device/driver`, and the version of the verbs interface
//! under `SYSFS_PATH`.

mod folder;
mod tree;

pub use folder::{Folder, SysfsError};
pub use tree::{ACTIVE, DISABLED, DOWN, Entry, LINK_UP, tree};
