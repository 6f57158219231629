//! The schema of a place and the rights on what is in it: on data for those who use it, on nothing else for anyone.

use super::connection::Step;
use super::error::Error;
use super::place::Place;
use crate::tenant::{Isolation, Pooling, quote_ident, quote_literal};

/// Who gets the rights on a place's data.
pub(super) struct Grantees {
    /// Roles with rights on the place's data.
    pub(super) data: Vec<String>,
}

impl Grantees {
    /// Those of a place, by the `service` login where its pool is shared.
    pub(super) fn of(place: &Place, service: Option<&str>) -> Self {
        let data = match (service, &place.role) {
            (Some(service), None) => vec![service.to_owned()],
            (_, _) if place.isolation == Isolation::Shared => vec![place.rows()],
            // A common pool that switches to the tenants' roles works with their rights.
            (_, Some(role)) => vec![role.to_string()],
            (None, None) => Vec::new(),
        };
        Self { data }
    }
}

/// Makes the place's schema, or finds it made.
pub(super) async fn ensure(step: &Step<'_>, place: &Place) -> Result<(), Error> {
    let schema = place.schema_name();
    let (name, owner) = (quote_ident(schema), quote_ident(&place.owner()));
    let found = step
        .query("SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = $1", &[&schema])
        .await?;
    match found.first() {
        None => {
            let mark = quote_literal(&place.mark());
            step.run(&format!("CREATE SCHEMA {name} AUTHORIZATION {owner}; COMMENT ON SCHEMA {name} IS {mark}")).await
        }
        // `public` comes with every database; whoever owns the place may make objects there.
        Some(_) if place.schema.is_none() => {
            let may = "SELECT has_schema_privilege($1, $2, 'CREATE') AND has_schema_privilege($1, $2, 'USAGE')";
            if step.value::<bool>(may, &[&place.owner(), &schema]).await? {
                return Ok(());
            }
            step.run(&format!("GRANT USAGE, CREATE ON SCHEMA {name} TO {owner}")).await
        }
        Some(row) => {
            let mark: Option<String> = row.try_get(0).map_err(|source| step.failed(source))?;
            if mark.as_deref() == Some(place.mark().as_str()) {
                return Ok(());
            }
            Err(Error::Foreign { kind: "schema", name: schema.to_owned(), server: step.server.clone() })
        }
    }
}

/// Gives the rights on what is in the place now and on what its owner will make there.
pub(super) async fn grant(step: &Step<'_>, place: &Place, grantees: &Grantees) -> Result<(), Error> {
    for grantee in &grantees.data {
        match place.isolation {
            Isolation::Shared => grant_rows(step, place, grantee).await?,
            Isolation::Database | Isolation::Schema => grant_all(step, place, grantee).await?,
        }
        open_extras(step, place, grantee).await?;
    }
    Ok(())
}

/// Lets a role look into the schemas that follow its own in `search_path`. What it may do there is for whoever made them to say.
async fn open_extras(step: &Step<'_>, place: &Place, grantee: &str) -> Result<(), Error> {
    // One grant for all tenants of a common database.
    let clients = place.clients();
    let common = place.isolation != Isolation::Database && place.pooling == Pooling::PerTenant;
    let grantee = if common { clients.as_str() } else { grantee };
    for extra in &place.search_path_extra {
        let closed = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $2 AND NOT has_schema_privilege($1, oid, 'USAGE'))";
        if step.value::<bool>(closed, &[&grantee, extra]).await? {
            step.run(&format!("GRANT USAGE ON SCHEMA {} TO {}", quote_ident(extra), quote_ident(grantee))).await?;
        }
    }
    Ok(())
}

/// Walls off the rows of a common schema, then gives a role the rights on them.
async fn grant_rows(step: &Step<'_>, place: &Place, grantee: &str) -> Result<(), Error> {
    let schema = place.schema_name();
    step.query("SELECT pgtenant.protect($1::text::name, $2::text::name)", &[&schema, &place.tenant_column]).await?;
    step.query("SELECT pgtenant.grant_rows($1::text::name, $2::text::name)", &[&schema, &grantee]).await.map(drop)
}

/// Everything in the tenant's own place, now and later: reading and writing of all relations, use of sequences. A tenant with a database of its
/// own may have further schemas there, made by its migrations.
async fn grant_all(step: &Step<'_>, place: &Place, grantee: &str) -> Result<(), Error> {
    let (to, owner) = (quote_ident(grantee), quote_ident(&place.owner()));
    let scope = match place.isolation {
        Isolation::Database => String::new(),
        Isolation::Schema | Isolation::Shared => format!(" IN SCHEMA {}", quote_ident(place.schema_name())),
    };
    let defaults = format!("ALTER DEFAULT PRIVILEGES FOR ROLE {owner}{scope} GRANT");
    let mut sql = grant_data(place, &place.owner(), grantee);
    sql.push_str(&format!(
        "{defaults} SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON TABLES TO {to}; \
         {defaults} USAGE, SELECT, UPDATE ON SEQUENCES TO {to}; "
    ));
    if place.isolation == Isolation::Database {
        sql.push_str(&format!("{defaults} USAGE ON SCHEMAS TO {to}; "));
    }
    step.run(&sql).await
}

fn grant_data(place: &Place, owner: &str, grantee: &str) -> String {
    format!(
        "SELECT pgtenant.grant_data({}, {}, {}, {}); ",
        quote_literal(place.schema_name()),
        quote_literal(owner),
        quote_literal(grantee),
        place.isolation == Isolation::Database
    )
}

/// Statements that give the rights again after a migration: on common rows to all who have them, walls first; else to the grantees.
pub(super) fn grant_again(place: &Place, owner: &str, grantees: &Grantees) -> String {
    match place.isolation {
        Isolation::Shared => format!(
            "SELECT pgtenant.grant_rows_again({}, {}, {}); ",
            quote_literal(place.schema_name()),
            quote_literal(&place.tenant_column),
            quote_literal(&place.rows())
        ),
        Isolation::Database | Isolation::Schema => {
            grantees.data.iter().map(|grantee| grant_data(place, owner, grantee)).collect()
        }
    }
}

/// Checks that the place is what was asked for. PostgreSQL answers a GRANT or REVOKE without the right to it with a warning only.
pub(super) async fn verify(step: &Step<'_>, place: &Place, grantees: &Grantees) -> Result<(), Error> {
    let unsound = |what| Error::NotSound { place: place.to_string(), server: step.server.clone(), what };
    let database = place.database.as_str();
    let schema = place.schema_name();
    if step.value::<bool>("SELECT has_database_privilege('public', $1, 'CONNECT')", &[&database]).await? {
        return Err(unsound("PUBLIC may connect to the database, and the admin has not the right to revoke it"));
    }
    for grantee in &grantees.data {
        let may_use = "SELECT has_schema_privilege($1, $2, 'USAGE')";
        if !step.value::<bool>(may_use, &[grantee, &schema]).await? {
            return Err(unsound("the tenant's role has no right to use the schema"));
        }
        let may_make = "SELECT has_schema_privilege($1, $2, 'CREATE') OR has_database_privilege($1, $3, 'CREATE') \
                        OR has_schema_privilege($1, 'pgtenant', 'CREATE')";
        if step.value::<bool>(may_make, &[grantee, &schema, &database]).await? {
            return Err(unsound("the tenant's role may make objects there"));
        }
    }
    Ok(())
}
