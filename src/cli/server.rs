//! `pgtenant server …`

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::context::Context;
use super::output::{Failure, or_dash, print, print_json, table};
use crate::auth::SecretRef;
use crate::registry::Put;
use crate::tenant::{Server, ServerName, SslMode};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a server, or give one that is there these settings.
    Add(Add),
    /// All servers.
    List,
    /// Remove a server on which no tenant lives.
    Remove {
        /// Its name.
        name: ServerName,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Its name in the registry.
    name: ServerName,
    /// Host name, address, or directory of a Unix socket.
    #[arg(long)]
    host: String,
    /// TCP port.
    #[arg(long, default_value_t = 5432, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Credentials for DDL: env:NAME or file:PATH.
    #[arg(long, value_name = "REF")]
    admin_secret: Option<SecretRef>,
    /// Service login of shared pools: env:NAME or file:PATH.
    #[arg(long, value_name = "REF")]
    app_secret: Option<SecretRef>,
    /// Most connections of all pools together.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    /// disable, prefer, require, verify-ca or verify-full.
    #[arg(long, default_value = "prefer")]
    sslmode: SslMode,
    /// File with the certificate authorities to trust (PEM).
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
}

/// A row that was written, and whether that changed anything.
#[derive(Serialize)]
pub(super) struct Written<'a, T: Serialize> {
    #[serde(flatten)]
    pub(super) row: &'a T,
    pub(super) result: &'static str,
}

/// What writing came to, as a word.
pub(super) const fn word(put: Put) -> &'static str {
    match put {
        Put::Created => "added",
        Put::Changed => "changed",
        Put::Unchanged => "unchanged",
    }
}

/// A row that was removed.
#[derive(Serialize)]
pub(super) struct Removed<'a> {
    pub(super) name: &'a str,
    pub(super) result: &'static str,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add(server) => add(context, server).await,
        Command::List => list(context).await,
        Command::Remove { name } => remove(context, &name).await,
    }
}

async fn add(context: &Context, server: Add) -> Result<(), Failure> {
    let row = Server {
        name: server.name,
        host: server.host,
        port: server.port,
        sslmode: server.sslmode,
        ca_file: server.ca_file,
        max_connections: server.max_connections,
        admin_secret: server.admin_secret.map(|secret| secret.to_string()),
        app_secret: server.app_secret.map(|secret| secret.to_string()),
    };
    let transaction = context.admin().await?.begin().await?;
    let result = word(transaction.put_server(&row).await?);
    transaction.commit().await?;
    if context.json() {
        print_json(&Written { row: &row, result })?;
    } else {
        print(format_args!("Server {} {result}: {}:{}", row.name, row.host, row.port))?;
    }
    Ok(())
}

async fn list(context: &Context) -> Result<(), Failure> {
    let servers = context.source().await?.inventory().await?.servers;
    if context.json() {
        print_json(&servers)?;
        return Ok(());
    }
    let mut rows = table(["name", "host", "port", "sslmode", "max_connections", "admin_secret", "app_secret"]);
    for server in &servers {
        rows.add_row([
            server.name.to_string(),
            server.host.clone(),
            server.port.to_string(),
            server.sslmode.to_string(),
            or_dash(server.max_connections),
            or_dash(server.admin_secret.as_ref()),
            or_dash(server.app_secret.as_ref()),
        ]);
    }
    print(rows)?;
    Ok(())
}

async fn remove(context: &Context, name: &ServerName) -> Result<(), Failure> {
    let transaction = context.admin().await?.begin().await?;
    let removed = match transaction.remove_server(name).await {
        Err(error) if error.is_reference() => {
            return Err(
                anyhow::anyhow!("server {name} is in use by tenants or modules; remove or move those first").into()
            );
        }
        removed => removed.with_context(|| format!("remove server {name}"))?,
    };
    if !removed {
        bail_not_found("server", name.as_str())?;
    }
    transaction.commit().await?;
    if context.json() {
        print_json(&Removed { name: name.as_str(), result: "removed" })?;
    } else {
        print(format_args!("Server {name} removed."))?;
    }
    Ok(())
}

/// The failure to find what was named.
pub(super) fn bail_not_found(what: &str, name: &str) -> anyhow::Result<()> {
    bail!("{what} \"{name}\" not found; see: pgtenant {what} list")
}
