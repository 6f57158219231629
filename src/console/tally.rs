//! What each tenant has here, added up in one pass.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::session::View;
use crate::backend::Totals;
use crate::session::Doing;
use crate::tenant::{Tenant, TenantId};

/// The sessions and pools of one tenant; pools that are all tenants' are nobody's.
#[derive(Debug, Default)]
pub struct Tally<'a> {
    /// As its sessions know it, or as it was last known; none where nobody remembers it.
    pub tenant: Option<&'a Arc<Tenant>>,
    /// Its sessions.
    pub clients: usize,
    /// Those that have a server connection.
    pub active: usize,
    /// Those that wait for one.
    pub waiting: usize,
    /// Its server connections.
    pub servers: u32,
    /// Its pools.
    pub pools: usize,
    /// What has passed through these.
    pub totals: Totals,
    /// Why connecting failed last, in any of them, and when.
    pub last_error: Option<&'a (String, Instant)>,
}

impl View {
    /// By tenant, those with a session or a pool.
    #[must_use]
    pub fn tallies(&self) -> HashMap<TenantId, Tally<'_>> {
        let mut tallies: HashMap<TenantId, Tally<'_>> = HashMap::new();
        for client in &self.clients {
            let tally = tallies.entry(client.tenant.id).or_default();
            tally.tenant = Some(&client.tenant);
            tally.clients += 1;
            tally.active += usize::from(client.server_pid != 0);
            tally.waiting += usize::from(client.doing == Doing::Waiting);
        }
        for pool in &self.pools {
            let Some(tenant) = pool.key.tenant else { continue };
            let tally = tallies.entry(tenant).or_default();
            tally.tenant = tally.tenant.or(self.owners.get(&tenant));
            tally.servers += pool.stats.active + pool.stats.idle;
            tally.pools += 1;
            tally.totals.add(&pool.totals);
            let (error, last) = (pool.last_error.as_ref(), tally.last_error);
            tally.last_error = error.into_iter().chain(last).max_by_key(|(_, at)| *at);
        }
        tallies
    }
}
