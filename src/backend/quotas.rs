//! What pools of all threads have in common: how many connections a server gets from all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::pool::{Quota, Standing};
use crate::tenant::ServerName;

/// The quotas of a process.
#[derive(Debug, Default)]
pub struct Quotas {
    servers: Mutex<BTreeMap<ServerName, Arc<Quota>>>,
}

/// How far a server's connections are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUse {
    /// The server.
    pub name: ServerName,
    /// What its quota stands at.
    pub standing: Standing,
}

impl Quotas {
    /// That of a server, which may have so many connections (zero: any number) from now on.
    pub fn server(&self, name: &ServerName, most: u32) -> Arc<Quota> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let quota = servers.entry(name.clone()).or_insert_with(|| Quota::new(most));
        quota.set_most(most);
        Arc::clone(quota)
    }

    /// All servers that pools have had connections to.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerUse> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.iter().map(|(name, quota)| ServerUse { name: name.clone(), standing: quota.standing() }).collect()
    }
}
