//! CUDA memory, registered by pointer and by dma-buf, at either end of every operation.
//!
//! With NVIDIA's driver where there is one, and else with `fake_cuda.c`, which has its bad manners and no dma-bufs.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use parking_lot::{Mutex, MutexGuard};
use softefa::exports::memory;

use crate::consumer::{ALL_ACCESS, Device, Operation, Pair, Piece};

/// A program's own use of CUDA.
struct Cuda {
    library: *mut c_void,
    is_real: bool,
    _turn: MutexGuard<'static, ()>,
}

/// `CUdeviceptr`, `CUcontext` and `CUstream`.
type Number = u64;

#[test]
fn device_memory_is_read_written_sent_and_received() {
    let Some(cuda) = Cuda::open() else { return };
    let _context = cuda.context();
    let device = Device::open(0);
    let pd = device.domain();
    let (ours, theirs) = (device.pair(pd, false), device.pair(pd, false));
    let ah = Pair::handle(pd, device.gid());
    // From an allocation, and from a pool, whose memory is of no context.
    for allocate in [Cuda::allocate, Cuda::allocate_from_pool] {
        let (from, into) = (cuda.region(&ours, allocate), cuda.region(&theirs, allocate));
        cuda.set(from, 1);
        cuda.alone(|| {
            ours.post(ah, &theirs, from, Operation::Write(into));
            assert_eq!(ours.completion().code, 0);
        });
        assert_eq!(cuda.get(into), pattern(1), "written");

        cuda.set(into, 2);
        cuda.alone(|| {
            ours.post(ah, &theirs, from, Operation::Read(into));
            assert_eq!(ours.completion().code, 0);
        });
        assert_eq!(cuda.get(from), pattern(2), "read");

        let message = from.first(8928);
        cuda.set(from, 3);
        cuda.alone(|| {
            theirs.receive(into);
            ours.post(ah, &theirs, message, Operation::Send);
            assert_eq!((ours.completion().code, theirs.completion().code), (0, 0));
        });
        assert_eq!(cuda.get(into)[..8928], pattern(3)[..8928], "sent");
        assert_eq!(cuda.get(into)[8928..], pattern(2)[8928..], "and no more than that");
    }
    // As receives on an A100 end: a read of device memory into the processor's.
    let (flag, own) = (cuda.region(&ours, Cuda::allocate), ours.bytes(&[0; LEN]));
    cuda.set(flag, 4);
    ours.post(ah, &ours, own, Operation::Read(flag));
    assert_eq!(ours.completion().code, 0);
    assert_eq!(own.get(), pattern(4));
}

#[test]
fn device_waits_for_no_kernel_and_takes_no_part_in_a_capture() {
    let Some(cuda) = Cuda::open() else { return };
    let _context = cuda.context();
    let device = Device::open(0);
    let pd = device.domain();
    let (ours, theirs) = (device.pair(pd, false), device.pair(pd, false));
    let ah = Pair::handle(pd, device.gid());
    let into = cuda.region(&theirs, Cuda::allocate);
    let one = ours.bytes(&1_u32.to_ne_bytes());
    cuda.fill(into, &[0; LEN]);
    // The default stream waits for what only the device can bring.
    cuda.wait_for(into.address, 1);
    ours.post(ah, &theirs, one, Operation::Write(into.first(4)));
    assert_eq!(ours.completion().code, 0);
    cuda.synchronize();
    assert_eq!(cuda.get(into)[..4], 1_u32.to_ne_bytes());

    let capture = cuda.begin_capture();
    ours.post(ah, &theirs, one, Operation::Write(into.first(4)));
    let written = ours.completion();
    assert_eq!(cuda.end_capture(capture), 0, "the capture is not spoiled");
    assert_eq!(written.code, 0);
}

