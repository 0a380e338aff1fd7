//! Ranks of the runtime on soft EFA devices: they get every collective right, whatever the network's manners, and say what
//! broke, with rank, card, cause and remedy, where it breaks.

use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use efarun_tests::{Need, Testbed, is_full_matrix, libfabric_1_22_folder, program, require};

use crate::support::{Guest, SoftEfa, free_port, succeeded};

#[test]
fn every_collective_is_right_on_both_releases_of_libfabric() {
    require!(Need::SoftEfa, Need::SoftEfaPeers);
    let older = libfabric_1_22_folder();
    for seed in seeds() {
        for libfabric in [None, older.to_str()] {
            let mut options = vec!["--device", "p4d", "--manners", "all", "--seed", &seed];
            options.extend(libfabric.into_iter().flat_map(|folder| ["--libfabric", folder]));
            let said = finish(here(&SoftEfa::new(&options), 4, &["0,1,257,70000"]));
            // Two ranks on each of two hosts: each has one peer in shared memory and two beyond the network.
            assert_eq!(said.matches("shm (").count(), 4, "{said}");
            assert_eq!(said.matches("efa on 1 rail (rdmap16s27; libfabric").count(), 4, "{said}");
        }
    }
}

#[test]
fn a_rank_alone_on_its_host_uses_all_four_cards_of_a_p4d() {
    require!(Need::SoftEfa);
    for seed in seeds() {
        let options = ["--device", "p4d", "--nics", "4", "--manners", "all", "--seed", &seed];
        let devices = SoftEfa::new(&options).with("EFARUN_LOCAL_TRANSPORT", "network");
        let said = finish(alone(&[devices.clone(), devices], &["0,1,257,70000,600000"]));
        let rails = "efa on 4 rails (rdmap16s27, rdmap32s27, rdmap144s27, rdmap160s27; libfabric";
        assert_eq!(said.matches(rails).count(), 2, "{said}");
    }
}

#[test]
fn ranks_whose_cards_write_use_that_and_others_do_not() {
    require!(Need::SoftEfa);
    for seed in seeds() {
        let options = ["--device", "p5", "--nics", "4", "--manners", "all", "--seed", &seed];
        let p5 = SoftEfa::new(&options);
        let said = finish(alone(&[p5.clone(), p5.clone()], &["0,1,257,70000,600000"]));
        assert_eq!(said.matches("efa-direct on 4 rails (rdmap79s0, rdmap80s0").count(), 2, "{said}");
        assert!(said.contains("every card writes into others' memory"), "{said}");
        let by_messages = p5.clone().with("EFARUN_PROVIDER", "efa-rdm");
        let said = finish(alone(&[by_messages.clone(), by_messages], &["1,70000"]));
        assert_eq!(said.matches("efa on 4 rails (rdmap79s0, rdmap80s0").count(), 2, "{said}");
    }
}

#[test]
fn one_host_whose_cards_do_not_write_decides_for_all() {
    require!(Need::SoftEfa);
    let p5 = SoftEfa::new(&["--device", "p5", "--nics", "4"]);
    let p4d = p5.clone().with("SOFTEFA_DEVICE", "p4d").with("SOFTEFA_NICS", "2");
    let said = finish(alone(&[p5, p4d], &["1,5003"]));
    assert!(said.contains("efa on 2 rails (rdmap79s0, rdmap80s0;"), "{said}");
    assert!(said.contains("efa on 2 rails (rdmap16s27, rdmap32s27;"), "{said}");
    assert_eq!(said.matches("do not write into others' memory) to 1 peer").count(), 2, "{said}");
}

#[test]
fn a_killed_rank_is_named_and_everything_closes() {
    require!(Need::SoftEfa);
    let devices = SoftEfa::new(&["--device", "p4d", "--manners", "srd", "--timeout", "1000"]);
    let mut ranks = alone(&[devices.clone(), devices], &["--until-failure", "40000"]);
    let (killed, mut left) = (ranks.pop().unwrap(), ranks.pop().unwrap());
    left.wait_for_line("summing");
    killed.kill();
    let said = failed(&left.finish(PATIENCE));
    assert!(said.contains("rank 1 is lost"), "{said}");
}

