//! A registry to read from, whichever kind it is: a database, or a file.

use std::collections::HashMap;

use crate::control::{Control, Error, Inventory};
use crate::registry::{Activity, Admin, Contents, Filter, TenantDetails};
use crate::tenant::{Slug, TenantId, TenantName};

/// Tenants read from the registry at a time.
const PAGE: u32 = 500;

/// Where commands that change nothing read from.
pub(super) enum Source {
    /// A registry database.
    Database(Control),
    /// A registry file, read and found in order.
    File(Contents),
}

impl Source {
    /// All servers and modules.
    pub(super) async fn inventory(&self) -> Result<Inventory, Error> {
        match self {
            Self::Database(control) => control.inventory().await,
            Self::File(contents) => {
                Ok(Inventory { servers: contents.servers.clone(), modules: contents.modules.clone() })
            }
        }
    }

    /// All of it.
    pub(super) async fn contents(&self) -> Result<Contents, Error> {
        match self {
            Self::Database(control) => Ok(control.registry().contents().await?),
            Self::File(contents) => Ok(contents.clone()),
        }
    }

    /// The registry database, if it is one.
    pub(super) const fn registry(&self) -> Option<&Admin> {
        match self {
            Self::Database(control) => Some(control.registry()),
            Self::File(_) => None,
        }
    }

    /// A tenant by any of its names.
    pub(super) async fn tenant(&self, name: &TenantName) -> Result<TenantDetails, Error> {
        match self {
            Self::Database(control) => control.tenant(name).await,
            Self::File(contents) => {
                let found = contents.tenants.iter().find(|tenant| is_named(tenant, name));
                found.cloned().ok_or_else(|| Error::NoTenant { name: name.to_string() })
            }
        }
    }

    /// The next tenants that fit, by their slugs, after one of them or from the first.
    pub(super) async fn page(
        &self,
        filter: &Filter,
        after: Option<&Slug>,
        limit: u32,
    ) -> Result<Vec<TenantDetails>, Error> {
        match self {
            Self::Database(control) => Ok(control.registry().tenants_like(filter, after, limit).await?),
            Self::File(_) => {
                let mut tenants = self.tenants().await?;
                tenants.retain(|tenant| after.is_none_or(|after| tenant.tenant.slug > *after) && filter.fits(tenant));
                tenants.truncate(limit as usize);
                Ok(tenants)
            }
        }
    }

    /// When these tenants were last used; a file knows nothing of that.
    pub(super) async fn activity(&self, tenants: &[TenantDetails]) -> Result<HashMap<TenantId, Activity>, Error> {
        let Some(registry) = self.registry() else { return Ok(HashMap::new()) };
        let ids: Vec<_> = tenants.iter().map(|tenant| tenant.tenant.id).collect();
        Ok(registry.activity(&ids).await?)
    }

    /// All tenants, by their slugs.
    pub(super) async fn tenants(&self) -> Result<Vec<TenantDetails>, Error> {
        let control = match self {
            Self::Database(control) => control,
            Self::File(contents) => {
                let mut tenants = contents.tenants.clone();
                tenants.sort_by(|a, b| a.tenant.slug.cmp(&b.tenant.slug));
                return Ok(tenants);
            }
        };
        let mut tenants: Vec<TenantDetails> = Vec::new();
        loop {
            let after = tenants.last().map(|tenant| tenant.tenant.slug.clone());
            let page = control.registry().tenants(after.as_ref(), PAGE).await?;
            let done = page.len() < PAGE as usize;
            tenants.extend(page);
            if done {
                return Ok(tenants);
            }
        }
    }
}

fn is_named(tenant: &TenantDetails, name: &TenantName) -> bool {
    let row = &tenant.tenant;
    let name = name.as_str();
    row.slug.as_str() == name || row.id.to_string() == name || tenant.aliases.iter().any(|alias| alias.as_str() == name)
}
