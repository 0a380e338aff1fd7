//! A node of GPUs that are emulated: the kernels, compiled for the CPU by g++, with memory of the host.
//!
//! # Safety
//!
//! The library is compiled from the kernels that this package ships, and a test compares its layout with ours before
//! anything runs. Every address in a launch is memory of the [`Node`], or of buffers that the test holds.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::{CString, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use nix::fcntl::{Flock, FlockArg};

use crate::cuda::{DevicePointer, Grid};
use crate::element::ElementType;
use crate::nvlink::call::{DeviceElement, DeviceMessage};
use crate::nvlink::launch::{NodeStep, Request, Standing};
use crate::nvlink::layout::{RANKS_MAX, SLICE_UNIT_BYTES, STATE_BYTES, THREADS};
use crate::nvlink::pairs::{self, Numbers, PairLaunch, PairParameters, Slots};
use crate::nvlink::parameters::{Parameters, status};
use crate::nvlink::part::Leaf;
use crate::nvlink::room::Room;
use crate::relay::far::parameters::{AllParameters, FarParameters};
use crate::relay::parameters::RelayParameters;
use crate::relay::short_steps::ShortStepsParameters;

/// The compiled kernels.
pub(super) struct Emulator {
    library: *mut c_void,
}

// SAFETY: the handle is used to look symbols up only, and runs are made under a lock.
unsafe impl Send for Emulator {}
// SAFETY: as above.
unsafe impl Sync for Emulator {}

/// As in emulator.cpp.
#[repr(C)]
struct Launch {
    kernel: *mut c_void,
    parameters: *const c_void,
    blocks: u32,
    threads: u32,
}

type Run = unsafe extern "C" fn(
    u32,
    *const *const Launch,
    *const u64,
    u64,
    u64,
    Option<unsafe extern "C" fn(*mut c_void)>,
    *mut c_void,
) -> u64;

impl Emulator {
    /// Compiles the kernels, unless that was done; none, and a line that says so, where there is no g++.
    pub(super) fn new(test: &str) -> Option<Emulator> {
        if Command::new("g++").arg("--version").output().is_err() {
            println!("SKIPPED: {test}: there is no g++: run scripts/setup test");
            return None;
        }
        let path = CString::new(compiled().into_os_string().into_encoded_bytes()).expect("a path");
        // SAFETY: a library of ours, whose loading runs nothing but constructors of the C++ library's types.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!library.is_null(), "the emulator can be loaded");
        Some(Emulator { library })
    }

    /// A number that the kernels have.
    pub(super) fn constant(&self, which: u32) -> u64 {
        // SAFETY: the function has this type.
        let constant: unsafe extern "C" fn(u32) -> u64 =
            unsafe { std::mem::transmute(self.symbol("emulator_constant")) };
        // SAFETY: takes any number.
        unsafe { constant(which) }
    }

    /// Runs each rank's requests in order, beside those of the others. False when they do not end.
    pub(super) fn run(&self, node: &Node, requests: &[Vec<Request>], seed: u64, steps_max: u64) -> bool {
        let works = |requests: &Vec<Request>| requests.iter().copied().map(Work::Call).collect::<Vec<_>>();
        self.run_all(node, &requests.iter().map(works).collect::<Vec<_>>(), seed, steps_max)
    }

    /// As `run`, of calls and messages.
    pub(super) fn run_all(&self, node: &Node, works: &[Vec<Work>], seed: u64, steps_max: u64) -> bool {
        self.run_beside(node, works, seed, steps_max, None)
    }

