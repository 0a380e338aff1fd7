//! Ranks of the runtime on soft EFA devices: they get every collective right, whatever the network's manners, and say what
//! broke, with rank, card, cause and remedy, where it breaks.
//!
//! What ends in such an error, within a deadline and with everything closed, on a p4d and on a p5 each:
//!
//! | what | test |
//! |---|---|
//! | a peer dies | `a_killed_rank_is_named_and_everything_closes` |
//! | a link goes down | `a_link_that_goes_down_is_told`; of several rails, `a_rail_that_fails_under_way_is_left` |
//! | one-way silence | `a_security_group_that_lets_nothing_through_is_told` |
//! | receiver not ready | `a_receiver_that_is_never_ready_ends_at_the_deadline_and_is_told` |
//! | bad key | `a_bad_key_is_told` |
//! | completion queues | `a_card_that_makes_no_queue_so_large_is_told`; that none overflows is the runtime's own test `completions_never_find_a_queue_full` (p5: on a p4d the provider sizes the card's queue) |
//! | mixed versions | `two_releases_of_libfabric_in_a_world_are_named` |
//! | a card is lost | `a_card_that_is_lost_is_told` |

use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use efarun_tests::{Need, Testbed, is_full_matrix, libfabric_1_22_folder, program, require};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

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
fn a_rank_with_one_card_of_a_p4d_has_it_read_long_messages() {
    require!(Need::SoftEfa, Need::SoftEfaPeers);
    let older = libfabric_1_22_folder();
    for seed in seeds() {
        for libfabric in [None, older.to_str()] {
            let sysfs = tempfile::tempdir().unwrap();
            let mut options = vec!["--device", "p4d", "--manners", "all", "--seed", &seed];
            options.extend(libfabric.into_iter().flat_map(|folder| ["--libfabric", folder]));
            let devices = SoftEfa::new(&options);
            let watched = devices.clone().with("SOFTEFA_SYSFS", sysfs.path().to_str().unwrap());
            let said = finish(alone(&[devices, watched], &["0,1,257,70000,300000"]));
            assert_eq!(said.matches("efa on 1 rail (rdmap16s27; libfabric").count(), 2, "{said}");
            let counters = sysfs.path().join("class/infiniband/rdmap16s27/ports/1/hw_counters");
            let read = std::fs::read_to_string(counters.join("rdma_read_bytes")).unwrap();
            assert!(read.trim().parse::<u64>().unwrap() > 1 << 20, "{read} bytes were read: {said}");
        }
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
    for (device, card) in CARDS {
        let devices = SoftEfa::new(&["--device", device, "--manners", "srd", "--timeout", "1000"]);
        let mut ranks = alone(&[devices.clone(), devices], &["--until-failure", "40000"]);
        let (killed, mut left) = (ranks.pop().unwrap(), ranks.pop().unwrap());
        left.wait_for_line("summing");
        killed.kill();
        let way = format!("from {card} to {card} on ");
        let said = failed_in_time(&left.finish(PATIENCE));
        assert_says(&said, device, &["rank 1 is lost", &way]);
        // By what told of it first: the card, or the connection to its process.
        let causes = ["answered before", "its endpoint is gone", "closed the connection"];
        let remedies = ["look there first", "said last tells why"];
        for words in [&causes[..], &remedies[..]] {
            assert!(words.iter().any(|word| said.contains(word)), "{device}: none of {words:?} in: {said}");
        }
    }
}

#[test]
fn a_security_group_that_lets_nothing_through_is_told() {
    require!(Need::SoftEfa);
    for (device, card) in CARDS {
        let silence = "silence=127.0.0.2>127.0.0.3";
        let devices = SoftEfa::new(&["--device", device, "--timeout", "1000", "--fault", silence]);
        let said = both_fail(alone(&[devices.clone(), devices], &["--until-failure", "1000"]));
        let way = format!("from {card} to {card} on ");
        assert_says(&said, device, &["rank 1 is lost", "security group", "EFA code 15", &way]);
    }
}

#[test]
fn a_link_that_goes_down_is_told() {
    require!(Need::SoftEfa);
    for (device, card) in CARDS {
        let said = said_after(device, "link-down", "40000");
        assert_says(
            &said,
            device,
            &[" is lost: ", "answered before", "its link is", &format!("from {card} to {card} on ")],
        );
    }
}

#[test]
fn a_rail_that_fails_under_way_is_left() {
    require!(Need::SoftEfa);
    for (device, nics, card) in [("p4d", 4, "rdmap32s27"), ("p5", 3, "rdmap80s0")] {
        let folder = tempfile::tempdir().unwrap();
        let (trigger, enough) = (folder.path().join("now"), folder.path().join("enough"));
        let fault = format!("link-down=1@{}", trigger.display());
        let nics_text = nics.to_string();
        let options = ["--device", device, "--nics", &nics_text, "--manners", "srd", "--timeout", "1000"];
        let devices = SoftEfa::new(&[&options[..], &["--fault", &fault]].concat());
        let arguments = ["--sums-until", enough.to_str().unwrap(), "100000"];
        let mut ranks = alone(&[devices.clone(), devices], &arguments);
        // Both have used every rail, and what they sent was answered: the last of these sums needs the first one's slots.
        for rank in &mut ranks {
            (0..8).for_each(|_| drop(rank.wait_for_line("summing")));
        }
        std::fs::write(&trigger, "").unwrap();
        let (left, way) = (nics - 1, format!("from {card} to {card} on "));
        for (rank, peer) in ranks.iter_mut().zip([1, 0]) {
            let own = 1 - peer;
            let wanted = format!(
                "efarun: rank {own}: goes on to rank {peer} over {left} rails, without one that failed: "
            );
            let cause = rank.wait_for_line(&wanted);
            assert!(cause.contains("answered before") && cause.contains(&way), "{device}: {cause}");
        }
        std::fs::write(&enough, "").unwrap();
        // A busy machine may take another rail for lost, which is a cause of its own.
        let said = finish(ranks);
        let told = said.matches(&format!(" over {left} rails, without")).count();
        assert_eq!(told, 2, "{device}: each rank says it once: {said}");
    }
}

#[test]
fn a_rail_that_fails_is_told_by_its_cards_where_an_older_libfabric_cannot_do_without() {
    require!(Need::SoftEfa, Need::SoftEfaPeers);
    let folder = tempfile::tempdir().unwrap();
    let trigger = folder.path().join("now");
    let fault = format!("link-down=1@{}", trigger.display());
    let older = libfabric_1_22_folder();
    let options = ["--device", "p4d", "--nics", "2", "--timeout", "1000", "--fault", &fault];
    let devices = SoftEfa::new(&[&options[..], &["--libfabric", older.to_str().unwrap()]].concat());
    let mut ranks = alone(&[devices.clone(), devices], &["--until-failure", "100000"]);
    ranks[0].wait_for_line("summing");
    std::fs::write(&trigger, "").unwrap();
    let told =
        ["answered before", "from rdmap32s27 to rdmap32s27 on ", "bound to the card", "install a newer one"];
    assert_says(&both_fail(ranks), "p4d", &told);
}

#[test]
fn a_card_whose_port_is_down_is_left_out_from_the_beginning() {
    require!(Need::SoftEfa);
    let sysfs = tempfile::tempdir().unwrap();
    let whole = SoftEfa::new(&["--device", "p4d", "--nics", "4"]);
    let broken = whole.clone().with("SOFTEFA_SYSFS", sysfs.path().to_str().unwrap());
    // Devices make the folder when they are first looked for, and leave alone what is there.
    succeeded("fi_info", &broken.command("fi_info").output().unwrap());
    std::fs::write(sysfs.path().join("class/infiniband/rdmap32s27/ports/1/state"), "1: DOWN\n").unwrap();
    let said = finish(alone(&[whole, broken], &["1,70000,300000"]));
    assert!(said.contains("efa on 3 rails (rdmap16s27, rdmap32s27, rdmap144s27; libfabric"), "{said}");
    assert!(said.contains("efa on 3 rails (rdmap16s27, rdmap144s27, rdmap160s27; libfabric"), "{said}");
    assert!(said.contains("and without rdmap32s27, whose port is DOWN"), "{said}");
    let warning = "goes without rdmap32s27, whose port is DOWN\n";
    assert_eq!(said.matches(warning).count(), 1, "one rank of its node says it: {said}");
}

#[test]
fn a_card_that_is_lost_is_told() {
    require!(Need::SoftEfa);
    for (device, card) in CARDS {
        let said = said_after(device, "device-lost", "40000");
        // By what a rank was at: by its operation, by an event of the card's, or by an answer that does not come any more.
        let words = ["dropped what it was given", "is gone", "answered before", "Operation canceled"];
        assert!(words.iter().any(|word| said.contains(word)), "{device}: {said}");
        assert_says(&said, device, &[card]);
    }
}

#[test]
fn a_bad_key_is_told() {
    require!(Need::SoftEfa);
    for (device, card) in CARDS {
        let devices = SoftEfa::new(&["--device", device, "--fault", "fail=7"]);
        let said = both_fail(alone(&[devices.clone(), devices], &["--until-failure", "1000"]));
        let way = format!("from {card} to {card} on ");
        assert_says(&said, device, &["is lost", "EFA code 7", "not registered", "please report it", &way]);
    }
}

#[test]
fn a_receiver_that_is_never_ready_ends_at_the_deadline_and_is_told() {
    require!(Need::SoftEfa);
    for device in ["p4d", "p5"] {
        // Of a p5's cards every send and write fails with the code; the p4d's provider tries again without an end.
        let devices = SoftEfa::new(&["--device", device, "--fault", "fail=10"]).with("EFARUN_DEADLINE", "3");
        let said = both_fail(alone(&[devices.clone(), devices], &["--until-failure", "1000"]));
        let told: &[&str] = match device {
            "p4d" => &[
                "s for rank 1 to be ready for a message",
                "receiver not ready, RNR",
                "see what that rank does",
                "from rdmap16s27 to rdmap16s27 on ",
            ],
            _ => &[
                "rank 1 is lost",
                "it had no receive posted",
                "EFA code 10",
                "please report it",
                "from rdmap79s0 to rdmap79s0 on ",
            ],
        };
        assert_says(&said, device, told);
    }
}

#[test]
fn two_releases_of_libfabric_in_a_world_are_named() {
    require!(Need::SoftEfa, Need::SoftEfaPeers);
    for (device, _) in CARDS {
        let devices = SoftEfa::new(&["--device", device]);
        let older = devices.clone().with("LD_LIBRARY_PATH", libfabric_1_22_folder().to_str().unwrap());
        let ranks = alone(&[devices, older], &["1"]);
        let said: String = ranks.into_iter().map(|rank| failed(&rank.finish(PATIENCE))).collect();
        let told = ["has libfabric 1.22", "has 2.5", "install the same EFA installer on all nodes"];
        assert_says(&said, device, &told);
    }
}

#[test]
fn a_card_that_makes_no_queue_so_large_is_told() {
    require!(Need::SoftEfa);
    for (device, card) in CARDS {
        let devices = SoftEfa::new(&["--device", device, "--fault", "limit=entries:100"]);
        let ranks = alone(&[devices.clone(), devices], &["1"]);
        for (rank, guest) in ranks.into_iter().enumerate() {
            let said = failed(&guest.finish(Duration::from_millis(DEADLINE_MS)));
            let who = format!("Rank({rank})");
            let told = [who.as_str(), "fi_cq_open", card, "limited", "start fewer ranks per card"];
            assert_says(&said, device, &told);
        }
    }
}

#[test]
fn a_rank_that_waits_long_leaves_its_core_to_others() {
    require!(Need::SoftEfa);
    for (device, _) in CARDS {
        let folder = tempfile::tempdir().unwrap();
        let enough = folder.path().join("enough");
        // A process that is stopped answers nobody, which is not to be taken for its end.
        let devices = SoftEfa::new(&["--device", device, "--timeout", "60000"]);
        let mut ranks =
            alone(&[devices.clone(), devices], &["--sums-until", enough.to_str().unwrap(), "1000"]);
        ranks.iter_mut().for_each(|rank| drop(rank.wait_for_line("summing")));
        ranks[1].signal(Signal::SIGSTOP);
        // Before the rank's own deadline, which ends its waiting.
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (before, since) = (time_on_cores(ranks[0].pid()), Instant::now());
            std::thread::sleep(Duration::from_secs(1));
            let (used, wall) = (time_on_cores(ranks[0].pid()) - before, since.elapsed());
            println!("{device}: {used:?} of {wall:?}");
            if used * IDLE_ONE_IN < wall {
                break;
            }
            assert!(Instant::now() < deadline, "{device}: {used:?} of {wall:?} of waiting on a core");
        }
        ranks[1].signal(Signal::SIGCONT);
        std::fs::write(&enough, "").unwrap();
        finish(ranks);
    }
}

