//! Redrive: makes sure that a message is delivered.

use std::process::ExitCode;

/// Messages come into being on one thread and go on another, a thousand at a time, which the C library's allocator is slow at. The C libraries
/// inside use it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    redrive::cli::main(&redrive::source::Registry::default())
}
