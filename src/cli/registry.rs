//! `pgtenant registry …`

use clap::Subcommand;
use serde::Serialize;

use super::context::Context;
use super::output::{Failure, print, print_json, table};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make or complete the registry's tables; safe to run again.
    Init,
    /// Which of this program's migrations the registry has.
    Status,
}

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

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let admin = context.admin().await?;
    match command {
        Command::Init => {
            let applied = admin.init().await?;
            if context.json() {
                print_json(&Initialised { applied })?;
            } else if applied.is_empty() {
                print("The registry is complete; there was nothing to do.")?;
            } else {
                print(format_args!("The registry is ready; applied {}.", applied.join(", ")))?;
            }
        }
        Command::Status => {
            let migrations: Vec<Migration> = admin
                .status()
                .await?
                .into_iter()
                .map(|state| Migration { version: state.version, name: state.name, applied: state.applied })
                .collect();
            if context.json() {
                print_json(&migrations)?;
            } else {
                let mut rows = table(["version", "name", "applied"]);
                for state in &migrations {
                    let applied = if state.applied { "yes" } else { "no" };
                    rows.add_row([&state.version.to_string(), state.name, applied]);
                }
                print(rows)?;
            }
        }
    }
    Ok(())
}
