//! `pgtenant registry …`

mod export;
mod import;
mod rollback;
mod setup;
mod sources;
mod verify;

use clap::Subcommand;

use super::context::Context;
use super::output::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make or complete the registry's tables; safe to run again.
    Init,
    /// Which of this program's migrations the registry has.
    Status,
    /// Merge old registries (public.tenant_registry of services' databases), or a registry file, into this one: all of it or nothing.
    Import(import::Import),
    /// Write the whole registry as TOML: what `import --file` reads, and what a file registry is.
    Export(export::Export),
    /// Compare old registries with this one, or look whether all places are there; exit code 1 if not all is well.
    Verify(verify::Verify),
    /// Take back an import: what it made goes, what it changed is as before.
    Rollback(rollback::Rollback),
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Init => setup::init(context).await,
        Command::Status => setup::status(context).await,
        Command::Import(import) => import::run(context, import).await,
        Command::Export(export) => export::run(context, export).await,
        Command::Verify(verify) => verify::run(context, verify).await,
        Command::Rollback(rollback) => rollback::run(context, &rollback).await,
    }
}
