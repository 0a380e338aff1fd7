//! The library has NCCL's name, and exports what NCCL's headers declare and PyTorch imports: a program finds all it asks for.

use std::collections::BTreeSet;
use std::path::PathBuf;

use object::read::elf::{Dyn, ElfFile64, FileHeader};
use object::{Endianness, Object, ObjectSymbol, elf};

/// What `nccl.h` of NCCL 2.28 declares, each also with a `p` before it.
const DECLARED: [&str; 47] = [
    "ncclMemAlloc",
    "ncclMemFree",
    "ncclGetVersion",
    "ncclGetUniqueId",
    "ncclCommInitRankConfig",
    "ncclCommInitRank",
    "ncclCommInitAll",
    "ncclCommInitRankScalable",
    "ncclCommFinalize",
    "ncclCommDestroy",
    "ncclCommAbort",
    "ncclCommRevoke",
    "ncclCommSplit",
    "ncclCommShrink",
    "ncclGetErrorString",
    "ncclGetLastError",
    "ncclResetDebugInit",
    "ncclCommGetAsyncError",
    "ncclCommCount",
    "ncclCommCuDevice",
    "ncclCommUserRank",
    "ncclCommRegister",
    "ncclCommDeregister",
    "ncclCommWindowRegister",
    "ncclCommWindowDeregister",
    "ncclRedOpCreatePreMulSum",
    "ncclRedOpDestroy",
    "ncclReduce",
    "ncclBcast",
    "ncclBroadcast",
    "ncclAllReduce",
    "ncclReduceScatter",
    "ncclAllGather",
    "ncclAlltoAll",
    "ncclGather",
    "ncclScatter",
    "ncclSend",
    "ncclRecv",
    "ncclGroupStart",
    "ncclGroupEnd",
    "ncclGroupSimulateEnd",
    // Of nccl_device.h, from here on.
    "ncclDevCommCreate",
    "ncclDevCommDestroy",
    "ncclLsaBarrierCreateRequirement",
    "ncclGinBarrierCreateRequirement",
    "ncclLLA2ACreateRequirement",
    "ncclLLA2ACalcSlots",
];

/// The rest of nccl_device.h, which returns no result.
const TEAMS: [&str; 5] =
    ["ncclTeamWorld", "ncclTeamLsa", "ncclTeamRail", "ncclTeamRankToWorld", "ncclTeamRankToLsa"];

/// The library beside the tests.
fn library() -> Vec<u8> {
    let test = std::env::current_exe().expect("a test has a path");
    let path: PathBuf = test.parent().expect("a folder").join("libnccl.so");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_declared_function_is_exported_and_nothing_else() {
    let bytes = library();
    let file = ElfFile64::<Endianness>::parse(&*bytes).expect("a shared library");
    let symbols = file.dynamic_symbols().filter(|symbol| symbol.is_definition() && symbol.is_global());
    let found: BTreeSet<&str> = symbols.map(|symbol| symbol.name().expect("a name")).collect();
    // Who asks for what a profiler calls asks for what nccl.h declares.
    let profiled =
        DECLARED.iter().filter(|name| **name != "ncclLLA2ACalcSlots").map(|name| format!("p{name}"));
    let profiled: Vec<String> = profiled.collect();
    let declared = DECLARED.into_iter().chain(TEAMS).chain(profiled.iter().map(String::as_str));
    let declared: BTreeSet<&str> = declared.collect();
    assert_eq!(declared.difference(&found).collect::<Vec<_>>(), Vec::<&&str>::new(), "missing");
    assert_eq!(found.difference(&declared).collect::<Vec<_>>(), Vec::<&&str>::new(), "too many");
}

#[test]
fn programs_that_ask_for_nccl_find_it_by_its_name() {
    let bytes = library();
    let header = elf::FileHeader64::<Endianness>::parse(&*bytes).expect("a shared library");
    let endian = header.endian().expect("an order of bytes");
    let sections = header.sections(endian, &*bytes).expect("sections");
    let (dynamics, index) = sections.dynamic(endian, &*bytes).expect("readable").expect("it is dynamic");
    let strings = sections.strings(endian, &*bytes, index).expect("names");
    let of = |tag: elf::DynamicTag| {
        let found = dynamics.iter().filter(move |it| it.tag(endian) == tag);
        found.map(|it| it.string(endian, strings).expect("a name")).collect::<Vec<_>>()
    };
    assert_eq!(of(elf::DT_SONAME), [b"libnccl.so.2"]);
    // Neither CUDA nor NVIDIA's driver must be there for it to be loaded.
    let needed: Vec<_> = of(elf::DT_NEEDED).into_iter().map(String::from_utf8_lossy).collect();
    assert!(!needed.iter().any(|name| name.contains("cuda")), "{needed:?}");
}
