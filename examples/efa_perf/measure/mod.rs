//! Measuring and checking: one row per size, timed as nccl-tests times it.
//!
//! The mean is that of `iters` calls back to back, from a barrier on, with a clock reading before the first and after
//! the last. Percentiles come from a pass of their own, in which every call is timed on every rank, and the ranks' times
//! of a call become one as the means do, by `-a`: back to back, a rank that is ahead waits for the others in one call and
//! finds them waiting in the next, so that only their mean adds up to the time that all took. In both passes calls take
//! their buffers in turn ([`rotation`]), and every buffer has been written to before. Checking is apart from timing
//! ([`check`]).

mod check;
#[cfg(test)]
mod double;
pub(crate) mod percentile;
pub(crate) mod rotation;
#[cfg(test)]
mod tests;

use std::time::Instant;

use efarun_rt::ReduceOp;

use self::percentile::Percentiles;
use self::rotation::Rotation;
use crate::cli::Average;
use crate::collective::{Collective, Lens, Operation};
use crate::data::{Given, GuardedBuffer, Place, Sample};
use crate::report::{self, Row};
use crate::sweep::Sweep;
use crate::world::Collectives;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// The sizes.
    pub(crate) sweep: Sweep,
    /// Timed calls per size.
    pub(crate) iters: u32,
    /// Calls per size before all timing.
    pub(crate) warmup_iters: u32,
    /// Checked calls per size.
    pub(crate) check_iters: u32,
    /// How the ranks' times become one.
    pub(crate) average: Average,
    /// Whether single calls are timed too.
    pub(crate) percentiles: bool,
    /// How many buffers calls use in turn.
    pub(crate) rotation: Rotation,
}

impl Effort {
    /// The calls of every size, in order. Sizes that leave a rank without an element have none.
    pub(crate) fn lens(
        self,
        collective: Collective,
        element_bytes: usize,
        world_size: u32,
    ) -> impl Iterator<Item = Lens> {
        let sizes = self.sweep.sizes_bytes().take(if collective.has_data() { usize::MAX } else { 1 });
        sizes.filter_map(move |size_bytes| collective.lens(size_bytes, element_bytes, world_size))
    }

    /// How many elements each of the two buffers has.
    pub(crate) fn buffer_len(self, collective: Collective, element_bytes: usize, world_size: u32) -> usize {
        let room = |lens: Lens| self.windows(lens, element_bytes) * stride(lens, element_bytes);
        self.lens(collective, element_bytes, world_size).map(room).max().unwrap_or(0)
    }

    /// How many buffers the calls of a size use in turn.
    pub(crate) fn windows(self, lens: Lens, element_bytes: usize) -> usize {
        let window_bytes = (stride(lens, element_bytes) * element_bytes) as u64;
        self.rotation.windows(window_bytes, self.sweep.last_bytes)
    }
}

/// The measurement of one operation on one type; it owns the buffers.
pub(crate) struct Measurement<'a, W, T> {
    world: &'a mut W,
    effort: Effort,
    operation: Operation,
    input: GuardedBuffer<T>,
    output: GuardedBuffer<T>,
    seed: u64,
}

impl<'a, W: Collectives, T: Sample> Measurement<'a, W, T> {
    /// Allocates for the size that needs most.
    pub(crate) fn new(world: &'a mut W, effort: Effort, operation: Operation) -> Self {
        let len = effort.buffer_len(operation.collective(), size_of::<T>(), world.world_size());
        Measurement::on(world, effort, operation, [GuardedBuffer::new(len), GuardedBuffer::new(len)])
    }

    /// On these buffers, which have room for the size that needs most.
    pub(crate) fn on(
        world: &'a mut W,
        effort: Effort,
        operation: Operation,
        [input, output]: [GuardedBuffer<T>; 2],
    ) -> Self {
        Measurement { world, effort, operation, input, output, seed: 0 }
    }

    /// Measures every size and hands its row over as soon as it is there. All ranks get the same rows, but for the
    /// times where only rank 0's count.
    ///
    /// # Errors
    ///
    /// The first call that fails ends it, and so does a row that `on_row` does not take.
    pub(crate) fn run<E: From<W::Error>>(
        &mut self,
        mut on_row: impl FnMut(Row) -> Result<(), E>,
    ) -> Result<(), E> {
        self.warm_up()?;
        let (collective, world_size) = (self.operation.collective(), self.world.world_size());
        for lens in self.effort.lens(collective, size_of::<T>(), world_size) {
            let out_of_place = self.half(Place::Out, lens)?;
            let in_place = if collective.has_data() { Some(self.half(Place::In, lens)?) } else { None };
            on_row(Row {
                collective: collective.name(),
                size_bytes: size_bytes::<T>(lens),
                count: lens.count as u64,
                element: if collective.has_data() { T::TYPE.to_string() } else { NONE.to_owned() },
                redop: self.operation.op().map_or_else(|| NONE.to_owned(), |op| op.to_string()),
                root: self.operation.root().map_or(NO_ROOT, |root| i64::from(root.0)),
                out_of_place,
                in_place,
                bound: None,
            })?;
        }
        Ok(())
    }

