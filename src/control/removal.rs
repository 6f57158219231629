//! Removal: takes places, rows and roles of a tenant off their servers, only what bears the tenant's mark.

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use super::admit::is_ours;
use super::connection::{Connection, Step, admin_credentials, busy, in_step};
use super::database;
use super::error::Error;
use super::place::{LoginRole, Place};
use super::provision::{ROLES, maintenance};
use super::roles;
use super::versions;
use crate::auth::Credentials;
use crate::fault;
use crate::tenant::{Isolation, RoleName, quote_ident};

/// Drops a place with all data in it; `last` says that the tenant has no other in this database. What is gone already is no error.
pub(super) async fn drop_place(place: &Place, last: bool) -> Result<(), Error> {
    let admin = admin_credentials(&place.server).await?;
    let mut connection = maintenance(place, &admin).await?;
    if database::is_there(&connection, place).await? {
        match place.isolation {
            Isolation::Database => drop_database(&connection, place).await?,
            Isolation::Schema => drop_schema(place, &admin).await?,
            Isolation::Shared => delete_rows(place, &admin).await?,
        }
    }
    if place.isolation != Isolation::Database {
        in_step!(connection, "take the tenant out of groups", ROLES, |step| leave(&step, place, last))?;
    }
    if place.isolation == Isolation::Shared {
        return Ok(());
    }
    let (owner, mark) = (place.owner(), place.mark());
    in_step!(connection, "drop the owner's role", ROLES, |step| roles::drop_marked(&step, &owner, &mark))
}

async fn leave(step: &Step<'_>, place: &Place, last: bool) -> Result<(), Error> {
    let Some(role) = &place.role else { return Ok(()) };
    if place.isolation == Isolation::Shared {
        roles::revoke_role(step, &place.rows(), role.as_str()).await?;
    }
    if last {
        roles::revoke_role(step, &place.clients(), role.as_str()).await?;
    }
    Ok(())
}

/// Drops the roles of a tenant on the place's server, with whatever session and rights they have there.
pub(super) async fn drop_roles(place: &Place) -> Result<(), Error> {
    for role in roles_of(place) {
        drop_role(place, role).await?;
    }
    Ok(())
}

/// The same of a place that was there before pgtenant: only those that pgtenant made.
pub(super) async fn drop_own_roles(place: &Place) -> Result<(), Error> {
    for role in roles_of(place) {
        if is_ours(place, role).await? {
            drop_role(place, role).await?;
        }
    }
    Ok(())
}

fn roles_of(place: &Place) -> Vec<&RoleName> {
    let mut names: Vec<&RoleName> = place.logins.iter().map(|login| &login.role).chain(&place.role).collect();
    names.dedup();
    names
}

async fn drop_role(place: &Place, role: &RoleName) -> Result<(), Error> {
    let admin = admin_credentials(&place.server).await?;
    let mut connection = maintenance(place, &admin).await?;
    let (mark, role) = (place.tenant_mark(), role.as_str());
    let found = in_step!(connection, "look for a role's rights", ROLES, |step| roles::rights(&step, role, &mark))?;
    // Rights that an earlier unsubscription left on data that was to be kept.
    for database in found {
        let mut there = Connection::open(&place.server, &admin, &database).await?;
        in_step!(there, "take a role's rights", ROLES, |step| roles::disown(&step, role))?;
    }
    in_step!(connection, "drop a login's role", ROLES, |step| roles::drop_marked(&step, role, &mark))
}

/// Takes a login's role off the place's server; the one whose rights the place grants stays, without a login.
pub(super) async fn remove_login(place: &Place, login: &LoginRole) -> Result<(), Error> {
    let admin = admin_credentials(&place.server).await?;
    let mark = place.tenant_mark();
    if place.isolation == Isolation::Shared {
        let mut connection = Connection::open(&place.server, &admin, place.database.as_str()).await?;
        in_step!(connection, "forget whose rows a role sees", &place.lock(), |step| {
            database::unmap_role(&step, login.role.as_str())
        })?;
    }
    let mut connection = maintenance(place, &admin).await?;
    let own = place.role.as_ref() == Some(&login.role);
    in_step!(connection, "take the login from a role", ROLES, |step| {
        roles::close(&step, login.role.as_str(), &mark, own)
    })
}

async fn drop_database(connection: &Connection, place: &Place) -> Result<(), Error> {
    connection.drop_database("drop the database", place.database.as_str()).await?;
    fault::point("after", "drop the database");
    Ok(())
}

async fn drop_schema(place: &Place, admin: &Credentials) -> Result<(), Error> {
    let mut connection = Connection::open(&place.server, admin, place.database.as_str()).await?;
    database::open_books(&mut connection).await?;
    in_step!(connection, "drop the schema", &place.lock(), |step| drop_schema_in(&step, place))
}

