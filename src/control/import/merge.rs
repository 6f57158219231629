//! Several old registries as one: whose rows are the same tenant's, and what that makes of each.

use std::collections::HashMap;

use uuid::Uuid;

use super::super::error::Error;
use super::super::order::Inventory;
use super::claims::Claims;
use super::conflict::{Conflict, Kind, shown};
use super::group::{Candidate, Group, group};
use super::options::{Options, Prefer};
use super::source::OldRegistry;
use crate::registry::{Contents, Edit, PlacementRow, PlacementStatus, TenantDetails, TenantRow, differences};
use crate::tenant::{
    Alias, DatabaseName, Isolation, ModuleName, Pooling, RoleName, SchemaName, ServerName, Slug, TenantId, TenantStatus,
};

/// Where the tenants of a source live, as the registry will have it.
#[derive(Debug, Clone)]
pub(super) struct Home {
    pub(super) server: ServerName,
    pub(super) database: DatabaseName,
}

/// What is to be done, and what stands against it.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) edits: Vec<Edit<TenantDetails>>,
    /// By the tenant that it keeps out.
    pub(super) conflicts: Vec<Conflict>,
    pub(super) remarks: Vec<String>,
    /// Tenants that are in the registry just so.
    pub(super) unchanged: usize,
}

/// Merges these sources, each with the place of its tenants, into what the registry has.
pub(super) fn merge(
    registry: &Contents,
    inventory: &Inventory,
    sources: &[(OldRegistry, Home)],
    options: &Options,
) -> Result<Merged, Error> {
    let old: Vec<&OldRegistry> = sources.iter().map(|(old, _)| old).collect();
    let groups = group(&old, options.same_slug_same_tenant);
    let known: HashMap<TenantId, &TenantDetails> =
        registry.tenants.iter().map(|tenant| (tenant.tenant.id, tenant)).collect();
    let mut merge =
        Merge { inventory, sources, options, known, claims: Claims::of(&registry.tenants), merged: Merged::default() };
    for group in &groups {
        merge.take(group)?;
    }
    Ok(merge.merged)
}

struct Merge<'a> {
    inventory: &'a Inventory,
    sources: &'a [(OldRegistry, Home)],
    options: &'a Options,
    known: HashMap<TenantId, &'a TenantDetails>,
    claims: Claims,
    merged: Merged,
}

/// What stands against one tenant.
type Found = Vec<(Kind, String)>;

impl<'a> Merge<'a> {
    fn take(&mut self, group: &Group<'_>) -> Result<(), Error> {
        let mut found: Found = group.flaws.clone();
        let known = self.find(group, &mut found);
        if let Some(known) = known.filter(|known| known.tenant.status == TenantStatus::Archived) {
            let slug = &known.tenant.slug;
            self.merged.remarks.push(format!("tenant {slug} is archived in the registry and was left alone"));
            self.merged.unchanged += 1;
            return Ok(());
        }
        let wanted = self.wanted(group, known, &mut found)?;
        if let Some(wanted) = &wanted {
            // A slug that is another's has been found above.
            found.extend(self.claims.check(wanted).into_iter().filter(|(kind, _)| *kind != Kind::NameTaken));
        }
        if !found.is_empty() {
            let (label, sources) = (group.label(), self.names(group));
            let conflicts = found.into_iter().map(|(kind, detail)| Conflict::new(kind, &label, &sources, detail));
            self.merged.conflicts.extend(conflicts);
            return Ok(());
        }
        let Some(wanted) = wanted else { return Ok(()) };
        self.claims.add(&wanted);
        if known.is_some_and(|known| differences(known, &wanted).is_empty()) {
            self.merged.unchanged += 1;
        } else {
            self.merged.edits.push(Edit { from: known.cloned(), to: Some(wanted) });
        }
        Ok(())
    }

    /// The modules whose sources know a tenant.
    fn names(&self, group: &Group<'_>) -> Vec<String> {
        let mut names: Vec<String> =
            group.rows.iter().map(|row| self.sources[row.source].0.module.to_string()).collect();
        names.dedup();
        names
    }

