//! One rank's part of a phase, in its own terms and in those of the whole world.

use std::fmt;

use efarun_wire::Rank;

use crate::coll::collective::Collective;
use crate::coll::nodes::Nodes;
use crate::coll::schedule::{Buffer, Operand, Schedule, Span, Step, Steps};

/// A collective of a team of ranks, as one of them takes part in it.
#[derive(Debug, Clone, Copy)]
pub struct Stage<'h> {
    /// What the team does, by its own numbers.
    pub schedule: &'h dyn Schedule,
    /// This rank's number in the team.
    pub number: Rank,
    /// Who that is.
    pub team: Team<'h>,
    /// Where the team's input lies.
    pub input: Area,
    /// Where the team's output lies.
    pub output: Area,
    /// Where the scratch memory of this stage begins.
    pub scratch_at: usize,
    /// Whether the team are the ranks of a node.
    pub is_local: bool,
}

/// Where a buffer of a stage begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// In which buffer of the whole.
    pub buffer: Buffer,
    /// At which element.
    pub start: usize,
}

/// The ranks of a stage, by their numbers in it.
#[derive(Debug, Clone, Copy)]
pub enum Team<'h> {
    /// The ranks of a node.
    Node(&'h [Rank]),
    /// Those of one number on their nodes.
    Lane {
        /// Who is where.
        nodes: &'h Nodes,
        /// The number.
        number: u32,
    },
    /// The delegates of all nodes.
    Delegates {
        /// Who is where.
        nodes: &'h Nodes,
        /// The delegate of its node.
        root: Rank,
    },
}

impl Team<'_> {
    /// Who has this number.
    pub fn rank(self, number: Rank) -> Rank {
        match self {
            Team::Node(ranks) => ranks[number.index()],
            Team::Lane { nodes, number: lane } => nodes.members(number.0)[lane as usize],
            Team::Delegates { nodes, root } => super::delegate_of(nodes, nodes.members(number.0)[0], root),
        }
    }
}

impl<'h> Stage<'h> {
    /// The ranks that this one receives from in the stage, where it is done by messages.
    pub(crate) fn receives_from(&self) -> impl Iterator<Item = Rank> + use<'h> {
        let team = self.team;
        self.schedule.receives_from(self.number).into_iter().map(move |peer| team.rank(peer))
    }

    /// The ranks that this one sends to in the stage, where it is done by messages.
    pub(crate) fn sends_to(&self) -> impl Iterator<Item = Rank> + use<'h> {
        let team = self.team;
        self.schedule.sends_to(self.number).into_iter().map(move |peer| team.rank(peer))
    }

    /// What the stage is, in the team's numbers.
    pub fn collective(&self) -> Collective {
        self.schedule.collective()
    }

    /// The stage's input and output in the buffers of the whole.
    pub fn spans(&self) -> (Span, Span) {
        let (collective, size, count) =
            (self.collective(), self.schedule.world_size(), self.schedule.count());
        let (input, output) =
            (collective.input(self.number, size, count), collective.output(self.number, size, count));
        let span = |area: Area, len| Span { buffer: area.buffer, start: area.start, len };
        (span(self.input, input.len()), span(self.output, output.len()))
    }

    /// A step in terms of the whole world, of a rank that has posted so many sends before the stage; none where it comes to
    /// nothing, as what is to be copied lies there already.
    fn in_world(&self, step: Step, posted_before: usize) -> Option<Step> {
        Some(match step {
            Step::Send { to, span } => Step::Send { to: self.team.rank(to), span: self.span(span) },
            Step::WaitSends { count } => Step::WaitSends { count: posted_before + count },
            Step::Recv { from, len } => Step::Recv { from: self.team.rank(from), len },
            Step::Reduce { into, left, right, completes } => Step::Reduce {
                into: self.span(into),
                left: self.operand(left),
                right: self.operand(right),
                // What the ranks of one node have is not all.
                completes: completes && !self.is_local,
            },
            Step::Copy { into, source } => {
                let (into, source) = (self.span(into), self.operand(source));
                if source == Operand::Span(into) {
                    return None;
                }
                Step::Copy { into, source }
            }
            Step::Release { from } => Step::Release { from: self.team.rank(from) },
        })
    }

    fn operand(&self, operand: Operand) -> Operand {
        match operand {
            Operand::Span(span) => Operand::Span(self.span(span)),
            Operand::Slot(from) => Operand::Slot(self.team.rank(from)),
        }
    }

    fn span(&self, span: Span) -> Span {
        let area = match span.buffer {
            Buffer::Input => self.input,
            Buffer::Output => self.output,
            Buffer::Scratch => Area { buffer: Buffer::Scratch, start: self.scratch_at },
            Buffer::Accumulator => Area { buffer: Buffer::Accumulator, start: 0 },
        };
        // Of an empty message only the buffer is said.
        let start = if span.len == 0 { span.start } else { area.start + span.start };
        Span { buffer: area.buffer, start, len: span.len }
    }
}

impl fmt::Display for Stage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (collective, schedule) = (self.collective(), self.schedule);
        write!(f, "{collective}")?;
        if collective != Collective::Barrier {
            let unit = if collective.has_blocks() { "elements per rank" } else { "elements" };
            write!(f, " of {} {unit}", schedule.count())?;
        }
        let (size, name) = (schedule.world_size(), schedule.name());
        match self.is_local {
            true => write!(f, " among {size} ranks of the node, as {name}"),
            false => write!(f, " among {size} ranks, one of each node, by {name}"),
        }
    }
}

/// The steps of a rank's stages, one stage after the other.
pub(super) struct Staged<'h> {
    stages: Box<dyn Iterator<Item = Stage<'h>> + Send + 'h>,
    current: Option<(Stage<'h>, Steps<'h>)>,
    /// How many stages have begun.
    begun: usize,
    /// Sends posted, and those of them before the current stage.
    posted: usize,
    posted_before: usize,
}

impl<'h> Staged<'h> {
    pub(super) fn new(stages: Box<dyn Iterator<Item = Stage<'h>> + Send + 'h>) -> Self {
        Staged { stages, current: None, begun: 0, posted: 0, posted_before: 0 }
    }

    /// Which stage the latest step was of.
    pub(super) fn number(&self) -> usize {
        self.begun - 1
    }
}

impl Iterator for Staged<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        loop {
            if let Some((stage, steps)) = &mut self.current {
                for step in steps.by_ref() {
                    self.posted += usize::from(matches!(step, Step::Send { .. }));
                    if let Some(step) = stage.in_world(step, self.posted_before) {
                        return Some(step);
                    }
                }
            }
            let stage = self.stages.next()?;
            self.begun += 1;
            self.posted_before = self.posted;
            self.current = Some((stage, stage.schedule.steps(stage.number)));
        }
    }
}
