//! `pgtenant registry import`

use std::path::PathBuf;

use anyhow::anyhow;
use clap::{Args, ValueEnum};

use super::sources::Sources;
use crate::cli::context::Context;
use crate::cli::output::{Failure, print, print_json, remark, table};
use crate::control::import::{Conflict, Imported, Options, Prefer, Touched};
use crate::registry::Contents;

/// What is imported, and how conflicts are met.
#[derive(Debug, Args)]
pub(in crate::cli) struct Import {
    #[command(flatten)]
    sources: Sources,
    /// Import a registry file instead, as `registry export` writes it.
    #[arg(long, value_name = "FILE", conflicts_with = "source", required_unless_present = "source")]
    file: Option<PathBuf>,
    /// Where names, slugs, states or subscriptions of one tenant differ: whose word counts. Other slugs stay as aliases.
    #[arg(long, value_name = "WHOSE")]
    prefer: Option<Whose>,
    /// The same slug means the same tenant, even with different ids.
    #[arg(long, conflicts_with = "file")]
    same_slug_same_tenant: bool,
    /// Import the tenants without conflicts, leave out the others.
    #[arg(long)]
    skip_conflicts: bool,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Whose {
    /// The registry's where it knows the tenant, else the first source's.
    Registry,
    /// The first source's, or the file's.
    Source,
}

pub(super) async fn run(context: &Context, import: Import) -> Result<(), Failure> {
    let options = Options {
        prefer: import.prefer.map(|whose| match whose {
            Whose::Registry => Prefer::Registry,
            Whose::Source => Prefer::Source,
        }),
        same_slug_same_tenant: import.same_slug_same_tenant,
        skip_conflicts: import.skip_conflicts,
        dry_run: import.dry_run,
    };
    let imported = match &import.file {
        Some(path) => {
            let contents = Contents::read(path).await?;
            context.control().await?.import_file(&path.display().to_string(), &contents, &options).await?
        }
        None => {
            let sources = import.sources.parse().await?;
            context.control().await?.import(&sources, &options).await?
        }
    };
    for text in &imported.remarks {
        remark(text);
    }
    if context.json() {
        print_json(&imported)?;
    } else {
        show(&imported, import.dry_run)?;
    }
    match imported.conflicts.len() {
        _ if !imported.refused => Ok(()),
        1 => Err(anyhow!("one conflict; nothing was imported").into()),
        n => Err(anyhow!("{n} conflicts; nothing was imported").into()),
    }
}

fn show(imported: &Imported, dry_run: bool) -> anyhow::Result<()> {
    if !imported.conflicts.is_empty() {
        show_conflicts(&imported.conflicts)?;
    }
    if imported.refused {
        return Ok(());
    }
    let (created, changed) = (listed(&imported.created), listed(&imported.changed));
    for (what, names) in [("created", &created), ("changed", &changed)] {
        for line in names {
            print(format_args!("{what} {line}"))?;
        }
    }
    if !imported.conflicts.is_empty() {
        print(format_args!("skipped what has conflicts ({})", imported.conflicts.len()))?;
    }
    let same = imported.unchanged;
    match imported.import {
        Some(import) => print(format_args!(
            "Import {import} is made; {same} tenants were there already. It is taken back with: pgtenant registry rollback {import}"
        )),
        None if dry_run && !(created.is_empty() && changed.is_empty()) => {
            print(format_args!("Nothing was changed (--dry-run); {same} tenants are there already."))
        }
        None => print(format_args!("There was nothing to do; {same} tenants are there already.")),
    }
}

fn show_conflicts(conflicts: &[Conflict]) -> anyhow::Result<()> {
    let mut rows = table(["tenant", "sources", "conflict", "detail", "resolved by"]);
    for Conflict { kind, tenant, sources, detail, flag } in conflicts {
        let resolved = flag.map_or_else(|| "mending it".to_owned(), |flag| format!("mending it, or {flag}"));
        rows.add_row([tenant.as_str(), &sources.join(", "), kind.as_str(), detail, &resolved]);
    }
    print(rows)?;
    print("--skip-conflicts imports the rest without these tenants.")
}

/// Most names of one kind in a line for people.
const NAMES_SHOWN: usize = 20;

pub(super) fn listed(names: &Touched) -> Vec<String> {
    let line = |what: &str, names: &[String]| {
        let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(String::as_str).collect();
        let more = if names.len() > NAMES_SHOWN { ", …" } else { "" };
        (!names.is_empty()).then(|| format!("{} {what}: {}{more}", names.len(), shown.join(", ")))
    };
    let all = [line("servers", &names.servers), line("modules", &names.modules), line("tenants", &names.tenants)];
    all.into_iter().flatten().collect()
}
