//! `pgtenant module …`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};

use super::context::Context;
use super::output::{Failure, or_dash, print, print_json, remark, table};
use super::server::{Removed, Written, bail_not_found, word};
use crate::control::{check_module, migrations_directory};
use crate::registry::ModuleRow;
use crate::tenant::{DatabaseName, Isolation, ModuleName, PoolMode, Pooling, ServerName};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a module, or give one that is there these settings. Patterns know {slug}, {id} and {module}.
    Add(Box<Add>),
    /// All modules.
    List,
    /// Remove a module that no tenant subscribes to.
    Remove {
        /// Its name.
        name: ModuleName,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Its name: the database that clients ask for.
    name: ModuleName,
    /// database, schema or shared.
    #[arg(long)]
    isolation: Isolation,
    /// The server of its places.
    #[arg(long)]
    server: ServerName,
    /// The common database of its tenants; none for isolation database.
    #[arg(long, required_if_eq_any([("isolation", "schema"), ("isolation", "shared")]))]
    database: Option<DatabaseName>,
    /// per-tenant: each tenant its own login and connections, a wall against hostile SQL. shared: one service login for all, a wall against mistakes only.
    #[arg(long, default_value = "per-tenant")]
    pooling: Pooling,
    /// session or transaction.
    #[arg(long)]
    pool_mode: Option<PoolMode>,
    /// Most connections of one pool.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pool_size: Option<u32>,
    /// Name of a tenant's schema [default: {module}_{slug}; for isolation shared the common schema, {module}].
    #[arg(long, value_name = "PATTERN")]
    schema_pattern: Option<String>,
    /// Name of a tenant's database [default: {module}_{slug}].
    #[arg(long, value_name = "PATTERN")]
    database_pattern: Option<String>,
    /// Name of a tenant's role [default: {slug}_app].
    #[arg(long, value_name = "PATTERN")]
    role_pattern: Option<String>,
    /// Database of which each tenant's own database is made a copy, with all that is in it; for isolation database.
    #[arg(long, value_name = "DATABASE")]
    template: Option<DatabaseName>,
    /// Directory of numbered SQL files, applied to each place by its owner.
    #[arg(long, value_name = "DIR")]
    migrations: Option<PathBuf>,
    /// Another name under which clients may ask for it (an old database name); may be repeated.
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,
    /// A schema that follows the tenant's own in search_path; may be repeated.
    #[arg(long, value_name = "SCHEMA")]
    search_path_extra: Vec<String>,
    /// A further parameter that carries the tenant's id, such as app.tenant_id.
    #[arg(long, value_name = "NAME")]
    tenant_parameter: Option<String>,
    /// On shared pools, SET ROLE to the tenant's role at each hand-over.
    #[arg(long)]
    set_role: bool,
}

pub(super) async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add(module) => add(context, *module).await,
        Command::List => list(context).await,
        Command::Remove { name } => remove(context, &name).await,
    }
}

async fn add(context: &Context, module: Add) -> Result<(), Failure> {
    let migrations = module.migrations.as_deref().map(migrations_directory).transpose()?;
    let mut row = ModuleRow {
        server: Some(module.server),
        database: module.database,
        pooling: module.pooling,
        pool_mode: module.pool_mode,
        pool_size: module.pool_size,
        schema_pattern: module.schema_pattern,
        database_pattern: module.database_pattern,
        role_pattern: module.role_pattern,
        template: module.template,
        search_path_extra: module.search_path_extra,
        migrations: migrations.map(|path| path.display().to_string()),
        aliases: module.aliases,
        tenant_parameter: module.tenant_parameter,
        set_role: module.set_role,
        ..ModuleRow::new(module.name, module.isolation)
    };
    check_module(&mut row)?;
    let admin = context.admin().await?;
    let server = row.server.as_ref().map(ServerName::as_str).unwrap_or_default();
    if admin.servers().await?.iter().all(|known| known.name.as_str() != server) {
        bail_not_found("server", server)?;
    }
    let known = admin.modules().await?.into_iter().find(|known| known.name == row.name);
    let transaction = admin.begin().await?;
    let kept = match known.filter(|known| known.pooling != row.pooling) {
        Some(known) => transaction.keep_pooling(&row.name, known.pooling).await?,
        None => 0,
    };
    let result = word(transaction.put_module(&row).await?);
    transaction.commit().await?;
    if kept > 0 {
        remark(format_args!(
            "{kept} tenants have module {} already and keep the pooling that they were made for",
            row.name
        ));
    }
    if context.json() {
        print_json(&Written { row: &row, result })?;
    } else {
        print(format_args!("Module {} {result}: isolation {}, pooling {}", row.name, row.isolation, row.pooling))?;
    }
    Ok(())
}

async fn list(context: &Context) -> Result<(), Failure> {
    let modules = context.source().await?.inventory().await?.modules;
    if context.json() {
        print_json(&modules)?;
        return Ok(());
    }
    let mut rows = table(["name", "isolation", "server", "database", "pooling", "schema", "role", "migrations"]);
    for module in &modules {
        rows.add_row([
            module.name.to_string(),
            module.isolation.to_string(),
            or_dash(module.server.as_ref()),
            or_dash(module.database.as_ref().map(ToString::to_string).or_else(|| module.database_pattern.clone())),
            module.pooling.to_string(),
            or_dash(module.schema_pattern.as_ref()),
            or_dash(module.role_pattern.as_ref()),
            or_dash(module.migrations.as_ref()),
        ]);
    }
    print(rows)?;
    Ok(())
}

async fn remove(context: &Context, name: &ModuleName) -> Result<(), Failure> {
    let transaction = context.admin().await?.begin().await?;
    let removed = match transaction.remove_module(name).await {
        Err(error) if error.is_reference() => {
            return Err(anyhow::anyhow!("module {name} has tenants; unsubscribe those first").into());
        }
        removed => removed.with_context(|| format!("remove module {name}"))?,
    };
    if !removed {
        bail_not_found("module", name.as_str())?;
    }
    transaction.commit().await?;
    if context.json() {
        print_json(&Removed { name: name.as_str(), result: "removed" })?;
    } else {
        print(format_args!("Module {name} removed."))?;
    }
    Ok(())
}
