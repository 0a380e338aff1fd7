//! The memory that a call works on.
//!
//! [`Buffers`] borrows the caller's slices and forgets their type, which it keeps as data. It hands out spans as
//! raw memory to the executor and to nothing else. Today all memory is the host's; `Memory` is where a device's comes
//! in.
//!
//! # Safety
//!
//! Constructors take real slices, so base, length and alignment are right for `'a`. Every access checks bounds. Who
//! turns a span into a slice answers for nobody writing to it meanwhile; see [`super::executor`].
#![allow(unsafe_code)]

use std::marker::PhantomData;

use super::schedule::{Buffer, Span};
use crate::element::{Element, ElementType};

/// Input and output of one call: the same memory, or two of one length.
#[derive(Debug)]
pub struct Buffers<'a> {
    input: Memory,
    output: Memory,
    is_in_place: bool,
    element: ElementType,
    count: usize,
    borrow: PhantomData<&'a mut [u8]>,
}

/// Where a buffer is.
#[derive(Debug, Clone, Copy)]
enum Memory {
    /// Ordinary memory, from this address on.
    Host(*mut u8),
}

/// Input and output of a call differ in length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the input has {input_len} elements, the output {output_len}")]
pub struct LengthsDiffer {
    /// Elements of the input.
    pub input_len: usize,
    /// Elements of the output.
    pub output_len: usize,
}

impl<'a> Buffers<'a> {
    /// Takes one slice as input and output.
    pub fn in_place<T: Element>(data: &'a mut [T]) -> Self {
        let memory = Memory::Host(data.as_mut_ptr().cast());
        Buffers {
            input: memory,
            output: memory,
            is_in_place: true,
            element: T::TYPE,
            count: data.len(),
            borrow: PhantomData,
        }
    }

    /// Takes an input, which is not written, and an output.
    ///
    /// # Errors
    ///
    /// [`LengthsDiffer`] when they do.
    pub fn out_of_place<T: Element>(input: &'a [T], output: &'a mut [T]) -> Result<Self, LengthsDiffer> {
        let (input_len, output_len) = (input.len(), output.len());
        if input_len != output_len {
            return Err(LengthsDiffer { input_len, output_len });
        }
        Ok(Buffers {
            // Nothing writes through it: spans that are written are of the output.
            input: Memory::Host(input.as_ptr().cast_mut().cast()),
            output: Memory::Host(output.as_mut_ptr().cast()),
            is_in_place: false,
            element: T::TYPE,
            count: output_len,
            borrow: PhantomData,
        })
    }

    /// The elements' type.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Elements in each buffer.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether two spans begin at the same address.
    pub(super) fn is_same(&self, one: Span, other: Span) -> bool {
        one.start == other.start && (self.is_in_place || one.buffer == other.buffer)
    }

    /// A span as raw memory.
    ///
    /// # Panics
    ///
    /// When the span is not within the buffer.
    pub(super) fn payload(&self, span: Span) -> *const [u8] {
        self.raw(span)
    }

    /// A span as bytes.
    ///
    /// # Safety
    ///
    /// Nothing writes to the span while the slice lives, which ends before `'a` does.
    pub(super) unsafe fn bytes<'b>(&self, span: Span) -> &'b [u8]
    where
        'a: 'b,
    {
        // SAFETY: `raw` gives memory within a slice that is borrowed for 'a; the caller keeps writers away.
        unsafe { &*self.raw(span) }
    }

    /// A span of the output as bytes.
    ///
    /// # Safety
    ///
    /// Nothing else reads or writes the span while the slice lives, which ends before `'a` does.
    ///
    /// # Panics
    ///
    /// When the span is not of the output.
    pub(super) unsafe fn bytes_mut<'b>(&mut self, span: Span) -> &'b mut [u8]
    where
        'a: 'b,
    {
        assert_eq!(span.buffer, Buffer::Output, "only the output is written");
        // SAFETY: `raw` gives memory within a slice that is borrowed mutably for 'a; the caller keeps others away.
        unsafe { &mut *self.raw(span) }
    }

    fn raw(&self, span: Span) -> *mut [u8] {
        let end = span.start.checked_add(span.len).expect("a span's end is a number");
        assert!(end <= self.count, "{span} is not within {} elements", self.count);
        let Memory::Host(base) = match span.buffer {
            Buffer::Input => self.input,
            Buffer::Output => self.output,
        };
        let size = self.element.size_bytes();
        // SAFETY: the span was checked to end within the slice that `base` begins, so neither offset nor end leaves it.
        let start = unsafe { base.add(span.start * size) };
        std::ptr::slice_from_raw_parts_mut(start, span.len * size)
    }
}
