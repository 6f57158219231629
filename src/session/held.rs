//! Whom the operator holds up: everybody, a tenant, or one module of it.

use crate::tenant::{Placement, TenantId};

/// Sessions that an order of the operator is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Of this tenant; of all when none is given.
    pub tenant: Option<TenantId>,
    /// In this module of it only.
    pub module: Option<String>,
}

impl Held {
    /// Whether a tenant's place is among them.
    #[must_use]
    pub fn covers(&self, tenant: TenantId, placement: &Placement) -> bool {
        self.tenant.is_none_or(|held| held == tenant)
            && self.module.as_ref().is_none_or(|held| *held == placement.terms.module.as_str())
    }

    /// Whether the pool of a tenant (none where it is all tenants') is among them.
    #[must_use]
    pub fn covers_pool(&self, tenant: Option<TenantId>, module: &str) -> bool {
        (self.tenant.is_none() || self.tenant == tenant) && self.module.as_ref().is_none_or(|held| held == module)
    }
}