#[test]
fn regions_end_where_device_memory_ends_or_is_freed() {
    let Some(cuda) = Cuda::open() else { return };
    let _context = cuda.context();
    let device = Device::open(0);
    let pd = device.domain();
    let (ours, theirs) = (device.pair(pd, false), device.pair(pd, false));
    let ah = Pair::handle(pd, device.gid());
    let address = cuda.allocate(ALLOCATION);
    assert!(ours.register(address as *mut c_void, ALLOCATION).is_some());
    assert!(ours.register(address as *mut c_void, ALLOCATION + 1).is_none(), "more than there is");
    assert!(ours.register((address + 5) as *mut c_void, ALLOCATION - 5).is_some());

    let region = cuda.region(&theirs, Cuda::allocate);
    let own = ours.bytes(&[0; 100]);
    cuda.free(region.address);
    ours.post(ah, &theirs, own, Operation::Read(region.first(100)));
    assert_eq!(ours.completion().code, REMOTE_BAD_ADDRESS);
    let gone = Piece { address: region.address, len: 100, key: region.key };
    theirs.post(ah, &ours, gone, Operation::Write(own));
    assert_eq!(theirs.completion().code, INVALID_LOCAL_KEY);

    // Managed memory is the processor's, too, as it is for a card.
    let managed = cuda.allocate_managed(4096);
    let piece = ours.register(managed as *mut c_void, 4096).unwrap();
    ours.post(ah, &theirs, piece.first(8), Operation::Read(theirs.bytes(&[9; 8])));
    assert_eq!(ours.completion().code, 0);
    assert_eq!(piece.first(8).get(), [9; 8]);
}

#[test]
fn dma_bufs_of_device_memory_are_registered() {
    let Some(cuda) = Cuda::open() else { return };
    if !cuda.is_real {
        return skip("dma_bufs_of_device_memory_are_registered", "NVIDIA's driver");
    }
    let _context = cuda.context();
    let device = Device::open(0);
    let pd = device.domain();
    let (ours, theirs) = (device.pair(pd, false), device.pair(pd, false));
    let ah = Pair::handle(pd, device.gid());
    let address = cuda.allocate(ALLOCATION);
    let Some(fd) = cuda.dma_buf(address, ALLOCATION) else {
        return skip("dma_bufs_of_device_memory_are_registered", "a driver that exports dma-bufs");
    };
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&fd);
    let register = |offset: u64, len: usize| {
        // SAFETY: a domain of ours; the device checks the rest.
        let mr =
            unsafe { memory::ibv_reg_dmabuf_mr(pd, offset, len, address + offset, descriptor, ALL_ACCESS) };
        // SAFETY: none, or a region.
        unsafe { mr.as_ref() }.map(|mr| Piece { address: address + offset, len: len as u32, key: mr.lkey })
    };
    let into = register(4096, LEN).unwrap();
    assert!(register(4096, ALLOCATION).is_none(), "more than the dma-buf has");
    let from = ours.bytes(&pattern(5));
    ours.post(ah, &theirs, from, Operation::Write(into));
    assert_eq!(ours.completion().code, 0);
    assert_eq!(cuda.get(into), pattern(5));
}

#[test]
fn other_descriptors_are_no_dma_bufs() {
    let device = Device::open(0);
    let pd = device.domain();
    let memory = vec![0_u8; 4096];
    let file = tempfile::tempfile().unwrap();
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: a domain of ours; the device checks the rest.
    let mr =
        unsafe { memory::ibv_reg_dmabuf_mr(pd, 0, 4096, memory.as_ptr() as u64, descriptor, ALL_ACCESS) };
    assert!(mr.is_null());
    assert_eq!(nix::errno::Errno::last(), nix::errno::Errno::EINVAL);
}

impl Cuda {
    /// NVIDIA's driver, or what stands for it; none where that cannot be built, which is said.
    ///
    /// Tests of one process take turns: a capture is the whole process's affair.
    fn open() -> Option<Cuda> {
        static TURN: Mutex<()> = Mutex::new(());
        static DRIVER: OnceLock<Option<(usize, bool)>> = OnceLock::new();
        let turn = TURN.lock();
        // Chosen once: what is loaded later under the driver's name may be what stands for it.
        let driver = DRIVER.get_or_init(|| match load(c"libcuda.so.1".to_bytes()) {
            Some(library) => Some((library as usize, true)),
            None => fake().map(|library| (library as usize, false)),
        });
        let (library, is_real) = (*driver)?;
        let cuda = Cuda { library: library as *mut c_void, is_real, _turn: turn };
        let mut count: c_int = 0;
        // SAFETY: the driver's functions with the types that cuda.h gives them; so below.
        let found = unsafe {
            cuda.find::<unsafe extern "C" fn(c_uint) -> c_int>(c"cuInit")(0) == 0
                && cuda.find::<unsafe extern "C" fn(*mut c_int) -> c_int>(c"cuDeviceGetCount")(&raw mut count)
                    == 0
        };
        if !found || count == 0 {
            skip("CUDA memory", "a GPU for the driver that is installed");
            return None;
        }
        Some(cuda)
    }

