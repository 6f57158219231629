//! Databases: made when missing, closed to PUBLIC, and given pgtenant's bookkeeping.

use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::again::is_transient;
use super::connection::{ATTEMPTS_MAX, Connection, Step, in_step, pause};
use super::error::Error;
use super::place::Place;
use crate::fault;
use crate::tenant::{Isolation, quote_ident, quote_literal};

/// What makes pgtenant's own schema in a database that holds tenants, in this order. Each script leaves its number on the schema.
const BOOKKEEPING: [&str; 2] = [
    include_str!("../../migrations/server/0001_bookkeeping.sql"),
    include_str!("../../migrations/server/0002_migrations.sql"),
];
/// The mark on the schema, before the number.
const BOOKKEEPING_MARK: &str = "pgtenant:bookkeeping:";

/// Makes the place's database, or finds it made; a database that a tenant has alone must be ours.
pub(super) async fn ensure(connection: &mut Connection, place: &Place) -> Result<(), Error> {
    let name = place.database.as_str();
    let own = place.isolation == Isolation::Database;
    let mut attempt = 0;
    while !is_there(connection, place).await? {
        attempt += 1;
        let mut sql = format!("CREATE DATABASE {}", quote_ident(name));
        if own {
            sql.push_str(&format!(" OWNER {}", quote_ident(&place.owner())));
            sql.extend(place.template.as_ref().map(|template| format!(" TEMPLATE {}", template.quoted())));
        }
        match connection.client.batch_execute(&sql).await {
            Ok(()) => {
                fault::point("after", "create the database");
                break;
            }
            // Another run made it, or someone is connected to the template; both pass.
            Err(error) if attempt < ATTEMPTS_MAX && error.as_db_error().is_some_and(is_transient) => {
                pause(attempt).await;
            }
            Err(error) => return Err(connection.failed("create the database", error)),
        }
    }
    in_step!(connection, "close the database to others", name, |step| close(&step, place))
}

/// Whether the database is there; an error when it belongs to another.
pub(super) async fn is_there(connection: &Connection, place: &Place) -> Result<bool, Error> {
    let rows = connection
        .client
        .query(
            "SELECT shobj_description(d.oid, 'pg_database'), r.rolname::text FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba \
             WHERE d.datname = $1",
            &[&place.database.as_str()],
        )
        .await
        .map_err(|source| connection.failed("look for the database", source))?;
    let Some(row) = rows.first() else { return Ok(false) };
    let mark: Option<String> = row.try_get(0).map_err(|source| connection.failed("look for the database", source))?;
    let owner: String = row.try_get(1).map_err(|source| connection.failed("look for the database", source))?;
    let ours = match place.isolation {
        // The owner role bears the mark before the database can; it cannot be marked in the statement that makes it.
        Isolation::Database => mark.as_deref() == Some(place.mark().as_str()) || owner == place.owner(),
        // A module's database is the operator's choice and may have been there before. Another tenant's own never is one.
        Isolation::Schema | Isolation::Shared => {
            mark.as_deref().is_none_or(|mark| !mark.starts_with("pgtenant:") || mark == place.database_mark())
        }
    };
    if ours {
        return Ok(true);
    }
    let name = place.database.to_string();
    Err(Error::Foreign { kind: "database", name, server: connection.server().clone() })
}

async fn close(step: &Step<'_>, place: &Place) -> Result<(), Error> {
    let name = place.database.as_str();
    let database = place.database.quoted();
    let (mark, client) = match place.isolation {
        Isolation::Database => (place.mark(), place.role.as_ref().map(ToString::to_string)),
        Isolation::Schema | Isolation::Shared => (place.database_mark(), Some(place.clients())),
    };
    let unmarked = "SELECT shobj_description(oid, 'pg_database') IS NULL FROM pg_database WHERE datname = $1";
    if step.value::<bool>(unmarked, &[&name]).await? {
        step.run(&format!("COMMENT ON DATABASE {database} IS {}", quote_literal(&mark))).await?;
    }
    let open =
        "SELECT has_database_privilege('public', $1, 'CONNECT') OR has_database_privilege('public', $1, 'TEMPORARY')";
    if step.value::<bool>(open, &[&name]).await? {
        step.run(&format!("REVOKE ALL ON DATABASE {database} FROM PUBLIC")).await?;
    }
    match client {
        Some(client) => allow(step, place, &client).await,
        None => Ok(()),
    }
}

