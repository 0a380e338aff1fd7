//! How long an algorithm takes, by a formula.
//!
//! The formulas follow the model of [`super::sim`], and leave out what it shows to matter little, above all time in
//! memory. They are what [`super::select::select`] compares, as simulating takes longer than most calls.
//!
//! In all of them `hop_s` is what one short message takes, s the bytes of a segment, k the segments of what is cut, and n
//! the world size.

use super::collective::Collective;
use super::select::{Algorithm, Sizes, segment_len};
use super::shape::window;
use super::sim::Model;

/// How long an algorithm of the collective takes, in seconds.
pub(super) fn estimate_s(algorithm: Algorithm, sizes: &Sizes, model: &Model) -> f64 {
    let Sizes { collective, world_size, count, element_bytes, messages, .. } = *sizes;
    if world_size < 2 || (count == 0 && collective != Collective::Barrier) {
        return 0.0;
    }
    let segment_len = segment_len(algorithm, collective, world_size, count, element_bytes, messages);
    let Model { latency_s, message_s, byte_s, .. } = *model;
    let n = f64::from(world_size);
    // Rounded down, the depth of a tree; rounded up, what doubling takes to reach everybody.
    let depth = f64::from(world_size.ilog2());
    let doublings = f64::from(world_size.next_power_of_two().trailing_zeros());
    let hop_s = latency_s + message_s;
    let segments = |len: f64| (len / segment_len as f64).ceil().max(1.0);
    let (count, segment) = (count as f64, (segment_len as f64).min(count as f64));
    let bytes_s = |len: f64| len * element_bytes as f64 * byte_s;
    // How long so many elements take to go out, one segment after the other: their time in the port, or, where there are
    // more segments than can be on their way at once, that of the credits' round trips.
    let window = window(messages.credits) as f64;
    let stream_s = |len: f64| {
        if len <= 0.0 {
            return 0.0;
        }
        let one_s = bytes_s(len.min(segment)) + message_s;
        let spare = messages.credits as f64 - window + 1.0;
        let in_turn_s = (latency_s / spare).max((latency_s + one_s) / window);
        let port_s = bytes_s(len) + segments(len) * message_s;
        let beyond_window = (segments(len) - window).max(0.0);
        port_s.max((window * one_s).min(port_s) + beyond_window * in_turn_s)
    };
    // A phase of a ring, which passes on what the one before brought.
    let phase_s = |len: f64| stream_s(len).max(latency_s + stream_s(segment.min(len)));
    match algorithm {
        Algorithm::Ring if collective == Collective::AllReduce => {
            2.0 * ((n - 1.0) * phase_s((count / n).ceil()) + latency_s)
        }
        Algorithm::Ring => (n - 1.0) * phase_s(count) + latency_s,
        Algorithm::Doubling => {
            let passive_rounds = if world_size.is_power_of_two() { 0.0 } else { 2.0 };
            (depth + passive_rounds) * (latency_s + stream_s(count))
        }
        Algorithm::Tree if collective == Collective::AllReduce => {
            let children = if world_size > 2 { 2.0 } else { 1.0 };
            2.0 * depth * (latency_s + children * stream_s(segment))
                + (children + 1.0) * stream_s(count - segment)
        }
        Algorithm::Tree => {
            let children = if world_size > 2 { 2.0 } else { 1.0 };
            depth * (latency_s + children * stream_s(segment)) + children * stream_s(count - segment)
        }
        Algorithm::DoubleTree => {
            let half = (count / 2.0).ceil();
            let segment = segment.min(half);
            // Its timetable has this many on their way.
            let in_flight = ((messages.credits - 1) / 2 + 1) as f64;
            let in_turn_s = (segments(half) - 1.0) * (latency_s + stream_s(segment)) / in_flight;
            2.0 * depth * (latency_s + 2.0 * stream_s(segment))
                + (4.0 * stream_s(half - segment)).max(in_turn_s)
        }
        Algorithm::Chain => (n - 1.0) * (latency_s + stream_s(segment)) + stream_s(count - segment),
        Algorithm::Binomial => doublings * (latency_s + stream_s(count)),
        Algorithm::Bruck | Algorithm::Halving => doublings * hop_s + stream_s((n - 1.0) * count) - message_s,
        // To many peers in turn, so that credits have come back before they are needed.
        Algorithm::Direct => latency_s + (n - 1.0) * (bytes_s(count) + segments(count) * message_s),
        Algorithm::Dissemination => doublings * hop_s,
    }
}
