//! Who has which name, place and role: what two tenants cannot both have, before the tables are asked.

use std::collections::HashMap;

use super::conflict::Kind;
use crate::registry::{PlacementRow, TenantDetails};
use crate::tenant::{Isolation, TenantId, TenantName};

/// A database (no schema) or a schema on a server.
type Place = (String, String, Option<String>);

/// All that tenants have and no two may.
#[derive(Debug, Default)]
pub(super) struct Claims {
    names: HashMap<TenantName, TenantId>,
    /// Who has a place; nobody: common to several.
    places: HashMap<Place, Option<TenantId>>,
    roles: HashMap<String, TenantId>,
    slugs: HashMap<TenantId, String>,
}

impl Claims {
    /// Those of these tenants.
    pub(super) fn of(tenants: &[TenantDetails]) -> Self {
        let mut claims = Self::default();
        for tenant in tenants {
            claims.add(tenant);
        }
        claims
    }

    /// Who has this name.
    pub(super) fn holder(&self, name: &str) -> Option<TenantId> {
        self.names.get(&TenantName::parse(name).ok()?).copied()
    }

    /// What of a tenant's is another's.
    pub(super) fn check(&self, tenant: &TenantDetails) -> Vec<(Kind, String)> {
        let id = tenant.tenant.id;
        let mut found = Vec::new();
        for name in names(tenant) {
            if let Some(holder) = self.names.get(&name).filter(|holder| **holder != id) {
                found.push((Kind::NameTaken, format!("\"{name}\" is a name of tenant \"{}\"", self.slug(*holder))));
            }
        }
        for (place, claimant) in places(tenant) {
            let Some(holder) = self.places.get(&place).filter(|holder| **holder != claimant) else { continue };
            let (server, database, schema) = place;
            let schema = schema.map(|schema| format!("schema \"{schema}\" in ")).unwrap_or_default();
            let whose = match holder {
                Some(holder) => format!("belongs to tenant \"{}\"", self.slug(*holder)),
                None => "is common to several tenants".to_owned(),
            };
            found.push((Kind::PlaceTaken, format!("{schema}database \"{database}\" on server \"{server}\" {whose}")));
        }
        for role in roles(tenant) {
            if let Some(holder) = self.roles.get(role).filter(|holder| **holder != id) {
                found.push((Kind::RoleTaken, format!("role \"{role}\" belongs to tenant \"{}\"", self.slug(*holder))));
            }
        }
        found
    }

    /// Takes note of a tenant's.
    pub(super) fn add(&mut self, tenant: &TenantDetails) {
        let id = tenant.tenant.id;
        self.slugs.insert(id, tenant.tenant.slug.to_string());
        self.names.extend(names(tenant).map(|name| (name, id)));
        self.places.extend(places(tenant));
        self.roles.extend(roles(tenant).map(|role| (role.to_owned(), id)));
    }

    fn slug(&self, id: TenantId) -> String {
        self.slugs.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }
}

fn names(tenant: &TenantDetails) -> impl Iterator<Item = TenantName> {
    let row = &tenant.tenant;
    let words = std::iter::once(row.slug.as_str()).chain(tenant.aliases.iter().map(|alias| alias.as_str()));
    std::iter::once(TenantName::from(row.id)).chain(words.filter_map(|word| TenantName::parse(word).ok()))
}

/// As `pgtenant.placement_before` has it: a database is one tenant's or common, and so is a schema in it.
fn places(tenant: &TenantDetails) -> impl Iterator<Item = (Place, Option<TenantId>)> {
    let id = tenant.tenant.id;
    tenant.placements.iter().flat_map(move |row: &PlacementRow| {
        let place = |schema| (row.server.to_string(), row.database.to_string(), schema);
        let whole = (place(None), (row.isolation == Isolation::Database).then_some(id));
        let schema =
            row.schema.clone().map(|schema| (place(Some(schema)), (row.isolation != Isolation::Shared).then_some(id)));
        std::iter::once(whole).chain(schema)
    })
}

fn roles(tenant: &TenantDetails) -> impl Iterator<Item = &str> {
    let placed = tenant.placements.iter().filter_map(|row| row.role.as_ref()).map(|role| role.as_str());
    placed.chain(tenant.logins.iter().map(|login| login.role.as_str()))
}
