//! Removal: takes places, rows and roles of a tenant off their servers, only what bears the tenant's mark.

use super::admit::is_ours;
use super::connection::{Connection, Step, admin_credentials, in_step};
use super::database;
use super::error::Error;
use super::place::{LoginRole, Place};
use super::provision::{ROLES, maintenance};
use super::roles;
use super::rows::delete_rows;
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
