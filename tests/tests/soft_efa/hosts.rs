//! Several hosts: namespaces of their own for network and processes, with a bridge between them.

use std::process::Command;

use efarun_tests::{Need, Testbed, is_full_matrix, libfabric_1_22_folder, mpi_folder, require};

use crate::programs::{EVERYWHERE, seeds};
use crate::support::{Guest, LIMIT, SoftEfa, both_succeeded, is_unresponsive, pingpong, succeeded};

#[test]
fn programs_work_between_hosts_under_all_manners() {
    require!(Need::SoftEfa, Need::Testbed);
    let testbed = Testbed::up(2);
    for seed in seeds() {
        for device in ["p4d", "p5"] {
            let devices = SoftEfa::new(&UNDER_ALL_MANNERS).with_device(device).with_seed(seed);
            pingpong_between(&devices, &testbed);
            for program in EVERYWHERE.into_iter().chain(["direct-send"]) {
                run_between(&devices, &testbed, program);
            }
            if device == "p5" {
                run_between(&devices, &testbed, "direct-write");
            }
        }
    }
}

#[test]
fn older_libfabric_works_between_hosts_under_all_manners() {
    require!(Need::SoftEfa, Need::SoftEfaPeers, Need::Testbed);
    let testbed = Testbed::up(2);
    let folder = libfabric_1_22_folder();
    // The others differ little from what 2.5.1 does with them.
    let programs = if is_full_matrix() { &EVERYWHERE[..] } else { &["tagged", "rma"] };
    for seed in seeds() {
        for device in ["p4d", "p5"] {
            let devices = SoftEfa::new(&UNDER_ALL_MANNERS).with_device(device).with_seed(seed);
            let devices = devices.with("LD_LIBRARY_PATH", folder.to_str().unwrap());
            pingpong_between(&devices, &testbed);
            for program in programs {
                run_between(&devices, &testbed, program);
            }
        }
    }
}

fn pingpong_between(devices: &SoftEfa, testbed: &Testbed) {
    for endpoint in ["rdm", "dgram"] {
        // Datagrams may be lost where they may be late; libfabric's tool does not expect that.
        let manners = if endpoint == "dgram" { "none" } else { "all" };
        let devices = devices.clone().with("SOFTEFA_MANNERS", manners);
        let on = |host| devices.command_on(testbed, host, "fi_pingpong");
        let address = &testbed.host("h1").address;
        let table = pingpong(on("h1"), on("h2"), address, &["-p", "efa", "-e", endpoint, "-c", "-I", "20"]);
        assert!(table.contains("usec/xfer"), "{table}");
    }
}

const UNDER_ALL_MANNERS: [&str; 4] = ["--nics", "2", "--manners", "all"];

#[test]
fn pulled_cable_and_security_group_are_told_by_their_codes() {
    require!(Need::SoftEfa, Need::Testbed);
    let testbed = Testbed::up(2);
    let devices = SoftEfa::new(&["--manners", "srd", "--timeout", "1000"]);
    let (target, mut initiator) = devices.start_between(&testbed, ["wait", "send-until-failure"]);
    initiator.wait_for_line("sending");
    testbed.cut("h1");
    let said = succeeded("the initiator", &initiator.finish(LIMIT));
    assert!(is_unresponsive(&said), "after the cable was pulled: {said}");
    drop(target);
    testbed.heal("h1");

    let silence = format!("silence={}>{}", testbed.host("h1").address, testbed.host("h2").address);
    let devices = SoftEfa::new(&["--manners", "srd", "--timeout", "1000", "--fault", &silence]);
    let (target, initiator) = devices.start_between(&testbed, ["wait", "send-until-failure"]);
    let said = succeeded("the initiator", &initiator.finish(LIMIT));
    assert!(said.contains("failed: 113 15\n"), "unreachable, as no answer ever came: {said}");
    drop(target);
}

#[test]
fn mpich_gets_its_sums_right_on_four_hosts() {
    require!(Need::SoftEfa, Need::SoftEfaPeers, Need::Testbed);
    let testbed = Testbed::up(4);
    let (mpich, folder) = (mpi_folder("mpich-5.0.2"), testbed.folder());
    let program = folder.join("mpi_check");
    let built = Command::new("gcc")
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/soft-efa/programs/mpi_check.c"))
        .arg("-I")
        .arg(mpich.join("include"))
        .arg(mpich.join("lib/libmpi.so.12"))
        .args([
            format!("-Wl,-rpath,{}", mpich.join("lib").display()),
            "-Wl,--allow-shlib-undefined".to_owned(),
        ])
        .output()
        .unwrap();
    succeeded("gcc", &built);
    // MPICH's proxies ask for the topology before their ranks have devices.
    let sysfs = folder.join("sys");
    let devices = SoftEfa::new(&["--device", "p4d", "--manners", "all"])
        .with("SOFTEFA_SYSFS", &sysfs.display().to_string())
        .with("LD_LIBRARY_PATH", &mpich.join("lib/mpich").display().to_string())
        .with("MPIR_CVAR_NOLOCAL", "1")
        .with("MPIR_CVAR_CH4_NETMOD", "ofi");
    succeeded("fi_info", &devices.command("fi_info").output().unwrap());
    let topology = sysfs.join("hwloc.xml");
    let dial = folder.join("dial");
    let script = "#!/bin/sh\n[ \"$1\" = -x ] && shift\nhost=$1; shift\nexec ssh -x \"$host\" env HWLOC_XMLFILE=TOPOLOGY \"$@\"\n";
    std::fs::write(&dial, script.replace("TOPOLOGY", &topology.display().to_string())).unwrap();
    std::fs::set_permissions(&dial, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();

    let mut mpiexec = testbed.command("head", mpich.join("bin/mpiexec.hydra"));
    mpiexec.args(["-launcher", "ssh", "-launcher-exec"]).arg(&dial);
    mpiexec.args(["-hosts", "h1,h2,h3,h4", "-n", "8", "-ppn", "2", "-iface", "br0", "env"]);
    mpiexec.args(devices.variables()).arg(&program);
    let said = succeeded("mpiexec", &Guest::start(mpiexec).finish(LIMIT));
    assert!(said.contains("8 ranks, 0 wrong"), "{said}");
    let tx_bytes = sysfs.join("class/infiniband/rdmap16s27/ports/1/hw_counters/tx_bytes");
    let sent: u64 = std::fs::read_to_string(tx_bytes).unwrap().trim().parse().unwrap();
    assert!(sent > 10_000_000, "the sums went over the devices: {sent} bytes");
}

fn run_between(devices: &SoftEfa, testbed: &Testbed, program: &str) {
    let (target, initiator) = devices.start_between(testbed, [program; 2]);
    both_succeeded(program, &target.finish(LIMIT), &initiator.finish(LIMIT));
}
