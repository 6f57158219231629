//! The pgtenant binary: parse, run, print what went wrong.

use std::process::ExitCode;

use clap::Parser as _;
use pgtenant::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pgtenant: {failure}");
            ExitCode::FAILURE
        }
    }
}
