//! What pools of all threads have in common: how many connections a server gets from all of them, and a tenant has in all of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::pool::{Bell, Quota, Standing};
use crate::tenant::{ServerName, TenantId};

/// The quotas of a process.
#[derive(Default)]
pub struct Quotas {
    /// Rings when a server gives more connections than are leased, and they are wanted; none where all are this process's own.
    short_of_lease: Option<Bell>,
    servers: Mutex<BTreeMap<ServerName, Arc<Quota>>>,
    /// Of those that have pools.
    tenants: Mutex<HashMap<TenantId, Weak<Quota>>>,
}

/// How far a server's connections are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUse {
    /// The server.
    pub name: ServerName,
    /// What its quota stands at.
    pub standing: Standing,
    /// How many of its connections are this process's, where others may have some, too.
    pub leased: Option<u32>,
}

impl std::fmt::Debug for Quotas {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quotas").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Quotas {
    /// Those of a process that has none of a server's bound for itself, but leases some. The bell rings when it wants more.
    #[must_use]
    pub fn leased(short_of_lease: Bell) -> Self {
        Self { short_of_lease: Some(short_of_lease), ..Self::default() }
    }

    /// Those of servers.
    #[must_use]
    pub fn of_servers(&self) -> Vec<(ServerName, Arc<Quota>)> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.iter().map(|(name, quota)| (name.clone(), Arc::clone(quota))).collect()
    }

    fn of_server(&self, most: u32) -> Arc<Quota> {
        match &self.short_of_lease {
            Some(bell) => Quota::leased(most, Arc::clone(bell)),
            None => Quota::new(most),
        }
    }

    /// That of a server, which may have so many connections (zero: any number) from now on.
    pub fn server(&self, name: &ServerName, most: u32) -> Arc<Quota> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let quota = servers.entry(name.clone()).or_insert_with(|| self.of_server(most));
        quota.set_most(most);
        Arc::clone(quota)
    }

    /// That of a tenant, which may have so many connections (zero: any number) from now on.
    pub fn tenant(&self, id: TenantId, most: u32) -> Arc<Quota> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(quota) = tenants.get(&id).and_then(Weak::upgrade) {
            quota.set_most(most);
            return quota;
        }
        // There are at most twice as many as have pools, and one.
        if tenants.len() == tenants.capacity() {
            tenants.retain(|_, quota| quota.strong_count() > 0);
        }
        let quota = Quota::new(most);
        tenants.insert(id, Arc::downgrade(&quota));
        quota
    }

    /// What the tenants that have pools may have, and do have.
    #[must_use]
    pub fn tenants(&self) -> HashMap<TenantId, Standing> {
        let tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.iter().filter_map(|(id, quota)| Some((*id, quota.upgrade()?.standing()))).collect()
    }

    /// All servers that pools have had connections to.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerUse> {
        let state = |(name, quota): (ServerName, Arc<Quota>)| {
            let leased = quota.holding().and_then(|holding| holding.lease);
            ServerUse { name, standing: quota.standing(), leased }
        };
        self.of_servers().into_iter().map(state).collect()
    }
}
