//! A world of threads that does every collective by its definition, or wrongly on purpose.
//!
//! The ranks lay their inputs on a table, meet, and each makes its result of what lies there. It shares no code with
//! the runtime, and none with [`crate::data::expect`].

use std::any::Any;
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use efarun_rt::{Rank, ReduceOp};

use crate::collective::Collective;
use crate::data::{Place, Sample};
use crate::world::Collectives;

/// One rank of it.
pub(super) struct Double {
    rank: Rank,
    table: Arc<Table>,
    fault: Option<Fault>,
    calls: u32,
}

/// What goes wrong, once per call that it fits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fault {
    /// In which collective.
    pub(super) collective: Collective,
    /// Where its output goes.
    pub(super) place: Place,
    /// On which rank.
    pub(super) rank: Rank,
    /// With how many elements in the output.
    pub(super) output_len: usize,
    /// Which element of the output is left unwritten. A barrier is not waited for.
    pub(super) element: usize,
}

struct Table {
    inputs: Mutex<Vec<Option<Box<dyn Any + Send>>>>,
    meeting: Barrier,
}

/// Runs this on every rank of a world; what each gave back, in order of rank.
pub(super) fn on_every_rank<R: Send>(
    world_size: u32,
    fault: Option<Fault>,
    call: impl Fn(&mut Double) -> R + Sync,
) -> Vec<R> {
    let inputs = Mutex::new((0..world_size).map(|_| None).collect());
    let table = Arc::new(Table { inputs, meeting: Barrier::new(world_size as usize) });
    let rank = |rank| Double { rank: Rank(rank), table: Arc::clone(&table), fault, calls: 0 };
    thread::scope(|scope| {
        let call = &call;
        let start = |mut double: Double| scope.spawn(move || call(&mut double));
        let threads: Vec<_> = (0..world_size).map(rank).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}

impl Double {
    /// How many collectives were called on it, those of the measuring itself among them.
    pub(super) fn calls(&self) -> u32 {
        self.calls
    }

    /// All ranks' inputs, in order.
    fn exchange<T: Sample>(&mut self, input: &[T]) -> Vec<Vec<T>> {
        self.calls += 1;
        self.table.inputs.lock().unwrap()[self.rank.index()] = Some(Box::new(input.to_vec()));
        self.table.meeting.wait();
        let of = |slot: &Option<Box<dyn Any + Send>>| -> Vec<T> {
            slot.as_ref().unwrap().downcast_ref::<Vec<T>>().unwrap().clone()
        };
        let all = self.table.inputs.lock().unwrap().iter().map(of).collect();
        self.table.meeting.wait();
        all
    }

    fn reduced<T: Sample>(&mut self, input: &[T], op: ReduceOp) -> Vec<T> {
        let world_size = self.world_size();
        let all = self.exchange(input);
        let sum = |left: Vec<T>, right: Vec<T>| {
            left.iter().zip(right).map(|(l, r)| T::reduced(op, *l, r)).collect()
        };
        let reduced = all.into_iter().reduce(sum).unwrap();
        reduced.into_iter().map(|value| T::finished(op, value, world_size)).collect()
    }

    /// Writes a result where it belongs, but for what the fault says.
    fn put<T: Sample>(&self, collective: Collective, place: Place, result: &[T], output: &mut [T]) {
        let is_here = |fault: &Fault| {
            let here = (fault.collective, fault.place, fault.rank, fault.output_len);
            here == (collective, place, self.rank, result.len())
        };
        let skipped = self.fault.filter(is_here).map(|fault| fault.element);
        for (index, (to, from)) in output.iter_mut().zip(result).enumerate() {
            *to = if skipped == Some(index) { T::POISON } else { *from };
        }
    }

    fn chunk<'a, T>(&self, buffer: &'a mut [T]) -> &'a mut [T] {
        let len = buffer.len() / self.world_size() as usize;
        &mut buffer[self.rank.index() * len..][..len]
    }
}

impl Collectives for Double {
    type Error = ();

    fn rank(&self) -> Rank {
        self.rank
    }

    fn world_size(&self) -> u32 {
        self.table.inputs.lock().unwrap().len() as u32
    }

    fn barrier(&mut self) -> Result<(), ()> {
        self.calls += 1;
        if !self.fault.is_some_and(|fault| fault.collective == Collective::Barrier) {
            self.table.meeting.wait();
        }
        Ok(())
    }

    fn all_reduce<T: Sample>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), ()> {
        let result = self.reduced(data, op);
        self.put(Collective::AllReduce, Place::In, &result, data);
        Ok(())
    }

    fn all_reduce_into<T: Sample>(&mut self, input: &[T], output: &mut [T], op: ReduceOp) -> Result<(), ()> {
        let result = self.reduced(input, op);
        self.put(Collective::AllReduce, Place::Out, &result, output);
        Ok(())
    }

    fn broadcast<T: Sample>(&mut self, data: &mut [T], root: Rank) -> Result<(), ()> {
        let result = self.exchange(data).swap_remove(root.index());
        self.put(Collective::Broadcast, Place::In, &result, data);
        Ok(())
    }

    fn broadcast_into<T: Sample>(&mut self, input: &[T], output: &mut [T], root: Rank) -> Result<(), ()> {
        let result = self.exchange(input).swap_remove(root.index());
        self.put(Collective::Broadcast, Place::Out, &result, output);
        Ok(())
    }

    fn reduce<T: Sample>(&mut self, data: &mut [T], op: ReduceOp, root: Rank) -> Result<(), ()> {
        let result = self.reduced(data, op);
        if self.rank == root {
            self.put(Collective::Reduce, Place::In, &result, data);
        }
        Ok(())
    }

    fn reduce_into<T: Sample>(
        &mut self,
        input: &[T],
        output: &mut [T],
        op: ReduceOp,
        root: Rank,
    ) -> Result<(), ()> {
        let result = self.reduced(input, op);
        if self.rank == root {
            self.put(Collective::Reduce, Place::Out, &result, output);
        }
        Ok(())
    }

    fn all_gather<T: Sample>(&mut self, input: &[T], output: &mut [T]) -> Result<(), ()> {
        let result = self.exchange(input).concat();
        self.put(Collective::AllGather, Place::Out, &result, output);
        Ok(())
    }

    fn all_gather_in_place<T: Sample>(&mut self, data: &mut [T]) -> Result<(), ()> {
        let chunk = self.chunk(data).to_vec();
        let result = self.exchange(&chunk).concat();
        self.put(Collective::AllGather, Place::In, &result, data);
        Ok(())
    }

    fn reduce_scatter<T: Sample>(&mut self, input: &[T], output: &mut [T], op: ReduceOp) -> Result<(), ()> {
        let mut result = self.reduced(input, op);
        let result = self.chunk(&mut result).to_vec();
        self.put(Collective::ReduceScatter, Place::Out, &result, output);
        Ok(())
    }

    fn reduce_scatter_in_place<T: Sample>(&mut self, data: &mut [T], op: ReduceOp) -> Result<(), ()> {
        let mut result = self.reduced(data, op);
        let result = self.chunk(&mut result).to_vec();
        let chunk = self.chunk(data);
        self.put(Collective::ReduceScatter, Place::In, &result, chunk);
        Ok(())
    }
}
