//! The transport on the real EFA provider, over soft EFA devices of this process.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

/// Each case as a test on each of these releases, on devices made by these options of `scripts/soft-efa`.
macro_rules! on_soft_efa {
    ($($module:ident, $release:literal: { $($case:ident: $options:expr;)* })*) => {
        $(mod $module {
            $(#[test]
            fn $case() {
                super::run_case($release, stringify!($case), &$options);
            })*
        })*
    };
}

/// The cases' bodies, to be run in processes that have devices.
macro_rules! bodies {
    ($($case:ident),* $(,)?) => {
        mod bodies {
            $(#[test]
            fn $case() {
                if super::support::body_runs_on().is_some() {
                    super::$case();
                }
            })*
        }
    };
}

bodies! {
    conforms_on_a_p4d,
    conforms_on_four_rails_of_a_p4d,
    rails_carry_equal_shares,
    ranks_that_differ_are_refused,
    a_peer_that_closed_is_lost_to_its_sender_by_cause_and_card,
    operations_that_fail_are_told_by_cause_and_card,
    keys_that_are_bad_are_told,
    a_card_that_is_lost_is_told,
    a_link_that_goes_down_while_cards_read_is_told,
    a_rail_that_fails_says_why_its_messages_do_not_go_over_others,
    messages_go_round_a_rail_that_fails,
    messages_without_a_rail_left_lose_the_peer,
    queues_that_are_full_are_waited_for,
    conforms_by_writes_on_a_p5,
    conforms_by_writes_on_four_rails_of_a_p5,
    a_peer_that_closed_is_lost_to_its_writer_by_cause_and_card,
    writes_that_fail_are_told_by_cause_and_card,
    writes_go_round_a_rail_that_fails,
    writes_without_a_rail_left_lose_the_peer,
    a_p4d_does_not_write,
}

on_soft_efa! {
    libfabric_2, "2.5.1": {
        conforms_on_a_p4d: ["--device", "p4d", "--manners", "all"];
        conforms_on_four_rails_of_a_p4d: ["--device", "p4d", "--nics", "4", "--manners", "all"];
        rails_carry_equal_shares: ["--device", "p4d", "--nics", "4"];
        ranks_that_differ_are_refused: ["--device", "p4d", "--nics", "2"];
        a_peer_that_closed_is_lost_to_its_sender_by_cause_and_card: ["--device", "p4d"];
        operations_that_fail_are_told_by_cause_and_card:
            ["--device", "p4d", "--nics", "2", "--fault", "fail=15:send"];
        keys_that_are_bad_are_told: ["--device", "p4d", "--fault", "fail=7:send"];
        a_card_that_is_lost_is_told: ["--device", "p4d", "--fault", "device-lost@200ops"];
        a_link_that_goes_down_while_cards_read_is_told:
            ["--device", "p4d", "--timeout", "500", "--manners", "srd", "--fault", "link-down@400ops"];
        messages_go_round_a_rail_that_fails:
            ["--device", "p4d", "--nics", "4", "--timeout", "2000", "--manners", "srd", "--fault", "link-down=1@150ops"];
        messages_without_a_rail_left_lose_the_peer:
            ["--device", "p4d", "--nics", "3", "--timeout", "200", "--fault", "link-down@300ops"];
        queues_that_are_full_are_waited_for: ["--device", "p4d", "--nics", "2", "--fault", "queue-full=30"];
        conforms_by_writes_on_a_p5: ["--device", "p5", "--manners", "all", "--fault", "queue-full=10"];
        conforms_by_writes_on_four_rails_of_a_p5: ["--device", "p5", "--nics", "4", "--manners", "all"];
        a_peer_that_closed_is_lost_to_its_writer_by_cause_and_card: ["--device", "p5"];
        writes_that_fail_are_told_by_cause_and_card: ["--device", "p5", "--nics", "2", "--fault", "fail=7:write"];
        writes_go_round_a_rail_that_fails:
            ["--device", "p5", "--nics", "3", "--timeout", "2000", "--manners", "srd", "--fault", "link-down=1@150ops"];
        writes_without_a_rail_left_lose_the_peer:
            ["--device", "p5", "--nics", "3", "--timeout", "200", "--fault", "link-down@300ops"];
        a_p4d_does_not_write: ["--device", "p4d"];
    }
    libfabric_1_22, "1.22.0": {
        conforms_on_a_p4d: ["--device", "p4d", "--manners", "all"];
        rails_carry_equal_shares: ["--device", "p4d", "--nics", "4"];
        a_peer_that_closed_is_lost_to_its_sender_by_cause_and_card: ["--device", "p4d"];
        operations_that_fail_are_told_by_cause_and_card:
            ["--device", "p4d", "--nics", "2", "--fault", "fail=15:send"];
        a_rail_that_fails_says_why_its_messages_do_not_go_over_others:
            ["--device", "p4d", "--nics", "2", "--timeout", "2000", "--fault", "link-down=1@150ops"];
        // Not queues that are full, nor lost cards: for packets of its own, this release takes the one for an error and
        // crashes at the other.
    }
}

