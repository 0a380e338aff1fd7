//! What goes first on a link, and how much of it: a sender's queue and its receiver's account, driven by anything.
//! Control keeps its order and goes before bulk, bulk keeps its own, no receiver is sent more than it granted, and what
//! is read in the end was all sent.
#![no_main]

use std::collections::VecDeque;

use efarun_wire::link::{InboundCredit, MAX_BULK_CHUNK_BYTES, OutboundQueue};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let window: u16 = input.arbitrary().unwrap_or_default();
    let mut link = Link::new(u32::from(window) * 4);
    while !input.is_empty() && link.step(&mut input).is_ok() {}
    link.drain();
});

struct Link {
    queue: OutboundQueue,
    credit: InboundCredit,
    /// Frames as they were queued, by class; a frame says its number and what it costs.
    control: VecDeque<Vec<u8>>,
    bulk: VecDeque<Vec<u8>>,
    /// What arrived and was not consumed.
    unread: VecDeque<usize>,
    unread_bytes: usize,
    /// Grants that have not arrived.
    grants: VecDeque<u32>,
    next: u32,
}

impl Link {
    fn new(window_bytes: u32) -> Link {
        let credit = InboundCredit::new(window_bytes);
        Link {
            queue: OutboundQueue::new(credit.window_bytes()),
            credit,
            control: VecDeque::new(),
            bulk: VecDeque::new(),
            unread: VecDeque::new(),
            unread_bytes: 0,
            grants: VecDeque::new(),
            next: 0,
        }
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.arbitrary::<u8>()? % 8 {
            0 => {
                let frame = self.frame(b'c', 0);
                self.control.push_back(frame.clone());
                self.queue.push_control(frame);
            }
            1 | 2 => {
                let cost_bytes = usize::from(input.arbitrary::<u16>()?);
                let frame = self.frame(b'b', cost_bytes);
                let pushed = self.queue.push_bulk(frame.clone(), cost_bytes);
                assert_eq!(pushed.is_ok(), cost_bytes <= MAX_BULK_CHUNK_BYTES);
                if pushed.is_ok() {
                    self.bulk.push_back(frame);
                }
            }
            3..6 => drop(self.send()),
            6 => self.consume(),
            _ => self.deliver_grant(),
        }
        Ok(())
    }

    fn frame(&mut self, class: u8, cost_bytes: usize) -> Vec<u8> {
        self.next += 1;
        [&[class][..], &self.next.to_le_bytes(), &(cost_bytes as u32).to_le_bytes()].concat()
    }

    /// Sends what is next; `false` when nothing may be sent.
    fn send(&mut self) -> bool {
        let Some(frame) = self.queue.pop() else {
            assert!(self.control.is_empty(), "control was held back");
            return false;
        };
        if let Some(control) = self.control.pop_front() {
            assert_eq!(frame, control, "control goes first, and in order");
            return true;
        }
        assert_eq!(Some(&frame), self.bulk.front(), "bulk keeps its order");
        self.bulk.pop_front();
        let cost_bytes = u32::from_le_bytes(*frame[5..].first_chunk().expect("the cost")) as usize;
        self.credit.on_received(cost_bytes).expect("an honest sender keeps within its credit");
        self.unread.push_back(cost_bytes);
        self.unread_bytes += cost_bytes;
        assert!(self.unread_bytes <= self.credit.window_bytes() as usize, "more than a window is unread");
        true
    }

    fn consume(&mut self) {
        if let Some(cost_bytes) = self.unread.pop_front() {
            self.unread_bytes -= cost_bytes;
            self.grants.extend(self.credit.on_consumed(cost_bytes));
        }
    }

    fn deliver_grant(&mut self) {
        if let Some(bytes) = self.grants.pop_front() {
            self.queue.grant(bytes);
        }
    }

    /// Everybody does their part: nothing may be left.
    fn drain(&mut self) {
        while self.send() || !self.unread.is_empty() || !self.grants.is_empty() {
            self.consume();
            self.deliver_grant();
        }
        assert!(self.bulk.is_empty() && self.queue.is_empty(), "bulk waits for credit that will not come");
    }
}
