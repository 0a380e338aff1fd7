//! Several hosts: namespaces of their own for network and processes, with a bridge between them.

use efarun_tests::{Need, Testbed, is_full_matrix, program, require};

use crate::support::{Guest, LIMIT, SoftEfa, free_port, pingpong, succeeded};

#[test]
fn programs_work_between_hosts_under_all_manners() {
    require!(Need::SoftEfa, Need::Testbed);
    let testbed = Testbed::up(2);
    let seeds = if is_full_matrix() { 1..=50 } else { 1..=1 };
    for seed in seeds {
        for device in ["p4d", "p5"] {
            let devices = SoftEfa::new(&[
                "--device",
                device,
                "--nics",
                "2",
                "--manners",
                "all",
                "--seed",
                &seed.to_string(),
            ]);
            for endpoint in ["rdm", "dgram"] {
                // Datagrams may be lost where they may be late; libfabric's tool does not expect that.
                let manners = if endpoint == "dgram" { "none" } else { "all" };
                let devices = devices.clone().with("SOFTEFA_MANNERS", manners);
                let on = |host| devices.command_on(&testbed, host, "fi_pingpong");
                let address = &testbed.host("h1").address;
                let table =
                    pingpong(on("h1"), on("h2"), address, &["-p", "efa", "-e", endpoint, "-c", "-I", "20"]);
                assert!(table.contains("usec/xfer"), "{table}");
            }
            for program in ["tagged", "rma", "unexpected", "multi-recv", "cq-data", "direct-send"] {
                run_between(&devices, &testbed, [program, program]);
            }
            if device == "p5" {
                run_between(&devices, &testbed, ["direct-write"; 2]);
            }
        }
    }
}

#[test]
fn pulled_cable_and_security_group_are_told_by_their_codes() {
    require!(Need::SoftEfa, Need::Testbed);
    let testbed = Testbed::up(2);
    let devices = SoftEfa::new(&["--manners", "srd", "--timeout", "1000"]);
    let (target, mut initiator) = start_between(&devices, &testbed, ["wait", "send-until-failure"]);
    initiator.wait_for_line("sending");
    testbed.cut("h1");
    let said = succeeded("the initiator", &initiator.finish(LIMIT));
    assert!(said.contains("failed: 103 "), "unresponsive, after the cable was pulled: {said}");
    drop(target);
    testbed.heal("h1");

    let silence = format!("silence={}>{}", testbed.host("h1").address, testbed.host("h2").address);
    let devices = SoftEfa::new(&["--manners", "srd", "--timeout", "1000", "--fault", &silence]);
    let (target, initiator) = start_between(&devices, &testbed, ["wait", "send-until-failure"]);
    let said = succeeded("the initiator", &initiator.finish(LIMIT));
    assert!(said.contains("failed: 113 "), "unreachable, as no answer ever came: {said}");
    drop(target);
}

fn run_between(devices: &SoftEfa, testbed: &Testbed, programs: [&str; 2]) {
    let (target, initiator) = start_between(devices, testbed, programs);
    let (target, initiator) = (target.finish(LIMIT), initiator.finish(LIMIT));
    succeeded(&format!("{}, the initiator", programs[1]), &initiator);
    succeeded(&format!("{}, the target", programs[0]), &target);
}

/// The target on h1, the initiator on h2.
fn start_between(devices: &SoftEfa, testbed: &Testbed, programs: [&str; 2]) -> (Guest, Guest) {
    // The programs meet over the fabric's network, which some tests cut; by then they have met.
    let address = format!("{}:{}", testbed.host("h1").address, free_port());
    let start = |host, name: &str, role: &str| {
        let mut command = devices.command_on(testbed, host, program!("soft-efa-program"));
        command.args([name, role, address.as_str(), "--rounds", "1"]);
        Guest::start(command)
    };
    (start("h1", programs[0], "--listen"), start("h2", programs[1], "--connect"))
}
