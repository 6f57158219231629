//! Settings of pools.

use std::time::Duration;

use serde::Deserialize;

use crate::tenant::PoolMode;

/// `[pool]` of the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a client keeps a backend connection, where module and tenant say nothing else.
    pub mode: PoolMode,
    /// Most connections of one pool, where module and tenant say nothing else.
    pub size: u32,
    /// Most pools at one time; an idle one is evicted for a new one, one in use never is.
    pub max_pools: u32,
    /// A connection unused for this long is closed, and a pool without connections is forgotten.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long a client waits for a connection.
    #[serde(with = "humantime_serde")]
    pub checkout_timeout: Duration,
    /// A connection older than this (less up to a tenth, at random) is closed when it is next free.
    #[serde(with = "humantime_serde")]
    pub max_lifetime: Duration,
    /// How often idle connections are looked at for signs of death.
    #[serde(with = "humantime_serde")]
    pub health_check_interval: Duration,
    /// How long opening one connection to a server may take, all steps together.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Most connections being opened to one server at one time, by one thread of the proxy.
    pub connect_concurrency: u32,
    /// Most clients waiting for one pool.
    pub queue_length_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: PoolMode::Transaction,
            size: 10,
            max_pools: 100,
            idle_timeout: Duration::from_secs(600),
            checkout_timeout: Duration::from_secs(15),
            max_lifetime: Duration::from_secs(3600),
            health_check_interval: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            connect_concurrency: 4,
            queue_length_max: 10_000,
        }
    }
}