    /// The device's own context, for this thread.
    fn context(&self) -> Number {
        let mut context = 0;
        // SAFETY: as above.
        unsafe {
            let retain: unsafe extern "C" fn(*mut Number, c_int) -> c_int =
                self.find(c"cuDevicePrimaryCtxRetain");
            self.check("cuDevicePrimaryCtxRetain", retain(&raw mut context, 0));
            self.push(context);
        }
        context
    }

    fn push(&self, context: Number) {
        // SAFETY: as above.
        self.check("cuCtxPushCurrent", unsafe {
            self.find::<unsafe extern "C" fn(Number) -> c_int>(c"cuCtxPushCurrent_v2")(context)
        });
    }

    /// Does something without a current context, as the device's thread has none.
    fn alone(&self, act: impl FnOnce()) {
        let mut context = 0;
        // SAFETY: as above.
        self.check("cuCtxPopCurrent", unsafe {
            self.find::<unsafe extern "C" fn(*mut Number) -> c_int>(c"cuCtxPopCurrent_v2")(&raw mut context)
        });
        act();
        self.push(context);
    }

    fn region(&self, pair: &Pair, allocate: fn(&Cuda, usize) -> Number) -> Piece {
        pair.register(allocate(self, LEN) as *mut c_void, LEN).unwrap()
    }

    fn allocate(&self, len: usize) -> Number {
        let mut address = 0;
        // SAFETY: as above.
        let allocate: unsafe extern "C" fn(*mut Number, usize) -> c_int =
            unsafe { self.find(c"cuMemAlloc_v2") };
        // SAFETY: as above.
        self.check("cuMemAlloc", unsafe { allocate(&raw mut address, len) });
        address
    }

    fn allocate_from_pool(&self, len: usize) -> Number {
        let mut address = 0;
        // SAFETY: as above.
        let allocate: unsafe extern "C" fn(*mut Number, usize, Number) -> c_int =
            unsafe { self.find(c"cuMemAllocAsync") };
        // SAFETY: as above.
        self.check("cuMemAllocAsync", unsafe { allocate(&raw mut address, len, 0) });
        self.synchronize();
        address
    }

    fn allocate_managed(&self, len: usize) -> Number {
        let mut address = 0;
        // SAFETY: as above.
        let allocate: unsafe extern "C" fn(*mut Number, usize, c_uint) -> c_int =
            unsafe { self.find(c"cuMemAllocManaged") };
        // SAFETY: as above; 1 is memory that every stream may use.
        self.check("cuMemAllocManaged", unsafe { allocate(&raw mut address, len, 1) });
        address
    }

    fn free(&self, address: Number) {
        // SAFETY: as above.
        self.check("cuMemFree", unsafe {
            self.find::<unsafe extern "C" fn(Number) -> c_int>(c"cuMemFree_v2")(address)
        });
    }

    fn set(&self, piece: Piece, seed: u8) {
        self.fill(piece, &pattern(seed));
    }

    fn fill(&self, piece: Piece, bytes: &[u8]) {
        assert_eq!(piece.len as usize, bytes.len());
        // SAFETY: as above.
        let copy: unsafe extern "C" fn(Number, *const c_void, usize, Number) -> c_int =
            unsafe { self.find(c"cuMemcpyHtoDAsync_v2") };
        // SAFETY: as above.
        let code = unsafe { copy(piece.address, bytes.as_ptr().cast(), bytes.len(), 0) };
        self.check("cuMemcpyHtoDAsync", code);
        self.synchronize();
    }

    fn get(&self, piece: Piece) -> Vec<u8> {
        let mut bytes = vec![0; piece.len as usize];
        // SAFETY: as above.
        let copy: unsafe extern "C" fn(*mut c_void, Number, usize, Number) -> c_int =
            unsafe { self.find(c"cuMemcpyDtoHAsync_v2") };
        // SAFETY: as above.
        let code = unsafe { copy(bytes.as_mut_ptr().cast(), piece.address, bytes.len(), 0) };
        self.check("cuMemcpyDtoHAsync", code);
        self.synchronize();
        bytes
    }

