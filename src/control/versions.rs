//! What a place says of the migrations it has had, and what that means beside the files there are.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::connection::Connection;
use super::error::Error;
use super::files::MigrationFile;
use super::place::Place;
use crate::tenant::quote_literal;

/// A migration that a place has had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) version: i64,
    name: String,
    checksum: String,
}

impl Applied {
    /// Whether it was this very file.
    pub(super) fn is(&self, file: &MigrationFile) -> bool {
        self.version == file.version && self.checksum == file.checksum
    }
}

/// How far a place has come with a file that runs statement by statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Begun {
    /// Statements that are done.
    pub(super) done: usize,
    /// Of the statements that are done.
    pub(super) checksum: String,
    /// Whether the next one was about to run outside of a transaction: it may be done, half done or not begun.
    pub(super) alone: bool,
}

/// What a place has had, the oldest first; nothing where pgtenant keeps no books yet.
pub(super) async fn applied(connection: &Connection, place: &Place) -> Result<Vec<Applied>, Error> {
    let sql = "SELECT version, name, checksum FROM pgtenant.schema_versions WHERE module = $1 AND schema_name = $2 ORDER BY version";
    let (module, schema) = (place.module.as_str(), place.schema_name());
    let read = |row: &Row| Ok(Applied { version: row.try_get(0)?, name: row.try_get(1)?, checksum: row.try_get(2)? });
    rows(connection, sql, &[(&module, Type::TEXT), (&schema, Type::NAME)], read).await
}

/// How far a place has come with a file; not at all where nothing is said of it.
pub(super) async fn begun(connection: &Connection, place: &Place, file: &MigrationFile) -> Result<Begun, Error> {
    let sql = "SELECT done, checksum, alone FROM pgtenant.statements_done \
               WHERE module = $1 AND schema_name = $2 AND version = $3";
    let (module, schema) = (place.module.as_str(), place.schema_name());
    let read = |row: &Row| {
        let done: i32 = row.try_get(0)?;
        Ok(Begun { done: usize::try_from(done).unwrap_or(0), checksum: row.try_get(1)?, alone: row.try_get(2)? })
    };
    let parameters: [Parameter<'_>; 3] = [(&module, Type::TEXT), (&schema, Type::NAME), (&file.version, Type::INT8)];
    Ok(rows(connection, sql, &parameters, read).await?.into_iter().next().unwrap_or_default())
}

/// One typed parameter of a statement.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

async fn rows<T>(
    connection: &Connection,
    sql: &str,
    parameters: &[Parameter<'_>],
    read: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
) -> Result<Vec<T>, Error> {
    let failed = |source| connection.failed("read the versions of the place", source);
    match connection.client.query_typed(sql, parameters).await {
        Err(error) if matches!(error.code(), Some(&(SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME))) => {
            Ok(Vec::new())
        }
        found => found.and_then(|rows| rows.iter().map(read).collect()).map_err(failed),
    }
}

/// Compares what a place has had with the files; gives those that it has not had yet, in order. With `any_order`, a file may come after one
/// with a higher number.
///
/// # Errors
/// The place has drifted: a file was changed or taken away after it had been applied, or one slipped in before it.
pub(super) fn pending<'a>(
    files: &'a [MigrationFile],
    applied: &[Applied],
    place: &Place,
    any_order: bool,
) -> Result<Vec<&'a MigrationFile>, Error> {
    for had in applied {
        match files.iter().find(|file| file.version == had.version) {
            None => return Err(Error::MigrationUnknown { name: had.name.clone(), place: place.to_string() }),
            Some(file) if file.checksum != had.checksum => {
                return Err(Error::MigrationChanged { name: file.name.clone(), place: place.to_string() });
            }
            Some(_) => {}
        }
    }
    let pending: Vec<_> = files.iter().filter(|file| applied.iter().all(|had| had.version != file.version)).collect();
    match (applied.last(), pending.first()) {
        (Some(last), Some(early)) if early.version < last.version && !any_order => {
            let (name, later) = (early.name.clone(), last.name.clone());
            Err(Error::MigrationGap { name, later, place: place.to_string() })
        }
        _ => Ok(pending),
    }
}

/// The statement that says that a place has had a file.
pub(super) fn record(place: &Place, file: &MigrationFile, took: Duration) -> String {
    format!("{}; ", insert(place, file, took))
}

/// The statement that says that a place has had a file as it is now, whatever was said before.
pub(super) fn take_as_applied(place: &Place, file: &MigrationFile) -> String {
    format!(
        "{} ON CONFLICT (module, schema_name, version) DO UPDATE SET name = EXCLUDED.name, checksum = EXCLUDED.checksum; ",
        insert(place, file, Duration::ZERO)
    )
}

fn insert(place: &Place, file: &MigrationFile, took: Duration) -> String {
    format!(
        "INSERT INTO pgtenant.schema_versions (module, schema_name, version, name, checksum, duration_ms) \
         VALUES ({}, {}, {}, {})",
        key(place, file),
        quote_literal(&file.name),
        quote_literal(&file.checksum),
        i64::try_from(took.as_millis()).unwrap_or(i64::MAX)
    )
}

/// The statement that says how far a place has come with a file.
pub(super) fn record_begun(place: &Place, file: &MigrationFile, begun: &Begun) -> String {
    format!(
        "INSERT INTO pgtenant.statements_done (module, schema_name, version, done, checksum, alone) VALUES ({}, {}, {}, {}) \
         ON CONFLICT (module, schema_name, version) DO UPDATE \
         SET done = EXCLUDED.done, checksum = EXCLUDED.checksum, alone = EXCLUDED.alone; ",
        key(place, file),
        begun.done,
        quote_literal(&begun.checksum),
        begun.alone
    )
}

/// The statement that forgets how far a place has come with a file.
pub(super) fn forget_begun(place: &Place, file: &MigrationFile) -> String {
    format!("DELETE FROM pgtenant.statements_done WHERE (module, schema_name, version) = ({}); ", key(place, file))
}

/// The statements that forget all that a place has had.
pub(super) fn forget(place: &Place) -> String {
    let books = ["schema_versions", "statements_done"];
    books.map(|book| format!("DELETE FROM pgtenant.{book} WHERE (module, schema_name) = ({}); ", of(place))).concat()
}

fn key(place: &Place, file: &MigrationFile) -> String {
    format!("{}, {}", of(place), file.version)
}

fn of(place: &Place) -> String {
    format!("{}, {}", quote_literal(place.module.as_str()), quote_literal(place.schema_name()))
}