    /// The tenant of the registry that this is: by id, else by a name where the ids do not speak against it.
    fn find(&self, group: &Group<'_>, found: &mut Found) -> Option<&'a TenantDetails> {
        let by_id: Vec<&'a TenantDetails> = group.ids().iter().filter_map(|id| self.known.get(id).copied()).collect();
        if let [first, other, ..] = by_id[..] {
            let detail = format!("the registry has tenants \"{}\" and \"{}\"", first.tenant.slug, other.tenant.slug);
            found.push((Kind::SlugTaken, detail));
        }
        let mut tenant = by_id.first().copied();
        for slug in group.slugs() {
            let Some(holder) = self.claims.holder(slug.as_str()) else { continue };
            match tenant {
                Some(tenant) if tenant.tenant.id == holder => {}
                None if group.ids().is_empty() || self.options.same_slug_same_tenant => {
                    tenant = self.known.get(&holder).copied();
                }
                _ => {
                    let id = group.ids().first().map_or_else(|| "none".to_owned(), ToString::to_string);
                    found.push((
                        Kind::SlugTaken,
                        format!("\"{slug}\" is a name of tenant {holder}, this one has the id {id}"),
                    ));
                }
            }
        }
        tenant
    }

    /// The tenant as it is to be; nothing where not even that can be said.
    fn wanted(
        &mut self,
        group: &Group<'_>,
        known: Option<&TenantDetails>,
        found: &mut Found,
    ) -> Result<Option<TenantDetails>, Error> {
        let slugs = group.slugs();
        let Some(slug) = known.map(|known| &known.tenant.slug).or_else(|| slugs.first()).cloned() else {
            if group.flaws.is_empty() {
                found.push((Kind::Slug, "no source names its slug".to_owned()));
            }
            return Ok(None);
        };
        let id = known.map(|known| known.tenant.id).or_else(|| group.ids().first().copied());
        let mut wanted = known.cloned().unwrap_or_else(|| TenantDetails {
            tenant: TenantRow::new(id.unwrap_or_else(|| TenantId(Uuid::now_v7())), slug.clone()),
            aliases: Vec::new(),
            allow: Vec::new(),
            placements: Vec::new(),
            logins: Vec::new(),
        });
        self.slugs(&slug, &slugs, &mut wanted, found);
        self.name(group, known, &mut wanted, found);
        if known.is_none() {
            self.status(group, &mut wanted, found);
        }
        for row in &group.rows {
            self.place(row, &mut wanted, found)?;
        }
        self.subscriptions(group, &wanted, found);
        if known.is_none() {
            wanted.tenant.default_module = wanted.placements.first().map(|place| place.module.clone());
        }
        wanted.placements.sort_by(|a, b| a.module.as_str().cmp(b.module.as_str()));
        Ok(Some(wanted))
    }

    /// One slug counts; with --prefer the others stay as aliases.
    fn slugs(&self, slug: &Slug, slugs: &[Slug], wanted: &mut TenantDetails, found: &mut Found) {
        let is_known =
            |other: &&Slug| *other == slug || wanted.aliases.iter().any(|alias| alias.as_str() == other.as_str());
        let others: Vec<&Slug> = slugs.iter().filter(|other| !is_known(other)).collect();
        if others.is_empty() {
            return;
        }
        if self.options.prefer.is_none() {
            let others: Vec<_> = others.iter().map(|other| format!("\"{other}\"")).collect();
            found.push((Kind::SlugsDiffer, format!("\"{slug}\" and {}", others.join(", "))));
            return;
        }
        for other in others {
            match Alias::parse(other.as_str()) {
                Ok(alias) => wanted.aliases.push(alias),
                Err(error) => found.push((Kind::Slug, error.to_string())),
            }
        }
        wanted.aliases.sort();
    }

    fn name(&self, group: &Group<'_>, known: Option<&TenantDetails>, wanted: &mut TenantDetails, found: &mut Found) {
        let told: Vec<&str> =
            group.rows.iter().filter_map(|row| row.old.name.as_deref()).filter(|n| !n.is_empty()).collect();
        let own = known.map(|known| known.tenant.name.as_str());
        let mut names: Vec<&str> = own.into_iter().chain(told.iter().copied()).collect();
        let chosen = match self.options.prefer {
            Some(Prefer::Source) => told.first().copied().or(own),
            Some(Prefer::Registry) | None => names.first().copied(),
        };
        names.dedup();
        let differ = names.iter().any(|name| Some(*name) != names.first().copied());
        if differ && self.options.prefer.is_none() {
            let names: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
            let registry = if own.is_some() { " (the registry's first)" } else { "" };
            found.push((Kind::NamesDiffer, format!("{}{registry}", names.join(", "))));
        }
        if let Some(name) = chosen {
            if name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
                let what = format!("its name has control characters or is longer than {NAME_MAX} characters");
                found.push((Kind::NamesDiffer, what));
            }
            name.clone_into(&mut wanted.tenant.name);
        }
    }