async fn drop_schema_in(step: &Step<'_>, place: &Place) -> Result<(), Error> {
    let schema = place.schema_name();
    let marked = "SELECT count(*) FILTER (WHERE obj_description(oid, 'pg_namespace') = $2) > 0, count(*) > 0 \
                  FROM pg_namespace WHERE nspname = $1";
    let rows = step.query(marked, &[&schema, &place.mark()]).await?;
    let (ours, there) = match rows.first() {
        Some(row) => (
            row.try_get::<_, bool>(0).map_err(|source| step.failed(source))?,
            row.try_get::<_, bool>(1).map_err(|source| step.failed(source))?,
        ),
        None => (false, false),
    };
    if there && !ours {
        return Err(Error::Foreign { kind: "schema", name: schema.to_owned(), server: step.server.clone() });
    }
    if ours {
        let (schema, owner) = (quote_ident(schema), quote_ident(&place.owner()));
        // The owner's default privileges are its own and would keep its role alive.
        step.run(&format!("DROP SCHEMA {schema} CASCADE; DROP OWNED BY {owner}")).await?;
    }
    step.run(&versions::forget(place)).await
}

async fn delete_rows(place: &Place, admin: &Credentials) -> Result<(), Error> {
    let mut connection = Connection::open(&place.server, admin, place.database.as_str()).await?;
    in_step!(connection, "delete the tenant's rows", &place.lock(), |step| delete_rows_in(&step, place))
}

/// Deletes the tenant's rows from every walled table. A table that others still refer to waits for its next turn.
///
/// The other tenants go on working in the same tables: so that nothing is locked but the rows, the admin speaks for the tenant until
/// they are gone, and acts as the owner, whose triggers are not to run with more than its rights. Only a table with policies of
/// somebody else's, which may hide rows, is opened to its owner, and locked as long as that lasts.
async fn delete_rows_in(step: &Step<'_>, place: &Place) -> Result<(), Error> {
    let tables = "SELECT format('%I.%I', n.nspname, c.relname), EXISTS (SELECT FROM pg_policy p \
                      WHERE p.polrelid = c.oid AND p.polname NOT IN ('pgtenant_tenant', 'pgtenant_rows')) \
                  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                  WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT c.relispartition \
                    AND EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'pgtenant_tenant')";
    let rows = step.query(tables, &[&place.schema_name()]).await?;
    let table = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
    let tables: Vec<(String, bool)> =
        rows.iter().map(table).collect::<Result<_, _>>().map_err(|source| step.failed(source))?;
    for (table, _) in tables.iter().filter(|(_, has_others)| *has_others) {
        step.run(&format!("ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")).await?;
    }
    let voice = Voice::raise(step, place).await?;
    step.run(&format!("SET LOCAL ROLE {}; SET CONSTRAINTS ALL DEFERRED", quote_ident(&place.owner()))).await?;
    let column = quote_ident(&place.tenant_column);
    let mut left: Vec<&str> = tables.iter().map(|(table, _)| table.as_str()).collect();
    while !left.is_empty() {
        let mut waiting = Vec::new();
        let mut refused = None;
        for table in &left {
            step.run("SAVEPOINT pgtenant_rows").await?;
            let delete = format!("DELETE FROM {table} WHERE {column}::text = '{}'", place.tenant);
            match step.run(&delete).await {
                Ok(()) => step.run("RELEASE SAVEPOINT pgtenant_rows").await?,
                Err(error) if is_referred_to(&error) => {
                    step.run("ROLLBACK TO SAVEPOINT pgtenant_rows").await?;
                    waiting.push(*table);
                    refused = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match refused {
            Some(error) if waiting.len() == left.len() => return Err(error),
            _ => left = waiting,
        }
    }
    step.run("RESET ROLE").await?;
    voice.lower(step).await?;
    for login in place.logins.iter().map(|login| &login.role).chain(&place.role) {
        database::unmap_role(step, login.as_str()).await?;
    }
    for (table, _) in tables.iter().filter(|(_, has_others)| *has_others) {
        step.run(&format!("ALTER TABLE {table} FORCE ROW LEVEL SECURITY")).await?;
    }
    Ok(())
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
        let login: String = step.value("SELECT session_user::text", &[]).await?;
        let known = step.query("SELECT tenant_id FROM pgtenant.roles WHERE role = $1", &[&login]).await?;
        let before = known.first().map(|row| row.try_get(0)).transpose().map_err(|source| step.failed(source))?;
        let mapped = database::map_role(step, &login, Some(place.tenant.0)).await;
        mapped.map_err(|error| busy(error, "rows of common tables"))?;
        Ok(Self { login, before })
    }

    async fn lower(self, step: &Step<'_>) -> Result<(), Error> {
        match self.before {
            Some(tenant) => database::map_role(step, &self.login, tenant).await,
            None => database::unmap_role(step, &self.login).await,
        }
    }
}

fn is_referred_to(error: &Error) -> bool {
    matches!(error, Error::Sql { source, .. } if source.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION))
}
