//! A module's migration files: numbered SQL files, applied in order to a place as its owner, each in one transaction, recorded where they were applied.

use std::path::{Path, PathBuf};
use std::time::Instant;

use aws_lc_rs::digest;
use tokio_postgres::error::SqlState;

use super::connection::{Connection, Step, in_step};
use super::error::Error;
use super::place::{Place, hex};
use super::schema::{self, Grantees};
use crate::tenant::{Isolation, quote_ident};

/// One migration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MigrationFile {
    version: i64,
    name: String,
    sql: String,
    checksum: String,
}

/// Reads a directory's migration files in their order.
pub(super) fn read(directory: &Path) -> Result<Vec<MigrationFile>, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| Error::ReadMigrations { path, source }
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        if path.extension().is_none_or(|extension| extension != "sql") {
            continue;
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let version = version(&name).ok_or_else(|| Error::MigrationName { path: path.clone() })?;
        let sql = std::fs::read_to_string(&path).map_err(failed(&path))?;
        let checksum = hex(digest::digest(&digest::SHA256, sql.as_bytes()).as_ref());
        files.push(MigrationFile { version, name, sql, checksum });
    }
    files.sort_by(|a, b| (a.version, &a.name).cmp(&(b.version, &b.name)));
    match files.windows(2).find(|pair| pair[0].version == pair[1].version) {
        Some(pair) => Err(Error::MigrationTwice { first: pair[0].name.clone(), second: pair[1].name.clone() }),
        None => Ok(files),
    }
}

/// The number at the head of a file's name; Flyway's `V` before it is allowed.
fn version(name: &str) -> Option<i64> {
    let name = name.strip_prefix('V').unwrap_or(name);
    let digits = name.len() - name.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    name[..digits].parse().ok()
}

/// The absolute path of a directory of migrations, for the registry.
///
/// # Errors
/// [`Error::ReadMigrations`] when it is not there, and whatever is wrong with the files in it.
pub fn migrations_directory(path: &Path) -> Result<PathBuf, Error> {
    let path = path.canonicalize().map_err(|source| Error::ReadMigrations { path: path.to_owned(), source })?;
    read(&path)?;
    Ok(path)
}

/// Applies what is not applied yet; says how many files that were.
pub(super) async fn apply(connection: &mut Connection, place: &Place, grantees: &Grantees) -> Result<usize, Error> {
    let Some(directory) = &place.migrations else { return Ok(0) };
    let mut applied = 0;
    for file in read(directory)? {
        let done = match apply_file(connection, place, grantees, &file, false).await {
            // The file reads or writes rows of tables behind the wall, which the owner sees none of. Do it with the wall open to the owner.
            Err(Error::Migration { source, .. })
                if place.isolation == Isolation::Shared && source.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) =>
            {
                apply_file(connection, place, grantees, &file, true).await?
            }
            done => done?,
        };
        applied += usize::from(done);
    }
    Ok(applied)
}

async fn apply_file(
    connection: &mut Connection,
    place: &Place,
    grantees: &Grantees,
    file: &MigrationFile,
    exposed: bool,
) -> Result<bool, Error> {
    let lock = place.lock();
    let done =
        in_step!(connection, "apply a migration", &lock, |step| { apply_in(&step, place, grantees, file, exposed) });
    // After a failure it says nothing new: the connection is gone, or as it was before.
    let settled = connection.settle().await;
    let done = done?;
    settled.map(|()| done)
}

async fn apply_in(
    step: &Step<'_>,
    place: &Place,
    grantees: &Grantees,
    file: &MigrationFile,
    exposed: bool,
) -> Result<bool, Error> {
    if is_applied(step, place, file).await? {
        return Ok(false);
    }
    let started = Instant::now();
    if exposed {
        step.query("SELECT pgtenant.expose_to_owner($1::text::name)", &[&place.schema_name()]).await?;
    }
    run_file(step, place, file).await?;
    record(step, place, file, started).await?;
    schema::grant(step, place, grantees).await?;
    Ok(true)
}

