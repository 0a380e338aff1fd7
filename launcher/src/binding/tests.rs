use efarun_wire::facts::Device;
use proptest::prelude::*;

use super::*;

/// Sockets of this many NUMA nodes of this many cores of two threads, numbered as Linux numbers them: all first
/// threads come first.
fn machine(sockets: u32, numas: u32, cores: u32) -> Topology {
    let core_count = sockets * numas * cores;
    let cpu = |id: u32| {
        let core = id % core_count;
        Cpu { id, core, package: core / (numas * cores), numa: core / cores }
    };
    Topology { cpus: (0..2 * core_count).map(cpu).collect(), ..Topology::default() }
}

fn device(name: &str, pci_path: &str, numa: Option<u32>) -> Device {
    Device { name: name.to_owned(), pci_path: pci_path.to_owned(), numa }
}

/// p4d.24xlarge: on each of four buses a card and two GPUs.
fn p4d() -> Topology {
    let mut topology = machine(2, 1, 24);
    for (bus, numa, nic) in
        [(0x10, 0, "rdmap16s27"), (0x20, 0, "rdmap32s27"), (0x90, 1, "rdmap144s27"), (0xa0, 1, "rdmap160s27")]
    {
        let path = |slot: &str| format!("pci0000:{bus:02x}/0000:{bus:02x}:{slot}");
        topology.efa_devices.push(device(nic, &path("1b.0"), Some(numa)));
        for slot in ["1c.0", "1d.0"] {
            topology.gpus.push(device(&format!("0000:{bus:02x}:{slot}"), &path(slot), Some(numa)));
        }
    }
    topology
}

/// As on p5en: behind each of four switches two GPUs and four cards.
fn switches() -> Topology {
    let mut topology = machine(2, 1, 48);
    for switch in 0..4 {
        let numa = Some(switch / 2);
        let path = |slot: u32| format!("pci0000:4{switch}/0000:4{switch}:01.0/0000:5{switch}:{slot:02x}.0");
        topology.efa_devices.extend((0..4).map(|nic| device(&format!("nic{switch}{nic}"), &path(nic), numa)));
        topology.gpus.extend((8..10).map(|gpu| device(&format!("gpu{switch}{gpu}"), &path(gpu), numa)));
    }
    topology
}

fn cpus(policy: Policy, topology: &Topology, ranks: u32) -> Vec<String> {
    let bindings = bind(policy, topology, ranks, "h").unwrap();
    bindings.iter().map(|binding| ranges(&binding.cpus)).collect()
}

fn to(object: Object) -> Policy {
    Policy { bind_to: BindTo::Object(object), ..Policy::default() }
}

fn dealt(policy: Policy, object: Object, order: Order) -> Policy {
    Policy { dealt: Some(Dealt { object, order }), ..policy }
}

#[test]
fn nothing_is_bound_unless_asked_for() {
    assert_eq!(cpus(Policy::default(), &machine(2, 1, 4), 3), ["", "", ""]);
}

#[test]
fn cores_go_with_all_their_threads() {
    let two = machine(2, 1, 2);
    assert_eq!(cpus(to(Object::Core), &two, 4), ["0,4", "1,5", "2,6", "3,7"]);
    assert_eq!(cpus(to(Object::Hwthread), &two, 3), ["0", "4", "1"]);
    let pairs = Policy { cpus_per_rank: Some(2), ..to(Object::Core) };
    assert_eq!(cpus(pairs, &two, 2), ["0-1,4-5", "2-3,6-7"]);
    assert_eq!(
        cpus(dealt(to(Object::Core), Object::Socket, Order::Turns), &two, 4),
        ["0,4", "2,6", "1,5", "3,7"]
    );
}

#[test]
fn larger_parts_are_shared_out_evenly_or_dealt() {
    let two = machine(2, 1, 2);
    assert_eq!(cpus(to(Object::Socket), &two, 4), ["0-1,4-5", "0-1,4-5", "2-3,6-7", "2-3,6-7"]);
    let turns = dealt(to(Object::Socket), Object::Socket, Order::Turns);
    assert_eq!(cpus(turns, &two, 3), ["0-1,4-5", "2-3,6-7", "0-1,4-5"]);
    let runs = dealt(to(Object::Numa), Object::Socket, Order::Runs(2));
    assert_eq!(cpus(runs, &two, 4), ["0-1,4-5", "0-1,4-5", "2-3,6-7", "2-3,6-7"]);
    assert_eq!(cpus(to(Object::Numa), &machine(1, 4, 1), 4), ["0,4", "1,5", "2,6", "3,7"]);
}

