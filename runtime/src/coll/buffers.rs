//! The memory that a call works on.
//!
//! [`Buffers`] borrows the caller's slices and forgets their type, which it keeps as data. It hands out spans as
//! raw memory to the executor and to nothing else. Today all memory is the host's; `Memory` is where a device's comes
//! in. [`Scratch`] is memory of the executor's own, which it keeps from call to call.
//!
//! # Safety
//!
//! Constructors take real slices, so base, length and alignment are right for `'a`. Every access checks bounds. Who
//! turns a span into a slice answers for nobody writing to it meanwhile; see [`super::executor`].
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Range;

use super::schedule::{Buffer, Placement, Span};
use crate::element::{Element, ElementType};

/// Input and output of one call. They are apart, or lie in one piece of memory.
#[derive(Debug)]
pub struct Buffers<'a> {
    input: Memory,
    output: Memory,
    /// How many elements the input begins behind the output, where they lie in one piece of memory.
    shift: Option<isize>,
    element: ElementType,
    borrow: PhantomData<&'a mut [u8]>,
}

/// Where a buffer is, and its length in elements.
#[derive(Debug, Clone, Copy)]
enum Memory {
    /// Ordinary memory, from this address on.
    Host(*mut u8, usize),
}

impl Memory {
    fn len(self) -> usize {
        let Memory::Host(_, len) = self;
        len
    }
}

impl<'a> Buffers<'a> {
    /// Takes one slice as input and output.
    pub fn in_place<T: Element>(data: &'a mut [T]) -> Self {
        let all = 0..data.len();
        Buffers::within(data, all.clone(), all)
    }

    /// Takes a slice as output, a part of which is the input.
    ///
    /// # Panics
    ///
    /// When the part is not within the slice.
    pub fn input_within<T: Element>(data: &'a mut [T], input: Range<usize>) -> Self {
        let all = 0..data.len();
        Buffers::within(data, input, all)
    }

    /// Takes a slice as input, a part of which is the output.
    ///
    /// # Panics
    ///
    /// When the part is not within the slice.
    pub fn output_within<T: Element>(data: &'a mut [T], output: Range<usize>) -> Self {
        let all = 0..data.len();
        Buffers::within(data, all, output)
    }

    /// Takes an input, which is not written, and an output.
    pub fn out_of_place<T: Element>(input: &'a [T], output: &'a mut [T]) -> Self {
        Buffers {
            // Nothing writes through it: spans that are written are not of the input.
            input: Memory::Host(input.as_ptr().cast_mut().cast(), input.len()),
            output: Memory::Host(output.as_mut_ptr().cast(), output.len()),
            shift: None,
            element: T::TYPE,
            borrow: PhantomData,
        }
    }

    /// Takes an input of a rank that gets nothing.
    pub fn input_only<T: Element>(input: &'a [T]) -> Self {
        Buffers::out_of_place(input, &mut [])
    }

    /// Takes an output of a rank that gives nothing.
    pub fn output_only<T: Element>(output: &'a mut [T]) -> Self {
        Buffers::out_of_place(&[], output)
    }

    /// For a call that moves no elements.
    pub fn none() -> Self {
        Buffers::out_of_place::<u8>(&[], &mut [])
    }

    /// Takes memory of elements of this type.
    ///
    /// # Safety
    ///
    /// For `'a` the input may be read, and the output read and written, by nobody else; both are of whole elements, initialised
    /// and aligned. They may share memory as a collective's input and output in place do.
    pub(super) unsafe fn of_memory(element: ElementType, input: *const [u8], output: *mut [u8]) -> Self {
        let len = |bytes: usize| bytes / element.size_bytes();
        Buffers {
            input: Memory::Host(input.cast_mut().cast(), len(input.len())),
            output: Memory::Host(output.cast(), len(output.len())),
            shift: None,
            element,
            borrow: PhantomData,
        }
    }