async fn is_applied(step: &Step<'_>, place: &Place, file: &MigrationFile) -> Result<bool, Error> {
    let rows = step
        .query(
            "SELECT checksum FROM pgtenant.schema_versions WHERE module = $1 AND schema_name = $2 AND version = $3",
            &[&place.module.as_str(), &place.schema_name(), &file.version],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(false) };
    let checksum: String = row.try_get(0).map_err(|source| step.failed(source))?;
    if checksum == file.checksum {
        return Ok(true);
    }
    Err(Error::MigrationChanged { name: file.name.clone(), place: described(place) })
}

async fn run_file(step: &Step<'_>, place: &Place, file: &MigrationFile) -> Result<(), Error> {
    let failed = |source| Error::Migration {
        name: file.name.clone(),
        place: described(place),
        server: step.server.clone(),
        source,
    };
    let mut path = vec![quote_ident(place.schema_name())];
    path.extend(place.search_path_extra.iter().map(|schema| quote_ident(schema)));
    // row_security off turns rows hidden by a policy into an error. The savepoint is how we know that the file left our transaction alone.
    step.run(&format!(
        "SET ROLE {}; SET search_path = {}, pg_temp; SET row_security = off; SAVEPOINT pgtenant_file",
        quote_ident(&place.owner()),
        path.join(", ")
    ))
    .await?;
    step.transaction.batch_execute(&file.sql).await.map_err(failed)?;
    if let Err(error) = step.transaction.batch_execute("RELEASE SAVEPOINT pgtenant_file").await {
        let ended = [SqlState::NO_ACTIVE_SQL_TRANSACTION, SqlState::S_E_INVALID_SPECIFICATION];
        let ended = error.code().is_some_and(|code| ended.contains(code));
        return Err(if ended { Error::MigrationTransaction { name: file.name.clone() } } else { failed(error) });
    }
    step.run("RESET ROLE; RESET row_security; SET search_path = pg_catalog").await
}

async fn record(step: &Step<'_>, place: &Place, file: &MigrationFile, started: Instant) -> Result<(), Error> {
    let duration = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
    let schema = place.schema_name();
    step.query(
        "INSERT INTO pgtenant.schema_versions (module, schema_name, version, name, checksum, duration_ms) \
         VALUES ($1, $2::text::name, $3, $4, $5, $6)",
        &[&place.module.as_str(), &schema, &file.version, &file.name, &file.checksum, &duration],
    )
    .await
    .map(drop)
}

fn described(place: &Place) -> String {
    format!("\"{}\".\"{}\"", place.database, place.schema_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_in_the_order_of_their_numbers() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["10_c.sql", "0002_b.sql", "V1__a.sql", "README.md"] {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        let names: Vec<_> = read(directory.path()).unwrap().into_iter().map(|file| (file.version, file.name)).collect();
        let expected = [(1, "V1__a.sql"), (2, "0002_b.sql"), (10, "10_c.sql")];
        assert_eq!(names, expected.map(|(version, name)| (version, name.to_owned())));
    }

    #[test]
    fn a_file_without_a_number_or_with_anothers_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("1_a.sql"), "").unwrap();
        std::fs::write(directory.path().join("01_b.sql"), "").unwrap();
        assert!(matches!(read(directory.path()), Err(Error::MigrationTwice { .. })));
        std::fs::remove_file(directory.path().join("01_b.sql")).unwrap();
        std::fs::write(directory.path().join("orders.sql"), "").unwrap();
        assert!(matches!(read(directory.path()), Err(Error::MigrationName { .. })));
        std::fs::remove_file(directory.path().join("orders.sql")).unwrap();
        std::fs::write(directory.path().join("99999999999999999999_x.sql"), "").unwrap();
        assert!(matches!(read(directory.path()), Err(Error::MigrationName { .. })));
    }
}
