//! Inspection: whether servers, credentials and places are what the registry says.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::connection::{Connection, admin_credentials, app_credentials};
use super::error::Error;
use super::order::Inventory;
use super::place::Place;
use super::provision::check_admin;
use super::tenants::chain;
use crate::registry::TenantDetails;
use crate::tenant::{Pooling, Server, ServerName};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is wrong with.
    pub what: String,
    /// What is wrong.
    pub problem: String,
}

/// Connects to every server with its credentials and looks for the schema of every place.
pub async fn inspect(inventory: &Inventory, tenants: &[TenantDetails]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut reached = BTreeMap::new();
    for server in &inventory.servers {
        let server = Arc::new(server.clone());
        // A server without an admin secret serves; only provisioning does without it.
        if server.admin_secret.is_none() {
            continue;
        }
        match check_admin(&server).await {
            Ok(()) => drop(reached.insert(server.name.clone(), server)),
            Err(error) => problems.push(problem(format!("server {}", server.name), &error)),
        }
    }
    for ((server, database), places) in &collect(inventory, tenants, &mut problems) {
        // What keeps a server from being reached was said above.
        if let Some(server) = reached.get(server) {
            inspect_database(server, database, places, &mut problems).await;
        }
    }
    problems
}

/// Places by server and database.
type Places = BTreeMap<(ServerName, String), Vec<(String, Place)>>;

fn collect(inventory: &Inventory, tenants: &[TenantDetails], problems: &mut Vec<Problem>) -> Places {
    let mut places = Places::new();
    for tenant in tenants {
        for placement in &tenant.placements {
            let what = format!("tenant {} module {}", tenant.tenant.slug, placement.module);
            match inventory.place(tenant, placement) {
                Ok(place) => {
                    let database = (placement.server.clone(), placement.database.to_string());
                    places.entry(database).or_default().push((what, place));
                }
                Err(error) => problems.push(problem(what, &error)),
            }
        }
    }
    places
}

async fn inspect_database(
    server: &Arc<Server>,
    database: &str,
    places: &[(String, Place)],
    problems: &mut Vec<Problem>,
) {
    let what = format!("server {} database {database}", server.name);
    match schemas(server, database).await {
        Err(error) => return problems.push(problem(what, &error)),
        Ok(schemas) => {
            for (tenant, place) in places {
                if schemas.iter().all(|schema| schema != place.schema_name()) {
                    let problem = format!("schema \"{}\" is not in database \"{database}\"", place.schema_name());
                    problems.push(Problem { what: tenant.clone(), problem });
                }
            }
        }
    }
    let pooled = places.iter().any(|(_, place)| place.pooling == Pooling::Shared);
    if pooled && let Err(error) = check_app(server, database).await {
        problems.push(problem(what, &error));
    }
}

pub(super) async fn schemas(server: &Arc<Server>, database: &str) -> Result<Vec<String>, Error> {
    let connection = Connection::open(server, &admin_credentials(server).await?, database).await?;
    let failed = |source| connection.failed("look for schemas", source);
    let rows = connection.client.query("SELECT nspname::text FROM pg_namespace", &[]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0).map_err(failed)).collect()
}

async fn check_app(server: &Arc<Server>, database: &str) -> Result<(), Error> {
    Connection::open(server, &app_credentials(server).await?, database).await.map(drop)
}

fn problem(what: String, error: &Error) -> Problem {
    Problem { what, problem: chain(error) }
}
