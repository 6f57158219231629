//! Brings a place to the version of its files: as its owner, one run at a time, each file once; what failed or broke off is finished by the next.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use super::connection::{Connection, pause};
use super::error::Error;
use super::files::MigrationFile;
use super::place::Place;
use super::schema::{self, Grantees};
use super::script::with_schema;
use super::statements;
use super::versions;
use crate::fault;
use crate::tenant::{Isolation, quote_ident, quote_literal};

/// A step at which a test kills the process.
pub(super) const APPLY: &str = "apply a migration";

/// How migrations are applied.
#[derive(Debug, Clone)]
pub struct ApplyConfig {
    /// How long a file waits for a lock on an object before it gives way to whoever works there; it is tried again.
    pub lock_timeout: Duration,
    /// How often a file is tried that had to give way.
    pub attempts_max: u32,
    /// Whether a file may come after one with a higher number.
    pub any_order: bool,
}

impl Default for ApplyConfig {
    fn default() -> Self {
        Self { lock_timeout: Duration::from_secs(2), attempts_max: 10, any_order: false }
    }
}

/// A place that is to be migrated.
pub(super) struct Ground<'a> {
    /// The place.
    pub(super) place: &'a Place,
    /// The role that owns what is in it.
    pub(super) owner: &'a str,
    /// Who gets the rights on what is new in it.
    pub(super) grantees: &'a Grantees,
}

/// How far a place has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Files applied by this run.
    pub(super) applied: usize,
    /// The highest version that the place has had.
    pub(super) version: Option<i64>,
}

/// Applies what a place has not had yet; how far it came holds whatever the outcome.
pub(super) async fn apply(
    connection: &Connection,
    ground: &Ground<'_>,
    files: &[MigrationFile],
    config: &ApplyConfig,
) -> (Progress, Result<(), Error>) {
    let mut progress = Progress::default();
    let outcome = match pending(connection, ground.place, files, config, &mut progress).await {
        Ok(pending) if pending.is_empty() => Ok(()),
        Ok(_) => {
            let done = in_turn(connection, ground, files, config, &mut progress).await;
            // After a failure it says nothing new: the connection is gone, or as good as new.
            let renewed = connection.renew().await;
            done.and(renewed)
        }
        Err(error) => Err(error),
    };
    (progress, outcome)
}

/// Takes a place as being on a version: it has had each file up to it, as the file is now. What was half done counts as done.
pub(super) async fn baseline(
    connection: &Connection,
    place: &Place,
    files: &[MigrationFile],
    version: i64,
) -> (Progress, Result<(), Error>) {
    let mut progress = Progress::default();
    let outcome = baseline_in_turn(connection, place, files, version, &mut progress).await;
    let renewed = connection.renew().await;
    (progress, outcome.and(renewed))
}

async fn baseline_in_turn(
    connection: &Connection,
    place: &Place,
    files: &[MigrationFile],
    version: i64,
    progress: &mut Progress,
) -> Result<(), Error> {
    if files.iter().all(|file| file.version != version) {
        return Err(Error::NoSuchVersion { version, module: place.module.to_string() });
    }
    connection.take_turn("migrate the place", &place.lock()).await?;
    let applied = versions::applied(connection, place).await?;
    progress.version = applied.last().map(|had| had.version);
    let new: Vec<_> =
        files.iter().filter(|file| file.version <= version && applied.iter().all(|had| !had.is(file))).collect();
    let mut sql = String::from("BEGIN; ");
    for file in &new {
        sql.push_str(&versions::take_as_applied(place, file));
        sql.push_str(&versions::forget_begun(place, file));
    }
    sql.push_str("COMMIT");
    let written = connection.client.batch_execute(&sql).await;
    written.map_err(|source| connection.failed("take the place as being on a version", source))?;
    progress.applied = new.len();
    progress.version = progress.version.max(Some(version));
    Ok(())
}

/// What a place has not had yet.
pub(super) async fn pending<'a>(
    connection: &Connection,
    place: &Place,
    files: &'a [MigrationFile],
    config: &ApplyConfig,
    progress: &mut Progress,
) -> Result<Vec<&'a MigrationFile>, Error> {
    let applied = versions::applied(connection, place).await?;
    progress.version = applied.last().map(|had| had.version);
    versions::pending(files, &applied, place, config.any_order)
}

async fn in_turn(
    connection: &Connection,
    ground: &Ground<'_>,
    files: &[MigrationFile],
    config: &ApplyConfig,
    progress: &mut Progress,
) -> Result<(), Error> {
    connection.take_turn("migrate the place", &ground.place.lock()).await?;
    // Another run may have been here while this one waited.
    for file in pending(connection, ground.place, files, config, progress).await? {
        let attempt = Attempt { connection, ground, file, config };
        let done = if file.script.transactional { attempt.whole().await } else { statements::run(&attempt).await };
        let settled = connection.settle().await;
        done.and(settled)?;
        progress.applied += 1;
        progress.version = progress.version.max(Some(file.version));
    }
    Ok(())
}

/// One file on its way to one place.
pub(super) struct Attempt<'a> {
    pub(super) connection: &'a Connection,
    pub(super) ground: &'a Ground<'a>,
    pub(super) file: &'a MigrationFile,
    pub(super) config: &'a ApplyConfig,
}

