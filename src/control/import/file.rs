//! A registry file against the registry: what it adds, and where the two differ.

use std::collections::HashMap;
use std::fmt::Display;

use super::claims::Claims;
use super::conflict::{Conflict, Kind};
use super::options::{Options, Prefer};
use super::outcome::Imported;
use crate::registry::{Contents, Edit, Edits, TenantDetails, differences};
use crate::tenant::TenantId;

/// What of a file is to be written, and what stands against the rest. Nothing that the registry has beside it is touched.
pub(super) fn merge(registry: &Contents, file: &Contents, options: &Options) -> (Edits, Imported) {
    let (mut edits, mut outcome) = (Edits::default(), Imported::default());
    edits.servers = named(&registry.servers, &file.servers, |server| &server.name, "server", options, &mut outcome);
    edits.modules = named(&registry.modules, &file.modules, |module| &module.name, "module", options, &mut outcome);
    let known: HashMap<TenantId, &TenantDetails> =
        registry.tenants.iter().map(|tenant| (tenant.tenant.id, tenant)).collect();
    let mut claims = Claims::of(&registry.tenants);
    for tenant in &file.tenants {
        let slug = tenant.tenant.slug.as_str();
        let mut stop = |kind, detail| outcome.conflicts.push(Conflict::new(kind, slug, &[], detail));
        let known = known.get(&tenant.tenant.id).copied();
        let differ: Vec<String> =
            known.iter().flat_map(|known| differences(known, tenant)).map(|differ| differ.to_string()).collect();
        match (known, options.prefer) {
            (Some(_), _) if differ.is_empty() => {
                outcome.unchanged += 1;
                continue;
            }
            (Some(_), Some(Prefer::Registry)) => {
                outcome.unchanged += 1;
                continue;
            }
            (Some(_), None) => {
                stop(Kind::Differs, format!("from the registry to the file, {}", differ.join("; ")));
                continue;
            }
            (Some(_), Some(Prefer::Source)) | (None, _) => {}
        }
        let taken = claims.check(tenant);
        if taken.is_empty() {
            claims.add(tenant);
            edits.tenants.push(Edit { from: known.cloned(), to: Some(tenant.clone()) });
        } else {
            taken.into_iter().for_each(|(kind, detail)| stop(kind, detail));
        }
    }
    (edits, outcome)
}

/// Servers or modules that the file has and the registry has not, or not so.
fn named<T: Clone + PartialEq, N: PartialEq + Display>(
    registry: &[T],
    file: &[T],
    name: impl Fn(&T) -> &N,
    what: &'static str,
    options: &Options,
    outcome: &mut Imported,
) -> Vec<Edit<T>> {
    let mut edits = Vec::new();
    for wanted in file {
        let known = registry.iter().find(|known| name(known) == name(wanted));
        match (known, options.prefer) {
            (Some(known), _) if known == wanted => {}
            (Some(_), Some(Prefer::Registry)) => {}
            (Some(_), None) => {
                let detail = format!("{what} \"{}\" has other settings in the registry than in the file", name(wanted));
                outcome.conflicts.push(Conflict::new(Kind::Differs, "-", &[], detail));
            }
            (Some(_), Some(Prefer::Source)) | (None, _) => {
                edits.push(Edit { from: known.cloned(), to: Some(wanted.clone()) });
            }
        }
    }
    edits
}
