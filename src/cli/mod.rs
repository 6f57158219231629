//! The commands: what a person types, wired to the parts that do it.

mod check;
mod context;
mod daemon;
mod demo;
mod list;
mod login;
mod migrate;
mod module;
mod output;
mod process;
mod progress;
mod registry;
mod reload;
mod serve;
mod server;
mod service;
mod shell;
mod source;
mod tenant;
mod verify;
mod view;

use clap::{Parser, Subcommand};

use context::{Context, Globals};
pub use output::Failure;

/// Multi-tenant PostgreSQL: a pooling proxy and the control plane of its tenants.
#[derive(Debug, Parser)]
#[command(name = "pgtenant", version, about, propagate_version = true, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients: the proxy.
    Serve,
    /// See it work: temporary PostgreSQL servers, three tenants and the proxy, gone at the end.
    Demo(demo::Demo),
    /// Say what is wrong with configuration, registry, servers, credentials and schemas, one line each.
    Check,
    /// Set up the registry database.
    #[command(subcommand)]
    Registry(registry::Command),
    /// PostgreSQL servers on which tenants live.
    #[command(subcommand)]
    Server(server::Command),
    /// Modules (services) that tenants subscribe to.
    #[command(subcommand)]
    Module(module::Command),
    /// Tenants.
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// Bring all tenants' places to the version of their modules' migrations, or see how they stand.
    Migrate(Box<migrate::Migrate>),
    /// Try whether the walls between tenants stand.
    #[command(subcommand)]
    Verify(verify::Command),
    /// The script that makes a shell complete these commands.
    Completions(shell::Completions),
    /// The manual, as pages for man(1).
    Man(shell::Man),
}

/// Does what was typed.
///
/// # Errors
/// What the command failed with; it has printed nothing of that yet.
pub fn run(cli: Cli) -> Result<(), Failure> {
    if matches!(cli.command, Command::Serve) {
        return serve::run(&cli.globals).map_err(Failure::from);
    }
    let context = Context::new(cli.globals)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| anyhow::Error::new(error).context("start the runtime"))?;
    runtime.block_on(async {
        match cli.command {
            // Has a runtime of its own and went there before.
            Command::Serve => Ok(()),
            Command::Demo(demo) => demo::run(&context, demo).await,
            Command::Check => check::run(&context).await,
            Command::Registry(command) => registry::run(&context, command).await,
            Command::Server(command) => server::run(&context, command).await,
            Command::Module(command) => module::run(&context, command).await,
            Command::Tenant(command) => tenant::run(&context, command).await,
            Command::Migrate(command) => migrate::run(&context, *command).await,
            Command::Verify(command) => verify::run(&context, command).await,
            Command::Completions(shell) => shell::completions(&shell),
            Command::Man(man) => shell::man(&context, &man),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
