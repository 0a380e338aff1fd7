//! The times of the two schedules: closed forms, of a pipeline whose chunks are chosen best.
//!
//! Both move the whole vector out of each instance and into it once, which for two instances is the least. What differs
//! is what stands around that: NCCL walks a chain of GPUs up and down, the hierarchical schedule exchanges once among
//! all GPUs of an instance before and once after.

use super::parameters::{GPUS, Parameter, Parameters};

/// reduce_scatter among the GPUs of each instance, exchange of the parts between the instances over all cards, all_gather
/// among the GPUs. Large vectors go in chunks, so that NVLink works while the cards do.
pub(super) fn hierarchical_s(parameters: &Parameters, len_bytes: u64) -> f64 {
    let stages = |chunk_bytes: f64| {
        let egress = chunk_bytes * f64::from(GPUS - 1) / f64::from(GPUS) / (parameters.nvlink.value * 1e9);
        let between = chunk_bytes / parameters.between_bytes_per_s();
        let exchange = us(&parameters.exchange);
        [exchange + egress, us(&parameters.hand_over) + us(&parameters.network) + between, exchange + egress]
    };
    let time_s = |chunks: f64| {
        let chunk_bytes = len_bytes as f64 / chunks;
        let fill: f64 = stages(chunk_bytes).iter().sum();
        // What a chunk keeps busy for itself: NVLink twice, the cards once.
        let [start, _, end] = stages(chunk_bytes);
        let between = chunk_bytes / parameters.between_bytes_per_s();
        fill + (chunks - 1.0) * between.max(start + end)
    };
    (0..=MOST_CHUNKS_LOG2).map(|log2| time_s(f64::from(1 << log2))).fold(f64::INFINITY, f64::min)
}

/// NCCL's double tree, by its own model of the latency: the quicker of its protocols for short and for large vectors.
pub(super) fn nccl_s(parameters: &Parameters, len_bytes: u64) -> f64 {
    let network = us(&parameters.network);
    // Up the chain of an instance's GPUs, over to the other instance, and back.
    let latency_s = |[start, hop, net_hop]: &[Parameter; 3], per_hop: f64| {
        us(start) + 2.0 * (f64::from(GPUS - 1) * us(hop) + us(net_hop) + per_hop * network)
    };
    let nvlink = parameters.nvlink.value * 1e9 / 2.0;
    let bytes_per_s = parameters.between_bytes_per_s().min(nvlink);
    let len_bytes = len_bytes as f64;
    // A flag beside each four bytes halves what links carry; large chunks are announced by a message of their own.
    let short = latency_s(&parameters.nccl_short, 1.0) + 2.0 * len_bytes / bytes_per_s;
    let large = latency_s(&parameters.nccl_large, 2.0) + len_bytes / bytes_per_s;
    short.min(large)
}

fn us(parameter: &Parameter) -> f64 {
    parameter.value * 1e-6
}

const MOST_CHUNKS_LOG2: u32 = 12;
