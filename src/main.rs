//! The `pinfold` command.

#![forbid(unsafe_code)]

/// Every freed heap block is wiped: libraries that know nothing of secrets may have held a piece of one.
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<std::alloc::System> = zeroizing_alloc::ZeroAlloc(std::alloc::System);

fn main() -> std::process::ExitCode {
    pinfold::cli::main()
}
