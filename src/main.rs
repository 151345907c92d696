//! Redrive: makes sure that messages are delivered.

use std::process::ExitCode;

/// Messages are allocated on one thread and freed on another, a thousand at a time, which is slow with the C library's allocator. The bundled C
/// libraries use this one too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    redrive::cli::main(&redrive::source::Registry::default())
}
