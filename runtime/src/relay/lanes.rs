//! Which lane and channel a transfer's slices go by, as the kernel has it (`begin_channel` in `cuda/kernels/relay_protocol.cuh`).
//!
//! Pure. A lane has every so-manieth channel. A transfer's first slice goes by the first lane; or, where each rank only gives or only gets,
//! by the lane behind that of the last such transfer, on all ranks that exchange something by the same, as they make the same transfers.
//! The next slice goes by the next lane. On each lane a transfer begins with the lane's first channel, so that the lane knows where to look
//! for what comes next.

use super::parameters::CHANNELS;

/// A thread's place among those of a relay.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    pub(super) number: usize,
    pub(super) count: usize,
}

impl Lane {
    /// Where each transfer begins in which the lane has a part.
    pub(super) fn first_channel(self) -> usize {
        self.number
    }

    /// Where to look for what comes behind this slice of a transfer of so many, which came by this channel.
    pub(super) fn next_channel(self, channel: usize, slice: usize, slices: usize) -> usize {
        if slice + self.count < slices { (channel + self.count) % CHANNELS } else { self.first_channel() }
    }
}

/// By which channel a slice goes behind so many transfers that went one way, or none where it does not, where there are so many lanes.
#[cfg(test)]
pub(crate) fn channel_of(transfers: usize, slice: usize, lanes: usize) -> usize {
    let block = slice % CHANNELS;
    (transfers + block) % lanes + block / lanes * lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_finds_its_slices_where_the_kernel_puts_them() {
        for count in [1, 2, 4] {
            for number in 0..count {
                let lane = Lane { number, count };
                let mut channel = lane.first_channel();
                for (transfers, slices) in [1, 2, 40, 3, 16, 1, 1, 17, 5, 100, 4, 1].into_iter().enumerate() {
                    let channels = (0..slices).map(|slice| (slice, channel_of(transfers, slice, count)));
                    for (slice, expected) in channels.filter(|(_, channel)| channel % count == number) {
                        assert_eq!(channel, expected, "{lane:?}, slice {slice} of transfer {transfers}");
                        channel = lane.next_channel(channel, slice, slices);
                    }
                }
            }
        }
    }

    #[test]
    fn slices_on_their_way_have_a_channel_each_and_calls_of_one_slice_a_lane_each() {
        for (lanes, transfers) in [1, 2, 4].into_iter().flat_map(|lanes| (0..9).map(move |at| (lanes, at))) {
            let mut channels: Vec<_> =
                (5..5 + CHANNELS).map(|slice| channel_of(transfers, slice, lanes)).collect();
            channels.sort_unstable();
            assert!(channels.into_iter().eq(0..CHANNELS));
            assert_eq!(channel_of(transfers, 0, lanes), transfers % lanes);
        }
    }
}