    /// Waits for the default stream.
    fn synchronize(&self) {
        // SAFETY: as above.
        self.check("cuStreamSynchronize", unsafe {
            self.find::<unsafe extern "C" fn(Number) -> c_int>(c"cuStreamSynchronize")(0)
        });
    }

    /// Lets the default stream wait until a number in device memory has grown.
    fn wait_for(&self, address: Number, at_least: u32) {
        // SAFETY: as above.
        let wait: unsafe extern "C" fn(Number, Number, u32, c_uint) -> c_int =
            unsafe { self.find(c"cuStreamWaitValue32_v2") };
        // SAFETY: as above; 0 is «at least».
        self.check("cuStreamWaitValue32", unsafe { wait(0, address, at_least, 0) });
    }

    /// Begins to capture a graph, which calls that may wait spoil, whichever thread makes them.
    fn begin_capture(&self) -> Number {
        let mut stream = 0;
        // SAFETY: as above; 1 is a stream that does not wait for the default one.
        unsafe {
            let create: unsafe extern "C" fn(*mut Number, c_uint) -> c_int = self.find(c"cuStreamCreate");
            self.check("cuStreamCreate", create(&raw mut stream, 1));
            let begin: unsafe extern "C" fn(Number, c_int) -> c_int = self.find(c"cuStreamBeginCapture_v2");
            self.check("cuStreamBeginCapture", begin(stream, 0));
        }
        stream
    }

    /// How the capture ended.
    fn end_capture(&self, stream: Number) -> c_int {
        let mut graph = 0;
        // SAFETY: as above.
        unsafe {
            self.find::<unsafe extern "C" fn(Number, *mut Number) -> c_int>(c"cuStreamEndCapture")(
                stream,
                &raw mut graph,
            )
        }
    }

    /// A dma-buf of device memory; none where the driver exports none.
    fn dma_buf(&self, address: Number, len: usize) -> Option<OwnedFd> {
        let mut fd: RawFd = -1;
        // SAFETY: as above; 1 is a dma-buf.
        let code = unsafe {
            let export: unsafe extern "C" fn(*mut c_void, Number, usize, c_int, u64) -> c_int =
                self.find(c"cuMemGetHandleForAddressRange");
            export((&raw mut fd).cast(), address, len, 1, 0)
        };
        // SAFETY: the driver has just opened it for us.
        (code == 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// A function of the driver, of the type that the caller says it has.
    unsafe fn find<F: Copy>(&self, name: &CStr) -> F {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: an open library.
        let function = unsafe { libc::dlsym(self.library, name.as_ptr()) };
        assert!(!function.is_null(), "{name:?}");
        // SAFETY: a function's address, which is as long as a pointer to it.
        unsafe { std::mem::transmute_copy(&function) }
    }

    fn check(&self, call: &str, code: c_int) {
        assert_eq!(code, 0, "{call}");
    }
}

fn load(path: &[u8]) -> Option<*mut c_void> {
    let path = std::ffi::CString::new(path).unwrap();
    // SAFETY: a library that runs nothing when it is loaded.
    let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
    (!library.is_null()).then_some(library)
}

/// What stands for the driver, built and loaded under the driver's name.
fn fake() -> Option<*mut c_void> {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libcuda.so.1");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verbs/fake_cuda.c");
    let gcc = Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", "-o"])
        .args([&library, &source])
        .output();
    let Ok(output) = gcc else {
        let required = std::env::var("EFARUN_TEST_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == "soft-efa"), "there is no gcc");
        skip("CUDA memory", "gcc, to build what stands for the driver");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    load(library.as_os_str().as_bytes())
}

#[expect(clippy::print_stdout, reason = "tests say what they skip by printing")]
fn skip(test: &str, missing: &str) {
    println!("SKIPPED: {test}: {missing} is not here");
}

/// Bytes that differ from place to place and from seed to seed.
fn pattern(seed: u8) -> Vec<u8> {
    (0..LEN).map(|place| (place as u8).wrapping_mul(31).wrapping_add((place >> 8) as u8) ^ seed).collect()
}

/// Several pieces.
const LEN: usize = 60_000;
/// What the driver makes of an allocation anyway.
const ALLOCATION: usize = 2 << 20;
const INVALID_LOCAL_KEY: u32 = 5;
const REMOTE_BAD_ADDRESS: u32 = 7;
