//! Collectives between ranks that share a node, without messages.
//!
//! [`Leaves`] runs a [`Leaf`] on the node's boards ([`crate::transport::shm::board`]), where [`crate::coll::select`] has
//! found one for a call, or a call by node ([`crate::coll::hierarchy`]) has a stage for one. It gives what its reference schedule gives, bit for bit; blocks as the executor does, with the
//! same deadline; and says what the executor says where a call differs ([`wait`]), a rank is lost or does not come.
//!
//! # How it is done
//! What is shown goes by pieces of a cell each, one *epoch* per piece, so that one piece is read while the next is written,
//! and cells stay in caches, or are written past them where memory is nearer ([`nearness`]). All ranks count the epochs of a
//! call alike, whether they show something in one or not, and know where their cells are ([`places`]).
//!
//! | leaf | who shows | who reads | epochs |
//! |---|---|---|---|
//! | flags | all, nothing but that they are there | all | 1 |
//! | one-shot | all, their input | all: each reduces everything | 1 per piece |
//! | two-shot | all, their input; then all, their share of the result | all | 2 per piece |
//! | fan | all, their input; then rank 0, the result | rank 0; then the others | 2 |
//! | down | the root, its input | the others | 1 per piece |
//! | up | the others, their input | the root | 1 per piece |
//! | spread | all, their block | all: each copies every block | 1 per piece of a block |
//! | collect | all, their input to the others' blocks | all: each reduces its block | 1 per piece of a block |
//!
//! A root goes on when it has shown its last piece: it waits for a reader only where that is behind by all posts, or all of
//! the memory for cells.
//!
//! Long buffers that all ranks reach in each other ([`crate::World::alloc`]) are not shown in cells: [`direct`].
//!
//! The steps of each are in [`forms`], what they are made of in [`run`].

mod direct;
mod forms;
mod nearness;
mod order;
mod places;
mod run;
mod stream;
#[cfg(test)]
mod tests;
mod wait;
mod warmth;

use std::sync::Arc;

use efarun_wire::Rank;

use self::direct::Reached;
use self::nearness::Nearness;
use self::order::Merge;
use self::places::Places;
use self::run::Run;
use self::warmth::Warmth;
use crate::coll::collective::Collective;
use crate::coll::executor::signature::Signature;
use crate::coll::executor::spin::Spin;
use crate::coll::executor::{Call, ExecError, Interrupt};
use crate::coll::leaf::{CELL_BYTES, Leaf};
use crate::transport::shm::board::{Board, LEAST_CELLS_BYTES};
use crate::transport::shm::region::Region;

/// Runs leaves on one rank of a node.
#[derive(Debug)]
pub(crate) struct Leaves {
    board: Board,
    /// The node's ranks; everything else here goes by their places in this list.
    node: Vec<Rank>,
    me: usize,
    places: Places,
    /// An epoch that all others are known to have finished, and those before it.
    finished_by_all: u64,
    /// Whether something was shown and nobody woken since.
    owes_wake: bool,
    nearness: Nearness,
    warmth: Warmth,
    spin: Spin,
    /// How often a wait looks before it asks for the time.
    looks: u32,
    doubling: Vec<Merge>,
    /// Partial results, in words of the alignment that any element has.
    partials: Vec<u128>,
    /// What is reduced before it is copied on, in the same words.
    block: Vec<u128>,
    /// Memory that ranks reach in each other, in the order in which it was made.
    regions: Arc<[Arc<Region>]>,
    /// By rank.
    reached: Vec<Reached>,
}

impl Leaves {
    /// Makes what runs leaves on one of the node's ranks, the number `me`, which spins for so long before it sleeps.
    ///
    /// # Panics
    ///
    /// When there is not a board for every rank.
    pub(crate) fn new(board: Board, node: Vec<Rank>, me: usize, spin: Spin, looks: u32) -> Self {
        assert_eq!(board.ranks(), node.len(), "every rank of a node has a board");
        let doubling = order::doubling(board.ranks());
        let chain = order::chain(board.ranks(), 0);
        let partials = order::partials(doubling.iter().copied().chain(chain));
        Leaves {
            warmth: Warmth::new(node.len()),
            node,
            me,
            places: Places::new(board.cells_bytes()),
            finished_by_all: 0,
            owes_wake: false,
            nearness: Nearness::default(),
            spin,
            looks,
            partials: vec![0; partials * CELL_WORDS],
            block: Vec::new(),
            regions: Arc::new([]),
            reached: (0..board.ranks()).map(|_| Reached::default()).collect(),
            doubling,
            board,
        }
    }

    /// Says to the others which call this rank is in, whoever does it: before it is done.
    pub(crate) fn enter(&self, sequence: u32, signature: Signature) {
        self.board.enter(u64::from(sequence) + 1, signature.0);
    }

    /// Runs a leaf of all ranks of the World, and blocks until this rank's part is done. Other ranks may still be at it.
    ///
    /// `interrupt` is asked about once a millisecond while this rank sleeps.
    ///
    /// # Errors
    ///
    /// [`ExecError`]. The output's content is undefined then, and the others are to be told that this rank is gone.
    pub(crate) fn run(
        &mut self,
        leaf: Leaf,
        collective: Collective,
        signature: Signature,
        call: Call<'_>,
        interrupt: &mut dyn FnMut() -> Option<Interrupt>,
    ) -> Result<(), ExecError> {
        self.enter(call.sequence, signature);
        self.run_part(leaf, collective, signature, call, true, interrupt)
    }

    /// Runs a leaf in a call that has been entered: all of it, or the part of a node, whose reductions complete nothing. The
    /// collective's root, if it has one, is a number on the node.
    ///
    /// # Errors
    ///
    /// As [`Leaves::run`].
    pub(crate) fn run_part(
        &mut self,
        leaf: Leaf,
        collective: Collective,
        signature: Signature,
        call: Call<'_>,
        is_whole: bool,
        interrupt: &mut dyn FnMut() -> Option<Interrupt>,
    ) -> Result<(), ExecError> {
        let mut run = Run::new(self, collective, signature, call, is_whole, interrupt);
        let result = match leaf {
            Leaf::Flags => run.by(leaf),
            _ if run.is_empty() => Ok(()),
            _ if run.asks_where() => run.by_reach(leaf),
            _ => run.by(leaf),
        };
        run.settle();
        run.leaves.wake();
        result
    }

    /// Uses memory that all ranks have made alike, from the next call on.
    pub(crate) fn add_region(&mut self, region: Arc<Region>) {
        self.block.resize(CELL_WORDS, 0);
        self.regions = self.regions.iter().cloned().chain([region]).collect();
    }

    /// Takes in that all others are known to have finished an epoch.
    fn know_finished(&mut self, epoch: u64) {
        self.finished_by_all = self.finished_by_all.max(epoch);
    }

    /// Wakes those that wait for what this rank has shown or finished.
    fn wake(&mut self) {
        if std::mem::take(&mut self.owes_wake) {
            self.board.wake();
        }
    }
}

const CELL_WORDS: usize = CELL_BYTES / size_of::<u128>();
const _: () = assert!(
    2 * (AHEAD + 1) * CELL_BYTES <= LEAST_CELLS_BYTES,
    "nobody waits for memory in the middle of a call"
);
/// How many pieces of a vector are shown before the first of them is reduced.
const AHEAD: usize = 2;
