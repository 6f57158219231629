//! `pgtenant registry export`

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::output::{Failure, print, print_json, print_raw};

/// Where the registry is written to.
#[derive(Debug, Args)]
pub(in crate::cli) struct Export {
    /// The file, which only its owner may read (it holds the logins' verifiers); standard output when absent.
    file: Option<PathBuf>,
}

/// What was written, in JSON.
#[derive(Serialize)]
struct Exported {
    file: String,
    servers: usize,
    modules: usize,
    tenants: usize,
}

pub(super) async fn run(context: &Context, export: Export) -> Result<(), Failure> {
    let source = context.source().await?;
    let contents = source.contents().await?;
    let Some(file) = export.file else {
        let text = if context.json() { contents.to_json()? } else { contents.to_toml()? };
        return Ok(print_raw(text.as_bytes())?);
    };
    write(&file, contents.to_toml()?.as_bytes())?;
    let (servers, modules, tenants) = (contents.servers.len(), contents.modules.len(), contents.tenants.len());
    let file = file.display().to_string();
    if context.json() {
        print_json(&Exported { file, servers, modules, tenants })?;
    } else {
        print(format_args!("{file} has {servers} servers, {modules} modules and {tenants} tenants."))?;
    }
    Ok(())
}

/// Writes a file whole or not at all: beside it first, then in its place.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let name = path.file_name().context("the file to write has no name")?;
    let mut beside = name.to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    written().inspect_err(|_| drop(std::fs::remove_file(&beside))).with_context(|| format!("write {}", path.display()))
}
