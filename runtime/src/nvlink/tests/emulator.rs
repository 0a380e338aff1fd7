//! A node of GPUs that are emulated: the kernels, compiled for the CPU by g++, with memory of the host.
//!
//! # Safety
//!
//! The library is compiled from the kernels that this package ships, and a test compares its layout with ours before
//! anything runs. Every address in a launch is memory of the [`Node`], or of buffers that the test holds.
#![allow(unsafe_code)]

use std::ffi::{CString, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::cuda::DevicePointer;
use crate::element::ElementType;
use crate::nvlink::launch::{Request, Standing};
use crate::nvlink::layout::{RANKS_MAX, STATE_BYTES, WINDOW_BYTES};
use crate::nvlink::parameters::{Parameters, status};

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
    parameters: Parameters,
    blocks: u32,
    threads: u32,
}

type Run = unsafe extern "C" fn(u32, *const *const Launch, *const u64, u64, u64) -> u64;

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
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let launches = |rank: usize| {
            let standing = node.standing(rank as u32);
            let launch = move |request: &Request| {
                let launch = request.launch(&standing);
                let kernel = self.symbol(&kernel_name(request));
                let (blocks, threads) = (launch.grid.blocks, launch.grid.threads);
                Launch { kernel, parameters: launch.parameters, blocks, threads }
            };
            requests[rank].iter().map(launch).collect::<Vec<_>>()
        };
        let launches: Vec<_> = (0..requests.len()).map(launches).collect();
        let pointers: Vec<_> = launches.iter().map(|launches| launches.as_ptr()).collect();
        let counts: Vec<_> = launches.iter().map(|launches| launches.len() as u64).collect();
        // SAFETY: the function has this type.
        let run: Run = unsafe { std::mem::transmute(self.symbol("emulate")) };
        // SAFETY: as many lists as ranks, with as many launches each as said; what they point to is the node's, and the
        // caller's for as long as this lasts.
        unsafe { run(requests.len() as u32, pointers.as_ptr(), counts.as_ptr(), seed, steps_max) != 0 }
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let c_name = CString::new(name).expect("a name");
        // SAFETY: the library stays loaded; the name is a C string.
        let symbol = unsafe { libc::dlsym(self.library, c_name.as_ptr()) };
        assert!(!symbol.is_null(), "the emulator has {name}");
        symbol
    }
}

/// What the ranks of a node have: windows, counters and statuses.
pub(super) struct Node {
    windows: Vec<Vec<u64>>,
    states: Vec<Vec<u64>>,
    statuses: Vec<Vec<u32>>,
    deadline_ns: u64,
}

impl Node {
    pub(super) fn new(ranks: u32, deadline_ns: u64) -> Node {
        let each = |words: usize| (0..ranks).map(|_| vec![0u64; words]).collect();
        Node {
            windows: each(WINDOW_BYTES / 8),
            states: each(STATE_BYTES / 8),
            statuses: (0..ranks).map(|_| vec![0; status::WORDS]).collect(),
            deadline_ns,
        }
    }

    /// The words that a rank's kernels told its host.
    pub(super) fn status(&self, rank: usize) -> &[u32] {
        &self.statuses[rank]
    }

    /// Sets every call counter and every number in cells as they would be after so many calls.
    pub(super) fn pretend_calls(&mut self, calls: u32) {
        for state in &mut self.states {
            let words = bytemuck::cast_slice_mut::<u64, u32>(state);
            let first = crate::nvlink::layout::STATE_CALLS / 4;
            words[first..first + crate::nvlink::layout::CHANNELS_MAX as usize].fill(calls);
        }
    }

    /// Tells a rank's kernels to stop, as its host would.
    pub(super) fn stop(&mut self, rank: usize) {
        self.statuses[rank][status::STOP] = 1;
    }

    fn standing(&self, rank: u32) -> Standing {
        let mut windows = [DevicePointer(0); RANKS_MAX];
        for (pointer, window) in windows.iter_mut().zip(&self.windows) {
            *pointer = pointer_to(window);
        }
        Standing {
            rank,
            ranks: self.windows.len() as u32,
            windows,
            state: pointer_to(&self.states[rank as usize]),
            status: pointer_to(&self.statuses[rank as usize]),
            deadline_ns: self.deadline_ns,
        }
    }
}

/// Host memory as an address that kernels take.
pub(super) fn pointer_to<T>(memory: &[T]) -> DevicePointer {
    DevicePointer(memory.as_ptr().expose_provenance() as u64)
}

fn kernel_name(request: &Request) -> String {
    let element = match request.element {
        _ if !request.shape.is_reduction() => "bytes",
        ElementType::I8 => "i8",
        ElementType::U8 => "u8",
        ElementType::I16 => "i16",
        ElementType::U16 => "u16",
        ElementType::I32 => "i32",
        ElementType::U32 => "u32",
        ElementType::I64 => "i64",
        ElementType::U64 => "u64",
        ElementType::F16 => "f16",
        ElementType::Bf16 => "bf16",
        ElementType::F32 => "f32",
        ElementType::F64 => "f64",
    };
    format!("{}_{element}", request.leaf.name().replace('-', "_"))
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
