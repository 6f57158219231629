//! Inspection: whether servers, credentials and places are what the registry says.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::connection::{Connection, admin_credentials, app_credentials};
use super::error::Error;
use super::order::Inventory;
use super::place::Place;
use super::provision::check_admin;
use super::tenants::{Control, chain};
use crate::tenant::{Pooling, Server, ServerName};

/// Tenants read from the registry at a time.
const PAGE: u32 = 500;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is wrong with.
    pub what: String,
    /// What is wrong.
    pub problem: String,
}

/// Connects to every server with its credentials and looks for the schema of every place.
///
/// # Errors
/// The registry's; everything else is a [`Problem`].
pub async fn inspect(control: &Control) -> Result<Vec<Problem>, Error> {
    let inventory = control.inventory().await?;
    let mut problems = Vec::new();
    let mut reached = BTreeMap::new();
    for server in &inventory.servers {
        let server = Arc::new(server.clone());
        match check_admin(&server).await {
            Ok(()) => drop(reached.insert(server.name.clone(), server)),
            Err(error) => problems.push(problem(format!("server {}", server.name), &error)),
        }
    }
    let mut places: BTreeMap<(ServerName, String), Vec<(String, Place)>> = BTreeMap::new();
    collect(control, &inventory, &mut places, &mut problems).await?;
    for ((server, database), places) in &places {
        // What keeps a server from being reached was said above.
        if let Some(server) = reached.get(server) {
            inspect_database(server, database, places, &mut problems).await;
        }
    }
    Ok(problems)
}

async fn collect(
    control: &Control,
    inventory: &Inventory,
    places: &mut BTreeMap<(ServerName, String), Vec<(String, Place)>>,
    problems: &mut Vec<Problem>,
) -> Result<(), Error> {
    let mut after = None;
    loop {
        let page = control.registry().tenants(after.as_ref(), PAGE).await?;
        for tenant in &page {
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
        match page.last() {
            Some(last) if page.len() == PAGE as usize => after = Some(last.tenant.slug.clone()),
            _ => return Ok(()),
        }
    }
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

async fn schemas(server: &Arc<Server>, database: &str) -> Result<Vec<String>, Error> {
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