/// What ranks receive into lies on pages of 2 MiB where the kernel gives any, and all works where it gives none.
#[test]
fn ranks_receive_on_large_pages_where_there_are_any_and_work_without() {
    require!(Need::SoftEfa);
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    let gives_any = setting.contains("[always]") || setting.contains("[madvise]");
    for has_none in [false, true] {
        // Programs that are started from here have as much.
        nix::sys::prctl::set_thp_disable(has_none).unwrap();
        for (device, _) in CARDS {
            let folder = tempfile::tempdir().unwrap();
            let enough = folder.path().join("enough");
            let devices = SoftEfa::new(&["--device", device, "--nics", "4", "--manners", "srd"]);
            let arguments = ["--sums-until", enough.to_str().unwrap(), "100000"];
            let mut ranks = alone(&[devices.clone(), devices], &arguments);
            for rank in &mut ranks {
                rank.wait_for_line("summing");
                let on_large_kb = on_large_pages_kb(rank.pid());
                println!("{device}, none to be had: {has_none}: {on_large_kb} kB on large pages");
                let wanted = if gives_any && !has_none { 2048.. } else { 0.. };
                assert!(wanted.contains(&on_large_kb), "{device}: {on_large_kb} kB");
                assert!(!has_none || on_large_kb == 0, "{device}: {on_large_kb} kB where there are none");
            }
            std::fs::write(&enough, "").unwrap();
            finish(ranks);
        }
    }
}

