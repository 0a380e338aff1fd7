//! The board's words under every interleaving and every order of memory that the language allows, by loom.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p efarun-rt --test loom`, which `scripts/sanitize` runs. It compiles the
//! protocol's own source with loom's atomics; what the words protect is a cell that loom watches for races.
#![cfg(loom)]

#[path = "../src/transport/shm/post.rs"]
mod post;

/// Loom's in the place of the standard library's.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use self::post::{Calling, Done, Post, Seen, lie_down, sleeps};
use self::sync::AtomicU32;

/// One rank's board, of one cell.
#[derive(Default)]
struct Board {
    post: Post,
    done: Done,
    bell: AtomicU32,
    cell: UnsafeCell<u64>,
}

// SAFETY: what loom is to find out: it panics where two threads reach the cell at once.
unsafe impl Sync for Board {}

impl Board {
    fn write(&self, value: u64) {
        // SAFETY: loom watches.
        self.cell.with_mut(|cell| unsafe { *cell = value });
    }

    fn read(&self) -> u64 {
        // SAFETY: loom watches.
        self.cell.with(|cell| unsafe { *cell })
    }
}

#[test]
fn what_is_seen_was_written_before_it_was_shown() {
    loom::model(|| {
        let board = Arc::new(Board::default());
        let writer = Arc::clone(&board);
        let writing = thread::spawn(move || {
            writer.write(42);
            writer.post.show(1, 7);
        });
        match board.post.seen(1) {
            Seen::Nothing => {}
            Seen::Shown(signature) => assert_eq!((signature, board.read()), (7, 42)),
            Seen::Later(number) => panic!("epoch {number} was never shown"),
        }
        writing.join().unwrap();
    });
}

/// As with as many posts as one: epoch 2 is written where epoch 1 was.
#[test]
fn a_cell_is_written_again_when_its_reader_is_done_with_it() {
    loom::model(|| {
        let (board, reader) = (Arc::new(Board::default()), Arc::new(Board::default()));
        let (writers, theirs) = (Arc::clone(&board), Arc::clone(&reader));
        let writing = thread::spawn(move || {
            for epoch in 1..=2 {
                while theirs.done.epoch() < epoch - 1 {
                    thread::yield_now();
                }
                writers.write(10 * epoch);
                writers.post.show(epoch, 7);
            }
        });
        for epoch in 1..=2 {
            while board.post.seen(epoch) == Seen::Nothing {
                thread::yield_now();
            }
            assert_eq!((board.post.seen(epoch), board.read()), (Seen::Shown(7), 10 * epoch));
            reader.done.finish(epoch);
        }
        writing.join().unwrap();
    });
}

/// A rank's posts of two epochs, and its output, which others write to.
#[derive(Default)]
struct Reached {
    begins: Post,
    ends: Post,
    output: UnsafeCell<u64>,
}

// SAFETY: as of a board.
unsafe impl Sync for Reached {}

impl Reached {
    fn write(&self, value: u64) {
        // SAFETY: loom watches.
        self.output.with_mut(|output| unsafe { *output = value });
    }
}

/// Buffers of `World::alloc`: all show where theirs are, each writes to the other's, then all show that they are done. Before the
/// first moment and behind the second an output is its owner's alone.
#[test]
fn an_output_that_others_write_to_is_its_owners_until_all_are_in_the_call_and_once_all_are_done() {
    loom::model(|| {
        let ranks = [(); 2].map(|()| Arc::new(Reached::default()));
        let call = |me: usize, ranks: [Arc<Reached>; 2]| {
            let (mine, theirs) = (&ranks[me], &ranks[1 - me]);
            let awaits = |post: &Post, epoch| {
                while post.seen(epoch) == Seen::Nothing {
                    thread::yield_now();
                }
                assert_eq!(post.seen(epoch), Seen::Shown(7));
            };
            mine.write(1);
            mine.begins.show(1, 7);
            awaits(&theirs.begins, 1);
            theirs.write(40);
            mine.ends.show(2, 7);
            awaits(&theirs.ends, 2);
            // SAFETY: loom watches.
            assert_eq!(mine.output.with(|output| unsafe { *output }), 40);
            mine.write(2);
        };
        let others = ranks.clone();
        let other = thread::spawn(move || call(1, others));
        call(0, ranks);
        other.join().unwrap();
    });
}

/// Two ranks that each show something, wake whoever sleeps, and lie down where they see nothing.
#[test]
fn who_sleeps_is_seen_by_whom_it_waits_for_or_sees_what_that_has_shown() {
    loom::model(|| {
        let boards = [(); 2].map(|()| Arc::new(Board::default()));
        let play = |me: usize, boards: [Arc<Board>; 2]| {
            boards[me].post.show(1, 7);
            let wakes = sleeps(&boards[1 - me].bell, 1);
            lie_down(&boards[me].bell, 1);
            let is_asleep = boards[1 - me].post.seen(1) == Seen::Nothing;
            (wakes, is_asleep)
        };
        let theirs = boards.clone();
        let other = thread::spawn(move || play(1, theirs));
        let (wakes, is_asleep) = play(0, boards);
        let (other_wakes, other_is_asleep) = other.join().unwrap();
        assert!(!is_asleep || other_wakes, "rank 0 sleeps for ever");
        assert!(!other_is_asleep || wakes, "rank 1 sleeps for ever");
    });
}

#[test]
fn the_signature_of_a_call_is_that_of_its_number() {
    loom::model(|| {
        let calling = Arc::new(Calling::default());
        let ranks = Arc::clone(&calling);
        let entering = thread::spawn(move || (1..=3).for_each(|number| ranks.enter(number, 100 + number)));
        match calling.now() {
            None | Some((0, 0)) => {}
            Some((number, signature)) => assert_eq!(signature, 100 + number),
        }
        entering.join().unwrap();
    });
}
