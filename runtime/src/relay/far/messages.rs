//! Messages of a launch, and how they are cut and passed.
//!
//! Pure. A message of more than [`SHORT_BYTES`] is cut into slices of [`SLICE_BYTES`], of which each goes by a channel and a place of
//! it; a shorter one goes whole, through cells. Slice s, whatever else is sent, is carried by lane s modulo their count, and what is short by
//! the first, so that both ends of a message agree on it without knowing each other's launches.

use efarun_wire::Rank;

use super::parameters::{BLOCKS_MAX, CHANNELS, LONG_MAX, SLICE_BYTES};
#[cfg(doc)]
use crate::relay::parameters::SHORT_BYTES;
use crate::relay::parameters::SPANS_MAX;
use crate::relay::transfer::{Stretch, is_short};

/// One end of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FarMessage {
    /// The other end's rank.
    pub peer: Rank,
    /// Where it lies on this rank's GPU, or is to lie; not empty.
    pub stretch: Stretch,
}

/// Messages that are on their way at the same time. Of those between two ranks the n-th that one sends is the n-th that the
/// other receives, over all launches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// What is sent.
    pub sends: Vec<FarMessage>,
    /// What is received.
    pub receives: Vec<FarMessage>,
}

impl Messages {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.receives.is_empty()
    }

    /// Whether a launch has room for them.
    pub fn fit(&self) -> bool {
        [self.puts(), self.gets()].iter().all(|it| it.count() <= SPANS_MAX && it.long_count() <= LONG_MAX)
    }

    pub(crate) fn puts(&self) -> Direction<'_> {
        Direction(&self.sends)
    }

    pub(crate) fn gets(&self) -> Direction<'_> {
        Direction(&self.receives)
    }

    /// How many of so many lanes have a part in them: the first has always.
    pub(crate) fn lanes(&self, count: usize) -> usize {
        let longest = self.sends.iter().chain(&self.receives).map(|it| it.slices()).max();
        longest.unwrap_or(0).clamp(1, count)
    }

    /// How many blocks pass them.
    pub fn blocks(&self) -> u32 {
        let of = |direction: Direction<'_>| direction.long_count() * direction.blocks();
        let blocks = (of(self.puts()) + of(self.gets()) + 1) as u32;
        debug_assert!(blocks <= BLOCKS_MAX);
        blocks
    }
}

impl FarMessage {
    /// Whether it goes whole, as one of the short ones of a launch.
    pub fn is_short(&self) -> bool {
        is_short(self.stretch.bytes)
    }

    /// How many slices it has; one where it is short, which goes whole.
    pub(crate) fn slices(&self) -> usize {
        self.stretch.bytes.div_ceil(SLICE_BYTES)
    }

    pub(crate) fn slice_len(&self, slice: usize) -> usize {
        self.stretch.bytes.saturating_sub(slice * SLICE_BYTES).min(SLICE_BYTES)
    }
}

/// What is sent, or what is received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Direction<'m>(&'m [FarMessage]);

impl<'m> Direction<'m> {
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn long_count(&self) -> usize {
        self.0.iter().filter(|message| !message.is_short()).count()
    }

    /// As the kernel has them: the long ones first.
    pub(crate) fn kernel_order(self) -> impl Iterator<Item = &'m FarMessage> {
        let long = self.0.iter().filter(|message| !message.is_short());
        long.chain(self.0.iter().filter(|message| message.is_short()))
    }

    /// In their order, each with its number among the kernel's.
    pub(crate) fn in_order(self) -> impl Iterator<Item = (&'m FarMessage, usize)> {
        let (mut long, mut short) = (0, self.long_count());
        self.0.iter().map(move |message| {
            let next = if message.is_short() { &mut short } else { &mut long };
            *next += 1;
            (message, *next - 1)
        })
    }

    /// How many channels each long message has, by which its slices go in turn: of each lane as many.
    pub(crate) fn channels(&self) -> usize {
        match self.long_count() {
            ..=4 => CHANNELS / 4,
            _ => CHANNELS / LONG_MAX,
        }
    }

    /// How many blocks each long message has, of which each has as many channels.
    pub(crate) fn blocks(&self) -> usize {
        LONG_MAX / self.long_count().clamp(1, LONG_MAX).next_power_of_two()
    }
}

/// Where a slice goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// Of the channels of its direction.
    pub(crate) channel: usize,
    /// How many of the launch's rounds of this channel come before it.
    pub(crate) before: usize,
}

