//! A tenant's rows in common tables, and their end.

use std::time::{Duration, Instant};

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::connection::{Connection, LOCK_TIMEOUT, Step, TURN_LOOK, busy, in_step};
use super::database;
use super::error::Error;
use super::place::Place;
use crate::auth::Credentials;
use crate::tenant::quote_ident;

/// How long to wait for transactions that may write the tenant's rows.
const WRITERS_WAIT: Duration = Duration::from_secs(30);
/// How often they are looked for meanwhile.
const WRITERS_LOOK: Duration = Duration::from_millis(50);
/// Passes over the tables beyond what tables that refer to each other need: triggers may put rows back.
const FURTHER_PASSES_MAX: usize = 8;

/// Deletes the tenant's rows for good: what its transactions write meanwhile, too.
pub(super) async fn delete_rows(place: &Place, admin: &Credentials) -> Result<(), Error> {
    let mut connection = Connection::open(&place.server, admin, place.database.as_str()).await?;
    // Transactions that are under way may finish; those that began since then see their rows no more, and can write none.
    writers_end(&connection, place).await?;
    in_step!(connection, "take the tenant's rows from its roles", &place.lock(), |step| unmap_roles(&step, place))?;
    writers_end(&connection, place).await?;
    in_step!(connection, "delete the tenant's rows", &place.lock(), |step| delete_rows_in(&step, place))
}

async fn unmap_roles(step: &Step<'_>, place: &Place) -> Result<(), Error> {
    for role in roles(place) {
        database::unmap_role(step, role).await?;
    }
    Ok(())
}

fn roles(place: &Place) -> impl Iterator<Item = &str> {
    place.logins.iter().map(|login| &login.role).chain(&place.role).map(|role| role.as_str())
}

/// Waits for all transactions that may have written rows of the tenant's, or may yet, and are not over: those of its own roles, of a
/// service that has been in these tables, and of whoever else has locked them as writers do. Nobody has to wait for this one meanwhile.
async fn writers_end(connection: &Connection, place: &Place) -> Result<(), Error> {
    const WRITERS: &str = "SELECT DISTINCT l.virtualtransaction, l.pid \
        FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid LEFT JOIN pgtenant.roles r ON r.role = a.usename \
        WHERE l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() \
          AND (l.locktype = 'virtualxid' AND a.datname = current_database() AND a.usename = ANY ($1::text[]) \
               OR l.locktype = 'relation' \
                  AND (r.service AND l.mode <> 'ShareUpdateExclusiveLock' \
                       OR r.role IS NULL AND l.mode ~ '^(Row|ShareRow|Access)?Exclusive') \
                  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                  AND l.relation IN (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $2))";
    const LEFT: &str = "SELECT DISTINCT virtualtransaction, pid FROM pg_locks WHERE virtualtransaction = ANY ($1)";
    let failed = |source| connection.failed("look for transactions that write", source);
    let roles: Vec<&str> = roles(place).collect();
    let began = Instant::now();
    let mut writers = connection.client.query(WRITERS, &[&roles, &place.schema_name()]).await.map_err(failed)?;
    while !writers.is_empty() {
        let read = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
        let read: Vec<(String, Option<i32>)> = writers.iter().map(read).collect::<Result<_, _>>().map_err(failed)?;
        let (transactions, processes): (Vec<_>, Vec<_>) = read.into_iter().unzip();
        if began.elapsed() > WRITERS_WAIT {
            let (server, database) = (place.server.name.clone(), place.database.to_string());
            let processes = processes.into_iter().flatten().map(|pid| pid.to_string()).collect::<Vec<_>>().join(", ");
            return Err(Error::StillWriting { server, database, processes });
        }
        tokio::time::sleep(WRITERS_LOOK).await;
        writers = connection.client.query(LEFT, &[&transactions]).await.map_err(failed)?;
    }
    Ok(())
}

