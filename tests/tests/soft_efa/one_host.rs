//! One host: libfabric's own tools find the devices and talk over them.

use efarun_tests::{Need, require};

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
