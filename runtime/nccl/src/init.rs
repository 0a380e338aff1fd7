//! Making and ending communicators, and what there is to know of one.
//!
//! # Safety
//!
//! Pointers are the caller's, as NCCL's header has them: null is refused, and what is not null must be what it is said to be.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use efarun_rt::bootstrap::identity::Identity;
use efarun_rt::bootstrap::invitation::Invitation;
use efarun_rt::cuda::Device;
use efarun_rt::relay::BLOCKS_MAX;
use efarun_rt::{Rank, World};

use crate::abi::{CommHandle, NO_COLOR, StaticText, UniqueId, VERSION};
use crate::between::Between;
use crate::comm::Comm;
use crate::export::export;
use crate::group::{self, Job, Setup};
use crate::meeting;
use crate::outcome::{Failure, Outcome, last_reason};
use crate::settings::{Config, Settings};
use crate::watch;

export! {
    /// Says which NCCL's interface this is.
    fn ncclGetVersion, pncclGetVersion(version: *mut c_int) {
        // SAFETY: the caller's pointer.
        unsafe { put(version, VERSION, "version") }
    }

    /// Opens a meeting point of this process, and gives the id that leads ranks to it.
    fn ncclGetUniqueId, pncclGetUniqueId(unique_id: *mut UniqueId) {
        if unique_id.is_null() {
            return Err(Failure::argument("uniqueId is null"));
        }
        // SAFETY: the caller's pointer.
        unsafe { put(unique_id, meeting::open()?, "uniqueId") }
    }

    /// Makes this process's rank of a communicator, on the current device. Blocks until all ranks have called it.
    fn ncclCommInitRank, pncclCommInitRank(comm: *mut CommHandle, ranks: c_int, id: UniqueId, rank: c_int) {
        group::submit(init_rank(comm, ranks, &id, rank, Settings::default()))
    }

    /// As `ncclCommInitRank`; a configuration that asks not to block is answered when it is done.
    fn ncclCommInitRankConfig, pncclCommInitRankConfig(
        comm: *mut CommHandle, ranks: c_int, id: UniqueId, rank: c_int, config: *mut Config,
    ) {
        // SAFETY: the caller's pointer.
        let settings = unsafe { Settings::of(config) }?;
        group::submit(init_rank(comm, ranks, &id, rank, settings.unwrap_or_default()))
    }

    /// As `ncclCommInitRankConfig`; the first of the ids is the one that is used.
    fn ncclCommInitRankScalable, pncclCommInitRankScalable(
        comm: *mut CommHandle, ranks: c_int, rank: c_int, id_count: c_int, ids: *mut UniqueId, config: *mut Config,
    ) {
        if ids.is_null() || id_count < 1 {
            return Err(Failure::argument("there is no unique id"));
        }
        // SAFETY: the caller's pointers; there is one at least.
        let (settings, id) = unsafe { (Settings::of(config)?, *ids) };
        group::submit(init_rank(comm, ranks, &id, rank, settings.unwrap_or_default()))
    }

    /// Makes all ranks of a communicator in this process, one on each of these devices, of which one is named more than once
    /// only where ranks may share it (`EFARUN_SHARED_GPUS`).
    fn ncclCommInitAll, pncclCommInitAll(comms: *mut CommHandle, count: c_int, devices: *const c_int) {
        let Ok(ranks) = u32::try_from(count) else {
            return Err(Failure::argument(format!("there cannot be {count} devices")));
        };
        if comms.is_null() || ranks == 0 {
            return Err(Failure::argument("there is no place for communicators"));
        }
        // SAFETY: the caller's pointer to so many numbers, where it is not null.
        let ordinal = |rank: u32| if devices.is_null() { rank as c_int } else { unsafe { *devices.add(rank as usize) } };
        let open = |rank| Device::open(u32::try_from(ordinal(rank)).unwrap_or(u32::MAX));
        let devices = (0..ranks).map(open).collect::<Result<Vec<_>, _>>()?;
        let made = init_all(devices)?;
        for (rank, handle) in made.into_iter().enumerate() {
            // SAFETY: the caller's memory for so many handles.
            unsafe { *comms.add(rank) = handle };
        }
        Ok(())
    }

    /// Makes a communicator of those ranks that name the same colour, in order of key.
    fn ncclCommSplit, pncclCommSplit(
        comm: CommHandle, color: c_int, key: c_int, new_comm: *mut CommHandle, config: *mut Config,
    ) {
        // SAFETY: the caller's pointer.
        let settings = unsafe { Settings::of(config) }?;
        group::submit(split(comm, color, key, new_comm, settings))
    }

    /// Makes a communicator of the ranks that are not left out. Only they call it.
    fn ncclCommShrink, pncclCommShrink(
        comm: CommHandle, excluded: *mut c_int, excluded_count: c_int, new_comm: *mut CommHandle, config: *mut Config,
        flags: c_int,
    ) {
        // SAFETY: the caller's pointer.
        let settings = unsafe { Settings::of(config) }?;
        if flags != 0 {
            return Err(Failure::usage(
                "ncclCommShrink after an abort is not supported: make a communicator by ncclCommInitRank",
            ));
        }
        let count = usize::try_from(excluded_count).unwrap_or(0);
        if excluded.is_null() && count > 0 {
            return Err(Failure::argument("the list of ranks to leave out is null"));
        }
        // SAFETY: the caller's pointer to so many numbers.
        let excluded: Vec<c_int> = (0..count).map(|index| unsafe { *excluded.add(index) }).collect();
        group::submit(shrink(comm, &excluded, new_comm, settings))
    }

    /// Waits for nothing: what was enqueued ends by itself, and `ncclCommDestroy` waits for it.
    fn ncclCommFinalize, pncclCommFinalize(comm: CommHandle) {
        Comm::of(comm).map(|_| ())
    }

    /// Ends a communicator when what was enqueued is done. Does not wait for the other ranks.
    fn ncclCommDestroy, pncclCommDestroy(comm: CommHandle) {
        if comm.is_null() {
            return Ok(());
        }
        Comm::retire(comm)?.end(false);
        Ok(())
    }

    /// Ends a communicator and what waits on the GPU. The other ranks learn that this one is gone.
    fn ncclCommAbort, pncclCommAbort(comm: CommHandle) {
        if comm.is_null() {
            return Ok(());
        }
        Comm::retire(comm)?.end(true);
        Ok(())
    }

    /// Says what went wrong with what was enqueued, without waiting.
    fn ncclCommGetAsyncError, pncclCommGetAsyncError(comm: CommHandle, result: *mut c_int) {
        let comm = Comm::of(comm)?;
        watch::look_after(&comm);
        let failure = comm.health().failure.clone();
        let outcome = failure.as_ref().map_or(Outcome::Success, |failure| failure.outcome);
        if let Some(failure) = failure {
            crate::outcome::answer(Err(failure));
        }
        // SAFETY: the caller's pointer.
        unsafe { put(result, outcome as c_int, "asyncError") }
    }

    /// How many ranks there are.
    fn ncclCommCount, pncclCommCount(comm: CommHandle, count: *mut c_int) {
        let comm = Comm::of(comm)?;
        // SAFETY: the caller's pointer.
        unsafe { put(count, comm.ranks as c_int, "count") }
    }

    /// Which device it is on.
    fn ncclCommCuDevice, pncclCommCuDevice(comm: CommHandle, device: *mut c_int) {
        let comm = Comm::of(comm)?;
        // SAFETY: the caller's pointer.
        unsafe { put(device, comm.device.ordinal() as c_int, "device") }
    }

    /// Which rank this is.
    fn ncclCommUserRank, pncclCommUserRank(comm: CommHandle, rank: *mut c_int) {
        let comm = Comm::of(comm)?;
        // SAFETY: the caller's pointer.
        unsafe { put(rank, comm.rank as c_int, "rank") }
    }

    /// Begins a group.
    fn ncclGroupStart, pncclGroupStart() {
        group::start();
        Ok(())
    }

    /// Ends a group; the outermost does what was called in it.
    fn ncclGroupEnd, pncclGroupEnd() {
        group::end()
    }
}

