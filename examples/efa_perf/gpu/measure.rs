//! One operation on one type, timed and checked on a GPU.
//!
//! A time is that of `iters` calls that are enqueued one behind the other from a barrier on, and waited for together:
//! nccl-tests' way. With `-G` they are captured once, and the graph is launched so often. Percentiles wait for each call.

use std::time::Instant;

use efarun_rt::cuda::Graph;
use efarun_rt::{Error, ReduceOp, World};

use super::buffer::Buffer;
use super::{Gpu, failed};
use crate::cli::Average;
use crate::collective::{Collective, Lens, Operation};
use crate::data::{Given, Place, Sample};
use crate::measure::percentile::Percentiles;
use crate::measure::{Effort, NO_ROOT, NONE, size_bytes, stride};
use crate::report::{self, Row};

/// The measurement of one operation on one type; it owns the buffers.
pub(crate) struct Measurement<'a, T> {
    world: &'a mut World,
    gpu: &'a Gpu,
    effort: Effort,
    operation: Operation,
    input: Buffer<T>,
    output: Buffer<T>,
    seed: u64,
}

impl<'a, T: Sample + bytemuck::Pod> Measurement<'a, T> {
    /// Allocates for the size that needs most, and registers it where that was asked for.
    ///
    /// # Errors
    ///
    /// When CUDA or the World fails.
    pub(crate) fn new(
        world: &'a mut World,
        gpu: &'a Gpu,
        effort: Effort,
        operation: Operation,
    ) -> Result<Self, Error> {
        let len = effort.buffer_len(operation.collective(), size_of::<T>(), world.world_size());
        let failed = failed(world);
        let input = Buffer::new(&gpu.device, len).map_err(&failed)?;
        let output = Buffer::new(&gpu.device, len).map_err(&failed)?;
        if gpu.is_registered && operation.collective().has_data() {
            world.register_memory(&input.device)?;
            world.register_memory(&output.device)?;
        }
        Ok(Measurement { world, gpu, effort, operation, input, output, seed: 0 })
    }

