//! The import itself: read, merge, check, write.

use serde_json::{Value, json};

use super::super::error::Error;
use super::super::tenants::Control;
use super::options::{Options, TURN};
use super::outcome::{Imported, Touched};
use super::source::Source;
use super::{file, merge, place};
use crate::registry::{Contents, Edits};

impl Control {
    /// Merges the old registries of services into the registry: all of it, or nothing.
    ///
    /// # Errors
    /// A source that cannot be read or has no module in the registry; the registry's. Conflicts are in the result.
    pub async fn import(&self, sources: &[Source], options: &Options) -> Result<Imported, Error> {
        let inventory = self.inventory().await?;
        let mut read = Vec::with_capacity(sources.len());
        for source in sources {
            // What cannot be imported is said before a large table is read.
            let home = place::home(&inventory, source)?;
            let old = source.read().await?;
            let home = home.of(&old)?;
            read.push((old, home));
        }
        let _turn = self.registry.lock(TURN).await?;
        let registry = self.registry.contents().await?;
        let mut merged = merge::merge(&registry, &inventory, &read, options)?;
        place::check(&inventory, &mut merged).await;
        let origin = read.iter().map(|(old, home)| {
            json!({"module": old.module, "host": old.host, "port": old.port, "database": old.database,
                "server": home.server, "tenants": old.rows.len()})
        });
        let origin = json!({ "sources": origin.collect::<Vec<_>>() });
        let edits = Edits { tenants: merged.edits, ..Edits::default() };
        let outcome = Imported {
            conflicts: merged.conflicts,
            remarks: merged.remarks,
            unchanged: merged.unchanged,
            ..Imported::default()
        };
        self.write_import(&origin, &edits, outcome, options).await
    }

    /// Merges a registry file into the registry: all of it, or nothing.
    ///
    /// # Errors
    /// The registry's. Conflicts are in the result.
    pub async fn import_file(&self, path: &str, contents: &Contents, options: &Options) -> Result<Imported, Error> {
        let _turn = self.registry.lock(TURN).await?;
        let registry = self.registry.contents().await?;
        let (edits, outcome) = file::merge(&registry, contents, options);
        self.write_import(&json!({ "file": path }), &edits, outcome, options).await
    }

    async fn write_import(
        &self,
        origin: &Value,
        edits: &Edits,
        mut outcome: Imported,
        options: &Options,
    ) -> Result<Imported, Error> {
        outcome.refused = !outcome.conflicts.is_empty() && !options.skip_conflicts;
        if outcome.refused {
            return Ok(outcome);
        }
        (outcome.created, outcome.changed) = touched(edits);
        if options.dry_run || edits.is_empty() {
            return Ok(outcome);
        }
        let transaction = self.registry.begin().await?;
        let import = transaction.import(origin, edits).await?;
        transaction.commit().await?;
        outcome.import = Some(import);
        Ok(outcome)
    }
}

/// The names of what edits make, and of what they change.
fn touched(edits: &Edits) -> (Touched, Touched) {
    let (mut created, mut changed) = (Touched::default(), Touched::default());
    for edit in &edits.servers {
        let into = if edit.from.is_none() { &mut created } else { &mut changed };
        into.servers.extend(edit.to.iter().map(|server| server.name.to_string()));
    }
    for edit in &edits.modules {
        let into = if edit.from.is_none() { &mut created } else { &mut changed };
        into.modules.extend(edit.to.iter().map(|module| module.name.to_string()));
    }
    for edit in &edits.tenants {
        let into = if edit.from.is_none() { &mut created } else { &mut changed };
        into.tenants.extend(edit.to.iter().map(|tenant| tenant.tenant.slug.to_string()));
    }
    (created, changed)
}