impl Way {
    /// Of a slice of the kernel's so-manieth message of a direction whose messages have so many channels each.
    pub(crate) fn of(number: usize, slice: usize, channels: usize) -> Way {
        Way { channel: number * channels + slice % channels, before: slice / channels }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::parameters::{LANES_MAX, PLACES};
    use super::*;
    use crate::cuda::DevicePointer;
    use crate::relay::parameters::SHORT_BYTES;

    fn messages(lengths: &[usize]) -> Vec<FarMessage> {
        let message = |(at, &bytes): (usize, &usize)| FarMessage {
            peer: Rank(at as u32),
            stretch: Stretch { pointer: DevicePointer(at as u64 * 64), bytes },
        };
        lengths.iter().enumerate().map(message).collect()
    }

    fn lane_counts() -> impl Iterator<Item = usize> {
        (0..).map(|power| 1 << power).take_while(|&count| count <= LANES_MAX)
    }

    #[test]
    fn no_two_slices_that_are_on_their_way_share_a_place() {
        for count in 1..=LONG_MAX {
            let lengths: Vec<_> = (1..=count).map(|at| (40 + at) * SLICE_BYTES - at).collect();
            let list = messages(&lengths);
            let direction = Direction(&list);
            let mut ways = BTreeMap::<usize, Vec<usize>>::new();
            for (message, number) in direction.in_order() {
                for slice in 0..message.slices() {
                    let way = Way::of(number, slice, direction.channels());
                    ways.entry(way.channel).or_default().push(way.before);
                }
            }
            // A channel's rounds are those of one message, in order, and each place has one of so many that follow each other.
            assert!(ways.keys().all(|&channel| channel < CHANNELS), "{count} messages");
            for rounds in ways.values() {
                assert!(rounds.iter().copied().eq(0..rounds.len()), "{count} messages: {rounds:?}");
            }
            assert!(ways.values().any(|rounds| rounds.len() > PLACES));
        }
    }

    #[test]
    fn every_lane_has_channels_of_each_message_and_its_slices() {
        for (count, lanes) in (1..=LONG_MAX).flat_map(|count| lane_counts().map(move |lanes| (count, lanes)))
        {
            let list = messages(&vec![SHORT_BYTES + 1; count]);
            let channels = Direction(&list).channels();
            for (number, slice) in (0..count).flat_map(|number| (0..100).map(move |slice| (number, slice))) {
                let way = Way::of(number, slice, channels);
                assert_eq!(way.channel % lanes, slice % lanes, "{count} messages, {lanes} lanes");
            }
        }
    }

    #[test]
    fn as_many_lanes_have_a_part_as_the_longest_message_has_slices() {
        let of = |sends: &[usize], receives: &[usize], count| {
            Messages { sends: messages(sends), receives: messages(receives) }.lanes(count)
        };
        assert_eq!(of(&[1], &[], 4), 1);
        assert_eq!(of(&[], &[SHORT_BYTES, 5], 4), 1);
        assert_eq!(of(&[SLICE_BYTES], &[3], 4), 1);
        assert_eq!(of(&[7], &[SLICE_BYTES + 1], 4), 2);
        assert_eq!(of(&[3 * SLICE_BYTES, 9], &[SLICE_BYTES], 4), 3);
        assert_eq!(of(&[100 * SLICE_BYTES], &[], 4), 4);
        assert_eq!(of(&[100 * SLICE_BYTES], &[], 1), 1);
    }

    #[test]
    fn the_kernel_has_the_long_ones_first_and_numbers_say_where() {
        let (short, long) = (SHORT_BYTES, SHORT_BYTES + 1);
        for lengths in [&[short, long, 1, long, short][..], &[long; 3], &[short; 4], &[long, short], &[]] {
            let list = messages(lengths);
            let direction = Direction(&list);
            let order: Vec<_> = direction.kernel_order().collect();
            let numbers: Vec<_> = direction.in_order().map(|(_, number)| number).collect();
            assert_eq!((order.len(), numbers.len()), (list.len(), list.len()));
            assert!(
                list.iter().zip(&numbers).all(|(message, &number)| order[number] == message),
                "{lengths:?}"
            );
            assert!(order.iter().enumerate().all(|(at, it)| it.is_short() == (at >= direction.long_count())));
            // Of each kind the first stays first.
            assert!(
                order
                    .windows(2)
                    .all(|two| two[0].is_short() != two[1].is_short() || two[0].peer < two[1].peer)
            );
        }
    }

    #[test]
    fn blocks_divide_channels_and_both_fit_whatever_is_long() {
        for (puts, gets) in (0..=LONG_MAX).flat_map(|puts| (0..=LONG_MAX).map(move |gets| (puts, gets))) {
            let list =
                |count: usize| messages(&[vec![SLICE_BYTES; count], vec![1; SPANS_MAX - count]].concat());
            let all = Messages { sends: list(puts), receives: list(gets) };
            assert!(all.fit() && all.blocks() <= BLOCKS_MAX, "{puts} and {gets}");
            for (direction, count) in [(all.puts(), puts), (all.gets(), gets)] {
                assert_eq!(direction.long_count(), count);
                assert!(direction.channels().is_multiple_of(direction.blocks()), "{count} long");
                assert!(direction.channels().is_multiple_of(LANES_MAX), "{count} long");
                assert!(count * direction.channels() <= CHANNELS, "{count} long");
            }
        }
        let too_many = |sends: Vec<usize>| Messages { sends: messages(&sends), receives: Vec::new() };
        assert!(!too_many(vec![SLICE_BYTES; LONG_MAX + 1]).fit());
        assert!(!too_many(vec![1; SPANS_MAX + 1]).fit());
    }

    #[test]
    fn slices_cover_a_message_and_nothing_else() {
        for bytes in [1, SHORT_BYTES + 1, SLICE_BYTES - 1, SLICE_BYTES, SLICE_BYTES + 1, (1 << 24) + 3] {
            let message = messages(&[bytes])[0];
            let lengths: Vec<_> = (0..message.slices()).map(|slice| message.slice_len(slice)).collect();
            assert_eq!(lengths.iter().sum::<usize>(), bytes);
            assert!(lengths.iter().all(|&len| len > 0));
            assert!(lengths.iter().rev().skip(1).all(|&len| len == SLICE_BYTES));
            assert_eq!(message.slice_len(message.slices()), 0);
        }
    }
}
