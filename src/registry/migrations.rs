//! The registry's own schema: numbered files, each applied once, in one transaction, by whoever comes first.

use std::collections::BTreeMap;
use std::fmt::Write;

use aws_lc_rs::digest;
use deadpool_postgres::Object;
use tokio_postgres::types::Type;

use super::error::RegistryError;
use super::queries;

/// A file of `migrations/registry/`.
struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $name:literal),+ $(,)?) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../migrations/registry/", $name, ".sql")),
        }),+]
    };
}

const MIGRATIONS: &[Migration] = migrations![
    1 "0001_tables",
    2 "0002_triggers",
    3 "0003_views_and_procedures",
    4 "0004_lifecycle",
    5 "0005_versions",
    6 "0006_imports",
    7 "0007_scale",
    8 "0008_instances",
    9 "0009_addresses",
    10 "0010_limits",
    11 "0011_leases",
];

/// One migration, and whether the registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationState {
    /// Its number.
    pub version: i32,
    /// The file's name, without its ending.
    pub name: &'static str,
    /// Whether it is applied.
    pub applied: bool,
}

/// Applies what is missing; gives the names of what this call applied. Several callers take turns by an advisory lock
/// that ends with each transaction, so nothing is left locked whatever happens to a caller.
pub(super) async fn apply(client: &mut Object) -> Result<Vec<&'static str>, RegistryError> {
    let doing = "set up the registry";
    let mut applied = Vec::new();
    for migration in MIGRATIONS {
        let transaction = client.transaction().await.map_err(RegistryError::query(doing))?;
        transaction.query_typed(queries::MIGRATION_LOCK, &[]).await.map_err(RegistryError::query(doing))?;
        transaction.batch_execute(queries::MIGRATION_TABLE).await.map_err(RegistryError::query(doing))?;
        let there = read_applied(&transaction).await?;
        check(&there)?;
        if !there.contains_key(&migration.version) {
            transaction.batch_execute(migration.sql).await.map_err(RegistryError::query(doing))?;
            let record: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] = [
                (&migration.version, Type::INT4),
                (&migration.name, Type::TEXT),
                (&checksum(migration.sql), Type::TEXT),
            ];
            transaction.execute_typed(queries::MIGRATION_RECORD, &record).await.map_err(RegistryError::query(doing))?;
            applied.push(migration.name);
        }
        transaction.commit().await.map_err(RegistryError::query(doing))?;
    }
    Ok(applied)
}

/// What the registry has and what it lacks.
pub(super) async fn status(client: &mut Object) -> Result<Vec<MigrationState>, RegistryError> {
    let doing = "read the registry's version";
    let transaction = client.transaction().await.map_err(RegistryError::query(doing))?;
    let rows = transaction.query_typed(queries::MIGRATIONS_THERE, &[]).await.map_err(RegistryError::query(doing))?;
    let there = match rows.first().map(|row| row.try_get::<_, bool>(0)) {
        Some(Ok(true)) => read_applied(&transaction).await?,
        Some(Ok(false)) | None => BTreeMap::new(),
        Some(Err(source)) => return Err(RegistryError::Query { doing, source }),
    };
    check(&there)?;
    let state =
        |m: &Migration| MigrationState { version: m.version, name: m.name, applied: there.contains_key(&m.version) };
    Ok(MIGRATIONS.iter().map(state).collect())
}

type Applied = BTreeMap<i32, (String, String)>;

async fn read_applied(transaction: &deadpool_postgres::Transaction<'_>) -> Result<Applied, RegistryError> {
    let doing = "read the registry's version";
    let rows = transaction.query_typed(queries::MIGRATIONS_APPLIED, &[]).await.map_err(RegistryError::query(doing))?;
    let read = |row: &tokio_postgres::Row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)));
    rows.iter().map(read).collect::<Result<_, _>>().map_err(|source| RegistryError::Query { doing, source })
}

fn check(there: &Applied) -> Result<(), RegistryError> {
    for (version, (name, sum)) in there {
        match MIGRATIONS.iter().find(|m| m.version == *version) {
            None => return Err(RegistryError::Newer { version: *version }),
            Some(known) if checksum(known.sql) != *sum => {
                return Err(RegistryError::MigrationChanged { version: *version, name: name.clone() });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// SHA-256 in hexadecimal.
fn checksum(sql: &str) -> String {
    let mut text = String::with_capacity(64);
    for byte in digest::digest(&digest::SHA256, sql.as_bytes()).as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
