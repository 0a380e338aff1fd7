//! The launcher's main once more, as a binary of the package that tests it.

use std::process::ExitCode;

fn main() -> ExitCode {
    efarun::main_impl()
}