    fn status(&self, group: &Group<'_>, wanted: &mut TenantDetails, found: &mut Found) {
        let told: Vec<bool> = group.rows.iter().filter_map(|row| row.old.active).collect();
        let active = told.first().copied().unwrap_or(true);
        if told.iter().any(|other| *other != active) && self.options.prefer.is_none() {
            let states: Vec<_> = group
                .rows
                .iter()
                .filter_map(|row| Some((row.old.active?, &self.sources[row.source].0.module)))
                .map(|(active, module)| format!("{} in {module}", if active { "active" } else { "not active" }))
                .collect();
            found.push((Kind::StatesDiffer, states.join(", ")));
        }
        wanted.tenant.status = if active { TenantStatus::Active } else { TenantStatus::Suspended };
    }

    /// Gives the tenant the place that a row names, if it names one.
    fn place(&self, row: &Candidate<'_>, wanted: &mut TenantDetails, found: &mut Found) -> Result<(), Error> {
        let (source, home) = &self.sources[row.source];
        let module = &source.module;
        if !row.subscribes(source) {
            return Ok(());
        }
        let settings = self.inventory.module(module)?;
        let schema = match (&row.old.schema, source.names_schemas) {
            (Some(schema), _) => schema.clone(),
            (None, false) => settings.schema_for(&wanted.tenant.slug, wanted.tenant.id).unwrap_or_default(),
            (None, true) => {
                found.push((Kind::Schema, format!("subscribes to {module} and has no schema there")));
                return Ok(());
            }
        };
        if let Err(error) = SchemaName::parse(&schema) {
            found.push((Kind::Schema, error.to_string()));
            return Ok(());
        }
        if let Some(has) = wanted.placements.iter().find(|place| place.module == *module) {
            if (&has.server, &has.database, has.schema.as_deref())
                != (&home.server, &home.database, Some(schema.as_str()))
            {
                let there = has.schema.as_deref().unwrap_or("-");
                let detail = format!(
                    "has {module} in schema \"{there}\" of \"{}\" on {}, the source says \"{schema}\" of \"{}\" on {}",
                    has.database, has.server, home.database, home.server
                );
                found.push((Kind::Elsewhere, detail));
            }
            return Ok(());
        }
        if !source.schemas.contains(&schema) {
            let detail = format!("schema \"{schema}\" is not in database \"{}\" of the source", source.database);
            found.push((Kind::SchemaMissing, detail));
            return Ok(());
        }
        let role = match self.role(module, wanted) {
            Ok(role) => role,
            Err(error) => {
                found.push((Kind::Slug, error.to_string()));
                return Ok(());
            }
        };
        wanted.placements.push(PlacementRow {
            module: module.clone(),
            isolation: Isolation::Schema,
            server: home.server.clone(),
            database: home.database.clone(),
            schema: Some(schema),
            role,
            pooling: None,
            pool_mode: None,
            pool_size: None,
            status: PlacementStatus::Ready,
            managed: false,
        });
        Ok(())
    }

    fn role(&self, module: &ModuleName, wanted: &TenantDetails) -> Result<Option<RoleName>, Error> {
        let settings = self.inventory.module(module)?;
        if settings.pooling == Pooling::Shared && !settings.set_role {
            return Ok(None);
        }
        let names = (&wanted.tenant.slug, wanted.tenant.id);
        self.inventory.role(names, Some(wanted), module).map(Some)
    }

    /// What a source says of other modules must be what their own sources say, where these are among them.
    fn subscriptions(&mut self, group: &Group<'_>, wanted: &TenantDetails, found: &mut Found) {
        let has = |module: &str| wanted.placements.iter().any(|place| place.module.as_str() == module);
        let mut told: Vec<(&str, &ModuleName)> = Vec::new();
        for row in &group.rows {
            let own = &self.sources[row.source].0.module;
            let modules = row.old.modules.iter().flatten().map(String::as_str);
            told.extend(modules.filter(|module| *module != own.as_str() && !has(module)).map(|module| (module, own)));
        }
        told.sort_unstable();
        told.dedup_by_key(|(module, _)| *module);
        for (module, by) in told {
            let given = self.sources.iter().any(|(old, _)| old.module.as_str() == module);
            if given && self.options.prefer.is_none() && found.is_empty() {
                let detail = format!("subscribes to \"{module}\" as {by} has it, and not in the source of {module}");
                found.push((Kind::SubscriptionsDiffer, detail));
            } else if !given {
                let slug = &wanted.tenant.slug;
                let module = shown(module);
                self.merged.remarks.push(format!(
                    "tenant {slug} subscribes to \"{module}\" as {by} has it, and no --source of {module} was given"
                ));
            }
        }
    }
}

/// Longest name of a tenant, in characters.
const NAME_MAX: usize = 1000;
