//! A migration file without a transaction of its own, statement by statement.
//!
//! Each statement shares a transaction with the note that it is done, so that it is done once whatever happens. Those that PostgreSQL runs in no
//! transaction (`CREATE INDEX CONCURRENTLY`, `VACUUM`, procedures that commit) are announced first; one that was announced and of which nobody
//! knows what became is looked into before it runs again.

use std::time::Instant;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::apply::{APPLY, Attempt, OURSELVES, Turn};
use super::error::Error;
use super::files::checksum;
use super::script::{ConcurrentIndex, concurrent_index, is_concurrent, is_setting, with_schema};
use super::versions::{self, Begun};
use crate::fault;

/// Steps at which a test kills the process.
const ALONE: &str = "run a statement outside of a transaction";
const NOTE: &str = "note how far a migration has come";

/// Runs what is not done of a file.
pub(super) async fn run(attempt: &Attempt<'_>) -> Result<(), Error> {
    let started = Instant::now();
    let Attempt { connection, ground, file, .. } = attempt;
    let begun = versions::begun(connection, ground.place, file).await?;
    let statements: Vec<_> = file.script.statements().collect();
    let run = Run { attempt, statements: &statements };
    if begun.done > statements.len() || begun.done > 0 && begun.checksum != run.checksum(begun.done) {
        let (name, place) = (file.name.clone(), ground.place.to_string());
        return Err(Error::MigrationBegun { name, place, done: begun.done });
    }
    attempt.ours(&attempt.as_owner("SESSION", false)).await?;
    for (at, statement) in &statements[..begun.done] {
        if is_setting(statement) {
            attempt.theirs(statement, *at).await?;
        }
    }
    for n in begun.done..statements.len() {
        run.one(n, begun.alone && n == begun.done).await?;
    }
    let end = format!(
        "BEGIN; {OURSELVES}{}{}{}COMMIT",
        versions::forget_begun(ground.place, file),
        versions::record(ground.place, file, started.elapsed()),
        attempt.grant_again()
    );
    let mut turn = Turn::new(attempt);
    fault::point("before", APPLY);
    while let Err(error) = attempt.ours(&end).await {
        turn.again(error).await?;
    }
    fault::point("after", APPLY);
    Ok(())
}

struct Run<'a> {
    attempt: &'a Attempt<'a>,
    /// Each statement, and where in the file it stands.
    statements: &'a [(usize, &'a str)],
}