    /// As `run_all`, with hosts that do something now and then.
    pub(super) fn run_beside(
        &self,
        node: &Node,
        works: &[Vec<Work>],
        seed: u64,
        steps_max: u64,
        host: Option<&mut dyn FnMut()>,
    ) -> bool {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let parameters: Vec<Vec<_>> = (0..works.len())
            .map(|rank| {
                let standing = node.standing(rank as u32);
                works[rank].iter().map(|work| work.told(&standing, &node.numbers[rank])).collect()
            })
            .collect();
        let calls = parameters.iter().flatten().filter(|(told, _)| !matches!(told, Told::Nothing));
        let blocks_max = calls.map(|(_, grid)| grid.blocks).max().unwrap_or(0);
        assert!(blocks_max <= node.room.blocks(), "{blocks_max} blocks: {:?}", node.room);
        let launch = |(work, (told, grid)): (&Work, &(Told, Grid))| Launch {
            kernel: work.kernel_name().map_or(std::ptr::null_mut(), |name| self.symbol(&name)),
            parameters: told.pointer(),
            blocks: grid.blocks,
            threads: grid.threads,
        };
        let launches: Vec<Vec<_>> = works
            .iter()
            .zip(&parameters)
            .map(|(works, told)| works.iter().zip(told).map(launch).collect())
            .collect();
        let pointers: Vec<_> = launches.iter().map(|launches| launches.as_ptr()).collect();
        let counts: Vec<_> = launches.iter().map(|launches| launches.len() as u64).collect();
        // SAFETY: the function has this type.
        let run: Run = unsafe { std::mem::transmute(self.symbol("emulate")) };
        let mut host = host;
        let (call, context): (Option<unsafe extern "C" fn(*mut c_void)>, _) = match &mut host {
            Some(host) => (Some(call_host), std::ptr::from_mut(host).cast()),
            None => (None, std::ptr::null_mut()),
        };
        // SAFETY: as many lists as ranks, with as many launches each as said; what they point to is the node's, the
        // parameters above, and the caller's for as long as this lasts; so is the host, which is called with itself.
        unsafe {
            run(works.len() as u32, pointers.as_ptr(), counts.as_ptr(), seed, steps_max, call, context) != 0
        }
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let c_name = CString::new(name).expect("a name");
        // SAFETY: the library stays loaded; the name is a C string.
        let symbol = unsafe { libc::dlsym(self.library, c_name.as_ptr()) };
        assert!(!symbol.is_null(), "the emulator has {name}");
        symbol
    }
}

/// Calls the host that a run has. A panic in it ends the test's process.
unsafe extern "C" fn call_host(context: *mut c_void) {
    // SAFETY: `run_beside` passes this, and lends it for as long as it runs.
    let host: &mut &mut dyn FnMut() = unsafe { &mut *context.cast() };
    host();
}

/// What a rank does next.
#[derive(Clone, Debug)]
pub(super) enum Work {
    Call(Request),
    /// Nothing, for so many thousand steps.
    Pause(u32),
    /// A transfer between nodes, in so many blocks; of a type where it reduces.
    Relay(Box<RelayParameters>, u32, Option<DeviceElement>),
    /// One that is short.
    ShortRelay(Box<RelayParameters>, Option<DeviceElement>),
    /// A collective of one of several nodes.
    NodeStep(NodeStep),
    /// A transfer that is short, and what the node does before it or behind it.
    ShortSteps(Box<ShortStepsParameters>, Option<DeviceElement>),
    /// Messages between nodes, in so many blocks.
    Far(Box<FarParameters>, u32),
    /// The same, beside what is sent and received within a node.
    All(Box<FarParameters>, u32, Vec<DeviceMessage>, Vec<DeviceMessage>),
    /// What is sent, and what is received.
    Messages(Vec<DeviceMessage>, Vec<DeviceMessage>),
}

/// Few and short ones, and messages that are long from little on: what is used again is used again soon.
pub(super) fn slots(ranks: u32) -> Slots {
    let bytes = if ranks.is_multiple_of(2) { SLICE_UNIT_BYTES } else { 2 * SLICE_UNIT_BYTES };
    // With three, a message can be too long for short slices and too short for all channels.
    let (channels, slices_per_channel) = if ranks == 3 { (4, 1) } else { (2, 2) };
    // Blocks that serve a channel each, that serve two, or one or two, by how many peers a rank has in a launch.
    let blocks = if ranks == 3 { 6 } else { 2 * (ranks - 1) - ranks / 4 };
    Slots { channels, bytes, slices_per_channel, message_bytes_min: 30_000, blocks }
}

/// What a kernel is told.
enum Told {
    Nothing,
    Relay(Box<RelayParameters>),
    ShortSteps(Box<ShortStepsParameters>),
    Far(Box<FarParameters>),
    All(Box<AllParameters>),
    Call(Box<Parameters>),
    Messages(Box<PairParameters>),
}

