//! Checking: fresh inputs, a poisoned result, guards on both sides, one call, and every element compared.
//!
//! A barrier has no elements. It is right when nobody leaves it before all have come, which is checked with a rank that
//! comes late: every rank reads its clock, all meet, one rank stays away for a while, and whoever is through the barrier
//! sooner than that while after his first reading has not waited. No two clocks are compared, so that a right barrier is
//! never called wrong.

use std::time::{Duration, Instant};

use efarun_rt::{Rank, ReduceOp};

use super::Measurement;
use crate::collective::Lens;
use crate::data::{Given, Place, Sample};
use crate::world::Collectives;

impl<W: Collectives, T: Sample> Measurement<'_, W, T> {
    /// Wrong elements and broken guards of all ranks together.
    pub(super) fn check(&mut self, place: Place, lens: Lens, repetitions: u32) -> Result<u64, W::Error> {
        let mut wrong = 0;
        for _ in 0..repetitions {
            self.seed += 1;
            let given: Given<T> =
                Given::new(self.operation, self.world.world_size(), self.world.rank(), self.seed, lens);
            self.world.barrier()?;
            wrong += match place {
                Place::Out => self.check_out_of_place(&given, lens)?,
                Place::In => self.check_in_place(&given, lens)?,
            };
        }
        self.total(wrong)
    }

    fn check_out_of_place(&mut self, given: &Given<T>, lens: Lens) -> Result<u64, W::Error> {
        self.input.reset(lens.input);
        self.output.reset(lens.output);
        given.fill_input(self.input.window_mut(0, lens.input));
        self.call(Place::Out, lens, 0)?;
        let input = given.count_wrong_input(self.input.window(0, lens.input));
        let output = given.count_wrong_output(Place::Out, self.output.window(0, lens.output));
        let guards =
            self.input.count_broken_guards(lens.input) + self.output.count_broken_guards(lens.output);
        Ok(input + output + guards)
    }

    fn check_in_place(&mut self, given: &Given<T>, lens: Lens) -> Result<u64, W::Error> {
        self.output.reset(lens.larger());
        given.fill_in_place(self.output.window_mut(0, lens.larger()));
        self.call(Place::In, lens, 0)?;
        let output = given.count_wrong_output(Place::In, self.output.window(0, lens.larger()));
        Ok(output + self.output.count_broken_guards(lens.larger()))
    }

    /// How often a rank left a barrier before the late one had come.
    pub(super) fn check_barrier(&mut self, repetitions: u32) -> Result<u64, W::Error> {
        let world_size = self.world.world_size();
        let stride = world_size.div_ceil(LATE_RANKS_MAX) as usize;
        let mut early = 0;
        for _ in 0..repetitions {
            for late in (0..world_size).step_by(stride).map(Rank) {
                early += u64::from(self.leaves_early(late)?);
            }
        }
        self.total(early)
    }

    fn leaves_early(&mut self, late: Rank) -> Result<bool, W::Error> {
        let start = Instant::now();
        // Its result needs every rank's element, so that nobody has it before all have read their clocks.
        self.world.all_reduce(&mut [0u8], ReduceOp::Max)?;
        if self.world.rank() == late {
            std::thread::sleep(LATENESS);
        }
        self.world.barrier()?;
        Ok(start.elapsed() < LATENESS)
    }

    fn total(&mut self, wrong: u64) -> Result<u64, W::Error> {
        let mut total = [wrong as i64];
        self.world.all_reduce(&mut total, ReduceOp::Sum)?;
        Ok(total[0] as u64)
    }
}

/// Long beside a barrier, so that one who does not wait is seen; short beside a user's patience.
const LATENESS: Duration = Duration::from_millis(10);

/// In larger worlds every so-many-th rank is late once.
const LATE_RANKS_MAX: u32 = 16;
