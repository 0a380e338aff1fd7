//! Where a transfer's slices lie while hosts exchange them.

use std::sync::Arc;

use super::far::parameters::BOX_BYTES as FAR_BOX_BYTES;
use super::parameters::{CHANNELS, SLOT_BYTES};
use crate::cuda::{CudaError, Device, DevicePointer, HostMemory};
use crate::transport::fabric::reads::Room;

/// What kernels put slices into, and what they get them from: a part for each channel, and behind those of transfers the places of
/// messages.
#[derive(Debug)]
pub(super) enum Staging {
    /// Memory of the host, which Worlds send from and receive into.
    Host {
        /// For what is put,
        outbox: HostMemory,
        /// and for what is got.
        inbox: HostMemory,
    },
    /// Memory of the GPU, which the nodes' cards read; see [`super::direct`].
    Gpu(Arc<Room>),
}

impl Staging {
    /// Memory of the host.
    pub(super) fn on_host(device: &Device) -> Result<Staging, CudaError> {
        let words = (BOX_BYTES + FAR_BOX_BYTES) / size_of::<u64>();
        Ok(Staging::Host { outbox: HostMemory::new(device, words)?, inbox: HostMemory::new(device, words)? })
    }

    pub(super) fn outbox(&self) -> DevicePointer {
        match self {
            Staging::Host { outbox, .. } => outbox.pointer(),
            Staging::Gpu(room) => DevicePointer(room.address()).offset(OUTBOX),
        }
    }

    pub(super) fn inbox(&self) -> DevicePointer {
        match self {
            Staging::Host { inbox, .. } => inbox.pointer(),
            Staging::Gpu(room) => DevicePointer(room.address()).offset(INBOX),
        }
    }
}

/// What transfers take of an outbox or an inbox.
pub(super) const BOX_BYTES: usize = CHANNELS * SLOT_BYTES;
/// Of a room on the GPU: where what is put lies, and what is got.
pub(super) const OUTBOX: usize = 0;
pub(super) const INBOX: usize = BOX_BYTES + FAR_BOX_BYTES;
pub(super) const ROOM_BYTES: usize = 2 * (BOX_BYTES + FAR_BOX_BYTES);