/// What a result means.
#[unsafe(no_mangle)]
extern "C" fn ncclGetErrorString(result: c_int) -> StaticText {
    Outcome::text(result).as_ptr()
}

/// As `ncclGetErrorString`, for profilers.
#[unsafe(no_mangle)]
extern "C" fn pncclGetErrorString(result: c_int) -> StaticText {
    ncclGetErrorString(result)
}

/// Why the last call of this thread failed that did.
#[unsafe(no_mangle)]
extern "C" fn ncclGetLastError(_comm: CommHandle) -> StaticText {
    last_reason()
}

/// As `ncclGetLastError`, for profilers.
#[unsafe(no_mangle)]
extern "C" fn pncclGetLastError(comm: CommHandle) -> StaticText {
    ncclGetLastError(comm)
}

/// Writes a result.
///
/// # Safety
///
/// Where `to` is not null it takes a `T`.
pub(crate) unsafe fn put<T>(to: *mut T, value: T, name: &str) -> Result<(), Failure> {
    if to.is_null() {
        return Err(Failure::argument(format!("{name} is null")));
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

/// Where a handle goes when it is made: by a thread, which takes no pointer.
#[derive(Clone, Copy)]
struct Place(usize);

impl Place {
    fn of(to: *mut CommHandle) -> Result<Place, Failure> {
        if to.is_null() {
            return Err(Failure::argument("the place for the communicator is null"));
        }
        Ok(Place(to.expose_provenance()))
    }

    fn fill(self, handle: CommHandle) {
        let to: *mut CommHandle = std::ptr::with_exposed_provenance_mut(self.0);
        // SAFETY: the caller's place for a handle, which it keeps until the group has ended.
        unsafe { to.write(handle) };
    }
}

fn init_rank(
    to: *mut CommHandle,
    ranks: c_int,
    id: &UniqueId,
    rank: c_int,
    settings: Settings,
) -> Result<Job, Failure> {
    let place = Place::of(to)?;
    let (count, number) = (u32::try_from(ranks).unwrap_or(0), u32::try_from(rank).unwrap_or(u32::MAX));
    if number >= count {
        return Err(Failure::argument(format!("there is no rank {rank} among {ranks}")));
    }
    let (invitation, id, device) = (meeting::invitation(id)?, *id, current_device()?);
    // Each rank of this process comes by itself.
    let order = next_order();
    let act = Box::new(move |is_only| {
        let by_efarun = if is_only && count > 1 { meeting::by_efarun(&id, number, count)? } else { None };
        let identity = by_efarun.unwrap_or_else(|| invited(number, count, invitation));
        place.fill(connect(identity, device, settings)?);
        watch::start();
        Ok(())
    });
    Ok(Job::Setup(Setup { order, act }))
}

fn invited(rank: u32, world_size: u32, invitation: Invitation) -> Identity {
    if world_size == 1 {
        return Identity::Alone;
    }
    Identity::Invited { rank: Rank(rank), world_size, invitation }
}

/// Makes a World, and a communicator of it.
fn connect(identity: Identity, device: Device, settings: Settings) -> Result<CommHandle, Failure> {
    let builder = World::builder()
        .identity(identity)
        .deadline(meeting::deadline())
        .bootstrap_timeout(meeting::patience());
    let mut world = settings.apply(builder)?.init()?;
    if world.node_count() == 1 {
        world.use_device(&device)?;
        return Ok(Comm::publish(world, device, None, settings));
    }
    let between = meet_between(&mut world, &device, settings)?;
    Ok(Comm::publish(world, device, Some(between), settings))
}

/// Makes what ranks of several nodes have: a World of the node's ranks on their GPUs, and Worlds that carry between nodes.
fn meet_between(world: &mut World, device: &Device, settings: Settings) -> Result<Between, Failure> {
    let (rank, ranks) = (world.rank().0, world.world_size());
    let at = Between::standpoint(world.topology(), world.rank());
    // The first of a node invites the others of it, and the first of all everybody, as often as there are lanes.
    let mut mine = Vec::new();
    let leads_node = at.locals > 1 && at.local == 0;
    for _ in 0..usize::from(leads_node) + if rank == 0 { LANES } else { 0 } {
        mine.extend_from_slice(&meeting::open()?.internal);
    }
    let all = world.exchange("nccl-nodes", None, mine)?;
    let join = |leader: u32, index: usize, rank: u32, count: u32| {
        let ids = all.get(leader as usize).map_or(&[][..], Vec::as_slice);
        let id = ids.chunks(size_of::<UniqueId>()).nth(index).and_then(|id| id.try_into().ok());
        let invitation = meeting::invitation(&UniqueId { internal: id.unwrap_or([0; 128]) })?;
        let builder = World::builder()
            .identity(invited(rank, count, invitation))
            .deadline(meeting::deadline())
            .bootstrap_timeout(meeting::patience());
        Ok::<World, Failure>(settings.apply(builder)?.init()?)
    };
    let node = if at.locals > 1 {
        let mut node = join(at.node * at.locals, 0, at.local, at.locals)?;
        node.use_device(device)?;
        check_sharing(&node)?;
        Some(node)
    } else {
        None
    };
    let first = usize::from(at.locals > 1);
    let lanes = (0..LANES).map(|lane| join(0, first + lane, rank, ranks)).collect::<Result<Vec<_>, _>>()?;
    Between::new(device, at, node, lanes, meeting::deadline())
}

/// Refuses ranks of several nodes that share a GPU where what carries between nodes has no place beside other ranks' kernels,
/// or would wait for them when it grows.
fn check_sharing(node: &World) -> Result<(), Failure> {
    let refusal = sharing_refusal(node.has_threads_on_one_gpu(), node.blocks_on_shared_gpu());
    refusal.map_or(Ok(()), |reason| Err(Failure::usage(format!("rank {} of its node {reason}", node.rank()))))
}

fn sharing_refusal(has_threads_on_one_gpu: bool, blocks: Option<u32>) -> Option<String> {
    if has_threads_on_one_gpu {
        return Some(
            "is of a process with several ranks on one GPU, and the communicator is of several nodes: start a process for \
             each rank"
                .to_owned(),
        );
    }
    blocks.filter(|&blocks| blocks < BLOCKS_MAX).map(|blocks| {
        format!(
            "shares GPUs of which each rank has {blocks} multiprocessors, and the communicator is of several nodes, which \
             takes {BLOCKS_MAX}: use fewer ranks or more GPUs"
        )
    })
}

/// Connections between each two nodes that a rank has, and threads: one does not carry what a network can.
const LANES: usize = 4;

fn init_all(devices: Vec<Device>) -> Result<Vec<CommHandle>, Failure> {
    let builder = World::builder()
        .deadline(meeting::deadline())
        .bootstrap_timeout(meeting::patience())
        .shared_gpus(meeting::shared_gpus()?);
    let settings = Settings::default();
    let worlds = settings.apply(builder)?.thread_worlds(devices.len() as u32)?;
    let give = |(mut world, device): (World, Device)| {
        world.use_device(&device)?;
        Ok((world, device))
    };
    let given = std::thread::scope(|scope| {
        let threads: Vec<_> =
            worlds.into_iter().zip(devices).map(|rank| scope.spawn(move || give(rank))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<(World, Device), Failure>>| {
            thread.join().unwrap_or_else(|_| Err(Failure::internal("a thread that set a rank up panicked")))
        };
        threads.into_iter().map(join).collect::<Vec<_>>()
    });
    let given = given.into_iter().collect::<Result<Vec<_>, _>>()?;
    watch::start();
    Ok(given.into_iter().map(|(world, device)| Comm::publish(world, device, None, settings)).collect())
}

fn split(
    comm: CommHandle,
    color: c_int,
    key: c_int,
    to: *mut CommHandle,
    settings: Option<Settings>,
) -> Result<Job, Failure> {
    let (comm, place) = (Comm::of(comm)?, Place::of(to)?);
    if color < 0 && color != NO_COLOR {
        return Err(Failure::argument(format!(
            "{color} is no colour: colours are 0 and more, or NCCL_SPLIT_NOCOLOR"
        )));
    }
    let order = comm.number;
    let act = Box::new(move |_| {
        comm.check()?;
        let mine = [color.to_le_bytes(), key.to_le_bytes()].concat();
        let all = comm.with_world(|world| Ok(world.exchange("nccl-split", None, mine)?))?;
        let word = |bytes: &[u8], at: usize| {
            bytes.get(at..at + 4).and_then(|it| it.try_into().ok()).map_or(NO_COLOR, c_int::from_le_bytes)
        };
        let mut members: Vec<(c_int, u32)> = (0..)
            .zip(&all)
            .filter(|(_, bytes)| color != NO_COLOR && word(bytes, 0) == color)
            .map(|(rank, bytes)| (word(bytes, 4), rank))
            .collect();
        members.sort_unstable();
        let members: Vec<u32> = members.into_iter().map(|(_, rank)| rank).collect();
        let handle = subset(&comm, &members, None, settings)?;
        place.fill(handle);
        Ok(())
    });
    Ok(Job::Setup(Setup { order, act }))
}

fn shrink(
    comm: CommHandle,
    excluded: &[c_int],
    to: *mut CommHandle,
    settings: Option<Settings>,
) -> Result<Job, Failure> {
    let (comm, place) = (Comm::of(comm)?, Place::of(to)?);
    let is_excluded = |rank: &u32| excluded.contains(&(*rank as c_int));
    if is_excluded(&comm.rank) {
        return Err(Failure::usage("a rank that is left out does not call ncclCommShrink"));
    }
    let members: Vec<u32> = (0..comm.ranks).filter(|rank| !is_excluded(rank)).collect();
    let order = comm.number;
    let act = Box::new(move |_| {
        comm.check()?;
        let among: Vec<Rank> = members.iter().copied().map(Rank).collect();
        place.fill(subset(&comm, &members, Some(&among), settings)?);
        Ok(())
    });
    Ok(Job::Setup(Setup { order, act }))
}

/// Makes a communicator of some ranks of another, in this order; none for a rank that is not among them. `among` are
/// those who call this, all where it is none. Its settings are the other's, unless there are others.
fn subset(
    comm: &Arc<Comm>,
    members: &[u32],
    among: Option<&[Rank]>,
    settings: Option<Settings>,
) -> Result<CommHandle, Failure> {
    let settings = settings.unwrap_or(comm.settings);
    let place = members.iter().position(|&rank| rank == comm.rank);
    // The first member invites the others.
    let id = if place == Some(0) && members.len() > 1 { Some(meeting::open()?) } else { None };
    let mine = id.map_or_else(Vec::new, |id| id.internal.to_vec());
    let all = comm.with_world(|world| Ok(world.exchange("nccl-subset", among, mine)?))?;
    let Some(place) = place else { return Ok(std::ptr::null_mut()) };
    if members.len() == 1 {
        return connect(Identity::Alone, comm.device.clone(), settings);
    }
    let index = match among {
        Some(among) => among.iter().position(|rank| rank.0 == members[0]).unwrap_or(0),
        None => members[0] as usize,
    };
    let bytes = all.get(index).and_then(|bytes| bytes.as_slice().try_into().ok());
    let invitation = meeting::invitation(&UniqueId { internal: bytes.unwrap_or([0; 128]) })?;
    let identity = invited(place as u32, members.len() as u32, invitation);
    connect(identity, comm.device.clone(), settings)
}

/// The device that is current on this thread, as the driver says; where none is, the one that CUDA's runtime library has
/// chosen, and the first where there is no such library.
pub(crate) fn current_device() -> Result<Device, Failure> {
    if let Some(device) = Device::current()? {
        return Ok(device);
    }
    // SAFETY: looks a name up among what is loaded.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"cudaGetDevice".as_ptr()) };
    let mut ordinal = 0;
    if !symbol.is_null() {
        // SAFETY: CUDA's function of this name has this type.
        let ask: unsafe extern "C" fn(*mut c_int) -> c_int =
            unsafe { std::mem::transmute::<*mut c_void, _>(symbol) };
        // SAFETY: writes one number.
        if unsafe { ask(&raw mut ordinal) } != 0 {
            ordinal = 0;
        }
    }
    Ok(Device::open(u32::try_from(ordinal).unwrap_or(0))?)
}

/// An order that nothing else has.
fn next_order() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    // Communicators' numbers end in zeros.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    (NEXT.fetch_add(1, Ordering::Relaxed) << 8) | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_several_nodes_share_gpus_as_processes_with_room_for_transfers() {
        assert_eq!((sharing_refusal(false, None), sharing_refusal(false, Some(17))), (None, None));
        let crowded = sharing_refusal(false, Some(13)).expect("an A100 of eight ranks");
        assert!(crowded.contains("13 multiprocessors") && crowded.contains("takes 17"), "{crowded}");
        let threads = sharing_refusal(true, Some(66)).expect("threads");
        assert!(threads.contains("a process for each rank"), "{threads}");
    }
}
