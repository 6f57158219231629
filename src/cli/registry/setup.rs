//! `pgtenant registry init` and `status`.

use serde::Serialize;

use crate::cli::context::Context;
use crate::cli::output::{Failure, print, print_json, table};

#[derive(Serialize)]
struct Initialised {
    applied: Vec<&'static str>,
}

#[derive(Serialize)]
struct Migration {
    version: i32,
    name: &'static str,
    applied: bool,
}

/// Makes or completes the registry's tables.
pub(super) async fn init(context: &Context) -> Result<(), Failure> {
    let applied = context.admin().await?.init().await?;
    if context.json() {
        print_json(&Initialised { applied })?;
    } else if applied.is_empty() {
        print("The registry is complete; there was nothing to do.")?;
    } else {
        print(format_args!("The registry is ready; applied {}.", applied.join(", ")))?;
    }
    Ok(())
}

/// Says which migrations the registry has.
pub(super) async fn status(context: &Context) -> Result<(), Failure> {
    let states = context.admin().await?.status().await?;
    let migrations: Vec<Migration> = states
        .into_iter()
        .map(|state| Migration { version: state.version, name: state.name, applied: state.applied })
        .collect();
    if context.json() {
        return Ok(print_json(&migrations)?);
    }
    let mut rows = table(["version", "name", "applied"]);
    for state in &migrations {
        let applied = if state.applied { "yes" } else { "no" };
        rows.add_row([&state.version.to_string(), state.name, applied]);
    }
    Ok(print(rows)?)
}
