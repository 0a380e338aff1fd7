//! Measuring and checking: one row per size, timed as nccl-tests times it.
//!
//! A time is that of `iters` calls back to back, divided by their number, from a barrier on; each call takes the next
//! window of the buffers, so that a small size is not served from the cache alone. Checking is apart from timing:
//! fresh inputs, a poisoned result, guards on both sides, one call, and every element compared.

use std::time::Instant;

use efarun_rt::ReduceOp;

use crate::args::Average;
use crate::data::{GuardedBuffer, Pattern, Sample};
use crate::report::{self, Row};
use crate::sweep::Sweep;

/// What measuring asks of a world. The runtime's has it; a test's may do it wrongly on purpose.
pub(crate) trait Collectives {
    /// Why a call failed.
    type Error;

    /// This rank.
    fn rank(&self) -> u32;

    /// World size.
    fn world_size(&self) -> u32;

    /// Returns when every rank has called it.
    fn barrier(&mut self) -> Result<(), Self::Error>;

    /// Reduces over the input.
    fn all_reduce<T: Sample>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), Self::Error>;

    /// Reduces into a buffer of its own.
    fn all_reduce_into<T: Sample>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
    ) -> Result<(), Self::Error>;
}

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
    /// busbw over algbw.
    pub(crate) bus_factor: f64,
}

/// The measurement of one type and reduction; it owns the buffers.
pub(crate) struct Measurement<'a, W, T> {
    world: &'a mut W,
    effort: Effort,
    op: ReduceOp,
    input: GuardedBuffer<T>,
    output: GuardedBuffer<T>,
    len_max: usize,
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Out,
    In,
}

impl<'a, W: Collectives, T: Sample> Measurement<'a, W, T> {
    /// Allocates for the largest size.
    pub(crate) fn new(world: &'a mut W, effort: Effort, op: ReduceOp) -> Self {
        let len_max = len_of::<T>(effort.sweep.last_bytes);
        let (input, output) = (GuardedBuffer::new(len_max), GuardedBuffer::new(len_max));
        Measurement { world, effort, op, input, output, len_max, seed: 0 }
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
        self.fill_inputs();
        for size_bytes in self.effort.sweep.warmup_sizes_bytes() {
            for iter in 0..self.effort.warmup_iters {
                self.call(Place::Out, len_of::<T>(size_bytes), iter)?;
            }
        }
        for size_bytes in self.effort.sweep.sizes_bytes() {
            let len = len_of::<T>(size_bytes);
            let out_of_place = self.half(Place::Out, len)?;
            let in_place = self.half(Place::In, len)?;
            on_row(Row {
                size_bytes: size_of_bytes::<T>(len),
                count: len as u64,
                element: T::TYPE.to_string(),
                redop: self.op.to_string(),
                root: NO_ROOT,
                out_of_place,
                in_place,
            })?;
        }
        Ok(())
    }

    fn half(&mut self, place: Place, len: usize) -> Result<report::Sample, W::Error> {
        let seconds = self.time(place, len)?;
        let wrong = match self.effort.check_iters {
            0 => None,
            repetitions => Some(self.check(place, len, repetitions)?),
        };
        Ok(report::Sample::new(size_of_bytes::<T>(len), seconds, self.effort.bus_factor, wrong))
    }

    fn time(&mut self, place: Place, len: usize) -> Result<f64, W::Error> {
        self.fill_inputs();
        self.call(place, len, 0)?;
        self.world.barrier()?;
        let start = Instant::now();
        for iter in 0..self.effort.iters {
            self.call(place, len, iter)?;
        }
        let seconds = start.elapsed().as_secs_f64() / f64::from(self.effort.iters);
        self.averaged(seconds)
    }

    /// Wrong elements and broken guards of all ranks together.
    fn check(&mut self, place: Place, len: usize, repetitions: u32) -> Result<u64, W::Error> {
        let (rank, world_size) = (self.world.rank(), self.world.world_size());
        let mut wrong = 0;
        for _ in 0..repetitions {
            self.seed += 1;
            let given = Pattern::input(self.op, world_size, rank, self.seed);
            let expected = Pattern::expected(self.op, world_size, self.seed);
            self.input.reset(len);
            self.output.reset(len);
            given.fill(self.input.data_mut(len));
            if place == Place::In {
                given.fill(self.output.data_mut(len));
            }
            self.world.barrier()?;
            self.call(place, len, 0)?;
            wrong += expected.count_wrong(self.output.data(len)) + self.output.count_broken_guards(len);
            // An input is only read; in place, this one took no part.
            wrong += given.count_wrong(self.input.data(len)) + self.input.count_broken_guards(len);
        }
        let mut total = [wrong as i64];
        self.world.all_reduce(&mut total, ReduceOp::Sum)?;
        Ok(total[0] as u64)
    }

    fn call(&mut self, place: Place, len: usize, iter: u32) -> Result<(), W::Error> {
        let windows = self.len_max.checked_div(len).unwrap_or(1).max(1);
        let start = len * (iter as usize % windows);
        let output = self.output.window_mut(start, len);
        match place {
            Place::Out => self.world.all_reduce_into(self.input.window(start, len), output, self.op),
            Place::In => self.world.all_reduce(output, self.op),
        }
    }

