//! One host: libfabric's own tools find the devices and talk over them.

use efarun_tests::{Need, libfabric_1_22_folder, require};

use crate::support::{Guest, LIMIT, SoftEfa, pingpong, script, succeeded};

#[test]
fn fi_info_finds_every_device_in_all_three_forms() {
    require!(Need::SoftEfa);
    let devices = SoftEfa::new(&["--device", "p4d", "--nics", "4"]);
    let mut info = devices.command("fi_info");
    info.args(["-p", "efa"]);
    let found = succeeded("fi_info", &Guest::start(info).finish(LIMIT));
    for (form, count) in [("fabric: efa-direct", 4), ("fabric: efa\n", 8), ("type: FI_EP_DGRAM", 4)] {
        assert_eq!(found.matches(form).count(), count, "{form:?} in {found}");
    }
    assert!(found.contains("domain: rdmap160s27-rdm"), "{found}");
}

#[test]
fn without_the_library_there_is_no_device() {
    require!(Need::SoftEfa);
    let devices = SoftEfa::new(&[]);
    let mut info = devices.command("fi_info");
    info.args(["-p", "efa"]).env_remove("LD_PRELOAD");
    let output = Guest::start(info).finish(LIMIT);
    assert!(!output.status.success(), "{output:?}");
}

#[test]
fn settings_that_make_no_sense_leave_no_device_and_say_why() {
    require!(Need::SoftEfa);
    for (option, value) in [("--device", "p3"), ("--nics", "33"), ("--manners", "rude"), ("--fault", "fire")]
    {
        let output = script().args([option, value, "--", "fi_info", "-p", "efa"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(value), "{option} {value}: {stderr}");
    }
}

#[test]
fn messages_of_all_sizes_arrive_on_reliable_endpoints() {
    require!(Need::SoftEfa);
    for device in ["p4d", "p5"] {
        for manners in ["none", "all"] {
            let devices = SoftEfa::new(&["--device", device, "--manners", manners]);
            pingpong_on(&devices, &["-e", "rdm", "-c", "-I", "20", "-S", "all"]);
        }
    }
}

#[test]
fn messages_arrive_on_datagram_endpoints() {
    require!(Need::SoftEfa);
    let devices = SoftEfa::new(&["--manners", "none"]);
    pingpong_on(&devices, &["-e", "dgram", "-c", "-I", "100"]);
}

#[test]
fn older_libfabric_works_under_all_manners() {
    require!(Need::SoftEfa, Need::SoftEfaPeers);
    let folder = libfabric_1_22_folder();
    for device in ["p4d", "p5"] {
        let devices =
            SoftEfa::new(&["--device", device, "--manners", "all", "--libfabric", folder.to_str().unwrap()]);
        pingpong_on(&devices, &["-e", "rdm", "-c", "-I", "5"]);
        // Read by RDMA.
        pingpong_on(&devices, &["-e", "rdm", "-c", "-I", "3", "-S", "4194304"]);
        pingpong_on(&devices.with("SOFTEFA_MANNERS", "none"), &["-e", "dgram", "-c", "-I", "20"]);
    }
}

#[test]
fn counters_and_ports_are_where_tools_look() {
    require!(Need::SoftEfa);
    let folder = tempfile::tempdir().unwrap();
    let sysfs = folder.path().join("sys");
    let devices = SoftEfa::new(&["--device", "p4d", "--nics", "2", "--sysfs", sysfs.to_str().unwrap()]);
    devices.run("tagged", &["--rounds", "1", "--domain", "rdmap32s27-rdm"]);
    let read = |name: &str| std::fs::read_to_string(sysfs.join("class/infiniband").join(name)).unwrap();
    assert_eq!(read("rdmap32s27/ports/1/state"), "4: ACTIVE\n");
    assert_eq!(read("rdmap32s27/device/vendor"), "0x1d0f\n");
    assert!(read("rdmap32s27/ports/1/gids/0").starts_with("fe80:0000:0000:0000:"));
    let counter = |name: &str| -> u64 {
        read(&format!("rdmap32s27/ports/1/hw_counters/{name}")).trim().parse().unwrap()
    };
    // 5.4 MB there and back, 5.2 of them by RDMA read.
    assert!(counter("tx_bytes") > 10_800_000, "{}", counter("tx_bytes"));
    assert_eq!(counter("tx_bytes"), counter("rx_bytes"));
    assert!(counter("rdma_read_bytes") > 10_400_000 && counter("rdma_read_resp_bytes") > 10_400_000);
    assert_eq!(read("rdmap16s27/ports/1/hw_counters/tx_bytes"), "0\n", "the other device was not used");
}

#[test]
fn tcp_carries_what_shared_memory_does() {
    require!(Need::SoftEfa);
    let devices = SoftEfa::new(&["--medium", "tcp", "--manners", "all"]);
    pingpong_on(&devices, &["-e", "rdm", "-c", "-I", "20"]);
}

fn pingpong_on(devices: &SoftEfa, options: &[&str]) {
    let program = || devices.command("fi_pingpong");
    let mut all = vec!["-p", "efa"];
    all.extend(options);
    let table = pingpong(program(), program(), "127.0.0.1", &all);
    assert!(table.contains("usec/xfer"), "{table}");
}