/// Deletes the tenant's rows from every walled table, over and over until none is left.
///
/// The other tenants go on working in the same tables: so that nothing is locked but the rows, the admin speaks for the tenant until
/// they are gone, and acts as the owner, whose triggers are not to run with more than its rights. Only a table with policies that are
/// not as pgtenant made them, and may hide rows, is opened to its owner, and locked as long as that lasts.
async fn delete_rows_in(step: &Step<'_>, place: &Place) -> Result<(), Error> {
    const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname), (\
            SELECT count(*) = 2 AND bool_and(p.polcmd = '*' AND p.polroles = '{0}' AND CASE p.polname \
                WHEN 'pgtenant_tenant' THEN NOT p.polpermissive AND pg_get_expr(p.polqual, p.polrelid) NOT LIKE '% AND %' \
                WHEN 'pgtenant_rows' THEN p.polpermissive AND pg_get_expr(p.polqual, p.polrelid) = 'true' \
                ELSE false END) \
            FROM pg_policy p WHERE p.polrelid = c.oid) \
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition \
          AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'pgtenant_tenant')";
    let voice = Voice::raise(step, place).await?;
    let rows = step.query(TABLES, &[&place.schema_name()]).await?;
    let read = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
    let tables: Vec<(String, bool)> =
        rows.iter().map(read).collect::<Result<_, _>>().map_err(|source| step.failed(source))?;
    let opened = || tables.iter().filter(|(_, is_as_made)| !is_as_made).map(|(table, _)| table);
    for table in opened() {
        step.run(&format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")).await?;
    }
    // Triggers find what they name where they find it when the tenant itself is at work.
    let (owner, schema) = (quote_ident(&place.owner()), quote_ident(place.schema_name()));
    step.run(&format!(
        "SET LOCAL ROLE {owner}; SET LOCAL row_security = on; SET LOCAL search_path = {schema}; SET CONSTRAINTS ALL DEFERRED"
    ))
    .await?;
    let mut passes_left = tables.len() + FURTHER_PASSES_MAX;
    while delete_once(step, place, &tables).await? {
        passes_left -= 1;
        if passes_left == 0 {
            return Err(Error::RowsReturn { server: step.server.clone(), schema: place.schema_name().to_owned() });
        }
    }
    // What was deferred is the owner's to do.
    step.run("SET CONSTRAINTS ALL IMMEDIATE; SET LOCAL search_path = pg_catalog; RESET ROLE").await?;
    for table in opened() {
        step.run(&format!("ALTER TABLE {table} FORCE ROW LEVEL SECURITY")).await?;
    }
    voice.lower(step).await
}

/// One pass over the tables; whether there was anything. A table that others still refer to waits for the next.
async fn delete_once(step: &Step<'_>, place: &Place, tables: &[(String, bool)]) -> Result<bool, Error> {
    let column = quote_ident(&place.tenant_column);
    let mut any = false;
    let mut refused = None;
    for (table, _) in tables {
        step.run("SAVEPOINT pgtenant_rows").await?;
        match step.execute(&format!("DELETE FROM {table} WHERE {column}::text = '{}'", place.tenant)).await {
            Ok(count) => {
                any |= count > 0;
                step.run("RELEASE SAVEPOINT pgtenant_rows").await?;
            }
            Err(error) if is_referred_to(&error) => {
                step.run("ROLLBACK TO SAVEPOINT pgtenant_rows").await?;
                refused = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match refused {
        Some(error) if !any => Err(error),
        _ => Ok(any),
    }
}

fn is_referred_to(error: &Error) -> bool {
    matches!(error, Error::Sql { source, .. } if source.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION))
}

/// The admin's own login speaks for a tenant, in one transaction, of which no other session sees anything.
struct Voice {
    login: String,
    /// Whom it spoke for before, if it did; nobody in particular is a service.
    before: Option<Option<Uuid>>,
}

impl Voice {
    /// [`Error::Busy`] while another transaction has it speak for somebody.
    async fn raise(step: &Step<'_>, place: &Place) -> Result<Self, Error> {
        step.run(&format!("SET LOCAL lock_timeout = '{TURN_LOOK}'")).await?;
        let raised = Self::raise_at_once(step, place).await.map_err(|error| busy(error, "rows of common tables"))?;
        step.run(&format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")).await?;
        Ok(raised)
    }

    async fn raise_at_once(step: &Step<'_>, place: &Place) -> Result<Self, Error> {
        let login: String = step.value("SELECT session_user::text", &[]).await?;
        let known = step.query("SELECT tenant_id FROM pgtenant.roles WHERE role = $1 FOR UPDATE", &[&login]).await?;
        let before = known.first().map(|row| row.try_get(0)).transpose().map_err(|source| step.failed(source))?;
        database::map_role(step, &login, Some(place.tenant.0)).await?;
        Ok(Self { login, before })
    }

    async fn lower(self, step: &Step<'_>) -> Result<(), Error> {
        match self.before {
            Some(tenant) => database::map_role(step, &self.login, tenant).await,
            None => database::unmap_role(step, &self.login).await,
        }
    }
}