    /// Measures every size and hands its row over as soon as it is there.
    ///
    /// # Errors
    ///
    /// The first call that fails ends it, and so does a row that `on_row` does not take.
    pub(crate) fn run<E: From<Error>>(
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

    fn warm_up(&mut self) -> Result<(), Error> {
        self.fill_buffers()?;
        // Allocating and freeing may wait for the GPU, also for another rank's kernels where ranks share it.
        self.world.barrier()?;
        let effort = Effort { sweep: self.effort.sweep.warmup(), ..self.effort };
        let (collective, world_size) = (self.operation.collective(), self.world.world_size());
        for lens in effort.lens(collective, size_of::<T>(), world_size) {
            for _ in 0..self.effort.warmup_iters {
                self.call(Place::Out, lens, 0)?;
            }
        }
        self.wait()
    }

    fn half(&mut self, place: Place, lens: Lens) -> Result<report::Sample, Error> {
        let seconds = self.mean(place, lens)?;
        let percentiles = if self.effort.percentiles { self.percentiles(place, lens)? } else { None };
        let wrong = match (self.effort.check_iters, self.operation) {
            (0, _) | (_, Operation::Barrier) => None,
            (repetitions, _) => Some(self.check(place, lens, repetitions)?),
        };
        let bus_factor = self.operation.collective().bus_factor(self.world.world_size());
        Ok(report::Sample::new(size_bytes::<T>(lens), seconds, bus_factor)
            .with_percentiles(percentiles)
            .with_wrong(wrong))
    }

    /// Seconds per call.
    fn mean(&mut self, place: Place, lens: Lens) -> Result<f64, Error> {
        let windows = self.effort.windows(lens, size_of::<T>());
        let iters = self.effort.iters as usize;
        let graph = match self.gpu.graph_launches {
            0 => None,
            launches => Some((self.capture(place, lens, windows)?, launches)),
        };
        self.call(place, lens, 0)?;
        self.wait()?;
        self.world.barrier()?;
        let start = Instant::now();
        let calls = match &graph {
            Some((graph, launches)) => {
                let failed = failed(self.world);
                (0..*launches).try_for_each(|_| graph.launch(&self.gpu.stream)).map_err(failed)?;
                iters * *launches as usize
            }
            None => {
                (0..iters).try_for_each(|iter| self.call(place, lens, iter % windows))?;
                iters
            }
        };
        self.wait()?;
        let mut seconds = [start.elapsed().as_secs_f64() / calls as f64];
        self.combine(&mut seconds)?;
        Ok(seconds[0])
    }

    /// # Safety
    ///
    /// The graph uses this measurement's buffers and the World's memory, which live longer than the run that it is for.
    #[expect(
        unsafe_code,
        reason = "a graph refers to memory by address; the Safety paragraph says why it lives"
    )]
    fn capture(&mut self, place: Place, lens: Lens, windows: usize) -> Result<Graph, Error> {
        let stream = self.gpu.stream.clone();
        let iters = self.effort.iters as usize;
        let rank = self.world.rank();
        let mut error = None;
        // SAFETY: as above.
        let graph = unsafe {
            Graph::capture(&stream, || {
                let enqueued = (0..iters).try_for_each(|iter| self.call(place, lens, iter % windows));
                error = enqueued.err();
                Ok(())
            })
        };
        match error {
            Some(error) => Err(error),
            None => graph.map_err(|cause| Error::Gpu { rank, cause }),
        }
    }

    fn percentiles(&mut self, place: Place, lens: Lens) -> Result<Option<Percentiles>, Error> {
        let mut times = vec![0.0; self.effort.iters as usize];
        let windows = self.effort.windows(lens, size_of::<T>());
        self.call(place, lens, 0)?;
        self.wait()?;
        self.world.barrier()?;
        for (iter, time) in times.iter_mut().enumerate() {
            let start = Instant::now();
            self.call(place, lens, iter % windows)?;
            self.wait()?;
            *time = start.elapsed().as_secs_f64();
        }
        self.combine(&mut times)?;
        Ok(Percentiles::of(&times))
    }

    /// Wrong elements and broken guards of all ranks together.
    fn check(&mut self, place: Place, lens: Lens, repetitions: u32) -> Result<u64, Error> {
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
        let mut total = [wrong as i64];
        self.world.all_reduce(&mut total, ReduceOp::Sum)?;
        Ok(total[0] as u64)
    }

    fn check_out_of_place(&mut self, given: &Given<T>, lens: Lens) -> Result<u64, Error> {
        let failed = failed(self.world);
        self.input.host.reset(lens.input);
        self.output.host.reset(lens.output);
        given.fill_input(self.input.host.window_mut(0, lens.input));
        self.input.upload(lens.input).map_err(&failed)?;
        self.output.upload(lens.output).map_err(&failed)?;
        self.call(Place::Out, lens, 0)?;
        self.wait()?;
        self.input.download(lens.input).map_err(&failed)?;
        self.output.download(lens.output).map_err(&failed)?;
        let input = given.count_wrong_input(self.input.host.window(0, lens.input));
        let output = given.count_wrong_output(Place::Out, self.output.host.window(0, lens.output));
        let guards = self.input.host.count_broken_guards(lens.input)
            + self.output.host.count_broken_guards(lens.output);
        Ok(input + output + guards)
    }

    fn check_in_place(&mut self, given: &Given<T>, lens: Lens) -> Result<u64, Error> {
        let failed = failed(self.world);
        let len = lens.larger();
        self.output.host.reset(len);
        given.fill_in_place(self.output.host.window_mut(0, len));
        self.output.upload(len).map_err(&failed)?;
        self.call(Place::In, lens, 0)?;
        self.wait()?;
        self.output.download(len).map_err(&failed)?;
        let output = given.count_wrong_output(Place::In, self.output.host.window(0, len));
        Ok(output + self.output.host.count_broken_guards(len))
    }

    fn call(&mut self, place: Place, lens: Lens, window: usize) -> Result<(), Error> {
        let start = window * stride(lens, size_of::<T>());
        let mut world = self.world.on(&self.gpu.stream);
        if let Some(leaf) = self.gpu.leaf {
            world = world.by(leaf);
        }
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

    fn wait(&mut self) -> Result<(), Error> {
        self.world.on(&self.gpu.stream).wait()
    }

    /// Gives the timed calls numbers like those that are checked.
    fn fill_buffers(&mut self) -> Result<(), Error> {
        if self.operation.collective() == Collective::Barrier {
            return Ok(());
        }
        let failed = failed(self.world);
        let len = self.input.host.len_max();
        let lens = Lens { count: len, input: len, output: len };
        let given = Given::new(self.operation, self.world.world_size(), self.world.rank(), self.seed, lens);
        for buffer in [&mut self.input, &mut self.output] {
            given.fill_input(buffer.host.window_mut(0, len));
            buffer.upload(len).map_err(&failed)?;
        }
        Ok(())
    }

    /// Makes the ranks' times one, as `-a` says.
    fn combine(&mut self, times: &mut [f64]) -> Result<(), Error> {
        let op = match self.effort.average {
            Average::RankZero => return Ok(()),
            Average::Mean => ReduceOp::Avg,
            Average::Min => ReduceOp::Min,
            Average::Max => ReduceOp::Max,
        };
        self.world.all_reduce(times, op)
    }
}