fn conforms_on_a_p4d() {
    conformance(|world_size| boxed(world(&efa(world_size))));
}

fn conforms_on_four_rails_of_a_p4d() {
    conformance(|world_size| boxed(world(&efa(world_size).over(rails(4)))));
}

fn queues_that_are_full_are_waited_for() {
    let [mut sender, mut receiver] = pair(&efa(2).over(rails(2)));
    stream(&mut sender, &mut receiver, 60, 120_000);
    close_both(sender, receiver);
}

fn conforms_by_writes_on_a_p5() {
    conformance(|world_size| boxed(world(&efa_direct(world_size))));
}

fn conforms_by_writes_on_four_rails_of_a_p5() {
    conformance(|world_size| boxed(world(&efa_direct(world_size).over(rails_of_p5(4)))));
}

fn a_peer_that_closed_is_lost_to_its_writer_by_cause_and_card() {
    let [mut sender, mut receiver] = pair(&efa_direct(2));
    stream(&mut sender, &mut receiver, 10, 1000);
    receiver.try_close().unwrap();
    let cause = loss(sender);
    assert!(cause.contains("EFA code 9") && cause.contains("its endpoint is gone"), "{cause}");
    assert!(cause.contains("from rdmap79s0 to rdmap79s0 on "), "{cause}");
}

fn writes_that_fail_are_told_by_cause_and_card() {
    let [sender, mut receiver] = pair(&efa_direct(2).over(rails_of_p5(2)));
    let cause = loss_of(sender, Some(&mut receiver));
    assert!(cause.contains("not registered") && cause.contains("EFA code 7"), "{cause}");
    receiver.try_close().unwrap();
}

fn writes_go_round_a_rail_that_fails() {
    goes_round_a_rail_that_fails(&efa_direct(2).over(rails_of_p5(3)));
}

fn messages_go_round_a_rail_that_fails() {
    goes_round_a_rail_that_fails(&efa(2).over(rails(4)));
}

/// By then a rail that is to fail soon has long failed.
pub(super) const ROUNDS_MAX: usize = 40;

/// The second of these rails fails soon; the others carry everything. How soon depends on how many credits go in one message.
fn goes_round_a_rail_that_fails(config: &FabricConfig) {
    let [mut sender, mut receiver] = pair(config);
    let whole_bytes = sender.slot_bytes();
    // Messages of a piece, of two and of as many as there are rails, so that what fails is of each kind.
    for len in [1000, whole_bytes / 2, whole_bytes] {
        stream(&mut sender, &mut receiver, 100, len);
    }
    let mut round = || {
        let before = sender.counts();
        stream(&mut sender, &mut receiver, 30, whole_bytes);
        difference(&sender.counts().payload_bytes, &before.payload_bytes)
    };
    let after = (0..ROUNDS_MAX).map(|_| round()).find(|carried| carried[1] == 0);
    let after = after.expect("nothing goes over a rail that has failed");
    assert_eq!(after.iter().sum::<u64>(), 30 * whole_bytes as u64, "and nothing twice: {after:?}");
    close_both(sender, receiver);
}

fn messages_without_a_rail_left_lose_the_peer() {
    let [sender, mut receiver] = pair(&efa(2).over(rails(3)));
    let cause = loss_of(sender, Some(&mut receiver));
    assert!(cause.contains("answered before") || cause.contains("ever answered"), "{cause}");
    receiver.try_close().unwrap();
}

fn writes_without_a_rail_left_lose_the_peer() {
    let [sender, mut receiver] = pair(&efa_direct(2).over(rails_of_p5(3)));
    let cause = loss_of(sender, Some(&mut receiver));
    assert!(cause.contains("EFA code 13") || cause.contains("EFA code 15"), "{cause}");
    receiver.try_close().unwrap();
}

