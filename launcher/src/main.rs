//! The `efarun` command: everything is in the library, so that tests can own a binary of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    efarun::main_impl()
}