#[test]
fn a_security_group_that_lets_nothing_through_is_told() {
    require!(Need::SoftEfa);
    let devices =
        SoftEfa::new(&["--device", "p4d", "--timeout", "1000", "--fault", "silence=127.0.0.2>127.0.0.3"]);
    let ranks = alone(&[devices.clone(), devices], &["--until-failure", "1000"]);
    let said: String = ranks.into_iter().map(|rank| failed(&rank.finish(PATIENCE))).collect();
    for part in ["rank 1 is lost", "security group", "EFA code 15", "from rdmap16s27 to rdmap16s27 on "] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_link_that_goes_down_is_told() {
    require!(Need::SoftEfa);
    let folder = tempfile::tempdir().unwrap();
    let trigger = folder.path().join("now");
    let fault = format!("link-down@{}", trigger.display());
    let devices = SoftEfa::new(&["--device", "p4d", "--timeout", "1000", "--fault", &fault]);
    let mut ranks = alone(&[devices.clone(), devices], &["--until-failure", "40000"]);
    ranks[0].wait_for_line("summing");
    std::fs::write(&trigger, "").unwrap();
    let said: String = ranks.into_iter().map(|rank| failed(&rank.finish(PATIENCE))).collect();
    assert!(said.contains("answered before") && said.contains("its link is"), "{said}");
}

#[test]
fn a_receiver_that_is_never_ready_ends_at_the_deadline() {
    require!(Need::SoftEfa);
    let devices = SoftEfa::new(&["--device", "p4d", "--fault", "fail=10:send"]).with("EFARUN_DEADLINE", "3");
    let ranks = alone(&[devices.clone(), devices], &["--until-failure", "1000"]);
    let said: String = ranks.into_iter().map(|rank| failed(&rank.finish(PATIENCE))).collect();
    assert!(said.contains("s for rank 1 to be ready for a message"), "{said}");
}

#[test]
fn two_releases_of_libfabric_in_a_world_are_named() {
    require!(Need::SoftEfa, Need::SoftEfaPeers);
    let devices = SoftEfa::new(&["--device", "p4d"]);
    let older = devices.clone().with("LD_LIBRARY_PATH", libfabric_1_22_folder().to_str().unwrap());
    let ranks = alone(&[devices, older], &["1"]);
    let said: String = ranks.into_iter().map(|rank| failed(&rank.finish(PATIENCE))).collect();
    assert!(said.contains("has libfabric 1.22") && said.contains("has 2.5"), "{said}");
    assert!(said.contains("install the same EFA installer on all nodes"), "{said}");
}

#[test]
fn every_collective_is_right_between_hosts() {
    require!(Need::SoftEfa, Need::Testbed);
    let testbed = Testbed::up(if is_full_matrix() { 4 } else { 2 });
    for seed in seeds() {
        let devices = SoftEfa::new(&["--device", "p4d", "--manners", "all", "--seed", &seed]);
        finish(between(&devices, &testbed, &["1,5003"]));
    }
}

/// Starts ranks on this machine, two to a host that is only posed.
fn here(devices: &SoftEfa, world_size: usize, arguments: &[&str]) -> Vec<Guest> {
    let meeting = meeting();
    let start = |rank: usize| {
        let host = rank / 2;
        let devices = devices.clone().with("SOFTEFA_ADDRESS", &format!("127.0.0.{}", host + 2));
        let mut command = devices.command(program!("rank_collectives"));
        command.args(arguments).envs(identity(rank, world_size, &meeting));
        command.env("EFARUN_NODE_RANK", host.to_string());
        Guest::start(command)
    };
    (0..world_size).map(start).collect()
}

/// Starts a rank on each of these devices on this machine, each on a posed host of its own.
fn alone(devices: &[SoftEfa], arguments: &[&str]) -> Vec<Guest> {
    let meeting = meeting();
    let start = |(rank, devices): (usize, &SoftEfa)| {
        let devices = devices.clone().with("SOFTEFA_ADDRESS", &format!("127.0.0.{}", rank + 2));
        let mut command = devices.command(program!("rank_collectives"));
        for (name, value) in identity(rank, 2, &meeting) {
            if !devices.sets(name) {
                command.env(name, value);
            }
        }
        command.args(arguments).env("EFARUN_NODE_RANK", rank.to_string());
        Guest::start(command)
    };
    devices.iter().enumerate().map(start).collect()
}

/// Starts a rank on each host of a testbed.
fn between(devices: &SoftEfa, testbed: &Testbed, arguments: &[&str]) -> Vec<Guest> {
    let world_size = testbed.hosts().len();
    let meeting = format!("{}:{}", testbed.hosts()[0].address, free_port());
    let start = |rank: usize| {
        let mut devices = devices.clone();
        for (name, value) in identity(rank, world_size, &meeting) {
            devices = devices.with(name, &value);
        }
        let host = &testbed.hosts()[rank].name;
        let mut command = devices.command_on(testbed, host, program!("rank_collectives"));
        command.args(arguments);
        Guest::start(command)
    };
    (0..world_size).map(start).collect()
}

/// Where the ranks of a world on this machine meet: at an address that no other test has, as a port that was free a moment
/// ago may be another's by now.
fn meeting() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let port = 29_500 + NEXT.fetch_add(1, Ordering::Relaxed);
    format!("127.{}.{middle}.{low}:{port}", 64 + high % 64)
}

/// Who a rank is, without a launcher.
fn identity(rank: usize, world_size: usize, meeting: &str) -> [(&'static str, String); 5] {
    [
        ("EFARUN_RANK", rank.to_string()),
        ("EFARUN_WORLD_SIZE", world_size.to_string()),
        ("EFARUN_BOOTSTRAP", meeting.to_owned()),
        ("EFARUN_INSECURE", "1".to_owned()),
        ("EFARUN_DEADLINE", "60".to_owned()),
    ]
}

/// Waits for ranks that are to get all right and close all; what they said.
fn finish(ranks: Vec<Guest>) -> String {
    let said = ranks.into_iter().enumerate().map(|(rank, guest)| {
        let said = succeeded(&format!("rank {rank}"), &guest.finish(PATIENCE));
        assert!(said.contains(&format!("rank {rank}: all right")), "{said}");
        assert_all_closed(&said);
        said
    });
    said.collect()
}

/// What a rank said that was to fail, and to close everything.
fn failed(output: &Output) -> String {
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "it ends by its error: {said}");
    assert_all_closed(&said);
    said
}

/// The runtime logs what does not close.
fn assert_all_closed(said: &str) {
    assert!(!said.contains("closing the") && !said.contains("does not close"), "{said}");
}

/// Longer than any rank waits for another.
const PATIENCE: Duration = Duration::from_secs(100);

fn seeds() -> impl Iterator<Item = String> {
    (1..=if is_full_matrix() { 50 } else { 1 }).map(|seed: u32| seed.to_string())
}
