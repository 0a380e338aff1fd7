//! How a function gets out of the library: under NCCL's name and the one that profilers use, and without panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::abi::Code;
use crate::outcome::{Failure, answer};

/// Runs a function's body, and turns what it returns, a panic too, into a result.
pub(crate) fn guard(body: impl FnOnce() -> Result<(), Failure>) -> Code {
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
        Err(Failure::internal(format!("a panic: {text}")))
    });
    answer(result)
}

/// Exports functions that return `ncclResult_t`, each under two names.
macro_rules! export {
    ($($(#[$doc:meta])* fn $name:ident, $profiled:ident ($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($argument: $type),*) -> $crate::abi::Code {
            $crate::export::guard(|| $body)
        }

        /// The same, by the name that profilers call when they stand before the other.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $profiled($($argument: $type),*) -> $crate::abi::Code {
            // SAFETY: the caller promises what it promises to the other.
            unsafe { $name($($argument),*) }
        }
    )*};
}
pub(crate) use export;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_internal_error() {
        assert_eq!(guard(|| panic!("as a test")), 3);
        assert_eq!(guard(|| Ok(())), 0);
    }
}
