//! The pgtenant binary: parse, run, print what went wrong.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use mimalloc::MiMalloc;
use pgtenant::cli::{self, Cli};

/// Cheaper than the C library's at logins, which make much that is small, and gives memory back after a crowd.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where nobody listens the exit code says it alone.
            let _ = writeln!(io::stderr(), "pgtenant: {failure}");
            ExitCode::FAILURE
        }
    }
}
