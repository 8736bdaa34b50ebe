//! The `tidegate` binary.

use std::process::ExitCode;

/// It gives memory back to the system after a burst, where that of glibc keeps most of it (docs/measurements.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tidegate_server::cli::main()
}
