//! Logins for places that pgtenant did not make (imported, adopted): roles of its own, with rights on the data that is there. Nothing else is changed: not
//! who owns it, nor what others may do.

use std::collections::BTreeSet;

use super::connection::{Connection, Step, admin_credentials, app_credentials, in_step};
use super::database;
use super::error::Error;
use super::place::Place;
use super::provision::{ROLES, maintenance, verifier};
use super::roles;
use super::schema::Grantees;
use crate::auth::Credentials;
use crate::tenant::{Isolation, Pooling, RoleName, quote_ident, quote_literal};

/// Lets the tenant's logins into a place: makes their roles, and gives them the rights on its data. Safe to run again.
pub(super) async fn admit(place: &Place) -> Result<(), Error> {
    let admin = admin_credentials(&place.server).await?;
    let service = match place.pooling {
        Pooling::Shared => Some(app_credentials(&place.server).await?),
        Pooling::PerTenant => None,
    };
    let mut connection = maintenance(place, &admin).await?;
    make_roles(&mut connection, place, service.as_ref()).await?;
    drop(connection);
    let mut connection = Connection::open(&place.server, &admin, place.database.as_str()).await?;
    let grantees = Grantees::of(place, service.as_ref().map(|service| service.user.as_str()));
    let lock = place.lock();
    in_step!(connection, "grant rights on a place that was there", &lock, |step| grant(&step, place, &grantees))
}

async fn make_roles(connection: &mut Connection, place: &Place, service: Option<&Credentials>) -> Result<(), Error> {
    in_step!(connection, "make the roles of logins", ROLES, |step| ensure(&step, place))?;
    let lock = place.database.as_str();
    let client = match place.isolation {
        Isolation::Database => place.role.as_ref().map(ToString::to_string),
        Isolation::Schema | Isolation::Shared => place.role.as_ref().map(|_| place.clients()),
    };
    if let Some(client) = client {
        in_step!(connection, "let logins connect", lock, |step| database::allow(&step, place, &client))?;
    }
    let Some(service) = service else { return Ok(()) };
    let verifier = service.password.as_ref().map(|password| verifier(password.expose()));
    in_step!(connection, "make the service login", ROLES, |step| {
        roles::ensure_service(&step, &service.user, verifier.as_deref(), place.role.as_ref())
    })?;
    in_step!(connection, "let the service login connect", lock, |step| database::allow(&step, place, &service.user))
}

async fn ensure(step: &Step<'_>, place: &Place) -> Result<(), Error> {
    roles::ensure_clients(step, place).await?;
    roles::ensure_logins(step, place).await
}

/// Reading and writing of all relations in the place, whoever owns them, and of what its owners will make there.
async fn grant(step: &Step<'_>, place: &Place, grantees: &Grantees) -> Result<(), Error> {
    let name = place.schema_name();
    let schema = quote_ident(name);
    let owners = owners(step, place).await?;
    for grantee in &grantees.data {
        let to = quote_ident(grantee);
        let mut sql = format!(
            "GRANT USAGE ON SCHEMA {schema} TO {to}; \
             GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA {schema} TO {to}; \
             GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA {schema} TO {to}; "
        );
        for owner in &owners {
            let defaults = format!("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {schema} GRANT", quote_ident(owner));
            sql.push_str(&format!(
                "{defaults} SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON TABLES TO {to}; \
                 {defaults} USAGE, SELECT, UPDATE ON SEQUENCES TO {to}; "
            ));
        }
        step.run(&sql).await?;
        verify(step, place, grantee).await?;
    }
    Ok(())
}

/// The roles that own the schema or anything in it.
async fn owners(step: &Step<'_>, place: &Place) -> Result<BTreeSet<String>, Error> {
    let sql = "SELECT pg_get_userbyid(n.nspowner)::text FROM pg_namespace n WHERE n.nspname = $1 \
               UNION SELECT pg_get_userbyid(c.relowner)::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')";
    let rows = step.query(sql, &[&place.schema_name()]).await?;
    if rows.is_empty() {
        return Err(Error::NoSchema { place: place.to_string(), server: step.server.clone() });
    }
    rows.iter().map(|row| row.try_get(0).map_err(|source| step.failed(source))).collect()
}

/// PostgreSQL answers a GRANT without the right to it with a warning only.
async fn verify(step: &Step<'_>, place: &Place, grantee: &str) -> Result<(), Error> {
    let sql = format!(
        "SELECT has_schema_privilege($1, $2, 'USAGE') AND coalesce(bool_and(has_table_privilege($1, c.oid, 'SELECT')), true) \
         FROM pg_class c WHERE c.relnamespace = {}::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        quote_literal(&quote_ident(place.schema_name()))
    );
    if step.value::<bool>(&sql, &[&grantee, &place.schema_name()]).await? {
        return Ok(());
    }
    let what = "the admin has not the right to give the tenant's role rights on all of it";
    Err(Error::NotSound { place: place.to_string(), server: step.server.clone(), what })
}

/// Whether logins can be let into a place: the role whose rights count there is pgtenant's, or not there yet.
pub(super) async fn may_admit(place: &Place) -> Result<bool, Error> {
    match (&place.role, place.isolation) {
        // Whose rows are whose is for whoever made the tables to say.
        (_, Isolation::Shared) => Ok(false),
        (Some(role), _) => is_ours(place, role).await,
        (None, _) => Ok(true),
    }
}

/// Whether a role is pgtenant's to change on the place's server; one that is not there is.
pub(super) async fn is_ours(place: &Place, role: &RoleName) -> Result<bool, Error> {
    let admin = admin_credentials(&place.server).await?;
    let mut connection = maintenance(place, &admin).await?;
    let mark = place.tenant_mark();
    match in_step!(connection, "look whose role it is", ROLES, |step| roles::is_marked(&step, role.as_str(), &mark)) {
        Ok(_) => Ok(true),
        Err(Error::Foreign { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