    /// Gives the timed calls numbers like those that are checked; what earlier calls left could be denormal.
    fn fill_inputs(&mut self) {
        let given = Pattern::input(self.op, self.world.world_size(), self.world.rank(), self.seed);
        given.fill(self.input.data_mut(self.len_max));
        given.fill(self.output.data_mut(self.len_max));
    }

    fn averaged(&mut self, seconds: f64) -> Result<f64, W::Error> {
        let (op, divisor) = match self.effort.average {
            Average::RankZero => return Ok(seconds),
            Average::Mean => (ReduceOp::Sum, f64::from(self.world.world_size())),
            Average::Min => (ReduceOp::Min, 1.0),
            Average::Max => (ReduceOp::Max, 1.0),
        };
        let mut reduced = [seconds];
        self.world.all_reduce(&mut reduced, op)?;
        Ok(reduced[0] / divisor)
    }
}

fn len_of<T>(size_bytes: u64) -> usize {
    usize::try_from(size_bytes).expect("a size is at most 2^48 bytes") / size_of::<T>()
}

fn size_of_bytes<T>(len: usize) -> u64 {
    (len * size_of::<T>()) as u64
}

/// What nccl-tests prints for a collective without a root.
const NO_ROOT: i64 = -1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::Growth;

    /// A world of one that does as told to elements of the size `fault_len`.
    struct Alone {
        fault: Fault,
        fault_len: usize,
        calls: u32,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        SkipsTheLastElement,
        AddsTwice,
    }

    impl Collectives for Alone {
        type Error = ();

        fn rank(&self) -> u32 {
            0
        }

        fn world_size(&self) -> u32 {
            1
        }

        fn barrier(&mut self) -> Result<(), ()> {
            Ok(())
        }

        fn all_reduce<T: Sample>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), ()> {
            self.calls += 1;
            if self.fault == Fault::AddsTwice && data.len() == self.fault_len {
                data.iter_mut().for_each(|value| *value = T::reduced(op, *value, *value));
            }
            Ok(())
        }

        fn all_reduce_into<T: Sample>(
            &mut self,
            input: &[T],
            output: &mut [T],
            op: ReduceOp,
        ) -> Result<(), ()> {
            output.copy_from_slice(input);
            self.all_reduce(output, op)?;
            if self.fault == Fault::SkipsTheLastElement && output.len() == self.fault_len {
                output[output.len() - 1] = T::POISON;
            }
            Ok(())
        }
    }

    fn rows(fault: Fault, check_iters: u32) -> (Vec<Row>, u32) {
        let sweep = Sweep { first_bytes: 4, last_bytes: 256, growth: Growth::Multiply(4) };
        let effort =
            Effort { sweep, iters: 3, warmup_iters: 2, check_iters, average: Average::Max, bus_factor: 1.0 };
        let mut world = Alone { fault, fault_len: 16, calls: 0 };
        let mut rows = Vec::new();
        let mut measurement = Measurement::<_, f32>::new(&mut world, effort, ReduceOp::Sum);
        let done: Result<(), ()> = measurement.run(|row| {
            rows.push(row);
            Ok(())
        });
        assert_eq!(done, Ok(()));
        (rows, world.calls)
    }

    #[test]
    fn every_size_is_a_row_and_right_results_are_not_wrong() {
        let (rows, _) = rows(Fault::None, 2);
        assert_eq!(rows.iter().map(|row| row.size_bytes).collect::<Vec<_>>(), [4, 16, 64, 256]);
        assert_eq!(rows.iter().map(|row| row.count).collect::<Vec<_>>(), [1, 4, 16, 64]);
        assert!(rows.iter().all(|row| row.out_of_place.wrong == Some(0) && row.in_place.wrong == Some(0)));
        assert!(rows.iter().all(|row| row.out_of_place.time_us > 0.0));
    }

    #[test]
    fn an_element_that_nobody_wrote_is_wrong_once_per_checked_call() {
        let (rows, _) = rows(Fault::SkipsTheLastElement, 2);
        let wrong: Vec<_> = rows.iter().map(|row| (row.out_of_place.wrong, row.in_place.wrong)).collect();
        assert_eq!(wrong[2], (Some(2), Some(0)));
        assert_eq!(wrong[3], (Some(0), Some(0)));
    }

    #[test]
    fn wrong_sums_are_counted_in_both_halves() {
        let (rows, _) = rows(Fault::AddsTwice, 1);
        assert!(rows[2].out_of_place.wrong > Some(10) && rows[2].in_place.wrong > Some(10));
        assert_eq!(rows[1].in_place.wrong, Some(0));
    }

    #[test]
    fn without_checks_nothing_is_claimed() {
        let (rows, _) = rows(Fault::AddsTwice, 0);
        assert!(rows.iter().all(|row| row.out_of_place.wrong.is_none() && row.in_place.wrong.is_none()));
    }

    #[test]
    fn calls_are_warm_up_and_per_half_one_more_than_the_timed_ones() {
        let (rows, calls) = rows(Fault::None, 0);
        let warmup = 2 * 7;
        let per_half = 1 + 3 + 1;
        assert_eq!(calls, warmup + rows.len() as u32 * 2 * per_half);
    }
}