#[test]
fn every_collective_is_right_between_hosts() {
    require!(Need::SoftEfa, Need::Testbed);
    let testbed = Testbed::up(if is_full_matrix() { 4 } else { 2 });
    let rails: &[&str] = if is_full_matrix() { &["1", "4"] } else { &["1"] };
    for seed in seeds() {
        for (device, _) in CARDS {
            for nics in rails {
                let options = ["--device", device, "--nics", nics, "--manners", "all", "--seed", &seed];
                finish(between(&SoftEfa::new(&options), &testbed, &["1,5003"]));
            }
        }
    }
}

#[test]
fn every_collective_is_right_between_hosts_with_an_older_libfabric() {
    require!(Need::SoftEfa, Need::SoftEfaPeers, Need::Testbed);
    let testbed = Testbed::up(if is_full_matrix() { 4 } else { 2 });
    let older = libfabric_1_22_folder();
    let options = ["--libfabric", older.to_str().unwrap(), "--device", "p4d", "--manners", "all"];
    for seed in seeds() {
        for nics in ["1", "4"] {
            let devices = SoftEfa::new(&[&options[..], &["--nics", nics, "--seed", &seed]].concat());
            let said = finish(between(&devices, &testbed, &["1,5003"]));
            assert!(said.contains("libfabric 1.22"), "{said}");
        }
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

/// What two ranks say that are adding up when a fault begins, on all devices.
fn said_after(device: &str, fault: &str, count: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let trigger = folder.path().join("now");
    let fault = format!("{fault}@{}", trigger.display());
    let devices = SoftEfa::new(&["--device", device, "--timeout", "1000", "--fault", &fault]);
    let mut ranks = alone(&[devices.clone(), devices], &["--until-failure", count]);
    ranks[0].wait_for_line("summing");
    std::fs::write(&trigger, "").unwrap();
    both_fail(ranks)
}

/// Waits for ranks that are all to fail, to say so in time, and to close everything; what they said.
fn both_fail(ranks: Vec<Guest>) -> String {
    ranks.into_iter().map(|rank| failed_in_time(&rank.finish(PATIENCE))).collect()
}

/// As [`failed`], of an operation that was to fail soon after what made it fail.
fn failed_in_time(output: &Output) -> String {
    let said = failed(output);
    let took_ms =
        said.lines().find_map(|line| line.strip_prefix("failed after ")?.split(' ').next()?.parse().ok());
    assert!(took_ms.is_some_and(|took_ms: u64| took_ms < DEADLINE_MS), "{said}");
    said
}

#[track_caller]
fn assert_says(said: &str, device: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{device}: `{part}` is not in: {said}");
    }
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

/// How long the thread that a process began with has run: the first number of its schedstat. Devices have threads of their
/// own, which are the network.
fn time_on_cores(process: Pid) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/task/{process}/schedstat")).unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

fn on_large_pages_kb(process: Pid) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A rank that waits and looks now and then is on a core for less than one part in so many of the time.
const IDLE_ONE_IN: u32 = 5;
/// Each profile with its first card.
const CARDS: [(&str, &str); 2] = [("p4d", "rdmap16s27"), ("p5", "rdmap79s0")];
/// What an operation may take to fail: devices give a peer up after one second, a deadline is three. The rest is for busy
/// machines.
const DEADLINE_MS: u64 = 40_000;
/// Longer than any rank waits for another.
const PATIENCE: Duration = Duration::from_secs(100);

fn seeds() -> impl Iterator<Item = String> {
    (1..=if is_full_matrix() { 50 } else { 1 }).map(|seed: u32| seed.to_string())
}
