//! The CUDA layer, on a machine with a GPU; without one, that it says so.
//!
//! # Safety
//!
//! Kernels and graphs run on memory that the test holds until it has waited for them.
#![allow(unsafe_code)]

use super::*;

/// The device, or a line that says that the test was skipped. `EFARUN_TEST_REQUIRE=gpu` makes that a failure.
pub(crate) fn device(test: &str) -> Option<Device> {
    match Device::open(0) {
        Ok(device) => Some(device),
        Err(error) => {
            let required = std::env::var("EFARUN_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.split(',').any(|need| need.trim() == "gpu"), "{test}: {error}");
            println!("SKIPPED: {test}: {error}");
            None
        }
    }
}

#[test]
fn without_a_driver_every_entry_says_so() {
    match version() {
        Ok(version) => assert!(version >= 12_020, "{version}"),
        Err(error) => {
            assert_eq!(Device::count(), Err(error.clone()));
            assert_eq!(Device::open(0).err(), Some(error.clone()));
            let text = error.to_string();
            assert!(text.contains("driver") || text.contains("cuInit"), "{text}");
        }
    }
}

#[test]
fn a_failed_call_names_call_and_device() {
    let error = CudaError::Call {
        call: "cuMemAlloc",
        device: Some(3),
        name: "CUDA_ERROR_OUT_OF_MEMORY".to_owned(),
        text: "out of memory".to_owned(),
    };
    assert_eq!(error.to_string(), "cuMemAlloc on GPU 3: out of memory (CUDA_ERROR_OUT_OF_MEMORY)");
    let error = CudaError::DriverTooOld { found: 11_080, needed: 12_020 };
    assert_eq!(
        error.to_string(),
        "the CUDA driver is for CUDA 11.8, and 12.2 is needed (driver 535 or newer)"
    );
}

#[test]
fn a_device_that_is_not_there_is_named_with_their_number() {
    let Some(_) = device("a_device_that_is_not_there_is_named_with_their_number") else { return };
    let count = Device::count().expect("a driver");
    assert_eq!(Device::open(count).err(), Some(CudaError::NoSuchDevice { ordinal: count, count }));
}

#[test]
fn elements_come_back_as_they_went() {
    let Some(device) = device("elements_come_back_as_they_went") else { return };
    let elements: Vec<u32> = (0..100_003).collect();
    let mut memory = DeviceMemory::from_host(&device, &elements).expect("room");
    assert_eq!(memory.to_vec().expect("a copy"), elements);
    memory.copy_from_host(7, &[1, 2]).expect("a copy");
    let mut part = [0; 4];
    memory.copy_to_host(6, &mut part).expect("a copy");
    assert_eq!(part, [6, 1, 2, 9]);
    memory.fill_bytes(0xff).expect("a fill");
    assert!(memory.to_vec().expect("a copy").iter().all(|&element| element == u32::MAX));
    assert!(DeviceMemory::<u8>::new(&device, 0).expect("nothing").is_empty());
}

#[test]
fn memory_beyond_the_devices_is_an_error_that_names_it() {
    let Some(device) = device("memory_beyond_the_devices_is_an_error_that_names_it") else { return };
    let error = DeviceMemory::<u8>::new(&device, 1 << 50).expect_err("too much").to_string();
    assert!(error.starts_with("cuMemAlloc on GPU 0: "), "{error}");
}

/// A kernel in PTX, as a compiler writes it: adds one to each of `count` words.
const ADD_ONE: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry add_one(.param .align 8 .b8 parameters[16])
{
    .reg .pred %beyond;
    .reg .b32 %r<6>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd0, [parameters];
    ld.param.u32 %r0, [parameters+8];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r1, %r1, %r2, %r3;
    setp.ge.u32 %beyond, %r1, %r0;
    @%beyond ret;
    mul.wide.u32 %rd1, %r1, 4;
    cvta.to.global.u64 %rd0, %rd0;
    add.s64 %rd0, %rd0, %rd1;
    ld.global.u32 %r4, [%rd0];
    add.u32 %r4, %r4, 1;
    st.global.u32 [%rd0], %r4;
    ret;
}
";

#[repr(C)]
struct AddOne {
    words: DevicePointer,
    count: u32,
}

#[test]
fn kernels_run_in_order_on_their_stream_and_graphs_run_again() {
    let Some(device) = device("kernels_run_in_order_on_their_stream_and_graphs_run_again") else { return };
    let kernel = Module::load(&device, ADD_ONE).expect("PTX").kernel(c"add_one").expect("in it");
    let memory = DeviceMemory::<u32>::zeroed(&device, 1000).expect("room");
    let (stream, other) = (Stream::new(&device).expect("a stream"), Stream::new(&device).expect("another"));
    let parameters = AddOne { words: memory.pointer(), count: 1000 };
    let grid = Grid { blocks: 4, threads: 256 };
    // SAFETY: the kernel takes this struct, and the memory has as many words; both live until the end.
    let add = |stream: &Stream| unsafe { kernel.launch(stream, grid, &parameters) };
    let (start, end) =
        (Event::with_time(&device).expect("a mark"), Event::with_time(&device).expect("a mark"));
    start.record(&stream).expect("marked");
    for _ in 0..10 {
        add(&stream).expect("enqueued");
    }
    end.record(&stream).expect("marked");
    other.wait_for(&end).expect("ordered");
    // SAFETY: memory and kernel live until the graph's last run is done.
    let graph = unsafe { Graph::capture(&other, || add(&other).and_then(|()| add(&other))) };
    let graph = graph.expect("captured");
    for _ in 0..5 {
        graph.launch(&other).expect("enqueued");
    }
    other.synchronize().expect("done");
    assert!(stream.is_done().expect("no error"));
    assert!(start.seconds_to(&end).expect("timed") > 0.0);
    assert_eq!(memory.to_vec().expect("a copy"), vec![20; 1000]);
}

#[test]
fn host_memory_is_seen_by_both_sides() {
    let Some(device) = device("host_memory_is_seen_by_both_sides") else { return };
    let kernel = Module::load(&device, ADD_ONE).expect("PTX").kernel(c"add_one").expect("in it");
    let memory = HostMemory::new(&device, 2).expect("room");
    memory.word32(1).store(41, std::sync::atomic::Ordering::Relaxed);
    let stream = Stream::new(&device).expect("a stream");
    let parameters = AddOne { words: memory.pointer(), count: 4 };
    // SAFETY: the kernel takes this struct, and the memory has four such words.
    unsafe { kernel.launch(&stream, Grid { blocks: 1, threads: 32 }, &parameters) }.expect("enqueued");
    stream.synchronize().expect("done");
    assert_eq!(memory.word(0).load(std::sync::atomic::Ordering::Relaxed), (42 << 32) | 1);
}

#[test]
fn a_process_cannot_import_its_own_memory_and_says_which_call() {
    let Some(device) = device("a_process_cannot_import_its_own_memory_and_says_which_call") else { return };
    let memory = DeviceMemory::<u8>::zeroed(&device, 4096).expect("room");
    let handle = IpcHandle::of(&memory).expect("exported");
    let error = ImportedMemory::open(&device, handle).expect_err("its own").to_string();
    assert!(error.starts_with("cuIpcOpenMemHandle on GPU 0: "), "{error}");
}
