//! The runtime brings no function of NCCL's into a program: who links it may have NVIDIA's library beside it.

use object::{Object, ObjectSymbol};

#[test]
fn a_program_of_the_runtime_has_no_function_of_nccls() {
    // So that the runtime is in this program at all.
    let world = efarun_rt::World::thread_worlds(1).expect("a world of one").remove(0);
    assert_eq!(world.world_size(), 1);
    let bytes = std::fs::read(std::env::current_exe().expect("a test has a path")).expect("it can be read");
    let file = object::read::elf::ElfFile64::<object::Endianness>::parse(&*bytes).expect("a program");
    let names: Vec<_> = file.symbols().filter_map(|symbol| symbol.name().ok()).collect();
    assert!(names.iter().any(|name| name.contains("efarun_rt")), "the runtime's own functions are seen");
    let foreign: Vec<_> =
        names.iter().filter(|name| name.starts_with("nccl") || name.starts_with("pnccl")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}
