//! Jobs as torchrun starts them.
//!
//! [`Torchrun`] is what a line asks for beside the job itself; `cli::torchrun` makes it. The rest of the launcher asks this
//! module what it means: [`chosen_hosts`] which hosts take part, [`resolved`] how many ranks a node has once the nodes
//! have said what they have, [`mod@folders`] where ranks' streams and error files go, [`error_file`] what a rank left in its
//! own, [`attempts`] whether the group is started again, [`by_hand`] how nodes come together where the line is typed on each.
//! Pure, but for the last two.

pub mod attempts;
pub mod by_hand;
pub mod error_file;
mod folders;
mod nodes;
mod spec;

pub use by_hand::{ByHand, ByHandError};
pub use folders::folders;
pub use nodes::{NodesError, chosen_hosts, resolved};
pub use spec::{Attempt, Logs, NodeRange, PerNode, ProgramKind, StreamChoice, Streams, Torchrun, command};