#[test]
fn too_few_cores_are_told_with_the_arithmetic_unless_they_may_be_shared() {
    let policy = Policy { cpus_per_rank: Some(2), ..to(Object::Core) };
    let error = bind(policy, &machine(1, 1, 4), 3, "h7").unwrap_err().to_string();
    assert!(error.starts_with("3 ranks of 2 cores each need 6 cores, and h7 has 4\n"), "{error}");
    let shared = Policy { overload_allowed: true, ..to(Object::Core) };
    assert_eq!(cpus(shared, &machine(1, 1, 2), 3), ["0,2", "1,3", "0,2"]);
    let none = Topology::default();
    assert!(matches!(bind(to(Object::Core), &none, 1, "h"), Err(BindError::NoCpus { .. })));
    let gpu = Policy { bind_to: BindTo::Gpu, ..Policy::default() };
    assert!(matches!(bind(gpu, &machine(1, 1, 1), 1, "h"), Err(BindError::NoGpu { .. })));
}

#[test]
fn ranks_of_p4d_have_a_gpu_its_card_and_its_cores() {
    let gpu = Policy { bind_to: BindTo::Gpu, ..Policy::default() };
    let text: Vec<String> = bind(gpu, &p4d(), 8, "h").unwrap().iter().map(describe).collect();
    let near = |numa: u32| if numa == 0 { "0-23,48-71" } else { "24-47,72-95" };
    let expected = [
        (0, "10:1c.0", "rdmap16s27"),
        (0, "10:1d.0", "rdmap16s27"),
        (0, "20:1c.0", "rdmap32s27"),
        (0, "20:1d.0", "rdmap32s27"),
        (1, "90:1c.0", "rdmap144s27"),
        (1, "90:1d.0", "rdmap144s27"),
        (1, "a0:1c.0", "rdmap160s27"),
        (1, "a0:1d.0", "rdmap160s27"),
    ];
    let expected =
        expected.map(|(numa, gpu, nic)| format!("bound to CPUs {}, GPU 0000:{gpu}, near {nic}", near(numa)));
    assert_eq!(text, expected);
}

#[test]
fn cards_behind_a_switch_are_shared_out_among_its_gpus() {
    let nics: Vec<Vec<String>> = bind(Policy::default(), &switches(), 8, "h")
        .unwrap()
        .into_iter()
        .map(|binding| binding.nics)
        .collect();
    assert_eq!(
        (&nics[0][..], &nics[1][..]),
        (&["nic00".into(), "nic01".into()][..], &["nic02".into(), "nic03".into()][..])
    );
    assert_eq!(nics[7], ["nic32", "nic33"]);
}

#[test]
fn without_paths_in_common_the_numa_node_decides() {
    let mut topology = p4d();
    let devices = topology.gpus.iter_mut().chain(&mut topology.efa_devices);
    devices.enumerate().for_each(|(index, device)| device.pci_path = format!("pci{index}/x"));
    let near: Vec<String> = bind(Policy::default(), &topology, 8, "h")
        .unwrap()
        .into_iter()
        .map(|binding| binding.nics.join(" "))
        .collect();
    assert_eq!(near[..4].concat(), "rdmap16s27rdmap16s27rdmap32s27rdmap32s27");
    assert_eq!(near[7], "rdmap160s27");
}

#[test]
fn cards_of_a_node_without_gpus_are_shared_out_among_its_ranks() {
    let mut topology = p4d();
    topology.gpus.clear();
    let nics = |ranks| -> Vec<String> {
        bind(Policy::default(), &topology, ranks, "h")
            .unwrap()
            .into_iter()
            .map(|binding| binding.nics.join(" "))
            .collect()
    };
    assert_eq!(nics(2), ["rdmap16s27 rdmap32s27", "rdmap144s27 rdmap160s27"]);
    assert_eq!(nics(5)[4], "rdmap16s27", "more ranks than cards share them");
}

proptest! {
    #[test]
    fn whatever_is_bound_exists_and_cores_are_nobody_elses(
        sockets in 1u32..3, numas in 1u32..3, cores in 1u32..5, ranks in 1u32..12, each in 1u32..3,
        object in prop::sample::select(vec![Object::Hwthread, Object::Core, Object::Numa, Object::Socket]),
        by in prop::option::of((prop::sample::select(vec![Object::Core, Object::Numa, Object::Socket]), 0u32..4)),
    ) {
        let topology = machine(sockets, numas, cores);
        let order = |kind| match kind { 0 => Order::Turns, 1 => Order::Shares, run => Order::Runs(run) };
        let dealt = by.map(|(object, kind)| Dealt { object, order: order(kind) });
        let policy = Policy { cpus_per_rank: Some(each), dealt, ..to(object) };
        let Ok(bindings) = bind(policy, &topology, ranks, "h") else {
            prop_assert!(matches!(object, Object::Core | Object::Hwthread), "only these can be too few");
            return Ok(());
        };
        prop_assert_eq!(bindings.len(), ranks as usize);
        let mut seen = std::collections::BTreeSet::new();
        for cpu in bindings.iter().flat_map(|binding| &binding.cpus) {
            prop_assert!(topology.cpus.iter().any(|there| there.id == *cpu));
            let alone = seen.insert(*cpu);
            prop_assert!(alone || matches!(object, Object::Numa | Object::Socket), "CPU {} has two ranks", cpu);
        }
        prop_assert!(bindings.iter().all(|binding| !binding.cpus.is_empty()));
    }
}
