//! What NCCL's headers declare and efarun does not do: each function says so, and what to use instead.
//!
//! # Safety
//!
//! As in `init`.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use crate::abi::{CommHandle, SimInfo, Team};
use crate::comm::Comm;
use crate::export::export;
use crate::group;
use crate::outcome::Failure;

export! {
    /// Refused.
    fn ncclCommRevoke, pncclCommRevoke(_comm: CommHandle, _flags: c_int) {
        refuse("ncclCommRevoke: use ncclCommAbort, of which the other ranks learn")
    }

    /// Refused; the group is ended, and nothing of it is done.
    fn ncclGroupSimulateEnd, pncclGroupSimulateEnd(_info: *mut SimInfo) {
        group::discard()?;
        refuse("ncclGroupSimulateEnd: how long a group would take is not estimated; it was not run")
    }

    /// Refused.
    fn ncclDevCommCreate, pncclDevCommCreate(_comm: CommHandle, _needs: *const c_void, _to: *mut c_void) {
        refuse("ncclDevCommCreate: kernels that call NCCL themselves are not served; call from the host")
    }

    /// Refused.
    fn ncclDevCommDestroy, pncclDevCommDestroy(_comm: CommHandle, _dev_comm: *const c_void) {
        refuse("ncclDevCommDestroy: there are no communicators on devices")
    }

    /// Refused.
    fn ncclLsaBarrierCreateRequirement, pncclLsaBarrierCreateRequirement(
        _team: Team, _count: c_int, _handle: *mut c_void, _needs: *mut c_void,
    ) {
        refuse("ncclLsaBarrierCreateRequirement: kernels that call NCCL themselves are not served")
    }

    /// Refused.
    fn ncclGinBarrierCreateRequirement, pncclGinBarrierCreateRequirement(
        _comm: CommHandle, _team: Team, _count: c_int, _handle: *mut c_void, _needs: *mut c_void,
    ) {
        refuse("ncclGinBarrierCreateRequirement: kernels that call NCCL themselves are not served")
    }

    /// Refused.
    fn ncclLLA2ACreateRequirement, pncclLLA2ACreateRequirement(
        _blocks: c_int, _slots: c_int, _handle: *mut c_void, _needs: *mut c_void,
    ) {
        refuse("ncclLLA2ACreateRequirement: kernels that call NCCL themselves are not served")
    }
}

fn refuse(reason: &str) -> Result<(), Failure> {
    Err(Failure::usage(format!("not supported by efarun: {reason}")))
}

/// No slots, as there is nothing to put into them.
#[unsafe(no_mangle)]
extern "C" fn ncclLLA2ACalcSlots(_elements_max: c_int, _element_bytes_max: c_int) -> c_int {
    0
}

/// Does nothing: it was never part of NCCL's interface.
#[unsafe(no_mangle)]
extern "C" fn ncclResetDebugInit() {}

/// As `ncclResetDebugInit`.
#[unsafe(no_mangle)]
extern "C" fn pncclResetDebugInit() {}

/// All ranks; none where the communicator is none.
#[unsafe(no_mangle)]
extern "C" fn ncclTeamWorld(comm: CommHandle) -> Team {
    Comm::of(comm).map_or(Team { ranks: 0, rank: 0, stride: 0 }, |comm| Team {
        ranks: comm.ranks as c_int,
        rank: comm.rank as c_int,
        stride: 1,
    })
}

/// The ranks whose memory each reaches: all.
#[unsafe(no_mangle)]
extern "C" fn ncclTeamLsa(comm: CommHandle) -> Team {
    ncclTeamWorld(comm)
}

/// The ranks of the same number on other nodes: this one alone.
#[unsafe(no_mangle)]
extern "C" fn ncclTeamRail(comm: CommHandle) -> Team {
    Comm::of(comm).map_or(Team { ranks: 0, rank: 0, stride: 0 }, |_| Team { ranks: 1, rank: 0, stride: 1 })
}

/// A team's rank, as a rank of the communicator.
#[unsafe(no_mangle)]
extern "C" fn ncclTeamRankToWorld(comm: CommHandle, team: Team, rank: c_int) -> c_int {
    Comm::of(comm).map_or(-1, |comm| {
        (rank.wrapping_sub(team.rank)).wrapping_mul(team.stride).wrapping_add(comm.rank as c_int)
    })
}

/// A team's rank, among those whose memory is reached.
#[unsafe(no_mangle)]
extern "C" fn ncclTeamRankToLsa(comm: CommHandle, team: Team, rank: c_int) -> c_int {
    ncclTeamRankToWorld(comm, team, rank)
}
