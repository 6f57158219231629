//! The pgtenant binary: parse, run, print what went wrong.

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use pgtenant::cli::{self, Cli};

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
