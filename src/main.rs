//! Redrive: makes sure that a message is delivered.

use std::process::ExitCode;

fn main() -> ExitCode {
    redrive::cli::main(&redrive::source::Registry::default())
}