impl Work {
    fn told(&self, standing: &Standing, numbers: &Cell<Numbers>) -> (Told, Grid) {
        match self {
            Work::Pause(blocks) => (Told::Nothing, Grid { blocks: *blocks, threads: 0 }),
            Work::Relay(told, blocks, _) => {
                (Told::Relay(told.clone()), Grid { blocks: *blocks, threads: THREADS })
            }
            Work::ShortRelay(told, _) => (Told::Relay(told.clone()), Grid { blocks: 1, threads: THREADS }),
            Work::NodeStep(step) => {
                (Told::Call(Box::new(step.parameters())), Grid { blocks: 1, threads: THREADS })
            }
            Work::ShortSteps(told, _) => {
                (Told::ShortSteps(told.clone()), Grid { blocks: 1, threads: THREADS })
            }
            Work::Far(told, blocks) => (Told::Far(told.clone()), Grid { blocks: *blocks, threads: THREADS }),
            Work::Call(request) if request.leaf == Leaf::Slots => {
                let slots = slots(standing.ranks).within(standing.ranks, standing.room);
                let launch = pairs::of_blocks(standing, slots, request);
                (Told::Messages(Box::new(launch.parameters)), launch.grid)
            }
            Work::Call(request) => {
                let launch = request.launch(standing);
                (Told::Call(Box::new(launch.parameters)), launch.grid)
            }
            Work::All(far, blocks, sends, receives) => {
                let launch = next_launch(standing, numbers, sends, receives);
                let told = AllParameters { far: **far, near: launch.parameters };
                (Told::All(Box::new(told)), Grid { blocks: blocks + launch.grid.blocks, ..launch.grid })
            }
            Work::Messages(sends, receives) => {
                let launch = next_launch(standing, numbers, sends, receives);
                (Told::Messages(Box::new(launch.parameters)), launch.grid)
            }
        }
    }

    fn kernel_name(&self) -> Option<String> {
        Some(match self {
            Work::Pause(_) => return None,
            Work::Relay(_, _, element) => format!("relay_{}", element.map_or("bytes", element_name)),
            Work::ShortRelay(_, element) => format!("short_relay_{}", element.map_or("bytes", element_name)),
            Work::NodeStep(step) => format!("one_shot_{}", step.element().map_or("bytes", element_name)),
            Work::ShortSteps(_, element) => format!("short_steps_{}", element.map_or("bytes", element_name)),
            Work::Far(..) => "far_messages_bytes".to_owned(),
            Work::All(..) => "all_messages_bytes".to_owned(),
            Work::Messages(..) | Work::Call(Request { leaf: Leaf::Slots, .. }) => "pairs_bytes".to_owned(),
            Work::Call(request) => {
                let is_reduction = request.shape.is_reduction();
                let element = if is_reduction { element_name(request.element) } else { "bytes" };
                format!("{}_{element}", request.leaf.name().replace('-', "_"))
            }
        })
    }
}

impl Told {
    fn pointer(&self) -> *const c_void {
        match self {
            Told::Nothing => std::ptr::null(),
            Told::Relay(parameters) => std::ptr::from_ref(&**parameters).cast(),
            Told::ShortSteps(parameters) => std::ptr::from_ref(&**parameters).cast(),
            Told::Far(parameters) => std::ptr::from_ref(&**parameters).cast(),
            Told::All(parameters) => std::ptr::from_ref(&**parameters).cast(),
            Told::Call(parameters) => std::ptr::from_ref(&**parameters).cast(),
            Told::Messages(parameters) => std::ptr::from_ref(&**parameters).cast(),
        }
    }
}

/// Messages of a rank that has so many behind it.
fn next_launch(
    standing: &Standing,
    numbers: &Cell<Numbers>,
    sends: &[DeviceMessage],
    receives: &[DeviceMessage],
) -> PairLaunch {
    let mut now = numbers.get();
    let slots = slots(standing.ranks).within(standing.ranks, standing.room);
    let launch = pairs::launch(standing, slots, now, sends, receives);
    now.count(sends, receives);
    numbers.set(now);
    launch
}

/// What the ranks of a node have: windows, counters and statuses.
pub(super) struct Node {
    windows: Vec<Vec<u64>>,
    states: Vec<Vec<u64>>,
    statuses: Vec<Vec<u32>>,
    numbers: Vec<Cell<Numbers>>,
    deadline_ns: u64,
    room: Room,
}

impl Node {
    pub(super) fn new(ranks: u32, deadline_ns: u64) -> Node {
        let each = |words: usize| {
            let guarded = |_| {
                let mut memory = vec![0; words + GUARD_WORDS];
                memory[words..].fill(GUARD);
                memory
            };
            (0..ranks).map(guarded).collect()
        };
        Node {
            windows: each(slots(ranks).window_bytes(ranks) / 8),
            states: each(STATE_BYTES / 8),
            statuses: (0..ranks).map(|_| vec![0; status::WORDS]).collect(),
            numbers: (0..ranks).map(|_| Cell::new(Numbers::new())).collect(),
            deadline_ns,
            room: Room::WHOLE,
        }
    }

    /// The same, whose ranks share GPUs.
    pub(super) fn within(self, room: Room) -> Node {
        Node { room, ..self }
    }

    /// The words that a rank's kernels told its host.
    pub(super) fn status(&self, rank: usize) -> &[u32] {
        &self.statuses[rank]
    }