    fn warm_up(&mut self) -> Result<(), W::Error> {
        self.fill_buffers();
        let effort = Effort { sweep: self.effort.sweep.warmup(), ..self.effort };
        let (collective, world_size) = (self.operation.collective(), self.world.world_size());
        for lens in effort.lens(collective, size_of::<T>(), world_size) {
            for _ in 0..self.effort.warmup_iters {
                self.call(Place::Out, lens, 0)?;
            }
        }
        Ok(())
    }

    fn half(&mut self, place: Place, lens: Lens) -> Result<report::Sample, W::Error> {
        let seconds = self.mean(place, lens)?;
        let percentiles = if self.effort.percentiles { self.percentiles(place, lens)? } else { None };
        let wrong = match (self.effort.check_iters, self.operation) {
            (0, _) => None,
            (repetitions, Operation::Barrier) => Some(self.check_barrier(repetitions)?),
            (repetitions, _) => Some(self.check(place, lens, repetitions)?),
        };
        let bus_factor = self.operation.collective().bus_factor(self.world.world_size());
        Ok(report::Sample::new(size_bytes::<T>(lens), seconds, bus_factor)
            .with_percentiles(percentiles)
            .with_wrong(wrong))
    }

    /// Seconds per call.
    fn mean(&mut self, place: Place, lens: Lens) -> Result<f64, W::Error> {
        let windows = self.get_ready(place, lens)?;
        let start = Instant::now();
        for iter in 0..self.effort.iters as usize {
            self.call(place, lens, iter % windows)?;
        }
        let mut seconds = [start.elapsed().as_secs_f64() / f64::from(self.effort.iters)];
        self.combine(&mut seconds)?;
        Ok(seconds[0])
    }

    fn percentiles(&mut self, place: Place, lens: Lens) -> Result<Option<Percentiles>, W::Error> {
        let mut times = vec![0.0; self.effort.iters as usize];
        let windows = self.get_ready(place, lens)?;
        for (iter, time) in times.iter_mut().enumerate() {
            let start = Instant::now();
            self.call(place, lens, iter % windows)?;
            *time = start.elapsed().as_secs_f64();
        }
        self.combine(&mut times)?;
        Ok(Percentiles::of(&times))
    }

    /// Fills the buffers, makes one call that nobody times, and lines the ranks up. Says how many windows there are.
    fn get_ready(&mut self, place: Place, lens: Lens) -> Result<usize, W::Error> {
        self.fill_buffers();
        self.call(place, lens, 0)?;
        self.world.barrier()?;
        Ok(self.effort.windows(lens, size_of::<T>()))
    }

    fn call(&mut self, place: Place, lens: Lens, window: usize) -> Result<(), W::Error> {
        let start = window * stride(lens, size_of::<T>());
        let world = &mut *self.world;
        match place {
            Place::Out => {
                let input = self.input.window(start, lens.input);
                let output = self.output.window_mut(start, lens.output);
                match self.operation {
                    Operation::AllReduce(op) => world.all_reduce_into(input, output, op),
                    Operation::Broadcast(root) => world.broadcast_into(input, output, root),
                    Operation::Reduce(op, root) => world.reduce_into(input, output, op, root),
                    Operation::AllGather => world.all_gather(input, output),
                    Operation::ReduceScatter(op) => world.reduce_scatter(input, output, op),
                    Operation::Barrier => world.barrier(),
                }
            }
            Place::In => {
                let data = self.output.window_mut(start, lens.larger());
                match self.operation {
                    Operation::AllReduce(op) => world.all_reduce(data, op),
                    Operation::Broadcast(root) => world.broadcast(data, root),
                    Operation::Reduce(op, root) => world.reduce(data, op, root),
                    Operation::AllGather => world.all_gather_in_place(data),
                    Operation::ReduceScatter(op) => world.reduce_scatter_in_place(data, op),
                    Operation::Barrier => world.barrier(),
                }
            }
        }
    }

    /// Gives the timed calls numbers like those that are checked; what earlier calls left could be denormal.
    fn fill_buffers(&mut self) {
        let len = self.input.len_max();
        let lens = Lens { count: len, input: len, output: len };
        let given = Given::new(self.operation, self.world.world_size(), self.world.rank(), self.seed, lens);
        given.fill_input(self.input.window_mut(0, len));
        given.fill_input(self.output.window_mut(0, len));
    }

    /// Makes the ranks' times one, as `-a` says.
    fn combine(&mut self, times: &mut [f64]) -> Result<(), W::Error> {
        let op = match self.effort.average {
            Average::RankZero => return Ok(()),
            Average::Mean => ReduceOp::Avg,
            Average::Min => ReduceOp::Min,
            Average::Max => ReduceOp::Max,
        };
        self.world.all_reduce(times, op)
    }
}

/// From one window to the next: whole cache lines, so that two calls share none.
pub(crate) fn stride(lens: Lens, element_bytes: usize) -> usize {
    lens.larger().next_multiple_of(LINE_BYTES / element_bytes)
}

/// What the size's column says.
pub(crate) fn size_bytes<T>(lens: Lens) -> u64 {
    (lens.larger() * size_of::<T>()) as u64
}

/// What nccl-tests prints for a collective without a root.
pub(crate) const NO_ROOT: i64 = -1;

/// What nccl-tests prints for a collective without a reduction.
pub(crate) const NONE: &str = "none";

const LINE_BYTES: usize = 64;
