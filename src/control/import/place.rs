//! Where imported tenants live: the server and database that a source stands for, and whether their schemas are there.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::error::Error;
use super::super::inspect::schemas;
use super::super::order::Inventory;
use super::super::tenants::chain;
use super::conflict::{Conflict, Kind};
use super::error::ImportError;
use super::merge::{Home, Merged};
use super::source::{OldRegistry, Source};
use crate::registry::TenantDetails;
use crate::tenant::{DatabaseName, Isolation, ServerName};

/// The server of a source's tenants.
pub(super) struct HomeServer(ServerName);

/// The server of a source: the module's own, or another that the registry has under the source's very address.
pub(super) fn home(inventory: &Inventory, source: &Source) -> Result<HomeServer, Error> {
    let module = inventory.module(&source.module)?;
    if module.isolation != Isolation::Schema {
        let isolation = module.isolation.as_str();
        return Err(ImportError::Isolation { module: module.name.to_string(), isolation }.into());
    }
    let own = module.server.as_ref().map(|name| inventory.server(name)).transpose()?;
    let at_source = own.and_then(|own| source.find_server(std::slice::from_ref(own)));
    let server = at_source.or_else(|| source.find_server(&inventory.servers)).or(own);
    let server = server.ok_or_else(|| ImportError::Server { module: module.name.to_string() })?;
    Ok(HomeServer(server.name.clone()))
}

impl HomeServer {
    /// The same with the database that the source is.
    pub(super) fn of(self, old: &OldRegistry) -> Result<Home, Error> {
        Ok(Home { server: self.0, database: DatabaseName::parse(&old.database)? })
    }
}

/// A place that the registry does not have yet.
struct NewPlace {
    slug: String,
    module: String,
    schema: String,
}

/// Looks for the schemas of new places where the registry will say that they are, on servers that have an admin secret: a source may have been
/// read at another address than its tenants will be served from.
pub(super) async fn check(inventory: &Inventory, merged: &mut Merged) {
    let mut wanted: BTreeMap<(ServerName, String), Vec<NewPlace>> = BTreeMap::new();
    for edit in &merged.edits {
        let Some(to) = &edit.to else { continue };
        for place in to.placements.iter().filter(|place| is_new(edit.from.as_ref(), place)) {
            let (slug, module) = (to.tenant.slug.to_string(), place.module.to_string());
            let at = (place.server.clone(), place.database.to_string());
            let schema = place.schema.clone().unwrap_or_default();
            wanted.entry(at).or_default().push(NewPlace { slug, module, schema });
        }
    }
    for ((server, database), places) in wanted {
        let Some(found) = inventory.servers.iter().find(|known| known.name == server) else { continue };
        if found.admin_secret.is_none() {
            continue;
        }
        match schemas(&Arc::new(found.clone()), &database).await {
            Ok(there) => {
                for NewPlace { slug, module, schema } in
                    places.into_iter().filter(|place| !there.contains(&place.schema))
                {
                    let detail = format!(
                        "schema \"{schema}\" is in the source, and not in database \"{database}\" of server {server}"
                    );
                    merged.conflicts.push(Conflict::new(Kind::SchemaMissing, &slug, &[module], detail));
                    merged.edits.retain(|edit| edit.to.as_ref().is_none_or(|to| to.tenant.slug.as_str() != slug));
                }
            }
            Err(error) => merged.remarks.push(format!(
                "the schemas were seen in the source, and not looked for on server {server}: {}",
                chain(&error)
            )),
        }
    }
}

fn is_new(from: Option<&TenantDetails>, place: &crate::registry::PlacementRow) -> bool {
    from.is_none_or(|from| from.placements.iter().all(|had| had.module != place.module))
}
