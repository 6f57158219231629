//! What one tenant may take: the defaults of the configuration, and what the registry says of a tenant of its own.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[limits]` of the configuration file: what holds for a tenant of which the registry says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Most clients of a tenant at one time; zero for as many as there may be at all.
    pub max_clients: u32,
    /// Most logins of a tenant a second, after a burst of as many; zero for any number.
    pub connect_rate: u32,
    /// Most server connections of a tenant's pools together, over all its places; zero for as many as these have room for. On a pool common to
    /// several tenants: as many at one time.
    pub max_connections: u32,
    /// The connections of a server that a tenant gets before any gets more than that; beyond, `weight` decides.
    pub min_connections: u32,
    /// How much a tenant gets beside others where there is not enough for all.
    pub weight: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_clients: 0, connect_rate: 0, max_connections: 0, min_connections: 1, weight: 1 }
    }
}

impl Config {
    /// What holds for a tenant with limits of its own.
    #[must_use]
    pub fn of(self, own: &Own) -> Self {
        Self {
            max_clients: own.max_clients.unwrap_or(self.max_clients),
            connect_rate: own.connect_rate.unwrap_or(self.connect_rate),
            max_connections: own.max_connections.unwrap_or(self.max_connections),
            min_connections: own.min_connections.unwrap_or(self.min_connections),
            weight: own.weight.unwrap_or(self.weight).max(1),
        }
    }
}

/// What the registry says of one tenant, in place of the configuration's: an object in JSON or TOML, with the names of its keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Own {
    /// For `limits.max_clients`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_clients: Option<u32>,
    /// For `limits.connect_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_rate: Option<u32>,
    /// For `limits.max_connections`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// For `limits.min_connections`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_connections: Option<u32>,
    /// For `limits.weight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// For `pool.queue_length_max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_length_max: Option<u32>,
    /// For `pool.checkout_timeout`.
    #[serde(with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub checkout_timeout: Option<Duration>,
    /// For `timeouts.login`, from the proof on.
    #[serde(with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub login: Option<Duration>,
    /// For `timeouts.idle_in_transaction`.
    #[serde(with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub idle_in_transaction: Option<Duration>,
    /// For `timeouts.client_idle`.
    #[serde(with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub client_idle: Option<Duration>,
    /// For `timeouts.statement`.
    #[serde(with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub statement: Option<Duration>,
}

impl Own {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// For many tenants, of which most have nothing of their own: those share it.
    #[must_use]
    pub fn into_shared(self) -> Arc<Self> {
        static NOTHING: LazyLock<Arc<Own>> = LazyLock::new(Arc::default);
        if self.is_empty() { Arc::clone(&NOTHING) } else { Arc::new(self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_tenant_has_of_its_own_goes_before_the_configuration() {
        let own: Own = serde_json::from_str(r#"{"max_clients": 5, "weight": 0, "statement": "1m 30s"}"#).unwrap();
        let limits = Config { max_clients: 9, connect_rate: 7, ..Config::default() }.of(&own);
        assert_eq!((limits.max_clients, limits.connect_rate, limits.weight), (5, 7, 1));
        assert_eq!(own.statement, Some(Duration::from_secs(90)));
        assert_eq!(serde_json::to_string(&own).unwrap(), r#"{"max_clients":5,"weight":0,"statement":"1m 30s"}"#);
        assert!(serde_json::from_str::<Own>(r#"{"max_client": 5}"#).is_err());
    }
}