    fn within<T: Element>(data: &'a mut [T], input: Range<usize>, output: Range<usize>) -> Self {
        let shift = input.start as isize - output.start as isize;
        // One borrow for both, so that each may be read and written through.
        let (len, base) = (data.len(), data.as_mut_ptr());
        let memory = |range: Range<usize>| {
            assert!(range.start <= range.end && range.end <= len, "a part is within its slice");
            // SAFETY: the range was checked to be within the slice that `base` begins.
            Memory::Host(unsafe { base.add(range.start) }.cast(), range.len())
        };
        Buffers {
            input: memory(input),
            output: memory(output),
            shift: Some(shift),
            element: T::TYPE,
            borrow: PhantomData,
        }
    }

    /// The elements' type.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Elements of the input and of the output.
    pub fn lens(&self) -> (usize, usize) {
        (self.input.len(), self.output.len())
    }

    /// Copies the input to the output, where they are apart. That is a collective in a world of one rank.
    ///
    /// # Panics
    ///
    /// When both are there and differ in length.
    pub(crate) fn copy_through(&mut self) {
        let (input_len, output_len) = self.lens();
        if self.shift.is_some() || input_len == 0 || output_len == 0 {
            return;
        }
        let (input, output) = (self.raw(Span::input(0, input_len)), self.raw(Span::output(0, output_len)));
        // SAFETY: two slices apart, of which the output is borrowed mutably; nothing else has a reference to them.
        unsafe { (*output).copy_from_slice(&*input) };
    }

    /// Whether lengths are those of the placement, and input and output, where they share memory, share it as the
    /// placement says.
    pub(super) fn fit(&self, placement: &Placement) -> bool {
        let shift = placement.input_at as isize - placement.output_at as isize;
        self.lens() == (placement.input_len, placement.output_len)
            && self.shift.is_none_or(|own| own == shift)
    }

    /// A span of input or output as raw memory.
    ///
    /// # Panics
    ///
    /// When the span is not within the buffer.
    pub(crate) fn raw(&self, span: Span) -> *mut [u8] {
        let memory = match span.buffer {
            Buffer::Input => self.input,
            Buffer::Output => self.output,
            Buffer::Scratch | Buffer::Accumulator => unreachable!("{span} is not the caller's memory"),
        };
        let Memory::Host(base, len) = memory;
        raw(base, len, self.element.size_bytes(), span)
    }
}

/// Memory for `Scratch` and `Accumulator`, kept from call to call.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// In words of the alignment that any element has.
    scratch: Vec<u128>,
    accumulator: Vec<u128>,
}

impl Scratch {
    /// Makes room. What is there is not cleared.
    pub(super) fn reserve(&mut self, placement: &Placement, element: ElementType) {
        let words = |len: usize, size: usize| len.saturating_mul(size).div_ceil(size_of::<u128>());
        let scratch = words(placement.scratch_len, element.size_bytes());
        let accumulator = words(placement.accumulator_len, element.accumulator().size_bytes());
        for (memory, needed) in [(&mut self.scratch, scratch), (&mut self.accumulator, accumulator)] {
            if memory.len() < needed {
                memory.resize(needed, 0);
            }
        }
    }

    /// A span of scratch or accumulator as raw memory.
    ///
    /// # Panics
    ///
    /// When the span is not within the buffer.
    pub(super) fn raw(&mut self, element: ElementType, span: Span) -> *mut [u8] {
        let (memory, element) = match span.buffer {
            Buffer::Scratch => (&mut self.scratch, element),
            Buffer::Accumulator => (&mut self.accumulator, element.accumulator()),
            Buffer::Input | Buffer::Output => unreachable!("{span} is the caller's memory"),
        };
        let size = element.size_bytes();
        raw(memory.as_mut_ptr().cast(), memory.len() * size_of::<u128>() / size, size, span)
    }
}

/// A span of the `len` elements from `base` on.
fn raw(base: *mut u8, len: usize, size: usize, span: Span) -> *mut [u8] {
    let end = span.start.checked_add(span.len).expect("a span's end is a number");
    assert!(end <= len, "{span} is not within {len} elements");
    // SAFETY: the span was checked to end within the memory that `base` begins, so neither offset nor end leaves it.
    let start = unsafe { base.add(span.start * size) };
    std::ptr::slice_from_raw_parts_mut(start, span.len * size)
}