fn a_p4d_does_not_write() {
    let refused = FabricTransport::new(&efa_direct(2)).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("an EFA device that writes into others' memory"), "{refused}");
}

fn rails_carry_equal_shares() {
    let rails = &rails(4);
    let [mut sender, mut receiver] = pair(&efa(2).over(rails.clone()));
    // Short messages take turns, and so do the pieces of those that are not cut evenly.
    for (len, count) in [(1000, 400), (200_000, 40), (sender.slot_bytes(), 8)] {
        let before = (sender.counts(), sent_by_cards(rails));
        stream(&mut sender, &mut receiver, count, len);
        let payload_bytes = (count * len) as u64;
        let shares = difference(&sender.counts().payload_bytes, &before.0.payload_bytes);
        assert_eq!(shares.iter().sum::<u64>(), payload_bytes);
        assert_eq!(sender.counts().messages - before.0.messages, count as u64);
        assert_even(&shares, &format!("{count} messages of {len} bytes, at our transport"));
        // Cards count headers, credits and packets of the provider's protocol besides, and show it a little later.
        let deadline = Instant::now() + DEADLINE;
        let carried = loop {
            let carried = difference(&sent_by_cards(rails), &before.1);
            if carried.iter().sum::<u64>() >= payload_bytes {
                break carried;
            }
            assert!(Instant::now() < deadline, "the cards show {carried:?} of {payload_bytes} bytes");
            std::thread::sleep(Duration::from_millis(10));
        };
        if len >= 4096 {
            assert_even(&carried, &format!("{count} messages of {len} bytes, at the cards"));
        }
    }
    close_both(sender, receiver);
}

fn ranks_that_differ_are_refused() {
    let (mut ours, _) = FabricTransport::new(&efa(2)).unwrap();
    for other in [FabricConfig { slots: 5, ..efa(2) }, efa(2).over(rails(2))] {
        let (_, theirs) = FabricTransport::new(&other).unwrap();
        let refused = ours.connect(Rank(0), &[(Rank(1), theirs)]).unwrap_err();
        assert!(matches!(refused, TransportError::Incompatible { peer: Rank(1), .. }), "{refused}");
    }
    let missing = FabricConfig { devices: vec!["rdmap160s27".into()], ..efa(2) };
    let refused = FabricTransport::new(&missing).map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("endpoint on rdmap160s27"), "{refused}");
}

fn a_peer_that_closed_is_lost_to_its_sender_by_cause_and_card() {
    let [mut sender, mut receiver] = pair(&efa(2));
    stream(&mut sender, &mut receiver, 10, 1000);
    // The older release is closed only when nothing is under way, and left open otherwise.
    receiver.quiesced();
    receiver.try_close().unwrap();
    let cause = loss(sender);
    assert!(cause.contains("EFA code 9") && cause.contains("its endpoint is gone"), "{cause}");
    assert!(cause.contains("from rdmap16s27 to rdmap16s27 on "), "{cause}");
}

fn operations_that_fail_are_told_by_cause_and_card() {
    let [sender, mut receiver] = pair(&efa(2).over(rails(2)));
    let cause = loss_of(sender, Some(&mut receiver));
    assert!(cause.contains("security group") && cause.contains("EFA code 15"), "{cause}");
    receiver.try_close().unwrap();
}

fn keys_that_are_bad_are_told() {
    let [sender, mut receiver] = pair(&efa(2));
    let cause = loss_of(sender, Some(&mut receiver));
    assert!(cause.contains("not registered") && cause.contains("EFA code 7"), "{cause}");
    receiver.try_close().unwrap();
}

fn a_card_that_is_lost_is_told() {
    let [sender, mut receiver] = pair(&efa(2));
    let cause = loss_of(sender, Some(&mut receiver));
    assert!(cause.contains("rdmap16s27"), "{cause}");
    receiver.try_close().unwrap();
}

/// To one of the two at least: the sender of what is being read has nothing under way, and may never hear of it.
fn a_link_that_goes_down_while_cards_read_is_told() {
    let [sender, mut receiver] = pair(&efa(2));
    assert_eq!(sender.quick_bytes(), Some(sender.slot_bytes()), "all that is sent is read");
    let cause = loss_of(sender, Some(&mut receiver));
    assert!(cause.contains("it answered before and does not any more"), "{cause}");
    assert!(cause.contains("from rdmap16s27 to rdmap16s27 on "), "{cause}");
    receiver.try_close().unwrap();
}