impl Attempt<'_> {
    /// The file in one transaction, again when it had to give way.
    async fn whole(&self) -> Result<(), Error> {
        let mut turn = Turn::new(self);
        loop {
            match self.in_transaction(turn.exposed).await {
                Err(error) => turn.again(error).await?,
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn in_transaction(&self, exposed: bool) -> Result<(), Error> {
        let started = Instant::now();
        let text = &self.file.script.text;
        self.ours(&format!("BEGIN; {}SAVEPOINT pgtenant_file", self.as_owner("LOCAL", exposed))).await?;
        self.theirs(text, 0).await?;
        let end = format!(
            "RELEASE SAVEPOINT pgtenant_file; {OURSELVES}{}{}COMMIT",
            versions::record(self.ground.place, self.file, started.elapsed()),
            self.grant_again()
        );
        fault::point("before", APPLY);
        // The savepoint is how we know that the file left our transaction alone; what was deferred to the end fails in the file's name, too.
        let ended = [SqlState::NO_ACTIVE_SQL_TRANSACTION, SqlState::S_E_INVALID_SPECIFICATION];
        self.connection.client.batch_execute(&end).await.map_err(|source| match source.code() {
            Some(code) if ended.contains(code) => Error::MigrationTransaction { name: self.file.name.clone() },
            _ => self.failed(&self.file.name, source),
        })?;
        fault::point("after", APPLY);
        Ok(())
    }

    /// Runs statements of our own.
    pub(super) async fn ours(&self, sql: &str) -> Result<(), Error> {
        let run = self.connection.client.batch_execute(sql).await;
        run.map_err(|source| self.connection.failed("act as the owner of the place", source))
    }

    /// Runs text of the file, which stands there `at` this byte.
    pub(super) async fn theirs(&self, text: &str, at: usize) -> Result<(), Error> {
        let sql = with_schema(text, self.ground.place.schema_name());
        let run = self.connection.client.batch_execute(&sql).await;
        run.map_err(|source| {
            let line = line_of(&source, &sql).map(|line| line + self.file.script.text[..at].matches('\n').count());
            let name = line.map_or_else(|| self.file.name.clone(), |line| format!("{}:{line}", self.file.name));
            self.failed(&name, source)
        })
    }

    fn failed(&self, name: &str, source: tokio_postgres::Error) -> Error {
        let (name, place) = (name.to_owned(), self.ground.place.to_string());
        Error::Migration { name, place, server: self.connection.server().clone(), source }
    }

    /// Makes this the owner's session, or transaction, at a place that is really there: where the schema is missing, tables would be made in
    /// the schema of temporary ones. `row_security = off` turns rows hidden by a policy into an error.
    pub(super) fn as_owner(&self, scope: &str, exposed: bool) -> String {
        let place = self.ground.place;
        let schema = quote_ident(place.schema_name());
        let path: Vec<_> = place.search_path_extra.iter().map(|extra| format!("{}, ", quote_ident(extra))).collect();
        let expose = if exposed {
            format!("SELECT pgtenant.expose_to_owner({}); ", quote_literal(place.schema_name()))
        } else {
            String::new()
        };
        format!(
            "SELECT {}::pg_catalog.regnamespace; {expose}SET {scope} ROLE {}; SET {scope} search_path = {schema}, {}pg_temp; \
             SET {scope} row_security = off; SET {scope} lock_timeout = {}; ",
            quote_literal(&schema),
            quote_ident(self.ground.owner),
            path.concat(),
            self.config.lock_timeout.as_millis()
        )
    }

    /// Statements that give the rights again.
    pub(super) fn grant_again(&self) -> String {
        schema::grant_again(self.ground.place, self.ground.owner, self.ground.grantees)
    }
}

/// Makes a transaction the admin's again, until it ends.
pub(super) const OURSELVES: &str = "SET LOCAL ROLE NONE; SET LOCAL search_path = pg_catalog; ";

/// How often, and how, something of a file has been tried.
pub(super) struct Turn<'a> {
    attempt: &'a Attempt<'a>,
    count: u32,
    /// With the wall between tenants' rows open to the owner.
    pub(super) exposed: bool,
}

impl<'a> Turn<'a> {
    pub(super) const fn new(attempt: &'a Attempt<'a>) -> Self {
        Self { attempt, count: 1, exposed: false }
    }

    /// Rolls back, and waits for a better moment, if another try may go well.
    pub(super) async fn again(&mut self, error: Error) -> Result<(), Error> {
        let Attempt { connection, ground, config, file } = self.attempt;
        if connection.client.is_closed() {
            return Err(error);
        }
        let rolled_back = connection.client.batch_execute("ROLLBACK").await;
        rolled_back.map_err(|source| connection.failed("roll back", source))?;
        if is_walled(&error) && ground.place.isolation == Isolation::Shared && !self.exposed {
            // It reads or writes rows of tables behind the wall, which the owner sees none of.
            self.exposed = true;
            return Ok(());
        }
        if !error.is_collision() || self.count >= config.attempts_max {
            return Err(error);
        }
        tracing::info!(file = file.name, place = %ground.place, attempt = self.count, %error, "gave way; trying again");
        pause(self.count).await;
        self.count += 1;
        Ok(())
    }
}

fn is_walled(error: &Error) -> bool {
    matches!(error, Error::Migration { source, .. } if source.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE))
}

/// The line of a text at which the server found the error.
fn line_of(error: &tokio_postgres::Error, sql: &str) -> Option<usize> {
    let Some(tokio_postgres::error::ErrorPosition::Original(position)) = error.as_db_error()?.position() else {
        return None;
    };
    let characters = usize::try_from(*position).ok()?.checked_sub(1)?;
    Some(1 + sql.chars().take(characters).filter(|c| *c == '\n').count())
}
