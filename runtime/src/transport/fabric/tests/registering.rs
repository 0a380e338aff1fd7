//! How often callers' memory is registered with cards.

use super::soft_efa::{close_both, efa, efa_direct, pair, rails, rails_of_p5, run_body, stream_of};
use super::*;
use crate::transport::kept::KeptBuffer;

#[test]
fn memory_that_stays_is_registered_once_per_card() {
    for device in ["p4d", "p5"] {
        let options = ["--device", device, "--nics", "2", "--manners", "srd"];
        let body = format!("registering::bodies::on_a_{device}_memory_that_stays_is_registered_once");
        run_body("2.5.1", &format!("{device}-regions"), &body, &options);
    }
}

#[test]
fn a_card_that_takes_few_regions_serves_much_memory() {
    let options = ["--device", "p5", "--manners", "srd", "--fault", "limit=regions:16"];
    run_body("2.5.1", "p5-few-regions", "registering::bodies::much_memory_on_few_regions", &options);
}

mod bodies {
    use super::*;

    #[test]
    fn on_a_p4d_memory_that_stays_is_registered_once() {
        if support::body_runs_on().is_some() {
            memory_that_stays(&efa(2).over(rails(2)));
        }
    }

    #[test]
    fn on_a_p5_memory_that_stays_is_registered_once() {
        if support::body_runs_on().is_some() {
            memory_that_stays(&efa_direct(2).over(rails_of_p5(2)));
        }
    }

    #[test]
    fn much_memory_on_few_regions() {
        if support::body_runs_on().is_some() {
            super::much_memory_on_few_regions();
        }
    }
}

fn memory_that_stays(config: &FabricConfig) {
    let [mut sender, mut receiver] = pair(config);
    let stays = buffer(&mut sender, 3);
    let passes = stays.bytes().to_vec();
    for operation in 1..=5 {
        sender.open(&[], &[Rank(1)]).unwrap();
        stream_of(&mut sender, &mut receiver, 4, stays.bytes());
        // Each card once with all of what stays, and in every operation with both pieces of the rest.
        assert_eq!(sender.counts().regions, 2 + 4 * (operation - 1));
        stream_of(&mut sender, &mut receiver, 4, &passes);
        assert_eq!(sender.counts().regions, 2 + 4 * operation);
    }
    // Its memory may be that of the next.
    drop(stays);
    sender.open(&[], &[Rank(1)]).unwrap();
    let next = buffer(&mut sender, 5);
    stream_of(&mut sender, &mut receiver, 4, next.bytes());
    assert_eq!(sender.counts().regions, 2 + 4 * 5 + 2);
    close_both(sender, receiver);
}

/// More buffers than the card takes regions, in turn: each comes as it is, by a region that may have been made again.
fn much_memory_on_few_regions() {
    let [mut sender, mut receiver] = pair(&efa_direct(2));
    let buffers: Vec<KeptBuffer> = (0..16).map(|seed| buffer(&mut sender, seed)).collect();
    for _ in 0..3 {
        sender.open(&[], &[Rank(1)]).unwrap();
        for buffer in &buffers {
            stream_of(&mut sender, &mut receiver, 2, buffer.bytes());
        }
    }
    assert_eq!(
        sender.counts().regions,
        3 * 16,
        "the one that was longest unused is always the next to be used"
    );
    close_both(sender, receiver);
}

/// A message that stays where it is, which the transport knows of.
fn buffer(sender: &mut FabricTransport, seed: usize) -> KeptBuffer {
    let mut buffer = KeptBuffer::new(sender.slot_bytes());
    for (index, byte) in buffer.bytes_mut().iter_mut().enumerate() {
        *byte = (index / 7 + seed) as u8;
    }
    sender.keep(buffer.kept());
    buffer
}