fn a_rail_that_fails_says_why_its_messages_do_not_go_over_others() {
    let [sender, mut receiver] = pair(&efa(2).over(rails(2)));
    let cause = loss_of(sender, Some(&mut receiver));
    assert!(cause.contains("bound to the card") && cause.contains("FI_EFA_IFACE"), "{cause}");
    receiver.try_close().unwrap();
}

/// Rank 0, open to send, and rank 1, open to receive from it.
pub(super) fn pair(config: &FabricConfig) -> [FabricTransport; 2] {
    let mut two = world(config).into_iter();
    let [mut sender, mut receiver] = [(); 2].map(|()| two.next().unwrap());
    sender.open(&[], &[Rank(1)]).unwrap();
    receiver.open(&[Rank(0)], &[]).unwrap();
    [sender, receiver]
}

/// Sends messages from rank 0 to rank 1, as many at once as go, and takes them.
fn stream(sender: &mut FabricTransport, receiver: &mut FabricTransport, count: usize, len: usize) {
    let payload: Vec<u8> = (0..len).map(|index| (index / 7) as u8).collect();
    stream_of(sender, receiver, count, &payload);
}

/// The same with this payload.
#[expect(unsafe_code, reason = "try_send's contract: the payload outlives the sends, which all complete")]
pub(super) fn stream_of(
    sender: &mut FabricTransport,
    receiver: &mut FabricTransport,
    count: usize,
    payload: &[u8],
) {
    let len = payload.len();
    let (mut sent, mut taken, mut completed) = (0, 0, Vec::new());
    let deadline = Instant::now() + DEADLINE;
    while taken < count || completed.len() < count {
        assert!(Instant::now() < deadline, "{taken} of {count} messages of {len} bytes in {DEADLINE:?}");
        while sent < count {
            let token = SendToken(sent as u64);
            // SAFETY: the payload stays until the loop is over, which ends when all sends are complete.
            if !unsafe { sender.try_send(Rank(1), header(payload), &raw const payload[..], token) }.unwrap() {
                break;
            }
            sent += 1;
        }
        sender.poll(&mut completed).unwrap();
        receiver.poll(&mut Vec::new()).unwrap();
        while let Some(message) = receiver.arrived(Rank(0)).unwrap() {
            assert!(message.payload == payload, "message {taken} is not what was sent");
            receiver.release(Rank(0)).unwrap();
            taken += 1;
        }
    }
}

fn loss(sender: FabricTransport) -> String {
    loss_of(sender, None)
}

/// Sends to rank 1, which takes nothing but progresses while it can, until the transport says that it is lost; closes.
#[expect(unsafe_code, reason = "try_send's contract: the transport is closed before the payload ends")]
pub(super) fn loss_of(mut sender: FabricTransport, mut receiver: Option<&mut FabricTransport>) -> String {
    let payload = vec![7; sender.slot_bytes()];
    let deadline = Instant::now() + DEADLINE;
    let lost = loop {
        assert!(Instant::now() < deadline, "the loss was not seen in {DEADLINE:?}");
        // SAFETY: the transport is closed below, before the payload ends.
        let sent =
            unsafe { sender.try_send(Rank(1), header(&payload), &raw const payload[..], SendToken(0)) };
        let polled = sent.map(|_| ()).and_then(|()| sender.poll(&mut Vec::new()));
        // The credits of one side may fail as well as the messages of the other.
        let received = receiver.as_mut().map_or(Ok(()), |receiver| {
            let polled = receiver.poll(&mut Vec::new());
            let arrived = receiver.arrived(Rank(0)).map(|message| message.is_some());
            if arrived.as_ref().is_ok_and(|here| *here) {
                receiver.release(Rank(0)).unwrap();
            }
            polled.and(arrived.map(|_| ()))
        });
        if let Err(error) = polled.and(received) {
            break error;
        }
        sender.wait(Duration::from_millis(1));
    };
    sender.try_close().unwrap();
    println!("{lost}");
    lost.to_string()
}

/// Closes transports between which nothing is under way.
pub(super) fn close_both(sender: FabricTransport, receiver: FabricTransport) {
    for mut transport in [sender, receiver] {
        transport.quiesced();
        transport.try_close().unwrap();
    }
}

