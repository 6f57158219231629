//! Old registries beside the registry: counts, and what differs row by row.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::super::error::Error;
use super::super::order::Inventory;
use super::super::tenants::Control;
use super::conflict;
use super::group::{Candidate, group};
use super::merge::Home;
use super::place;
use super::source::{OldRegistry, Source};
use crate::registry::{Contents, PlacementRow, TenantDetails};
use crate::tenant::{TenantId, TenantStatus};

/// How many there are on either side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// The source's module.
    pub module: String,
    /// The server and database that its tenants are on.
    pub server: String,
    /// The database.
    pub database: String,
    /// Rows of the source.
    pub source_tenants: usize,
    /// Those that the registry has.
    pub registry_tenants: usize,
    /// Rows that subscribe to the module.
    pub source_subscriptions: usize,
    /// Places of the module in that database, as the registry has them.
    pub registry_placements: usize,
}

/// One thing that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The source's module.
    pub module: String,
    /// The tenant.
    pub tenant: String,
    /// What differs.
    pub what: &'static str,
    /// As the source has it.
    pub source: Option<String>,
    /// As the registry has it.
    pub registry: Option<String>,
}

/// What verification came to.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verified {
    /// Counts, a source each.
    pub sources: Vec<Compared>,
    /// What differs.
    pub findings: Vec<Finding>,
}

impl Control {
    /// Compares old registries with the registry, row by row, and looks whether the schemas are there.
    ///
    /// # Errors
    /// A source that cannot be read or has no module in the registry; the registry's.
    pub async fn verify_sources(&self, sources: &[Source]) -> Result<Verified, Error> {
        let inventory = self.inventory().await?;
        let registry = self.registry.contents().await?;
        let mut verified = Verified::default();
        for source in sources {
            let home = place::home(&inventory, source)?;
            let old = source.read().await?;
            let home = home.of(&old)?;
            let mut comparison = Comparison::new(&inventory, &registry, &old, &home);
            let counts = comparison.compare()?;
            verified.sources.push(counts);
            verified.findings.append(&mut comparison.findings);
        }
        Ok(verified)
    }
}

struct Comparison<'a> {
    inventory: &'a Inventory,
    registry: &'a Contents,
    by_name: HashMap<&'a str, &'a TenantDetails>,
    by_id: HashMap<TenantId, &'a TenantDetails>,
    old: &'a OldRegistry,
    home: &'a Home,
    findings: Vec<Finding>,
}

impl<'a> Comparison<'a> {
    fn new(inventory: &'a Inventory, registry: &'a Contents, old: &'a OldRegistry, home: &'a Home) -> Self {
        let (mut by_name, mut by_id) = (HashMap::new(), HashMap::new());
        for tenant in &registry.tenants {
            by_id.insert(tenant.tenant.id, tenant);
            by_name.insert(tenant.tenant.slug.as_str(), tenant);
            by_name.extend(tenant.aliases.iter().map(|alias| (alias.as_str(), tenant)));
        }
        Self { inventory, registry, by_name, by_id, old, home, findings: Vec::new() }
    }

    fn compare(&mut self) -> Result<Compared, Error> {
        let (old, home) = (self.old, self.home);
        let (mut met, mut subscriptions): (HashSet<TenantId>, usize) = (HashSet::new(), 0);
        for group in group(&[old], false) {
            let label = group.label();
            for (_, flaw) in &group.flaws {
                self.find(&label, "row", Some(flaw.clone()), None);
            }
            let ids = group.ids();
            let tenant = ids.iter().find_map(|id| self.by_id.get(id).copied());
            let tenant =
                tenant.or_else(|| group.slugs().iter().find_map(|slug| self.by_name.get(slug.as_str()).copied()));
            subscriptions += group.rows.iter().filter(|row| row.subscribes(old)).count();
            let Some(tenant) = tenant else {
                self.find(&label, "tenant", Some("there".to_owned()), None);
                continue;
            };
            met.insert(tenant.tenant.id);
            if let Some(id) = ids.first().filter(|id| **id != tenant.tenant.id) {
                self.find(&label, "id", Some(id.to_string()), Some(tenant.tenant.id.to_string()));
            }
            for row in &group.rows {
                self.row(&label, row, tenant)?;
            }
        }
        let registry = self.registry;
        let here = |place: &&PlacementRow| place.module == old.module && place.database == home.database;
        let mut placements = 0;
        for tenant in &registry.tenants {
            let Some(place) = tenant.placements.iter().find(here) else { continue };
            placements += 1;
            if !met.contains(&tenant.tenant.id) {
                self.find(tenant.tenant.slug.as_str(), "tenant", None, Some(shown(place)));
            }
        }
        Ok(Compared {
            module: old.module.to_string(),
            server: home.server.to_string(),
            database: home.database.to_string(),
            source_tenants: old.rows.len(),
            registry_tenants: met.len(),
            source_subscriptions: subscriptions,
            registry_placements: placements,
        })
    }

    fn row(&mut self, label: &str, row: &Candidate<'_>, tenant: &TenantDetails) -> Result<(), Error> {
        let own = &tenant.tenant;
        if let Some(slug) = row.old.slug.as_ref() {
            let known = own.slug.as_str() == slug || tenant.aliases.iter().any(|alias| alias.as_str() == slug);
            if !known {
                self.find(label, "slug", Some(slug.clone()), Some(own.slug.to_string()));
            }
        }
        if let Some(name) = row.old.name.as_ref().filter(|name| !name.is_empty() && **name != own.name) {
            self.find(label, "name", Some(name.clone()), Some(own.name.clone()));
        }
        let is_active = matches!(own.status, TenantStatus::Active | TenantStatus::Moving);
        if let Some(active) = row.old.active.filter(|active| *active != is_active) {
            let word = if active { "active" } else { "not active" };
            self.find(label, "status", Some(word.to_owned()), Some(own.status.to_string()));
        }
        self.place(label, row, tenant)
    }

    fn place(&mut self, label: &str, row: &Candidate<'_>, tenant: &TenantDetails) -> Result<(), Error> {
        let old = self.old;
        let module = self.inventory.module(&old.module)?;
        let has = tenant.placements.iter().find(|place| place.module == old.module);
        if !row.subscribes(old) {
            if let Some(has) = has.filter(|has| has.database == self.home.database) {
                self.find(label, "subscription", None, Some(shown(has)));
            }
            return Ok(());
        }
        let pattern = || module.schema_for(&tenant.tenant.slug, tenant.tenant.id);
        let schema = row.old.schema.clone().or_else(|| if old.names_schemas { None } else { pattern() });
        let Some(schema) = schema else {
            self.find(label, "schema", None, has.map(shown));
            return Ok(());
        };
        if !old.schemas.contains(&schema) {
            self.find(label, "schema", Some(format!("{schema}, which is not there")), has.map(shown));
        }
        let home = self.home;
        let there = format!("{}/{}.{schema}", home.server, home.database);
        if has.map(shown).as_ref() != Some(&there) {
            self.find(label, "place", Some(there), has.map(shown));
        }
        Ok(())
    }

    fn find(&mut self, tenant: &str, what: &'static str, source: Option<String>, registry: Option<String>) {
        let module = self.old.module.to_string();
        let source = source.as_deref().map(conflict::shown);
        self.findings.push(Finding { module, tenant: conflict::shown(tenant), what, source, registry });
    }
}

fn shown(place: &PlacementRow) -> String {
    let schema = place.schema.as_ref().map(|schema| format!(".{schema}")).unwrap_or_default();
    format!("{}/{}{schema}", place.server, place.database)
}