/// Lets a role connect to the place's database and make temporary tables there.
pub(super) async fn allow(step: &Step<'_>, place: &Place, role: &str) -> Result<(), Error> {
    let has = "SELECT has_database_privilege($1, $2, 'CONNECT') AND has_database_privilege($1, $2, 'TEMPORARY')";
    if step.value::<bool>(has, &[&role, &place.database.as_str()]).await? {
        return Ok(());
    }
    step.run(&format!("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}", place.database.quoted(), quote_ident(role)))
        .await
}

/// Gives the connected database pgtenant's schema, and takes the making of objects in `public` from everyone.
pub(super) async fn keep_books(connection: &mut Connection) -> Result<(), Error> {
    open_books(connection).await?;
    in_step!(connection, "close schema public to others", BOOKS, |step| close_public(&step))
}

/// Gives the connected database pgtenant's schema, or completes the one that is there.
pub(super) async fn open_books(connection: &mut Connection) -> Result<(), Error> {
    if are_complete(connection).await? {
        return Ok(());
    }
    in_step!(connection, "keep books in the database", BOOKS, |step| write_books(&step))
}

/// Whether there is nothing to write, asked without waiting for anyone.
async fn are_complete(connection: &Connection) -> Result<bool, Error> {
    let failed = |source| connection.failed("look for the books of the database", source);
    let sql = "SELECT obj_description(oid, 'pg_namespace') IS NOT DISTINCT FROM $1 FROM pg_namespace WHERE nspname = 'pgtenant'";
    let mark = format!("{BOOKKEEPING_MARK}{}", BOOKKEEPING.len());
    let rows = connection.client.query_typed(sql, &[(&mark, Type::TEXT)]).await.map_err(failed)?;
    rows.first().map_or(Ok(false), |row| row.try_get(0)).map_err(failed)
}

/// The word under which steps that change the bookkeeping wait for each other.
const BOOKS: &str = "bookkeeping";

async fn write_books(step: &Step<'_>) -> Result<(), Error> {
    let found = step
        .query("SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'pgtenant'", &[])
        .await?;
    let done = match found.first() {
        None => 0,
        Some(row) => {
            let mark: Option<String> = row.try_get(0).map_err(|source| step.failed(source))?;
            let number = mark.as_deref().and_then(|mark| mark.strip_prefix(BOOKKEEPING_MARK)?.parse().ok());
            let foreign =
                || Error::Foreign { kind: "schema", name: "pgtenant".to_owned(), server: step.server.clone() };
            number.ok_or_else(foreign)?
        }
    };
    let missing = BOOKKEEPING.get(done..).ok_or_else(|| Error::NewerBooks { server: step.server.clone() })?;
    for script in missing {
        step.run(script).await?;
    }
    Ok(())
}

async fn close_public(step: &Step<'_>) -> Result<(), Error> {
    let open = "SELECT coalesce(bool_or(has_schema_privilege('public', oid, 'CREATE')), false) FROM pg_namespace \
                WHERE nspname = 'public'";
    if step.value::<bool>(open, &[]).await? {
        step.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC").await?;
    }
    Ok(())
}

/// Says who a role speaks for; `None` makes it a service role.
pub(super) async fn map_role(step: &Step<'_>, role: &str, tenant: Option<uuid::Uuid>) -> Result<(), Error> {
    step.query(
        "INSERT INTO pgtenant.roles AS r (role, tenant_id, service) VALUES ($1, $2::uuid, $2::uuid IS NULL) \
         ON CONFLICT (role) DO UPDATE SET tenant_id = excluded.tenant_id, service = excluded.service \
         WHERE (r.tenant_id, r.service) IS DISTINCT FROM (excluded.tenant_id, excluded.service)",
        &[&role, &tenant],
    )
    .await
    .map(drop)
}

/// Forgets who a role speaks for.
pub(super) async fn unmap_role(step: &Step<'_>, role: &str) -> Result<(), Error> {
    step.query("DELETE FROM pgtenant.roles WHERE role = $1", &[&role]).await.map(drop)
}

/// Whether a failure to connect says that the password is wrong.
pub(super) fn is_wrong_password(error: &Error) -> bool {
    matches!(error, Error::Connect { source, .. } if source.code() == Some(&SqlState::INVALID_PASSWORD))
}
