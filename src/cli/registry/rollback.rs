//! `pgtenant registry rollback`

use anyhow::anyhow;
use clap::Args;

use super::import::listed;
use crate::cli::context::Context;
use crate::cli::output::{Failure, print, print_json, table};

/// Which import is taken back.
#[derive(Debug, Args)]
pub(in crate::cli) struct Rollback {
    /// Its number; the last one when absent. One that was taken back already stays so, and no other is touched.
    import: Option<i64>,
}

pub(super) async fn run(context: &Context, rollback: &Rollback) -> Result<(), Failure> {
    let outcome = context.control().await?.roll_back(rollback.import).await?;
    if context.json() {
        print_json(&outcome)?;
    } else {
        match outcome.import {
            None => print("There was no import yet; there is nothing to take back.")?,
            Some(import) if outcome.already => print(format_args!(
                "Import {import} was taken back already. An earlier one is taken back by its number."
            ))?,
            Some(import) if outcome.obstacles.is_empty() => {
                for (what, names) in [("removed", &outcome.removed), ("restored", &outcome.restored)] {
                    for line in listed(names) {
                        print(format_args!("{what} {line}"))?;
                    }
                }
                print(format_args!("Import {import} is taken back."))?;
            }
            Some(_) => {
                let mut rows = table(["what", "changed since the import"]);
                for obstacle in &outcome.obstacles {
                    rows.add_row([&obstacle.what, &obstacle.detail]);
                }
                print(rows)?;
            }
        }
    }
    match (outcome.import, outcome.obstacles.len()) {
        (_, 0) | (None, _) => Ok(()),
        (Some(import), n) => {
            Err(anyhow!("import {import} is not taken back: {n} later changes depend on it; undo these first").into())
        }
    }
}
