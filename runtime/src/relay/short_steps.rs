//! Two short steps of a call between nodes in one launch (`cuda/kernels/short_steps.cuh`): a transfer, and a collective of the node in
//! front of it or behind it.
//!
//! Pure. What a rank does so others may do by launches of their own, one for each step.

use super::parameters::RelayParameters;
use super::transfer::Transfer;
use crate::nvlink::{DeviceElement, NodeStep, Parameters};

/// What goes into a launch.
#[derive(Clone, Debug)]
pub struct ShortSteps<'t> {
    /// Between nodes; [short](Transfer::is_short).
    pub transfer: &'t Transfer,
    /// Of the node: what the transfer may move, or of what it may have brought.
    pub node: NodeStep,
    /// Whether the node's comes first.
    pub is_node_first: bool,
}

impl ShortSteps<'_> {
    /// Of which type the kernel is: of what the node's step reduces, and the transfer, if it does.
    ///
    /// # Panics
    ///
    /// When the transfer reduces something else.
    pub(crate) fn element(&self) -> Option<DeviceElement> {
        let (element, reduction) = (self.node.element(), self.transfer.reduction);
        assert!(reduction.is_none_or(|reduction| Some(reduction.element) == element), "{self:?}");
        element
    }

    /// What the kernel is told, where the transfer is told this.
    ///
    /// # Panics
    ///
    /// When the transfer is not short.
    pub(crate) fn told(&self, relay: RelayParameters) -> ShortStepsParameters {
        assert!(self.transfer.is_short(), "{self:?}");
        ShortStepsParameters { relay, node: self.node.parameters(), is_node_first: self.is_node_first.into() }
    }
}

/// The kernels' `ShortStepsParameters`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct ShortStepsParameters {
    pub(crate) relay: RelayParameters,
    pub(crate) node: Parameters,
    pub(crate) is_node_first: u64,
}