impl Run<'_> {
    /// Runs a statement; `in_doubt` where a run before this one announced it.
    async fn one(&self, n: usize, in_doubt: bool) -> Result<(), Error> {
        let mut turn = Turn::new(self.attempt);
        loop {
            match self.in_transaction(n, turn.exposed).await {
                Err(error) if needs_none(&error) => {
                    self.attempt.ours("ROLLBACK").await?;
                    return self.alone(n, in_doubt).await;
                }
                Err(error) => turn.again(error).await?,
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn in_transaction(&self, n: usize, exposed: bool) -> Result<(), Error> {
        let attempt = self.attempt;
        let (at, statement) = self.statements[n];
        if exposed {
            attempt.ours(&format!("BEGIN; SET LOCAL ROLE NONE; {}", attempt.as_owner("LOCAL", true))).await?;
        } else {
            attempt.ours("BEGIN").await?;
        }
        attempt.theirs(statement, at).await?;
        let walls = if exposed { attempt.grant_again() } else { String::new() };
        attempt.ours(&format!("{OURSELVES}{}{walls}COMMIT", self.note(n + 1, false))).await?;
        fault::point("after", NOTE);
        Ok(())
    }

    /// Runs a statement that no transaction can hold.
    async fn alone(&self, n: usize, mut in_doubt: bool) -> Result<(), Error> {
        let attempt = self.attempt;
        let (at, statement) = self.statements[n];
        let index = concurrent_index(&with_schema(statement, attempt.ground.place.schema_name())).ok().flatten();
        self.write(n, true).await?;
        let mut turn = Turn::new(attempt);
        loop {
            if let Some(index) = &index
                && self.is_built(index).await?
                && in_doubt
            {
                break;
            }
            match self.patiently(statement, at).await {
                Ok(()) => {
                    fault::point("after", ALONE);
                    break;
                }
                Err(error) if in_doubt && is_done_already(&error) => {
                    tracing::warn!(file = attempt.file.name, place = %attempt.ground.place, %error,
                        "an interrupted run has done this statement");
                    break;
                }
                Err(error) if attempt.connection.client.is_closed() => return Err(error),
                Err(error) => {
                    // Nobody is in doubt any more.
                    in_doubt = false;
                    self.write(n, false).await?;
                    turn.again(error).await?;
                    self.write(n, true).await?;
                }
            }
        }
        self.write(n + 1, false).await
    }

    /// Runs a statement with all the time it needs where others work on meanwhile.
    async fn patiently(&self, statement: &str, at: usize) -> Result<(), Error> {
        if !is_concurrent(statement)
            || self.lock_timeout().await? != self.attempt.config.lock_timeout.as_millis().to_string()
        {
            return self.attempt.theirs(statement, at).await;
        }
        self.unhurried(self.attempt.theirs(statement, at)).await
    }

    /// `CREATE INDEX CONCURRENTLY` and its like wait for every older transaction, which a `lock_timeout` would end again and again.
    async fn unhurried(&self, work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        let before = self.lock_timeout().await?;
        self.attempt.ours("SET lock_timeout = 0").await?;
        let done = work.await;
        let restored = self.attempt.ours(&format!("SET lock_timeout = {before}")).await;
        done.and(restored)
    }

    /// In milliseconds; the file may have set one of its own.
    async fn lock_timeout(&self) -> Result<String, Error> {
        let connection = self.attempt.connection;
        let failed = |source| connection.failed("read the lock_timeout", source);
        let sql = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'lock_timeout'";
        let rows = connection.client.query_typed(sql, &[]).await.map_err(failed)?;
        rows.first().map_or_else(|| Ok("0".to_owned()), |row| row.try_get(0).map_err(failed))
    }

    /// Whether the index is there and whole; what an attempt has left of it is dropped.
    async fn is_built(&self, index: &ConcurrentIndex) -> Result<bool, Error> {
        let connection = self.attempt.connection;
        let failed = |source| connection.failed("look for what is left of an index", source);
        let sql = "SELECT pg_catalog.format('%I.%I', n.nspname, i.relname), x.indisvalid \
                   FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid \
                   JOIN pg_catalog.pg_namespace n ON n.oid = i.relnamespace \
                   WHERE x.indrelid = pg_catalog.to_regclass($1) AND i.relname = $2 AND i.relkind = 'i'";
        let parameters: [versions::Parameter<'_>; 2] = [(&index.table, Type::TEXT), (&index.name, Type::NAME)];
        let rows = connection.client.query_typed(sql, &parameters).await.map_err(failed)?;
        let Some(row) = rows.first() else { return Ok(false) };
        let (name, valid): (String, bool) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        if !valid {
            let drop = format!("DROP INDEX CONCURRENTLY {name}");
            self.unhurried(self.attempt.ours(&drop)).await?;
        }
        Ok(valid)
    }

    /// Notes in a transaction of its own how far the file has come.
    async fn write(&self, done: usize, alone: bool) -> Result<(), Error> {
        self.attempt.ours(&format!("BEGIN; {OURSELVES}{}COMMIT", self.note(done, alone))).await?;
        fault::point("after", NOTE);
        Ok(())
    }

    fn note(&self, done: usize, alone: bool) -> String {
        let begun = Begun { done, checksum: self.checksum(done), alone };
        versions::record_begun(self.attempt.ground.place, self.attempt.file, &begun)
    }

    /// Of the statements before this one.
    fn checksum(&self, done: usize) -> String {
        let texts: Vec<_> = self.statements[..done].iter().map(|(_, statement)| *statement).collect();
        checksum(&texts.join(";\n"))
    }
}

/// Whether a statement was refused because it was in a transaction. PostgreSQL finds that before it does anything, or undoes it.
fn needs_none(error: &Error) -> bool {
    has_code(error, &[SqlState::ACTIVE_SQL_TRANSACTION, SqlState::INVALID_TRANSACTION_TERMINATION])
}

/// Whether a statement fails as it does once it has been done: what it makes is there, or what it drops is not.
fn is_done_already(error: &Error) -> bool {
    let codes = [
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
        SqlState::DUPLICATE_DATABASE,
        SqlState::UNDEFINED_OBJECT,
    ];
    has_code(error, &codes)
}

fn has_code(error: &Error, codes: &[SqlState]) -> bool {
    matches!(error, Error::Migration { source, .. } if source.code().is_some_and(|code| codes.contains(code)))
}
