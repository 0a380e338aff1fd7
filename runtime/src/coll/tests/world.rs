//! A world of threads: one executor per rank, on transport doubles.

use std::time::Duration;

use efarun_wire::Rank;

use crate::coll::buffers::Buffers;
use crate::coll::executor::{Call, ExecError, Executor};
use crate::coll::schedule::Schedule;
use crate::element::{Element, ReduceOp};
use crate::transport::Transport;
use crate::transport::double::{Manners, doubles};

/// How a world runs a schedule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    pub(super) op: ReduceOp,
    pub(super) is_in_place: bool,
    pub(super) manners: Manners,
    pub(super) patience: Duration,
}

impl Default for Setting {
    fn default() -> Self {
        Setting {
            op: ReduceOp::Sum,
            is_in_place: false,
            manners: Manners::default(),
            patience: Duration::from_secs(20),
        }
    }
}

/// Runs a schedule on all ranks, which have these inputs, and gives each rank's output or error.
pub(super) fn run<T: Element>(
    schedule: &dyn Schedule,
    inputs: &[Vec<T>],
    setting: Setting,
) -> Vec<Result<Vec<T>, ExecError>> {
    let transports = doubles(schedule.world_size(), setting.manners);
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for ((rank, mut transport), input) in (0..).zip(transports).zip(inputs) {
            threads.push(scope.spawn(move || {
                let result = run_rank(schedule, Rank(rank), input, &mut transport, setting);
                // An error must have closed the transport: nobody may go on with it.
                assert_eq!(transport.poll(&mut Vec::new()).is_err(), result.is_err());
                result
            }));
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn run_rank<T: Element>(
    schedule: &dyn Schedule,
    rank: Rank,
    input: &[T],
    transport: &mut dyn Transport,
    setting: Setting,
) -> Result<Vec<T>, ExecError> {
    let mut executor = Executor::new(Duration::from_micros(5));
    // Where nothing was written the output differs from every right result: it is the input, reversed.
    let mut output: Vec<T> = input.to_vec();
    let buffers = if setting.is_in_place {
        Buffers::in_place(&mut output)
    } else {
        output.reverse();
        Buffers::out_of_place(input, &mut output).unwrap()
    };
    let call = Call { rank, sequence: 3, op: setting.op, buffers, patience: setting.patience };
    executor.run(schedule, call, transport, &mut || None)?;
    Ok(output)
}