/// What each card of this host has sent, in order of the rails.
fn sent_by_cards(rails: &[String]) -> Vec<u64> {
    let counter = |name: &String| {
        let file = affinity::sysfs().join(format!("class/infiniband/{name}/ports/1/hw_counters/tx_bytes"));
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        text.trim().parse::<u64>().unwrap()
    };
    rails.iter().map(counter).collect()
}

pub(super) fn difference(after: &[u64], before: &[u64]) -> Vec<u64> {
    after.iter().zip(before).map(|(after, before)| after - before).collect()
}

/// Fails unless all are within 5% of each other.
fn assert_even(shares: &[u64], what: &str) {
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most * 100 <= least * 105, "{what}: {shares:?}");
}

/// A p4d's cards.
pub(super) fn rails(count: usize) -> Vec<String> {
    let all = ["rdmap16s27", "rdmap32s27", "rdmap144s27", "rdmap160s27"];
    all[..count].iter().map(|name| (*name).to_owned()).collect()
}

/// Cards of a p5.
pub(super) fn rails_of_p5(count: usize) -> Vec<String> {
    (79..79 + count).map(|bus| format!("rdmap{bus}s0")).collect()
}

pub(super) fn efa_direct(world_size: u32) -> FabricConfig {
    FabricConfig::new(world_size, Network::EfaDirect)
}

pub(super) fn efa(world_size: u32) -> FabricConfig {
    FabricConfig::new(world_size, Network::Efa)
}

/// Runs a case of this module in a child process that has the devices and this release of libfabric.
fn run_case(release: &str, case: &str, options: &[&str]) {
    run_body(release, case, &format!("soft_efa::bodies::{case}"), options);
}

/// Runs a body of these tests' in a child process that has the devices and this release of libfabric.
pub(super) fn run_body(release: &str, test: &str, body: &str, options: &[&str]) {
    run_at(release, test, &format!("transport::fabric::tests::{body}"), options);
}

/// The same for a body anywhere in this crate.
pub(crate) fn run_at(release: &str, test: &str, body: &str, options: &[&str]) {
    let folder = workspace().join(".cache").join(format!("libfabric-{release}"));
    let environment = match devices(&folder, test, options) {
        Ok(environment) => environment,
        Err(missing) => return support::skip(test, &missing),
    };
    support::run_in(&environment, support::Wanted::Fetched2, body);
}

/// The variables that put a process on soft EFA devices of its own, or what is missing.
fn devices(libfabric: &Path, case: &str, options: &[&str]) -> Result<Vec<(String, String)>, String> {
    if !libfabric.join("libfabric.so.1").exists() {
        return Err(format!("no libfabric.so.1 in {}: run scripts/fetch-libfabric", libfabric.display()));
    }
    let test = std::env::current_exe().expect("a test has a path");
    let library = test.parent().expect("a test lies in a folder").join("libsoftefa.so");
    assert!(library.exists(), "cargo builds {} with the tests", library.display());
    // Other tests' devices are not to be seen.
    let fabric = format!(
        "{}-{}",
        case.replace(|c: char| !c.is_ascii_alphanumeric(), "-").chars().take(20).collect::<String>(),
        std::process::id()
    );
    let output = Command::new(workspace().join("scripts/soft-efa"))
        .env("SOFTEFA_LIBRARY", library)
        .arg("--libfabric")
        .arg(libfabric)
        .args(["--fabric", &fabric, "--print-env"])
        .args(options)
        .output()
        .map_err(|error| format!("scripts/soft-efa cannot be run: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("cannot be loaded without") {
        return Err(stderr.trim().to_owned());
    }
    assert!(output.status.success(), "scripts/soft-efa {options:?}: {stderr}");
    let lines = String::from_utf8(output.stdout).expect("variables of tests are text");
    // Each endpoint would take a hundred megabytes of buffers, and conformance makes dozens of endpoints.
    let small = ["FI_EFA_TX_SIZE=256", "FI_EFA_RX_SIZE=512"];
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(lines.lines().chain(small).filter_map(pair).collect())
}

fn workspace() -> PathBuf {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders
        .into_iter()
        .find(|folder| folder.join("Cargo.lock").exists())
        .expect("the package lies in a workspace")
        .into()
}