    /// That nobody wrote behind a window or behind a rank's counters.
    pub(super) fn check_guards(&self, what: &str) {
        for memory in self.windows.iter().chain(&self.states) {
            let guard = &memory[memory.len() - GUARD_WORDS..];
            assert!(
                guard.iter().all(|&word| word == GUARD),
                "{what}: somebody wrote behind what ranks share"
            );
        }
    }

    /// Sets every call counter and every number in cells as they would be after so many calls.
    pub(super) fn pretend_calls(&mut self, calls: u32) {
        for state in &mut self.states {
            let words = bytemuck::cast_slice_mut::<u64, u32>(state);
            let first = crate::nvlink::layout::STATE_CALLS / 4;
            words[first..first + crate::nvlink::layout::CHANNELS_MAX as usize].fill(calls);
        }
    }

    /// Lets a rank not count its messages, as where it runs them from a graph.
    pub(super) fn count_no_messages(&self, rank: usize) {
        self.numbers[rank].set(Numbers::unknown());
    }

    /// Tells a rank's kernels to stop, as its host would.
    pub(super) fn stop(&mut self, rank: usize) {
        self.statuses[rank][status::STOP] = 1;
    }

    pub(super) fn standing(&self, rank: u32) -> Standing {
        let mut windows = [DevicePointer(0); RANKS_MAX];
        for (pointer, window) in windows.iter_mut().zip(&self.windows) {
            *pointer = pointer_to(window);
        }
        Standing {
            rank,
            ranks: self.windows.len() as u32,
            room: self.room,
            windows,
            state: pointer_to(&self.states[rank as usize]),
            status: pointer_to(&self.statuses[rank as usize]),
            deadline_ns: self.deadline_ns,
        }
    }
}

/// Behind what ranks share: as much as a slot.
const GUARD_WORDS: usize = 2 * SLICE_UNIT_BYTES / 8;
const GUARD: u64 = 0x5afe_5afe_5afe_5afe;

/// Host memory as an address that kernels take.
pub(super) fn pointer_to<T>(memory: &[T]) -> DevicePointer {
    DevicePointer(memory.as_ptr().expose_provenance() as u64)
}

/// As kernels are named.
fn element_name(element: DeviceElement) -> &'static str {
    match element {
        DeviceElement::Of(ElementType::I8) => "i8",
        DeviceElement::Of(ElementType::U8) => "u8",
        DeviceElement::Of(ElementType::I16) => "i16",
        DeviceElement::Of(ElementType::U16) => "u16",
        DeviceElement::Of(ElementType::I32) => "i32",
        DeviceElement::Of(ElementType::U32) => "u32",
        DeviceElement::Of(ElementType::I64) => "i64",
        DeviceElement::Of(ElementType::U64) => "u64",
        DeviceElement::Of(ElementType::F16) => "f16",
        DeviceElement::Of(ElementType::Bf16) => "bf16",
        DeviceElement::Of(ElementType::F32) => "f32",
        DeviceElement::Of(ElementType::F64) => "f64",
        DeviceElement::F8E4M3 => "f8e4m3",
        DeviceElement::F8E5M2 => "f8e5m2",
    }
}

/// The compiled library, beside the test's binary, under a name made from its sources.
fn compiled() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = root.join("src/nvlink/tests/emulator.cpp");
    let mut hasher = DefaultHasher::new();
    std::fs::read(&source).expect("the emulator's source").hash(&mut hasher);
    let kernels = std::fs::read_dir(root.join("src/cuda/kernels")).expect("the kernels");
    let mut kernels: Vec<_> = kernels.map(|entry| entry.expect("a kernel").path()).collect();
    kernels.sort();
    for kernel in kernels.iter().filter(|path| path.is_file()) {
        std::fs::read(kernel).expect("a kernel's source").hash(&mut hasher);
    }
    let folder = std::env::current_exe().expect("a test has a path").parent().expect("a folder").to_owned();
    let library = folder.join(format!("gpu-emulator-{:016x}.so", hasher.finish()));
    // Tests run beside each other, as processes: one compiles, and the others wait for it.
    let lock = std::fs::File::create(library.with_extension("lock")).expect("a place for a lock");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).expect("the lock");
    if !library.exists() {
        // Made beside its place and moved there whole: tests run beside each other, as processes or threads.
        let made = tempfile::Builder::new().prefix("gpu-emulator-").tempfile_in(&folder).expect("a place");
        let made = made.into_temp_path();
        let output = Command::new("g++")
            .args(["-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas", "-o"])
            .args([made.as_os_str(), source.as_os_str()])
            .output()
            .expect("g++ runs");
        assert!(output.status.success(), "g++: {}", String::from_utf8_lossy(&output.stderr));
        made.persist(&library).expect("a place for the emulator");
    }
    library
}
