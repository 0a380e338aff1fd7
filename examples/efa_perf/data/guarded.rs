//! Memory for inputs and results, with guards that show a write beside them.

use std::ops::{Deref, DerefMut};

use efarun_rt::SharedBuffer;

use super::value::Sample;

/// Elements with a guard on either side, aligned to cache lines. A call uses the elements of one window; a check uses
/// the first elements and moves the upper guard down behind them.
#[derive(Debug)]
pub(crate) struct GuardedBuffer<T> {
    memory: Memory<T>,
    /// Where the data begins, behind the lower guard.
    start: usize,
}

#[derive(Debug)]
enum Memory<T> {
    Own(Vec<T>),
    Shared(SharedBuffer<T>),
}

impl<T: Sample> Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Memory::Own(memory) => memory,
            Memory::Shared(memory) => memory,
        }
    }
}

impl<T: Sample> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Memory::Own(memory) => memory,
            Memory::Shared(memory) => memory,
        }
    }
}

impl<T: Sample> GuardedBuffer<T> {
    /// Room for `len` elements; all of it is written to here, by the thread that will use it, so that the pages are
    /// there and lie near it.
    pub(crate) fn new(len: usize) -> Self {
        GuardedBuffer::within(Memory::Own(vec![T::POISON; Self::memory_len(len)]))
    }

    /// On memory of the World's, of [`GuardedBuffer::memory_len`] elements; all of it is written to here.
    pub(crate) fn on(mut memory: SharedBuffer<T>) -> Self {
        memory.fill(T::POISON);
        GuardedBuffer::within(Memory::Shared(memory))
    }

    /// How many elements of memory room for `len` takes.
    pub(crate) fn memory_len(len: usize) -> usize {
        len + 2 * GUARD_LEN + ALIGN_BYTES / size_of::<T>()
    }

    fn within(memory: Memory<T>) -> Self {
        let spare = ALIGN_BYTES / size_of::<T>();
        let start = GUARD_LEN + memory[GUARD_LEN..].as_ptr().align_offset(ALIGN_BYTES).min(spare);
        GuardedBuffer { memory, start }
    }

    /// How many elements there is room for.
    pub(crate) fn len_max(&self) -> usize {
        self.memory.len() - 2 * GUARD_LEN - ALIGN_BYTES / size_of::<T>()
    }

    /// `len` elements from the `start`-th on.
    pub(crate) fn window(&self, start: usize, len: usize) -> &[T] {
        &self.memory[self.start + start..self.start + start + len]
    }

    /// See [`GuardedBuffer::window`].
    pub(crate) fn window_mut(&mut self, start: usize, len: usize) -> &mut [T] {
        &mut self.memory[self.start + start..self.start + start + len]
    }

    /// Poisons the first `len` elements and sets the guards around them.
    pub(crate) fn reset(&mut self, len: usize) {
        self.memory[self.start - GUARD_LEN..self.start + len + GUARD_LEN].fill(T::POISON);
    }

    /// The first `len` elements with the guards around them.
    pub(crate) fn around(&self, len: usize) -> &[T] {
        &self.memory[self.start - GUARD_LEN..self.start + len + GUARD_LEN]
    }

    /// See [`GuardedBuffer::around`].
    pub(crate) fn around_mut(&mut self, len: usize) -> &mut [T] {
        &mut self.memory[self.start - GUARD_LEN..self.start + len + GUARD_LEN]
    }

    /// How many guard elements around the first `len` elements were written to.
    pub(crate) fn count_broken_guards(&self, len: usize) -> u64 {
        let below = &self.memory[self.start - GUARD_LEN..self.start];
        let above = &self.memory[self.start + len..self.start + len + GUARD_LEN];
        below.iter().chain(above).filter(|element| **element != T::POISON).count() as u64
    }
}

/// Elements of guard before and after the data.
pub(crate) const GUARD_LEN: usize = 4096;

/// Two cache lines, which some processors fetch together.
const ALIGN_BYTES: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_beside_the_data_breaks_a_guard() {
        let mut buffer = GuardedBuffer::<f32>::new(100);
        buffer.reset(10);
        buffer.window_mut(0, 10).fill(1.0);
        assert_eq!(buffer.count_broken_guards(10), 0);
        buffer.window_mut(10, 1)[0] = 1.0;
        let below = buffer.start - 1;
        buffer.memory[below] = 1.0;
        assert_eq!(buffer.count_broken_guards(10), 2);
    }

    #[test]
    fn data_begins_at_a_cache_line_and_has_the_room_asked_for() {
        for len in [0, 1, 1000] {
            let buffer = GuardedBuffer::<u8>::new(len);
            assert_eq!(buffer.window(0, len).as_ptr().addr() % ALIGN_BYTES, 0);
            assert_eq!((buffer.len_max(), buffer.window(0, len).len()), (len, len));
        }
    }
}
